//! The bytes of files and their digests.

use std::{
    fs::File,
    io::{self, Read, Seek as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use super::{CAPABILITY, LocalTree, READ_BYTES};
use crate::{
    context::stat_cache::{Known, Stamp, StatCache},
    oci::{Digest, Digester},
    tree::{Timestamp, TreeError},
};

impl LocalTree {
    /// The bytes of a file. Where its digest was told, those that have it, or an error. Else it is told when they are read.
    pub(super) fn open_as_told(&self, path: &Path) -> Result<Box<dyn Read + Send>, TreeError> {
        let mut file = self.open_file(path)?;
        let stamp = self.stamp(path, &file)?;
        let Some((mark, digest)) = self.cache.told(path) else {
            let telling = Telling {
                path: path.to_owned(),
                digester: Digester::new(),
                is_plain: is_plain(&file),
                started: self.cache.now(),
                cache: Arc::clone(&self.cache),
            };
            return Ok(Box::new(Watched {
                file,
                stamp,
                telling: Some(telling),
            }));
        };
        if stamp.mark != mark {
            if self.hash(path, &file)? != digest {
                return Err(self.error("read", path, io::Error::other(Changed)));
            }
            file.rewind()
                .map_err(|error| self.error("read", path, error))?;
        }
        Ok(Box::new(Watched {
            file,
            stamp,
            telling: None,
        }))
    }

    /// The digest of a file, from the cache or its bytes. [`LocalTree::open_as_told`] keeps to it.
    pub(super) fn tell_digest(&self, path: &Path) -> Result<Digest, TreeError> {
        if self.cache.has(path)
            && let Some(stat) = self.stat(path)?
            && let Some(digest) = self.cache.get(path, &Stamp::of(&stat))
        {
            return Ok(digest);
        }
        let file = self.open_file(path)?;
        let before = self.stamp(path, &file)?;
        let started = self.cache.now();
        let known = Known {
            digest: self.hash(path, &file)?,
            is_plain: is_plain(&file),
        };
        let is_steady = self.stamp(path, &file)? == before;
        let started = is_steady.then_some(started);
        self.cache.put(path, before, known, started);
        Ok(known.digest)
    }

    fn open_file(&self, path: &Path) -> Result<File, TreeError> {
        // Not waiting matters only if a FIFO has taken the place of a file.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::open(self.host(path), flags, Mode::empty())
            .map(File::from)
            .map_err(|error| self.error("read", path, error))
    }

    fn stamp(&self, path: &Path, file: &File) -> Result<Stamp, TreeError> {
        rustix::fs::fstat(file)
            .map(|stat| Stamp::of(&stat))
            .map_err(|error| self.error("read", path, error))
    }

    /// Hashes an open file.
    fn hash(&self, path: &Path, mut file: &File) -> Result<Digest, TreeError> {
        let mut digester = Digester::new();
        let kept = self.lock().buffers.pop();
        let mut buffer = kept.unwrap_or_else(|| vec![0; READ_BYTES].into());
        let outcome = loop {
            match file.read(&mut buffer) {
                Ok(0) => break Ok(digester.finish()),
                Ok(n) => digester.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(self.error("read", path, error)),
            }
        };
        self.lock().buffers.push(buffer);
        outcome
    }
}

/// A file that is not what it was.
#[derive(Debug, thiserror::Error)]
#[error("it was changed while the build was reading it")]
struct Changed;

/// Whether a file has no capabilities.
fn is_plain(file: &File) -> bool {
    rustix::fs::fgetxattr(file, CAPABILITY, &mut [0_u8; 64]).is_err()
}

/// A file whose digest was told, or will be. One that is changed while it is read fails at its end.
struct Watched {
    file: File,
    stamp: Stamp,
    telling: Option<Telling>,
}

/// What it takes to tell a digest once the file has been read.
struct Telling {
    path: PathBuf,
    digester: Digester,
    is_plain: bool,
    /// When the reading began.
    started: Timestamp,
    cache: Arc<StatCache>,
}

impl Telling {
    fn tell(self, stamp: Stamp) {
        let known = Known {
            digest: self.digester.finish(),
            is_plain: self.is_plain,
        };
        self.cache.put(&self.path, stamp, known, Some(self.started));
    }
}

impl Read for Watched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(out)?;
        if let Some(telling) = &mut self.telling {
            telling.digester.update(&out[..length]);
        }
        if length == 0 && !out.is_empty() {
            if Stamp::of(&rustix::fs::fstat(&self.file)?) != self.stamp {
                return Err(io::Error::other(Changed));
            }
            if let Some(telling) = self.telling.take() {
                telling.tell(self.stamp);
            }
        }
        Ok(length)
    }
}
