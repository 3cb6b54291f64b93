//! Reading a blob while it is written: neither decompression nor an upload need wait for the last byte. What is read so
//! is not verified yet; whoever reads keeps it to himself until the blob is committed.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use crate::oci::Digest;

/// How far the writer of a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// So many bytes are there, and more may come.
    Growing(u64),
    /// So many bytes are all, and this is their digest.
    Complete(u64, Digest),
    /// There will be no blob.
    GivenUp,
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct Lead {
    state: Arc<(Mutex<Growth>, Condvar)>,
}

impl Lead {
    /// For a file with `size` bytes.
    pub(super) fn new(file: &File, size: u64) -> io::Result<(Self, Follower)> {
        let state = Arc::new((Mutex::new(Growth::Growing(size)), Condvar::new()));
        let follower = Follower {
            file: file.try_clone()?,
            position: 0,
            state: Arc::clone(&state),
        };
        Ok((Self { state }, follower))
    }

    /// There are so many bytes now.
    pub(super) fn wrote(&self, size: u64) {
        self.set(Growth::Growing(size));
    }

    /// There are no more bytes than these.
    pub(super) fn complete(&self, size: u64, digest: Digest) {
        self.set(Growth::Complete(size, digest));
    }

    fn set(&self, state: Growth) {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.state.1.notify_all();
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Growth::Growing(_) = *state {
            *state = Growth::GivenUp;
        }
        drop(state);
        self.state.1.notify_all();
    }
}

/// Reads a blob from its beginning, waiting for what is still to be written. An error when the writer gives up.
#[derive(Debug)]
pub struct Follower {
    file: File,
    position: u64,
    state: Arc<(Mutex<Growth>, Condvar)>,
}

impl Follower {
    /// Another reader of the same blob, `position` bytes from its beginning.
    pub fn at(&self, position: u64) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            position,
            state: Arc::clone(&self.state),
        })
    }

    /// How far the writer is now.
    pub fn growth(&self) -> Growth {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until more than `size` bytes are there or no more will come.
    pub fn wait_beyond(&self, size: u64) -> Growth {
        let state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        *self
            .state
            .1
            .wait_while(
                state,
                |state| matches!(*state, Growth::Growing(there) if there <= size),
            )
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Follower {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        let available = loop {
            match *state {
                Growth::Growing(size) if size > self.position => break size - self.position,
                Growth::Growing(_) => {
                    state = self
                        .state
                        .1
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Growth::Complete(size, _) => break size.saturating_sub(self.position),
                Growth::GivenUp => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the blob is not written any further",
                    ));
                }
            }
        };
        drop(state);
        let length = usize::try_from(available).map_or(out.len(), |left| left.min(out.len()));
        let found = self.file.read_at(&mut out[..length], self.position)?;
        self.position += found as u64;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use crate::{
        oci::{Descriptor, MediaType},
        store::Store,
    };

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_follower_sees_all_that_is_committed() {
        let (_dir, store) = store();
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = store.blob_file().unwrap();
        let mut follower = writer.follow().unwrap();
        let read = std::thread::spawn(move || {
            let mut read = Vec::new();
            follower.read_to_end(&mut read).map(|_| read)
        });
        for chunk in bytes.chunks(7000) {
            writer.write_all(chunk).unwrap();
        }
        let descriptor = Descriptor::of(MediaType::OCI_LAYER, &bytes);
        writer.commit_as(&descriptor).unwrap();
        assert!(read.join().unwrap().unwrap() == bytes);
    }

    #[test]
    fn a_follower_learns_the_digest_and_reads_from_anywhere() {
        let (_dir, store) = store();
        let bytes: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = crate::oci::sha256(&bytes);
        let mut file = store.blob_file().unwrap();
        file.write_all(&bytes[..1000]).unwrap();
        let follower = file.follow().unwrap();
        assert_eq!(follower.growth(), Growth::Growing(1000));
        let waiting = std::thread::spawn(move || {
            let beyond = follower.wait_beyond(100_000);
            (beyond != Growth::Growing(1000), follower)
        });
        file.write_all(&bytes[1000..]).unwrap();
        file.commit(&digest).unwrap();
        let (has_grown, follower) = waiting.join().unwrap();
        assert!(has_grown);
        let all = Growth::Complete(bytes.len() as u64, digest);
        assert_eq!(follower.wait_beyond(u64::MAX), all);
        let mut rest = Vec::new();
        follower
            .at(150_000)
            .unwrap()
            .read_to_end(&mut rest)
            .unwrap();
        assert!(rest == bytes[150_000..]);
    }

    #[test]
    fn a_follower_of_a_blob_that_is_given_up_fails() {
        let (_dir, store) = store();
        let mut writer = store.blob_file().unwrap();
        let mut follower = writer.follow().unwrap();
        writer.write_all(b"some").unwrap();
        drop(writer);
        assert!(follower.read_to_end(&mut Vec::new()).is_err());
    }
}
