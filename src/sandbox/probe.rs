//! What this machine lets a build do, found by trying.
//!
//! Every attempt is made by a child of a helper process, which ends with whatever it has made or mounted. The helper
//! first tells what it is; then, where it is not privileged, it becomes root of a user namespace as a build would, and
//! the attempts are made there. Where there is no way into one, those that need none are made where it is.

use std::{
    io::Read as _,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::MountFlags,
    pipe::PipeFlags,
    process::{self, WaitOptions},
    thread,
};
use serde::{Deserialize, Serialize};

use super::{
    error::{During as _, Failure},
    helper,
    idmap::IdMap,
    mount::{self, Root, make_dir, mount_new},
    obstacle::Obstacle,
    overlay::{self, Writable},
    seccomp::bpf::{self, Action},
    sys::{self, Fork},
    userns::{
        Entry, Program, enter_user_namespace, is_privileged, map_helpers, own_subordinate_ids,
    },
    wire,
};

/// The name that makes this program a prober, and the one it takes on in a user namespace.
pub(super) const ROLE: &str = "rbuild-probe";
pub(super) const INNER_ROLE: &str = "rbuild-probe-inner";

/// What is asked of a prober.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    /// The directory in which a build would keep its states.
    #[serde(with = "wire::path")]
    pub(super) dir: PathBuf,
}

/// What this process is and may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// Whether set-user-ID programs are ordinary programs here.
    pub no_new_privileges: bool,
    /// Whether a filter of system calls is in effect.
    pub filtered: bool,
    /// The ids that exist here.
    pub ids: IdMap,
    /// How many subordinate users and groups `/etc/subuid` and `/etc/subgid` give to this user.
    pub subordinate: (u64, u64),
    /// Whether `newuidmap` and `newgidmap` are there to map them.
    pub map_helpers: bool,
}

/// Something that a build needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ability {
    /// Being root of a user namespace, for those who are not root anyway.
    UserNamespace,
    /// Namespaces of mounts, processes, networks, host names.
    Namespaces,
    /// Mounting a file system in memory.
    Mount,
    /// An overlay whose upper directory is in the directory asked about.
    Overlay,
    /// A `/proc` of its own for a namespace of processes. Without it steps see the numbers of the host.
    Proc,
    /// Being told of system calls: for owners that do not exist, and for `/proc` where nothing can be mounted.
    Notification,
    /// Changing the root directory, and what else steps take without namespaces.
    Chroot,
    /// Answering the system calls of steps, and tracing their processes, which is all that it takes without any privilege.
    Emulate,
    /// Giving a file to another user.
    Owners,
    /// Writing to the directory asked about.
    Write,
}

impl Ability {
    /// What it is, in few words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user namespace",
            Self::Namespaces => "namespaces",
            Self::Mount => "mount",
            Self::Overlay => "overlay",
            Self::Proc => "own /proc",
            Self::Notification => "system call notification",
            Self::Chroot => "chroot",
            Self::Emulate => "emulation",
            Self::Owners => "owners",
            Self::Write => "write to the store",
        }
    }
}

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was tried.
    pub ability: Ability,
    /// Why it failed; `None` when it did not.
    pub failure: Option<Failure>,
}

/// What a machine lets a build do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What this process is.
    pub identity: Identity,
    /// The ids that steps would have; `None` when there is no way into a user namespace.
    pub ids: Option<IdMap>,
    /// What was tried, in order. Where there is no way into a user namespace, what needs one is not tried.
    pub checks: Vec<Check>,
    /// What stands in the way of a user namespace, if anything.
    pub obstacle: Option<Obstacle>,
    /// The kind of file system of the directory asked about; `None` when it has no name here.
    pub filesystem: Option<String>,
}

impl Probe {
    /// The result of the attempt at `ability`; `None` when it was not tried.
    pub fn check(&self, ability: Ability) -> Option<&Check> {
        self.checks.iter().find(|check| check.ability == ability)
    }

    /// Whether it was tried and worked.
    pub fn can(&self, ability: Ability) -> bool {
        self.check(ability)
            .is_some_and(|check| check.failure.is_none())
    }
}

/// What the attempts gave.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    ids: Option<IdMap>,
    checks: Vec<Check>,
    obstacle: Option<Obstacle>,
    filesystem: Option<String>,
}

