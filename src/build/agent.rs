//! Agents that steps reach by `--mount=type=ssh`: one that runs already, or one that is made here for key files.
//!
//! One made here listens on a socket in a directory of its own, which only its user may enter, and answers two requests of the
//! agent protocol (draft-ietf-sshm-ssh-agent): which keys there are, and signing. All others it refuses, so a step can neither
//! read nor add nor remove keys. It ends when it is dropped; a process that is killed leaves the directory behind, with a
//! socket that nobody answers.

mod der;
mod key;
mod wire;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::DirBuilderExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

pub use self::key::KeyError;
use self::{key::Key, wire::Reader};

/// An agent, by its socket.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    /// What makes it answer, when it was made here.
    _made: Option<Arc<Made>>,
}

/// Why there is no agent for a key file.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no key that can be used.
    #[error("cannot use {}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// No socket can be made.
    #[error("cannot make a socket in {}", dir.display())]
    Socket {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Agent {
    /// The agent that listens at a path.
    pub fn at(socket: PathBuf) -> Self {
        Self {
            socket,
            _made: None,
        }
    }

    /// Makes an agent for the keys in these files. Its socket is in a new directory in `dir`, which should have a short name:
    /// the path of a socket has at most 107 bytes.
    pub fn with_keys(files: &[PathBuf], dir: &Path) -> Result<Self, AgentError> {
        let keys = files.iter().map(|path| read(path));
        let keys = Arc::new(keys.collect::<Result<Vec<Key>, AgentError>>()?);
        let failed = |source| AgentError::Socket {
            dir: dir.to_owned(),
            source,
        };
        let own = own_dir(dir).map_err(failed)?;
        let made = Made {
            is_over: Arc::new(AtomicBool::new(false)),
            socket: own.join("agent"),
            dir: own,
        };
        let socket = made.socket.clone();
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        let is_over = Arc::clone(&made.is_over);
        thread::Builder::new()
            .name("ssh agent".to_owned())
            .spawn(move || listen(&listener, &keys, &is_over))
            .map_err(failed)?;
        Ok(Self {
            socket,
            _made: Some(Arc::new(made)),
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// An agent of this process; dropping the last one ends it.
#[derive(Debug)]
struct Made {
    is_over: Arc<AtomicBool>,
    socket: PathBuf,
    dir: PathBuf,
}

impl Drop for Made {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // What waits for a connection looks when one comes.
        drop(UnixStream::connect(&self.socket));
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Makes a directory that only its user may enter.
fn own_dir(dir: &Path) -> io::Result<PathBuf> {
    let process = std::process::id();
    for n in 0_u32.. {
        let path = dir.join(format!("rbuild-ssh-{process}-{n}"));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// More is no key file.
const MAX_FILE: u64 = 100 << 10;

fn read(path: &Path) -> Result<Key, AgentError> {
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut text))
        .map_err(|source| AgentError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    Key::parse(&text).map_err(|source| AgentError::Key {
        path: path.to_owned(),
        source,
    })
}

fn listen(listener: &UnixListener, keys: &Arc<Vec<Key>>, is_over: &AtomicBool) {
    while let Ok((stream, _)) = listener.accept() {
        if is_over.load(Ordering::Acquire) {
            return;
        }
        let keys = Arc::clone(keys);
        // Where there are no threads left, this client finds the connection closed.
        let answers = move || drop(serve(stream, &keys));
        drop(thread::Builder::new().spawn(answers));
    }
}

/// More is no request that is answered.
const MAX_REQUEST: usize = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGNATURE: u8 = 14;

/// Answers until the client has no more to ask.
fn serve(mut stream: UnixStream, keys: &[Key]) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > MAX_REQUEST {
            return Ok(());
        }
        let mut request = vec![0; length];
        stream.read_exact(&mut request)?;
        let answer = answer(&request, keys).unwrap_or_else(|| vec![FAILURE]);
        let mut message = Vec::new();
        wire::put(&mut message, &answer);
        stream.write_all(&message)?;
    }
}

fn answer(request: &[u8], keys: &[Key]) -> Option<Vec<u8>> {
    let (&kind, rest) = request.split_first()?;
    match kind {
        REQUEST_IDENTITIES => {
            let mut answer = vec![IDENTITIES];
            answer.extend(u32::try_from(keys.len()).ok()?.to_be_bytes());
            for key in keys {
                wire::put(&mut answer, key.public());
                wire::put(&mut answer, key.comment());
            }
            Some(answer)
        }
        SIGN_REQUEST => {
            let mut reader = Reader::new(rest);
            let (public, data, flags) = (reader.bytes()?, reader.bytes()?, reader.number()?);
            let key = keys.iter().find(|key| key.public() == public)?;
            let mut answer = vec![SIGNATURE];
            wire::put(&mut answer, &key.sign(data, flags)?);
            Some(answer)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
