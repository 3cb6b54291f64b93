//! Locks between processes: `flock` on files of `locks/`. The kernel drops them when a process ends, however it ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Store, StoreError, error::At as _};

/// The longest time between two looks at a lock that is waited for.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Together with others who share it.
    Shared,
    /// Alone.
    Exclusive,
}

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub(super) struct FileLock {
    path: PathBuf,
    file: File,
    /// Whether the file goes with the lock. A file that goes is checked for having stayed after each wait.
    remove: bool,
}

impl FileLock {
    /// Waits for the lock. The file stays when the lock is dropped.
    pub(super) fn wait(path: &Path, hold: Hold) -> Result<Self, StoreError> {
        let file = open(path)?;
        let locked = match hold {
            Hold::Shared => file.lock_shared(),
            Hold::Exclusive => file.lock(),
        };
        locked.at("lock", path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            remove: false,
        })
    }

    /// Takes the lock if nobody is in the way. The file stays when the lock is dropped.
    pub(super) fn attempt(path: &Path, hold: Hold) -> Result<Option<Self>, StoreError> {
        let file = open(path)?;
        Ok(try_hold(&file, path, hold)?.then(|| Self {
            path: path.to_owned(),
            file,
            remove: false,
        }))
    }

    /// [`FileLock::wait_once`] without the wait.
    pub(super) fn attempt_once(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let file = open(path)?;
            if !try_hold(&file, path, Hold::Exclusive)? {
                return Ok(None);
            }
            if still_there(&file, path)? {
                return Ok(Some(Self::once(path, file)));
            }
        }
    }

    fn once(path: &Path, file: File) -> Self {
        Self {
            path: path.to_owned(),
            file,
            remove: true,
        }
    }

    /// Notes that the lock was taken now; when.
    pub(super) fn stamp(&self) -> Result<std::time::SystemTime, StoreError> {
        // The kernel's own time, which is that of files written from now on; a finer clock would be ahead of it.
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::futimens(&self.file, &times)
            .map_err(io::Error::from)
            .at("lock", &self.path)?;
        let metadata = self.file.metadata().at("lock", &self.path)?;
        metadata.modified().at("lock", &self.path)
    }

    /// Notes that what the lock protects was used at a time.
    pub(super) fn stamp_as(&self, time: std::time::SystemTime) -> Result<(), StoreError> {
        self.file.set_modified(time).at("lock", &self.path)
    }

    /// Turns an exclusive lock into a shared one. Another process may have it exclusively in between.
    pub(super) fn share(&self) -> Result<(), StoreError> {
        self.file.lock_shared().at("lock", &self.path)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.remove {
            // A file that cannot be removed is used again by the next one who wants the lock.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

pub(super) fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .at("open", path)
}

fn try_hold(file: &File, path: &Path, hold: Hold) -> Result<bool, StoreError> {
    let tried = match hold {
        Hold::Shared => file.try_lock_shared(),
        Hold::Exclusive => file.try_lock(),
    };
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}

/// Whether `path` still names this file. The one who held the lock before may have removed it.
fn still_there(file: &File, path: &Path) -> Result<bool, StoreError> {
    let held = file.metadata().at("read", path)?;
    match std::fs::metadata(path) {
        Ok(named) => Ok(named.ino() == held.ino() && named.dev() == held.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("read", path),
    }
}

/// The right to execute the step with a certain key; all others who want it wait, then find its record.
#[derive(Debug)]
pub struct StepLock {
    _lock: FileLock,
}

impl Store {
    /// Waits for the lock of this step as long as `wait` says so, which is asked many times a second; `None` when it
    /// said no.
    pub fn wait_for_step(
        &self,
        key: &crate::oci::Digest,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<Option<StepLock>, StoreError> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = self.try_lock_step(key)? {
                return Ok(Some(lock));
            }
            if !wait() {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes the lock of this step if it is free. For callers that have other things to do meanwhile.
    pub fn try_lock_step(&self, key: &crate::oci::Digest) -> Result<Option<StepLock>, StoreError> {
        let lock = FileLock::attempt_once(&self.step_lock_path(key))?;
        Ok(lock.map(|lock| StepLock { _lock: lock }))
    }

    fn step_lock_path(&self, key: &crate::oci::Digest) -> PathBuf {
        self.root.join("locks").join(format!("step-{}", key.hex()))
    }
}
