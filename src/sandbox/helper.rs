//! The helper: this program, started once more with a name of its own, to set a step up and wait for it.
//!
//! It has one thread until the step runs, which making namespaces and forking demand and the rest of the program
//! cannot offer. It talks with the program over the socket that is its standard input:
//!
//! ```text
//! program → helper   length (4 bytes, little-endian), Order as JSON; for a step to run then
//!                    a byte with the standard streams, numbers of signals for the step, a byte each
//! helper → program   length, Report as JSON
//! ```
//!
//! What a step finds can be ordered before it is known what it runs, while the program reads what the step before has changed.
//!
//! After a report that says so, it waits for another step: starting a program takes longer than all else that is done for a
//! step. Of one step nothing is there for the next: its processes have ended, its mounts are gone, and each has namespaces of
//! its own but for that of mounts, in which the helper makes them; the step itself gets a copy.
//!
//! The step's process is process 1 of a namespace of process numbers and dies with the helper; the helper kills it
//! when the socket is closed at the other end. So whatever of the three is killed, the rest goes, too, and with the
//! last process of the mount namespace go the mounts.
//! Without a namespace of process numbers (`chroot`), what the step leaves in the background is ended by the helper, and stays
//! where that one alone is killed.

use std::{
    ffi::OsString,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::ExitCode,
};

use rustix::{
    fs::Mode,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
    pipe::PipeFlags,
    process,
};
use serde::{Deserialize, Serialize};

use super::{
    chroot, emulate,
    error::{During as _, Failure},
    kit::Kit,
    probe,
    scene::{self, Apart, Scene, Upper},
    spec::{Exit, ProcessSpec, Rootfs, Streams},
    step::{self, Start},
    sys,
    userns::{Entry, Program, enter_user_namespace},
    wire,
};

/// The name (`argv[0]`) that makes this program a helper.
pub(super) const ROLE: &str = "rbuild-sandbox";

/// What the helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order<S> {
    /// Set up what a step like this finds, its own mounts aside. There is no answer: what fails is tried again when it runs.
    SetUp {
        /// All that matters for that.
        spec: S,
        /// What lies on its lower directories: the upper one of the step before, as it was called then. By now it may have another
        /// name.
        #[serde(with = "wire::path")]
        top: PathBuf,
    },
    /// Run a step.
    Run {
        /// All of it.
        spec: S,
        /// In what was set up last, which is this step's.
        is_set_up: bool,
    },
}

