//! The inodes of a copy, packed.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    layer::Content,
    tree::{self, Kind, Metadata, Timestamp, Tree},
};

/// Inodes by number.
#[derive(Default)]
pub(super) struct Inodes {
    inodes: Vec<Inode>,
    /// Directories that files come from.
    sources: Vec<(Arc<dyn Tree>, PathBuf)>,
}

/// One inode, under one name or several.
struct Inode {
    size: u64,
    seconds: i64,
    nanos: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    /// The directory that has its bytes, under the name that the inode has here; [`NONE`] where they are elsewhere.
    source: u32,
    kind: PackedKind,
    rare: Option<Box<Rare>>,
}

/// What few inodes have.
struct Rare {
    /// A kind that has more to it than a size.
    kind: Option<Kind>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// Bytes that are not those of a file of the same name.
    content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PackedKind {
    File,
    Dir,
    Other,
}

const NONE: u32 = u32::MAX;

impl Inodes {
    /// Keeps one more, for now under this name, and returns its number.
    pub(super) fn push(&mut self, metadata: Metadata, content: Content, name: &OsStr) -> u32 {
        let number = u32::try_from(self.inodes.len());
        let (source, content) = match content {
            Content::Tree { tree, path } if path.file_name() == Some(name) => (
                self.source(&tree, path.parent().unwrap_or(Path::new(""))),
                Content::Empty,
            ),
            other => (NONE, other),
        };
        self.inodes.push(Inode {
            size: 0,
            seconds: 0,
            nanos: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            source,
            kind: PackedKind::Other,
            rare: rare(None, BTreeMap::new(), content),
        });
        let number = number.expect("a copy of as many files does not fit into memory");
        self.set_metadata(number, metadata);
        number
    }

    /// The number of a directory that files come from: mostly that of the file before.
    fn source(&mut self, tree: &Arc<dyn Tree>, dir: &Path) -> u32 {
        let is_last = self
            .sources
            .last()
            .is_some_and(|(of, last)| Arc::ptr_eq(of, tree) && last.as_os_str() == dir.as_os_str());
        if !is_last {
            self.sources.push((Arc::clone(tree), dir.to_owned()));
        }
        u32::try_from(self.sources.len() - 1).unwrap_or(NONE)
    }

    /// Lets an inode that has this name have others.
    pub(super) fn pin(&mut self, number: u32, name: &OsStr) {
        let content = self.content(number, name);
        let inode = &mut self.inodes[number as usize];
        inode.source = NONE;
        let before = inode.rare.take();
        let (kind, xattrs) = before.map_or_else(Default::default, |rare| (rare.kind, rare.xattrs));
        inode.rare = rare(kind, xattrs, content);
    }

    pub(super) fn is_dir(&self, number: u32) -> bool {
        self.inodes[number as usize].kind == PackedKind::Dir
    }

    pub(super) fn metadata(&self, number: u32) -> Metadata {
        let inode = &self.inodes[number as usize];
        let rare = inode.rare.as_ref();
        Metadata {
            kind: match inode.kind {
                PackedKind::File => Kind::File { size: inode.size },
                PackedKind::Dir => Kind::Dir,
                PackedKind::Other => {
                    let kind = rare.and_then(|rare| rare.kind.clone());
                    kind.expect("other kinds are kept whole")
                }
            },
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: Timestamp {
                seconds: inode.seconds,
                nanos: inode.nanos,
            },
            xattrs: rare.map_or_else(BTreeMap::new, |rare| rare.xattrs.clone()),
        }
    }

    pub(super) fn set_metadata(&mut self, number: u32, metadata: Metadata) {
        let inode = &mut self.inodes[number as usize];
        let Metadata {
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = metadata;
        (inode.mode, inode.uid, inode.gid) = (mode, uid, gid);
        (inode.seconds, inode.nanos) = (mtime.seconds, mtime.nanos);
        (inode.kind, inode.size) = match kind {
            Kind::File { size } => (PackedKind::File, size),
            Kind::Dir => (PackedKind::Dir, 0),
            _ => (PackedKind::Other, 0),
        };
        let kind = (inode.kind == PackedKind::Other).then_some(kind);
        let content = inode
            .rare
            .take()
            .map_or(Content::Empty, |rare| rare.content);
        inode.rare = rare(kind, xattrs, content);
    }

    /// The bytes of the inode that has this name; inodes that are pinned have them under any.
    pub(super) fn content(&self, number: u32, name: &OsStr) -> Content {
        let inode = &self.inodes[number as usize];
        if let Some((tree, dir)) = self.sources.get(inode.source as usize) {
            return Content::Tree {
                tree: Arc::clone(tree),
                path: tree::child(dir, name),
            };
        }
        inode
            .rare
            .as_ref()
            .map_or(Content::Empty, |rare| rare.content.clone())
    }
}

/// A box only for what is there.
fn rare(
    kind: Option<Kind>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    content: Content,
) -> Option<Box<Rare>> {
    let is_empty = kind.is_none() && xattrs.is_empty() && matches!(content, Content::Empty);
    (!is_empty).then(|| {
        Box::new(Rare {
            kind,
            xattrs,
            content,
        })
    })
}
