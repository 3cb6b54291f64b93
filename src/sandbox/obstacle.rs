//! Why a machine refuses a user namespace, and the smallest change that would allow it.

use std::fmt;

use rustix::io::Errno;

use super::error::Failure;

/// What stands in the way of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Obstacle {
    /// `user.max_user_namespaces` is used up, or zero.
    Limit,
    /// `kernel.unprivileged_userns_clone` is 0 (Debian's switch).
    Switch,
    /// `AppArmor` takes the privileges of user namespaces away (Ubuntu's default since 23.10).
    AppArmor,
    /// A filter of system calls, such as a container runtime's default.
    Filter,
    /// A security module lets the namespace be made but nothing be mounted in it.
    Mount,
    /// The kernel knows no user namespaces.
    Kernel,
    /// Something else.
    Unknown,
}

/// What is known about the machine.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    switched_off: bool,
    app_armor: bool,
    filtered: bool,
    max: Option<u64>,
}

impl Facts {
    fn gather() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
        Self {
            switched_off: number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0),
            app_armor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            filtered: read("/proc/self/status").is_some_and(|s| s.contains("\nSeccomp:\t2")),
            max: number("/proc/sys/user/max_user_namespaces"),
        }
    }
}

impl Obstacle {
    /// What explains `failure` on this machine.
    pub(super) fn find(failure: &Failure) -> Self {
        Self::explain(failure, Facts::gather())
    }

    fn explain(failure: &Failure, facts: Facts) -> Self {
        let errno = Errno::from_raw_os_error(failure.errno);
        if facts.max == Some(0) || errno == Errno::NOSPC {
            Self::Limit
        } else if facts.switched_off {
            Self::Switch
        } else if facts.app_armor {
            Self::AppArmor
        } else if failure.action.contains("mount") {
            Self::Mount
        } else if facts.filtered {
            Self::Filter
        } else if matches!(errno, Errno::INVAL | Errno::NOSYS) {
            Self::Kernel
        } else {
            Self::Unknown
        }
    }

    /// The smallest change that would remove it; `None` when that is not known.
    pub fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::Limit => "raise it: `sysctl -w user.max_user_namespaces=15000`",
            Self::Switch => "allow it: `sysctl -w kernel.unprivileged_userns_clone=1`",
            Self::AppArmor => {
                "give the program an AppArmor profile with `userns,`, or allow it for all: \
                 `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            }
            Self::Filter => {
                "start the container with `--security-opt seccomp=unconfined`, or the pod with `hostUsers: false` \
                 and CAP_SYS_ADMIN"
            }
            Self::Mount => {
                "start the container with `--security-opt apparmor=unconfined` (SELinux: `label=nested`)"
            }
            Self::Kernel => "use a kernel built with CONFIG_USER_NS",
            Self::Unknown => return None,
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Limit => "no more user namespaces are allowed (user.max_user_namespaces)",
            Self::Switch => {
                "user namespaces are for root alone (kernel.unprivileged_userns_clone is 0)"
            }
            Self::AppArmor => {
                "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)"
            }
            Self::Filter => "a filter of system calls is in effect, as in most containers",
            Self::Mount => "a security module forbids mounting",
            Self::Kernel => "the kernel has no user namespaces",
            Self::Unknown => "the reason is not known",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_from_the_facts() {
        let failure = |action: &str, errno: Errno| Failure::new(action, errno);
        let make = |errno| failure("make a user namespace", errno);
        let facts = Facts::default();
        let filtered = Facts {
            filtered: true,
            ..facts
        };
        assert_eq!(
            Obstacle::explain(&make(Errno::NOSPC), facts),
            Obstacle::Limit
        );
        assert_eq!(
            Obstacle::explain(&make(Errno::PERM), filtered),
            Obstacle::Filter
        );
        assert_eq!(
            Obstacle::explain(&failure("mount a tmpfs", Errno::ACCESS), filtered),
            Obstacle::Mount
        );
        assert_eq!(
            Obstacle::explain(&make(Errno::PERM), facts),
            Obstacle::Unknown
        );
        let ubuntu = Facts {
            app_armor: true,
            ..filtered
        };
        assert_eq!(
            Obstacle::explain(&failure("write", Errno::PERM), ubuntu),
            Obstacle::AppArmor
        );
    }
}