/// Does the work of a prober if `args` begin with its name; gives whether it did.
pub(super) fn serve(
    name: &std::ffi::OsStr,
    args: impl Iterator<Item = std::ffi::OsString>,
) -> Option<std::io::Result<()>> {
    let socket = || rustix::io::dup(sys::standard(0)).map(UnixStream::from);
    if name == ROLE {
        return Some(socket().map_err(Into::into).and_then(outer));
    }
    (name == INNER_ROLE).then(|| {
        let dir = args.last().map(PathBuf::from).unwrap_or_default();
        let mut answer = inner(&dir);
        let entered = Check {
            ability: Ability::UserNamespace,
            failure: None,
        };
        answer.checks.insert(0, entered);
        helper::send(&mut socket()?, &answer)
    })
}

fn outer(mut socket: UnixStream) -> std::io::Result<()> {
    let question: Question = helper::receive(&mut socket)?;
    helper::send(&mut socket, &identity()?)?;
    if is_privileged() {
        return helper::send(&mut socket, &inner(&question.dir));
    }
    let program = Program {
        file: "/proc/self/exe".into(),
        argv: vec![INNER_ROLE.into(), question.dir.as_os_str().to_owned()],
        env: Vec::new(),
    };
    match enter_user_namespace(&program) {
        // The inner one has answered.
        Ok(Entry::Finished(0)) => Ok(()),
        Ok(_) => Err(std::io::ErrorKind::Other.into()),
        Err(error) => {
            let refused = Check {
                ability: Ability::UserNamespace,
                failure: Some(error.failure),
            };
            let answer = Answer {
                ids: None,
                checks: [vec![refused], outside(&question.dir)].concat(),
                obstacle: Some(error.obstacle),
                filesystem: filesystem(&question.dir),
            };
            helper::send(&mut socket, &answer)
        }
    }
}

/// Hears what a prober has to say.
pub(super) fn hear(socket: &mut UnixStream) -> std::io::Result<Probe> {
    let identity = helper::receive(socket)?;
    let answer: Answer = helper::receive(socket)?;
    Ok(Probe {
        identity,
        ids: answer.ids,
        checks: answer.checks,
        obstacle: answer.obstacle,
        filesystem: answer.filesystem,
    })
}

fn identity() -> std::io::Result<Identity> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let (users, groups) = own_subordinate_ids();
    let total = |ranges: &[super::IdRange]| ranges.iter().map(|r| u64::from(r.count)).sum();
    Ok(Identity {
        uid: process::geteuid().as_raw(),
        gid: process::getegid().as_raw(),
        capabilities: thread::capabilities(None)?.effective.bits(),
        no_new_privileges: thread::no_new_privs()?,
        filtered: status.contains("\nSeccomp:\t2"),
        ids: IdMap::current()?,
        subordinate: (total(&users), total(&groups)),
        map_helpers: map_helpers(),
    })
}

/// A child's attempt.
type Attempt<'a> = &'a dyn Fn() -> Result<(), Failure>;

