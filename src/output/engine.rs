//! Docker engines: an image handed over through the engine's socket, as `docker load` does it.
//!
//! One request of HTTP/1.0, whose answer ends with the connection. The archive's length is known beforehand, so nothing
//! is held in memory. The engine answers with JSON objects, one on a line; an error among them is the engine's refusal.
//!
//! Spec: Docker Engine API, `POST /images/load`.

use std::{
    io::{self, BufWriter, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde::Deserialize;

use super::{
    OutputError,
    archive::{ArchiveError, Contents},
};
use crate::store::Store;

/// How much of an engine's answer is looked at.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// What an engine says on one line, or as a refusal.
#[derive(Deserialize)]
struct Said {
    error: Option<String>,
    message: Option<String>,
}

/// Loads an image into the engine that listens on `socket`.
pub(super) fn load(contents: &Contents, store: &Store, socket: &Path) -> Result<(), OutputError> {
    let no_engine = |source| OutputError::NoEngine {
        socket: socket.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(socket).map_err(no_engine)?;
    let sent = send(contents, store, &stream);
    if let Err(ArchiveError::Store(error)) = sent {
        return Err(error.into());
    }
    // An engine that refuses may answer before it has read everything; its answer says more than a broken pipe.
    let mut answer = Vec::new();
    let received = (&mut stream)
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer);
    match (judge(&answer), sent, received) {
        (Some(Ok(())), Ok(()), Ok(_)) => Ok(()),
        (Some(Err(reason)), ..) => Err(OutputError::Engine { reason }),
        (_, Err(ArchiveError::Sink(source)), _) | (_, _, Err(source)) => Err(no_engine(source)),
        _ => Err(no_engine(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn send(contents: &Contents, store: &Store, stream: &UnixStream) -> Result<(), ArchiveError> {
    let mut sink = BufWriter::with_capacity(64 << 10, stream);
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
