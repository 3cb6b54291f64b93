//! The helper: this program, started once more with a name of its own, to set a step up and wait for it.
//!
//! It has one thread until the step runs, which making namespaces and forking demand and the rest of the program
//! cannot offer. It talks with the program over the socket that is its standard input:
//!
//! ```text
//! program → helper   length (4 bytes, little-endian), ProcessSpec as JSON
//! helper → program   length, Report as JSON
//! ```
//!
//! The step's process is process 1 of a namespace of process numbers and dies with the helper; the helper kills it
//! when the socket is closed at the other end. So whatever of the three is killed, the rest goes, too, and with the
//! last process of the mount namespace go the mounts.

use std::{
    ffi::OsString,
    io::{IoSliceMut, Read, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{self, Mode, OFlags},
    io::Errno,
    mount::UnmountFlags,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags,
        SocketType,
    },
    pipe::PipeFlags,
    process::{self, Pid, Signal, WaitOptions, WaitStatus},
};
use serde::{Deserialize, Serialize};

use super::{
    child::{self, Birth, Word},
    error::{During as _, Failure},
    idmap::IdMap,
    kernelfs::{self, Places},
    mount::{self, Root, make_dir},
    mounts::{Mounter, Proxy, Stranger},
    overlay::{self, Writable},
    spec::{Exit, Network, ProcessSpec, Rootfs},
    stubs::Stubs,
    supervisor::{self, Charge, Identity, Scope},
    sys::{self, Fork},
    userns::{Entry, Program, enter_user_namespace},
};

/// The name (`argv[0]`) that makes this program a helper.
pub(super) const ROLE: &str = "rbuild-sandbox";

/// What the helper has to say in the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The step ran.
    Ended(Exit),
    /// It could not be run.
    Failed(Failure),
}

/// The name that makes this program run another one, its first argument, in a user namespace.
const UNSHARE: &str = "rbuild-unshare";

/// Does the helper's work when this process was started as one, which its name (the first of `args`) tells; gives its
/// exit status. `env` is the environment of the process.
///
/// To be called first in `main`, before there is a second thread.
pub fn maybe_helper(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Option<ExitCode> {
    let mut args = args.into_iter();
    let name = args.next()?;
    if name == ROLE {
        return Some(match serve() {
            Ok(()) => ExitCode::SUCCESS,
            // Whoever started us is gone or speaks another language.
            Err(_) => ExitCode::FAILURE,
        });
    }
    (name == UNSHARE).then(|| {
        let argv: Vec<_> = args.collect();
        let program = Program {
            file: argv.first().map(Into::into).unwrap_or_default(),
            argv,
            env: env.into_iter().collect(),
        };
        match enter_user_namespace(&program) {
            Ok(Entry::Finished(code)) => code.into(),
            // Privileged already, which nobody asks of this role, or impossible.
            Ok(Entry::Inside(_)) | Err(_) => ExitCode::FAILURE,
        }
    })
}

fn serve() -> std::io::Result<()> {
    let mut socket = UnixStream::from(rustix::io::dup(sys::standard(0))?);
    let spec: ProcessSpec = receive(&mut socket)?;
    let report = run(&spec, &socket).map_or_else(Report::Failed, Report::Ended);
    send(&mut socket, &report)
}

/// Sends a message.
pub(super) fn send(to: &mut UnixStream, message: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(std::io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&text)
}

/// Receives a message.
pub(super) fn receive<T: serde::de::DeserializeOwned>(from: &mut UnixStream) -> std::io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut text = Vec::new();
    let length = u32::from_le_bytes(length).into();
    if from.take(length).read_to_end(&mut text)? as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&text)?)
}

/// A root with everything mounted.
#[derive(Debug)]
struct Scene {
    root: Root,
    stubs: Stubs,
    places: Places,
    proxies: Vec<Proxy>,
    strangers: Vec<Stranger>,
}

