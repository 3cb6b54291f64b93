//! What distinguishes two trees.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Dir, LayerTree, Slot, Stored};
use crate::tree::Metadata;

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

impl LayerTree {
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
}
