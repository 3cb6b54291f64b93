//! Layers: changes ⇄ tar ⇄ compressed blob, in one pass and without a file system.
//!
//! ```text
//! changes ─write_layer→ tar ─cut→ members ─compress→ blob        diffID, digest and table of contents fall out
//! blob ─Toc::read→ table of contents ─LayerTree::push→ a state's file system, answered without unpacking
//! ```
//! - [`Change`]: what a layer says about a path. Producers make them in any order; [`write_layer`] has one canonical order.
//!   [`write_layer_after`] does the same and compresses only what the layer of last time had otherwise.
//! - [`Toc`]: what an archive says, with content digests and offsets. Made by the writer, or by reading a blob once.
//! - [`LayerTree`]: a stack of layers as a [`crate::tree::Tree`].
//! - [`archive`]: recognising and reading archives that are no layers (`ADD`).
//!
//! The archive's form is canonical (see `tar.rs`): equal changes give equal bytes with any number of threads and on any
//! machine. The blob is a sequence of independent gzip members (or zstd frames) of about 1 MiB, cut where
//! only paths and sizes of nearby files decide (see `write.rs`). Every gzip reader joins them.
//!
//! We write explicit whiteouts and read both forms; `.wh.` with no name is an error, not a marker. Of extended attributes only
//! `security.capability` is kept, as BuildKit does.
//!
//! Spec: image-spec v1.1, layer.md.

mod ahead;
pub mod archive;
mod blob;
mod buffer;
mod change;
mod compress;
mod decode;
mod gzip;
mod read;
mod reuse;
mod tar;
mod toc;
mod tree;
mod write;

use std::{io, path::PathBuf};

pub use ahead::{ReadAhead, read_ahead};
pub use blob::{BlobSource, LayerBlob};
pub use change::{Change, Changes, Content};
pub use compress::Compression;
pub use gzip::Gzip;
pub use read::ArchiveError;
pub use reuse::unchanged_start;
pub use toc::{
    Checkpoint, Encoding, Extent, FileContent, FileDigests, FileSink, Made, Member, PackedToc, Toc,
    TocEntry, TocFormError, TocItem,
};
pub use tree::{Difference, Different, EntryFile, LayerTree, StackError, Stored};
pub use write::{BlobSink, WriteOptions, Written, write_layer, write_layer_after};

/// A layer could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A path is absolute, has `..` in it, or a NUL.
    #[error("`{}` is not a path inside a layer", path.display())]
    InvalidPath {
        /// The path.
        path: PathBuf,
    },
    /// A name begins with `.wh.`, which every reader of the layer would take for a whiteout.
    #[error("`{}` cannot be in a layer: names beginning with `.wh.` are whiteouts", path.display())]
    ReservedName {
        /// The path.
        path: PathBuf,
    },
    /// Two changes are about one path.
    #[error("`{}` is in the layer twice", path.display())]
    Duplicate {
        /// The path.
        path: PathBuf,
    },
    /// A hard link's target is not put by the same layer, or is a directory or a link.
    #[error("`{}` links to `{}`, which the layer does not put", path.display(), target.display())]
    LinkTarget {
        /// The link.
        path: PathBuf,
        /// What it should be a name of.
        target: PathBuf,
    },
    /// A device number is beyond what an archive can say.
    #[error("`{}` has device number {major}:{minor}, too large for an archive", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A file did not have as many bytes as its metadata said.
    #[error("`{}` changed while it was read: {expected} bytes expected, {found}", path.display())]
    SizeChanged {
        /// The file.
        path: PathBuf,
        /// The size in its metadata.
        expected: u64,
        /// What was read: a number, or `more`.
        found: String,
    },
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Its path in the layer.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The blob could not be written.
    #[error("cannot write the layer's blob")]
    Sink {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The compression level is outside what the method has.
    #[error("compression level {level} is not between {min} and {max}")]
    Level {
        /// The level asked for.
        level: i32,
        /// The least.
        min: i32,
        /// The greatest.
        max: i32,
    },
}
