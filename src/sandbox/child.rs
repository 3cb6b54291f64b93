//! The last part of the way: from the fork into new namespaces to the step's own program.

use std::{
    convert::Infallible,
    ffi::{CString, OsStr, OsString},
    io::{self, IoSlice},
    mem::MaybeUninit,
    num::NonZeroU64,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{self, AtFlags, CWD, Gid, Mode, OFlags, Uid},
    io::Errno,
    mount::{self, UnmountFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::{self, Resource, Rlimit, Signal},
    thread,
};
use serde::{Deserialize, Serialize};

use super::{
    caps,
    error::{During as _, Failure},
    kernelfs::{self, Places},
    mount::{Devices, Root},
    seccomp,
    spec::{ProcessSpec, Ulimit},
    supervisor::{self, Scope},
    sys,
};

/// What the child tells its parent when it does not get as far as the step's program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Word {
    /// Something was refused.
    Failed(Failure),
    /// A fresh `/proc` was refused, as in a container that hides parts of its own: share the process numbers.
    ProcDenied,
    /// The program cannot be started.
    NotStarted {
        /// 126 or 127.
        code: i32,
        /// Why.
        reason: String,
    },
}

impl From<Failure> for Word {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What the child is given beside the spec.
#[derive(Debug)]
pub(super) struct Birth<'a> {
    /// The root directory, by its path on the host.
    pub(super) root: &'a Path,
    /// Where the file systems of the kernel are in it.
    pub(super) places: &'a Places,
    /// Which device files work in it.
    pub(super) devices: Devices,
    /// Whether the process numbers are the child's own.
    pub(super) own_pids: bool,
    /// Standard streams that it shares with the program, from the first on.
    pub(super) streams: &'a [OwnedFd],
    /// The filter of system calls, unless the step is insecure.
    pub(super) filter: &'a [sys::Instruction],
    /// Closed for writing when the parent is gone.
    pub(super) alive: BorrowedFd<'a>,
    /// How much a supervisor answers for, and where its listener goes; `None` when users and owners are real.
    pub(super) supervisor: Option<(Scope, BorrowedFd<'a>)>,
}

/// Becomes the step's program; returns the reason when that is not possible.
pub(super) fn become_step(spec: &ProcessSpec, birth: &Birth<'_>) -> Word {
    match try_become(spec, birth) {
        Ok(never) => match never {},
        Err(word) => word,
    }
}

fn try_become(spec: &ProcessSpec, birth: &Birth<'_>) -> Result<Infallible, Word> {
    die_with_parent(birth.alive)?;
    process::setsid().during("start a session")?;
    // Opened anew by its path: mounts of the parent's namespace cannot be changed from this one.
    let root = Root::open(birth.root)?;
    if birth.own_pids {
        kernelfs::mount_proc(&root, birth.places).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::PERM) => Word::ProcDenied,
                _ => Failure::new("mount /proc", error).into(),
            }
        })?;
    } else {
        kernelfs::bind_proc(&root, birth.places)?;
    }
    if !spec.insecure {
        kernelfs::mask_proc(&root, birth.places)?;
    }
    enter(&root)?;
    drop(root);
    connect_standard_streams(spec, birth.streams)?;
    set_limits(&spec.ulimits)?;
    process::umask(Mode::from_raw_mode(0o022));
    if let Some((scope, line)) = &birth.supervisor {
        call_supervisor(*scope, !birth.own_pids, *line)?;
    }
    go_to(&spec.cwd, (spec.uid, spec.gid))?;
    let keep = caps::of_step(spec, birth.devices);
    if !spec.insecure {
        caps::limit_bounding(keep)?;
        // Before the privilege to do so is gone. What follows is all allowed by the filter.
        sys::set_filter(birth.filter).during("install the system call filter")?;
    }
    become_user(spec)?;
    if !spec.insecure {
        caps::limit(keep)?;
    }
    // The kernel forgets it when the user changes.
    die_with_parent(birth.alive)?;
    // The helper has no handlers.
    sys::unblock_signals();
    sys::close_on_exec_from(3);
    Err(execute(spec))
}

