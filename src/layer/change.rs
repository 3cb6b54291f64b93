//! What one layer says: changes, and their canonical order.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    fs::File,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use super::LayerError;
use crate::{
    oci::{Digest, sha256},
    tree::{Kind, Metadata, Tree},
};

/// What one layer says about one path. Paths are relative, without `.` and `..`.
///
/// Whoever makes changes also makes the directories above them: BuildKit's layers hold every parent of a changed
/// path, with its present metadata, and the writer adds nothing of its own.
#[derive(Debug, Clone)]
pub enum Change {
    /// The path is this, whatever it was before. A directory keeps what lower layers have in it.
    Put {
        /// Where.
        path: PathBuf,
        /// What, and whose. The size of a regular file has to be the length of `content`.
        metadata: Metadata,
        /// The bytes of a regular file; [`Content::Empty`] for all else.
        content: Content,
    },
    /// The path is one more name of a file that the same layer puts.
    Link {
        /// Where.
        path: PathBuf,
        /// The path of a [`Change::Put`] of the same layer that is no directory.
        target: PathBuf,
    },
    /// The path of a lower layer is gone, with all below it.
    Remove {
        /// Where.
        path: PathBuf,
    },
    /// All that lower layers have in this directory is gone. BuildKit writes explicit whiteouts instead.
    Opaque {
        /// The directory.
        path: PathBuf,
    },
}

impl Change {
    /// The path that the change is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Put { path, .. }
            | Self::Link { path, .. }
            | Self::Remove { path }
            | Self::Opaque { path } => path,
        }
    }

    /// A directory.
    pub fn dir(path: impl Into<PathBuf>, metadata: Metadata) -> Self {
        Self::Put {
            path: path.into(),
            metadata,
            content: Content::Empty,
        }
    }
}

/// Where the bytes of a regular file are. They are read once, when the layer is written.
#[derive(Clone, Default)]
pub enum Content {
    /// No bytes.
    #[default]
    Empty,
    /// These.
    Bytes(Arc<[u8]>),
    /// Those of a file of a tree.
    Tree {
        /// The tree.
        tree: Arc<dyn Tree>,
        /// The regular file.
        path: PathBuf,
    },
    /// Those of a file on this machine. Its last component is not followed when it is a symbolic link.
    Host(PathBuf),
}

impl Content {
    /// These bytes.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// The digest of the bytes, where it is known without reading them.
    pub(super) fn known_digest(&self) -> Option<Digest> {
        match self {
            Self::Empty => Some(EMPTY),
            Self::Tree { tree, path } => tree.known_digest(path),
            Self::Bytes(bytes) => Some(sha256(bytes)),
            Self::Host(_) => None,
        }
    }

    /// Whether [`Content::known_digest`] knows the digest once the bytes were read to the end.
    pub(super) fn tells_when_read(&self) -> bool {
        matches!(self, Self::Tree { tree, .. } if tree.tells_when_read())
    }

    /// Starts reading.
    pub fn open(&self) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(match self {
            Self::Empty => Box::new(io::empty()),
            Self::Bytes(bytes) => Box::new(io::Cursor::new(Arc::clone(bytes))),
            Self::Tree { tree, path } => tree.open(path).map_err(io::Error::other)?,
            Self::Host(path) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                Box::new(File::from(rustix::fs::open(path, flags, Mode::empty())?))
            }
        })
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Tree { path, .. } => write!(f, "Tree({})", path.display()),
            Self::Host(path) => write!(f, "Host({})", path.display()),
        }
    }
}

/// What a layer is written of.
pub struct Changes(Form);

enum Form {
    Any(Vec<Change>),
    Ordered {
        changes: Box<dyn Iterator<Item = Change> + Send>,
        linked: HashSet<PathBuf>,
    },
}

impl From<Vec<Change>> for Changes {
    fn from(changes: Vec<Change>) -> Self {
        Self(Form::Any(changes))
    }
}

impl Changes {
    /// Changes made one by one when the layer is written: by path component, of the names of an inode the first one holding
    /// it. `linked` are the paths of those that have other names, too. Changes in another order are an error when the layer
    /// is written.
    pub fn ordered(
        changes: impl Iterator<Item = Change> + Send + 'static,
        linked: HashSet<PathBuf>,
    ) -> Self {
        Self(Form::Ordered {
            changes: Box::new(changes),
            linked,
        })
    }