fn run(spec: &ProcessSpec, socket: &UnixStream) -> Result<Exit, Failure> {
    // Modes are what we say, not what the caller's mask leaves of them.
    process::umask(Mode::empty());
    let signals = sys::signal_fd(&[libc::SIGCHLD]).during("watch for the end of the step")?;
    enter_namespaces(spec)?;
    let place = spec.rootfs.work().join("root");
    let mut scene = set_up(spec, &place)?;
    let exit = match start(spec, &scene, &place, true)? {
        Start::Running(step) => attend(&step, &mut scene, socket, signals.as_fd())?,
        Start::NotStarted(exit) => exit,
        Start::ProcDenied => match start(spec, &scene, &place, false)? {
            Start::Running(step) => attend(&step, &mut scene, socket, signals.as_fd())?,
            Start::NotStarted(exit) => exit,
            Start::ProcDenied => return Err(Failure::new("mount /proc", Errno::PERM)),
        },
    };
    take_down(spec, &place, scene)?;
    Ok(exit)
}

fn enter_namespaces(spec: &ProcessSpec) -> Result<(), Failure> {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    match sys::unshare(flags | libc::CLONE_NEWCGROUP) {
        // A kernel without control groups.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => sys::unshare(flags),
        other => other,
    }
    .during("enter new namespaces")?;
    mount::isolate()?;
    match rustix::system::sethostname(spec.hostname.as_bytes()) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(Failure::new("set the host name", error)),
    }
    if spec.network == Network::None {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
            .during("make a socket")?;
        sys::loopback_up(socket.as_fd()).during("switch the loopback interface on")?;
    }
    Ok(())
}

fn set_up(spec: &ProcessSpec, place: &Path) -> Result<Scene, Failure> {
    make_dir(place)?;
    let work = spec.rootfs.work();
    let userxattr = match &spec.rootfs {
        Rootfs::Overlay {
            lower,
            upper,
            work,
            userxattr,
        } => {
            let overlay_work = work.join("overlay");
            make_dir(&overlay_work)?;
            let changes = Writable {
                upper,
                work: &overlay_work,
            };
            let empty = work.join("empty");
            overlay::mount(place, lower, Some(changes), *userxattr, &empty)?;
            *userxattr
        }
        Rootfs::Dir { path, .. } => {
            let target = Root::open(place)?;
            mount::bind(mount::open_host(path)?, target.fd()).during_at("bind the root", path)?;
            false
        }
    };
    let root = Root::open(place)?;
    let mut stubs = Stubs::default();
    // A mount of the step's own takes its place, and is not to lie over it.
    let has_shm = spec
        .mounts
        .iter()
        .any(|mount| mount.target == Path::new("/dev/shm"));
    let shm_size = (!has_shm).then_some(spec.shm_size);
    let places = kernelfs::mount_sys_and_dev(&root, &mut stubs, shm_size, spec.insecure)?;
    let mut mounter = Mounter::new(&root, &mut stubs, work, userxattr)?;
    for (path, content) in [
        ("/etc/resolv.conf", &spec.resolv_conf),
        ("/etc/hosts", &spec.etc_hosts),
    ] {
        if let Some(content) = content {
            mounter.bytes(Path::new(path), content, 0o644, (0, 0))?;
        }
    }
    for mount in &spec.mounts {
        mounter.mount(mount)?;
    }
    let (proxies, strangers) = mounter.finish();
    Ok(Scene {
        root,
        stubs,
        places,
        proxies,
        strangers,
    })
}

/// A running step.
#[derive(Debug)]
struct Step {
    pid: Pid,
    own_pids: bool,
    /// The process that answers for users and owners.
    supervisor: Option<Pid>,
    /// Tells the child that we are there, by being open.
    _alive: rustix::fd::OwnedFd,
}

enum Start {
    Running(Step),
    NotStarted(Exit),
    ProcDenied,
}

