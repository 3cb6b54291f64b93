//! What a copy has done so far: changes on top of a tree, with the tree showing through.
//!
//! It stands in for the upper directory of an overlay mount, in which BuildKit copies: a file operation there leaves
//! the same traces as here, the new modification time of a directory in which a name appears included.
//!
//! A copied file takes some 90 bytes and its name: there are copies of a million files. Names are in one place, a path
//! is a chain of directories, and of a file's source only the directory is noted. Few files have more than that.

mod inode;
mod walk;

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{inode::Inodes, walk::Walk};
use super::CopyError;
use crate::{
    layer::{Changes, Content},
    oci::Digest,
    tree::{Kind, MAX_DEPTH, MAX_NAME, MAX_PATH, Metadata, Node, Timestamp, Tree, TreeError},
};

/// What has become of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Nothing: the tree below shows through.
    Open,
    /// What the tree below has there is gone.
    Gone,
    /// This is there.
    Here {
        inode: u32,
        /// A directory made where one was removed: what the tree below has in it does not show.
        hides: bool,
    },
}

/// A path that something has become of, or that leads to one.
#[derive(Debug)]
struct Entry {
    /// Where its name is among all names.
    name: u32,
    length: u32,
    slot: Slot,
    /// Where the entries in this directory are; [`NONE`] when there are none.
    children: u32,
}

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// A tree with changes on top. Paths have to be resolved: every directory on the way is one, and no link.
pub(super) struct Upper {
    lower: Arc<dyn Tree>,
    names: Vec<u8>,
    /// The first is the root.
    entries: Vec<Entry>,
    /// Entries of directories, each in the order of their names.
    children: Vec<Vec<u32>>,
    inodes: Inodes,
    /// Inodes that were given another name.
    linked: HashSet<u32>,
    now: Timestamp,
}

/// What is known of a path.
enum Seen {
    /// The tree below has nothing to say of it.
    Nothing,
    /// What the tree below has.
    Through,
    Here {
        inode: u32,
        hides: bool,
    },
}

impl Upper {
    /// No changes yet. Directories in which something changes take the time `now`.
    pub(super) fn new(lower: Arc<dyn Tree>, now: Timestamp) -> Self {
        let root = Entry {
            name: 0,
            length: 0,
            slot: Slot::Open,
            children: NONE,
        };
        Self {
            lower,
            names: Vec::new(),
            entries: vec![root],
            children: Vec::new(),
            inodes: Inodes::default(),
            linked: HashSet::new(),
            now,
        }
    }

    /// The metadata of what is at `path`.
    pub(super) fn get(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        Ok(self.node(path)?.map(|node| node.metadata))
    }

    /// Makes something new where nothing is. An error when the name is one that a file system does not take.
    pub(super) fn create(
        &mut self,
        path: &Path,
        metadata: Metadata,
        content: Content,
    ) -> Result<(), CopyError> {
        fits(path)?;
        let entry = self.make(path);
        // Below a path that is gone, or is no directory any more, nothing shows anyway.
        let hides = metadata.is_dir() && self.at(entry).slot == Slot::Gone;
        let name = path.file_name().unwrap_or_default();
        let inode = self.inodes.push(metadata, content, name);
        self.at_mut(entry).slot = Slot::Here { inode, hides };
        Ok(self.touch_parent(path)?)
    }

    /// Gives what is at `from` another name, which has to be one that a file system takes.
    pub(super) fn link(&mut self, from: &Path, to: &Path) -> Result<(), CopyError> {
        fits(to)?;
        if let Some(inode) = self.copy_up(from)? {
            // Its source can have the first name alone.
            self.inodes.pin(inode, from.file_name().unwrap_or_default());
            self.linked.insert(inode);
            let entry = self.make(to);
            let hides = false;
            self.at_mut(entry).slot = Slot::Here { inode, hides };
            self.touch_parent(to)?;
        }
        Ok(())
    }

    /// Removes what is at `path`, with all below it.
    pub(super) fn remove(&mut self, path: &Path) -> Result<(), TreeError> {
        let shows = self.shows_through(path) && self.lower.node(path)?.is_some();
        if shows || self.find(path).is_some() {
            let entry = self.make(path);
            let at = self.at_mut(entry);
            at.children = NONE;
            at.slot = if shows { Slot::Gone } else { Slot::Open };
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
            let mut metadata = self.inodes.metadata(inode);
            edit(&mut metadata);
            self.inodes.set_metadata(inode, metadata);
        }
        Ok(())
    }

    /// The changes, in the order of a layer: every slot, and the directories on the way to them as they are.
    pub(super) fn into_changes(mut self) -> Result<Changes, TreeError> {
        self.settle(ROOT, &mut PathBuf::new())?;
        let mut linked = HashSet::new();
        if !self.linked.is_empty() {
            // The first of the names that are left holds the inode; where it is the only one, nothing links to it.
            let mut first = HashMap::new();
            self.first_names(ROOT, &mut PathBuf::new(), &mut first, &mut linked);
        }
        Ok(Changes::ordered(Walk::new(self), linked))
    }

