//! Cache mounts: directories that outlive builds.
//!
//! ```text
//! mounts/ID/            ID: digest of all that identifies the mount
//! mounts/ID/about.json  the same in words, for people
//! mounts/ID/origin      the digest of the layer that instance 0 came with, if it came from another machine
//! mounts/ID/0           an instance; 1, 2, … are made when the earlier ones are taken
//! locks/mount-ID        held while an instance is looked for
//! locks/mount-ID-0      held while an instance is used: shared by `shared`, exclusive by the others
//! ```
//! A new instance is filled under an exclusive lock as `mounts/ID/0.new` and then renamed, so that one that is
//! half filled is never used.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    Store, StoreError,
    error::At as _,
    lock::{FileLock, Hold},
    read_regular,
    temp::remove_tree,
};
use crate::oci::{Digest, sha256};

/// How often a waiting user looks whether an instance is free. As in BuildKit.
const POLL: Duration = Duration::from_millis(100);

/// Who may use the same instance of a cache mount at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSharing {
    /// Everybody who shares.
    Shared,
    /// One; another gets an instance of their own.
    Private,
    /// One; another waits.
    Locked,
}

/// What identifies a cache mount. All fields count, as in BuildKit: another owner is another cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheMountId {
    /// The `id` option, or the target path.
    pub id: String,
    /// The content a new instance starts with, if it has `from`.
    pub seed: Option<Digest>,
    /// Mode of the directory.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl CacheMountId {
    /// The name of its directory, and of nothing else.
    pub fn key(&self) -> String {
        sha256(&crate::oci::to_json(self)).hex()
    }
}

/// A cache mount in use. Dropping it lets others have it; the files stay.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    _lock: FileLock,
}

/// An instance of a cache mount, for listing.
#[derive(Debug, Clone)]
pub struct CacheMountOnDisk {
    /// The name of the mount's directory.
    pub key: String,
    /// Which instance.
    pub number: u32,
    /// What identifies the mount, where that can be read.
    pub id: Option<CacheMountId>,
    /// Its directory.
    pub path: PathBuf,
    /// When a step began to use it last.
    pub last_used: SystemTime,
    /// Whether a step uses it.
    pub in_use: bool,
}

