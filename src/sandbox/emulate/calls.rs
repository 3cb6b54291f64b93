//! The calls of a step that are announced, and those that are refused.
//!
//! Announced is every call that names a file by a path, and those that tell of owners or set them, by descriptors too. What
//! is not known here passes on to Docker's filter, which lies over this one and allows only what it knows. Refused beyond that is what
//! would lead the kernel to a file by other ways than a path, and what depends on who traces whom.

use super::super::{
    seccomp::{
        bpf::{self, Action, Architecture, Section},
        skip_sync,
    },
    supervisor::{self, members},
    sys::Instruction,
};

/// A call that is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    Creat,
    Openat,
    Stat,
    Lstat,
    Fstat,
    Newfstatat,
    Statx,
    Statfs,
    Fstatfs,
    Access,
    Faccessat,
    Faccessat2,
    Readlink,
    Readlinkat,
    Getcwd,
    Chdir,
    Mkdir,
    Mkdirat,
    Rmdir,
    Unlink,
    Unlinkat,
    Rename,
    Renameat,
    Renameat2,
    Link,
    Linkat,
    Symlink,
    Symlinkat,
    Mknod,
    Mknodat,
    Chmod,
    Fchmod,
    Fchmodat,
    Fchmodat2,
    Chown,
    Lchown,
    Fchown,
    Fchownat,
    Utime,
    Utimes,
    Futimesat,
    Utimensat,
    Truncate,
    Setxattr,
    Lsetxattr,
    Fsetxattr,
    Getxattr,
    Lgetxattr,
    Fgetxattr,
    Listxattr,
    Llistxattr,
    Flistxattr,
    Removexattr,
    Lremovexattr,
    Fremovexattr,
    Execve,
    Execveat,
    InotifyAddWatch,
    Bind,
    Connect,
    Sendto,
    Sendmsg,
    Sendmmsg,
    Uname,
    Capget,
    Capset,
    Prctl,
    Getrlimit,
    Setrlimit,
    Prlimit64,
    Getsockname,
    Getpeername,
    Getsockopt,
}

/// When a call is announced.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// Unless this argument is 0.
    Named(u32),
    /// If this argument is among these.
    Among(u32, &'static [u32]),
    /// If the first of these arguments is this, or the other one is not 0.
    IsOrNamed((u32, u32), u32),
}

use When::{Always, Among, IsOrNamed, Named};

/// The calls and their numbers on 64-bit x86 and on 64-bit ARM; -1 where there is none.
#[rustfmt::skip]
const CALLS: &[(Call, When, [i32; 2])] = &[
    (Call::Open, Always, [2, -1]),
    (Call::Creat, Always, [85, -1]),
    (Call::Openat, Always, [257, 56]),
    (Call::Stat, Always, [4, -1]),
    (Call::Lstat, Always, [6, -1]),
    (Call::Fstat, Always, [5, 80]),
    (Call::Newfstatat, Always, [262, 79]),
    (Call::Statx, Always, [332, 291]),
    (Call::Statfs, Always, [137, 43]),
    (Call::Fstatfs, Always, [138, 44]),
    (Call::Access, Always, [21, -1]),
    (Call::Faccessat, Always, [269, 48]),
    (Call::Faccessat2, Always, [439, 439]),
    (Call::Readlink, Always, [89, -1]),
    (Call::Readlinkat, Always, [267, 78]),
    (Call::Getcwd, Always, [79, 17]),
    (Call::Chdir, Always, [80, 49]),
    (Call::Mkdir, Always, [83, -1]),
    (Call::Mkdirat, Always, [258, 34]),
    (Call::Rmdir, Always, [84, -1]),
    (Call::Unlink, Always, [87, -1]),
    (Call::Unlinkat, Always, [263, 35]),
    (Call::Rename, Always, [82, -1]),
    (Call::Renameat, Always, [264, 38]),
    (Call::Renameat2, Always, [316, 276]),
    (Call::Link, Always, [86, -1]),
    (Call::Linkat, Always, [265, 37]),
    (Call::Symlink, Always, [88, -1]),
    (Call::Symlinkat, Always, [266, 36]),
    (Call::Mknod, Always, [133, -1]),
    (Call::Mknodat, Always, [259, 33]),
    (Call::Chmod, Always, [90, -1]),
    (Call::Fchmod, Always, [91, 52]),
    (Call::Fchmodat, Always, [268, 53]),
    (Call::Fchmodat2, Always, [452, 452]),
    (Call::Chown, Always, [92, -1]),
    (Call::Lchown, Always, [94, -1]),
    (Call::Fchown, Always, [93, 55]),
    (Call::Fchownat, Always, [260, 54]),
    (Call::Utime, Always, [132, -1]),
    (Call::Utimes, Always, [235, -1]),
    (Call::Futimesat, Always, [261, -1]),
    // Without a path it is about a descriptor, which is how archives are unpacked.
    (Call::Utimensat, Named(1), [280, 88]),
    (Call::Truncate, Always, [76, 45]),
    (Call::Setxattr, Always, [188, 5]),
    (Call::Lsetxattr, Always, [189, 6]),
    (Call::Fsetxattr, Always, [190, 7]),
    (Call::Getxattr, Always, [191, 8]),
    (Call::Lgetxattr, Always, [192, 9]),
    (Call::Fgetxattr, Always, [193, 10]),
    (Call::Listxattr, Always, [194, 11]),
    (Call::Llistxattr, Always, [195, 12]),
    (Call::Flistxattr, Always, [196, 13]),
    (Call::Removexattr, Always, [197, 14]),
    (Call::Lremovexattr, Always, [198, 15]),
    (Call::Fremovexattr, Always, [199, 16]),
    (Call::Execve, Always, [59, 221]),
    (Call::Execveat, Always, [322, 281]),
    (Call::InotifyAddWatch, Always, [254, 27]),
    (Call::Bind, Always, [49, 200]),
    (Call::Connect, Always, [42, 203]),
    // Without an address it goes where the socket is connected to.
    (Call::Sendto, Named(4), [44, 206]),
    (Call::Sendmsg, Always, [46, 211]),
    (Call::Sendmmsg, Always, [307, 269]),
    (Call::Uname, Always, [63, 160]),
    (Call::Capget, Always, [125, 90]),
    (Call::Capset, Always, [126, 91]),
    (Call::Prctl, Among(0, ANSWERED), [157, 167]),
    (Call::Getrlimit, Among(0, &[REAL_TIME]), [97, 163]),
    (Call::Setrlimit, Among(0, &[REAL_TIME]), [160, 164]),
    // Those of other processes are announced in any case.
    (Call::Prlimit64, IsOrNamed((1, REAL_TIME), 0), [302, 261]),
    (Call::Getsockname, Always, [51, 204]),
    (Call::Getpeername, Always, [52, 205]),
    (Call::Getsockopt, Among(2, &[PEER]), [55, 209]),
];

