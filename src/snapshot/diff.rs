//! What a step changed, read from the upper directory of its overlay.
//!
//! What lies in the upper directory was written, or copied up to be changed. A file that equals the one below in all that a
//! layer says of it, content and whole seconds of its time included, is no change: it was copied up to get one more
//! name, or to be given what it had. As in BuildKit, a new name of such a file is a file of its own. What was written since it is in
//! the upper directory is a change, whatever was written: it may have been another name of a file, and is none now. A
//! directory is also there because something in it changed; it is a change of its own only when mode, owner or capabilities
//! are others. All directories above a change are in the layer.
//!
//! Overlay's opaque directories hide what is below. Layers get a whiteout for each hidden name instead of an opaque marker, at
//! every depth: on unpacking, a directory merges with what is below it, so a new directory under an opaque one has to take away too.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::OsString,
    fs::Metadata as Stat,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{major, minor};

use super::{
    At, Owners, SnapshotError, Style,
    owner::{self, OwnedKind, Owner},
    place::SECURITY_CAPABILITY,
    xattr,
};
use crate::{
    layer::{Change, Content, LayerTree},
    oci::Digester,
    tree::{Kind, Metadata, Timestamp, Tree as _},
};

/// What the overlay's upper directory says that changed on top of `lower`, in the canonical order. `owners` is the file of records
/// beside it, which need not exist. Sockets are left out, as are all attributes but file capabilities.
pub fn diff_upper(
    upper: &Path,
    owners: &Path,
    lower: &LayerTree,
    style: Style,
) -> Result<Changed, SnapshotError> {
    let mut diff = Diff {
        inodes: Inodes::new(upper, owners, lower, style)?,
        upper,
        lower,
        style,
        found: Found::default(),
        unchanged: Vec::new(),
        todo: vec![(PathBuf::new(), false)],
    };
    while let Some((path, hidden)) = diff.todo.pop() {
        diff.dir(&path, hidden)?;
    }
    Ok(Changed {
        changes: diff.found.finish(),
        unchanged: diff.unchanged,
    })
}

/// What an upper directory has.
#[derive(Debug)]
pub struct Changed {
    /// What is other than below, in the canonical order.
    pub changes: Vec<Change>,
    /// Files that were copied up and equal those below.
    pub unchanged: Vec<PathBuf>,
}

struct Diff<'a> {
    inodes: Inodes<'a>,
    upper: &'a Path,
    lower: &'a LayerTree,
    style: Style,
    found: Found,
    unchanged: Vec<PathBuf>,
    /// Directories still to be looked into, and whether the overlay hid what `lower` has there.
    todo: Vec<(PathBuf, bool)>,
}

impl Diff<'_> {
    /// Finds the changes in a directory.
    fn dir(&mut self, path: &Path, hidden: bool) -> Result<(), SnapshotError> {
        check_depth(path)?;
        let mut names = list(&self.upper.join(path))?;
        if hidden {
            names.extend(self.lower.names(path)?);
        }
        for name in names {
            let path = path.join(name);
            let host = self.upper.join(&path);
            let stat = match std::fs::symlink_metadata(&host) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                stat => Some(stat.at("read", &host)?),
            };
            match stat {
                None => self.found.changes.push(Change::Remove { path }),
                Some(stat) if self.is_whiteout(&host, &stat)? => {
                    // Renaming leaves whiteouts for names that were never below.
                    if self.lower.node(&path)?.is_some() {
                        self.found.changes.push(Change::Remove { path });
                    }
                }
                Some(stat) if stat.is_dir() => self.child_dir(path, &stat, hidden)?,
                Some(stat) if stat.file_type().is_socket() => {}
                Some(stat) => {
                    let metadata = self.inodes.metadata(&path, &host, &stat)?;
                    if !hidden
                        && !was_written(&stat)
                        && self.inodes.is_unchanged(&path, &host, &metadata)?
                    {
                        self.unchanged.push(path);
                    } else {
                        self.found.leaf(path, metadata, host, &stat);
                    }
                }
            }
        }
        Ok(())
    }

    fn child_dir(&mut self, path: PathBuf, stat: &Stat, hidden: bool) -> Result<(), SnapshotError> {
        let host = self.upper.join(&path);
        let prefix = self.style.marks.prefix();
        let mark = |name: &str| xattr::get(&host, format!("{prefix}{name}")).at("read", &host);
        if mark("redirect")?.is_some() {
            return Err(SnapshotError::Redirect { path: host });
        }
        let opaque = mark("opaque")?.is_some_and(|value| value == b"y");
        let metadata = self.inodes.metadata(&path, &host, stat)?;
        let below = self.lower.node(&path)?.map(|node| node.metadata);
        let unchanged =
            !hidden && !opaque && below.is_some_and(|below| same_dir(&below, &metadata));
        self.todo.push((path.clone(), hidden || opaque));
        self.found.dirs.push((path, metadata, !unchanged));
        Ok(())
    }

    fn is_whiteout(&self, host: &Path, stat: &Stat) -> Result<bool, SnapshotError> {
        if stat.file_type().is_char_device() {
            return Ok(stat.rdev() == 0);
        }
        if !stat.is_file() || stat.len() > 0 {
            return Ok(false);
        }
        let name = format!("{}whiteout", self.style.marks.prefix());
        Ok(xattr::get(host, name).at("read", host)?.is_some())
    }
}

