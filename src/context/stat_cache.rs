//! Digests of files that have not changed since they were read last.
//!
//! ```text
//! "rbuild stat cache 2\n"
//! directories, each:  path length u32, path, number of files u32, files by name, each:
//!     name length u16, name, stamp (16 bytes), saves since its last use u8, 1 if it has no capabilities u8,
//!     digest (32 bytes)                                                                             little-endian
//! sha256 of all that precedes
//! ```
//! A file is the same as before when its path, device, inode, size, mtime and ctime are; of all but the path, the stamp
//! is a digest. A change within the same tick of the file system's clock as the reading would not show in them, so a
//! file that was changed shortly before it was read is not remembered (git: "racy"). The ctime is what a program cannot
//! set; setting an attribute sets it, too.
//!
//! The file is replaced by a rename; a reader finds the old one or the new one, two writers leave that of the later.
//! One that is cut short, damaged or of another version counts as empty: all it costs is time.
//!
//! In memory, a file is 56 bytes and its name: there is one of these for each file of a context.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rustix::fs::Stat;

use crate::{
    oci::{Digest, Digester, sha256},
    tree::Timestamp,
};

const MAGIC: &[u8] = b"rbuild stat cache 2\n";

/// Changes closer than this to the reading are not trusted. The coarsest clock among file systems in use is that of
/// FAT, with two seconds.
const RACY_SECONDS: i64 = 3;

/// An entry that was of no use for so many saves is dropped.
const MAX_IDLE_SAVES: u8 = 16;

/// What tells a file from its earlier self.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) mark: Mark,
    /// When it was changed last, in seconds.
    changed: i64,
}

/// All of a stamp, as a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark([u8; 16]);

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let mut bytes = [0; 56];
        let fields = [
            stat.st_dev,
            stat.st_ino,
            stat.st_size.cast_unsigned(),
            stat.st_mtime.cast_unsigned(),
            stat.st_mtime_nsec,
            stat.st_ctime.cast_unsigned(),
            stat.st_ctime_nsec,
        ];
        for (at, field) in bytes.chunks_exact_mut(8).zip(fields) {
            at.copy_from_slice(&field.to_le_bytes());
        }
        let mut mark = [0; 16];
        mark.copy_from_slice(&sha256(&bytes).as_bytes()[..16]);
        Self {
            mark: Mark(mark),
            changed: stat.st_mtime.max(stat.st_ctime),
        }
    }
}

/// What was found out about a file when it had a certain stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// The digest of its bytes.
    pub(super) digest: Digest,
    /// Whether it has no capabilities.
    pub(super) is_plain: bool,
}

/// One file of a directory.
#[derive(Debug, Clone, Copy)]
struct File {
    /// Where its name is among those of the directory.
    name: (u32, u16),
    mark: Mark,
    known: Known,
    idle_saves: u8,
    /// Whether a later process may rely on it.
    is_kept: bool,
    /// Whether the digest was told to somebody in this process.
    is_told: bool,
}

/// Files of one directory, by name.
#[derive(Debug, Default)]
struct Dir {
    names: Vec<u8>,
    files: Vec<File>,
}

impl Dir {
    fn name(&self, file: &File) -> &[u8] {
        let start = file.name.0 as usize;
        &self.names[start..start + usize::from(file.name.1)]
    }

    fn find(&self, name: &OsStr) -> Result<usize, usize> {
        let name = name.as_bytes();
        self.files
            .binary_search_by(|file| self.name(file).cmp(name))
    }

    /// Notes where a new name is kept; `None` for names that no file system has.
    fn add_name(&mut self, name: &[u8]) -> Option<(u32, u16)> {
        let at = u32::try_from(self.names.len()).ok()?;
        let length = u16::try_from(name.len()).ok()?;
        self.names.extend_from_slice(name);
        Some((at, length))
    }

    /// Tells of a file whose stamp is this, if that is known.
    fn tell(&mut self, index: usize, stamp: &Stamp) -> Option<Known> {
        let file = &mut self.files[index];
        if file.mark != stamp.mark {
            return None;
        }
        (file.idle_saves, file.is_told) = (0, true);
        Some(file.known)
    }
}

