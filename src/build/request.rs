//! What a build is asked to do: plain data, everything resolved (no flags, no environment, no defaults left).

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use crate::{oci::Platform, plan::Network};

/// One build.
#[derive(Debug, Clone)]
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
    /// Whether the result is an index even for one platform.
    pub multi_platform: bool,
    /// `--build-arg`, those without a value already looked up.
    pub build_args: BTreeMap<String, String>,
    /// `--label`, added to the config last.
    pub labels: BTreeMap<String, String>,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--pull`: tags are looked up at the registry even when the store has them.
    pub pull: bool,
    /// `--network`.
    pub network: Network,
    /// `--add-host`, in order.
    pub add_hosts: Vec<(String, IpAddr)>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `--ssh`: the agent's socket, by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<u64>,
    /// `--ulimit`, by name: soft and hard limit.
    pub ulimits: BTreeMap<String, (u64, u64)>,
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
#[derive(Debug, Clone)]
pub enum ContextSource {
    /// A directory, read in place, less what its ignore file takes out.
    Directory {
        /// Where.
        path: PathBuf,
        /// The text of the ignore file, if there is one.
        ignore: Option<String>,
    },
    /// A directory or archive that was unpacked for this build; no ignore file applies.
    Unpacked {
        /// Where.
        path: PathBuf,
    },
    /// No files: a Dockerfile from standard input.
    Empty,
}

/// What `--build-context NAME=…` stands for.
#[derive(Debug, Clone)]
pub enum NamedSource {
    /// A directory of files, with its own ignore file.
    Directory {
        /// Where.
        path: PathBuf,
        /// The text of its ignore file, if there is one.
        ignore: Option<String>,
    },
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

/// Where a secret's value is. It is read when a step needs it, and never printed.
#[derive(Clone)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// The value itself, from the environment.
    Value(Vec<u8>),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(…)"),
        }
    }
}