/// What the child of a step without mounts is given beside the spec.
#[derive(Debug)]
pub(super) struct Way<'a> {
    /// The root directory.
    pub(super) root: &'a Root,
    /// The filter that announces calls to the keeper.
    pub(super) filter: &'a [sys::Instruction],
    /// Where its listener goes.
    pub(super) listener: OwnedFd,
    /// Standard streams that it shares with the program, from the first on.
    pub(super) streams: &'a [OwnedFd],
    /// Closed for writing when the parent is gone.
    pub(super) alive: OwnedFd,
}

/// Becomes the step's program in a root changed by `chroot`; returns the reason when that is not possible.
pub(super) fn become_step_by_chroot(spec: &ProcessSpec, way: &Way<'_>) -> Word {
    match try_become_by_chroot(spec, way) {
        Ok(never) => match never {},
        Err(word) => word,
    }
}

fn try_become_by_chroot(spec: &ProcessSpec, way: &Way<'_>) -> Result<Infallible, Word> {
    die_with_parent(way.alive.as_fd())?;
    process::setsid().during("start a session")?;
    process::fchdir(way.root.fd()).during("enter the root")?;
    process::chroot(".").during("change the root")?;
    connect_standard_streams(spec, way.streams)?;
    set_limits(&spec.ulimits)?;
    process::umask(Mode::from_raw_mode(0o022));
    go_to(&spec.cwd, (spec.uid, spec.gid))?;
    let keep = caps::DOCKER - thread::CapabilitySet::SYS_CHROOT;
    caps::limit_bounding(keep)?;
    // Without CAP_SYS_ADMIN there are no filters but for programs that cannot gain any privilege.
    thread::set_no_new_privs(true).during("give up new privileges")?;
    let listener =
        sys::set_filter_with_listener(way.filter).during("install the filter of the keeper")?;
    send_listener(&listener, way.listener.as_fd())?;
    drop(listener);
    sys::set_filter(&seccomp::docker_filter()).during("install the system call filter")?;
    become_user(spec)?;
    caps::limit(keep)?;
    die_with_parent(way.alive.as_fd())?;
    sys::reset_signals();
    sys::close_on_exec_from(3);
    Err(execute(spec))
}

/// Has the kernel kill this process when its parent ends, however it ends.
pub(super) fn die_with_parent(alive: BorrowedFd<'_>) -> Result<(), Failure> {
    process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie to the parent")?;
    // The parent may be gone already; its end of the pipe then is, too.
    let mut fds = [PollFd::from_borrowed_fd(alive, PollFlags::IN)];
    let now = rustix::event::Timespec::default();
    poll(&mut fds, Some(&now)).during("look after the parent")?;
    if fds[0].revents().is_empty() {
        Ok(())
    } else {
        Err(Failure::new("find the parent alive", Errno::SRCH))
    }
}

/// Makes `root` the root directory and lets go of the old one.
fn enter(root: &Root) -> Result<(), Failure> {
    process::fchdir(root.fd()).during("enter the root")?;
    match process::pivot_root(".", ".") {
        Ok(()) => {
            // The old root now lies over the new one at `/`.
            mount::unmount(".", UnmountFlags::DETACH).during("let go of the old root")?;
        }
        // Refused by some filters, and when `/` is the kernel's first file system.
        Err(Errno::PERM | Errno::INVAL | Errno::NOSYS) => {
            mount::mount_move(".", "/").during("move the root to `/`")?;
            process::chroot(".").during("change the root")?;
        }
        Err(error) => return Err(Failure::new("change the root", error)),
    }
    process::chdir("/").during("go to `/`")
}

