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

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    blob::LayerBlob,
    toc::{FileContent, TocEntry, TocItem},
};
use crate::{
    oci::Digest,
    tree::{Kind, Last, MAX_DEPTH, MAX_PATH, Metadata, Node, Timestamp, Tree, TreeError, resolve},
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

/// A layer cannot lie on those below it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// A path leads through something that is neither directory nor symbolic link to one.
    #[error("`{}` lies below something that is no directory", path.display())]
    NotADirectory {
        /// The path in the layer.
        path: PathBuf,
    },
    /// A path leads through too many symbolic links.
    #[error("`{}` leads through too many symbolic links", path.display())]
    Loop {
        /// The path in the layer.
        path: PathBuf,
    },
    /// A path has more directories above it than any program makes, or is longer than Linux lets it be.
    #[error("`{}` lies too deep", path.display())]
    TooDeep {
        /// The path in the layer.
        path: PathBuf,
    },
    /// A hard link's target does not exist, or is a directory.
    #[error("`{}` is a hard link to `{}`, which is no file", path.display(), target.display())]
    LinkTarget {
        /// The path in the layer.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// There are more layers or entries than the program counts.
    #[error("a layer has more entries than can be numbered")]
    TooMany,
}

/// What a tree has at a path that a lower tree has otherwise, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: PathBuf,
    /// What is there now.
    pub what: Different,
}

