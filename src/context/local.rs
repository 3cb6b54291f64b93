//! A directory of this machine as a build context.

mod contents;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    ContextError, Patterns, Verdict,
    stat_cache::{Stamp, StatCache},
};
use crate::{
    oci::Digest,
    tree::{self, IgnoreLine, Kind, Listed, Metadata, Node, Timestamp, Tree, TreeError},
};

/// A directory, read in place and only where asked, less what an ignore file leaves out.
///
/// - Everything belongs to 0:0, as in BuildKit: who runs the build must not show in the image.
/// - Of extended attributes only `security.capability` shows, the one that a layer keeps.
/// - A directory that is ignored is there all the same when something below it is not.
/// - No symbolic link is followed, the one that the root itself may be excepted.
///
/// What it has been asked for is remembered as far as it decides about ignoring; contents and metadata are looked up
/// anew each time. A file whose digest was told and that has other bytes when it is opened is an error: a layer with
/// the new bytes would be remembered as that of the old ones. Reading a file to its end tells its digest, too.
pub struct LocalTree {
    root: PathBuf,
    patterns: Patterns,
    /// Also has the digests that were told.
    cache: Arc<StatCache>,
    root_time: Option<Timestamp>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Directories seen, the root excepted.
    dirs: HashMap<PathBuf, Arc<Dir>>,
    /// A number for each inode with several names.
    inodes: HashMap<(u64, u64), u64>,
    /// Room for reading, as much as threads ever read at the same time: it has to be zeroed before anything is read into it.
    buffers: Vec<Box<[u8]>>,
}

/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;

/// A directory whose parents are directories, too, and no links.
struct Dir {
    verdict: Verdict,
    /// Whether it belongs to the context.
    is_shown: bool,
}

