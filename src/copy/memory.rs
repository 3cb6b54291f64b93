//! A tree in memory, written one entry a line, for tests.
//!
//! ```text
//! KIND PATH MODE UID GID [@MTIME] [+XATTR=VALUE] [REST]     dir, file, symlink, hardlink, fifo, socket, char, block
//! ```
//! `REST` is the content (`\n` is a line feed), the target of a link, or `MAJOR,MINOR`. Missing parents are 0755 and
//! root's. The modification time is 1000 when not said.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use crate::{
    layer::Change,
    oci::{Digest, sha256},
    tree::{Kind, Metadata, Node, Timestamp, Tree, TreeError},
};

#[derive(Debug, Clone)]
struct Inode {
    metadata: Metadata,
    content: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryTree {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
}

impl MemoryTree {
    pub(crate) fn parse(text: &str) -> Self {
        let mut tree = Self::default();
        tree.put(
            Path::new(""),
            Metadata::dir(Timestamp::from_seconds(1000)),
            Vec::new(),
        );
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let mut words = line.splitn(6, ' ');
            let kind = words.next().unwrap();
            let path = PathBuf::from(words.next().unwrap());
            if kind == "hardlink" {
                let inode = tree.names[Path::new(words.next().unwrap())];
                tree.make_parents(&path);
                tree.names.insert(path, inode);
                continue;
            }
            let mode = u32::from_str_radix(words.next().unwrap_or("0755"), 8).unwrap();
            let uid = words.next().unwrap_or("0").parse().unwrap();
            let gid = words.next().unwrap_or("0").parse().unwrap();
            let mut rest = words.next().unwrap_or("");
            let mut metadata = Metadata::dir(Timestamp::from_seconds(1000));
            metadata.mode = mode;
            metadata.uid = uid;
            metadata.gid = gid;
            while let Some(mark) = rest.strip_prefix(['@', '+']) {
                let (word, after) = mark.split_once(' ').unwrap_or((mark, ""));
                if rest.starts_with('@') {
                    metadata.mtime = Timestamp::from_seconds(word.parse().unwrap());
                } else {
                    let (name, value) = word.split_once('=').unwrap();
                    metadata.xattrs.insert(name.into(), value.into());
                }
                rest = after;
            }
            let mut content = Vec::new();
            let device = || {
                let (major, minor) = rest.split_once(',').unwrap();
                (major.parse().unwrap(), minor.parse().unwrap())
            };
            metadata.kind = match kind {
                "dir" => Kind::Dir,
                "file" => {
                    content = rest.replace("\\n", "\n").into_bytes();
                    Kind::File {
                        size: content.len() as u64,
                    }
                }
                "symlink" => Kind::Symlink {
                    target: rest.into(),
                },
                "fifo" => Kind::Fifo,
                "socket" => Kind::Socket,
                "char" => {
                    let (major, minor) = device();
                    Kind::Char { major, minor }
                }
                "block" => {
                    let (major, minor) = device();
                    Kind::Block { major, minor }
                }
                other => panic!("unknown kind {other}"),
            };
            tree.put(&path, metadata, content);
        }
        tree
    }

    fn make_parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            if !self.names.contains_key(parent) {
                let metadata = Metadata::dir(Timestamp::from_seconds(1000));
                self.put(parent, metadata, Vec::new());
            }
        }
    }

    fn put(&mut self, path: &Path, metadata: Metadata, content: Vec<u8>) {
        self.make_parents(path);
        self.inodes.push(Inode { metadata, content });
        self.names.insert(path.to_owned(), self.inodes.len() - 1);
    }

    fn remove(&mut self, path: &Path) {
        self.names.retain(|name, _| !name.starts_with(path));
    }

    /// What there is when a layer with these changes lies on top.
    pub(crate) fn with(&self, changes: &[Change]) -> Self {
        let mut tree = self.clone();
        for change in changes {
            match change {
                Change::Put {
                    path,
                    metadata,
                    content,
                } => {
                    let merges = metadata.is_dir()
                        && tree
                            .names
                            .get(path)
                            .is_some_and(|i| tree.inodes[*i].metadata.is_dir());
                    if !merges {
                        tree.remove(path);
                    }
                    assert!(
                        path.parent().is_none_or(|p| tree.names.contains_key(p)),
                        "{} has no parent",
                        path.display()
                    );
                    let mut bytes = Vec::new();
                    io::copy(&mut content.open().unwrap(), &mut bytes).unwrap();
                    tree.put(path, metadata.clone(), bytes);
                }
                Change::Link { path, target } => {
                    tree.remove(path);
                    let inode = tree.names[target];
                    tree.names.insert(path.clone(), inode);
                }
                Change::Remove { path } => tree.remove(path),
                Change::Opaque { .. } => panic!("no copy makes a directory opaque"),
            }
        }
        tree
    }

    /// The tree as text, one line each, times left out, hard links by their first name.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut first: BTreeMap<usize, &Path> = BTreeMap::new();
        for (path, inode) in &self.names {
            if path.as_os_str().is_empty() {
                continue;
            }
            if let Some(name) = first.get(inode) {
                writeln!(out, "hardlink {} {}", path.display(), name.display()).unwrap();
                continue;
            }
            first.insert(*inode, path);
            let Inode { metadata, content } = &self.inodes[*inode];
            let (kind, rest) = match &metadata.kind {
                Kind::Dir => ("dir", String::new()),
                Kind::File { .. } => (
                    "file",
                    String::from_utf8_lossy(content).replace('\n', "\\n"),
                ),
                Kind::Symlink { target } => ("symlink", target.display().to_string()),
                Kind::Char { major, minor } => ("char", format!("{major},{minor}")),
                Kind::Block { major, minor } => ("block", format!("{major},{minor}")),
                Kind::Fifo => ("fifo", String::new()),
                Kind::Socket => ("socket", String::new()),
            };
            let mut xattrs = String::new();
            for (name, value) in &metadata.xattrs {
                let value = String::from_utf8_lossy(value);
                write!(xattrs, " +{}={value}", name.to_string_lossy()).unwrap();
            }
            let line = format!(
                "{kind} {} {:04o} {} {}{xattrs} {rest}",
                path.display(),
                metadata.mode,
                metadata.uid,
                metadata.gid
            );
            writeln!(out, "{}", line.trim_end()).unwrap();
        }
        out
    }

    /// When `path` was changed last.
    pub(crate) fn mtime(&self, path: &str) -> i64 {
        let inode = self.names[Path::new(path)];
        self.inodes[inode].metadata.mtime.seconds
    }

    fn missing(action: &'static str, path: &Path) -> TreeError {
        TreeError {
            action,
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        }
    }
}

impl Tree for MemoryTree {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        Ok(self.names.get(path).map(|inode| {
            let names = self.names.values().filter(|i| *i == inode).count();
            Node {
                metadata: self.inodes[*inode].metadata.clone(),
                inode: (names > 1).then_some(*inode as u64),
            }
        }))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        Ok(self
            .names
            .keys()
            .filter(|name| name.parent() == Some(path))
            .filter_map(|name| Some(name.file_name()?.to_owned()))
            .collect())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        let inode = self
            .names
            .get(path)
            .ok_or_else(|| Self::missing("read", path))?;
        Ok(Box::new(io::Cursor::new(
            self.inodes[*inode].content.clone(),
        )))
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        let inode = self
            .names
            .get(path)
            .ok_or_else(|| Self::missing("read", path))?;
        Ok(sha256(&self.inodes[*inode].content))
    }
}