    /// Notes what the changes have to say beside the slots: directories on the way to one, and what a new directory hides.
    /// Tells whether there is a slot at the entry or below it.
    fn settle(&mut self, entry: u32, path: &mut PathBuf) -> Result<bool, TreeError> {
        if let Slot::Here { hides: true, .. } = self.at(entry).slot
            && self.lower_is_dir(path)?
        {
            for name in self.lower.names(path)? {
                let child = self.make_child(entry, &name);
                match self.at(child).slot {
                    Slot::Open => self.at_mut(child).slot = Slot::Gone,
                    // Made anew in a directory that was made anew.
                    Slot::Here { inode, .. } if self.inodes.is_dir(inode) => {
                        let hides = true;
                        self.at_mut(child).slot = Slot::Here { inode, hides };
                    }
                    Slot::Here { .. } | Slot::Gone => {}
                }
            }
        }
        let mut is_needed = false;
        let list = self.at(entry).children;
        for i in 0..self.children_of(entry).len() {
            let child = self.children[list as usize][i];
            path.push(self.name(child));
            is_needed |= self.settle(child, path)?;
            path.pop();
        }
        match self.at(entry).slot {
            Slot::Open => {}
            Slot::Here {
                inode,
                hides: false,
            } if !is_needed && self.differs_in_time(inode, path)? => {
                self.at_mut(entry).slot = Slot::Open;
                return Ok(false);
            }
            Slot::Here { .. } | Slot::Gone => return Ok(true),
        }
        if is_needed
            && entry != ROOT
            && let Some(node) = self.lower.node(path)?
        {
            let inode = self
                .inodes
                .push(node.metadata, Content::Empty, OsStr::new(""));
            let hides = false;
            self.at_mut(entry).slot = Slot::Here { inode, hides };
        }
        Ok(is_needed)
    }

    /// Whether a directory is as it was, its time aside: to BuildKit that is no change.
    fn differs_in_time(&self, inode: u32, path: &Path) -> Result<bool, TreeError> {
        let metadata = self.inodes.metadata(inode);
        if !metadata.is_dir() {
            return Ok(false);
        }
        let below = self.lower.node(path)?.map(|node| Metadata {
            mtime: metadata.mtime,
            ..node.metadata
        });
        Ok(below.is_some_and(|below| below == metadata))
    }

    /// Finds the first name of each inode with several names; those that are linked to go to `linked`.
    fn first_names(
        &self,
        entry: u32,
        path: &mut PathBuf,
        first: &mut HashMap<u32, PathBuf>,
        linked: &mut HashSet<PathBuf>,
    ) {
        if let Slot::Here { inode, .. } = self.at(entry).slot
            && self.linked.contains(&inode)
        {
            match first.get(&inode) {
                Some(name) => drop(linked.insert(name.clone())),
                None => drop(first.insert(inode, path.clone())),
            }
        }
        for &child in self.children_of(entry) {
            path.push(self.name(child));
            self.first_names(child, path, first, linked);
            path.pop();
        }
    }

    fn lower_is_dir(&self, path: &Path) -> Result<bool, TreeError> {
        Ok(self
            .lower
            .node(path)?
            .is_some_and(|node| node.metadata.is_dir()))
    }

    fn at(&self, entry: u32) -> &Entry {
        &self.entries[entry as usize]
    }

    fn at_mut(&mut self, entry: u32) -> &mut Entry {
        &mut self.entries[entry as usize]
    }

    fn name(&self, entry: u32) -> &OsStr {
        let Entry { name, length, .. } = *self.at(entry);
        let start = name as usize;
        OsStr::from_bytes(&self.names[start..start + length as usize])
    }

    fn children_of(&self, entry: u32) -> &[u32] {
        match self.at(entry).children {
            NONE => &[],
            list => &self.children[list as usize],
        }
    }

    /// Where a name is among the entries of a directory, or would be.
    fn search(&self, dir: u32, name: &OsStr) -> Result<usize, usize> {
        let children = self.children_of(dir);
        let compare = |child: u32| self.name(child).cmp(name);
        // Mostly a copy comes by in the order of the names.
        match children.last() {
            None => Err(0),
            Some(&last) => match compare(last) {
                Ordering::Less => Err(children.len()),
                Ordering::Equal => Ok(children.len() - 1),
                Ordering::Greater => children.binary_search_by(|child| compare(*child)),
            },
        }
    }

    fn find(&self, path: &Path) -> Option<u32> {
        let mut entry = ROOT;
        for name in path {
            let at = self.search(entry, name).ok()?;
            entry = self.children_of(entry)[at];
        }
        Some(entry)
    }

    /// The entry of a path, made if need be.
    fn make(&mut self, path: &Path) -> u32 {
        path.iter()
            .fold(ROOT, |entry, name| self.make_child(entry, name))
    }