pub(super) fn connect_standard_streams(
    spec: &ProcessSpec,
    shared: &[OwnedFd],
) -> Result<(), Failure> {
    if shared.is_empty() {
        let null = fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .during("open /dev/null")?;
        sys::replace_descriptor(0, null).during("connect standard input")?;
    }
    for (number, stream) in (0..).zip(shared) {
        sys::replace_descriptor(number, stream).during("connect a standard stream")?;
    }
    // Those that are shared belong to somebody.
    for number in [1, 2].into_iter().skip(shared.len().saturating_sub(1)) {
        // So that a step of another user can open /dev/stdout. It fails for ids that have no number here.
        let owner = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
        let _best_effort = fs::fchown(sys::standard(number), Some(owner.0), Some(owner.1));
    }
    Ok(())
}

pub(super) fn set_limits(limits: &[Ulimit]) -> Result<(), Failure> {
    for limit in limits {
        let resource = resource(&limit.name).ok_or_else(|| {
            Failure::new(
                format!("set the unknown limit `{}`", limit.name),
                Errno::INVAL,
            )
        })?;
        let wanted = Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        process::setrlimit(resource, wanted)
            .during(&format!("set the resource limit `{}`", limit.name))?;
    }
    Ok(())
}

/// The resource that `--ulimit` means by `name`.
pub(super) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// Enters the working directory. What is missing of it is made, and belongs to the user, as in BuildKit; what only the
/// spelling asks for, as `/a/../b` does for `/a`, is root's, as runc makes it.
fn go_to(cwd: &Path, owner: (u32, u32)) -> Result<(), Failure> {
    if let Err(Errno::NOENT) = process::chdir(cwd) {
        let mut cleaned = PathBuf::from("/");
        for part in cwd.components() {
            match part {
                Component::ParentDir => drop(cleaned.pop()),
                part => cleaned.push(part),
            }
        }
        make_all(&cleaned, Some(owner))?;
        make_all(cwd, None)?;
    }
    process::chdir(cwd).during_at("enter the working directory", cwd)
}

fn make_all(dir: &Path, owner: Option<(u32, u32)>) -> Result<(), Failure> {
    for dir in dir.ancestors().collect::<Vec<_>>().into_iter().rev() {
        match fs::mkdirat(CWD, dir, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                if let Some((uid, gid)) = owner {
                    fs::chown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                        .during_at("set the owner of the working directory", dir)?;
                }
            }
            Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(Failure::new("make the working directory", error).at(dir));
            }
        }
    }
    Ok(())
}

fn become_user(spec: &ProcessSpec) -> Result<(), Failure> {
    let groups: Vec<_> = spec.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    match thread::set_thread_groups(&groups) {
        // A namespace with a single id cannot change groups, and has none to give up either.
        Err(Errno::PERM) if groups.is_empty() => {}
        other => other.during("set the supplementary groups")?,
    }
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    thread::set_thread_res_gid(gid, gid, gid)
        .during(&format!("become a member of group {}", spec.gid))?;
    thread::set_thread_res_uid(uid, uid, uid).during(&format!("become user {}", spec.uid))
}

/// Puts this process under a supervisor, which is sent the listener. From here on, calls that concern owners wait for
/// its answer.
fn call_supervisor(scope: Scope, shared_pids: bool, to: BorrowedFd<'_>) -> Result<(), Failure> {
    thread::set_current_timer_slack(NonZeroU64::new(supervisor::ROOT_SLACK))
        .during("mark the step's identity")?;
    let listener = sys::set_filter_with_listener(&supervisor::filter(scope, shared_pids))
        .during("install the filter of the supervisor")?;
    send_listener(&listener, to)
}

fn send_listener(listener: &OwnedFd, to: BorrowedFd<'_>) -> Result<(), Failure> {
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(
        to,
        &[IoSlice::new(b"l")],
        &mut ancillary,
        SendFlags::empty(),
    )
    .during("send the listener")
    .map(drop)
}

