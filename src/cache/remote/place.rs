//! Where a remote cache is: the one interface of all kinds of them.

use std::{fmt, io, path::PathBuf};

use super::{Records, RecordsError};
use crate::{
    oci::{Descriptor, Digest, Platform},
    reference::Reference,
    registry::{self, BlobSink, Pushed, Upload},
    store::StoreError,
};

/// How many blobs are sent at a time, as in BuildKit.
pub(super) const AT_A_TIME: usize = 4;

/// A place that holds a cache. Methods block; several threads may use one.
pub trait Place: Send + Sync + fmt::Debug {
    /// What messages call it: `registry.test/app:cache`.
    fn name(&self) -> String;

    /// The records it has; those for other platforms than these may be left out. [`PlaceError::Absent`] when nothing was
    /// ever put there.
    fn records(&self, platforms: &[Platform]) -> Result<Selection, PlaceError>;

    /// Fetches a blob. The caller verifies it, and takes no more bytes than the descriptor declares.
    fn blob(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError>;

    /// Makes sure that it has a blob.
    fn put_blob(&self, upload: &Upload<'_>) -> Result<Pushed, PlaceError>;

    /// Replaces its records; all layers they name as stored are there. Gives the manifest, where the cache is an image.
    fn put_records(&self, records: &Records) -> Result<Option<Descriptor>, PlaceError>;

    /// How many blobs it takes at a time, at most.
    fn at_a_time(&self) -> usize {
        AT_A_TIME
    }

    /// The repository it is, from which a registry can mount blobs.
    fn repository(&self) -> Option<&Reference> {
        None
    }
}

/// What reading the records gave: one document in most places, one for each platform of an image.
pub type Selection = Vec<Records>;

/// Why a place could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// There is nothing yet.
    #[error("there is no cache yet")]
    Absent,
    /// A server refused, failed or lied.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document is refused.
    #[error("the cache is refused: {0}")]
    Records(#[from] RecordsError),
    /// A blob is not what its descriptor says.
    #[error("blob {expected} is damaged: {reason}")]
    Damaged {
        /// What was asked for.
        expected: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer is larger than the place takes; its record is kept without bytes.
    #[error("a layer of {0} bytes is larger than the cache takes")]
    TooLarge(u64),
    /// The service took the bytes of an entry, but not the entry.
    #[error("the service did not keep the entry {0}")]
    Unfinished(String),
    /// No place has the bytes of a layer.
    #[error("the layer {0} is in no cache")]
    Lost(Digest),
}