/// The option of a socket that tells of the process at its other end.
const PEER: u32 = libc::SO_PEERCRED.cast_unsigned();

/// The limit that carries the number of a process's identity.
pub(super) const REAL_TIME: u32 = libc::RLIMIT_RTTIME;

/// Calls that fail, with an error that programs expect of a system without them.
#[rustfmt::skip]
const REFUSED: &[(i32, [i32; 2])] = &[
    (libc::EPERM, [161, 51]),           // chroot: its process would need another root than that of all
    (libc::EPERM, [101, 117]),          // ptrace: a thread has one tracer, and now and then that is us
    (libc::EOPNOTSUPP, [303, 264]),     // name_to_handle_at
    (libc::EPERM, [304, 265]),          // open_by_handle_at
    (libc::ENOSYS, [437, 437]),         // openat2: programs know what to do without
    (libc::ENOSYS, [463, 463]),         // setxattrat, getxattrat, listxattrat, removexattrat
    (libc::ENOSYS, [464, 464]),
    (libc::ENOSYS, [465, 465]),
    (libc::ENOSYS, [466, 466]),
    (libc::ENOSYS, [425, 425]),         // io_uring: it opens files without a call
    (libc::ENOSYS, [426, 426]),
    (libc::ENOSYS, [427, 427]),
    (libc::ENOSYS, [323, 282]),         // userfaultfd
    (libc::EPERM, [301, 263]),          // fanotify_mark
    (libc::EPERM, [457, 457]),          // statmount, listmount
    (libc::EPERM, [458, 458]),
    (libc::ENOSYS, [468, 468]),         // file_getattr, file_setattr
    (libc::ENOSYS, [469, 469]),
];

/// What of `prctl` is answered: giving up being looked into, which would keep us out, capabilities, and bits that say what root may do.
const ANSWERED: &[u32] = &[
    libc::PR_SET_DUMPABLE.cast_unsigned(),
    libc::PR_GET_KEEPCAPS.cast_unsigned(),
    libc::PR_SET_KEEPCAPS.cast_unsigned(),
    libc::PR_CAPBSET_READ.cast_unsigned(),
    libc::PR_CAPBSET_DROP.cast_unsigned(),
    libc::PR_SET_SECUREBITS.cast_unsigned(),
];

/// `NETLINK_AUDIT`, and `EPROTONOSUPPORT`, by which programs understand that there is nobody who would note what they do.
const AUDIT: u32 = 9;
const NO_AUDIT: Action = Action::Errno(libc::EPROTONOSUPPORT);

/// `socket`, and the families with addresses beyond this machine: `AF_INET`, `AF_INET6`, `AF_NETLINK`, `AF_PACKET`.
const SOCKET: [u32; 2] = [41, 198];
const NETWORKED: &[u32] = &[2, 10, 16, 17];

/// The architecture of the programs that are run: that of this one.
pub(super) const ARCHITECTURE: Architecture = if cfg!(target_arch = "x86_64") {
    Architecture::X86_64
} else {
    Architecture::Aarch64
};