/// Whether something was written to a file since it is in the upper directory: what is copied up keeps the time that it had. `false`
/// where the file system does not say when a file was made.
fn was_written(stat: &Stat) -> bool {
    match (stat.modified(), stat.created()) {
        (Ok(modified), Ok(created)) => modified >= created,
        _ => false,
    }
}

/// Changes under collection. Directories wait until it is known whether something in them changed.
#[derive(Default)]
pub(super) struct Found {
    pub(super) changes: Vec<Change>,
    /// Every directory, and whether it is a change of its own.
    pub(super) dirs: Vec<(PathBuf, Metadata, bool)>,
    /// A name of every inode with several.
    names: HashMap<(u64, u64), PathBuf>,
}

impl Found {
    /// Adds what is no directory: `host` on this machine.
    pub(super) fn leaf(&mut self, path: PathBuf, metadata: Metadata, host: PathBuf, stat: &Stat) {
        if stat.nlink() > 1 {
            let inode = (stat.dev(), stat.ino());
            if let Some(target) = self.names.get(&inode) {
                let target = target.clone();
                self.changes.push(Change::Link { path, target });
                return;
            }
            self.names.insert(inode, path.clone());
        }
        let content = match metadata.kind {
            Kind::File { size: 1.. } => Content::Host(host),
            _ => Content::Empty,
        };
        self.changes.push(Change::Put {
            path,
            metadata,
            content,
        });
    }

    /// All changes in order, with the directories above them.
    pub(super) fn finish(mut self) -> Vec<Change> {
        let mut above = HashSet::new();
        let changed_dirs = self.dirs.iter().filter(|(.., changed)| *changed);
        let paths = changed_dirs.map(|(path, ..)| &**path);
        for path in paths.chain(self.changes.iter().map(Change::path)) {
            for parent in path.ancestors().skip(1) {
                if !above.insert(parent.to_owned()) {
                    break;
                }
            }
        }
        let dirs = self.dirs.into_iter();
        self.changes.extend(
            dirs.filter(|(path, _, changed)| *changed || above.contains(path))
                .map(|(path, metadata, _)| Change::dir(path, metadata)),
        );
        self.changes.sort_by(|a, b| a.path().cmp(b.path()));
        self.changes
    }
}

/// More directories inside each other than this no layer tree takes.
const MAX_DEPTH: usize = 256;

pub(super) fn check_depth(path: &Path) -> Result<(), SnapshotError> {
    if path.components().count() < MAX_DEPTH {
        return Ok(());
    }
    let path = path.to_owned();
    Err(SnapshotError::TooDeep { path })
}

/// The names in a directory, sorted.
pub(super) fn list(dir: &Path) -> Result<BTreeSet<OsString>, SnapshotError> {
    std::fs::read_dir(dir)
        .at("list", dir)?
        .map(|entry| entry.map(|entry| entry.file_name()).at("list", dir))
        .collect()
}

/// Whether a directory is as it was, its time aside: that changes with what is in it.
pub(super) fn same_dir(a: &Metadata, b: &Metadata) -> bool {
    let capability = |metadata: &Metadata| {
        let name: &std::ffi::OsStr = SECURITY_CAPABILITY.as_ref();
        metadata.xattrs.get(name).cloned()
    };
    a.is_dir()
        && b.is_dir()
        && (a.mode & 0o7777, a.uid, a.gid) == (b.mode & 0o7777, b.uid, b.gid)
        && capability(a) == capability(b)
}

/// Reads metadata of inodes on this machine, with the records that stand in for what they cannot hold.
pub(super) struct Inodes<'a> {
    style: Style,
    lower: &'a LayerTree,
    records: HashMap<PathBuf, Owner>,
}

impl<'a> Inodes<'a> {
    /// For the inodes below `root`, which lay on `lower` or were unpacked from it.
    pub(super) fn new(
        root: &Path,
        owners: &Path,
        lower: &'a LayerTree,
        style: Style,
    ) -> Result<Self, SnapshotError> {
        let records = match style.owners {
            Owners::Real => HashMap::new(),
            Owners::Mapped | Owners::Recorded | Owners::Emulated => {
                owner::load(owners).at("read", root)?
            }
        };
        Ok(Self {
            style,
            lower,
            records,
        })
    }

