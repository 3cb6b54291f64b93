//! Reading a blob while it is written: neither decompression nor an upload need wait for the last byte. What is read so
//! is not verified yet; whoever reads keeps it to himself until the blob is committed.
//!
//! A blob that will probably begin as an earlier one can be followed before it is there: those bytes are read from the earlier one
//! ([`HeadStart`]) until the blob has them itself, or turns out to have others, which is as if it had been given up.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
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

#[derive(Debug)]
struct State {
    growth: Growth,
    /// Has all bytes that are there.
    file: Arc<File>,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct Lead(Shared);

impl Lead {
    /// For a file with `size` bytes.
    pub(super) fn new(file: &File, size: u64) -> io::Result<(Self, Follower)> {
        let state = State {
            growth: Growth::Growing(size),
            file: Arc::new(file.try_clone()?),
        };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let follower = Follower {
            position: 0,
            shared: Arc::clone(&shared),
        };
        Ok((Self(shared), follower))
    }

    /// There are so many bytes now.
    pub(super) fn wrote(&self, size: u64) {
        self.set(Growth::Growing(size));
    }

    /// There are no more bytes than these.
    pub(super) fn complete(&self, size: u64, digest: Digest) {
        self.set(Growth::Complete(size, digest));
    }

    fn set(&self, growth: Growth) {
        lock(&self.0).growth = growth;
        self.0.1.notify_all();
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if let Growth::Growing(_) = state.growth {
            state.growth = Growth::GivenUp;
        }
        drop(state);
        self.0.1.notify_all();
    }
}

/// What a blob that is still to come will probably begin with. Dropped, the blob is taken not to come.
#[derive(Debug)]
pub struct HeadStart {
    lead: Lead,
    length: u64,
}

impl HeadStart {
    /// The first `length` bytes of `earlier`, and a reader of the blob.
    pub fn new(earlier: &File, length: u64) -> io::Result<(Self, Follower)> {
        let (lead, follower) = Lead::new(earlier, length)?;
        Ok((Self { lead, length }, follower))
    }

    /// The blob is being written to `file` and begins with as many bytes of the earlier one; `None` when those are too few.
    pub(super) fn arrive(self, file: &File, size: u64) -> io::Result<Option<Lead>> {
        if size < self.length {
            return Ok(None);
        }
        let file = Arc::new(file.try_clone()?);
        let mut state = lock(&self.lead.0);
        (state.file, state.growth) = (file, Growth::Growing(size));
        drop(state);
        self.lead.0.1.notify_all();
        Ok(Some(self.lead))
    }
}

/// Reads a blob from its beginning, waiting for what is still to be written. An error when the writer gives up.
#[derive(Debug)]
pub struct Follower {
    position: u64,
    shared: Shared,
}

impl Follower {
    /// Another reader of the same blob, `position` bytes from its beginning.
    #[must_use]
    pub fn at(&self, position: u64) -> Self {
        Self {
            position,
            shared: Arc::clone(&self.shared),
        }
    }

    /// How far the writer is now.
    pub fn growth(&self) -> Growth {
        lock(&self.shared).growth
    }

    /// Waits until more than `size` bytes are there or no more will come.
    pub fn wait_beyond(&self, size: u64) -> Growth {
        let is_awaited =
            |state: &mut State| matches!(state.growth, Growth::Growing(there) if there <= size);
        let state = self.shared.1.wait_while(lock(&self.shared), is_awaited);
        state.unwrap_or_else(PoisonError::into_inner).growth
    }
}

impl Read for Follower {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut state = lock(&self.shared);
        let available = loop {
            match state.growth {
                Growth::Growing(size) if size > self.position => break size - self.position,
                Growth::Growing(_) => {
                    let changed = self.shared.1.wait(state);
                    state = changed.unwrap_or_else(PoisonError::into_inner);
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
        let file = Arc::clone(&state.file);
        drop(state);
        let length = usize::try_from(available).map_or(out.len(), |left| left.min(out.len()));
        let found = file.read_at(&mut out[..length], self.position)?;
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
        follower.at(150_000).read_to_end(&mut rest).unwrap();
        assert!(rest == bytes[150_000..]);
    }

    /// A blob that begins with `kept` bytes of an earlier one, as seen by who was promised 60,000 of them.
    fn after_a_head_start(kept: usize) -> (io::Result<Vec<u8>>, Vec<u8>) {
        let (dir, store) = store();
        let earlier: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        let path = dir.path().join("earlier");
        std::fs::write(&path, &earlier).unwrap();
        let earlier_file = File::open(&path).unwrap();
        let (start, mut follower) = HeadStart::new(&earlier_file, 60_000).unwrap();
        let mut first = vec![0; 60_000];
        follower.read_exact(&mut first).unwrap();
        assert!(first == earlier[..60_000], "they can be read at once");

        let mut blob = store.blob_file().unwrap();
        blob.start_as(&earlier_file, kept as u64).unwrap();
        blob.lead_on(start).unwrap();
        blob.write_all(b"and another end").unwrap();
        let bytes = [&earlier[..kept], b"and another end"].concat();
        let descriptor = Descriptor::of(MediaType::OCI_LAYER, &bytes);
        blob.commit_as(&descriptor).unwrap();
        assert!(std::fs::read(store.blob_path(&descriptor.digest)).unwrap() == bytes);
        let mut rest = Vec::new();
        (
            follower
                .read_to_end(&mut rest)
                .map(|_| [first, rest].concat()),
            bytes,
        )
    }

    #[test]
    fn a_blob_can_be_followed_before_it_is_begun() {
        for kept in [60_000, 70_000] {
            let (read, bytes) = after_a_head_start(kept);
            assert!(read.unwrap() == bytes);
        }
        let (read, _) = after_a_head_start(59_999);
        assert!(read.is_err(), "not all that was promised came");
    }

    #[test]
    fn a_head_start_that_nothing_comes_of_is_as_a_blob_that_is_given_up() {
        let file = tempfile::tempfile().unwrap();
        let (start, follower) = HeadStart::new(&file, 100).unwrap();
        assert_eq!(follower.growth(), Growth::Growing(100));
        drop(start);
        assert_eq!(follower.wait_beyond(u64::MAX), Growth::GivenUp);
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
