//! A whole state in one directory, for where overlays cannot be mounted. What a step changed is found by comparing
//! inodes before and after: their number and the time of the last change of status, which no program can set back.

use std::{
    collections::BTreeMap,
    fs::Metadata as Stat,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{
    At, SnapshotError, Style, apply,
    diff::{Found, Inodes, check_depth, list, same_dir},
    lock::Scratch,
};
use crate::{
    layer::{Change, LayerTree},
    tree::Tree as _,
};

/// A root directory that a step changes in place. Removed when this value is dropped.
#[derive(Debug)]
pub struct Checkout {
    scratch: Scratch,
    style: Style,
    /// Every inode as it was unpacked, in the order of a walk.
    before: BTreeMap<PathBuf, Mark>,
    /// Whether the directory is what unpacking the step's layer would give.
    as_unpacked: bool,
}

/// What tells whether an inode was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: (u64, u64),
    changed: (i64, i64),
}

impl Mark {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: (stat.dev(), stat.ino()),
            changed: (stat.ctime(), stat.ctime_nsec()),
        }
    }
}

impl Checkout {
    pub(super) fn new(
        scratch: Scratch,
        tree: &LayerTree,
        style: Style,
    ) -> Result<Self, SnapshotError> {
        apply::unpack(&scratch.path, &LayerTree::empty(), tree, style, None)?;
        let work = scratch.path.join("work");
        std::fs::create_dir(&work).at("create", &work)?;
        let before = marks(&scratch.path.join("fs"))?;
        Ok(Self {
            scratch,
            style,
            before,
            as_unpacked: true,
        })
    }

    /// The same directory for the step after the one whose changes [`Checkout::diff`] has found; `None` when it holds what a
    /// layer does not say, so that the state has to be unpacked.
    pub fn renew(mut self) -> Result<Option<Self>, SnapshotError> {
        if !self.as_unpacked {
            return Ok(None);
        }
        let work = self.work();
        super::remove_tree(&work)?;
        std::fs::create_dir(&work).at("create", &work)?;
        self.before = marks(&self.root())?;
        Ok(Some(self))
    }

    /// The root directory.
    pub fn root(&self) -> PathBuf {
        self.scratch.path.join("fs")
    }

    /// An empty directory for the sandbox.
    pub fn work(&self) -> PathBuf {
        self.scratch.path.join("work")
    }

    /// The file of records of owners that the directory cannot hold, see [`super::owner`].
    pub fn owners(&self) -> PathBuf {
        self.scratch.path.join("owners")
    }

    /// What the step changed, sorted. `tree` is what was checked out.
    pub fn diff(&mut self, tree: &LayerTree) -> Result<Vec<Change>, SnapshotError> {
        let root = self.root();
        let inodes = Inodes::new(&root, &self.owners(), tree, self.style)?;
        let mut found = Found::default();
        let mut left = self.before.clone();
        let mut as_unpacked = true;
        walk(&root, &mut |path, stat| {
            let before = left.remove(path);
            let touched = before != Some(Mark::of(stat));
            as_unpacked &= !stat.file_type().is_socket();
            if stat.file_type().is_socket() || (!touched && !stat.is_dir()) {
                return Ok(());
            }
            let host = root.join(path);
            let metadata = inodes.metadata(path, &host, stat)?;
            if stat.is_dir() {
                let below = tree.node(path)?.map(|node| node.metadata);
                let same = before.is_some_and(|mark| mark.inode == Mark::of(stat).inode)
                    && below.is_some_and(|below| same_dir(&below, &metadata));
                found.dirs.push((path.to_owned(), metadata, !same));
            } else if inodes.is_unchanged(path, &host, &metadata)? {
                // It may have got one more name, which in the layer is a file of its own.
                as_unpacked &= stat.nlink() == 1;
            } else {
                found.leaf(path.to_owned(), metadata, host, stat);
            }
            Ok(())
        })?;
        self.as_unpacked = as_unpacked;
        // Only the topmost of what is gone needs a whiteout, and only where nothing new took its place.
        let mut gone: Option<&PathBuf> = None;
        for path in left.keys() {
            if gone.is_some_and(|above| path.starts_with(above)) {
                continue;
            }
            gone = Some(path);
            let replaced_above = path
                .parent()
                .and_then(|parent| tree.node(parent).transpose())
                .is_some_and(|_| {
                    std::fs::symlink_metadata(root.join(path.parent().unwrap_or(Path::new(""))))
                        .is_ok_and(|stat| !stat.is_dir())
                });
            if !replaced_above {
                found.changes.push(Change::Remove { path: path.clone() });
            }
        }
        Ok(found.finish())
    }
}

/// The marks of everything below a directory.
fn marks(root: &Path) -> Result<BTreeMap<PathBuf, Mark>, SnapshotError> {
    let mut marks = BTreeMap::new();
    walk(root, &mut |path, stat| {
        marks.insert(path.to_owned(), Mark::of(stat));
        Ok(())
    })?;
    Ok(marks)
}

/// Calls `visit` for everything below a directory.
fn walk(
    root: &Path,
    visit: &mut dyn FnMut(&Path, &Stat) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        check_depth(&dir)?;
        for name in list(&root.join(&dir))? {
            let path = dir.join(name);
            let host = root.join(&path);
            let stat = std::fs::symlink_metadata(&host).at("read", &host)?;
            visit(&path, &stat)?;
            if stat.is_dir() {
                todo.push(path);
            }
        }
    }
    Ok(())
}
