//! Why a build context cannot be used.

use std::{io, path::PathBuf};

use super::PatternError;
use crate::tree::TreeError;

/// A build context that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// What should be the context is no directory.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Something could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An ignore file is wrong.
    #[error("{error} in `{}`", path.display())]
    Patterns {
        /// The ignore file.
        path: PathBuf,
        /// What is wrong; part of the message.
        error: PatternError,
    },
    /// There is no Dockerfile of the name.
    #[error("failed to read dockerfile: `{}` is not in the build context", path.display())]
    NoDockerfile {
        /// Its path in the context.
        path: PathBuf,
    },
    /// The Dockerfile is a directory or another thing that cannot be read.
    #[error("failed to read dockerfile: `{}` is not a file", path.display())]
    DockerfileIsNoFile {
        /// Its path in the context.
        path: PathBuf,
    },
    /// A Dockerfile or an ignore file is larger than any that somebody wrote.
    #[error("`{}` has more than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
