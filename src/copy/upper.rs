//! What a copy has done so far: changes on top of a tree, with the tree showing through.
//!
//! It stands in for the upper directory of an overlay mount, in which BuildKit copies: a file operation there leaves
//! the same traces as here, the new modification time of a directory in which a name appears included.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    layer::{Change, Content},
    oci::Digest,
    tree::{Metadata, Node, Timestamp, Tree, TreeError},
};

/// One inode, under one name or several.
#[derive(Debug)]
struct Inode {
    metadata: Metadata,
    content: Content,
}

/// What has become of a path.
#[derive(Debug, Clone, Copy)]
enum Slot {
    /// What the tree below has there is gone.
    Gone,
    /// This is there.
    Here {
        inode: usize,
        /// A directory made where one was removed: what the tree below has in it does not show.
        hides: bool,
    },
}

/// A tree with changes on top. Paths have to be resolved: every directory on the way is one, and no link.
pub(super) struct Upper {
    lower: Arc<dyn Tree>,
    /// In no order: paths are compared slowly, and a copy of many files asks for many.
    slots: HashMap<PathBuf, Slot>,
    inodes: Vec<Inode>,
    now: Timestamp,
}

impl Upper {
    /// No changes yet. Directories in which something changes take the time `now`.
    pub(super) fn new(lower: Arc<dyn Tree>, now: Timestamp) -> Self {
        Self {
            lower,
            slots: HashMap::new(),
            inodes: Vec::new(),
            now,
        }
    }

    /// The metadata of what is at `path`.
    pub(super) fn get(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        Ok(self.node(path)?.map(|node| node.metadata))
    }

    /// Makes something new where nothing is.
    pub(super) fn create(
        &mut self,
        path: &Path,
        metadata: Metadata,
        content: Content,
    ) -> Result<(), TreeError> {
        // Below a path that is gone, or is no directory any more, nothing shows anyway.
        let hides = metadata.is_dir() && matches!(self.slots.get(path), Some(Slot::Gone));
        self.inodes.push(Inode { metadata, content });
        let inode = self.inodes.len() - 1;
        self.slots
            .insert(path.to_owned(), Slot::Here { inode, hides });
        self.touch_parent(path)
    }

    /// Gives what is at `from` another name.
    pub(super) fn link(&mut self, from: &Path, to: &Path) -> Result<(), TreeError> {
        if let Some(inode) = self.copy_up(from)? {
            self.slots.insert(
                to.to_owned(),
                Slot::Here {
                    inode,
                    hides: false,
                },
            );
            self.touch_parent(to)?;
        }
        Ok(())
    }

    /// Removes what is at `path`, with all below it.
    pub(super) fn remove(&mut self, path: &Path) -> Result<(), TreeError> {
        if self.get(path)?.is_some_and(|there| there.is_dir()) {
            self.slots.retain(|name, _| !name.starts_with(path));
        } else {
            self.slots.remove(path);
        }
        if self.shows_through(path) && self.lower.node(path)?.is_some() {
            self.slots.insert(path.to_owned(), Slot::Gone);
        }
        self.touch_parent(path)
    }

    /// Changes the metadata of what is at `path`, if something is.
    pub(super) fn edit(
        &mut self,
        path: &Path,
        edit: impl FnOnce(&mut Metadata),
    ) -> Result<(), TreeError> {
        // The root is no entry of a layer.
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(inode) = self.copy_up(path)? {
            edit(&mut self.inodes[inode].metadata);
        }
        Ok(())
    }

