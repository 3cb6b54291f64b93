//! What a build is asked to do: plain data, everything resolved (no flags, no environment, no defaults left).

use std::{collections::BTreeMap, ffi::OsString, fmt, net::IpAddr, path::PathBuf, sync::Arc};

use super::Agent;
use crate::{
    context::Patterns,
    oci::Platform,
    plan::{Network, Scanner},
    sandbox::Ulimit,
    tree::Tree,
};

/// One build.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub struct BuildRequest {
    /// The Dockerfile's name as messages show it.
    pub dockerfile_name: String,
    /// Its text.
    pub dockerfile: String,
    /// Where `COPY` and `ADD` find their files.
    pub context: ContextSource,
    /// `--build-context`, by name.
    pub named_contexts: BTreeMap<String, NamedSource>,
    /// `--target`.
    pub target: Option<String>,
    /// `--platform`; never empty.
    pub platforms: Vec<Platform>,
    /// Whether the result is for several platforms, though there may be one: it is an index then.
    pub multi_platform: bool,
    /// Whether the user asked for that platform.
    pub platform_explicit: bool,
    /// `--build-arg`, those without a value already looked up.
    pub build_args: BTreeMap<String, String>,
    /// `--label`, added to the config last.
    pub labels: BTreeMap<String, String>,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--pull`: tags are looked up at the registry even when the store has them.
    pub pull: bool,
    /// Whether to tell why steps are executed.
    pub explain: bool,
    /// `--network`.
    pub network: Network,
    /// `--add-host`, in order.
    pub add_hosts: Vec<(String, IpAddr)>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `--ssh`: agents, by id.
    pub ssh: BTreeMap<String, Agent>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<u64>,
    /// `--ulimit`, in order.
    pub ulimits: Vec<Ulimit>,
    /// The host name that processes see, if one was asked for.
    pub hostname: Option<String>,
    /// The environment of the `git` program: `PATH`, proxies, `SSH_AUTH_SOCK`.
    pub git_env: Vec<(OsString, OsString)>,
    /// The time of the build context, in seconds since 1970: that of the commit when it is a repository, that of the last change
    /// when it is a file of the web or an archive.
    pub context_time: Option<i64>,
    /// What lists the packages of the images (`--sbom`).
    pub scanner: Option<Scanner>,
    /// `--allow network.host`.
    pub allow_host_network: bool,
    /// `--allow security.insecure`.
    pub allow_insecure: bool,
}

/// Which steps run although the cache knows their result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    Never,
    /// All.
    Always,
    /// Those of these stages, by name without regard to case.
    Stages(Vec<String>),
}

/// Where the build context is.
#[derive(Clone)]
pub enum ContextSource {
    /// A directory, read in place.
    Directory {
        /// Where; absolute, since what is remembered of its files goes by their paths.
        path: PathBuf,
        /// What its ignore file takes out.
        patterns: Patterns,
    },
    /// Files that were fetched or unpacked for this build; no ignore file applies.
    Tree(Arc<dyn Tree>),
    /// No files: a Dockerfile from standard input.
    Empty,
}

impl fmt::Debug for ContextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, .. } => f.debug_tuple("Directory").field(path).finish(),
            Self::Tree(_) => f.write_str("Tree(…)"),
            Self::Empty => f.write_str("Empty"),
        }
    }
}

impl ContextSource {
    /// The directory's path, as far as it is text.
    pub(super) fn path(&self) -> Option<&str> {
        match self {
            Self::Directory { path, .. } => path.to_str(),
            Self::Tree(_) | Self::Empty => None,
        }
    }
}

/// What `--build-context NAME=…` stands for.
#[derive(Clone)]
pub enum NamedSource {
    /// A directory of files.
    Directory {
        /// Where; absolute.
        path: PathBuf,
        /// What its own ignore file takes out.
        patterns: Patterns,
    },
    /// Files that were fetched for this build, and their time in seconds since 1970: that of the commit, or what the server says.
    Tree(Arc<dyn Tree>, Option<i64>),
    /// `docker-image://REFERENCE`.
    Image(String),
    /// `oci-layout://PATH[:tag|@digest]`.
    Layout {
        /// The layout's directory.
        path: PathBuf,
        /// The tag or digest; `None` takes `latest`, or the only image there is.
        image: Option<String>,
    },
}

impl fmt::Debug for NamedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, .. } => f.debug_tuple("Directory").field(path).finish(),
            Self::Tree(..) => f.write_str("Tree(…)"),
            Self::Image(name) => f.debug_tuple("Image").field(name).finish(),
            Self::Layout { path, image } => {
                f.debug_tuple("Layout").field(path).field(image).finish()
            }
        }
    }
}

/// Where a secret's value is. It is read when a step needs it, and never printed.
#[derive(Clone)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// The value itself, from the environment.
    Value(Vec<u8>),
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(…)"),
        }
    }
}
