//! Temporary files and directories, in `tmp/` so that a rename brings them into place.
//!
//! Each open [`Store`] has a directory `tmp/ID` and holds the lock `locks/tmp-ID` from before the directory is made
//! until after it is gone. A directory whose lock is free belongs to a process that was killed; the next
//! [`Store::open`] removes it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Store, StoreError, error::At as _, lock::FileLock};

/// The temporary space of one open store.
#[derive(Debug)]
pub(super) struct Workspace {
    dir: PathBuf,
    next: AtomicU64,
    /// Dropped after the directory was removed.
    lock: FileLock,
}

impl Workspace {
    pub(super) fn create(root: &Path) -> Result<Self, StoreError> {
        let mut attempt = 0u32;
        loop {
            // The process id makes the name telling; the lock makes it unique, also among pid namespaces.
            let id = format!("{}-{attempt}", std::process::id());
            attempt += 1;
            let lock_path = root.join("locks").join(format!("tmp-{id}"));
            let Some(lock) = FileLock::attempt_once(&lock_path)? else {
                continue;
            };
            let dir = root.join("tmp").join(&id);
            remove_tree(&dir)?;
            fs::create_dir(&dir).at("create", &dir)?;
            return Ok(Self {
                dir,
                next: AtomicU64::new(0),
                lock,
            });
        }
    }

    /// Notes when this space came into use, for whoever removes things; gives that time.
    pub(super) fn stamp(&self) -> Result<std::time::SystemTime, StoreError> {
        self.lock.stamp()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self) -> PathBuf {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(n.to_string())
    }

    /// A new empty file.
    pub(super) fn file(&self) -> Result<(PathBuf, File), StoreError> {
        let path = self.path();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .at("create", &path)?;
        Ok((path, file))
    }

    /// Writes `bytes` into a new file beside which nothing else changes, then gives it the name `path`.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let (temp, mut file) = self.file()?;
        io::Write::write_all(&mut file, bytes).map_err(|source| {
            fs::remove_file(&temp).ok();
            StoreError::Io {
                action: "write",
                path: path.to_owned(),
                source,
            }
        })?;
        rename(&temp, path)
    }

    /// Gives the file `from` the name `path`, too; a file of that name goes.
    pub(super) fn link(&self, from: &Path, path: &Path) -> io::Result<()> {
        match fs::hard_link(from, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
        let temp = self.path();
        fs::hard_link(from, &temp)?;
        let renamed = fs::rename(&temp, path);
        // It stays when both were the same file already.
        fs::remove_file(&temp).ok();
        renamed
    }

    /// [`Workspace::replace`], with the bytes and the name on disk when it returns.
    pub(super) fn replace_durably(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let (temp, mut file) = self.file()?;
        let written = io::Write::write_all(&mut file, bytes).and_then(|()| file.sync_data());
        if let Err(source) = written {
            fs::remove_file(&temp).ok();
            return Err(source).at("write", path);
        }
        rename(&temp, path)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .at("write", parent)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one who opens the store.
        remove_tree(&self.dir).ok();
    }
}

/// Gives the file `temp` the name `path`; removes it when that fails.
pub(super) fn rename(temp: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(temp, path)
        .inspect_err(|_| {
            fs::remove_file(temp).ok();
        })
        .at("write", path)
}

/// A directory for the caller's use, on the store's file system, removed when dropped.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        remove_tree(&self.path).ok();
    }
}

impl Store {
    /// A directory for unnamed files; it goes when the store is closed.
    pub fn scratch_dir(&self) -> &Path {
        self.workspace.dir()
    }

    /// Makes an empty directory, 0755, that is removed when dropped, or by somebody else after a crash.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        let path = self.workspace.path();
        fs::create_dir(&path).at("create", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).at("create", &path)?;
        Ok(TempDir { path })
    }

    /// Removes what killed processes left in `tmp/`. What cannot be removed is left for the next time.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).at("read", &tmp)? {
            let entry = entry.at("read", &tmp)?;
            let mut lock_name = std::ffi::OsString::from("tmp-");
            lock_name.push(entry.file_name());
            let lock_path = self.root.join("locks").join(lock_name);
            if let Some(_lock) = FileLock::attempt_once(&lock_path)? {
                remove_tree(&entry.path()).ok();
            }
        }
        self.sweep_locks()
    }

    /// Removes the files of locks that nobody holds and that should have gone with their holders.
    fn sweep_locks(&self) -> Result<(), StoreError> {
        let locks = self.root.join("locks");
        for entry in fs::read_dir(&locks).at("read", &locks)? {
            let entry = entry.at("read", &locks)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("step-") || name.starts_with("tmp-") {
                // Held for a moment, then removed with its file.
                drop(FileLock::attempt_once(&entry.path())?);
            }
        }
        Ok(())
    }
}

/// Removes a file or a directory with all in it; nothing there is fine. Directories without write permission, as a
/// build may make them, are opened up first.
pub fn remove_tree(path: &Path) -> Result<(), StoreError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).at("remove", path),
    };
    if !metadata.is_dir() {
        return absent_is_fine(fs::remove_file(path)).at("remove", path);
    }
    match fs::remove_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    if metadata.permissions().mode() & 0o700 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).at("remove", path)?;
    }
    for entry in fs::read_dir(path).at("read", path)? {
        remove_tree(&entry.at("read", path)?.path())?;
    }
    absent_is_fine(fs::remove_dir(path)).at("remove", path)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