impl LocalTree {
    /// The directory `root`, less what the patterns name. With a cache, which has to be one for this directory alone,
    /// files that have not changed are not read to tell their digest.
    pub fn open(
        root: impl Into<PathBuf>,
        patterns: Patterns,
        cache: Option<Arc<StatCache>>,
    ) -> Result<Self, ContextError> {
        let root = root.into();
        let stat = rustix::fs::stat(&root).map_err(|source| ContextError::Read {
            path: root.clone(),
            source: source.into(),
        })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(ContextError::NotADirectory { path: root });
        }
        Ok(Self {
            root,
            patterns,
            cache: cache.unwrap_or_else(|| Arc::new(StatCache::unsaved())),
            root_time: None,
            state: Mutex::default(),
        })
    }

    /// The same, its root with a time of its own.
    #[must_use]
    pub fn with_root_time(self, time: Timestamp) -> Self {
        Self {
            root_time: Some(time),
            ..self
        }
    }

    fn host(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }

    fn error(&self, action: &'static str, path: &Path, source: impl Into<io::Error>) -> TreeError {
        TreeError {
            action,
            path: self.host(path),
            source: source.into(),
        }
    }

    /// What the system says of `path`, not following; `None` when nothing is there.
    fn stat(&self, path: &Path) -> Result<Option<Stat>, TreeError> {
        let flags = if path.as_os_str().is_empty() {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        match rustix::fs::statat(CWD, self.host(path), flags) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            // A name that no file system takes cannot be there.
            Err(Errno::NAMETOOLONG | Errno::INVAL) => Ok(None),
            Err(error) => Err(self.error("read", path, error)),
        }
    }

    /// What is known of the directory `path`; `None` when it is none, or is reached through a link.
    fn dir(&self, path: &Path) -> Result<Option<Arc<Dir>>, TreeError> {
        let Some(parent) = path.parent() else {
            return Ok(Some(Arc::new(Dir {
                verdict: Verdict::root(),
                is_shown: true,
            })));
        };
        if let Some(dir) = self.lock().dirs.get(path) {
            return Ok(Some(Arc::clone(dir)));
        }
        let Some(above) = self.dir(parent)? else {
            return Ok(None);
        };
        match self.stat(path)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            _ => return Ok(None),
        }
        self.enter(path, &above.verdict).map(Some)
    }

    /// Finds out about the directory `path`, whose parent has been entered.
    fn enter(&self, path: &Path, above: &Verdict) -> Result<Arc<Dir>, TreeError> {
        let verdict = self.patterns.judge(path, above);
        let mut is_shown = !verdict.is_match();
        if !is_shown && self.patterns.may_bring_back_below(path) {
            for (name, is_dir) in self.all_names(path)? {
                let child = path.join(name);
                is_shown = if is_dir {
                    self.enter(&child, &verdict)?.is_shown
                } else {
                    !self.patterns.judge(&child, &verdict).is_match()
                };
                if is_shown {
                    break;
                }
            }
        }
        let dir = Arc::new(Dir { verdict, is_shown });
        self.lock().dirs.insert(path.to_owned(), Arc::clone(&dir));
        Ok(dir)
    }

    /// The names in a directory and whether they are directories, ignored ones included, unsorted.
    fn all_names(&self, path: &Path) -> Result<Vec<(OsString, bool)>, TreeError> {
        let at = |source| self.error("list", path, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.host(path)).map_err(at)? {
            let entry = entry.map_err(at)?;
            let is_dir = entry.file_type().map_err(at)?.is_dir();
            names.push((entry.file_name(), is_dir));
        }
        Ok(names)
    }

    /// All names in a directory, ignored ones included, in order, and what the system says of each; and the directory
    /// itself, opened. One that has been entered has no link on its way.
    fn all(&self, path: &Path) -> Result<(OwnedFd, Vec<(OsString, Stat)>), TreeError> {
        let failed = |error| self.error("list", path, error);
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if !path.as_os_str().is_empty() {
            flags |= OFlags::NOFOLLOW;
        }
        let dir = rustix::fs::open(self.host(path), flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort_unstable();
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => all.push((name, stat)),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(self.error("read", &path.join(name), error)),
            }
        }
        Ok((dir, all))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at `path`, of which the system says this. It is not asked for the attributes of a file that is `plain`.
    fn node_of(
        &self,
        path: &dyn Fn() -> PathBuf,
        stat: &Stat,
        is_plain: bool,
    ) -> Result<Node, TreeError> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File {
                size: stat.st_size.cast_unsigned(),
            },
            FileType::Directory => Kind::Dir,
            FileType::Symlink => {
                let path = path();
                let target = rustix::fs::readlink(self.host(&path), Vec::new())
                    .map_err(|error| self.error("read", &path, error))?;
                Kind::Symlink {
                    target: OsString::from_vec(target.into_bytes()).into(),
                }
            }
            FileType::CharacterDevice => Kind::Char {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            FileType::BlockDevice => Kind::Block {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Unknown => Kind::Socket,
        };
        let mut xattrs = BTreeMap::new();
        if !is_plain
            && matches!(kind, Kind::File { .. })
            && let Some(value) = self.capability(&path())
        {
            xattrs.insert(CAPABILITY.into(), value);
        }
        let has_names = stat.st_nlink > 1 && kind != Kind::Dir;
        let inode = has_names.then(|| {
            let inodes = &mut self.lock().inodes;
            let next = inodes.len() as u64;
            *inodes.entry((stat.st_dev, stat.st_ino)).or_insert(next)
        });
        Ok(Node {
            metadata: Metadata {
                kind,
                mode: stat.st_mode & 0o7777,
                uid: 0,
                gid: 0,
                mtime: Timestamp {
                    seconds: stat.st_mtime,
                    nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
                },
                xattrs,
            },
            inode,
        })
    }

    /// The file capabilities of `path`. A file system without attributes has none.
    fn capability(&self, path: &Path) -> Option<Vec<u8>> {
        // A version 3 capability, the longest, has 24 bytes.
        let mut value = [0_u8; 64];
        let length = rustix::fs::lgetxattr(self.host(path), CAPABILITY, &mut value).ok()?;
        Some(value[..length].to_vec())
    }
}

