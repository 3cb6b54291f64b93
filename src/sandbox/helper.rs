//! The helper: this program, started once more with a name of its own, to set a step up and wait for it.
//!
//! It has one thread until the step runs, which making namespaces and forking demand and the rest of the program
//! cannot offer. It talks with the program over the socket that is its standard input:
//!
//! ```text
//! program → helper   length (4 bytes, little-endian), ProcessSpec as JSON; a byte with the standard streams, if asked for;
//!                    then numbers of signals for the step, a byte each
//! helper → program   length, Report as JSON
//! ```
//!
//! The step's process is process 1 of a namespace of process numbers and dies with the helper; the helper kills it
//! when the socket is closed at the other end. So whatever of the three is killed, the rest goes, too, and with the
//! last process of the mount namespace go the mounts.

use std::{
    ffi::OsString,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
};

use rustix::{
    fs::Mode,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
    process,
};
use serde::{Deserialize, Serialize};

use super::{
    chroot,
    error::{During as _, Failure},
    probe,
    scene::{self, Scene},
    spec::{Exit, ProcessSpec, Rootfs, Streams},
    step::{self, Start},
    sys,
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
    let spec: ProcessSpec = receive(&mut socket)?;
    let streams = receive_streams(&socket, spec.streams)?;
    let report = run(&spec, &socket, &streams).map_or_else(Report::Failed, Report::Ended);
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

/// Sends the standard streams that a process is to have.
pub(super) fn send_streams(to: &UnixStream, streams: Streams) -> std::io::Result<()> {
    let numbers = shared(streams);
    if numbers == 0 {
        return Ok(());
    }
    let fds: Vec<BorrowedFd<'_>> = (0..numbers).map(sys::standard).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(b"s")];
    rustix::net::sendmsg(to, &byte, &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Receives them.
fn receive_streams(from: &UnixStream, streams: Streams) -> std::io::Result<Vec<OwnedFd>> {
    if shared(streams) == 0 {
        return Ok(Vec::new());
    }
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
    Ok(fds.flatten().collect())
}

/// How many of the standard streams are this program's own.
fn shared(streams: Streams) -> i32 {
    match streams {
        Streams::Output => 0,
        Streams::Input => 1,
        Streams::Same => 3,
    }
}

fn run(spec: &ProcessSpec, socket: &UnixStream, streams: &[OwnedFd]) -> Result<Exit, Failure> {
    // Modes are what we say, not what the caller's mask leaves of them.
    process::umask(Mode::empty());
    let signals = sys::signal_fd(&[libc::SIGCHLD]).during("watch for the end of the step")?;
    if let Rootfs::Chroot { path, work } = &spec.rootfs {
        return chroot::run(spec, (path, work), socket, signals.as_fd(), streams);
    }
    scene::enter_namespaces(spec)?;
    let place = spec.rootfs.work().join("root");
    let mut scene = Scene::set_up(spec, &place)?;
    let exit = match step::start(spec, &scene, &place, true, streams)? {
        Start::Running(step) => step::attend(&step, scene.take_proxies(), socket, signals.as_fd())?,
        Start::NotStarted(exit) => exit,
        Start::ProcDenied => match step::start(spec, &scene, &place, false, streams)? {
            Start::Running(step) => {
                step::attend(&step, scene.take_proxies(), socket, signals.as_fd())?
            }
            Start::NotStarted(exit) => exit,
            Start::ProcDenied => return Err(Failure::new("mount /proc", Errno::PERM)),
        },
    };
    scene.take_down(spec, &place)?;
    Ok(exit)
}
