//! A stack of layers as one tree.
//!
//! [`LayerTree`] is a persistent value: [`LayerTree::push`] gives the tree with one layer more and shares every directory that the
//! layer leaves alone, so the states of a build cost what their layers change. Nodes point into the tables of contents.
//!
//! How a layer is applied, after image-spec, layer.md, "Applying Changesets":
//! - whiteouts and opaque markers first, on what lower layers have; so their place in the archive does not matter;
//! - then entries in archive order, a later one winning; a directory over a directory keeps what is in it;
//! - directories above an entry are followed through symbolic links inside the root, as unpacking onto a disk would, and made (root's, 0755) where
//!   they are missing.

mod apply;
mod difference;
mod entry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fmt, io,
    path::Path,
    sync::Arc,
};

pub use self::{
    apply::StackError,
    difference::{Difference, Different},
    entry::EntryFile,
};
use super::{
    blob::LayerBlob,
    toc::{FileContent, TocEntry, TocItem},
};
use crate::{
    oci::Digest,
    tree::{Kind, Metadata, Node, Timestamp, Tree, TreeError},
};

/// What a stack of layers adds up to. Cloning is cheap.
#[derive(Clone)]
pub struct LayerTree {
    root: Arc<Dir>,
    layers: Vec<Arc<LayerBlob>>,
    /// How many names each inode has that ever had several.
    names: Arc<HashMap<Origin, u32>>,
}

#[derive(Clone, Default)]
struct Dir {
    /// The entry that describes it; `None` for a directory that no layer names.
    origin: Option<Origin>,
    children: BTreeMap<OsString, Slot>,
}

#[derive(Clone)]
enum Slot {
    Dir(Arc<Dir>),
    Leaf(Leaf),
}

/// Anything but a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Leaf {
    origin: Origin,
    /// The inode has, or had, more names than this one.
    linked: bool,
}

/// An entry of a layer's table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Origin {
    layer: u32,
    entry: u32,
}

impl Origin {
    fn inode(self) -> u64 {
        u64::from(self.layer) << 32 | u64::from(self.entry)
    }
}

/// Where a file's bytes are in a stack. In this order, reading goes forward only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// Position of the layer, 0 being the base.
    pub layer: usize,
    /// Offset in the layer's tar.
    pub offset: u64,
    /// Whether the tar leaves out holes.
    pub sparse: bool,
}

impl Default for LayerTree {
    fn default() -> Self {
        Self::empty()
    }
}

impl LayerTree {
    /// The tree of no layers: an empty root directory.
    pub fn empty() -> Self {
        Self {
            root: Arc::default(),
            layers: Vec::new(),
            names: Arc::default(),
        }
    }

    /// The tree of a stack of layers, base first.
    pub fn of(layers: impl IntoIterator<Item = Arc<LayerBlob>>) -> Result<Self, StackError> {
        layers.into_iter().try_fold(Self::empty(), Self::topped)
    }

    /// The layers, base first.
    pub fn layers(&self) -> &[Arc<LayerBlob>] {
        &self.layers
    }

    fn entry(&self, origin: Origin) -> &TocEntry {
        &self.layers[origin.layer as usize].toc().entries[origin.entry as usize]
    }

    /// Metadata and content of an entry that is a node, as all entries that trees point to are.
    fn node_of(&self, origin: Origin) -> (&Metadata, Option<&FileContent>) {
        match &self.entry(origin).item {
            TocItem::Node { metadata, content } => (metadata, content.as_ref()),
            TocItem::Link { .. } | TocItem::Remove | TocItem::Opaque => {
                unreachable!("only nodes are put into the tree")
            }
        }
    }

    fn dir_metadata(&self, dir: &Dir) -> Metadata {
        dir.origin.map_or_else(
            || Metadata::dir(Timestamp::default()),
            |origin| self.node_of(origin).0.clone(),
        )
    }

    /// What is at a path without symbolic links above its last component.
    fn lookup(&self, path: &Path) -> Option<Found<'_>> {
        let mut found = Found::Dir(&self.root);
        for name in path {
            let Found::Dir(dir) = found else { return None };
            found = match dir.children.get(name)? {
                Slot::Dir(dir) => Found::Dir(dir),
                Slot::Leaf(leaf) => Found::Leaf(*leaf),
            };
        }
        Some(found)
    }

    /// Whether the regular file at `path` has these bytes, not those of another entry that had its name.
    pub fn shows(&self, path: &Path, content: &FileContent) -> bool {
        self.file(path)
            .is_ok_and(|(_, _, shown)| shown.offset == content.offset)
    }

    /// The number of an inode with several names.
    fn inode(&self, leaf: Leaf) -> Option<u64> {
        let names = self.names.get(&leaf.origin)?;
        (leaf.linked && *names > 1).then(|| leaf.origin.inode())
    }
}

enum Found<'a> {
    Dir(&'a Arc<Dir>),
    Leaf(Leaf),
}

impl Tree for LayerTree {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        Ok(self.lookup(path).map(|found| match found {
            Found::Dir(dir) => Node {
                metadata: self.dir_metadata(dir),
                inode: None,
            },
            Found::Leaf(leaf) => Node {
                metadata: self.node_of(leaf.origin).0.clone(),
                inode: self.inode(leaf),
            },
        }))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        Ok(match self.lookup(path) {
            Some(Found::Dir(dir)) => dir.children.keys().cloned().collect(),
            _ => Vec::new(),
        })
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        let error = |source| TreeError {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let (origin, metadata, content) = self.file(path).map_err(error)?;
        let Kind::File { size } = metadata.kind else {
            return Err(error(io::ErrorKind::InvalidInput.into()));
        };
        self.layers[origin.layer as usize]
            .file_content(content, size)
            .map_err(error)
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        let error = |source: io::Error| TreeError {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let (origin, _, content) = self.file(path).map_err(error)?;
        let layer = &self.layers[origin.layer as usize];
        layer.file_digest(content).map_err(error)
    }
}

impl LayerTree {
    fn file(&self, path: &Path) -> io::Result<(Origin, &Metadata, &FileContent)> {
        match self.lookup(path) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Found::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Found::Leaf(leaf)) => {
                let (metadata, content) = self.node_of(leaf.origin);
                let content = content.ok_or(io::ErrorKind::InvalidInput)?;
                Ok((leaf.origin, metadata, content))
            }
        }
    }
}

impl fmt::Debug for LayerTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LayerTree").field(&self.layers).finish()
    }
}
