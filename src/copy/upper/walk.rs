//! What a copy has done, as changes made one by one when a layer is written of them.

use std::{collections::HashMap, path::PathBuf};

use super::{ROOT, Slot, Upper};
use crate::layer::Change;

/// The changes, one after the other.
pub(super) struct Walk {
    upper: Upper,
    path: PathBuf,
    /// The lists of directories above the next entry, and how far each is.
    stack: Vec<(u32, usize)>,
    /// Where inodes with several names were put.
    put: HashMap<u32, PathBuf>,
}

impl Walk {
    pub(super) fn new(upper: Upper) -> Self {
        Self {
            upper,
            path: PathBuf::new(),
            stack: vec![(ROOT, 0)],
            put: HashMap::new(),
        }
    }

    fn enter(&mut self, entry: u32) {
        self.stack.push((entry, 0));
    }
}

impl Iterator for Walk {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        loop {
            let (dir, at) = self.stack.last_mut()?;
            let Some(&entry) = self.upper.children_of(*dir).get(*at) else {
                self.stack.pop();
                self.path.pop();
                continue;
            };
            *at += 1;
            self.path.push(self.upper.name(entry));
            let slot = self.upper.at(entry).slot;
            self.enter(entry);
            let path = || self.path.clone();
            return Some(match slot {
                // It led to nothing in the end.
                Slot::Open => continue,
                Slot::Gone => Change::Remove { path: path() },
                Slot::Here { inode, .. } => {
                    if let Some(target) = self.put.get(&inode) {
                        return Some(Change::Link {
                            path: path(),
                            target: target.clone(),
                        });
                    }
                    let name = self.path.file_name().unwrap_or_default();
                    let content = self.upper.inodes.content(inode, name);
                    let metadata = self.upper.inodes.metadata(inode);
                    if self.upper.linked.contains(&inode) {
                        self.put.insert(inode, path());
                    }
                    Change::Put {
                        path: path(),
                        metadata,
                        content,
                    }
                }
            });
        }
    }
}
