//! Digests of files that have not changed since they were read last.
//!
//! ```text
//! "rbuild stat cache 1\n"
//! entries, each:  path length u32, path, device, inode, size, mtime s, mtime ns, ctime s, ctime ns (u64 each),
//!                 saves since its last use u8, digest (32 bytes)                                     little-endian
//! sha256 of all that precedes
//! ```
//! A file is the same as before when its path, device, inode, size, mtime and ctime are. A change within the same tick
//! of the file system's clock as the reading would not show in them, so a file that was changed shortly before it was
//! read is not remembered (git: "racy"). The ctime is what a program cannot set.
//!
//! The file is replaced by a rename; a reader finds the old one or the new one, two writers leave that of the later.
//! One that is cut short, damaged or of another version counts as empty: all it costs is time.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use rustix::fs::Stat;

use crate::{
    oci::{Digest, sha256},
    tree::Timestamp,
};

const MAGIC: &[u8] = b"rbuild stat cache 1\n";

/// Changes closer than this to the reading are not trusted. The coarsest clock among file systems in use is that of
/// FAT, with two seconds.
const RACY_SECONDS: i64 = 3;

/// An entry that was of no use for so many saves is dropped.
const MAX_IDLE_SAVES: u8 = 16;

/// What tells a file from its earlier self.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |n: u64| u32::try_from(n).unwrap_or(0);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            mtime: Timestamp {
                seconds: stat.st_mtime,
                nanos: nanos(stat.st_mtime_nsec),
            },
            ctime: Timestamp {
                seconds: stat.st_ctime,
                nanos: nanos(stat.st_ctime_nsec),
            },
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    stamp: Stamp,
    idle_saves: u8,
    digest: Digest,
}

/// Remembered digests. Shared by threads; a lookup takes a lock for a moment.
#[derive(Debug)]
pub struct StatCache {
    file: PathBuf,
    opened: (Timestamp, Instant),
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<PathBuf, Entry>,
    has_news: bool,
}

impl StatCache {
    /// The cache in `file`, empty when there is none or it is damaged. `now` is the time of the system.
    pub fn load(file: impl Into<PathBuf>, now: Timestamp) -> Self {
        let file = file.into();
        let entries = fs::read(&file)
            .ok()
            .and_then(|bytes| parse(&bytes))
            .unwrap_or_default();
        Self {
            file,
            opened: (now, Instant::now()),
            state: Mutex::new(State {
                entries,
                has_news: false,
            }),
        }
    }

    /// Whether these bytes are those of a file that [`StatCache::save`] wrote, with nothing missing.
    pub fn is_whole(bytes: &[u8]) -> bool {
        parse(bytes).is_some()
    }

    /// Replaces the file, its directory made if need be, unless there is nothing new.
    pub fn save(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.has_news {
            return Ok(());
        }
        if let Some(dir) = self.file.parent() {
            fs::create_dir_all(dir)?;
        }
        state
            .entries
            .retain(|_, entry| entry.idle_saves < MAX_IDLE_SAVES);
        let bytes = print(&state.entries);
        let mut name = self.file.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(name);
        let written =
            fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &self.file));
        if written.is_err() {
            // What is left over would never be used.
            drop(fs::remove_file(&temporary));
        }
        written?;
        state.has_news = false;
        Ok(())
    }

    /// The digest of `path`, if it is the same file as when that was put.
    pub(super) fn get(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = state.entries.get_mut(path)?;
        if entry.stamp != *stamp {
            return None;
        }
        entry.idle_saves = 0;
        Some(entry.digest)
    }

    /// Remembers the digest of a file whose reading began at `started`, unless it was changed too shortly before.
    pub(super) fn put(&self, path: &Path, stamp: Stamp, digest: Digest, started: Timestamp) {
        let changed = stamp.mtime.max(stamp.ctime);
        if changed.seconds > started.seconds - RACY_SECONDS {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            stamp,
            idle_saves: 0,
            digest,
        };
        state.entries.insert(path.to_owned(), entry);
        state.has_news = true;
    }

    /// The time of the system.
    pub(super) fn now(&self) -> Timestamp {
        let (opened, since) = self.opened;
        let elapsed = i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_seconds(opened.seconds.saturating_add(elapsed))
    }
}