/// What the helper has to say in the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The step ran.
    Ended {
        /// How it ended.
        exit: Exit,
        /// Whether the helper waits for another one.
        again: bool,
    },
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
    if name == probe::ROLE || name == probe::INNER_ROLE {
        return probe::serve(&name, args).map(|served| match served {
            Ok(()) => ExitCode::SUCCESS,
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
    // Steps inherit it: none is to find a signal ignored.
    sys::reset_signals();
    // Modes are what we say, not what the caller's mask leaves of them.
    process::umask(Mode::empty());
    let mut apart = Apart::default();
    let mut kit = None;
    let mut ready: Option<Scene> = None;
    let mut last: Option<Upper> = None;
    loop {
        let (spec, is_set_up) = match receive(&mut socket)? {
            Order::SetUp { spec, top } => {
                take_down(ready.take())?;
                // Another helper may have run that step.
                let top = last.take().filter(|last| last.path == top);
                ready = top.and_then(|top| set_up(&spec, Some(top.fd), &mut apart, &mut kit).ok());
                continue;
            }
            Order::Run { spec, is_set_up } => {
                // Nothing is left open for a step to see.
                drop(last.take());
                (spec, is_set_up)
            }
        };
        let spec: ProcessSpec = spec;
        let streams = receive_streams(&socket, spec.streams)?;
        let scene = ready.take();
        let outcome = if is_set_up {
            run(&spec, &socket, &streams, (&mut apart, &mut kit), scene)
        } else {
            take_down(scene)?;
            run(&spec, &socket, &streams, (&mut apart, &mut kit), None)
        };
        drop(streams);
        match outcome {
            Ok(Ran {
                exit,
                again,
                scene,
                upper,
            }) => {
                last = upper;
                send(&mut socket, &Report::Ended { exit, again })?;
                take_down(scene)?;
                if !again {
                    return Ok(());
                }
            }
            Err(failure) => return send(&mut socket, &Report::Failed(failure)),
        }
    }
}

fn take_down(scene: Option<Scene>) -> std::io::Result<()> {
    match scene {
        Some(scene) => scene.take_down().map_err(|failure| failure.error()),
        None => Ok(()),
    }
}

/// Moves into namespaces of its own and mounts what a step finds, its own mounts aside.
fn set_up(
    spec: &ProcessSpec,
    top: Option<OwnedFd>,
    apart: &mut Apart,
    kit: &mut Option<Kit>,
) -> Result<Scene, Failure> {
    let kit = match kit {
        Some(kit) => kit,
        None => kit.insert(Kit::new()?),
    };
    apart.enter(spec)?;
    Scene::set_up(spec, top, kit)
}

/// Sends a message.
pub(super) fn send(to: &mut UnixStream, message: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(std::io::Error::other)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(text);
    to.write_all(&bytes)
}

/// Receives a message.
pub(super) fn receive<T: serde::de::DeserializeOwned>(from: &mut UnixStream) -> std::io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(std::io::Error::other)?;
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Sends the standard streams that a process is to have; gives the other ends of those for its output, where they are not
/// this program's own.
pub(super) fn send_streams(
    to: &UnixStream,
    streams: Streams,
) -> std::io::Result<Option<[OwnedFd; 2]>> {
    let pipes = match streams {
        Streams::Same => None,
        Streams::Output | Streams::Input => {
            let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
            Some([pipe()?, pipe()?])
        }
    };
    let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
    for number in 0..shared(streams) {
        fds.push(sys::standard(number.into()));
    }
    for (_, write) in pipes.iter().flatten() {
        fds.push(write.as_fd());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(b"s")];
    rustix::net::sendmsg(to, &byte, &mut ancillary, SendFlags::empty())?;
    Ok(pipes.map(|pipes| pipes.map(|(read, _)| read)))
}

/// Receives them; gives those that are the program's own. The others take the places of this process's.
fn receive_streams(from: &UnixStream, streams: Streams) -> std::io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(from, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let messages = ancillary.drain();
    let fds = messages.filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut all: Vec<OwnedFd> = fds.flatten().collect();
    let pipes = all.split_off(all.len().min(shared(streams).into()));
    for (number, pipe) in (1..).zip(pipes) {
        sys::replace_descriptor(number, pipe)?;
    }
    Ok(all)
}

/// How many of the standard streams, from the first on, are this program's own.
fn shared(streams: Streams) -> u8 {
    match streams {
        Streams::Output => 0,
        Streams::Input => 1,
        Streams::Same => 3,
    }
}

/// A step that has ended.
struct Ran {
    exit: Exit,
    again: bool,
    /// What is to be taken down still: nobody has to wait for it.
    scene: Option<Scene>,
    /// Where its changes are.
    upper: Option<Upper>,
}

fn run(
    spec: &ProcessSpec,
    socket: &UnixStream,
    streams: &[OwnedFd],
    (apart, kit): (&mut Apart, &mut Option<Kit>),
    scene: Option<Scene>,
) -> Result<Ran, Failure> {
    let in_directory = match &spec.rootfs {
        Rootfs::Chroot { path, work } => Some((path, work, false)),
        Rootfs::Emulated { path, work } => Some((path, work, true)),
        Rootfs::Overlay { .. } | Rootfs::Dir { .. } => None,
    };
    if let Some((path, work, is_emulated)) = in_directory {
        let signals = watch_for_the_end()?;
        let exit = if is_emulated {
            emulate::run(spec, (path, work), socket, signals.as_fd(), streams)?
        } else {
            chroot::run(spec, (path, work), socket, signals.as_fd(), streams)?
        };
        return Ok(Ran {
            exit,
            again: false,
            scene: None,
            upper: None,
        });
    }
    let mut scene = match scene {
        Some(scene) => scene,
        None => set_up(spec, None, apart, kit)?,
    };
    let kit = kit.as_mut().expect("setting up has made it");
    let signals = watch_for_the_end()?;
    let place = scene::root_place(spec);
    scene.mount(spec)?;
    let proxies = scene.take_proxies();
    // Threads of this process serve them, and it cannot fork any more.
    let mut again = apart.is_as_before() && proxies.is_empty();
    let exit = match step::start(spec, &scene, (&place, true), streams, kit)? {
        Start::Running(step) => step::attend(&step, proxies, socket, signals.as_fd())?,
        Start::NotStarted(exit) => not_started(exit)?,
        Start::ProcDenied => {
            again = false;
            match step::start(spec, &scene, (&place, false), streams, kit)? {
                Start::Running(step) => step::attend(&step, proxies, socket, signals.as_fd())?,
                Start::NotStarted(exit) => not_started(exit)?,
                Start::ProcDenied => return Err(Failure::new("mount /proc", Errno::PERM)),
            }
        }
    };
    let upper = scene.take_upper();
    let scene = if scene.is_traceless() {
        Some(scene)
    } else {
        scene.take_down()?;
        None
    };
    Ok(Ran {
        exit,
        again,
        scene,
        upper,
    })
}

/// A step that does not run has nothing more to say.
fn not_started(exit: Exit) -> Result<Exit, Failure> {
    step::release_output()?;
    Ok(exit)
}

fn watch_for_the_end() -> Result<OwnedFd, Failure> {
    sys::signal_fd(&[libc::SIGCHLD]).during("watch for the end of the step")
}