impl CacheMount {
    /// The directory to mount.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Gives a cache mount, a new one if need be. `fill` makes a new, empty directory ready: its first content and
    /// its owner; its mode is set already. [`CacheSharing::Locked`] waits as long as `wait` says so, which is asked
    /// several times a second; `None` when it said no.
    pub fn cache_mount<E: From<StoreError>>(
        &self,
        id: &CacheMountId,
        sharing: CacheSharing,
        fill: &mut dyn FnMut(&Path) -> Result<(), E>,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<Option<CacheMount>, E> {
        loop {
            if let Some(mount) = self.try_cache_mount(id, sharing, fill)? {
                return Ok(Some(mount));
            }
            if !wait() {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Gives a cache mount as [`Store::cache_mount`], but `None` instead of waiting.
    pub fn try_cache_mount<E: From<StoreError>>(
        &self,
        id: &CacheMountId,
        sharing: CacheSharing,
        fill: &mut dyn FnMut(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        let key = id.key();
        let hold = match sharing {
            CacheSharing::Shared => Hold::Shared,
            CacheSharing::Private | CacheSharing::Locked => Hold::Exclusive,
        };
        let dir = self.root.join("mounts").join(&key);
        let locks = self.root.join("locks");
        let _search = FileLock::wait(&locks.join(format!("mount-{key}")), Hold::Exclusive)?;
        fs::create_dir_all(&dir).at("create", &dir)?;
        let instances = instances(&dir)?;
        for n in &instances {
            let lock = locks.join(format!("mount-{key}-{n}"));
            if let Some(lock) = FileLock::attempt(&lock, hold)? {
                lock.stamp()?;
                return Ok(Some(CacheMount {
                    path: dir.join(n.to_string()),
                    _lock: lock,
                }));
            }
        }
        if sharing == CacheSharing::Locked && !instances.is_empty() {
            return Ok(None);
        }
        self.new_instance(id, &dir, &instances, hold, fill)
    }

    /// All finished instances of all cache mounts.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMountOnDisk>, StoreError> {
        let mounts = self.root.join("mounts");
        let mut found = Vec::new();
        for entry in fs::read_dir(&mounts).at("read", &mounts)? {
            let dir = entry.at("read", &mounts)?.path();
            let Some(key) = dir.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let id = read_regular(&dir.join("about.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok());
            found.extend(self.instances_on_disk(key, id.as_ref())?);
        }
        found.sort_by(|a, b| (&a.key, a.number).cmp(&(&b.key, b.number)));
        Ok(found)
    }

    /// The finished instances of one cache mount.
    pub fn cache_mount_instances(
        &self,
        id: &CacheMountId,
    ) -> Result<Vec<CacheMountOnDisk>, StoreError> {
        let key = id.key();
        let dir = self.root.join("mounts").join(&key);
        if !dir.try_exists().at("read", &dir)? {
            return Ok(Vec::new());
        }
        self.instances_on_disk(&key, Some(id))
    }

    fn instances_on_disk(
        &self,
        key: &str,
        id: Option<&CacheMountId>,
    ) -> Result<Vec<CacheMountOnDisk>, StoreError> {
        let dir = self.root.join("mounts").join(key);
        let locks = self.root.join("locks");
        // Whoever looks for an instance must not meet the locks that are tried here.
        let _search = FileLock::wait(&locks.join(format!("mount-{key}")), Hold::Exclusive)?;
        let mut found = Vec::new();
        for n in instances(&dir)? {
            let lock = locks.join(format!("mount-{key}-{n}"));
            let used = fs::metadata(&lock).or_else(|_| fs::metadata(&dir));
            found.push(CacheMountOnDisk {
                key: key.to_owned(),
                number: n,
                id: id.cloned(),
                path: dir.join(n.to_string()),
                last_used: used.and_then(|m| m.modified()).at("read", &lock)?,
                in_use: FileLock::attempt(&lock, Hold::Exclusive)?.is_none(),
            });
        }
        Ok(found)
    }

    /// Calls `read` with the directory of an instance that nobody uses; whoever looks for one waits meanwhile. That is no use
    /// of it. `None` when somebody uses it, or it has gone.
    pub fn read_cache_mount<T>(
        &self,
        mount: &CacheMountOnDisk,
        read: impl FnOnce(&Path) -> T,
    ) -> Result<Option<T>, StoreError> {
        let (key, n) = (&mount.key, mount.number);
        let locks = self.root.join("locks");
        let _search = FileLock::wait(&locks.join(format!("mount-{key}")), Hold::Exclusive)?;
        let lock = locks.join(format!("mount-{key}-{n}"));
        let Some(_lock) = FileLock::attempt(&lock, Hold::Exclusive)? else {
            return Ok(None);
        };
        let is_there = mount.path.try_exists().at("read", &mount.path)?;
        Ok(is_there.then(|| read(&mount.path)))
    }

    /// Makes `new`, a directory on the store's file system, the only instance of a cache mount, used at `used`; whether it is.
    /// It is not when somebody uses an instance, or used one at `used` or later. `origin` is what the directory was made of.
    pub fn replace_cache_mount(
        &self,
        id: &CacheMountId,
        new: &Path,
        used: SystemTime,
        origin: &Digest,
    ) -> Result<bool, StoreError> {
        let key = id.key();
        let dir = self.root.join("mounts").join(&key);
        let locks = self.root.join("locks");
        let _search = FileLock::wait(&locks.join(format!("mount-{key}")), Hold::Exclusive)?;
        fs::create_dir_all(&dir).at("create", &dir)?;
        let mut held = Vec::new();
        for n in instances(&dir)? {
            let path = locks.join(format!("mount-{key}-{n}"));
            let last_used = fs::metadata(&path).and_then(|m| m.modified());
            let is_newer = last_used.is_ok_and(|last| last >= used);
            match FileLock::attempt(&path, Hold::Exclusive)? {
                Some(lock) if !is_newer => held.push((n, lock)),
                _ => return Ok(false),
            }
        }
        let trash = self.temp_dir()?;
        for (n, _) in &held {
            let old = dir.join(n.to_string());
            fs::rename(&old, trash.path().join(n.to_string())).at("remove", &old)?;
        }
        let about = dir.join("about.json");
        if !about.try_exists().at("read", &about)? {
            self.workspace.replace(&about, &crate::oci::to_json(id))?;
        }
        let text = origin.to_string();
        self.workspace
            .replace(&dir.join("origin"), text.as_bytes())?;
        let path = dir.join("0");
        fs::rename(new, &path).at("create", &path)?;
        let first = match held.into_iter().find(|(n, _)| *n == 0) {
            Some((_, lock)) => lock,
            None => FileLock::wait(&locks.join(format!("mount-{key}-0")), Hold::Exclusive)?,
        };
        first.stamp_as(used)?;
        Ok(true)
    }

    /// What instance 0 of a cache mount came with, if it came from another machine.
    pub fn cache_mount_origin(&self, id: &CacheMountId) -> Option<Digest> {
        let path = self.root.join("mounts").join(id.key()).join("origin");
        let bytes = read_regular(&path).ok()?;
        std::str::from_utf8(&bytes).ok()?.parse().ok()
    }

    /// Removes an instance unless somebody uses it; whether it is gone.
    pub fn remove_cache_mount(&self, mount: &CacheMountOnDisk) -> Result<bool, StoreError> {
        let (key, n) = (&mount.key, mount.number);
        let locks = self.root.join("locks");
        let _search = FileLock::wait(&locks.join(format!("mount-{key}")), Hold::Exclusive)?;
        let lock = locks.join(format!("mount-{key}-{n}"));
        let Some(_lock) = FileLock::attempt(&lock, Hold::Exclusive)? else {
            return Ok(false);
        };
        let trash = self.temp_dir()?;
        match fs::rename(&mount.path, trash.path().join("old")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.at("remove", &mount.path)?,
        }
        Ok(true)
    }

    fn new_instance<E: From<StoreError>>(
        &self,
        id: &CacheMountId,
        dir: &Path,
        instances: &[u32],
        hold: Hold,
        fill: &mut dyn FnMut(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        let key = id.key();
        let n = instances.last().map_or(0, |last| last + 1);
        let lock_path = self.root.join("locks").join(format!("mount-{key}-{n}"));
        // Free: whoever holds it has an instance, and instances are looked for under the lock of the search.
        let lock = FileLock::wait(&lock_path, Hold::Exclusive)?;
        let about = dir.join("about.json");
        if !about.try_exists().at("read", &about)? {
            self.workspace.replace(&about, &crate::oci::to_json(id))?;
        }
        let new = dir.join(format!("{n}.new"));
        remove_tree(&new)?;
        fs::create_dir(&new).at("create", &new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(id.mode & 0o7777))
            .at("create", &new)?;
        if let Err(error) = fill(&new) {
            remove_tree(&new).ok();
            return Err(error);
        }
        let path = dir.join(n.to_string());
        fs::rename(&new, &path).at("create", &path)?;
        lock.stamp()?;
        if hold == Hold::Shared {
            lock.share()?;
        }
        Ok(Some(CacheMount { path, _lock: lock }))
    }
}

/// The numbers of the finished instances, smallest first.
fn instances(dir: &Path) -> Result<Vec<u32>, StoreError> {
    let mut numbers = fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().parse::<u32>().ok()))
                .collect::<io::Result<Vec<_>>>()
        })
        .at("read", dir)?;
    numbers.sort_unstable();
    Ok(numbers.into_iter().flatten().collect())
}
