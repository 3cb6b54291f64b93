//! Why a build failed. Which instruction is to blame is said once, here; the causes say the rest.

use crate::{
    context::{
        ContextError,
        git::{GitError, GitSourceError},
    },
    copy::CopyError,
    layer::{ArchiveError, LayerError, StackError},
    oci::{DiffId, Digest},
    registry,
    sandbox::{Refusal, SandboxError},
    snapshot::SnapshotError,
    source::{Diagnostic, Span},
    store::StoreError,
    tree::TreeError,
};

use super::image_source::ImageError;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The Dockerfile is wrong: at least one finding, the first one that of BuildKit.
    #[error("{}", .0.first().map_or("the Dockerfile is invalid", |first| first.message.as_str()))]
    Invalid(Vec<Diagnostic>),
    /// An image cannot be used.
    #[error(transparent)]
    Image(Box<FailedImage>),
    /// A step failed.
    #[error("{}", .0.source)]
    Step(Box<FailedStep>),
    /// The moment that `SOURCE_DATE_EPOCH` names cannot be told.
    #[error("cannot tell the time that SOURCE_DATE_EPOCH names")]
    Epoch {
        /// The instruction that sets it.
        span: Span,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
    /// The image that is to list packages cannot be used.
    #[error(transparent)]
    Scanner(Box<FailedScanner>),
    /// The image that is to list packages names no program.
    #[error("the image `{image}` names no program to list packages with")]
    IdleScanner {
        /// Its name.
        image: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer that a remote cache promised cannot be had; building again does without it.
    #[error("the layer {blob} is not in the cache any longer")]
    Lost {
        /// The layer's blob.
        blob: Digest,
    },
    /// The user interrupted.
    #[error("the build was interrupted")]
    Interrupted,
}

/// An image that cannot be used, and who names it.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the image `{name}`")]
pub struct FailedImage {
    /// Its name.
    pub name: String,
    /// The instruction that names it.
    pub span: Span,
    /// The stage or well-known image that may be meant.
    pub suggestion: Option<String>,
    /// Why.
    #[source]
    pub source: ImageError,
}

/// A scanner's image that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the scanner `{image}`")]
pub struct FailedScanner {
    /// Its name.
    pub image: String,
    /// Why.
    #[source]
    pub source: ImageError,
}

/// A step that failed, and where it stands.
#[derive(Debug)]
pub struct FailedStep {
    /// What progress calls it: `[build 2/4] RUN make`.
    pub label: String,
    /// The instruction; `None` for a step that no line asks for.
    pub span: Option<Span>,
    /// The stage, by its name or `stage-N`.
    pub stage: String,
    /// Why it failed.
    pub source: StepError,
    /// Other steps that cannot succeed either, in the order of the text.
    pub others: Vec<Self>,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// What the step needs is made by this step, which a prediction does not execute. Never the error of a build.
    #[error("depends on what {0} makes")]
    Unsettled(String),
    /// The step's key rests on what a remote cache says of a state, and led to no earlier result. Never the error of a
    /// build.
    #[error("a remote cache's word is not enough to execute a step")]
    Unproven,
    /// The process exited with another status than 0.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Exit {
        /// The process's arguments, joined.
        command: String,
        /// Its exit status; 128 and the signal when one killed it.
        code: i32,
        /// Options that would have given the step secrets and agents that it can do without.
        absent: Vec<String>,
    },
    /// The process could not be started.
    #[error("process {command:?} did not complete successfully: {reason}")]
    NotStarted {
        /// The process's arguments, joined.
        command: String,
        /// Why.
        reason: String,
        /// What a shell would have exited with.
        code: i32,
    },
    /// `USER` names nobody.
    #[error("process {command:?} did not complete successfully: {source}")]
    User {
        /// The process's arguments, joined.
        command: String,
        /// Why.
        source: crate::copy::FindUserError,
    },
    /// A secret that the step requires was not given.
    #[error("secret {0}: not found")]
    SecretMissing(String),
    /// A secret's file cannot be read.
    #[error("cannot read the file of secret {id}")]
    SecretUnreadable {
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An SSH agent that the step requires was not given.
    #[error("ssh agent {0}: not found; pass it with --ssh")]
    SshMissing(String),
    /// A secret or an agent in the place of the whole root.
    #[error("invalid mount type {0} for /")]
    MountOnRoot(&'static str),
    /// A mount in the kernel's own file system, which is mounted over it.
    #[error("nothing can be mounted inside of /proc, at `{}`", .0.display())]
    MountInProc(std::path::PathBuf),
    /// The step asks for something that has to be allowed on the command line.
    #[error("{0} is not allowed; allow it with --allow {0}")]
    NotAllowed(&'static str),
    /// No process can be run in the way that was asked for.
    #[error(transparent)]
    NoSandbox(Refusal),
    /// Neither an image nor a command line says what to run.
    #[error("the image names no program to run; give one after its name")]
    NoProgram,
    /// The step is for another kind of machine, and nothing here can run its programs.
    #[error(
        "RUN for {platform} needs an interpreter on this {host} machine, and none is registered"
    )]
    Foreign {
        /// The stage's platform.
        platform: String,
        /// This machine's.
        host: String,
    },
    /// The step cannot be run on this machine.
    #[error("{0}")]
    Unsupported(String),
    /// What a bind mount names is not there.
    #[error("the mount source `{0}` is not found")]
    MountSource(String),
    /// Copying failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A file from the web or a repository cannot be had.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A file from the web cannot be had.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A file from the web cannot be kept.
    #[error("cannot keep what was downloaded from {url}")]
    Download {
        /// Its address.
        url: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file from the web is not the one expected.
    #[error("digest mismatch for {url}: expected {expected}, got {actual}")]
    Checksum {
        /// Its address.
        url: String,
        /// `--checksum`.
        expected: String,
        /// The digest of the file.
        actual: String,
    },
    /// A git source makes no sense.
    #[error("invalid git source `{text}`")]
    GitSource {
        /// The source.
        text: String,
        /// What is wrong with it.
        #[source]
        source: GitSourceError,
    },
    /// A repository cannot be had.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A base's or stage's bytes cannot be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The sandbox failed, not the process.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A layer does not fit on those below it.
    #[error("layer {layer} cannot lie on those below it")]
    Stack {
        /// Its blob.
        layer: Digest,
        /// Why.
        #[source]
        source: StackError,
    },
    /// A layer is no valid archive.
    #[error("layer {layer} is damaged")]
    Archive {
        /// Its blob.
        layer: Digest,
        /// What is wrong with it.
        #[source]
        source: ArchiveError,
    },
    /// A layer is not the one that the image's config names.
    #[error("layer {layer} holds {actual}, but the image's config says {expected}")]
    DiffId {
        /// Its blob.
        layer: Digest,
        /// The diffID in the config.
        expected: DiffId,
        /// That of the layer.
        actual: DiffId,
    },
    /// A file system state cannot be made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A file for the time of the step cannot be made.
    #[error("cannot make `{}`", path.display())]
    Scratch {
        /// Its path.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A layer cannot be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A tree cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What a scanner has left is no list of packages.
    #[error("`{name}` that the scanner wrote cannot be attached: {reason}")]
    List {
        /// Its name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The build is over for another reason.
    #[error("canceled")]
    Canceled,
}
