//! Running a step from the program's side: start the helper, pass output on, cancel.

use std::{
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    pipe::PipeFlags,
};

use super::{
    child::resource,
    error::SandboxError,
    helper::{self, Order, Report},
    probe::{self, Probe, Question},
    ready::{Helper, Ready},
    spec::{Exit, ProcessSpec},
};
use crate::progress::Stream;

/// How long a canceled step may take to go away before its helper is killed, which takes everything with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks running steps to stop. Clones are the same request.
#[derive(Debug, Clone)]
pub struct Cancel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    asked: AtomicBool,
    /// Readable once asked, so that it can be waited for together with output.
    event: OwnedFd,
}

impl Cancel {
    /// A request not yet made. Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let asked = AtomicBool::new(false);
        Ok(Self {
            inner: Arc::new(Inner { asked, event }),
        })
    }

    /// Makes the request; making it again changes nothing.
    pub fn cancel(&self) {
        if !self.inner.asked.swap(true, Ordering::SeqCst) {
            // The counter starts at zero, so adding one always fits.
            let _fits = rustix::io::write(&self.inner.event, &1_u64.to_ne_bytes());
        }
    }

    /// Whether it was made.
    pub fn is_canceled(&self) -> bool {
        self.inner.asked.load(Ordering::SeqCst)
    }
}

/// Signals on their way to the process of a step.
#[derive(Debug)]
pub struct Signals {
    send: OwnedFd,
    receive: OwnedFd,
}

impl Signals {
    /// None so far. Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (receive, send) = rustix::pipe::pipe_with(flags)?;
        Ok(Self { send, receive })
    }

    /// Sends a signal to the process, now or as soon as it runs. Numbers that are no signals are passed over.
    pub fn send(&self, signal: i32) {
        // Thousands of signals that nobody has taken are enough.
        if let Ok(byte) = u8::try_from(signal) {
            let _full = rustix::io::write(&self.send, &[byte]);
        }
    }
}

/// Runs processes apart from the machine. Steps may run at the same time.
#[derive(Debug, Clone)]
pub struct Sandbox {
    helpers: Arc<Ready>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A sandbox whose helper is this very program, which must call [`maybe_helper`](super::maybe_helper) first in
    /// its `main`.
    pub fn new() -> Self {
        Self::with_program("/proc/self/exe".into())
    }

    /// A sandbox whose helper is `program`, another binary that calls `maybe_helper`.
    pub fn with_program(program: PathBuf) -> Self {
        Self {
            helpers: Arc::new(Ready::new(program)),
        }
    }