    /// The changes: every slot, and the directories on the way to them as they are.
    pub(super) fn into_changes(mut self) -> Result<Vec<Change>, TreeError> {
        let mut changes = Vec::with_capacity(self.slots.len());
        // Directories on the way, and what a new directory hides.
        let mut parents: HashSet<&Path> = HashSet::new();
        for (path, slot) in &self.slots {
            for parent in path.ancestors().skip(1) {
                if parent.as_os_str().is_empty() || !parents.insert(parent) {
                    break;
                }
                if !self.slots.contains_key(parent)
                    && let Some(node) = self.lower.node(parent)?
                {
                    changes.push(Change::dir(parent, node.metadata));
                }
            }
            if matches!(slot, Slot::Here { hides: true, .. }) && self.lower_is_dir(path)? {
                for name in self.lower.names(path)? {
                    let child = path.join(name);
                    if !self.slots.contains_key(&child) {
                        changes.push(Change::Remove { path: child });
                    }
                }
            }
        }
        drop(parents);
        let mut slots: Vec<(PathBuf, Slot)> = self.slots.drain().collect();
        slots.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut inodes: Vec<Option<Inode>> = self.inodes.drain(..).map(Some).collect();
        // Where an inode's first name is among the changes.
        let mut first_names: HashMap<usize, usize> = HashMap::new();
        for (path, slot) in slots {
            let Slot::Here { inode, .. } = slot else {
                changes.push(Change::Remove { path });
                continue;
            };
            if let Some(Inode { metadata, content }) = inodes[inode].take() {
                first_names.insert(inode, changes.len());
                changes.push(Change::Put {
                    path,
                    metadata,
                    content,
                });
            } else {
                let target = changes[first_names[&inode]].path().to_owned();
                changes.push(Change::Link { path, target });
            }
        }
        changes.sort_by(|a, b| a.path().cmp(b.path()));
        Ok(changes)
    }

    fn lower_is_dir(&self, path: &Path) -> Result<bool, TreeError> {
        Ok(self
            .lower
            .node(path)?
            .is_some_and(|node| node.metadata.is_dir()))
    }

    /// Whether nothing above `path` keeps the tree below from showing there.
    fn shows_through(&self, path: &Path) -> bool {
        path.ancestors()
            .skip(1)
            .all(|parent| match self.slots.get(parent) {
                None => true,
                Some(Slot::Gone) => false,
                Some(Slot::Here { inode, hides }) => {
                    !hides && self.inodes[*inode].metadata.is_dir()
                }
            })
    }

    /// The inode at `path`, taken over from the tree below if need be.
    fn copy_up(&mut self, path: &Path) -> Result<Option<usize>, TreeError> {
        match self.slots.get(path) {
            Some(Slot::Here { inode, .. }) => return Ok(Some(*inode)),
            Some(Slot::Gone) => return Ok(None),
            None if !self.shows_through(path) => return Ok(None),
            None => {}
        }
        let Some(Node { metadata, .. }) = self.lower.node(path)? else {
            return Ok(None);
        };
        let content = if matches!(metadata.kind, crate::tree::Kind::File { .. }) {
            Content::Tree {
                tree: Arc::clone(&self.lower),
                path: path.to_owned(),
            }
        } else {
            Content::Empty
        };
        self.inodes.push(Inode { metadata, content });
        let inode = self.inodes.len() - 1;
        self.slots.insert(
            path.to_owned(),
            Slot::Here {
                inode,
                hides: false,
            },
        );
        Ok(Some(inode))
    }

    fn touch_parent(&mut self, path: &Path) -> Result<(), TreeError> {
        let now = self.now;
        match path.parent() {
            Some(parent) => self.edit(parent, |metadata| metadata.mtime = now),
            None => Ok(()),
        }
    }
}

impl Tree for Upper {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        match self.slots.get(path) {
            Some(Slot::Here { inode, .. }) => Ok(Some(Node {
                metadata: self.inodes[*inode].metadata.clone(),
                inode: None,
            })),
            Some(Slot::Gone) => Ok(None),
            None if self.shows_through(path) => self.lower.node(path),
            None => Ok(None),
        }
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let mut names: BTreeSet<OsString> = BTreeSet::new();
        let hides = matches!(self.slots.get(path), Some(Slot::Here { hides: true, .. }));
        if self.shows_through(path) && !hides {
            names.extend(self.lower.names(path)?);
        }
        let children = self
            .slots
            .iter()
            .filter(|(name, _)| name.parent() == Some(path));
        for (child, slot) in children {
            if let Some(name) = child.file_name() {
                match slot {
                    Slot::Gone => names.remove(name),
                    Slot::Here { .. } => names.insert(name.to_owned()),
                };
            }
        }
        Ok(names.into_iter().collect())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        match self.slots.get(path) {
            Some(Slot::Here { inode, .. }) => {
                self.inodes[*inode]
                    .content
                    .open()
                    .map_err(|source| TreeError {
                        action: "read",
                        path: path.to_owned(),
                        source,
                    })
            }
            _ => self.lower.open(path),
        }
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        self.lower.digest(path)
    }
}

#[cfg(test)]
mod tests;
