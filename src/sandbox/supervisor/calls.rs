//! The calls that are announced to the supervisor, by what they are about.

use super::super::{
    seccomp::bpf::{Action, Architecture, Section, program},
    sys::Instruction,
};

/// How much a supervisor answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Scope {
    /// All users and owners: there is one id.
    All,
    /// Owners outside the ids that are mapped, and devices: the rest is real.
    Unmapped,
}

/// A call that concerns owners or identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Chown,
    Lchown,
    Fchown,
    Fchownat,
    Mknod,
    Mknodat,
    Stat,
    Lstat,
    Fstat,
    Newfstatat,
    Statx,
    Open,
    Openat,
    Openat2,
    Creat,
    Mkdir,
    Mkdirat,
    Symlink,
    Symlinkat,
    Execve,
    Execveat,
    Setuid,
    Setgid,
    Setreuid,
    Setregid,
    Setresuid,
    Setresgid,
    Setfsuid,
    Setfsgid,
    Setgroups,
    Getuid,
    Geteuid,
    Getgid,
    Getegid,
    Getresuid,
    Getresgid,
    Getgroups,
}

/// The calls and their numbers on this machine. The first five columns of old calls exist on x86 alone.
const CALLS: &[(Call, libc::c_long)] = &[
    #[cfg(target_arch = "x86_64")]
    (Call::Chown, libc::SYS_chown),
    #[cfg(target_arch = "x86_64")]
    (Call::Lchown, libc::SYS_lchown),
    #[cfg(target_arch = "x86_64")]
    (Call::Mknod, libc::SYS_mknod),
    #[cfg(target_arch = "x86_64")]
    (Call::Stat, libc::SYS_stat),
    #[cfg(target_arch = "x86_64")]
    (Call::Lstat, libc::SYS_lstat),
    #[cfg(target_arch = "x86_64")]
    (Call::Open, libc::SYS_open),
    #[cfg(target_arch = "x86_64")]
    (Call::Creat, libc::SYS_creat),
    #[cfg(target_arch = "x86_64")]
    (Call::Mkdir, libc::SYS_mkdir),
    #[cfg(target_arch = "x86_64")]
    (Call::Symlink, libc::SYS_symlink),
    (Call::Fchown, libc::SYS_fchown),
    (Call::Fchownat, libc::SYS_fchownat),
    (Call::Mknodat, libc::SYS_mknodat),
    (Call::Fstat, libc::SYS_fstat),
    (Call::Newfstatat, libc::SYS_newfstatat),
    (Call::Statx, libc::SYS_statx),
    (Call::Openat, libc::SYS_openat),
    (Call::Openat2, libc::SYS_openat2),
    (Call::Mkdirat, libc::SYS_mkdirat),
    (Call::Symlinkat, libc::SYS_symlinkat),
    (Call::Execve, libc::SYS_execve),
    (Call::Execveat, libc::SYS_execveat),
    (Call::Setuid, libc::SYS_setuid),
    (Call::Setgid, libc::SYS_setgid),
    (Call::Setreuid, libc::SYS_setreuid),
    (Call::Setregid, libc::SYS_setregid),
    (Call::Setresuid, libc::SYS_setresuid),
    (Call::Setresgid, libc::SYS_setresgid),
    (Call::Setfsuid, libc::SYS_setfsuid),
    (Call::Setfsgid, libc::SYS_setfsgid),
    (Call::Setgroups, libc::SYS_setgroups),
    (Call::Getuid, libc::SYS_getuid),
    (Call::Geteuid, libc::SYS_geteuid),
    (Call::Getgid, libc::SYS_getgid),
    (Call::Getegid, libc::SYS_getegid),
    (Call::Getresuid, libc::SYS_getresuid),
    (Call::Getresgid, libc::SYS_getresgid),
    (Call::Getgroups, libc::SYS_getgroups),
];

impl Call {
    /// The call with this number.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        CALLS
            .iter()
            .find(|(_, n)| *n == libc::c_long::from(number))
            .map(|(call, _)| *call)
    }

    /// Whether it can fail for an id that is not mapped, or for a device.
    fn makes_owners(self) -> bool {
        matches!(
            self,
            Self::Chown
                | Self::Lchown
                | Self::Fchown
                | Self::Fchownat
                | Self::Mknod
                | Self::Mknodat
        )
    }

    /// Of an `open`, the place of its flags among the arguments: without `O_CREAT` it concerns nobody.
    fn flags_argument(self) -> Option<u32> {
        match self {
            Self::Open => Some(1),
            Self::Openat => Some(2),
            _ => None,
        }
    }
}

/// The filter that announces the calls that `scope` needs. Programs of other architectures see the plain truth.
pub(in crate::sandbox) fn filter(scope: Scope) -> Vec<Instruction> {
    let mut sections: Vec<(Architecture, Section)> = Vec::new();
    let mut section = Section::new(Action::Allow);
    for (call, number) in CALLS {
        let Ok(number) = u32::try_from(*number) else {
            continue;
        };
        if scope == Scope::Unmapped && !call.makes_owners() {
            continue;
        }
        match call.flags_argument() {
            Some(index) => {
                let create = libc::O_CREAT.cast_unsigned();
                section.notify_when_argument_has(number, index, create);
            }
            None => section.answer(number, Action::Notify),
        }
    }
    sections.push((Architecture::native(), section));
    program(&sections, Action::Allow)
}

#[cfg(test)]
mod tests {
    use super::{super::super::seccomp::bpf, *};

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_about_owners_are_announced_and_others_not() {
        let filter = filter(Scope::All);
        let verdict = |number: libc::c_long, argument| {
            let number = u32::try_from(number).unwrap();
            bpf::evaluate(&filter, 0xc000_003e, number, argument)
        };
        let (allow, notify) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(verdict(libc::SYS_chown, 0), notify);
        assert_eq!(verdict(libc::SYS_geteuid, 0), notify);
        assert_eq!(verdict(libc::SYS_read, 0), allow);
        let create = (libc::O_CREAT | libc::O_WRONLY).cast_unsigned();
        assert_eq!(verdict(libc::SYS_openat, create), notify);
        assert_eq!(verdict(libc::SYS_openat, 0), allow);
        assert_eq!(bpf::evaluate(&filter, 0x4000_0003, 182, 0), allow);
        assert_eq!(Call::from_number(92), Some(Call::Chown));
        assert_eq!(Call::from_number(0), None);
    }
}
