//! The directories of one step.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Gid, Mode, OFlags, Uid},
    io::Errno,
};

use super::{
    At, Snapshot, SnapshotError, Snapshots, Style,
    diff::diff_upper,
    lock::{Held, Scratch},
    owner::Owner,
    place::open_below,
    stubs,
};
use crate::{
    layer::{Change, LayerTree},
    oci::ChainId,
};

/// Directories in which nothing has happened yet. They are removed when this value is dropped.
#[derive(Debug)]
pub struct Blank(Scratch);

impl Blank {
    pub(super) fn new(dir: &Path) -> Result<Self, SnapshotError> {
        let scratch = Scratch::new(dir)?;
        let (upper, work) = (scratch.path.join(UPPER), scratch.path.join(WORK));
        std::fs::create_dir(&upper).at("create", &upper)?;
        std::fs::create_dir(&work).at("create", &work)?;
        Ok(Self(scratch))
    }

    /// The directory for the sandbox, which is empty.
    pub fn work(&self) -> PathBuf {
        self.0.path.join(WORK)
    }
}

/// What is left of a step's directories once its state is a snapshot.
#[derive(Debug)]
#[must_use = "it stays on disk"]
pub struct Remains {
    dirs: [PathBuf; 2],
    /// Nobody removes the snapshot that they lie in.
    _held: Arc<Held>,
}

impl Remains {
    /// Removes it.
    pub fn remove(self) -> Result<(), SnapshotError> {
        self.dirs.iter().try_for_each(|dir| super::remove_tree(dir))
    }
}

/// What takes the changes of a step, and what its overlay and sandbox work in. The last is made when it is needed.
const UPPER: &str = "upper";
const WORK: &str = "work";
const SCRATCH: &str = "scratch";

/// Directories for the step after one whose state is no snapshot yet: on them an overlay can be mounted before that.
#[derive(Debug)]
pub struct Ahead {
    blank: Blank,
    /// The lower directory on top, as it is called until it becomes a snapshot.
    first: PathBuf,
    /// Those below it.
    lower: Vec<PathBuf>,
    style: Style,
    /// The snapshots that those but the topmost are from, and, once it is one, the topmost.
    below: Vec<PathBuf>,
    top: Option<PathBuf>,
}

impl Ahead {
    /// The lower directory on top, by its name during the step.
    pub fn first(&self) -> &Path {
        &self.first
    }

    /// The lower directories below that, topmost first.
    pub fn lower(&self) -> Vec<PathBuf> {
        self.lower.clone()
    }

    /// The directory that takes the changes.
    pub fn upper(&self) -> PathBuf {
        self.blank.0.path.join(UPPER)
    }

    /// An empty directory on the same file system.
    pub fn work(&self) -> PathBuf {
        self.blank.work()
    }

    /// How owners and overlayfs marks are kept in the directories.
    pub const fn style(&self) -> Style {
        self.style
    }

    /// Whether they lie on these snapshots, topmost first, which are what they were when this was made.
    pub(super) fn lies_on(&self, stack: &[Snapshot]) -> bool {
        let own = self.top.iter().chain(&self.below);
        self.top.is_some() && own.eq(stack.iter().map(|snapshot| &snapshot.path))
    }
}

/// The directories of an overlay for one step, to be mounted by the sandbox. They are removed when this value is
/// dropped, whatever rights the step left on them.
#[derive(Debug)]
pub struct Overlay {
    snapshots: Snapshots,
    stack: Vec<Snapshot>,
    /// The lowest directory, see [`super::stubs`].
    stubs: PathBuf,
    scratch: Scratch,
    /// Files in `upper` that are no changes, once that was found out.
    unchanged: Vec<PathBuf>,
}

impl Overlay {
    pub(super) fn prepare(
        snapshots: Snapshots,
        Blank(scratch): Blank,
        stack: Vec<Snapshot>,
    ) -> Result<Self, SnapshotError> {
        let overlay = Self {
            stubs: stubs::prepared(&snapshots.dir)?,
            snapshots,
            stack,
            scratch,
            unchanged: Vec::new(),
        };
        let upper = overlay.upper();
        rustix::fs::chmod(&upper, Mode::from_raw_mode(0o755)).at("set the mode of", &upper)?;
        if let Some(top) = overlay.stack.first() {
            dress_root(&upper, &top.fs())?;
        }
        Ok(overlay)
    }

    /// The directories for the step after this one, whose process has ended.
    pub fn ahead(&self, blank: Blank) -> Result<Ahead, SnapshotError> {
        let upper = blank.0.path.join(UPPER);
        rustix::fs::chmod(&upper, Mode::from_raw_mode(0o755)).at("set the mode of", &upper)?;
        let first = self.upper();
        dress_root(&upper, &first)?;
        Ok(Ahead {
            blank,
            first,
            lower: self.lower(),
            style: self.style(),
            below: self.stack.iter().map(|it| it.path.clone()).collect(),
            top: None,
        })
    }

