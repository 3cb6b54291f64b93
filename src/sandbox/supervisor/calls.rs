//! The calls that are announced to the supervisor, by what they are about.

use super::{
    super::{
        seccomp::bpf::{Action, Architecture, Section, program},
        sys::Instruction,
    },
    members,
};

/// How much a supervisor answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Scope {
    /// All users and owners: there is one id.
    All,
    /// Owners outside the ids that are mapped, and devices: the rest is real.
    Unmapped,
    /// None: all is real.
    Nothing,
}

/// A call that concerns owners or identities, or that not everybody may make.
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
    Link,
    Linkat,
    Rename,
    Renameat,
    Renameat2,
    Unlink,
    Unlinkat,
    Execve,
    Execveat,
    Chdir,
    Fchdir,
    Chroot,
    Readlink,
    Readlinkat,
    Access,
    Faccessat,
    Faccessat2,
    Truncate,
    Chmod,
    Fchmod,
    Fchmodat,
    Fchmodat2,
    Utime,
    Utimes,
    Utimensat,
    Setxattr,
    Lsetxattr,
    Fsetxattr,
    Setxattrat,
    Getxattr,
    Lgetxattr,
    Fgetxattr,
    Getxattrat,
    Listxattr,
    Llistxattr,
    Flistxattr,
    Listxattrat,
    Removexattr,
    Lremovexattr,
    Fremovexattr,
    Removexattrat,
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
    Getsockopt,
    Bind,
    Prctl,
}

/// Who a call is announced for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It may fail for an owner that is not mapped or for a device, or change what a record is about: always.
    Records,
    /// Where there is one id.
    Users,
    /// The same, unless this argument is 0.
    UsersNamed(u32),
    /// The same, if the first of these arguments is the second.
    UsersIf(u32, u32),
}

use Need::{Records, Users, UsersIf, UsersNamed};

/// What of `prctl` is announced.
const KEEP_CAPABILITIES: u32 = libc::PR_SET_KEEPCAPS.cast_unsigned();

/// The option of a socket that tells of the process at its other end.
const PEER: u32 = libc::SO_PEERCRED.cast_unsigned();

