//! Read-only file system trees: a build context, or what a stack of layers adds up to.
//!
//! Paths are relative, without `.` and `..`; the root is the empty path. They order by component, which is the
//! order of a walk: `a`, `a/b`, `a.b`. A [`Tree`] never follows symbolic links; [`resolve`] does, inside the
//! tree's root, as a process that has the tree as `/` would.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    path::{Component, Path, PathBuf},
};

use crate::oci::Digest;

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999 999 999, added to the seconds.
    pub nanos: u32,
}

impl Timestamp {
    /// A moment on the second.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }
}

/// As the time of the last change; that of the last access is the same, so that nothing tells when the file was made.
impl From<Timestamp> for rustix::fs::Timestamps {
    fn from(mtime: Timestamp) -> Self {
        let time = rustix::fs::Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanos.into(),
        };
        Self {
            last_access: time,
            last_modification: time,
        }
    }
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file of so many bytes.
    File {
        /// Its length.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: PathBuf,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket; layers cannot hold one.
    Socket,
}

/// All that a layer keeps of an inode but its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes by full name, in order.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Metadata {
    /// A directory, 0755 and root's.
    pub fn dir(mtime: Timestamp) -> Self {
        Self {
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: BTreeMap::new(),
        }
    }

    /// A regular file, 0644 and root's.
    pub fn file(size: u64, mtime: Timestamp) -> Self {
        Self {
            kind: Kind::File { size },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: BTreeMap::new(),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

/// What a tree has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its metadata.
    pub metadata: Metadata,
    /// Equal for all names of one inode within one tree; `None` when it has a single name.
    pub inode: Option<u64>,
}

/// A name in a directory, and what it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: OsString,
    /// What it is of.
    pub node: Node,
    /// The digest of a regular file's bytes, where it is known without reading them; it counts as told, as by
    /// [`Tree::digest`].
    pub digest: Option<Digest>,
}

/// A tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct TreeError {
    /// What was tried: `read`, `list`, `follow`.
    pub action: &'static str,
    /// On which path; a path of the tree, or of the host where a context lies on disk.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// The longest name that the file systems of Linux take, in bytes.
pub const MAX_NAME: usize = 255;
/// The longest path that Linux takes, in bytes, with the `/` in front; a NUL makes it 4096.
pub const MAX_PATH: usize = 4095;
/// More directories inside each other than this are an attack on whoever walks them.
pub const MAX_DEPTH: usize = 256;

/// A read-only file system tree. Implementations may read lazily; they are shared between threads.
pub trait Tree: Send + Sync {
    /// What is at `path`, its last component not followed; `None` when there is nothing.
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError>;

    /// The names in the directory `path`, sorted by bytes. Empty when `path` is no directory.
    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError>;

    /// All that is in the directory `path`, by name in order of bytes: what [`Tree::names`] and [`Tree::node`] say, at
    /// once. Names that are gone by the time they are looked at are left out.
    fn list(&self, path: &Path) -> Result<Vec<Listed>, TreeError> {
        let mut listed = Vec::new();
        for name in self.names(path)? {
            if let Some(node) = self.node(&path.join(&name))? {
                listed.push(Listed {
                    name,
                    node,
                    digest: None,
                });
            }
        }
        Ok(listed)
    }

    /// The bytes of the regular file `path`.
    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError>;

    /// The digest of the bytes of the regular file `path`, remembered where that is cheaper than reading.
    fn digest(&self, path: &Path) -> Result<Digest, TreeError>;

    /// The digest of the bytes that [`Tree::open`] gives, where it is known without reading them. They are those bytes,
    /// or reading them fails.
    fn known_digest(&self, path: &Path) -> Option<Digest> {
        let _ = path;
        None
    }

    /// Whether [`Tree::known_digest`] knows the digest of every file that a reader from [`Tree::open`] was read of to its end, the
    /// answer that there is no more included.
    fn tells_when_read(&self) -> bool {
        false
    }

    /// The time of the root, where it has one that is the same each time.
    fn root_time(&self) -> Option<Timestamp> {
        None
    }

    /// Whether listing a directory waits for nothing, so that nobody need list it ahead.
    fn lists_at_once(&self) -> bool {
        false
    }

    /// The line of an ignore file because of which `path` is missing; `None` where it is missing otherwise, or is there.
    fn ignored_by(&self, path: &Path) -> Option<IgnoreLine> {
        let _ = path;
        None
    }
}

/// A line of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreLine {
    /// The name of the file, where the patterns are those of one.
    pub file: Option<OsString>,
    /// Its number, from 1.
    pub number: usize,
    /// The pattern, as it was written.
    pub pattern: String,
}

/// The path of a name in a directory. As [`Path::join`] for paths of trees, with one allocation: whoever walks a tree needs
/// several for each name.
pub fn child(dir: &Path, name: &OsStr) -> PathBuf {
    let mut path = OsString::with_capacity(dir.as_os_str().len() + 1 + name.len());
    if !dir.as_os_str().is_empty() {
        path.push(dir);
        path.push("/");
    }
    path.push(name);
    path.into()
}

/// A tree with nothing but a root directory: `FROM scratch`.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyTree;

impl Tree for EmptyTree {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let root = path.as_os_str().is_empty();
        Ok(root.then(|| Node {
            metadata: Metadata::dir(Timestamp::default()),
            inode: None,
        }))
    }

    fn names(&self, _: &Path) -> Result<Vec<OsString>, TreeError> {
        Ok(Vec::new())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        Err(TreeError {
            action: "read",
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        Err(TreeError {
            action: "read",
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

/// As many links as Linux follows before it gives up (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Whether the last component of a path is followed when it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// As `stat` does.
    Follow,
    /// As `lstat` does.
    Keep,
}

/// Where `path` leads, with every symbolic link on the way followed inside the tree. Components that do not
/// exist are kept, so the result of a dangling link is the path that its creation would make.
pub fn resolve(tree: &dyn Tree, path: &Path, last: Last) -> Result<PathBuf, TreeError> {
    let mut done = PathBuf::new();
    let mut todo: Vec<OsString> = Vec::new();
    push_components(&mut todo, path);
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == OsStr::new("..") {
            done.pop();
            continue;
        }
        done.push(&name);
        if todo.is_empty() && last == Last::Keep {
            break;
        }
        if let Some(Node {
            metadata:
                Metadata {
                    kind: Kind::Symlink { target },
                    ..
                },
            ..
        }) = tree.node(&done)?
        {
            links += 1;
            if links > MAX_LINKS {
                let source = io::Error::from_raw_os_error(rustix::io::Errno::LOOP.raw_os_error());
                return Err(TreeError {
                    action: "follow",
                    path: path.to_owned(),
                    source,
                });
            }
            done.pop();
            if target.is_absolute() {
                done.clear();
            }
            push_components(&mut todo, &target);
        }
    }
    Ok(done)
}

/// Puts the components of `path` on a stack, first on top; `..` is kept, `/` and `.` are dropped.
fn push_components(stack: &mut Vec<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => stack.push(name.to_owned()),
            Component::ParentDir => stack.push("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// A path as a tree wants it: relative, `.` and `..` taken out as if at the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut done = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => done.push(name),
            Component::ParentDir => {
                done.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    done
}