    pub(super) fn metadata(
        &self,
        path: &Path,
        host: &Path,
        stat: &Stat,
    ) -> Result<Metadata, SnapshotError> {
        let kind = stat.file_type();
        let (rdev, mut uid, mut gid) = (stat.rdev(), stat.uid(), stat.gid());
        let mut kind = if kind.is_dir() {
            Kind::Dir
        } else if kind.is_symlink() {
            let target = std::fs::read_link(host).at("read", host)?;
            Kind::Symlink { target }
        } else if kind.is_char_device() {
            Kind::Char {
                major: major(rdev),
                minor: minor(rdev),
            }
        } else if kind.is_block_device() {
            Kind::Block {
                major: major(rdev),
                minor: minor(rdev),
            }
        } else if kind.is_fifo() {
            Kind::Fifo
        } else if kind.is_socket() {
            Kind::Socket
        } else {
            Kind::File { size: stat.len() }
        };
        let mut mode = stat.mode() & 0o7777;
        if self.style.owners == Owners::Emulated {
            // The one who builds owns it all; what is not recorded is root's.
            (uid, gid) = (0, 0);
        }
        if let Some(owner) = self.record(path, host, &kind, uid)? {
            (uid, gid) = (owner.uid, owner.gid);
            if self.style.owners == Owners::Emulated
                && matches!(kind, Kind::File { .. } | Kind::Dir)
            {
                mode = owner.mode;
            }
            match (&kind, owner.kind) {
                (Kind::File { size: 0 }, OwnedKind::Char { major, minor }) => {
                    kind = Kind::Char { major, minor };
                }
                (Kind::File { size: 0 }, OwnedKind::Block { major, minor }) => {
                    kind = Kind::Block { major, minor };
                }
                _ => {}
            }
        }
        let mut metadata = Metadata {
            kind,
            mode,
            uid,
            gid,
            mtime: Timestamp {
                seconds: stat.mtime(),
                nanos: u32::try_from(stat.mtime_nsec()).unwrap_or(0),
            },
            xattrs: std::collections::BTreeMap::new(),
        };
        if stat.is_file() || stat.is_dir() {
            let mut capability = xattr::get(host, SECURITY_CAPABILITY).at("read", host)?;
            if capability.is_none() && self.style.owners != Owners::Real {
                capability = xattr::get(host, owner::CAPABILITY).at("read", host)?;
            }
            // An empty one says nothing, and the kernel does not give it to anybody.
            if let Some(capability) = capability.filter(|value| !value.is_empty()) {
                metadata
                    .xattrs
                    .insert(SECURITY_CAPABILITY.into(), capability);
            }
        }
        Ok(metadata)
    }

    /// Whether a layer would say the same of the path as those below do.
    pub(super) fn is_unchanged(
        &self,
        path: &Path,
        host: &Path,
        metadata: &Metadata,
    ) -> Result<bool, SnapshotError> {
        let Some(below) = self.lower.node(path)?.map(|node| node.metadata) else {
            return Ok(false);
        };
        let said = |metadata: &Metadata| {
            let mut metadata = metadata.clone();
            metadata.mtime.nanos = 0;
            metadata
                .xattrs
                .retain(|name, _| name == SECURITY_CAPABILITY);
            metadata
        };
        if said(&below) != said(metadata) {
            return Ok(false);
        }
        if !matches!(metadata.kind, Kind::File { size: 1.. }) {
            return Ok(true);
        }
        let mut digester = Digester::new();
        let mut file = std::fs::File::open(host).at("read", host)?;
        std::io::copy(&mut file, &mut digester).at("read", host)?;
        Ok(digester.finish() == self.lower.digest(path)?)
    }

    /// The record that counts for an inode, if any.
    fn record(
        &self,
        path: &Path,
        host: &Path,
        kind: &Kind,
        uid: u32,
    ) -> Result<Option<Owner>, SnapshotError> {
        match self.style.owners {
            Owners::Real => return Ok(None),
            // An id that could not be set leaves root as the owner. What others own they may have marked themselves.
            Owners::Mapped if uid != 0 => return Ok(None),
            Owners::Mapped | Owners::Recorded | Owners::Emulated => {}
        }
        if matches!(kind, Kind::File { .. } | Kind::Dir) {
            return Owner::read(host).at("read", host);
        }
        if let Some(owner) = self.records.get(path) {
            return Ok(Some(*owner));
        }
        // Copied up from below, where the owner is in the layer.
        let below = self.lower.node(path)?;
        Ok(below
            .filter(|below| below.metadata.kind == *kind)
            .map(|below| Owner::of(&below.metadata)))
    }
}