/// The calls and their numbers on 64-bit x86, on 64-bit ARM and on 32-bit x86; -1 where there is none. Of 32-bit x86, those with
/// ids of 16 bits and structures older than Linux 2.4 see the plain truth.
#[rustfmt::skip]
const CALLS: &[(Call, Need, [i32; 3])] = &[
    (Call::Chown, Records, [92, -1, 212]),
    (Call::Lchown, Records, [94, -1, 198]),
    (Call::Fchown, Records, [93, 55, 207]),
    (Call::Fchownat, Records, [260, 54, 298]),
    (Call::Mknod, Records, [133, -1, 14]),
    (Call::Mknodat, Records, [259, 33, 297]),
    (Call::Symlink, Records, [88, -1, 83]),
    (Call::Symlinkat, Records, [266, 36, 304]),
    (Call::Link, Records, [86, -1, 9]),
    (Call::Linkat, Records, [265, 37, 303]),
    (Call::Rename, Records, [82, -1, 38]),
    (Call::Renameat, Records, [264, 38, 302]),
    (Call::Renameat2, Records, [316, 276, 353]),
    (Call::Setxattr, Records, [188, 5, 226]),
    (Call::Lsetxattr, Records, [189, 6, 227]),
    (Call::Fsetxattr, Records, [190, 7, 228]),
    (Call::Setxattrat, Records, [463, 463, 463]),
    (Call::Getxattr, Records, [191, 8, 229]),
    (Call::Lgetxattr, Records, [192, 9, 230]),
    (Call::Fgetxattr, Records, [193, 10, 231]),
    (Call::Getxattrat, Records, [464, 464, 464]),
    (Call::Listxattr, Records, [194, 11, 232]),
    (Call::Llistxattr, Records, [195, 12, 233]),
    (Call::Flistxattr, Records, [196, 13, 234]),
    (Call::Listxattrat, Records, [465, 465, 465]),
    (Call::Removexattr, Records, [197, 14, 235]),
    (Call::Lremovexattr, Records, [198, 15, 236]),
    (Call::Fremovexattr, Records, [199, 16, 237]),
    (Call::Removexattrat, Records, [466, 466, 466]),
    (Call::Stat, Users, [4, -1, 195]),
    (Call::Lstat, Users, [6, -1, 196]),
    (Call::Fstat, Users, [5, 80, 197]),
    (Call::Newfstatat, Users, [262, 79, 300]),
    (Call::Statx, Users, [332, 291, 383]),
    (Call::Open, Users, [2, -1, 5]),
    (Call::Openat, Users, [257, 56, 295]),
    (Call::Openat2, Users, [437, 437, 437]),
    (Call::Creat, Users, [85, -1, 8]),
    (Call::Mkdir, Users, [83, -1, 39]),
    (Call::Mkdirat, Users, [258, 34, 296]),
    (Call::Unlink, Users, [87, -1, 10]),
    (Call::Unlink, Users, [84, -1, 40]), // rmdir
    (Call::Unlinkat, Users, [263, 35, 301]),
    (Call::Execve, Users, [59, 221, 11]),
    (Call::Execveat, Users, [322, 281, 358]),
    (Call::Chdir, Users, [80, 49, 12]),
    (Call::Fchdir, Users, [81, 50, 133]),
    (Call::Chroot, Users, [161, 51, 61]),
    (Call::Readlink, Users, [89, -1, 85]),
    (Call::Readlinkat, Users, [267, 78, 305]),
    (Call::Access, Users, [21, -1, 33]),
    (Call::Faccessat, Users, [269, 48, 307]),
    (Call::Faccessat2, Users, [439, 439, 439]),
    (Call::Truncate, Users, [76, 45, 92]),
    (Call::Truncate, Users, [-1, -1, 193]), // truncate64
    (Call::Chmod, Users, [90, -1, 15]),
    (Call::Fchmod, Users, [91, 52, 94]),
    (Call::Fchmodat, Users, [268, 53, 306]),
    (Call::Fchmodat2, Users, [452, 452, 452]),
    (Call::Utime, Users, [132, -1, 30]),
    (Call::Utimes, Users, [235, -1, 271]),
    // Without a path it is about a descriptor, which is how archives are unpacked.
    (Call::Utimensat, UsersNamed(1), [280, 88, 320]),
    (Call::Utimensat, UsersNamed(1), [-1, -1, 412]), // utimensat_time64
    (Call::Setuid, Users, [105, 146, 213]),
    (Call::Setgid, Users, [106, 144, 214]),
    (Call::Setreuid, Users, [113, 145, 203]),
    (Call::Setregid, Users, [114, 143, 204]),
    (Call::Setresuid, Users, [117, 147, 208]),
    (Call::Setresgid, Users, [119, 149, 210]),
    (Call::Setfsuid, Users, [122, 151, 215]),
    (Call::Setfsgid, Users, [123, 152, 216]),
    (Call::Setgroups, Users, [116, 159, 206]),
    (Call::Getuid, Users, [102, 174, 199]),
    (Call::Geteuid, Users, [107, 175, 201]),
    (Call::Getgid, Users, [104, 176, 200]),
    (Call::Getegid, Users, [108, 177, 202]),
    (Call::Getresuid, Users, [118, 148, 209]),
    (Call::Getresgid, Users, [120, 150, 211]),
    (Call::Getgroups, Users, [115, 158, 205]),
    (Call::Getsockopt, UsersIf(2, PEER), [55, 209, 365]),
    (Call::Bind, Users, [49, 200, 361]),
    (Call::Prctl, UsersIf(0, KEEP_CAPABILITIES), [157, 167, 172]),
];

impl Call {
    /// The call with this number.
    pub(super) fn from_number(architecture: Architecture, number: i32) -> Option<Self> {
        let column = architecture.column();
        let found = CALLS.iter().find(|(.., numbers)| numbers[column] == number);
        found.map(|(call, ..)| *call)
    }

    /// Whether all there is to it is who may make it.
    pub(super) fn only_needs_access(self) -> bool {
        matches!(
            self,
            Self::Unlink
                | Self::Unlinkat
                | Self::Chdir
                | Self::Fchdir
                | Self::Chroot
                | Self::Readlink
                | Self::Readlinkat
                | Self::Access
                | Self::Faccessat
                | Self::Faccessat2
                | Self::Truncate
                | Self::Chmod
                | Self::Fchmod
                | Self::Fchmodat
                | Self::Fchmodat2
                | Self::Utime
                | Self::Utimes
                | Self::Utimensat
        )
    }

    /// Whether it tells who a thread is, or changes that.
    pub(super) fn is_about_identity(self) -> bool {
        matches!(
            self,
            Self::Setuid
                | Self::Setgid
                | Self::Setreuid
                | Self::Setregid
                | Self::Setresuid
                | Self::Setresgid
                | Self::Setfsuid
                | Self::Setfsgid
                | Self::Setgroups
                | Self::Getuid
                | Self::Geteuid
                | Self::Getgid
                | Self::Getegid
                | Self::Getresuid
                | Self::Getresgid
                | Self::Getgroups
        )
    }