    fn make_child(&mut self, dir: u32, name: &OsStr) -> u32 {
        const WHY: &str = "names and numbers of files in a layer that fits into memory";
        let at = match self.search(dir, name) {
            Ok(at) => return self.children_of(dir)[at],
            Err(at) => at,
        };
        let entry = u32::try_from(self.entries.len()).expect(WHY);
        self.entries.push(Entry {
            name: u32::try_from(self.names.len()).expect(WHY),
            length: u32::try_from(name.len()).expect(WHY),
            slot: Slot::Open,
            children: NONE,
        });
        self.names.extend_from_slice(name.as_bytes());
        if self.at(dir).children == NONE {
            self.at_mut(dir).children = u32::try_from(self.children.len()).expect(WHY);
            self.children.push(Vec::new());
        }
        let list = self.at(dir).children;
        self.children[list as usize].insert(at, entry);
        entry
    }

    /// What is known of a path, by one walk down.
    fn look(&self, path: &Path) -> Seen {
        let mut entry = ROOT;
        let mut shows = true;
        for name in path {
            shows &= match self.at(entry).slot {
                Slot::Open => true,
                Slot::Gone => false,
                Slot::Here { inode, hides } => !hides && self.inodes.is_dir(inode),
            };
            match self.search(entry, name) {
                Ok(at) => entry = self.children_of(entry)[at],
                Err(_) if shows => return Seen::Through,
                Err(_) => return Seen::Nothing,
            }
        }
        match self.at(entry).slot {
            Slot::Here { inode, hides } => Seen::Here { inode, hides },
            Slot::Open if shows => Seen::Through,
            Slot::Open | Slot::Gone => Seen::Nothing,
        }
    }

    /// Whether nothing above `path` keeps the tree below from showing there.
    fn shows_through(&self, path: &Path) -> bool {
        let mut entry = ROOT;
        for name in path {
            match self.at(entry).slot {
                Slot::Open => {}
                Slot::Here { inode, hides } if !hides && self.inodes.is_dir(inode) => {}
                Slot::Gone | Slot::Here { .. } => return false,
            }
            let Ok(at) = self.search(entry, name) else {
                return true;
            };
            entry = self.children_of(entry)[at];
        }
        true
    }

    /// The inode at `path`, taken over from the tree below if need be.
    fn copy_up(&mut self, path: &Path) -> Result<Option<u32>, TreeError> {
        match self.look(path) {
            Seen::Here { inode, .. } => return Ok(Some(inode)),
            Seen::Nothing => return Ok(None),
            Seen::Through => {}
        }
        let Some(Node { metadata, .. }) = self.lower.node(path)? else {
            return Ok(None);
        };
        let content = if matches!(metadata.kind, Kind::File { .. }) {
            Content::Tree {
                tree: Arc::clone(&self.lower),
                path: path.to_owned(),
            }
        } else {
            Content::Empty
        };
        let name = path.file_name().unwrap_or_default();
        let inode = self.inodes.push(metadata, content, name);
        let entry = self.make(path);
        let hides = false;
        self.at_mut(entry).slot = Slot::Here { inode, hides };
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

/// Whether a file system can have the path: the layer would be written, and then nobody could read it.
fn fits(path: &Path) -> Result<(), CopyError> {
    let length = path.as_os_str().len();
    let name = path.file_name().unwrap_or_default().len();
    if name > MAX_NAME {
        return Err(CopyError::NameTooLong {
            path: path.to_owned(),
            length: name,
        });
    }
    if length >= MAX_PATH {
        let path = path.to_owned();
        return Err(CopyError::PathTooLong { path });
    }
    // Names have a byte at least, and one between them.
    if length > 2 * MAX_DEPTH && path.iter().count() > MAX_DEPTH {
        let path = path.to_owned();
        return Err(CopyError::PathTooDeep { path });
    }
    Ok(())
}

impl Tree for Upper {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        match self.look(path) {
            Seen::Here { inode, .. } => Ok(Some(Node {
                metadata: self.inodes.metadata(inode),
                inode: None,
            })),
            Seen::Nothing => Ok(None),
            Seen::Through => self.lower.node(path),
        }
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let mut names: BTreeSet<OsString> = BTreeSet::new();
        let hides = matches!(self.look(path), Seen::Here { hides: true, .. });
        if self.shows_through(path) && !hides {
            names.extend(self.lower.names(path)?);
        }
        let Some(entry) = self.find(path) else {
            return Ok(names.into_iter().collect());
        };
        for &child in self.children_of(entry) {
            let name = self.name(child);
            match self.at(child).slot {
                Slot::Open => {}
                Slot::Gone => drop(names.remove(name)),
                Slot::Here { .. } => drop(names.insert(name.to_owned())),
            }
        }
        Ok(names.into_iter().collect())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        match self.look(path) {
            Seen::Here { inode, .. } => self
                .inodes
                .content(inode, path.file_name().unwrap_or_default())
                .open()
                .map_err(|source| TreeError {
                    action: "read",
                    path: path.to_owned(),
                    source,
                }),
            _ => self.lower.open(path),
        }
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        self.lower.digest(path)
    }
}

#[cfg(test)]
mod tests;
