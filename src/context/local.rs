//! A directory of this machine as a build context.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek as _},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use super::{
    ContextError, Patterns, Rule, Verdict,
    stat_cache::{Stamp, StatCache},
};
use crate::{
    oci::{Digest, Digester},
    tree::{Kind, Metadata, Node, Timestamp, Tree, TreeError},
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
/// the new bytes would be remembered as that of the old ones.
pub struct LocalTree {
    root: PathBuf,
    patterns: Patterns,
    cache: Option<Arc<StatCache>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Directories seen, the root excepted.
    dirs: HashMap<PathBuf, Arc<Dir>>,
    /// A number for each inode with several names.
    inodes: HashMap<(u64, u64), u64>,
    /// Files shown: how they looked, and their digests as far as those were told.
    files: HashMap<PathBuf, (Stamp, Option<Digest>)>,
}

/// A directory whose parents are directories, too, and no links.
struct Dir {
    verdict: Verdict,
    /// Whether it belongs to the context.
    is_shown: bool,
}

impl LocalTree {
    /// The directory `root`, less what the patterns name. With a cache, files that have not changed are not read to
    /// tell their digest; it knows files by their path, so `root` should be absolute then.
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
            cache,
            state: Mutex::default(),
        })
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The line of the ignore file that leaves `path` out; `None` when none does.
    pub fn ignored_by(&self, path: &Path) -> Option<&Rule> {
        let verdict = self.patterns.judge_path(path);
        verdict
            .is_match()
            .then(|| self.patterns.decisive(&verdict))
            .flatten()
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
        use rustix::io::Errno;
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
            for (name, is_dir) in self.list(path)? {
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
    fn list(&self, path: &Path) -> Result<Vec<(OsString, bool)>, TreeError> {
        let at = |source| self.error("list", path, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.host(path)).map_err(at)? {
            let entry = entry.map_err(at)?;
            let is_dir = entry.file_type().map_err(at)?.is_dir();
            names.push((entry.file_name(), is_dir));
        }
        Ok(names)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_of(&self, path: &Path, stat: &Stat) -> Result<Node, TreeError> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File {
                size: stat.st_size.cast_unsigned(),
            },
            FileType::Directory => Kind::Dir,
            FileType::Symlink => {
                let target = rustix::fs::readlink(self.host(path), Vec::new())
                    .map_err(|error| self.error("read", path, error))?;
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
        if matches!(kind, Kind::File { .. }) {
            if let Some(value) = self.capability(path) {
                xattrs.insert(CAPABILITY.into(), value);
            }
            // A digest that was told holds for how the file looked then.
            let mut state = self.lock();
            match state.files.get_mut(path) {
                Some((_, Some(_))) => {}
                Some((shown, None)) => *shown = Stamp::of(stat),
                None => drop(state.files.insert(path.to_owned(), (Stamp::of(stat), None))),
            }
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

    fn open_file(&self, path: &Path) -> Result<File, TreeError> {
        // Not waiting matters only if a FIFO has taken the place of a file.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::open(self.host(path), flags, Mode::empty())
            .map(File::from)
            .map_err(|error| self.error("read", path, error))
    }

    fn stamp(&self, path: &Path, file: &File) -> Result<Stamp, TreeError> {
        rustix::fs::fstat(file)
            .map(|stat| Stamp::of(&stat))
            .map_err(|error| self.error("read", path, error))
    }

    /// The digest of a file, and how the file looked when it was read. `shown` is how it looked to whoever asks.
    fn stamped_digest(
        &self,
        path: &Path,
        shown: Option<Stamp>,
    ) -> Result<(Stamp, Digest), TreeError> {
        let host = self.host(path);
        if let Some(cache) = &self.cache {
            let stamp = match shown {
                Some(stamp) => Some(stamp),
                None => self.stat(path)?.map(|stat| Stamp::of(&stat)),
            };
            if let Some(stamp) = stamp
                && let Some(digest) = cache.get(&host, &stamp)
            {
                return Ok((stamp, digest));
            }
        }
        let file = self.open_file(path)?;
        let before = self.stamp(path, &file)?;
        let started = self.cache.as_ref().map(|cache| cache.now());
        let digest = self.hash(path, &file)?;
        if let Some(cache) = &self.cache
            && let Some(started) = started
            && self.stamp(path, &file)? == before
        {
            cache.put(&host, before, digest, started);
        }
        Ok((before, digest))
    }

    /// Hashes an open file.
    fn hash(&self, path: &Path, mut file: &File) -> Result<Digest, TreeError> {
        let mut digester = Digester::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => return Ok(digester.finish()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.error("read", path, error)),
            };
            digester.update(&buffer[..n]);
        }
    }
}

/// A file that is not what it was.
#[derive(Debug, thiserror::Error)]
#[error("it was changed while the build was reading it")]
struct Changed;

/// A file whose digest was told. One that is changed while it is read fails at its end.
struct Watched {
    file: File,
    stamp: Stamp,
}

impl Read for Watched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(out)?;
        if length == 0
            && !out.is_empty()
            && Stamp::of(&rustix::fs::fstat(&self.file)?) != self.stamp
        {
            return Err(io::Error::other(Changed));
        }
        Ok(length)
    }
}

