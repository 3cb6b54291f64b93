//! What takes up space in a store: items that go as a whole, and their parts.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{oci::ChainId, snapshot::Snapshots, store::CacheMountOnDisk};

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A layer with the records of the steps that made it.
    Step,
    /// A blob that no step made: of a base image, or of an image that lost its name.
    Blob,
    /// An unpacked state.
    Snapshot,
    /// An instance of a cache mount.
    Mount,
    /// Remembered digests of a context's files.
    Stat,
    /// What a step was at a place in a Dockerfile, for explanations, where the step has gone.
    Position,
    /// What was found out about a state.
    Fact,
    /// What a killed process left.
    Temporary,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Step,
        Self::Blob,
        Self::Snapshot,
        Self::Mount,
        Self::Stat,
        Self::Position,
        Self::Fact,
        Self::Temporary,
    ];

    /// Its name on command lines and in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Blob => "blob",
            Self::Snapshot => "snapshot",
            Self::Mount => "mount",
            Self::Stat => "stat",
            Self::Position => "position",
            Self::Fact => "fact",
            Self::Temporary => "temporary",
        }
    }
}

/// What a part of an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartKind {
    /// Manifests, configs, layers.
    Blobs,
    /// Tables of contents of layers.
    Contents,
    /// Results of steps, and what they were.
    Records,
    /// Unpacked states.
    Snapshots,
    /// Cache mounts.
    Mounts,
    /// Remembered digests of files.
    Stats,
    /// What killed processes left.
    Temporary,
}

impl PartKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Blobs,
        Self::Contents,
        Self::Records,
        Self::Snapshots,
        Self::Mounts,
        Self::Stats,
        Self::Temporary,
    ];

    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Contents => "contents",
            Self::Records => "records",
            Self::Snapshots => "snapshots",
            Self::Mounts => "mounts",
            Self::Stats => "stats",
            Self::Temporary => "temporary",
        }
    }
}

/// A file or directory of an item.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Where.
    pub path: PathBuf,
    /// What it takes up, in bytes.
    pub size: u64,
    /// Whether a named image needs it: then it stays when the item goes.
    pub pinned: bool,
}

/// How an item is removed.
#[derive(Debug, Clone)]
pub(super) enum Means {
    Files,
    Snapshot(Snapshots, ChainId),
    Mount(CacheMountOnDisk),
}

/// Something that takes up space.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name, unique in a store: a digest, or a digest and a number.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// The same for people: the instruction, the mount's id.
    pub description: String,
    /// When it, or something that was built on it, was used last.
    pub last_used: SystemTime,
    /// Whether an image with a name has it, or was made with it.
    pub shared: bool,
    /// Whether a running process may count on it.
    pub in_use: bool,
    /// Its files.
    pub parts: Vec<Part>,
    /// How many steps it is away from its base: what is built on others goes first.
    pub(super) depth: usize,
    pub(super) means: Means,
}

impl Item {
    /// What goes with it, in bytes.
    pub fn size(&self) -> u64 {
        let parts = self.parts.iter().filter(|part| !part.pinned);
        parts.map(|part| part.size).sum()
    }
}

impl Item {
    /// A file that belongs to nothing else.
    pub(super) fn of_file(
        kind: Kind,
        path: &Path,
        size: u64,
        last_used: SystemTime,
        description: &str,
    ) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part_kind = match kind {
            Kind::Stat => PartKind::Stats,
            Kind::Step | Kind::Position | Kind::Fact => PartKind::Records,
            Kind::Blob => PartKind::Blobs,
            Kind::Snapshot => PartKind::Snapshots,
            Kind::Mount => PartKind::Mounts,
            Kind::Temporary => PartKind::Temporary,
        };
        Self {
            id: name.into_owned(),
            kind,
            description: description.to_owned(),
            last_used,
            shared: false,
            in_use: false,
            parts: vec![Part::new(part_kind, path, size)],
            depth: 0,
            means: Means::Files,
        }
    }
}

impl Part {
    /// A part that no image needs.
    pub(super) fn new(kind: PartKind, path: &Path, size: u64) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            size,
            pinned: false,
        }
    }
}
