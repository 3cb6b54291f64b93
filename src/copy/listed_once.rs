//! A tree whose directories are listed once for two walks: the one for the cache key, and the one for the changes if the key
//! is not known; or the other way round. Both then speak of the same state of the tree, and the system is asked half as often.
//!
//! ```text
//! entry   length of the name u16, name, tag u8, and for
//!         0 plain file: mode u16, inode u64 (all ones: none), size u64, seconds i64, nanoseconds u32
//!         1 plain directory: mode u16, seconds i64, nanoseconds u32                                  little-endian
//!         2 any other: the next one of a list
//! ```
//! Plain is what belongs to 0:0 and has no attributes. Digests are not kept: the tree knows what it has told.

use std::{
    collections::HashMap,
    ffi::OsString,
    io::Read,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    oci::Digest,
    tree::{IgnoreLine, Kind, Listed, Metadata, Node, Timestamp, Tree, TreeError},
};

/// A tree that keeps what it lists of its directories until it is told to give that again.
pub struct ListedOnce {
    tree: Arc<dyn Tree>,
    lists: Mutex<HashMap<OsString, Packed>>,
    gives_again: AtomicBool,
}

impl std::fmt::Debug for ListedOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListedOnce").finish_non_exhaustive()
    }
}

impl ListedOnce {
    /// Nothing is listed yet.
    pub fn new(tree: Arc<dyn Tree>) -> Self {
        Self {
            tree,
            lists: Mutex::default(),
            gives_again: AtomicBool::new(false),
        }
    }

    /// From now on, directories are as they were listed last. Each is so once; then, and where it was not listed before, it
    /// is looked at.
    pub fn give_again(&self) {
        self.gives_again.store(true, Ordering::Release);
    }

    fn gives_again(&self) -> bool {
        self.gives_again.load(Ordering::Acquire)
    }

    fn lists(&self) -> std::sync::MutexGuard<'_, HashMap<OsString, Packed>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree for ListedOnce {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        self.tree.node(path)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        self.tree.names(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<Listed>, TreeError> {
        if self.gives_again() {
            let kept = self.lists().remove(path.as_os_str());
            return match kept {
                Some(kept) => Ok(kept.unpack()),
                None => self.tree.list(path),
            };
        }
        let listed = self.tree.list(path)?;
        let packed = Packed::new(&listed);
        self.lists().insert(path.as_os_str().to_owned(), packed);
        Ok(listed)
    }

    fn lists_at_once(&self) -> bool {
        self.gives_again() || self.tree.lists_at_once()
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, TreeError> {
        self.tree.open(path)
    }

    fn known_digest(&self, path: &Path) -> Option<Digest> {
        self.tree.known_digest(path)
    }

    /// With directories as they were listed, files are what they were told to be.
    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        let told = self.gives_again().then(|| self.tree.known_digest(path));
        match told.flatten() {
            Some(digest) => Ok(digest),
            None => self.tree.digest(path),
        }
    }

    fn tells_when_read(&self) -> bool {
        self.tree.tells_when_read()
    }

    fn root_time(&self) -> Option<Timestamp> {
        self.tree.root_time()
    }

    fn ignored_by(&self, path: &Path) -> Option<IgnoreLine> {
        self.tree.ignored_by(path)
    }
}

/// What is in a directory.
#[derive(Default)]
struct Packed {
    entries: Vec<u8>,
    others: Vec<(Metadata, Option<u64>)>,
}

const FILE: u8 = 0;
const DIR: u8 = 1;
const OTHER: u8 = 2;
const NO_INODE: u64 = u64::MAX;

impl Packed {
    fn new(listed: &[Listed]) -> Self {
        let n_bytes: usize = listed.iter().map(|it| it.name.len() + 33).sum();
        let mut packed = Self {
            entries: Vec::with_capacity(n_bytes),
            others: Vec::new(),
        };
        for Listed { name, node, .. } in listed {
            packed.push(name.as_bytes(), node);
        }
        packed.entries.shrink_to_fit();
        packed
    }

