//! The calls that are announced to a keeper, by what they are about.

use super::super::{
    seccomp::{
        bpf::{Action, Architecture, Section, program},
        skip_sync,
    },
    supervisor::members,
    sys::Instruction,
};

/// A call that names a file or a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    Openat,
    Openat2,
    Stat,
    Lstat,
    Newfstatat,
    Statx,
    Statfs,
    Access,
    Faccessat,
    Faccessat2,
    Readlink,
    Readlinkat,
    Linkat,
    Chdir,
    Execve,
    Execveat,
    Chmod,
    Fchmodat,
    Chown,
    Fchownat,
    /// It names the machine.
    Uname,
}

/// When a call is announced.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// If this argument lacks this bit.
    Lacks(u32, u32),
    /// If this argument has this bit.
    Has(u32, u32),
}

const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
const FOLLOW: u32 = libc::AT_SYMLINK_FOLLOW.cast_unsigned();
const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();

/// The calls and their numbers on 64-bit x86, on 64-bit ARM and on 32-bit x86; -1 where there is none. Files are kept for
/// 64-bit programs alone: others see the bare directories.
#[rustfmt::skip]
const CALLS: &[(Call, When, [i32; 3])] = &[
    (Call::Open, When::Always, [2, -1, -1]),
    (Call::Openat, When::Always, [257, 56, -1]),
    (Call::Openat2, When::Always, [437, 437, -1]),
    (Call::Stat, When::Always, [4, -1, -1]),
    (Call::Lstat, When::Always, [6, -1, -1]),
    (Call::Newfstatat, When::Lacks(3, EMPTY_PATH), [262, 79, -1]),
    (Call::Statx, When::Lacks(2, EMPTY_PATH), [332, 291, -1]),
    (Call::Statfs, When::Always, [137, 43, -1]),
    (Call::Access, When::Always, [21, -1, -1]),
    (Call::Faccessat, When::Always, [269, 48, -1]),
    (Call::Faccessat2, When::Always, [439, 439, -1]),
    (Call::Readlink, When::Always, [89, -1, -1]),
    (Call::Readlinkat, When::Always, [267, 78, -1]),
    // A name for a file that has none, by the link to its descriptor.
    (Call::Linkat, When::Has(4, FOLLOW), [265, 37, -1]),
    (Call::Chdir, When::Always, [80, 49, -1]),
    (Call::Execve, When::Always, [59, 221, -1]),
    (Call::Execveat, When::Lacks(4, EMPTY_PATH), [322, 281, -1]),
    (Call::Chmod, When::Always, [90, -1, -1]),
    (Call::Fchmodat, When::Always, [268, 53, -1]),
    (Call::Chown, When::Always, [92, -1, -1]),
    (Call::Fchownat, When::Lacks(4, NOFOLLOW), [260, 54, -1]),
    (Call::Uname, When::Always, [63, 160, -1]),
];

/// `socket`, and `socketcall`, whose arguments are in memory.
const SOCKET: [u32; 3] = [41, 198, 359];
const SOCKETCALL: u32 = 102;
/// The families with addresses beyond this machine: `AF_INET`, `AF_INET6`, `AF_NETLINK`, `AF_PACKET`.
const NETWORKED: &[u32] = &[2, 10, 16, 17];

impl Call {
    /// The call with this number.
    pub(super) fn from_number(architecture: Architecture, number: i32) -> Option<Self> {
        let column = architecture.column();
        let found = CALLS.iter().find(|(.., numbers)| numbers[column] == number);
        found.map(|(call, ..)| *call)
    }
}

/// The filter of a keeper; `offline` takes the network away.
pub(in crate::sandbox) fn filter(offline: bool) -> Vec<Instruction> {
    let sections: Vec<_> = Architecture::native_and_compatible()
        .iter()
        .map(|architecture| (*architecture, section(*architecture, offline)))
        .collect();
    program(&sections, Action::KillProcess)
}

fn section(architecture: Architecture, offline: bool) -> Section {
    let mut section = Section::new(Action::Allow);
    for (_, when, numbers) in CALLS {
        let Ok(number) = u32::try_from(numbers[architecture.column()]) else {
            continue;
        };
        match when {
            When::Always => section.answer(number, Action::Notify),
            When::Lacks(index, mask) => section.notify_when_argument_lacks(number, *index, *mask),
            When::Has(index, mask) => section.notify_when_argument_has(number, *index, *mask),
        }
    }
    members::announce(&mut section, architecture);
    skip_sync(&mut section, architecture);
    if offline {
        let number = SOCKET[architecture.column()];
        let refused = Action::Errno(libc::EAFNOSUPPORT);
        section.judge_argument(number, 0, NETWORKED, [refused, Action::Allow]);
        if architecture == Architecture::I386 {
            section.answer(SOCKETCALL, refused);
        }
    }
    section
}

#[cfg(test)]
mod tests {
    use super::{super::super::seccomp::bpf, *};

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_that_name_files_and_processes_are_announced_and_others_not() {
        let offline = filter(true);
        let filter = filter(false);
        let verdict = |architecture, number: libc::c_long, argument| {
            let number = u32::try_from(number).unwrap();
            bpf::evaluate(&filter, architecture, number, argument)
        };
        let (allow, notify) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(verdict(X86_64, libc::SYS_openat, 0), notify);
        assert_eq!(verdict(X86_64, libc::SYS_newfstatat, 0), notify);
        assert_eq!(verdict(X86_64, libc::SYS_newfstatat, EMPTY_PATH), allow);
        assert_eq!(verdict(X86_64, libc::SYS_linkat, FOLLOW), notify);
        assert_eq!(verdict(X86_64, libc::SYS_linkat, 0), allow);
        assert_eq!(verdict(X86_64, libc::SYS_kill, 0), notify);
        assert_eq!(verdict(I386, 37, 0), notify, "kill of 32 bits");
        assert_eq!(verdict(X86_64, libc::SYS_prlimit64, 0), allow);
        assert_eq!(verdict(X86_64, libc::SYS_prlimit64, 7), notify);
        assert_eq!(verdict(X86_64, libc::SYS_ptrace, 0), allow, "TRACEME");
        assert_eq!(verdict(X86_64, libc::SYS_ptrace, 16), notify, "ATTACH");
        assert_eq!(verdict(X86_64, libc::SYS_fcntl, 8), notify, "SETOWN");
        assert_eq!(verdict(X86_64, libc::SYS_ioctl, 0x8901) & 0xffff, 1);
        assert_eq!(verdict(X86_64, libc::SYS_read, 0), allow);
        let succeeds = libc::SECCOMP_RET_ERRNO;
        assert_eq!(verdict(X86_64, libc::SYS_fsync, 0), succeeds);
        assert_eq!(verdict(I386, 36, 0), succeeds, "sync of 32 bits");
        assert_eq!(verdict(X86_64, libc::SYS_socket, 2), allow);
        assert_ne!(bpf::evaluate(&offline, X86_64, 41, 2), allow);
        assert_eq!(bpf::evaluate(&offline, X86_64, 41, 1), allow, "AF_UNIX");
        let call = Call::from_number(Architecture::X86_64, 262);
        assert_eq!(call, Some(Call::Newfstatat));
    }
}