/// Remembered digests of the files below one directory, and those that were told. Paths are relative to it. Shared by
/// threads; a lookup takes a lock for a moment.
#[derive(Debug)]
pub struct StatCache {
    /// `None` when nothing is kept for later processes.
    file: Option<PathBuf>,
    opened: (Timestamp, Instant),
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    dirs: HashMap<Box<[u8]>, Dir>,
    has_news: bool,
}

fn key(dir: &Path) -> &[u8] {
    dir.as_os_str().as_bytes()
}

fn split(path: &Path) -> Option<(&[u8], &OsStr)> {
    // Paths of trees are clean, and finding out what all their components are takes several times as long.
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return None;
    }
    Some(match bytes.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&bytes[..slash], OsStr::from_bytes(&bytes[slash + 1..])),
        None => (b"", path.as_os_str()),
    })
}

impl StatCache {
    /// The cache in `file`, empty when there is none or it is damaged. `now` is the time of the system.
    pub fn load(file: impl Into<PathBuf>, now: Timestamp) -> Self {
        let file = file.into();
        // What somebody put in its place must not make the build wait.
        let is_file = fs::metadata(&file).is_ok_and(|metadata| metadata.is_file());
        let dirs = is_file
            .then(|| fs::read(&file).ok())
            .flatten()
            .and_then(|bytes| parse(&bytes))
            .unwrap_or_default();
        Self {
            file: Some(file),
            opened: (now, Instant::now()),
            state: Mutex::new(State {
                dirs,
                has_news: false,
            }),
        }
    }

    /// A cache that lives no longer than this value.
    pub(super) fn unsaved() -> Self {
        Self {
            file: None,
            opened: (Timestamp::default(), Instant::now()),
            state: Mutex::default(),
        }
    }

    /// Whether these bytes are those of a file that [`StatCache::save`] wrote, with nothing missing.
    pub fn is_whole(bytes: &[u8]) -> bool {
        parse(bytes).is_some()
    }

    /// Replaces the file, its directory made if need be, unless there is nothing new.
    pub fn save(&self) -> io::Result<()> {
        let mut state = self.lock();
        let Some(file) = self.file.as_ref().filter(|_| state.has_news) else {
            return Ok(());
        };
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(name);
        let written = fs::File::create(&temporary)
            .and_then(|out| print(&state.dirs, out))
            .and_then(|()| fs::rename(&temporary, file));
        if written.is_err() {
            // What is left over would never be used.
            drop(fs::remove_file(&temporary));
        }
        written?;
        state.has_news = false;
        Ok(())
    }

