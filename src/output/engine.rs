//! Docker engines: an image handed over through the engine's socket, as `docker load` does it.
//!
//! One request of HTTP/1.0, whose answer ends with the connection. The archive's length is known beforehand, so nothing
//! is held in memory. The engine answers with JSON objects, one on a line; an error among them is the engine's refusal.
//!
//! An engine may take as long as it likes, or never answer: every call on its socket comes back after [`PATIENCE`] to see
//! whether the user still wants to wait.
//!
//! Spec: Docker Engine API, `POST /images/load`.

use std::{
    io::{self, BufWriter, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use serde::Deserialize;

use super::{
    OutputError,
    archive::{ArchiveError, Contents},
};
use crate::store::Store;

/// How much of an engine's answer is looked at.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// How long a wait for an engine goes on without a look at whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(100);

/// A Docker engine.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// Its socket.
    pub socket: &'a Path,
    /// Whether it is to be waited for no longer.
    pub is_canceled: &'a (dyn Fn() -> bool + Sync),
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// A connection to an engine that is waited for as long as that is wanted.
struct Connection<'a> {
    stream: UnixStream,
    is_canceled: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Connection<'a> {
    fn open(engine: Engine<'a>) -> io::Result<Self> {
        let address = SocketAddrUnix::new(engine.socket)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
        }
        let connection = Self {
            stream: UnixStream::from(socket),
            is_canceled: engine.is_canceled,
        };
        // An engine that accepts nobody has a queue, and it may be full.
        connection.patiently(|stream| match connect(stream, &address) {
            Err(Errno::ISCONN) => Ok(()),
            outcome => Ok(outcome?),
        })?;
        Ok(connection)
    }

    fn patiently<T>(&self, mut call: impl FnMut(&UnixStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            match call(&self.stream) {
                // A signal ends a call on a socket with a timeout.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                outcome => return outcome,
            }
            if (self.is_canceled)() {
                return Err(io::Error::other("the wait for it was given up"));
            }
        }
    }
}

impl Read for &Connection<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.patiently(|mut stream| stream.read(buf))
    }
}

impl Write for &Connection<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.patiently(|mut stream| stream.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an engine says on one line, or as a refusal.
#[derive(Deserialize)]
struct Said {
    error: Option<String>,
    message: Option<String>,
}

/// Loads an image into an engine.
pub(super) fn load(
    contents: &Contents,
    store: &Store,
    engine: Engine<'_>,
) -> Result<(), OutputError> {
    let no_engine = |source| OutputError::NoEngine {
        socket: engine.socket.to_owned(),
        source,
    };
    let connection = Connection::open(engine).map_err(no_engine)?;
    let sent = send(contents, store, &connection);
    if let Err(ArchiveError::Store(error)) = sent {
        return Err(error.into());
    }
    // An engine that refuses may answer before it has read everything; its answer says more than a broken pipe.
    let mut answer = Vec::new();
    let received = (&connection)
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer);
    match (judge(&answer), sent, received) {
        (Some(Ok(())), Ok(()), Ok(_)) => Ok(()),
        (Some(Err(reason)), ..) => Err(OutputError::Engine { reason }),
        (_, Err(ArchiveError::Sink(source)), _) | (_, _, Err(source)) => Err(no_engine(source)),
        _ => Err(no_engine(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn send(
    contents: &Contents,
    store: &Store,
    connection: &Connection<'_>,
) -> Result<(), ArchiveError> {
    let mut sink = BufWriter::with_capacity(64 << 10, connection);
    write!(
        sink,
        "POST /images/load?quiet=1 HTTP/1.0\r\nHost: docker\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        contents.tar_size()
    )?;
    contents.write_tar(store, &mut sink)?;
    sink.flush()?;
    Ok(())
}

/// What the engine thinks of the image; `None` when that is no answer of HTTP.
fn judge(answer: &[u8]) -> Option<Result<(), String>> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let status: u16 = std::str::from_utf8(head)
        .ok()?
        .strip_prefix("HTTP/1.")?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()?;
    let mut said = serde_json::Deserializer::from_slice(body).into_iter::<Said>();
    if (200..300).contains(&status) {
        let error = said.find_map(|object| object.ok()?.error);
        return Some(error.map_or(Ok(()), Err));
    }
    let reason = said
        .next()
        .and_then(|object| object.ok()?.message)
        .unwrap_or_else(|| format!("status {status}"));
    Some(Err(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_engines_are_judged() {
        let ok = b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"stream\":\"Loaded image: a\"}\r\n";
        assert_eq!(judge(ok), Some(Ok(())));
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\n\r\n"), Some(Ok(())));
        let error = b"HTTP/1.0 200 OK\r\n\r\n{\"stream\":\"x\"}\n{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}\n";
        assert_eq!(judge(error), Some(Err("no space".to_owned())));
        let refusal = b"HTTP/1.0 500 Oh\r\n\r\n{\"message\":\"bad tar\"}";
        assert_eq!(judge(refusal), Some(Err("bad tar".to_owned())));
        assert_eq!(
            judge(b"HTTP/1.0 502 Oh\r\n\r\n<html>"),
            Some(Err("status 502".to_owned()))
        );
        for broken in [
            &b""[..],
            b"HTTP/1.0 200",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.0 \xff\r\n\r\n",
        ] {
            assert_eq!(judge(broken), None);
        }
    }
}
