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

/// The calls and their numbers on 64-bit x86 and on 64-bit ARM, -1 where there is none.
#[rustfmt::skip]
const CALLS: &[(Call, i32, i32)] = &[
    (Call::Chown, 92, -1),
    (Call::Lchown, 94, -1),
    (Call::Mknod, 133, -1),
    (Call::Stat, 4, -1),
    (Call::Lstat, 6, -1),
    (Call::Open, 2, -1),
    (Call::Creat, 85, -1),
    (Call::Mkdir, 83, -1),
    (Call::Symlink, 88, -1),
    (Call::Fchown, 93, 55),
    (Call::Fchownat, 260, 54),
    (Call::Mknodat, 259, 33),
    (Call::Fstat, 5, 80),
    (Call::Newfstatat, 262, 79),
    (Call::Statx, 332, 291),
    (Call::Openat, 257, 56),
    (Call::Openat2, 437, 437),
    (Call::Mkdirat, 258, 34),
    (Call::Symlinkat, 266, 36),
    (Call::Execve, 59, 221),
    (Call::Execveat, 322, 281),
    (Call::Setuid, 105, 146),
    (Call::Setgid, 106, 144),
    (Call::Setreuid, 113, 145),
    (Call::Setregid, 114, 143),
    (Call::Setresuid, 117, 147),
    (Call::Setresgid, 119, 149),
    (Call::Setfsuid, 122, 151),
    (Call::Setfsgid, 123, 152),
    (Call::Setgroups, 116, 159),
    (Call::Getuid, 102, 174),
    (Call::Geteuid, 107, 175),
    (Call::Getgid, 104, 176),
    (Call::Getegid, 108, 177),
    (Call::Getresuid, 118, 148),
    (Call::Getresgid, 120, 150),
    (Call::Getgroups, 115, 158),
];

/// The calls of this machine.
fn numbers() -> impl Iterator<Item = (Call, i32)> {
    let x86 = Architecture::native() == Architecture::X86_64;
    CALLS
        .iter()
        .map(move |(call, on_x86, on_arm)| (*call, if x86 { *on_x86 } else { *on_arm }))
        .filter(|(_, number)| *number >= 0)
}

impl Call {
    /// The call with this number.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        numbers().find(|(_, n)| *n == number).map(|(call, _)| call)
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
    for (call, number) in numbers() {
        let number = number.cast_unsigned();
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
        for (call, number) in [
            (Call::Mknodat, libc::SYS_mknodat),
            (Call::Newfstatat, libc::SYS_newfstatat),
            (Call::Symlinkat, libc::SYS_symlinkat),
            (Call::Setfsgid, libc::SYS_setfsgid),
            (Call::Getresgid, libc::SYS_getresgid),
        ] {
            assert_eq!(
                Call::from_number(i32::try_from(number).unwrap()),
                Some(call)
            );
        }
        assert_eq!(Call::from_number(92), Some(Call::Chown));
        assert_eq!(Call::from_number(0), None);
    }
}