/// Forks, and returns when the child has become the step's program or says why it cannot.
fn start(
    spec: &ProcessSpec,
    scene: &Scene,
    place: &Path,
    own_pids: bool,
) -> Result<Start, Failure> {
    let scope = match IdMap::current().during("read the id map")? {
        IdMap::Full => None,
        IdMap::Ranges { .. } => Some(Scope::Unmapped),
        IdMap::Single => Some(Scope::All),
    };
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe");
    let (heard, word) = pipe()?;
    let (alive, our_life) = pipe()?;
    let line = scope
        .map(|scope| UnixStream::pair().map(|(ours, theirs)| ((scope, ours), (scope, theirs))))
        .transpose()
        .during("make a socket")?;
    let (ours, theirs) = line.unzip();
    let mut flags = libc::CLONE_NEWNS;
    if own_pids {
        flags |= libc::CLONE_NEWPID;
    } else {
        // What the step leaves behind becomes ours, to be killed.
        process::set_child_subreaper(Some(process::getpid())).during("adopt orphans")?;
    }
    let pid = match sys::clone(flags).during("fork into new namespaces")? {
        Fork::Child => {
            drop((heard, our_life, ours));
            let birth = Birth {
                root: place,
                places: &scene.places,
                own_pids,
                alive,
                supervisor: theirs.map(|(scope, line)| (scope, line.into())),
            };
            let reason = child::become_step(spec, &birth);
            child::send(word.as_fd(), &reason);
            sys::exit_now(1)
        }
        Fork::Parent(pid) => pid,
    };
    drop((word, alive, theirs));
    let supervisor = match ours {
        Some((scope, line)) => supervise(spec, scene, scope, pid, &line)?,
        None => None,
    };
    let mut text = Vec::new();
    std::fs::File::from(heard)
        .read_to_end(&mut text)
        .during("hear from the step")?;
    if text.is_empty() {
        return Ok(Start::Running(Step {
            pid,
            own_pids,
            supervisor,
            _alive: our_life,
        }));
    }
    reap(pid)?;
    dismiss(supervisor)?;
    match serde_json::from_slice(&text) {
        Ok(Word::ProcDenied) => Ok(Start::ProcDenied),
        Ok(Word::Failed(failure)) => Err(failure),
        Ok(Word::NotStarted { code, reason }) => {
            Ok(Start::NotStarted(Exit::NotStarted { code, reason }))
        }
        Err(error) => Err(Failure::new("understand the step's child", error)),
    }
}

/// Starts the supervisor of the step `pid`, which sends the listener through `line`; `None` when the step fails before
/// that.
fn supervise(
    spec: &ProcessSpec,
    scene: &Scene,
    scope: Scope,
    pid: Pid,
    line: &UnixStream,
) -> Result<Option<Pid>, Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(
        line,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        flags,
    )
    .during("receive the listener")?;
    let listener = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let Some(listener) = listener else {
        return Ok(None);
    };
    let charge = Charge {
        listener,
        step: pid,
        scope,
        identity: Identity::new(spec.uid, spec.gid, spec.groups.clone()),
        owners: owners(&spec.rootfs),
        strangers: scene.strangers.clone(),
    };
    match sys::clone(0).during("fork the supervisor")? {
        Fork::Parent(pid) => Ok(Some(pid)),
        Fork::Child => {
            let served = release_output().and_then(|()| supervisor::serve(charge));
            // The step hears that its calls are not implemented and fails; there is nobody else to tell.
            sys::exit_now(i32::from(served.is_err()))
        }
    }
}

/// The files with owners beside the directories that make up a root.
fn owners(rootfs: &Rootfs) -> Vec<PathBuf> {
    let beside = |dir: &PathBuf| dir.with_file_name("owners");
    match rootfs {
        Rootfs::Overlay { lower, upper, .. } => {
            let mut all = vec![beside(upper)];
            all.extend(lower.iter().map(beside));
            all
        }
        Rootfs::Dir { path, .. } => vec![beside(path)],
    }
}

