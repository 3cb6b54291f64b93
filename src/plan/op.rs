//! What a step does, with all that it needs.

use std::path::PathBuf;

use serde::Serialize;

use super::{Chmod, ImageSource, StageId};
use crate::{
    dockerfile::{Device, Network, mount::Sharing},
    source::Span,
};

/// What a step does.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    /// Runs a process.
    Run(Box<RunOp>),
    /// Copies files: `COPY` and `ADD`.
    Copy(Box<CopyOp>),
    /// Makes a directory: `WORKDIR`. Always a layer; `WORKDIR /` is an [`Op::Config`].
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
    /// What the process finds in its environment: `ENV` and `ARG` in effect, the last set last, `PATH` always among
    /// them. Part of the cache key.
    pub env: Vec<(String, String)>,
    /// Which of `env` an `ARG` has set and no `ENV`; for explanations.
    #[serde(skip)]
    pub args: Vec<String>,
    /// Proxy settings for the process, after `env` and stronger than it; no part of the cache key.
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
        /// Whether the process may write.
        writable: bool,
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

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyOp {
    /// Which of the two.
    pub verb: CopyVerb,
    /// Where path sources are.
    pub from: Origin,
    /// What to copy; heredocs last, as they are written last.
    pub sources: Vec<CopySource>,
    /// The absolute destination, not cleaned; a trailing `/` or `/.` says that it is a directory.
    pub dest: String,
    /// `--chown`, expanded.
    pub chown: Option<String>,
    /// `--chmod`, expanded.
    pub chmod: Option<Chmod>,
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

impl CopyOp {
    /// `COPY` or `ADD` of these paths of the build context, without flags.
    pub fn of_paths(verb: CopyVerb, paths: &[&str], dest: &str) -> Self {
        let path = |path: &&str| CopySource::Path((*path).to_owned());
        Self {
            verb,
            from: Origin::Context,
            sources: paths.iter().map(path).collect(),
            dest: dest.to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            checksum: None,
            keep_git_dir: None,
            unpack: None,
        }
    }
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
    /// The directory, absolute and never `/`, not cleaned: `/x/../y` makes `/x`, too, as in BuildKit.
    pub path: String,
    /// `USER` in effect: the owner of what has to be made.
    pub user: String,
    /// `SOURCE_DATE_EPOCH`: the modification time of what has to be made, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}