fn inner(dir: &Path) -> Answer {
    let ids = IdMap::current().ok();
    let userxattr = ids.is_some_and(IdMap::needs_userxattr);
    let namespaced: [(Ability, Attempt<'_>); 4] = [
        (Ability::Namespaces, &try_namespaces),
        (Ability::Mount, &try_mount),
        (Ability::Overlay, &|| try_overlay(dir, userxattr)),
        (Ability::Proc, &try_proc),
    ];
    Answer {
        ids,
        checks: [namespaced.map(check).into(), outside(dir)].concat(),
        obstacle: None,
        filesystem: filesystem(dir),
    }
}

/// What needs no namespace.
fn outside(dir: &Path) -> Vec<Check> {
    let attempts: [(Ability, Attempt<'_>); 5] = [
        (Ability::Notification, &try_notification),
        (Ability::Chroot, &super::isolation::can_chroot),
        (Ability::Emulate, &|| super::emulate::can_emulate(dir)),
        (Ability::Owners, &|| try_owners(dir)),
        (Ability::Write, &|| in_own_dir(dir, &|_| Ok(()))),
    ];
    attempts.map(check).into()
}

fn check((ability, attempt): (Ability, Attempt<'_>)) -> Check {
    Check {
        ability,
        failure: in_child(attempt).err(),
    }
}

/// The name of the file system that `dir` is on.
fn filesystem(dir: &Path) -> Option<String> {
    let known: [(u32, &str); 10] = [
        (0x794c_7630, "overlay"),
        (0x0102_1994, "tmpfs"),
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x2fc1_2fc1, "zfs"),
        (0xf2f5_2010, "f2fs"),
        (0x6969, "nfs"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "fuse"),
    ];
    let kind = rustix::fs::statfs(dir).ok()?.f_type;
    let name = known.iter().find(|(magic, _)| i64::from(*magic) == kind)?.1;
    Some(name.to_owned())
}

/// Makes an attempt in a child process.
pub(super) fn in_child(attempt: Attempt<'_>) -> Result<(), Failure> {
    let (heard, word) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe")?;
    match sys::clone(0).during("fork")? {
        Fork::Child => {
            if let Err(failure) = attempt()
                && let Ok(text) = serde_json::to_vec(&failure)
            {
                let _deaf = rustix::io::write(&word, &text);
            }
            sys::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(word);
            let mut text = Vec::new();
            std::fs::File::from(heard)
                .read_to_end(&mut text)
                .during("hear from a child")?;
            process::waitpid(Some(pid), WaitOptions::empty()).during("wait for a child")?;
            match serde_json::from_slice(&text) {
                Ok(failure) => Err(failure),
                Err(_nothing) => Ok(()),
            }
        }
    }
}

fn new_mounts(more: libc::c_int) -> Result<(), Failure> {
    let flags = libc::CLONE_NEWNS | more;
    sys::unshare(flags).during("make namespaces")?;
    mount::isolate()
}

fn try_namespaces() -> Result<(), Failure> {
    let (ipc, uts, net) = (libc::CLONE_NEWIPC, libc::CLONE_NEWUTS, libc::CLONE_NEWNET);
    match new_mounts(ipc | uts | net) {
        // As when a step is set up: `clone` may pass where `unshare` does not.
        Err(failure) => match sys::clone(libc::CLONE_NEWNS | ipc | uts | net) {
            Ok(Fork::Child) => sys::exit_now(0),
            Ok(Fork::Parent(pid)) => process::waitpid(Some(pid), WaitOptions::empty())
                .map(drop)
                .during("wait for a child"),
            Err(_) => Err(failure),
        },
        Ok(()) => Ok(()),
    }
}

fn try_mount() -> Result<(), Failure> {
    new_mounts(0)?;
    let tmp = Root::open(Path::new("/proc"))?;
    mount_new("tmpfs", tmp.fd(), MountFlags::empty(), "").during("mount a tmpfs")
}

fn try_overlay(dir: &Path, userxattr: bool) -> Result<(), Failure> {
    new_mounts(0)?;
    in_own_dir(dir, &|place| {
        let [lower, upper, work, root] =
            ["lower", "upper", "work", "root"].map(|name| place.join(name));
        for part in [&lower, &upper, &work, &root] {
            make_dir(part)?;
        }
        std::fs::write(lower.join("file"), "").during_at("write in", &lower)?;
        let changes = Writable {
            upper: &upper,
            work: &work,
        };
        overlay::mount(
            &root,
            std::slice::from_ref(&lower),
            Some(changes),
            userxattr,
            &lower,
        )?;
        // Removing shows whether whiteouts can be made.
        let removed = std::fs::remove_file(root.join("file")).during("remove a file of an overlay");
        rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH)
            .during("unmount the overlay")?;
        removed
    })
}

/// Makes an attempt in a directory of its own below `dir`, which goes away with what was put into it.
pub(super) fn in_own_dir(
    dir: &Path,
    attempt: &dyn Fn(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let place = dir.join(format!(".rbuild-probe-{}", process::getpid().as_raw_pid()));
    make_dir(&place)?;
    let result = attempt(&place);
    let _left_over = std::fs::remove_dir_all(&place);
    result
}

fn try_owners(dir: &Path) -> Result<(), Failure> {
    use rustix::fs::{Gid, Uid};
    /// Any user that is not the one who tries.
    const OTHER: u32 = 1;
    in_own_dir(dir, &|place| {
        let file = place.join("file");
        std::fs::write(&file, "").during_at("write", &file)?;
        rustix::fs::chown(
            &file,
            Some(Uid::from_raw(OTHER)),
            Some(Gid::from_raw(OTHER)),
        )
        .during("give a file to another user")
    })
}

fn try_proc() -> Result<(), Failure> {
    new_mounts(libc::CLONE_NEWPID)?;
    in_child(&|| {
        let proc = Root::open(Path::new("/proc"))?;
        mount_new("proc", proc.fd(), MountFlags::empty(), "").during("mount /proc")
    })
}

pub(super) fn try_notification() -> Result<(), Failure> {
    let filter = bpf::program(&[], Action::Allow);
    let install = || sys::set_filter_with_listener(&filter);
    let listener = install().or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::ACCESS) => {
            thread::set_no_new_privs(true)?;
            install()
        }
        _ => Err(error),
    });
    let listener = listener.during("listen to system calls")?;
    let _open = listener.as_fd();
    Ok(())
}