    /// What is known of files of a directory that have these stamps; told from now on.
    pub(super) fn tell<'a>(
        &self,
        dir: &Path,
        files: impl Iterator<Item = Option<(&'a OsStr, &'a Stamp)>>,
    ) -> Vec<Option<Known>> {
        let mut state = self.lock();
        let Some(dir) = state.dirs.get_mut(key(dir)) else {
            return files.map(|_| None).collect();
        };
        // Mostly, names are asked for in their order, and all of them are known.
        let mut next = 0;
        files
            .map(|file| {
                let (name, stamp) = file?;
                let is_next = dir
                    .files
                    .get(next)
                    .is_some_and(|file| dir.name(file) == name.as_bytes());
                let index = if is_next { next } else { dir.find(name).ok()? };
                next = index + 1;
                dir.tell(index, stamp)
            })
            .collect()
    }

    /// Whether anything is known of a file.
    pub(super) fn has(&self, path: &Path) -> bool {
        let state = self.lock();
        split(path)
            .and_then(|(dir, name)| state.dirs.get(dir)?.find(name).ok())
            .is_some()
    }

    /// The digest of `path`, if it is the same file as when that was put; told from now on.
    pub(super) fn get(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        let (dir, name) = split(path)?;
        let mut state = self.lock();
        let dir = state.dirs.get_mut(dir)?;
        let index = dir.find(name).ok()?;
        dir.tell(index, stamp).map(|known| known.digest)
    }

    /// The digest of `path` that was told last, and the stamp that the file had.
    pub(super) fn told(&self, path: &Path) -> Option<(Mark, Digest)> {
        let (dir, name) = split(path)?;
        let state = self.lock();
        let dir = state.dirs.get(dir)?;
        let file = dir.files[dir.find(name).ok()?];
        file.is_told.then_some((file.mark, file.known.digest))
    }

    /// Notes what is told of a file. It is remembered when the reading began at `started`, unless the file was changed
    /// too shortly before.
    pub(super) fn put(&self, path: &Path, stamp: Stamp, known: Known, started: Option<Timestamp>) {
        let Some((dir, name)) = split(path) else {
            return;
        };
        let is_kept = self.file.is_some()
            && started.is_some_and(|started| stamp.changed <= started.seconds - RACY_SECONDS);
        let mut state = self.lock();
        state.has_news |= is_kept;
        if !state.dirs.contains_key(dir) {
            state.dirs.insert(dir.into(), Dir::default());
        }
        let dir = state.dirs.get_mut(dir).expect("it was there or was put");
        let file = |name| File {
            name,
            mark: stamp.mark,
            known,
            idle_saves: 0,
            is_kept,
            is_told: true,
        };
        match dir.find(name) {
            Ok(at) => dir.files[at] = file(dir.files[at].name),
            Err(at) => {
                if let Some(name) = dir.add_name(name.as_bytes()) {
                    dir.files.insert(at, file(name));
                }
            }
        }
    }

    /// The time of the system.
    pub(super) fn now(&self) -> Timestamp {
        let (opened, since) = self.opened;
        let elapsed = i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_seconds(opened.seconds.saturating_add(elapsed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the file.
fn print(dirs: &HashMap<Box<[u8]>, Dir>, mut out: fs::File) -> io::Result<()> {
    let mut sum = Digester::new();
    let mut bytes = MAGIC.to_vec();
    let kept = |file: &&File| file.is_kept && file.idle_saves < MAX_IDLE_SAVES;
    for (path, dir) in dirs {
        // No path of Linux comes near this length, and no directory has that many files.
        let count = dir.files.iter().filter(kept).count();
        let (Ok(length), Ok(count)) = (u32::try_from(path.len()), u32::try_from(count)) else {
            continue;
        };
        if count == 0 {
            continue;
        }
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(&count.to_le_bytes());
        for file in dir.files.iter().filter(kept) {
            bytes.extend_from_slice(&file.name.1.to_le_bytes());
            bytes.extend_from_slice(dir.name(file));
            bytes.extend_from_slice(&file.mark.0);
            bytes.extend_from_slice(&[file.idle_saves, file.known.is_plain.into()]);
            bytes.extend_from_slice(file.known.digest.as_bytes());
        }
        if bytes.len() >= 128 << 10 {
            sum.update(&bytes);
            out.write_all(&bytes)?;
            bytes.clear();
        }
    }
    sum.update(&bytes);
    bytes.extend_from_slice(sum.finish().as_bytes());
    out.write_all(&bytes)
}

/// `None` when the bytes are not those of a whole cache of this version.
fn parse(bytes: &[u8]) -> Option<HashMap<Box<[u8]>, Dir>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let mut rest = body.strip_prefix(MAGIC)?;
    if sha256(body).as_bytes() != sum {
        return None;
    }
    let mut dirs = HashMap::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*take(&mut rest)?);
        let path = rest.split_off(..length as usize)?;
        let count = u32::from_le_bytes(*take(&mut rest)?) as usize;
        let mut dir = Dir::default();
        // A file has more bytes than one, so no more than there are bytes.
        dir.files.reserve_exact(count.min(rest.len()));
        for _ in 0..count {
            let length = u16::from_le_bytes(*take(&mut rest)?);
            let name = dir.add_name(rest.split_off(..usize::from(length))?)?;
            let mark = Mark(*take(&mut rest)?);
            let [idle_saves, is_plain] = *take(&mut rest)?;
            dir.files.push(File {
                name,
                mark,
                known: Known {
                    digest: Digest::from_bytes(*take(&mut rest)?),
                    is_plain: is_plain == 1,
                },
                // Used in this process, it starts again from 0.
                idle_saves: idle_saves.saturating_add(1),
                is_kept: true,
                is_told: false,
            });
        }
        dirs.insert(path.into(), dir);
    }
    Some(dirs)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(taken)
}

#[cfg(test)]
mod tests;
