//! How steps are kept apart from the machine: what is asked for, what is possible, and which way is taken.
//!
//! | rung | needs | root directory |
//! |---|---|---|
//! | [`Rung::Native`] | `CAP_SYS_ADMIN` | namespaces, overlay |
//! | [`Rung::Userns`] | a user namespace | the same in it |
//! | [`Rung::Chroot`] | root with `CAP_SYS_CHROOT` | `chroot` into a directory of its own, `/proc` served by a supervisor |
//! | [`Rung::Emulate`] | nothing but being told of system calls | a directory of its own; calls that name files are answered |

use std::{fmt, path::Path, str::FromStr};

use rustix::{
    io::Errno,
    process,
    thread::{self, CapabilitySet},
};

use super::{
    emulate::can_emulate,
    error::{During as _, Failure},
    idmap::IdMap,
    probe,
    userns::{
        Entry, NamespaceError, Program, enter_user_namespace, enter_userns_anyway, is_privileged,
    },
};

/// How steps are to be kept apart, as a user asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The first rung that is possible.
    #[default]
    Auto,
    /// Namespaces, with the privilege that this process has.
    Native,
    /// A user namespace.
    Userns,
    /// No namespaces: a root directory changed by `chroot`.
    Chroot,
    /// No privilege at all: system calls are answered.
    Emulate,
}

impl Isolation {
    /// All, in the order of the names' documentation.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Native,
        Self::Userns,
        Self::Chroot,
        Self::Emulate,
    ];

    /// Its name: `auto`, `native`, `userns`, `chroot`, `emulate`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Userns => "userns",
            Self::Chroot => "chroot",
            Self::Emulate => "emulate",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no isolation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("isolation `{0}` is unknown; it can be auto, native, userns, chroot or emulate")]
pub struct UnknownIsolation(pub String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|isolation| isolation.name() == text)
            .ok_or_else(|| UnknownIsolation(text.to_owned()))
    }
}

/// The way in which steps are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// In namespaces, by root of the machine.
    Native,
    /// In namespaces, by root of a user namespace.
    Userns,
    /// In a root directory changed by `chroot`.
    Chroot,
    /// Under a server that answers for files, users and programs.
    Emulate,
}

impl Rung {
    /// Its name, as [`Isolation`] has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Userns => "userns",
            Self::Chroot => "chroot",
            Self::Emulate => "emulate",
        }
    }
}

/// No process can be run in the way that was asked for. What needs none still works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked for.
    pub isolation: Isolation,
    /// What was tried last, and what stands in the way.
    pub reason: String,
    /// The smallest change that would remove it, as far as that is known.
    pub remedy: Option<&'static str>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.isolation {
            Isolation::Auto => f.write_str("RUN needs namespaces, which this machine refuses: ")?,
            asked => write!(f, "RUN with {asked} isolation is not possible here: ")?,
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    fn of(isolation: Isolation, error: &NamespaceError) -> Self {
        Self {
            isolation,
            reason: error.to_string(),
            remedy: error.obstacle.remedy(),
        }
    }
}

/// Where the program is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Here, on this rung.
    Here(Rung),
    /// Nowhere: it has run in a user namespace, with this exit status. End with it.
    Finished(u8),
}

/// Finds the rung to use, and moves the program there: where that takes a user namespace, `program` is run in one, in
/// a child, and this returns when it has ended.
///
/// `states` is where the directories of steps are, or will be. To be called before there is a second thread.
pub fn choose(isolation: Isolation, program: &Program, states: &Path) -> Result<Choice, Refusal> {
    match isolation {
        Isolation::Auto if is_privileged() => Ok(Choice::Here(present())),
        Isolation::Auto => match (enter_user_namespace(program), can_chroot()) {
            (Err(_), Ok(())) => Ok(Choice::Here(Rung::Chroot)),
            (Err(error), Err(failure)) => match can_emulate(states) {
                Ok(()) => Ok(Choice::Here(Rung::Emulate)),
                Err(last) => {
                    let mut refusal = Refusal::of(isolation, &error);
                    refusal.reason = format!("{}; without: {failure}; {last}", refusal.reason);
                    Err(refusal)
                }
            },
            (entered, _) => enter(isolation, entered),
        },
        Isolation::Native if is_privileged() => Ok(Choice::Here(present())),
        Isolation::Native => Err(Refusal {
            isolation,
            reason: "this process has no CAP_SYS_ADMIN".to_owned(),
            remedy: Some(
                "run it as root of the machine, or in a container started with `--privileged` or `--cap-add SYS_ADMIN`",
            ),
        }),
        Isolation::Userns if is_privileged() && present() == Rung::Userns => {
            Ok(Choice::Here(Rung::Userns))
        }
        Isolation::Userns => enter(isolation, enter_userns_anyway(program)),
        Isolation::Emulate => match can_emulate(states) {
            Ok(()) => Ok(Choice::Here(Rung::Emulate)),
            Err(failure) => Err(Refusal {
                isolation,
                reason: failure.to_string(),
                remedy: Some(
                    "let the container's filter of system calls allow seccomp and ptrace, as those of container runtimes do, and keep \
                     the store where programs can be run and files have attributes",
                ),
            }),
        },
        Isolation::Chroot => match can_chroot() {
            Ok(()) => Ok(Choice::Here(Rung::Chroot)),
            Err(failure) => Err(Refusal {
                isolation,
                reason: failure.to_string(),
                remedy: Some(
                    "run it as root of a container with Docker's default capabilities, or add SYS_CHROOT, SETFCAP and \
                     MKNOD to those that it has",
                ),
            }),
        },
    }
}

/// Whether steps can be run by `chroot`: tries all that it takes, in a child.
pub(super) fn can_chroot() -> Result<(), Failure> {
    let needed = CapabilitySet::SYS_CHROOT
        | CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::SETPCAP;
    let sets = thread::capabilities(None).during("read the capabilities")?;
    if !sets.effective.contains(needed) {
        return Err(Failure::new(
            "change the root directory as this user",
            Errno::PERM,
        ));
    }
    probe::in_child(&|| {
        process::chroot("/").during("change the root directory")?;
        probe::try_notification()
    })
}

fn enter(isolation: Isolation, entered: Result<Entry, NamespaceError>) -> Result<Choice, Refusal> {
    match entered {
        Ok(Entry::Inside(_)) => Ok(Choice::Here(present())),
        Ok(Entry::Finished(status)) => Ok(Choice::Finished(status)),
        Err(error) => Err(Refusal::of(isolation, &error)),
    }
}

/// The rung of a process that may mount where it is.
fn present() -> Rung {
    match IdMap::current() {
        Ok(IdMap::Full) | Err(_) => Rung::Native,
        Ok(IdMap::Ranges { .. } | IdMap::Single) => Rung::Userns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_refused_with_the_list() {
        for isolation in Isolation::ALL {
            assert_eq!(isolation.name().parse(), Ok(isolation));
        }
        let error = "jail".parse::<Isolation>().unwrap_err();
        assert!(error.to_string().contains("userns, chroot or emulate"));
    }
}
