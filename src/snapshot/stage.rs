//! Files of a layer that are put on disk while its table of contents is read, so that it is decompressed once. They lie in a
//! directory of `tmp` under the offsets of their bytes in the tar; which of them the state has, and where, is known only when
//! all has been read and verified. Then they are moved into place.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use rustix::fs::{Mode, OFlags};

use super::{
    At, SnapshotError, Style,
    lock::Scratch,
    place::{create, dress},
    writers::{SMALL, WAITING, WRITERS},
};
use crate::{layer::FileSink, tree::Metadata};

/// What a writer needs to know.
#[derive(Debug)]
struct Place {
    dir: OwnedFd,
    shown: PathBuf,
    style: Style,
}

impl Place {
    fn create(&self, offset: u64) -> Result<File, SnapshotError> {
        let name = offset.to_string();
        create(&self.dir, name.as_ref()).at("create", self.shown.join(name))
    }

    fn dress(&self, file: &File, offset: u64, metadata: &Metadata) -> Result<(), SnapshotError> {
        dress(
            self.style,
            file,
            metadata,
            &self.shown.join(offset.to_string()),
        )
    }

    fn put(&self, job: &Job) -> Result<(), SnapshotError> {
        let mut file = self.create(job.offset)?;
        file.write_all(&job.bytes).at("write", &self.shown)?;
        self.dress(&file, job.offset, &job.metadata)
    }
}

/// A small file.
#[derive(Debug)]
struct Job {
    offset: u64,
    metadata: Metadata,
    bytes: Vec<u8>,
}

/// The file whose bytes come.
#[derive(Debug)]
enum Present {
    None,
    Small(Job),
    Large {
        offset: u64,
        metadata: Metadata,
        file: File,
    },
}

type Placed = HashMap<u64, Metadata>;

/// Takes the files of a layer.
#[derive(Debug)]
pub struct Stage {
    place: Arc<Place>,
    jobs: Option<SyncSender<Job>>,
    writers: Vec<JoinHandle<Result<Placed, SnapshotError>>>,
    present: Present,
    placed: Placed,
    /// Whether something could not be written. The layer is then unpacked as others are, which tells what is wrong.
    has_failed: bool,
    /// Goes last, when nobody writes any more.
    scratch: Option<Scratch>,
}

impl Stage {
    pub(super) fn new(scratch: Scratch, style: Style) -> Result<Self, SnapshotError> {
        let shown = scratch.path.join("files");
        std::fs::create_dir(&shown).at("create", &shown)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&shown, flags, Mode::empty()).at("open", &shown)?;
        let place = Arc::new(Place { dir, shown, style });
        let (jobs, queue) = sync_channel(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        let writers = (0..WRITERS).map(|_| {
            let (place, queue) = (Arc::clone(&place), Arc::clone(&queue));
            std::thread::Builder::new().spawn(move || put_all(&place, &queue))
        });
        let writers = writers.collect::<io::Result<Vec<_>>>();
        Ok(Self {
            writers: writers.at("start a thread for", &place.shown)?,
            place,
            jobs: Some(jobs),
            present: Present::None,
            placed: Placed::new(),
            has_failed: false,
            scratch: Some(scratch),
        })
    }

    /// The files, when all are there; `None` when some could not be written.
    pub fn finish(mut self) -> Option<Staged> {
        self.end_writers();
        let scratch = self.scratch.take()?;
        (!self.has_failed).then(|| Staged {
            dir: Arc::clone(&self.place),
            placed: std::mem::take(&mut self.placed),
            _scratch: scratch,
        })
    }

    fn end_writers(&mut self) {
        self.jobs = None;
        for writer in self.writers.drain(..) {
            match writer.join() {
                Ok(Ok(placed)) => self.placed.extend(placed),
                Ok(Err(_)) | Err(_) => self.has_failed = true,
            }
        }
    }

    fn begin_large(&mut self, offset: u64, metadata: &Metadata) {
        match self.place.create(offset) {
            Ok(file) => {
                let metadata = metadata.clone();
                self.present = Present::Large {
                    offset,
                    metadata,
                    file,
                };
            }
            Err(_) => self.has_failed = true,
        }
    }
}

impl FileSink for Stage {
    fn begin(&mut self, offset: u64, metadata: &Metadata, size: u64) {
        self.present = Present::None;
        if self.has_failed {
            return;
        }
        if size > SMALL {
            self.begin_large(offset, metadata);
            return;
        }
        self.present = Present::Small(Job {
            offset,
            metadata: metadata.clone(),
            bytes: Vec::with_capacity(usize::try_from(size).unwrap_or(0)),
        });
    }

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.present {
            Present::None => {}
            Present::Small(job) => job.bytes.extend_from_slice(bytes),
            Present::Large { file, .. } => {
                if file.write_all(bytes).is_err() {
                    self.present = Present::None;
                    self.has_failed = true;
                }
            }
        }
    }

    fn end(&mut self) {
        match std::mem::replace(&mut self.present, Present::None) {
            Present::None => {}
            Present::Small(job) => {
                // Nobody takes it when the writers have failed.
                let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
                self.has_failed |= !matches!(sent, Some(Ok(())));
            }
            Present::Large {
                offset,
                metadata,
                file,
            } => match self.place.dress(&file, offset, &metadata) {
                Ok(()) => {
                    self.placed.insert(offset, metadata);
                }
                Err(_) => self.has_failed = true,
            },
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end_writers();
    }
}

/// Writes files until there are no more; gives those that it has written.
fn put_all(place: &Place, queue: &Mutex<Receiver<Job>>) -> Result<Placed, SnapshotError> {
    let mut placed = Placed::new();
    let mut failure = None;
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { break };
        // After a failure files are only taken, so that nobody waits.
        if failure.is_none() {
            match place.put(&job) {
                Ok(()) => {
                    placed.insert(job.offset, job.metadata);
                }
                Err(error) => failure = Some(error),
            }
        }
    }
    failure.map_or(Ok(placed), Err)
}

/// The files of a layer, on disk. Those that nobody moves away are removed with this value.
#[derive(Debug)]
pub struct Staged {
    dir: Arc<Place>,
    placed: Placed,
    _scratch: Scratch,
}

impl Staged {
    /// The directory, the name in it, and the metadata of the file whose bytes begin at an offset.
    pub(super) fn find(&self, offset: u64) -> Option<(&OwnedFd, String, &Metadata)> {
        let metadata = self.placed.get(&offset)?;
        Some((&self.dir.dir, offset.to_string(), metadata))
    }
}