    /// Whether it is about extended attributes.
    pub(super) fn is_about_attributes(self) -> bool {
        matches!(
            self,
            Self::Setxattr
                | Self::Lsetxattr
                | Self::Fsetxattr
                | Self::Setxattrat
                | Self::Getxattr
                | Self::Lgetxattr
                | Self::Fgetxattr
                | Self::Getxattrat
                | Self::Listxattr
                | Self::Llistxattr
                | Self::Flistxattr
                | Self::Listxattrat
                | Self::Removexattr
                | Self::Lremovexattr
                | Self::Fremovexattr
                | Self::Removexattrat
        )
    }
}

/// The numbers of the calls that tell who a thread is, or change that.
pub(in crate::sandbox) fn numbers_of_identity(
    architecture: Architecture,
) -> impl Iterator<Item = u32> {
    let about = CALLS.iter().filter(|(call, ..)| call.is_about_identity());
    about.filter_map(move |(.., numbers)| u32::try_from(numbers[architecture.column()]).ok())
}

/// The filter that announces the calls that `scope` needs and, where process numbers are shared with others, those that
/// name processes. Programs of other architectures see the plain truth.
pub(in crate::sandbox) fn filter(scope: Scope, shared_pids: bool) -> Vec<Instruction> {
    let of = |architecture| {
        let mut section = section(architecture, scope);
        if shared_pids {
            members::announce(&mut section, architecture);
        }
        (architecture, section)
    };
    let known = Architecture::native_and_compatible();
    let sections: Vec<_> = known.iter().copied().map(of).collect();
    program(&sections, Action::Allow)
}

fn section(architecture: Architecture, scope: Scope) -> Section {
    let mut section = Section::new(Action::Allow);
    for (_, need, numbers) in CALLS {
        let Ok(number) = u32::try_from(numbers[architecture.column()]) else {
            continue;
        };
        match need {
            _ if scope == Scope::Nothing => {}
            Records => section.answer(number, Action::Notify),
            _ if scope == Scope::Unmapped => {}
            Users => section.answer(number, Action::Notify),
            UsersNamed(index) => {
                let verdicts = [Action::Allow, Action::Notify];
                section.judge_argument(number, *index, &[0], verdicts);
            }
            UsersIf(index, value) => {
                let verdicts = [Action::Notify, Action::Allow];
                section.judge_argument(number, *index, &[*value], verdicts);
            }
        }
    }
    section
}

#[cfg(test)]
mod tests {
    use super::{super::super::seccomp::bpf, *};

    const X86_64: u32 = 0xc000_003e;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_about_owners_are_announced_and_others_not() {
        let filter = filter(Scope::All, false);
        let verdict = |number: libc::c_long, argument| {
            let number = u32::try_from(number).unwrap();
            bpf::evaluate(&filter, X86_64, number, argument)
        };
        let (allow, notify) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(verdict(libc::SYS_chown, 0), notify);
        assert_eq!(verdict(libc::SYS_geteuid, 0), notify);
        assert_eq!(verdict(libc::SYS_read, 0), allow);
        assert_eq!(verdict(libc::SYS_utimensat, 0), allow, "of a descriptor");
        assert_eq!(verdict(libc::SYS_utimensat, 7), notify);
        let i386 = 0x4000_0003;
        assert_eq!(bpf::evaluate(&filter, i386, 212, 0), notify, "chown32");
        assert_eq!(bpf::evaluate(&filter, i386, 3, 0), allow, "read");
        let unmapped = super::filter(Scope::Unmapped, true);
        assert_eq!(bpf::evaluate(&unmapped, X86_64, 62, 0), notify, "kill");
        assert_eq!(bpf::evaluate(&unmapped, X86_64, 92, 0), notify, "chown");
        assert_eq!(bpf::evaluate(&unmapped, X86_64, 257, 0), allow, "openat");
        for (call, number) in [
            (Call::Mknodat, libc::SYS_mknodat),
            (Call::Newfstatat, libc::SYS_newfstatat),
            (Call::Symlinkat, libc::SYS_symlinkat),
            (Call::Setfsgid, libc::SYS_setfsgid),
            (Call::Getresgid, libc::SYS_getresgid),
        ] {
            let number = i32::try_from(number).unwrap();
            let found = Call::from_number(Architecture::X86_64, number);
            assert_eq!(found, Some(call));
        }
        let of = |number| Call::from_number(Architecture::I386, number);
        assert_eq!(of(212), Some(Call::Chown));
        assert_eq!(of(0), None);
    }

    #[test]
    fn no_number_is_there_twice() {
        for column in 0..3 {
            let mut numbers: Vec<i32> = CALLS.iter().map(|(.., n)| n[column]).collect();
            numbers.retain(|n| *n >= 0);
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count);
        }
    }
}