    /// All of them at once.
    pub fn into_vec(self) -> Vec<Change> {
        match self.0 {
            Form::Any(changes) => changes,
            Form::Ordered { changes, .. } => changes.collect(),
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Any(changes) => f.debug_tuple("Changes").field(changes).finish(),
            Form::Ordered { .. } => f.write_str("Changes(..)"),
        }
    }
}

/// The digest of no bytes.
const EMPTY: Digest = Digest::from_bytes([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// The start of the names that stand for something removed (image-spec, layer.md, "Whiteouts").
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name that makes its directory opaque.
pub(super) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// Changes in the one order in which they are written: by path component, the name that comes first among the names of an
/// inode holding it, sockets left out. Equal changes in any order come out equal.
pub(super) struct Canonical {
    changes: Box<dyn Iterator<Item = Change> + Send>,
    /// Paths that others are linked to.
    pub(super) linked: HashSet<PathBuf>,
    last: Option<Said>,
    /// What was read ahead.
    ahead: VecDeque<Change>,
}

/// What was said last.
#[derive(Default)]
struct Said {
    path: PathBuf,
    is_dir: bool,
}

impl Canonical {
    pub(super) fn of(changes: Changes) -> Result<Self, LayerError> {
        let (changes, linked) = match changes.0 {
            Form::Ordered { changes, linked } => (changes, linked),
            Form::Any(changes) => {
                let changes = sorted(changes)?;
                let linked = changes.iter().filter_map(|change| match change {
                    Change::Link { target, .. } => Some(target.clone()),
                    _ => None,
                });
                let linked = linked.collect();
                let changes: Box<dyn Iterator<Item = Change> + Send> =
                    Box::new(changes.into_iter());
                (changes, linked)
            }
        };
        Ok(Self {
            changes,
            linked,
            last: None,
            ahead: VecDeque::new(),
        })
    }

    /// Reads changes for as long as they `fit`; whether that were all.
    pub(super) fn read_ahead(
        &mut self,
        mut fit: impl FnMut(&Change) -> bool,
    ) -> Result<bool, LayerError> {
        while let Some(change) = self.read()? {
            let does_fit = fit(&change);
            self.ahead.push_back(change);
            if !does_fit {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&mut self) -> Result<Option<Change>, LayerError> {
        let is_socket = |change: &Change| matches!(change, Change::Put { metadata, .. } if metadata.kind == Kind::Socket);
        let Some(change) = self.changes.by_ref().find(|change| !is_socket(change)) else {
            return Ok(None);
        };
        self.check(&change)?;
        Ok(Some(change))
    }

    /// An error unless a change may follow those before.
    fn check(&mut self, change: &Change) -> Result<(), LayerError> {
        let path = change.path();
        check_path(path)?;
        let is_opaque = matches!(change, Change::Opaque { .. });
        if let Some(last) = &self.last {
            let is_next = match (*last.path).cmp(path) {
                Ordering::Less => true,
                Ordering::Equal => last.is_dir && is_opaque,
                Ordering::Greater => false,
            };
            if !is_next {
                let path = path.to_owned();
                return Err(LayerError::Duplicate { path });
            }
        }
        let last = self.last.get_or_insert_default();
        last.path.as_mut_os_string().clear();
        last.path.push(path);
        last.is_dir = matches!(change, Change::Put { metadata, .. } if metadata.is_dir());
        Ok(())
    }
}

impl Iterator for Canonical {
    type Item = Result<Change, LayerError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.ahead.pop_front() {
            Some(change) => Some(Ok(change)),
            None => self.read().transpose(),
        }
    }
}

/// Sorts changes that came in any order.
fn sorted(changes: Vec<Change>) -> Result<Vec<Change>, LayerError> {
    for change in &changes {
        check_path(change.path())?;
    }
    let mut changes = elect_first_names(changes)?;
    changes.sort_by(|a, b| {
        let opaque = |change: &Change| matches!(change, Change::Opaque { .. });
        (a.path(), opaque(a)).cmp(&(b.path(), opaque(b)))
    });
    Ok(changes)
}

/// Refuses paths that an archive cannot say, or that would say something else.
fn check_path(path: &Path) -> Result<(), LayerError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Ok(());
    }
    for name in bytes.split(|&byte| byte == b'/') {
        if matches!(name, b"" | b"." | b"..") || name.contains(&0) {
            return Err(LayerError::InvalidPath {
                path: path.to_owned(),
            });
        }
        if name.starts_with(WHITEOUT_PREFIX) {
            return Err(LayerError::ReservedName {
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}

/// Lets the first name of every hard-linked inode be the one that holds it: archives are read front to back, so
/// a link may only point backwards.
fn elect_first_names(mut changes: Vec<Change>) -> Result<Vec<Change>, LayerError> {
    let mut first: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for change in &changes {
        if let Change::Link { path, target } = change {
            let name = first
                .entry(target.clone())
                .or_insert_with(|| target.clone());
            if path < name {
                name.clone_from(path);
            }
        }
    }
    if first.is_empty() {
        return Ok(changes);
    }
    let mut targets: HashMap<&Path, bool> = first.keys().map(|path| (&**path, false)).collect();
    for change in &changes {
        if let Change::Put { path, metadata, .. } = change
            && !metadata.is_dir()
            && let Some(found) = targets.get_mut(&**path)
        {
            *found = true;
        }
    }
    for change in &changes {
        if let Change::Link { path, target } = change
            && targets.get(&**target) != Some(&true)
        {
            return Err(LayerError::LinkTarget {
                path: path.clone(),
                target: target.clone(),
            });
        }
    }
    for change in &mut changes {
        match change {
            Change::Put { path, .. } => {
                if let Some(name) = first.get(path) {
                    path.clone_from(name);
                }
            }
            Change::Link { path, target } => {
                let name = &first[target];
                if path == name {
                    // The inode moves here, so the place it had becomes the link.
                    *path = std::mem::replace(target, name.clone());
                } else {
                    target.clone_from(name);
                }
            }
            Change::Remove { .. } | Change::Opaque { .. } => {}
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Timestamp;

    fn file(path: &str) -> Change {
        Change::Put {
            path: path.into(),
            metadata: Metadata::file(0, Timestamp::default()),
            content: Content::Empty,
        }
    }

    fn link(path: &str, target: &str) -> Change {
        Change::Link {
            path: path.into(),
            target: target.into(),
        }
    }

    fn canonical(changes: Vec<Change>) -> Result<Vec<Change>, LayerError> {
        Canonical::of(changes.into())?.collect()
    }

    fn text(changes: &[Change]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Put { path, .. } => path.display().to_string(),
                Change::Link { path, target } => {
                    format!("{} -> {}", path.display(), target.display())
                }
                Change::Remove { path } => format!("-{}", path.display()),
                Change::Opaque { path } => format!("!{}", path.display()),
            })
            .collect()
    }

    #[test]
    fn order_is_by_component_and_the_first_name_holds_the_inode() {
        let changes = vec![
            link("b/z", "c"),
            file("c"),
            file("a.b"),
            file("a/b"),
            link("b/a", "c"),
            Change::Remove { path: "a/c".into() },
            file("a"),
        ];
        let expected = ["a", "a/b", "-a/c", "a.b", "b/a", "b/z -> b/a", "c -> b/a"];
        assert_eq!(text(&canonical(changes).unwrap()), expected);
    }

    #[test]
    fn what_no_archive_can_say_is_refused() {
        let refuse = |changes| canonical(changes).unwrap_err().to_string();
        assert!(refuse(vec![file("../a")]).contains("not a path inside"));
        assert!(refuse(vec![file("/a")]).contains("not a path inside"));
        assert!(refuse(vec![file("a/.wh.b")]).contains("whiteout"));
        assert!(refuse(vec![file("a"), file("a")]).contains("twice"));
        assert!(refuse(vec![file("a"), Change::Remove { path: "a".into() }]).contains("twice"));
        assert!(refuse(vec![link("a", "b")]).contains("`b`"));
        let dir = Change::dir("b", Metadata::dir(Timestamp::default()));
        assert!(refuse(vec![dir, link("a", "b")]).contains("`b`"));
    }
}
