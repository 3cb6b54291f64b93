//! The plan: what a build will do, with every builder-side `$` expanded.
//!
//! ```text
//! Dockerfile ─outline(target, build args, platform)→ Outline   which stages are reachable, which base images they name
//!            ─lower(outline, configs of those images)→ Plan    stages of steps, each with all it needs
//! ```
//! Both are pure: the same input gives the same plan, and [`Plan`] prints itself (`rbuild plan`). Text that a
//! shell will read (`RUN`, shell-form `CMD`) keeps its `$`. What only the file system at that point of the build
//! can tell stays a name: users, globs, destination links.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    oci::{Config, Platform},
    source::{Diagnostic, Span},
};

/// The position of a stage in the Dockerfile, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StageId(pub usize);

/// What a build for one platform will do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The platform of the result.
    pub platform: Platform,
    /// The reachable stages, each after all that it depends on.
    pub stages: Vec<Stage>,
    /// The stage that is the result.
    pub target: StageId,
    /// The value of the global `SOURCE_DATE_EPOCH` build argument as given or defaulted, still text.
    pub source_date_epoch: Option<String>,
    /// Findings that do not stop the build.
    #[serde(skip)]
    pub warnings: Vec<Diagnostic>,
}

/// One stage.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// Its position in the Dockerfile.
    pub id: StageId,
    /// Its name as progress shows it: `AS name`, else `stage-N`; with `linux/arm64 ` in front in a build for several
    /// platforms.
    pub name: String,
    /// Its platform, that of `FROM --platform` or of the target.
    pub platform: Platform,
    /// What it starts from.
    pub base: Base,
    /// The text of the `FROM` line after expansion, for progress: `FROM alpine:3.20`.
    pub from_text: String,
    /// Where the `FROM` line is.
    pub span: Span,
    /// What it does, in order.
    pub steps: Vec<Step>,
    /// The run-time config when all steps are done.
    pub config: Config,
    /// `MAINTAINER`, or the base's author.
    pub author: Option<String>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image, named as [`Outline::images`] has it.
    Image(ImageSource),
    /// An earlier stage.
    Stage(StageId),
    /// A named context that is a directory; the stage starts from its files.
    Context(String),
}

/// An image that a build needs: a reference and the platform wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ImageSource {
    /// The reference as written, expanded; or the name of the named context that replaces it.
    pub name: String,
    /// The platform to pick.
    pub platform: Platform,
}

/// One instruction that leaves a trace in the image.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Its number within the stage as progress shows it (`2` of `[build 2/4]`); `None` for instructions that progress
    /// does not show, those that only change the config.
    pub number: Option<(usize, usize)>,
    /// Where it stands; for an `ONBUILD` trigger of an image, the `FROM` line.
    pub span: Span,
    /// What progress shows: `RUN make`, with `ONBUILD ` in front of triggers.
    pub text: String,
    /// What the image's history says (`created_by`).
    pub created_by: String,
    /// What to do.
    pub op: Op,
}

/// What a step does.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    /// Runs a process.
    Run(Box<RunOp>),
    /// Copies files: `COPY` and `ADD`.
    Copy(Box<CopyOp>),
    /// Makes a directory: `WORKDIR`. Always a layer, except for the root.
    Workdir(WorkdirOp),
    /// Changes the config alone; makes no layer.
    Config,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The build context.
    Context,
    /// The result of an earlier stage.
    Stage(StageId),
    /// An image.
    Image(ImageSource),
    /// A named context that is a directory.
    Named(String),
    /// Nothing: `from=scratch`.
    Scratch,
}

/// A process to run.
#[derive(Debug, Clone, Serialize)]
pub struct RunOp {
    /// The program and its arguments, the shell included.
    pub argv: Vec<String>,
    /// Scripts of heredocs, mounted as `/dev/pipes/NAME`, 0755.
    pub scripts: Vec<Script>,
    /// What the process finds in its environment: `ENV` and `ARG` in effect, in order, `PATH` not added. Part of the
    /// cache key.
    pub env: Vec<(String, String)>,
    /// Proxy settings for the process that are no part of the cache key.
    pub proxy_env: Vec<(String, String)>,
    /// `USER` in effect, empty for root.
    pub user: String,
    /// The working directory, absolute.
    pub workdir: PathBuf,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`; `None` is the command line's choice.
    pub network: Option<Network>,
    /// `--security=insecure`.
    pub insecure: bool,
    /// `--device`.
    pub devices: Vec<Device>,
}

/// A script of a heredoc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Script {
    /// The heredoc's word.
    pub name: String,
    /// Its body.
    pub content: String,
}

/// The network a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The one this program has.
    Default,
    /// A lone loopback interface.
    None,
    /// The host's, on explicit request; needs `--allow network.host`.
    Host,
}

/// A device asked for by `RUN --device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its CDI name.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// One `RUN --mount`.
#[derive(Debug, Clone, Serialize)]
pub struct Mount {
    /// Where the process finds it, absolute and clean. For a secret that is only a variable, `None`.
    pub target: Option<PathBuf>,
    /// What it is.
    pub kind: MountKind,
    /// Where it is asked for.
    pub span: Span,
}

/// What is mounted.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// Files of the context, a stage or an image. Writes, if allowed, are thrown away.
    Bind {
        /// Where they are.
        from: Origin,
        /// Which, as written.
        source: String,
        /// Whether the process may write.
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its identity.
        id: String,
        /// Who else may use it meanwhile.
        sharing: Sharing,
        /// What a new one starts as.
        from: Option<Origin>,
        /// Which directory of `from`.
        source: String,
        /// Its mode when made.
        mode: u32,
        /// Its owner when made.
        uid: u32,
        /// Its group when made.
        gid: u32,
        /// Whether the process may write.
        writable: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Its size in bytes at most.
        size: Option<u64>,
    },
    /// A secret.
    Secret {
        /// Its identity on the command line.
        id: String,
        /// The variable that holds it, too or only.
        env: Option<String>,
        /// Whether its absence is an error.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Its identity on the command line.
        id: String,
        /// Whether its absence is an error.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
}

/// Who may use a cache mount at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Everybody at once.
    Shared,
    /// A second user gets a new one.
    Private,
    /// A second user waits.
    Locked,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, Serialize)]
pub struct CopyOp {
    /// Which of the two.
    pub verb: CopyVerb,
    /// Where path sources are.
    pub from: Origin,
    /// What to copy; heredocs last, as they are written last.
    pub sources: Vec<CopySource>,
    /// The absolute destination, not cleaned; a trailing slash says that it is a directory.
    pub dest: String,
    /// `--chown`, expanded.
    pub chown: Option<String>,
    /// `--chmod`, expanded.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<String>,
    /// `--checksum`, expanded.
    pub checksum: Option<String>,
    /// `--keep-git-dir`; `None` when not given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`; `None` when not given.
    pub unpack: Option<bool>,
}

/// Which instruction copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CopyVerb {
    /// `COPY`
    Copy,
    /// `ADD`
    Add,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CopySource {
    /// A path or glob in the origin, as written after expansion.
    Path(String),
    /// An `http://` or `https://` file.
    Url(String),
    /// A git repository with its `#ref:subdir` or query.
    Git(String),
    /// A file written in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its bytes.
        content: String,
    },
}

/// `WORKDIR`.
#[derive(Debug, Clone, Serialize)]
pub struct WorkdirOp {
    /// The directory, absolute, not cleaned: `/x/../y` makes `/x`, too, as in BuildKit.
    pub path: String,
    /// `USER` in effect: the owner of what has to be made.
    pub user: String,
}
