//! What can go wrong with states on disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{layer::StackError, oci::DiffId, tree::TreeError};

/// A file system state could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path of this machine, or of the layer.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A layer's content could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A layer is damaged somewhere behind the files that were wanted of it.
    #[error("cannot read layer {diff_id}")]
    Layer {
        /// The layer.
        diff_id: DiffId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The layers do not lie on each other.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// A layer ended before one of its files did.
    #[error("the layer's content for `{}` is incomplete", path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
    },
    /// A step made more directories inside each other than a layer may have.
    #[error("`{}` lies too deep", path.display())]
    TooDeep {
        /// The directory, as the step saw it.
        path: PathBuf,
    },
    /// An upper directory has a mark that only overlays mounted otherwise leave.
    #[error("`{}` was moved by a redirecting overlay; mount with redirect_dir=nofollow", path.display())]
    Redirect {
        /// The directory.
        path: PathBuf,
    },
}

/// Puts action and path to an error of the system.
pub(super) trait At<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, SnapshotError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, SnapshotError> {
        self.map_err(|error| SnapshotError::Io {
            action,
            path: path.as_ref().to_owned(),
            source: error.into(),
        })
    }
}