    fn push(&mut self, name: &[u8], node: &Node) {
        let out = &mut self.entries;
        let length = u16::try_from(name.len()).expect("names are shorter than MAX_PATH");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(name);
        let Metadata {
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = &node.metadata;
        let is_plain = (*uid, *gid) == (0, 0) && xattrs.is_empty();
        match (kind, u16::try_from(*mode)) {
            (Kind::File { size }, Ok(mode)) if is_plain && node.inode != Some(NO_INODE) => {
                out.push(FILE);
                out.extend_from_slice(&mode.to_le_bytes());
                out.extend_from_slice(&node.inode.unwrap_or(NO_INODE).to_le_bytes());
                out.extend_from_slice(&size.to_le_bytes());
            }
            (Kind::Dir, Ok(mode)) if is_plain && node.inode.is_none() => {
                out.push(DIR);
                out.extend_from_slice(&mode.to_le_bytes());
            }
            _ => {
                out.push(OTHER);
                self.others.push((node.metadata.clone(), node.inode));
                return;
            }
        }
        out.extend_from_slice(&mtime.seconds.to_le_bytes());
        out.extend_from_slice(&mtime.nanos.to_le_bytes());
    }

    fn unpack(self) -> Vec<Listed> {
        let mut rest = &*self.entries;
        let mut others = self.others.into_iter();
        let mut listed = Vec::new();
        while !rest.is_empty() {
            let length = u16::from_le_bytes(take(&mut rest));
            let name = rest.split_off(..usize::from(length)).unwrap_or_default();
            let [tag] = take(&mut rest);
            let node = if tag == OTHER {
                others
                    .next()
                    .map(|(metadata, inode)| Node { metadata, inode })
            } else {
                Some(plain(tag, &mut rest))
            };
            listed.push(Listed {
                name: OsString::from_vec(name.to_vec()),
                node: node.expect("each has one in the list"),
                digest: None,
            });
        }
        listed
    }
}

fn plain(tag: u8, rest: &mut &[u8]) -> Node {
    let mode = u16::from_le_bytes(take(rest)).into();
    let (kind, inode) = if tag == FILE {
        let inode = u64::from_le_bytes(take(rest));
        let size = u64::from_le_bytes(take(rest));
        (Kind::File { size }, (inode != NO_INODE).then_some(inode))
    } else {
        (Kind::Dir, None)
    };
    let mtime = Timestamp {
        seconds: i64::from_le_bytes(take(rest)),
        nanos: u32::from_le_bytes(take(rest)),
    };
    let metadata = Metadata {
        kind,
        mode,
        ..Metadata::dir(mtime)
    };
    Node { metadata, inode }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, tail) = rest
        .split_first_chunk()
        .expect("it was packed a moment ago");
    *rest = tail;
    *taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::memory::MemoryTree;

    #[test]
    fn a_second_list_is_the_first_one_without_digests() {
        let tree: Arc<dyn Tree> = Arc::new(MemoryTree::parse(
            "dir a 0755 0 0\n\
             file a/b 0644 0 0 text\n\
             file a/c 04755 7 8 other\n\
             dir a/d 1777 0 0\n\
             dir a/e 0700 3 0\n",
        ));
        let once = ListedOnce::new(Arc::clone(&tree));
        let plain = |listed: Vec<Listed>| -> Vec<(OsString, Node)> {
            listed.into_iter().map(|it| (it.name, it.node)).collect()
        };
        let dir = Path::new("a");
        let first = plain(once.list(dir).unwrap());
        assert_eq!(first, plain(tree.list(dir).unwrap()));
        assert_eq!(plain(once.list(dir).unwrap()), first);
        once.give_again();
        assert!(!once.lists().is_empty());
        assert_eq!(plain(once.list(dir).unwrap()), first);
        assert!(once.lists().is_empty());
        assert_eq!(plain(once.list(dir).unwrap()), first);
    }
}