/// Ends a supervisor and waits for it.
fn dismiss(supervisor: Option<Pid>) -> Result<(), Failure> {
    let Some(pid) = supervisor else { return Ok(()) };
    kill(pid);
    match process::waitpid(Some(pid), WaitOptions::empty()) {
        // It had ended before, and was waited for with the step.
        Ok(_) | Err(Errno::CHILD) => Ok(()),
        Err(error) => Err(Failure::new("wait for the supervisor", error)),
    }
}

/// Lets go of the pipes of the step's output: the step alone holds them, so that their end is its end.
fn release_output() -> Result<(), Failure> {
    let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .during("open /dev/null")?;
    for number in [1, 2] {
        sys::replace_descriptor(number, &null).during("let go of the step's output")?;
    }
    Ok(())
}

/// Waits for a step and serves it meanwhile; kills it when the other end of `socket` goes away.
fn attend(
    step: &Step,
    scene: &mut Scene,
    socket: &UnixStream,
    signals: BorrowedFd<'_>,
) -> Result<Exit, Failure> {
    release_output()?;
    for proxy in scene.proxies.drain(..) {
        proxy.serve();
    }
    let mut canceled = false;
    let status = loop {
        if let Some(status) = reap_ready(step.pid)? {
            break status;
        }
        let mut fds = [
            PollFd::from_borrowed_fd(signals, PollFlags::IN),
            PollFd::new(socket, PollFlags::IN),
        ];
        // Once canceled, the closed socket would only keep us busy.
        let watched = if canceled { 1 } else { 2 };
        match poll(&mut fds[..watched], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::new("wait for the step", error)),
        }
        let hung_up = !canceled && !fds[1].revents().is_empty();
        while sys::read_signal(signals)
            .during("wait for the step")?
            .is_some()
        {}
        if hung_up {
            canceled = true;
            kill(step.pid);
        }
    };
    dismiss(step.supervisor)?;
    if !step.own_pids {
        kill_descendants();
    }
    Ok(if canceled {
        Exit::Canceled
    } else if let Some(signal) = status.terminating_signal() {
        Exit::Signal(signal)
    } else {
        Exit::Code(status.exit_status().unwrap_or(1))
    })
}

fn kill(pid: Pid) {
    // It fails when the process has ended already.
    let _ended = process::kill_process(pid, Signal::KILL);
}

fn reap(pid: Pid) -> Result<(), Failure> {
    loop {
        match process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            other => return other.map(drop).during("wait for the step's child"),
        }
    }
}

/// Takes note of children that have ended; gives the status of `pid` when it is among them.
fn reap_ready(pid: Pid) -> Result<Option<WaitStatus>, Failure> {
    let mut found = None;
    loop {
        match process::wait(WaitOptions::NOHANG) {
            Ok(Some((ended, status))) if ended == pid => found = Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(found),
            Err(error) => return Err(Failure::new("wait for the step", error)),
        }
    }
}

/// Kills all that a step without process numbers of its own has left behind.
fn kill_descendants() {
    let children = Path::new("/proc/thread-self/children");
    // Each round kills what the last one made ours; a process that forks faster than we kill is killed on the way.
    loop {
        let Ok(text) = std::fs::read_to_string(children) else {
            return;
        };
        let mut any = false;
        for pid in text.split_ascii_whitespace().filter_map(|t| t.parse().ok()) {
            any = true;
            if let Some(pid) = Pid::from_raw(pid) {
                kill(pid);
                let _gone = reap(pid);
            }
        }
        if !any {
            return;
        }
    }
}

/// Unmounts the root and takes away what was put into it to mount on.
fn take_down(spec: &ProcessSpec, place: &Path, scene: Scene) -> Result<(), Failure> {
    // With everything that is mounted on it; the root itself stays reachable by its descriptor.
    rustix::mount::unmount(place, UnmountFlags::DETACH).during("unmount the root")?;
    scene.stubs.remove(&scene.root)?;
    drop(scene.root);
    match &spec.rootfs {
        Rootfs::Overlay { upper, .. } => scene.stubs.prune(upper),
        Rootfs::Dir { .. } => Ok(()),
    }
}