const CAPABILITY: &str = "security.capability";

impl Tree for LocalTree {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let Some(parent) = path.parent() else {
            let stat = self
                .stat(path)?
                .ok_or_else(|| self.error("read", path, io::ErrorKind::NotFound))?;
            return Ok(Some(self.node_of(&|| path.to_owned(), &stat, false)?));
        };
        let Some(above) = self.dir(parent)? else {
            return Ok(None);
        };
        let Some(stat) = self.stat(path)? else {
            return Ok(None);
        };
        let is_shown = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.dir(path)?.is_some_and(|dir| dir.is_shown)
        } else {
            !self.patterns.judge(path, &above.verdict).is_match()
        };
        if !is_shown {
            return Ok(None);
        }
        self.node_of(&|| path.to_owned(), &stat, false).map(Some)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let Some(dir) = self.dir(path)?.filter(|dir| dir.is_shown) else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for (name, is_dir) in self.all_names(path)? {
            let child = path.join(&name);
            let is_shown = if self.patterns.is_empty() {
                true
            } else if is_dir {
                self.dir(&child)?.is_some_and(|dir| dir.is_shown)
            } else {
                !self.patterns.judge(&child, &dir.verdict).is_match()
            };
            if is_shown {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn list(&self, path: &Path) -> Result<Vec<Listed>, TreeError> {
        let Some(dir) = self.dir(path)?.filter(|dir| dir.is_shown) else {
            return Ok(Vec::new());
        };
        let (_open, mut all) = self.all(path)?;
        let mut failure = None;
        all.retain(|(name, stat)| {
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if self.patterns.is_empty() && !is_dir {
                return true;
            }
            let child = tree::child(path, name);
            let is_shown = if is_dir {
                let entered = self.lock().dirs.get(&child).cloned();
                let entered = match entered {
                    Some(dir) => Ok(dir),
                    None => self.enter(&child, &dir.verdict),
                };
                entered.map(|dir| dir.is_shown)
            } else {
                Ok(!self.patterns.judge(&child, &dir.verdict).is_match())
            };
            is_shown.unwrap_or_else(|error| {
                failure.get_or_insert(error);
                false
            })
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let stamps: Vec<Option<Stamp>> = all
            .iter()
            .map(|(_, stat)| {
                let kind = FileType::from_raw_mode(stat.st_mode);
                (kind == FileType::RegularFile).then(|| Stamp::of(stat))
            })
            .collect();
        let asked = all.iter().zip(&stamps);
        let asked = asked.map(|((name, _), stamp)| Some((name.as_os_str(), stamp.as_ref()?)));
        let known = self.cache.tell(path, asked);
        all.into_iter()
            .zip(known)
            .map(|((name, stat), known)| {
                let is_plain = known.is_some_and(|known| known.is_plain);
                Ok(Listed {
                    node: self.node_of(&|| tree::child(path, &name), &stat, is_plain)?,
                    name,
                    digest: known.map(|known| known.digest),
                })
            })
            .collect()
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, TreeError> {
        self.open_as_told(path)
    }

    fn tells_when_read(&self) -> bool {
        true
    }

    fn known_digest(&self, path: &Path) -> Option<Digest> {
        self.cache.told(path).map(|(_, digest)| digest)
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        self.tell_digest(path)
    }

    fn root_time(&self) -> Option<Timestamp> {
        self.root_time
    }

    fn ignored_by(&self, path: &Path) -> Option<IgnoreLine> {
        let verdict = self.patterns.judge_path(path);
        let rule = self.patterns.decisive(&verdict)?;
        let is_hidden = verdict.is_match()
            && matches!(self.stat(path), Ok(Some(_)))
            && matches!(self.node(path), Ok(None));
        is_hidden.then(|| IgnoreLine {
            file: self.patterns.file.clone(),
            number: rule.line,
            pattern: rule.text.clone(),
        })
    }
}

impl std::fmt::Debug for LocalTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalTree").field(&self.root).finish()
    }
}

#[cfg(test)]
mod tests;