fn print(entries: &HashMap<PathBuf, Entry>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (path, entry) in entries {
        let path = path.as_os_str().as_bytes();
        // No path of Linux comes near this length.
        let Ok(length) = u32::try_from(path.len()) else {
            continue;
        };
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(path);
        let Stamp {
            device,
            inode,
            size,
            mtime,
            ctime,
        } = entry.stamp;
        for number in [
            device,
            inode,
            size,
            mtime.seconds.cast_unsigned(),
            mtime.nanos.into(),
            ctime.seconds.cast_unsigned(),
            ctime.nanos.into(),
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(entry.idle_saves);
        out.extend_from_slice(entry.digest.as_bytes());
    }
    let sum = sha256(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}

/// `None` when the bytes are not those of a whole cache of this version.
fn parse(bytes: &[u8]) -> Option<HashMap<PathBuf, Entry>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let mut rest = body.strip_prefix(MAGIC)?;
    if sha256(body).as_bytes() != sum {
        return None;
    }
    let mut entries = HashMap::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (path, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = tail;
        let mut number = || -> Option<u64> {
            let (bytes, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_le_bytes(*bytes))
        };
        let (device, inode, size) = (number()?, number()?, number()?);
        let mut time = || -> Option<Timestamp> {
            Some(Timestamp {
                seconds: number()?.cast_signed(),
                nanos: u32::try_from(number()?).ok()?,
            })
        };
        let (mtime, ctime) = (time()?, time()?);
        let (idle_saves, tail) = rest.split_first()?;
        let (digest, tail) = tail.split_first_chunk::<32>()?;
        rest = tail;
        let stamp = Stamp {
            device,
            inode,
            size,
            mtime,
            ctime,
        };
        let entry = Entry {
            stamp,
            // Used in this process, it starts again from 0.
            idle_saves: idle_saves.saturating_add(1),
            digest: Digest::from_bytes(*digest),
        };
        entries.insert(PathBuf::from(OsStr::from_bytes(path)), entry);
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        context::{LocalTree, Patterns},
        tree::Tree as _,
    };

    struct Setup {
        dir: tempfile::TempDir,
    }

    impl Setup {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("context")).unwrap();
            Self { dir }
        }

        /// Writes a file that was changed so long ago.
        fn write(&self, name: &str, content: &str, ago: Duration) {
            let path = self.dir.path().join("context").join(name);
            fs::write(&path, content).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - ago).unwrap();
        }

        /// A cache whose clock runs ahead by so many seconds: the ctime of a file cannot be set back.
        fn load(&self, ahead: i64) -> std::sync::Arc<StatCache> {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap();
            let now = Timestamp::from_seconds(i64::try_from(now.as_secs()).unwrap() + ahead);
            std::sync::Arc::new(StatCache::load(self.dir.path().join("cache/stat"), now))
        }

        fn digest(&self, cache: &std::sync::Arc<StatCache>, name: &str) -> Digest {
            let cache = Some(std::sync::Arc::clone(cache));
            LocalTree::open(self.dir.path().join("context"), Patterns::default(), cache)
                .unwrap()
                .digest(Path::new(name))
                .unwrap()
        }

        fn n_entries(cache: &StatCache) -> usize {
            cache.state.lock().unwrap().entries.len()
        }
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn a_digest_outlives_the_process() {
        let setup = Setup::new();
        setup.write("f", "one", LONG);
        let cache = setup.load(10);
        let digest = setup.digest(&cache, "f");
        assert_eq!(digest, sha256(b"one"));
        cache.save().unwrap();

        let cache = setup.load(10);
        assert_eq!(Setup::n_entries(&cache), 1);
        let path = setup.dir.path().join("context/f");
        let stamp = Stamp::of(&rustix::fs::stat(&path).unwrap());
        assert_eq!(cache.get(&path, &stamp), Some(digest));
    }

    #[test]
    fn other_content_of_equal_size_and_mtime_is_noticed() {
        let setup = Setup::new();
        setup.write("f", "one", LONG);
        let path = setup.dir.path().join("context/f");
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        let cache = setup.load(10);
        assert_eq!(setup.digest(&cache, "f"), sha256(b"one"));
        // The ctime has ticks of some milliseconds, which is why fresh files are not remembered.
        let stamp = || Stamp::of(&rustix::fs::stat(&path).unwrap());
        let old = stamp();
        while stamp() == old {
            fs::write(&path, "two").unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(mtime).unwrap();
        }
        assert_eq!(setup.digest(&cache, "f"), sha256(b"two"));
    }

    #[test]
    fn a_file_changed_just_now_is_not_remembered() {
        let setup = Setup::new();
        setup.write("f", "one", LONG);
        let cache = setup.load(0);
        setup.digest(&cache, "f");
        assert_eq!(Setup::n_entries(&cache), 0, "its ctime is recent");
        cache.save().unwrap();
        assert!(!setup.dir.path().join("cache").try_exists().unwrap());
    }

    #[test]
    fn a_damaged_cache_is_empty() {
        let setup = Setup::new();
        setup.write("f", "one", LONG);
        let cache = setup.load(10);
        setup.digest(&cache, "f");
        cache.save().unwrap();
        let file = setup.dir.path().join("cache/stat");
        let good = fs::read(&file).unwrap();
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_none(), "cut at {length}");
        }
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert!(parse(&bad).is_none(), "flipped at {i}");
        }
        fs::write(&file, b"nonsense").unwrap();
        assert_eq!(Setup::n_entries(&setup.load(10)), 0);
        fs::write(&file, &good).unwrap();
        assert_eq!(Setup::n_entries(&setup.load(10)), 1);
    }

    #[test]
    fn entries_nobody_asks_for_are_dropped_in_time() {
        let setup = Setup::new();
        setup.write("old", "x", LONG);
        let cache = setup.load(10);
        setup.digest(&cache, "old");
        cache.save().unwrap();
        for i in 0..MAX_IDLE_SAVES {
            let cache = setup.load(10);
            assert_eq!(Setup::n_entries(&cache), 1 + usize::from(i > 0), "save {i}");
            setup.write("f", &format!("{i}"), LONG);
            setup.digest(&cache, "f");
            cache.save().unwrap();
        }
        let cache = setup.load(10);
        assert_eq!(Setup::n_entries(&cache), 1);
    }
}
