//! How a layer changes the tree below it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Dir, Found, LayerTree, Leaf, Origin, Slot};
use crate::{
    layer::{blob::LayerBlob, toc::TocItem},
    tree::{Last, MAX_DEPTH, MAX_PATH, resolve},
};

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

impl LayerTree {
    /// The tree with one layer on top. Shares with `self` all that the layer does not change.
    pub fn push(&self, layer: Arc<LayerBlob>) -> Result<Self, StackError> {
        self.clone().topped(layer)
    }

    /// The same of a tree that is not needed any more: what nobody else has is not copied.
    pub fn topped(self, layer: Arc<LayerBlob>) -> Result<Self, StackError> {
        let mut tree = self;
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