impl Call {
    /// The call with this number.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        let column = ARCHITECTURE.column();
        let found = CALLS.iter().find(|(.., numbers)| numbers[column] == number);
        found.map(|(call, ..)| *call)
    }
}

/// The filter of an emulated step; `pass` is what calls that we have a thread make have in their last argument. `offline` takes the network
/// away. Calls of 32 bits do not exist.
pub(super) fn filter(pass: u64, offline: bool) -> Vec<Instruction> {
    let mut section = Section::new(Action::Allow);
    let column = ARCHITECTURE.column();
    for (_, when, numbers) in CALLS {
        let Ok(number) = u32::try_from(numbers[column]) else {
            continue;
        };
        match when {
            Always => section.answer(number, Action::Notify),
            Named(index) => {
                section.judge_argument(number, *index, &[0], [Action::Allow, Action::Notify]);
            }
            Among(index, values) => {
                section.judge_argument(number, *index, values, [Action::Notify, Action::Allow]);
            }
            IsOrNamed((index, value), named) => {
                let first = (*index, *value, Action::Notify);
                let verdicts = [Action::Allow, Action::Notify];
                section.judge_arguments(number, first, (*named, &[0], verdicts));
            }
        }
    }
    for (errno, numbers) in REFUSED {
        if let Ok(number) = u32::try_from(numbers[column]) {
            section.answer(number, Action::Errno(*errno));
        }
    }
    for number in supervisor::numbers_of_identity(ARCHITECTURE) {
        section.answer(number, Action::Notify);
    }
    members::announce(&mut section, ARCHITECTURE);
    skip_sync(&mut section, ARCHITECTURE);
    let networked = if offline {
        Action::Errno(libc::EAFNOSUPPORT)
    } else {
        Action::Allow
    };
    let audit = (2, AUDIT, NO_AUDIT);
    let families = (0, NETWORKED, [networked, Action::Allow]);
    section.judge_arguments(SOCKET[column], audit, families);
    let program = bpf::program(&[(ARCHITECTURE, section)], Action::Errno(libc::ENOSYS));
    bpf::with_pass(ARCHITECTURE, pass, program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_that_lead_to_files_are_announced_or_refused() {
        const X86_64: u32 = 0xc000_003e;
        const I386: u32 = 0x4000_0003;
        let pass = 0x0123_4567_89ab_cdef;
        let filter = filter(pass, true);
        let verdict = |number: libc::c_long, argument| {
            let number = u32::try_from(number).unwrap();
            bpf::evaluate(&filter, X86_64, number, argument)
        };
        let (allow, notify) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF);
        let fails = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
        for number in [
            libc::SYS_open,
            libc::SYS_execve,
            libc::SYS_renameat2,
            libc::SYS_connect,
            libc::SYS_getuid,
            libc::SYS_setresuid,
            libc::SYS_kill,
        ] {
            assert_eq!(verdict(number, 1), notify, "call {number}");
        }
        assert_eq!(verdict(libc::SYS_read, 0), allow);
        assert_eq!(verdict(libc::SYS_fdatasync, 0), fails(0), "and succeeds");
        assert_eq!(verdict(libc::SYS_fchdir, 0), allow);
        assert_eq!(verdict(libc::SYS_utimensat, 0), allow, "of a descriptor");
        assert_eq!(verdict(libc::SYS_chroot, 0), fails(libc::EPERM));
        assert_eq!(verdict(libc::SYS_ptrace, 0), fails(libc::EPERM));
        assert_eq!(verdict(425, 0), fails(libc::ENOSYS), "io_uring_setup");
        assert_eq!(verdict(libc::SYS_prctl, 4), notify, "PR_SET_DUMPABLE");
        assert_eq!(verdict(libc::SYS_prctl, 15), allow, "PR_SET_NAME");
        assert_eq!(verdict(libc::SYS_setrlimit, 15), notify, "RLIMIT_RTTIME");
        assert_eq!(verdict(libc::SYS_setrlimit, 7), allow, "RLIMIT_NOFILE");
        assert_eq!(verdict(libc::SYS_prlimit64, 0), allow, "its own");
        assert_eq!(verdict(libc::SYS_prlimit64, 7), notify, "another one's");
        let refused = fails(libc::EPROTONOSUPPORT);
        assert_eq!(verdict(libc::SYS_socket, 9), refused, "NETLINK_AUDIT");
        assert_eq!(verdict(libc::SYS_socket, 1), allow, "AF_UNIX");
        assert_eq!(verdict(libc::SYS_socket, 2), fails(libc::EAFNOSUPPORT));
        assert_eq!(bpf::evaluate(&filter, I386, 3, 0), fails(libc::ENOSYS));
    }

    /// Of what Docker's filter allows, that which takes a path is announced or refused here.
    #[test]
    fn no_number_is_there_twice() {
        for column in 0..2 {
            let mut numbers: Vec<i32> = CALLS.iter().map(|(.., n)| n[column]).collect();
            numbers.extend(REFUSED.iter().map(|(_, n)| n[column]));
            numbers.retain(|n| *n >= 0);
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count);
        }
    }
}
