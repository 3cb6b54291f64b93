//! The helper's part while a step runs: fork it, give it a supervisor, wait for it, kill it.

use std::{
    io::{IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{self, Mode, OFlags},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
    pipe::PipeFlags,
    process::{self, Pid, Signal, WaitOptions, WaitStatus},
};

use super::{
    child::{self, Birth, Word},
    error::{During as _, Failure},
    idmap::IdMap,
    kit::Kit,
    mounts::Proxy,
    scene::Scene,
    spec::{Exit, ProcessSpec, Rootfs},
    supervisor::{self, Charge, Identity, Scope},
    sys::{self, Fork},
};

/// A running step.
#[derive(Debug)]
pub(super) struct Step {
    pid: Pid,
    own_pids: bool,
    /// The process that answers for users and owners.
    supervisor: Option<Pid>,
    /// Who gets the signals that are passed on.
    first: Pid,
    /// Tells the child that we are there, by being open.
    _alive: OwnedFd,
}

impl Step {
    /// A step that shares the process numbers of its parent.
    pub(super) fn without_own_pids(pid: Pid, supervisor: Option<Pid>, alive: OwnedFd) -> Self {
        Self {
            pid,
            own_pids: false,
            supervisor,
            first: pid,
            _alive: alive,
        }
    }

    /// A step whose first process is the child of a server, which ends as it does.
    pub(super) fn with_server(server: Pid, first: Option<Pid>, alive: OwnedFd) -> Self {
        Self {
            pid: server,
            own_pids: false,
            supervisor: None,
            first: first.unwrap_or(server),
            _alive: alive,
        }
    }

    /// Waits for a step that has failed to start, and ends what was to serve it.
    pub(super) fn dismiss(&self) -> Result<(), Failure> {
        reap(self.pid)?;
        dismiss(self.supervisor)
    }
}

/// What became of an attempt to start a step.
#[derive(Debug)]
pub(super) enum Start {
    /// It runs.
    Running(Step),
    /// Its program cannot be started.
    NotStarted(Exit),
    /// It cannot have process numbers of its own.
    ProcDenied,
}

/// Forks, and returns when the child has become the step's program or says why it cannot.
pub(super) fn start(
    spec: &ProcessSpec,
    scene: &Scene,
    (place, own_pids): (&Path, bool),
    streams: &[OwnedFd],
    kit: &mut Kit,
) -> Result<Start, Failure> {
    let scope = match kit.ids {
        IdMap::Full => (!own_pids).then_some(Scope::Nothing),
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
    let filter = &kit.filter;
    let live = || {
        let mut not_ours = vec![heard.as_fd(), our_life.as_fd()];
        not_ours.extend(ours.as_ref().map(|(_, line)| line.as_fd()));
        sys::close_copies(&not_ours);
        let birth = Birth {
            root: place,
            places: &scene.places,
            devices: scene.devices,
            own_pids,
            streams,
            filter,
            alive: alive.as_fd(),
            supervisor: theirs.as_ref().map(|(scope, line)| (*scope, line.as_fd())),
        };
        let reason = child::become_step(spec, &birth);
        child::send(word.as_fd(), &reason);
        1
    };
    let shared = match scope {
        None => sys::clone_sharing(flags, &mut kit.stack, &live).ok(),
        // Its calls wait for answers, which this process has to see to.
        Some(_) => None,
    };
    let pid = match shared {
        Some(pid) => pid,
        // Some filters of system calls let nothing pass but what makes a copy.
        None => match sys::clone(flags).during("fork into new namespaces")? {
            Fork::Child => sys::exit_now(live()),
            Fork::Parent(pid) => pid,
        },
    };
    drop((word, alive, theirs));
    let supervisor = match ours {
        Some((scope, line)) => supervise(spec, scene, (scope, own_pids), pid, &line)?,
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
            first: pid,
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
    (scope, own_pids): (Scope, bool),
    pid: Pid,
    line: &UnixStream,
) -> Result<Option<Pid>, Failure> {
    let Some(listener) = receive_listener(line)? else {
        return Ok(None);
    };
    let charge = Charge {
        listener,
        step: pid,
        scope,
        helper: (!own_pids).then(process::getpid),
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

/// The listener of a filter, which a step's child sends through `line`; `None` when the child ends before that.
pub(super) fn receive_listener(line: &UnixStream) -> Result<Option<OwnedFd>, Failure> {
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
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
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
        Rootfs::Dir { path, .. } | Rootfs::Chroot { path, .. } | Rootfs::Emulated { path, .. } => {
            vec![beside(path)]
        }
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
pub(super) fn release_output() -> Result<(), Failure> {
    let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .during("open /dev/null")?;
    for number in [1, 2] {
        sys::replace_descriptor(number, &null).during("let go of the step's output")?;
    }
    Ok(())
}

/// Waits for a step and serves it meanwhile; passes signals on, and kills it when the other end of `socket` goes away.
pub(super) fn attend(
    step: &Step,
    proxies: Vec<Proxy>,
    socket: &UnixStream,
    signals: BorrowedFd<'_>,
) -> Result<Exit, Failure> {
    release_output()?;
    for proxy in proxies {
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
        let spoken = !canceled && !fds[1].revents().is_empty();
        while sys::read_signal(signals)
            .during("wait for the step")?
            .is_some()
        {}
        if spoken {
            let mut numbers = [0; 64];
            match rustix::io::read(socket, &mut numbers) {
                Ok(n @ 1..) => pass_on(step.first, &numbers[..n]),
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => {
                    canceled = true;
                    kill(step.pid);
                }
            }
        }
    };
    if !step.own_pids {
        kill_descendants(step.supervisor);
    }
    dismiss(step.supervisor)?;
    Ok(if canceled {
        Exit::Canceled
    } else if let Some(signal) = status.terminating_signal() {
        Exit::Signal(signal)
    } else {
        Exit::Code(status.exit_status().unwrap_or(1))
    })
}

/// Sends signals to the step. Process 1 of a namespace gets those that it has asked for.
fn pass_on(pid: Pid, numbers: &[u8]) {
    for number in numbers {
        if let Some(signal) = Signal::from_named_raw((*number).into()) {
            // It fails when the process has ended already.
            let _ended = process::kill_process(pid, signal);
        }
    }
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

/// Kills all that a step without process numbers of its own has left behind: what descends from the calling thread,
/// but for the process `spared`, which answers it up to its end.
pub(super) fn kill_descendants(spared: Option<Pid>) {
    let children = Path::new("/proc/thread-self/children");
    // Each round kills what the last one made ours; a process that forks faster than we kill is killed on the way.
    loop {
        let Ok(text) = std::fs::read_to_string(children) else {
            return;
        };
        let mut any = false;
        for pid in text.split_ascii_whitespace().filter_map(|t| t.parse().ok()) {
            if let Some(pid) = Pid::from_raw(pid)
                && Some(pid) != spared
            {
                any = true;
                kill(pid);
                let _gone = reap(pid);
            }
        }
        if !any {
            return;
        }
    }
}
