//! Several threads that write small files: making an inode is the larger part of it, and takes the kernel's time.

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use super::{SnapshotError, place::Placer};
use crate::tree::Metadata;

/// Files up to this size are handed to other threads as a whole.
pub(super) const SMALL: u64 = 512 << 10;
/// How many of them wait at most.
pub(super) const WAITING: usize = 8;
/// How many threads write them.
pub(super) const WRITERS: usize = 2;

/// A file with all its bytes.
#[derive(Debug)]
pub(super) struct Small {
    pub(super) path: PathBuf,
    pub(super) metadata: Metadata,
    pub(super) bytes: Vec<u8>,
}

/// Where files are handed in.
#[derive(Debug)]
pub(super) struct Writers<'a> {
    files: SyncSender<Small>,
    has_failed: &'a AtomicBool,
}

impl Writers<'_> {
    /// Has a file written; `false` when there is no point in it, since another one could not be.
    pub(super) fn put(&self, file: Small) -> bool {
        !self.has_failed.load(Ordering::Relaxed) && self.files.send(file).is_ok()
    }
}

/// Calls `feed` with writers that put files where `placer` does, and waits for them. Parents have to be there. Of several
/// errors it gives a writer's.
pub(super) fn with_writers(
    placer: &Placer,
    feed: impl FnOnce(&Writers<'_>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let placers: Vec<Placer> = (0..WRITERS)
        .map(|_| placer.again())
        .collect::<Result<_, _>>()?;
    let has_failed = AtomicBool::new(false);
    let (files, queue) = sync_channel(WAITING);
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        let (queue, has_failed) = (&queue, &has_failed);
        let threads: Vec<_> = placers
            .into_iter()
            .map(|placer| scope.spawn(move || write_all(placer, queue, has_failed)))
            .collect();
        let fed = feed(&Writers { files, has_failed });
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        fed
    })
}

/// Writes files until there are no more. After a failure they are only taken, so that nobody waits.
fn write_all(
    mut placer: Placer,
    queue: &Mutex<Receiver<Small>>,
    has_failed: &AtomicBool,
) -> Result<(), SnapshotError> {
    let mut outcome = Ok(());
    loop {
        let file = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(file) = file else { return outcome };
        if outcome.is_ok() {
            outcome = placer.file(&file.path, &file.metadata, &mut &file.bytes[..]);
            if outcome.is_err() {
                has_failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        snapshot::{Marks, Owners, Style},
        tree::{Kind, Timestamp},
    };

    use super::*;

    fn small(path: String, bytes: Vec<u8>) -> Small {
        let size = bytes.len() as u64;
        let metadata = Metadata {
            kind: Kind::File { size },
            ..Metadata::dir(Timestamp::default())
        };
        let path = path.into();
        Small {
            path,
            metadata,
            bytes,
        }
    }

    fn placer(dir: &tempfile::TempDir) -> Placer {
        let style = Style {
            marks: Marks::User,
            owners: Owners::Recorded,
        };
        std::fs::create_dir(dir.path().join("fs")).unwrap();
        Placer::new(&dir.path().join("fs"), dir.path().join("owners"), style).unwrap()
    }

    #[test]
    fn every_file_is_there_when_the_writers_are_done() {
        let dir = tempfile::tempdir().unwrap();
        with_writers(&placer(&dir), |writers| {
            for i in 0..100 {
                assert!(writers.put(small(format!("f{i}"), vec![i; 1000])));
            }
            Ok(())
        })
        .unwrap();
        for i in 0..100 {
            let bytes = std::fs::read(dir.path().join(format!("fs/f{i}"))).unwrap();
            assert!(bytes == [i; 1000]);
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut taken = 0;
        let error = with_writers(&placer(&dir), |writers| {
            // Endless, should nobody say that a writer has failed.
            while writers.put(small("missing/f".to_owned(), Vec::new())) {
                taken += 1;
            }
            Ok(())
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("missing"), "{text}");
        assert!(taken > 0);
    }
}