    /// The directories that were made ahead, for the step on `stack`; `None` when something else came to lie below it.
    pub(super) fn prepare_ahead(
        snapshots: Snapshots,
        ahead: Ahead,
        stack: Vec<Snapshot>,
    ) -> Result<Result<Self, Vec<Snapshot>>, SnapshotError> {
        if !ahead.lies_on(&stack) {
            return Ok(Err(stack));
        }
        Ok(Ok(Self {
            stubs: stubs::prepared(&snapshots.dir)?,
            snapshots,
            stack,
            scratch: ahead.blank.0,
            unchanged: Vec::new(),
        }))
    }

    /// How owners and overlayfs marks are kept in the directories; the latter has to be mounted accordingly.
    pub const fn style(&self) -> Style {
        self.snapshots.style
    }

    /// The lower directories, topmost first: those of the state, then the stubs.
    pub fn lower(&self) -> Vec<PathBuf> {
        let stack = self.stack.iter().map(Snapshot::fs);
        stack.chain([self.stubs.clone()]).collect()
    }

    /// The directory that takes the changes.
    pub fn upper(&self) -> PathBuf {
        self.scratch.path.join(UPPER)
    }

    /// An empty directory on the same file system.
    pub fn work(&self) -> PathBuf {
        self.scratch.path.join(WORK)
    }

    /// The file for records of owners that `upper` cannot hold, see [`super::owner`].
    pub fn owners(&self) -> PathBuf {
        self.scratch.path.join("owners")
    }

    /// The bytes of the regular file that the topmost of the lower directories with something at `path` has there, up to `most`;
    /// `None` when that is none, or cannot be read here. Whether the state has the same is for the caller to check: a
    /// state may hide or link what a directory has.
    pub fn peek(&self, path: &Path, most: u64) -> Option<Vec<u8>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for snapshot in &self.stack {
            let root = rustix::fs::open(snapshot.fs(), flags, Mode::empty()).ok()?;
            let reading = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match open_below(&root, path, reading) {
                Err(Errno::NOENT) => continue,
                opened => File::from(opened.ok()?),
            };
            let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
            let mut bytes = Vec::new();
            let fits = size.len() <= most;
            file.take(most).read_to_end(&mut bytes).ok()?;
            return fits.then_some(bytes);
        }
        None
    }

    /// What the step changed, sorted. `lower` is the tree that the step ran on. To be called when nothing is mounted or
    /// running any more; the changes refer to files of `upper`, so they have to be written before this value goes.
    pub fn diff(&mut self, lower: &LayerTree) -> Result<Vec<Change>, SnapshotError> {
        let style = self.snapshots.style;
        let found = diff_upper(&self.upper(), &self.owners(), lower, style)?;
        self.unchanged = found.unchanged;
        Ok(found.changes)
    }

    /// Makes the upper directory the snapshot of the state that the step led to, so that the next step can run on it without
    /// unpacking anything. What is left beside it is for the caller to remove, at leisure; a crash leaves it to be removed with
    /// the snapshot.
    ///
    /// `ahead` is what [`Overlay::ahead`] has given.
    pub fn adopt(
        self,
        chain_id: ChainId,
        ahead: Option<&mut Ahead>,
    ) -> Result<(Snapshot, Remains), SnapshotError> {
        let (upper, fs) = (self.upper(), self.scratch.path.join("fs"));
        // The state has to be the one that unpacking the layer gives: these would show more names of one file.
        for path in &self.unchanged {
            let path = upper.join(path);
            std::fs::remove_file(&path).at("remove", &path)?;
        }
        std::fs::rename(&upper, &fs).at("rename", &upper)?;
        let (snapshot, is_own) = self.snapshots.publish(self.scratch, chain_id)?;
        // Else the snapshot is another directory, or has changed since.
        if let Some(ahead) = ahead.filter(|_| is_own && self.unchanged.is_empty()) {
            ahead.top = Some(snapshot.path.clone());
        }
        let remains = Remains {
            dirs: [WORK, SCRATCH].map(|name| snapshot.path.join(name)),
            _held: Arc::clone(&snapshot.held),
        };
        Ok((snapshot, remains))
    }
}

/// Gives the upper directory owner, mode and time of the directory below: an overlay's root shows those of its upper one.
fn dress_root(upper: &Path, below: &Path) -> Result<(), SnapshotError> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(below).at("read", below)?;
    let dir = std::fs::File::open(upper).at("open", upper)?;
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    rustix::fs::fchown(&dir, Some(uid), Some(gid)).at("set the owner of", upper)?;
    if let Some(owner) = Owner::read(below).at("read", below)? {
        owner.write_at(&dir).at("mark", upper)?;
    }
    let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
    rustix::fs::fchmod(&dir, mode).at("set the mode of", upper)?;
    let time = metadata.modified().at("read", below)?;
    dir.set_modified(time).at("set the time of", upper)
}