const CAPABILITY: &str = "security.capability";

impl Tree for LocalTree {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let Some(parent) = path.parent() else {
            let stat = self
                .stat(path)?
                .ok_or_else(|| self.error("read", path, io::ErrorKind::NotFound))?;
            return Ok(Some(self.node_of(path, &stat)?));
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
        self.node_of(path, &stat).map(Some)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let Some(dir) = self.dir(path)?.filter(|dir| dir.is_shown) else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for (name, is_dir) in self.list(path)? {
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

    fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, TreeError> {
        let mut file = self.open_file(path)?;
        let Some((told, Some(digest))) = self.lock().files.get(path).copied() else {
            return Ok(Box::new(file));
        };
        let stamp = self.stamp(path, &file)?;
        if stamp != told {
            if self.hash(path, &file)? != digest {
                return Err(self.error("read", path, io::Error::other(Changed)));
            }
            file.rewind()
                .map_err(|error| self.error("read", path, error))?;
        }
        Ok(Box::new(Watched { file, stamp }))
    }

    fn known_digest(&self, path: &Path) -> Option<Digest> {
        self.lock().files.get(path)?.1
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        let shown = self.lock().files.get(path).map(|(stamp, _)| *stamp);
        let (stamp, digest) = self.stamped_digest(path, shown)?;
        let mut state = self.lock();
        match state.files.get_mut(path) {
            Some(file) => *file = (stamp, Some(digest)),
            None => drop(state.files.insert(path.to_owned(), (stamp, Some(digest)))),
        }
        Ok(digest)
    }

    fn is_ignored(&self, path: &Path) -> bool {
        !path.as_os_str().is_empty()
            && self.patterns.judge_path(path).is_match()
            && matches!(self.stat(path), Ok(Some(_)))
            && matches!(self.node(path), Ok(None))
    }
}

impl std::fmt::Debug for LocalTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalTree").field(&self.root).finish()
    }
}

/// The ignore file that holds for a context.
#[derive(Debug, Clone)]
pub struct IgnoreFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub patterns: Patterns,
}

impl IgnoreFile {
    /// The file `<dockerfile>.dockerignore` if there is one, else `.dockerignore` in the context; never both.
    pub fn find(context: &Path, dockerfile: Option<&Path>) -> Result<Option<Self>, ContextError> {
        let beside = dockerfile.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        for path in beside.into_iter().chain([context.join(".dockerignore")]) {
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if is_absent(&error) => continue,
                Err(source) => return Err(ContextError::Read { path, source }),
            };
            let patterns = Patterns::parse(&bytes).map_err(|error| ContextError::Patterns {
                path: path.clone(),
                error,
            })?;
            return Ok(Some(Self { path, patterns }));
        }
        Ok(None)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A Dockerfile found in a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDockerfile {
    /// Its name as it was looked for, `dockerfile` if only that was there.
    pub name: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Reads the Dockerfile `name` of a tree. A symbolic link is followed inside the tree; where `Dockerfile` is missing,
/// `dockerfile` is taken.
pub fn read_dockerfile(tree: &dyn Tree, name: &Path) -> Result<FoundDockerfile, ContextError> {
    let mut names = vec![crate::tree::clean(name)];
    if name.file_name() == Some(OsStr::new("Dockerfile")) {
        names.push(names[0].with_file_name("dockerfile"));
    }
    for name in names {
        let path = crate::tree::resolve(tree, &name, crate::tree::Last::Follow)?;
        let Some(node) = tree.node(&path)? else {
            continue;
        };
        if !matches!(node.metadata.kind, Kind::File { .. }) {
            return Err(ContextError::DockerfileIsNoFile { path: name });
        }
        let mut bytes = Vec::new();
        tree.open(&path)?
            .read_to_end(&mut bytes)
            .map_err(|source| ContextError::Read {
                path: path.clone(),
                source,
            })?;
        return Ok(FoundDockerfile { name, bytes });
    }
    Err(ContextError::NoDockerfile {
        path: name.to_owned(),
    })
}

#[cfg(test)]
mod tests;