    /// Runs a process, hands its output to `sink` as it comes, and returns when it and all that it started are gone.
    ///
    /// The process is number 1 of a namespace of its own; what it leaves behind is killed with it. When this program
    /// is killed, the process is, too. Nothing stays mounted, though the unmounting may go on when this returns; it is over when
    /// the last clone of this value is gone. What the kernel put into the directory `work` may be left, and
    /// a directory `scratch` beside it.
    pub fn run(
        &self,
        spec: &ProcessSpec,
        cancel: &Cancel,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Exit, SandboxError> {
        self.go(spec, (cancel, None), sink, &mut || {}, None)
    }

    /// Sets up what a process like this finds, its mounts aside, while the caller does something else; `None` when no helper waits
    /// that could. What fails is tried again, and told, when the process is run.
    ///
    /// The root is an overlay, with `top` on the lower directories of `spec`: the upper directory of the process that has just ended, which
    /// may get another name from now on. All have to be as they will be then. Until that, and when this value is dropped until the next
    /// process runs, something may be mounted from them.
    pub fn set_up(&self, spec: &ProcessSpec, top: &Path) -> Option<SetUp> {
        check(spec).ok()?;
        let (child, mut socket) = self.helpers.take_waiting()?;
        let top = top.to_owned();
        if helper::send(&mut socket, &Order::SetUp { spec, top }).is_err() {
            self.helpers.see_off(child);
            return None;
        }
        Some(SetUp {
            helper: Some((child, socket)),
            helpers: Arc::clone(&self.helpers),
        })
    }

    /// As [`Sandbox::run`], in what was set up for this process; `meanwhile` is called once while it runs.
    pub fn run_in(
        &self,
        set_up: Option<SetUp>,
        spec: &ProcessSpec,
        cancel: &Cancel,
        sink: &mut dyn FnMut(Stream, &[u8]),
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Exit, SandboxError> {
        let helper = set_up.and_then(SetUp::into_helper);
        self.go(spec, (cancel, None), sink, meanwhile, helper)
    }

    /// Has the next process start sooner.
    pub fn expect(&self) {
        self.helpers.prepare();
    }

    /// Lets go of what is kept for further processes; they can be run all the same.
    pub fn rest(&self) {
        self.helpers.dismiss();
    }

    /// The same, with signals passed on to the process.
    pub fn run_with(
        &self,
        spec: &ProcessSpec,
        cancel: &Cancel,
        signals: Option<&Signals>,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Exit, SandboxError> {
        self.go(spec, (cancel, signals), sink, &mut || {}, None)
    }

    fn go(
        &self,
        spec: &ProcessSpec,
        (cancel, signals): (&Cancel, Option<&Signals>),
        sink: &mut dyn FnMut(Stream, &[u8]),
        meanwhile: &mut dyn FnMut(),
        set_up: Option<Helper>,
    ) -> Result<Exit, SandboxError> {
        check(spec)?;
        if cancel.is_canceled() {
            return Ok(Exit::Canceled);
        }
        let is_set_up = set_up.is_some();
        let (mut child, mut socket) = match set_up {
            Some(helper) => helper,
            None => self.helpers.take().map_err(start_failed)?,
        };
        let talk = |source| SandboxError::Helper {
            action: "talk to",
            source,
        };
        let order = Order::Run { spec, is_set_up };
        let sent = helper::send(&mut socket, &order)
            .and_then(|()| helper::send_streams(&socket, spec.streams));
        let result = match sent {
            Ok(outputs) => {
                meanwhile();
                attend(&mut child, &mut socket, outputs, (cancel, signals), sink)
            }
            Err(source) => Err(talk(source)),
        };
        if let Ok(Some(Report::Ended { exit, again })) = result {
            // It takes everything down by itself. Signals that came too late for the step are still on their way to it, and a request to
            // cancel closed its socket.
            if again && signals.is_none() && !cancel.is_canceled() {
                self.helpers.give_back((child, socket));
            } else {
                drop(socket);
                self.helpers.see_off(child);
            }
            return Ok(exit);
        }
        drop(socket);
        let status = child.wait().map_err(|source| SandboxError::Helper {
            action: "wait for",
            source,
        })?;
        finish(result, status, cancel)
    }

    /// Finds out what steps can do here, with their states below `dir`. Takes some milliseconds.
    pub fn probe(&self, dir: &Path) -> Result<Probe, SandboxError> {
        let (mut child, mut socket) = self.start_prober()?;
        let question = Question {
            dir: dir.to_owned(),
        };
        let heard = helper::send(&mut socket, &question).and_then(|()| probe::hear(&mut socket));
        drop(socket);
        let failed = |action| move |source| SandboxError::Helper { action, source };
        child.wait().map_err(failed("wait for"))?;
        heard.map_err(failed("talk to"))
    }

    fn start_prober(&self) -> Result<Helper, SandboxError> {
        self.helpers.start(probe::ROLE).map_err(start_failed)
    }
}

/// What was set up for a process that is still to be run.
#[derive(Debug)]
pub struct SetUp {
    helper: Option<Helper>,
    helpers: Arc<Ready>,
}

impl SetUp {
    /// `None` when somebody has killed it.
    fn into_helper(mut self) -> Option<Helper> {
        let (mut child, socket) = self.helper.take()?;
        matches!(child.try_wait(), Ok(None)).then_some((child, socket))
    }
}

impl Drop for SetUp {
    fn drop(&mut self) {
        if let Some(helper) = self.helper.take() {
            self.helpers.give_back(helper);
        }
    }
}

fn start_failed(source: io::Error) -> SandboxError {
    SandboxError::Helper {
        action: "start",
        source,
    }
}

fn check(spec: &ProcessSpec) -> Result<(), SandboxError> {
    let unknown = spec.ulimits.iter().find(|l| resource(&l.name).is_none());
    if let Some(limit) = unknown {
        let text = format!("`{}` is not a resource limit", limit.name);
        return Err(SandboxError::Invalid(text));
    }
    let targets = spec
        .mounts
        .iter()
        .map(|mount| ("mount target", &mount.target));
    for (what, path) in std::iter::once(("working directory", &spec.cwd)).chain(targets) {
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            let path = path.clone();
            return Err(SandboxError::Nul { what, path });
        }
    }
    Ok(())
}

/// What the helper said, if it said something.
type Heard = Result<Option<Report>, SandboxError>;

fn finish(heard: Heard, status: ExitStatus, cancel: &Cancel) -> Result<Exit, SandboxError> {
    match heard? {
        Some(Report::Ended { exit, .. }) => Ok(exit),
        Some(Report::Failed(_)) | None if cancel.is_canceled() => Ok(Exit::Canceled),
        Some(Report::Failed(failure)) => Err(SandboxError::Setup(failure)),
        None => Err(SandboxError::HelperDied {
            status: status.to_string(),
        }),
    }
}

/// Passes output on until the helper has reported and both outputs are closed.
fn attend(
    child: &mut Child,
    socket: &mut UnixStream,
    outputs: Option<[OwnedFd; 2]>,
    (cancel, signals): (&Cancel, Option<&Signals>),
    sink: &mut dyn FnMut(Stream, &[u8]),
) -> Heard {
    let failed = |source: io::Error| SandboxError::Helper {
        action: "talk to",
        source,
    };
    let (stdout, stderr) = outputs.map_or((None, None), |[out, err]| (Some(out), Some(err)));
    let mut outputs = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    let mut heard: Option<Option<Report>> = None;
    let mut deadline: Option<Instant> = None;
    let mut buffer = vec![0; 1 << 16];
    while heard.is_none() || outputs.iter().any(|(_, fd)| fd.is_some()) {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(5);
        let none = PollFlags::empty();
        for (_, fd) in &outputs {
            // A closed one is replaced by the event, of which nothing is asked, to keep the places.
            fds.push(match fd {
                Some(fd) => PollFd::new(fd, PollFlags::IN),
                None => PollFd::new(&cancel.inner.event, none),
            });
        }
        let want = |yes: bool| if yes { PollFlags::IN } else { none };
        fds.push(PollFd::from_borrowed_fd(
            if heard.is_none() {
                socket.as_fd()
            } else {
                cancel.inner.event.as_fd()
            },
            want(heard.is_none()),
        ));
        fds.push(PollFd::new(&cancel.inner.event, want(deadline.is_none())));
        if let Some(signals) = signals {
            fds.push(PollFd::new(&signals.receive, PollFlags::IN));
        }
        let timeout = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for ((stream, fd), _) in outputs.iter_mut().zip(&ready).filter(|(_, r)| **r) {
            let Some(open) = fd else { continue };
            match rustix::io::read(open, buffer.as_mut_slice()) {
                Ok(0) => *fd = None,
                Ok(n) => sink(*stream, &buffer[..n]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        if let Some(signals) = signals
            && ready[4]
            && let Ok(n) = rustix::io::read(&signals.receive, buffer.as_mut_slice())
            && deadline.is_none()
        {
            // The helper may have ended, and the process with it.
            let _gone = socket.write_all(&buffer[..n]);
        }
        if heard.is_none() && ready[2] {
            heard = Some(helper::receive(socket).ok());
        }
        if deadline.is_none() && ready[3] {
            // The helper takes the end of the stream as the order to kill the step.
            let _gone = socket.shutdown(std::net::Shutdown::Write);
            deadline = Some(Instant::now() + PATIENCE);
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            let _gone = child.kill();
            return Ok(None);
        }
    }
    Ok(heard.flatten())
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
