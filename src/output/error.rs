//! What can go wrong with an output.

use std::{error::Error, io, path::PathBuf};

use crate::{
    layer::LayerError,
    oci::{DiffId, Digest, Platform},
    reference::Reference,
    store::StoreError,
};

/// An error of whoever provides layers or talks to the registry.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why an output could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two platforms have a file of one name, and share a directory.
    #[error("cannot overwrite {} from {first} with {second} when split option is disabled", path.display())]
    Overwritten {
        /// The file.
        path: PathBuf,
        /// The platform that has it already.
        first: String,
        /// The one that comes later.
        second: String,
    },
    /// A file or directory of the output could not be made.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: `create`, `write`, `remove`, `list`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Standard output could not be written to.
    #[error("cannot write to standard output")]
    Stdout {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A layer's bytes cannot be had.
    #[error("cannot get layer {digest}")]
    Fetch {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A layer cannot be read, or written in another form.
    #[error("cannot convert layer {digest}")]
    Convert {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A layer cannot be read as a file system.
    #[error("cannot read layer {digest}")]
    Layer {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A layer does not have the content that its image's config says.
    #[error("layer {digest} has diffID {actual}, the image says {expected}")]
    DiffId {
        /// The blob.
        digest: Digest,
        /// What the config says.
        expected: DiffId,
        /// What the blob has.
        actual: DiffId,
    },
    /// The files of an image cannot be read.
    #[error("cannot read the files of the image")]
    Tree {
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A file of a scanner is no statement.
    #[error("`{name}` that the scanner wrote is no in-toto statement")]
    Statement {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A file of a scanner says something else than what an image consists of.
    #[error(
        "`{name}` that the scanner wrote is no list of packages: its predicate type is `{predicate_type}`"
    )]
    PredicateType {
        /// Its name.
        name: String,
        /// What it says that it is.
        predicate_type: String,
    },
    /// Two things that are said about an image would be one file.
    #[error("duplicate attestation path name {name}")]
    SameName {
        /// Its name.
        name: String,
    },
    /// `type=docker` with several platforms.
    #[error("docker exporter does not currently support exporting manifest lists")]
    DockerIndex,
    /// There is no Docker engine to load the image into.
    #[error("there is no Docker engine at `{}`", socket.display())]
    NoEngine {
        /// Its socket.
        socket: PathBuf,
        /// Why it cannot be talked to.
        #[source]
        source: io::Error,
    },
    /// Nobody says where the Docker engine is.
    #[error("there is no Docker engine to load the image into")]
    NoEngineNamed,
    /// The Docker engine does not take the image.
    #[error("the Docker engine refused the image: {reason}")]
    Engine {
        /// Its words.
        reason: String,
    },
    /// A push without a name.
    #[error("a name is needed to push; give one with `-t` or `name=`")]
    NoName,
    /// A push of names without a registry to talk to.
    #[error("there is no registry client to push {reference} with")]
    NoPusher {
        /// What should be pushed.
        reference: Reference,
    },
    /// The registry did not take something.
    #[error("cannot push {what} to {reference}")]
    Push {
        /// What: layers, manifest.
        what: &'static str,
        /// Where to.
        reference: Reference,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// An annotation is for an index, and there is none.
    #[error("annotation `{key}` is for an index; an image for a single platform has none")]
    NoIndex {
        /// The annotation.
        key: String,
    },
    /// An annotation is for a platform that is not built.
    #[error("annotation `{key}` is for {platform}, which is not built")]
    NoPlatform {
        /// The annotation.
        key: String,
        /// The platform.
        platform: Platform,
    },
    /// Docker's media types have no attestations.
    #[error("attestations need OCI media types; leave out `oci-mediatypes=false`")]
    NoAttestations,
    /// Docker's documents have no annotations.
    #[error("annotation `{key}` needs OCI media types; leave out `oci-mediatypes=false`")]
    NoAnnotations {
        /// The annotation.
        key: String,
    },
}

/// Says what was tried on which path when a file operation fails.
pub(super) trait At<T> {
    /// Turns the error into [`OutputError::Io`].
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, OutputError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, OutputError> {
        self.map_err(|source| OutputError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
