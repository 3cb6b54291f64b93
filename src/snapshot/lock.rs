//! Who uses a directory: a lock file inside it, locked with `flock`. The kernel lets go when a process ends, however it ends.
//!
//! The file also says in which boot of the machine the directory was made. Nothing is synced when a snapshot is made, as that would
//! take longer than unpacking; so one from an earlier boot may have lost bytes to a power cut, unless it was settled since.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{FlockOperation, flock};

use super::{At, SnapshotError, remove_tree};
use crate::store::open_regular;

const NAME: &str = "lock";

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub(super) struct Held(File);

impl Held {
    /// Shares a directory; `None` when it does not exist.
    pub(super) fn shared(dir: &Path) -> Result<Option<Self>, SnapshotError> {
        loop {
            let Some(file) = open(dir)? else {
                return Ok(None);
            };
            wait(&file, FlockOperation::LockShared).at("lock", dir)?;
            // Whoever removes a directory moves it away first: then the path has another file, or none.
            if is_at(&file, dir)? {
                return Ok(Some(Self(file)));
            }
        }
    }

    /// Takes a directory unless somebody has it; `None` also when it does not exist.
    pub(super) fn alone(dir: &Path) -> Result<Option<Self>, SnapshotError> {
        let Some(file) = open(dir)? else {
            return Ok(None);
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(is_at(&file, dir)?.then_some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).at("lock", dir),
        }
    }

    /// Whether the directory was made in this boot of the machine.
    pub(super) fn is_of_this_boot(&self) -> io::Result<bool> {
        use std::os::unix::fs::FileExt as _;
        let mut made = [0; 64];
        let length = self.0.read_at(&mut made, 0)?;
        Ok(made[..length] == *boot_id().as_bytes())
    }

    /// Notes that the directory is used, if that was not noted just now. Nothing is synced for it.
    pub(super) fn mark_used(&self) -> io::Result<()> {
        let last = self.0.metadata()?.modified()?;
        let now = std::time::SystemTime::now();
        // Without the right to it, the time of an earlier use stays.
        if now
            .duration_since(last)
            .is_ok_and(|age| age > super::usage::COARSE)
        {
            let _best_effort = self.0.set_modified(now).is_ok();
        }
        Ok(())
    }

    /// Lets others share what was held alone.
    fn share(self) -> Self {
        // Cannot fail: nobody else can hold it alone, and sharing never waits for sharers.
        let _shared = flock(&self.0, FlockOperation::LockShared).is_ok();
        self
    }
}

fn open(dir: &Path) -> Result<Option<File>, SnapshotError> {
    match open_regular(&dir.join(NAME)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("lock", dir),
    }
}

fn wait(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match flock(file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether this is still the lock file of the directory.
fn is_at(file: &File, dir: &Path) -> Result<bool, SnapshotError> {
    let held = file.metadata().at("lock", dir)?;
    match std::fs::metadata(dir.join(NAME)) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("lock", dir),
    }
}

/// A directory in `tmp`, removed with all that is in it when the value is dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    held: Option<Held>,
}

impl Scratch {
    /// A new one below `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self, SnapshotError> {
        loop {
            let path = fresh_path(dir);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.at("create", &path)?,
            }
            let lock = path.join(NAME);
            let mut file = match File::create_new(&lock) {
                // A sweep took the empty directory for a leftover.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.at("create", &lock)?,
            };
            file.write_all(boot_id().as_bytes()).at("write", &lock)?;
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            // A sweep that came between the two calls has removed the directory.
            if locked.is_ok() && is_at(&file, &path)? {
                return Ok(Self {
                    path,
                    held: Some(Held(file)),
                });
            }
        }
    }

    /// Moves `path`, which is held alone, below `dir`, to be removed with this value.
    pub(super) fn taking(dir: &Path, path: &Path, held: Held) -> Result<Self, SnapshotError> {
        loop {
            let new = fresh_path(dir);
            match std::fs::rename(path, &new) {
                // A process of the same number, killed or of another pid namespace, has one of that name.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                    ) => {}
                Err(error) => return Err(error).at("rename", path),
                Ok(()) => {
                    return Ok(Self {
                        path: new,
                        held: Some(held),
                    });
                }
            }
        }
    }

    /// Leaves the directory, which was moved away, to everybody.
    pub(super) fn published(mut self) -> Held {
        let held = self.held.take();
        held.expect("only this method takes the lock").share()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.held.is_some() {
            // What cannot be removed now is for the next sweep.
            let _removed = remove_tree(&self.path).is_ok();
        }
    }
}

/// The machine's name for the time since it was started; empty where it has none.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn fresh_path(dir: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    dir.join("tmp")
        .join(format!("{}-{number}", std::process::id()))
}

/// Removes every directory below `tmp` whose lock nobody holds; how many there were.
pub(super) fn sweep(tmp: &Path) -> Result<usize, SnapshotError> {
    let mut removed = 0;
    for entry in std::fs::read_dir(tmp).at("read", tmp)? {
        let path = entry.at("read", tmp)?.path();
        let held = Held::alone(&path)?;
        if held.is_some() {
            remove_tree(&path)?;
            removed += 1;
        } else if std::fs::remove_dir(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}
