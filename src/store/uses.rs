//! What is in use: how things are removed while builds run.
//!
//! The time of last change of a blob or record is the time of its last use. Each process sets it once for everything
//! that it uses, unless it is later than the process's own beginning already; nothing is synced for it. Whoever removes
//! something leaves alone what was used since the beginning of the oldest process that still has the store open
//! ([`Store::horizon`]): that may count on finding it again.
//!
//! ```text
//! locks/removal   held shared from looking at a file to having set its time, alone from looking at times to removing
//! locks/tmp-ID    its time is the beginning of the process that holds it, see `temp`
//! ```
//! So a file is seen as used, or is gone when it is looked for, which is a miss. Both hold the lock for moments.
//!
//! A tag protects all that it leads to. Before it is taken away, what it led to is marked as used, for whoever found
//! an image by its name just before.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_OMIT, flock};

use super::{
    Store, StoreError,
    error::At as _,
    lock::{FileLock, Hold},
};

/// What this process has marked as used.
#[derive(Debug)]
pub(super) struct Uses {
    /// When the process opened the store.
    since: SystemTime,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    marked: HashSet<PathBuf>,
    /// `locks/removal`.
    lock: File,
}

impl Uses {
    pub(super) fn new(root: &Path, since: SystemTime) -> Result<Self, StoreError> {
        let path = root.join("locks/removal");
        let lock = super::lock::open(&path)?;
        Ok(Self {
            since,
            path,
            state: Mutex::new(State {
                marked: HashSet::new(),
                lock,
            }),
        })
    }

    /// Marks a file as used and gives what is known of it; `None` when it is not there.
    pub(super) fn mark(&self, file: &Path) -> Result<Option<Metadata>, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.marked.contains(file) {
            return look(file);
        }
        hold(&state.lock, FlockOperation::LockShared).at("lock", &self.path)?;
        let marked = self.mark_held(file);
        hold(&state.lock, FlockOperation::Unlock).at("lock", &self.path)?;
        let metadata = marked?;
        if metadata.is_some() {
            state.marked.insert(file.to_owned());
        }
        Ok(metadata)
    }

    fn mark_held(&self, file: &Path) -> Result<Option<Metadata>, StoreError> {
        let Some(metadata) = look(file)? else {
            return Ok(None);
        };
        if metadata.modified().at("read", file)? < self.since {
            // The clock may have been set back since.
            let now = SystemTime::now().max(self.since);
            // On a store that cannot be written nothing is removed either.
            let _best_effort = set_time(file, now).is_ok();
        }
        Ok(Some(metadata))
    }
}

fn look(file: &Path) -> Result<Option<Metadata>, StoreError> {
    match fs::metadata(file) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", file),
    }
}

fn hold(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match flock(file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Sets the time of last change.
fn set_time(file: &Path, time: SystemTime) -> io::Result<()> {
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since_epoch.subsec_nanos().into(),
        },
    };
    Ok(rustix::fs::utimensat(CWD, file, &times, AtFlags::empty())?)
}

impl Store {
    /// The beginning of the oldest process that has the store open, this one included. What was used before then is
    /// used by none of them.
    pub fn horizon(&self) -> Result<SystemTime, StoreError> {
        let mut horizon = self.uses.since;
        let locks = self.root.join("locks");
        for entry in fs::read_dir(&locks).at("read", &locks)? {
            let entry = entry.at("read", &locks)?;
            if !entry.file_name().to_string_lossy().starts_with("tmp-") {
                continue;
            }
            let path = entry.path();
            if FileLock::attempt_once(&path)?.is_some() {
                continue;
            }
            if let Some(metadata) = look(&path)? {
                horizon = horizon.min(metadata.modified().at("read", &path)?);
            }
        }
        Ok(horizon)
    }

    /// Removes files, all or none, in the given order; whether they are gone. They stay when one of them was used at
    /// `horizon` or later.
    pub fn remove_unused(
        &self,
        files: &[PathBuf],
        horizon: SystemTime,
    ) -> Result<bool, StoreError> {
        let _removal = FileLock::wait(&self.root.join("locks/removal"), Hold::Exclusive)?;
        for file in files {
            if let Some(metadata) = look(file)?
                && metadata.modified().at("read", file)? >= horizon
            {
                return Ok(false);
            }
        }
        remove_files(files)?;
        Ok(true)
    }

    /// Removes files that are damaged, whoever uses them.
    pub fn remove_damaged(&self, files: &[PathBuf]) -> Result<(), StoreError> {
        let _removal = FileLock::wait(&self.root.join("locks/removal"), Hold::Exclusive)?;
        remove_files(files)
    }
}

fn remove_files(files: &[PathBuf]) -> Result<(), StoreError> {
    for file in files {
        match fs::remove_file(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                fs::remove_dir_all(file).at("remove", file)?;
            }
            other => other.at("remove", file)?,
        }
        // The directory of a layer's records goes with the last of them.
        if let Some(parent) = file.parent()
            && parent.parent().is_some_and(|dir| dir.ends_with("layers"))
        {
            let _others_are_left = fs::remove_dir(parent).is_err();
        }
    }
    Ok(())
}
