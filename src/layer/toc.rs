//! Tables of contents: all that a layer's archive says, without its bytes.

use std::path::PathBuf;

use crate::{
    oci::{DiffId, Digest},
    tree::Metadata,
};

/// How a blob wraps its tar. Found by the first bytes, never by a name or media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not at all.
    Plain,
    /// One or more gzip members.
    Gzip,
    /// One or more zstd frames.
    Zstd,
    /// bzip2, which no layer has but archives for `ADD` may.
    Bzip2,
    /// xz, likewise.
    Xz,
}

/// A place in a blob from which decompression can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset in the tar of the first byte that the member yields.
    pub tar_offset: u64,
    /// Offset in the blob of the member's first byte.
    pub blob_offset: u64,
}

/// A run of bytes of a sparse file that the archive holds; what lies between runs is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Where and what the bytes of a regular file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Digest of the file as a reader of it sees it, holes included.
    pub digest: Digest,
    /// Offset in the tar of its first stored byte.
    pub offset: u64,
    /// The runs that are stored, one after the other from `offset`; `None` when the whole file is.
    pub sparse: Option<Vec<Extent>>,
}

/// One thing an archive says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TocItem {
    /// There is this.
    Node {
        /// Its metadata.
        metadata: Metadata,
        /// Its bytes when it is a regular file.
        content: Option<FileContent>,
    },
    /// The path is one more name of this one.
    Link {
        /// The other name; it may lie in a lower layer.
        target: PathBuf,
    },
    /// The path of lower layers is gone.
    Remove,
    /// What lower layers have in this directory is gone.
    Opaque,
}

/// One path of an archive, in the order of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// Relative, without `.` and `..`; empty for the root directory. Components above the last may be symbolic links.
    pub path: PathBuf,
    /// What is said of it. For whiteouts, `path` is the path that is gone, not that of the marker.
    pub item: TocItem,
}

/// The table of contents of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Length of the tar.
    pub tar_size: u64,
    /// Length of the blob.
    pub blob_size: u64,
    /// How the blob wraps the tar.
    pub encoding: Encoding,
    /// Where decompression can start, ascending; never empty, the first member yields the first byte.
    pub members: Vec<Member>,
    /// What the archive says, in its order.
    pub entries: Vec<TocEntry>,
}