pub(super) fn execute(spec: &ProcessSpec) -> Word {
    let Some(program) = spec.argv.first() else {
        return Word::NotStarted {
            code: 127,
            reason: "there is no command".to_owned(),
        };
    };
    let strings = |all: &[OsString]| {
        all.iter()
            .map(|s| CString::new(s.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
    };
    let env: Vec<OsString> = environment(&spec.env);
    let (Ok(argv), Ok(env)) = (strings(&spec.argv), strings(&env)) else {
        return Word::NotStarted {
            code: 126,
            reason: format!(
                "exec: {}: an argument or variable holds a NUL byte",
                quoted(program)
            ),
        };
    };
    if program.as_bytes().contains(&b'/') {
        let error = start(program, &argv, &env);
        return explain(program, program, &error);
    }
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(""), |(_, value)| value);
    let mut denied = false;
    for dir in path.as_bytes().split(|b| *b == b':') {
        let mut candidate = if dir.is_empty() { b".".as_slice() } else { dir }.to_vec();
        candidate.push(b'/');
        candidate.extend(program.as_bytes());
        let candidate = OsString::from_vec(candidate);
        let error = start(&candidate, &argv, &env);
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) if !is_there(&candidate) => {}
            Some(Errno::ACCESS) => denied = true,
            _ => return explain(program, &candidate, &error),
        }
    }
    if denied {
        return Word::NotStarted {
            code: 126,
            reason: format!("exec: {}: permission denied", quoted(program)),
        };
    }
    Word::NotStarted {
        code: 127,
        reason: format!(
            "exec: {}: executable file not found in $PATH",
            quoted(program)
        ),
    }
}

fn start(program: &OsStr, argv: &[CString], env: &[CString]) -> io::Error {
    match CString::new(program.as_bytes()) {
        Ok(program) => sys::execve(&program, argv, env),
        Err(error) => error.into(),
    }
}

fn is_there(path: &OsStr) -> bool {
    fs::statat(CWD, path, AtFlags::empty()).is_ok()
}

fn quoted(text: &OsStr) -> String {
    format!("\"{}\"", text.display())
}

/// Why `program`, found as `file`, cannot be started, in the words of runc.
fn explain(program: &OsStr, file: &OsStr, error: &io::Error) -> Word {
    let (code, reason) = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) if !is_there(file) => (
            127,
            format!(
                "exec: {}: stat {}: no such file or directory",
                quoted(program),
                file.display()
            ),
        ),
        Some(Errno::NOENT) => (
            127,
            format!(
                "exec {}: no such file or directory (its interpreter is missing)",
                file.display()
            ),
        ),
        Some(Errno::ACCESS) => (126, format!("exec: {}: permission denied", quoted(program))),
        Some(Errno::NOEXEC) => (126, format!("exec {}: exec format error", file.display())),
        _ => (126, format!("exec {}: {error}", file.display())),
    };
    Word::NotStarted { code, reason }
}

/// The environment as `NAME=value`; of several values for a name the last, in the place of the first.
fn environment(pairs: &[(OsString, OsString)]) -> Vec<OsString> {
    let mut all: Vec<(&OsStr, &OsStr)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => all.push((name, value)),
        }
    }
    all.into_iter()
        .map(|(name, value)| {
            let mut text = name.to_owned();
            text.push("=");
            text.push(value);
            text
        })
        .collect()
}

/// Sends `word` to the parent. Nobody is left to tell when that fails.
pub(super) fn send(to: BorrowedFd<'_>, word: &Word) {
    let Ok(text) = serde_json::to_vec(word) else {
        return;
    };
    let mut rest = text.as_slice();
    while let Ok(n) = rustix::io::write(to, rest) {
        if n >= rest.len() {
            break;
        }
        rest = &rest[n..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_variables_the_later_counts() {
        let pairs = [("A", "1"), ("B", "2"), ("A", "3")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(environment(&pairs), ["A=3", "B=2"]);
    }

    #[test]
    fn limits_have_docker_s_names() {
        for name in ["nofile", "nproc", "memlock", "core", "stack"] {
            assert!(resource(name).is_some(), "{name}");
        }
        assert!(resource("files").is_none());
    }
}
