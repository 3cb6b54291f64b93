//! What can go wrong with a store.

use std::{io, path::PathBuf};

use crate::oci::Digest;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The place of the store is taken by a file.
    #[error("`{}` is not a directory", root.display())]
    NotADirectory {
        /// The file.
        root: PathBuf,
    },
    /// A file operation failed: no space, read-only, not permitted.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: `create`, `write`, `read`, `rename`, `remove`, `lock`.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The directory was written by a later version of this program; nothing was touched.
    #[error("store `{}` has format {found}, newer than {supported}, the newest this version knows", root.display())]
    TooNew {
        /// The store.
        root: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that can be used.
        supported: u32,
    },
    /// The directory holds other things than a store; nothing was touched.
    #[error("`{}` is not a store: it holds `{entry}`", root.display())]
    Foreign {
        /// The directory.
        root: PathBuf,
        /// One of the entries that no store has.
        entry: String,
    },
    /// One of the store's own documents cannot be understood; nothing was touched.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob is not in the store.
    #[error("blob {digest} is not in the store `{}`", root.display())]
    Missing {
        /// The blob.
        digest: Digest,
        /// The store.
        root: PathBuf,
    },
    /// Bytes do not have the digest by which they were asked for.
    #[error("the content of blob {digest} has the digest {actual}")]
    Corrupt {
        /// What was asked for.
        digest: Digest,
        /// What was found.
        actual: Digest,
    },
    /// A blob is longer or shorter than its descriptor says.
    #[error("blob {digest} has {} the {expected} bytes that its descriptor says", how_many(*expected, *actual))]
    Size {
        /// The blob.
        digest: Digest,
        /// What the descriptor says.
        expected: u64,
        /// What was found; at least this many when reading was given up.
        actual: u64,
    },
    /// A document is too large to be read into memory.
    #[error("blob {digest} has {size} bytes, more than the {limit} that a document may have")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
}

impl StoreError {
    /// Whether the cause is a full disk or a used-up quota.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Whether a file operation failed because of a full disk or a used-up quota, also when wrapped.
fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Of a blob that is too long, no more is read than shows it.
fn how_many(expected: u64, actual: u64) -> String {
    if actual > expected {
        "more than".to_owned()
    } else {
        format!("{actual} of")
    }
}

/// Says what was tried on which path when a file operation fails.
pub(crate) trait At<T> {
    /// Turns the error into [`StoreError::Io`].
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// For [`io::Write`] and [`io::Read`] implementations, whose errors have no room for a path: the same kind of
/// error, with a [`StoreError`] inside that has one.
pub(crate) fn with_path(
    action: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(io::Error) -> io::Error {
    move |source| {
        io::Error::new(
            source.kind(),
            StoreError::Io {
                action,
                path: path.to_owned(),
                source,
            },
        )
    }
}