/// What is at the path of a [`Difference`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Different {
    /// Nothing: what the lower tree has is gone.
    Gone,
    /// A directory, itself changed or with changes in it.
    Dir {
        /// Its metadata.
        metadata: Metadata,
        /// Whether the lower tree has a directory there too.
        merged: bool,
    },
    /// Anything else.
    Leaf {
        /// Its metadata.
        metadata: Metadata,
        /// Equal for all names of one inode.
        inode: Option<u64>,
        /// Where its bytes are.
        stored: Stored,
    },
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
        layers
            .into_iter()
            .try_fold(Self::empty(), |tree, layer| tree.push(layer))
    }

    /// The tree with one layer on top. Shares with `self` all that the layer does not change.
    pub fn push(&self, layer: Arc<LayerBlob>) -> Result<Self, StackError> {
        let mut tree = self.clone();
        let number = u32::try_from(tree.layers.len())
            .ok()
            .ok_or(StackError::TooMany)?;
        let toc = Arc::clone(layer.toc());
        u32::try_from(toc.entries.len())
            .ok()
            .ok_or(StackError::TooMany)?;
        tree.layers.push(layer);
        for entry in &toc.entries {
            match entry.item {
                TocItem::Remove => tree.remove(&entry.path)?,
                TocItem::Opaque => tree.empty_dir(&entry.path)?,
                TocItem::Node { .. } | TocItem::Link { .. } => {}
            }
        }
        for (index, entry) in (0..).zip(&toc.entries) {
            let origin = Origin {
                layer: number,
                entry: index,
            };
            match &entry.item {
                TocItem::Node { metadata, .. } => {
                    let path = tree.real_path(&entry.path)?;
                    tree.put(&path, origin, metadata.is_dir(), &entry.path)?;
                }
                TocItem::Link { target } => tree.link(&entry.path, target)?,
                TocItem::Remove | TocItem::Opaque => {}
            }
        }
        Ok(tree)
    }

    /// The layers, base first.
    pub fn layers(&self) -> &[Arc<LayerBlob>] {
        &self.layers
    }

    /// All that this tree has otherwise than `lower`, from which it was made by pushing layers; in the order of a walk.
    /// Directories above a difference are among the differences.
    pub fn differences(&self, lower: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        self.compare(&self.root, Some(&lower.root), Path::new(""), &mut found);
        found
    }

    /// Appends what is different in a directory, the directory itself first; whether there was anything.
    fn compare(
        &self,
        upper: &Arc<Dir>,
        lower: Option<&Arc<Dir>>,
        path: &Path,
        found: &mut Vec<Difference>,
    ) -> bool {
        if lower.is_some_and(|lower| Arc::ptr_eq(upper, lower)) {
            return false;
        }
        let start = found.len();
        found.push(Difference {
            path: path.to_owned(),
            what: Different::Dir {
                metadata: self.dir_metadata(upper),
                merged: lower.is_some(),
            },
        });
        let empty = BTreeMap::new();
        let below = lower.map_or(&empty, |lower| &lower.children);
        let mut names: Vec<&OsString> = upper.children.keys().collect();
        names.extend(
            below
                .keys()
                .filter(|name| !upper.children.contains_key(*name)),
        );
        names.sort();
        for name in names {
            let path = path.join(name);
            match (upper.children.get(name), below.get(name)) {
                (None, _) => found.push(Difference {
                    path,
                    what: Different::Gone,
                }),
                (Some(Slot::Dir(dir)), Some(Slot::Dir(before))) => {
                    self.compare(dir, Some(before), &path, found);
                }
                (Some(Slot::Dir(dir)), _) => {
                    self.compare(dir, None, &path, found);
                }
                (Some(Slot::Leaf(leaf)), Some(Slot::Leaf(before))) if leaf == before => {}
                (Some(Slot::Leaf(leaf)), _) => {
                    let (metadata, content) = self.node_of(leaf.origin);
                    let stored = Stored {
                        layer: leaf.origin.layer as usize,
                        offset: content.map_or(0, |content| content.offset),
                        sparse: content.is_some_and(|content| content.sparse.is_some()),
                    };
                    found.push(Difference {
                        path,
                        what: Different::Leaf {
                            metadata: metadata.clone(),
                            inode: self.inode(*leaf),
                            stored,
                        },
                    });
                }
            }
        }
        let same = lower.is_some_and(|lower| {
            upper.origin == lower.origin || self.dir_metadata(upper) == self.dir_metadata(lower)
        });
        if found.len() == start + 1 && same {
            found.truncate(start);
            return false;
        }
        true
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

    /// The path with everything above its last component resolved.
    fn real_path(&self, path: &Path) -> Result<PathBuf, StackError> {
        let real = self.resolved(path)?;
        // Trees are walked by recursion; and no disk could take a longer path.
        if real.as_os_str().len() >= MAX_PATH || real.components().count() > MAX_DEPTH {
            let path = path.to_owned();
            return Err(StackError::TooDeep { path });
        }
        Ok(real)
    }

    fn resolved(&self, path: &Path) -> Result<PathBuf, StackError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(PathBuf::new());
        };
        // Hardly any path leads through a link, and a walk down is cheap.
        let mut dir = &self.root;
        for above in parent {
            match dir.children.get(above) {
                Some(Slot::Dir(child)) => dir = child,
                // Below here everything will be made.
                None => return Ok(path.to_owned()),
                Some(Slot::Leaf(_)) => {
                    let parent = resolve(self, parent, Last::Follow).ok().ok_or_else(|| {
                        StackError::Loop {
                            path: path.to_owned(),
                        }
                    })?;
                    return Ok(parent.join(name));
                }
            }
        }
        Ok(path.to_owned())
    }

    /// The directory at a path, missing ones made on the way. `shown` is the path for the error.
    fn make_dirs(&mut self, path: &Path, shown: &Path) -> Result<&mut Dir, StackError> {
        let mut dir = Arc::make_mut(&mut self.root);
        for name in path {
            let slot = dir
                .children
                .entry(name.to_owned())
                .or_insert_with(|| Slot::Dir(Arc::default()));
            let Slot::Dir(child) = slot else {
                return Err(StackError::NotADirectory {
                    path: shown.to_owned(),
                });
            };
            dir = Arc::make_mut(child);
        }
        Ok(dir)
    }

    fn put(
        &mut self,
        path: &Path,
        origin: Origin,
        is_dir: bool,
        shown: &Path,
    ) -> Result<(), StackError> {
        let Some(name) = path.file_name() else {
            Arc::make_mut(&mut self.root).origin = Some(origin);
            return Ok(());
        };
        let parent = self.make_dirs(path.parent().unwrap_or(Path::new("")), shown)?;
        if !is_dir {
            let leaf = Leaf {
                origin,
                linked: false,
            };
            let old = parent.children.insert(name.to_owned(), Slot::Leaf(leaf));
            self.forget(old);
        } else if let Some(Slot::Dir(dir)) = parent.children.get_mut(name) {
            Arc::make_mut(dir).origin = Some(origin);
        } else {
            let dir = Dir {
                origin: Some(origin),
                children: BTreeMap::new(),
            };
            let old = parent
                .children
                .insert(name.to_owned(), Slot::Dir(Arc::new(dir)));
            self.forget(old);
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<(), StackError> {
        let (from, to) = (self.real_path(path)?, self.real_path(target)?);
        let no_file = || StackError::LinkTarget {
            path: path.to_owned(),
            target: target.to_owned(),
        };
        let Some(Found::Leaf(mut leaf)) = self.lookup(&to) else {
            return Err(no_file());
        };
        if from == to {
            return Ok(());
        }
        if !leaf.linked {
            leaf.linked = true;
            let dir = self.make_dirs(to.parent().unwrap_or(Path::new("")), target)?;
            let name = to.file_name().ok_or_else(no_file)?;
            dir.children.insert(name.to_owned(), Slot::Leaf(leaf));
            Arc::make_mut(&mut self.names).insert(leaf.origin, 1);
        }
        let name = from.file_name().ok_or_else(no_file)?;
        let dir = self.make_dirs(from.parent().unwrap_or(Path::new("")), path)?;
        let old = dir.children.insert(name.to_owned(), Slot::Leaf(leaf));
        *Arc::make_mut(&mut self.names)
            .entry(leaf.origin)
            .or_insert(0) += 1;
        self.forget(old);
        Ok(())
    }

    /// The number of an inode with several names.
    fn inode(&self, leaf: Leaf) -> Option<u64> {
        let names = self.names.get(&leaf.origin)?;
        (leaf.linked && *names > 1).then(|| leaf.origin.inode())
    }

    /// Counts the names that went with what was taken out of the tree.
    fn forget(&mut self, old: impl IntoIterator<Item = Slot>) {
        if self.names.is_empty() {
            return;
        }
        let mut gone: Vec<Slot> = old.into_iter().collect();
        while let Some(slot) = gone.pop() {
            match slot {
                Slot::Dir(dir) => gone.extend(dir.children.values().cloned()),
                Slot::Leaf(leaf) if leaf.linked => {
                    if let Some(names) = Arc::make_mut(&mut self.names).get_mut(&leaf.origin) {
                        *names = names.saturating_sub(1);
                    }
                }
                Slot::Leaf(_) => {}
            }
        }
    }

    /// Takes a path out. That it was never there is fine.
    fn remove(&mut self, path: &Path) -> Result<(), StackError> {
        let path = self.real_path(path)?;
        if self.lookup(&path).is_some()
            && let (Some(parent), Some(name)) = (path.parent(), path.file_name())
        {
            let old = self.make_dirs(parent, &path)?.children.remove(name);
            self.forget(old);
        }
        Ok(())
    }

    /// Takes out all that is in a directory.
    fn empty_dir(&mut self, path: &Path) -> Result<(), StackError> {
        let path = self.real_path(path)?;
        if let Some(Found::Dir(_)) = self.lookup(&path) {
            let old = std::mem::take(&mut self.make_dirs(&path, &path)?.children);
            self.forget(old.into_values());
        }
        Ok(())
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

#[cfg(test)]
mod tests;
