//! What to run and where: the values that `src/sandbox` takes and gives back.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::wire;

/// The host name that a step sees unless it is told otherwise.
pub const HOSTNAME: &str = "buildkitsandbox";

/// One process of a step, with everything it is to find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The program and its arguments. The program is looked up in the `PATH` of `env` unless it has a slash.
    #[serde(with = "wire::strings")]
    pub argv: Vec<OsString>,
    /// The whole environment, in order; of two entries with one name the later counts.
    #[serde(with = "wire::pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, an absolute path in the root. Made (0755, the user's) when it is missing.
    #[serde(with = "wire::path")]
    pub cwd: PathBuf,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Host name.
    pub hostname: String,
    /// Which network it sees.
    pub network: Network,
    /// What is mounted besides the usual file systems, in this order: a later mount lies over an earlier one.
    pub mounts: Vec<MountSpec>,
    /// The bytes of `/etc/hosts`; `None` leaves the root's own file in sight.
    #[serde(with = "wire::option_bytes")]
    pub etc_hosts: Option<Vec<u8>>,
    /// The bytes of `/etc/resolv.conf`; `None` leaves the root's own file in sight.
    #[serde(with = "wire::option_bytes")]
    pub resolv_conf: Option<Vec<u8>>,
    /// Size of `/dev/shm` in bytes; `None` is 64 MiB. As in BuildKit, programs can be executed in one of a given size.
    pub shm_size: Option<u64>,
    /// Resource limits to set; others stay as they are.
    pub ulimits: Vec<Ulimit>,
    /// Gives all capabilities and no system call filter: `RUN --security=insecure`.
    pub insecure: bool,
    /// Where its standard streams lead.
    pub streams: Streams,
    /// The root directory.
    pub rootfs: Rootfs,
}

impl ProcessSpec {
    /// Root runs `argv` in `/` of `rootfs`, with an empty environment, no mounts and the defaults for the rest.
    pub fn new(rootfs: Rootfs, argv: Vec<OsString>) -> Self {
        Self {
            argv,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            hostname: HOSTNAME.to_owned(),
            network: Network::Host,
            mounts: Vec::new(),
            etc_hosts: None,
            resolv_conf: None,
            shm_size: None,
            ulimits: Vec::new(),
            insecure: false,
            streams: Streams::default(),
            rootfs,
        }
    }
}

/// Where the standard streams of a process lead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// Nothing to read; output is taken.
    #[default]
    Output,
    /// It reads what this program would; output is taken.
    Input,
    /// All three are those of this program, as they are: a terminal stays one.
    Same,
}

/// The network of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The one that this program has.
    Host,
    /// A lone loopback interface, up.
    None,
}

/// Where the root directory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay, mounted for the process alone. `upper` holds the step's changes afterwards, free of anything
    /// that the sandbox itself had to put there, except `/proc`, `/sys` and `/dev` when the root lacked them.
    Overlay {
        /// Read-only directories, the topmost first; may be empty.
        #[serde(with = "wire::paths")]
        lower: Vec<PathBuf>,
        /// The directory that takes the changes.
        #[serde(with = "wire::path")]
        upper: PathBuf,
        /// An empty directory on the file system of `upper`, for the kernel and the sandbox; to be removed afterwards, as a
        /// directory `scratch` beside it, should there be one.
        #[serde(with = "wire::path")]
        work: PathBuf,
        /// Whether opaque marks and the like are `user.overlay.*` attributes, as a user namespace needs. Holds for the
        /// mounts of kind [`MountKind::Tree`], too.
        userxattr: bool,
    },
    /// A directory that is changed in place.
    Dir {
        /// The directory.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// An empty directory for the sandbox's own use; to be removed afterwards, as a directory `scratch` beside it, should
        /// there be one.
        #[serde(with = "wire::path")]
        work: PathBuf,
    },
    /// A directory that is changed in place by processes that `chroot` confines to it. Nothing is mounted: what would be
    /// is put into the directory and taken out again, and `/proc` and `/sys` are answered by a supervisor.
    Chroot {
        /// The directory.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// An empty directory on the same file system, for the sandbox's own use; to be removed afterwards.
        #[serde(with = "wire::path")]
        work: PathBuf,
    },
    /// A directory that is changed in place by processes that see nothing but it, because every call that names a file is answered for
    /// them. As with [`Rootfs::Chroot`], nothing is mounted. Owners and modes are recorded.
    Emulated {
        /// The directory.
        #[serde(with = "wire::path")]
        path: PathBuf,
        /// An empty directory on the same file system, for the sandbox's own use; to be removed afterwards.
        #[serde(with = "wire::path")]
        work: PathBuf,
    },
}

impl Rootfs {
    /// The directory for the sandbox's own use.
    pub(super) fn work(&self) -> &Path {
        match self {
            Self::Overlay { work, .. }
            | Self::Dir { work, .. }
            | Self::Chroot { work, .. }
            | Self::Emulated { work, .. } => work,
        }
    }
}

/// Something mounted for a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Where: an absolute path in the root. Symbolic links are followed inside the root; what is missing is made
    /// for the time of the step.
    #[serde(with = "wire::path")]
    pub target: PathBuf,
    /// What.
    pub kind: MountKind,
}

impl MountSpec {
    /// A mount of `kind` at `target`.
    pub fn new(target: impl AsRef<Path>, kind: MountKind) -> Self {
        Self {
            target: target.as_ref().to_owned(),
            kind,
        }
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host. Its last component is not followed when it is a symbolic link.
    Bind {
        /// Where it is.
        #[serde(with = "wire::path")]
        source: PathBuf,
        /// Whether writing is refused.
        readonly: bool,
    },
    /// A directory of the caller's own, which nobody else looks at meanwhile: without mounts, it is moved into the root
    /// and back.
    Own {
        /// Where it is.
        #[serde(with = "wire::path")]
        source: PathBuf,
        /// Whether writing is refused.
        readonly: bool,
    },
    /// A file or directory of the host that the process may change, for itself alone: its writes go away with it.
    ScratchBind {
        /// Where it is.
        #[serde(with = "wire::path")]
        source: PathBuf,
    },
    /// A file or directory of another root file system: the result of a stage, an image, a context.
    Tree {
        /// The directories that make up that file system, the topmost first, as those of an overlay.
        #[serde(with = "wire::paths")]
        lower: Vec<PathBuf>,
        /// Which file or directory of it. Symbolic links are followed inside that file system.
        #[serde(with = "wire::path")]
        source: PathBuf,
        /// Whether the process may write; what it writes goes away with it.
        writable: bool,
    },
    /// An empty file system in memory, mode 1777.
    Tmpfs {
        /// Its size in bytes at most; `None` is half of the machine's memory.
        size: Option<u64>,
        /// Whether nothing can be written to it, so that only other mounts show in it.
        readonly: bool,
    },
    /// A read-only file kept in memory: a secret, a script.
    Bytes {
        /// Its content.
        #[serde(with = "wire::bytes")]
        content: Vec<u8>,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A socket that passes connections on to a socket of the host: an SSH agent.
    Socket {
        /// The host's socket.
        #[serde(with = "wire::path")]
        host: PathBuf,
        /// Mode of the socket that the process sees.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Its name, as `--ulimit` takes it: `nofile`, `memlock`.
    pub name: String,
    /// The soft limit; `None` is unlimited.
    pub soft: Option<u64>,
    /// The hard limit; `None` is unlimited.
    pub hard: Option<u64>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
    /// The program could not be started: not found (127), not executable or not a program (126).
    NotStarted {
        /// What a shell would have exited with.
        code: i32,
        /// Why, in one clause: ``exec: "make": executable file not found in $PATH``.
        reason: String,
    },
    /// It was killed because the build was canceled.
    Canceled,
}

impl Exit {
    /// The exit status as a shell gives it: `128 + n` for signal `n`, 137 for a canceled step.
    pub fn code(&self) -> i32 {
        match self {
            Self::Code(code) | Self::NotStarted { code, .. } => *code,
            Self::Signal(signal) => 128 + signal,
            Self::Canceled => 137,
        }
    }

    /// Whether it exited with status 0.
    pub fn success(&self) -> bool {
        *self == Self::Code(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(Exit::Code(3).code(), 3);
        assert_eq!(Exit::Signal(9).code(), 137);
        assert!(Exit::Code(0).success());
        assert!(!Exit::Canceled.success());
    }

    #[test]
    fn a_spec_survives_its_trip_through_the_pipe() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = || OsString::from_vec(vec![b'a', 0xff, b'\n', b'"']);
        let mut spec = ProcessSpec::new(
            Rootfs::Overlay {
                lower: vec![PathBuf::from(odd()), "/b".into()],
                upper: "/u".into(),
                work: "/w".into(),
                userxattr: true,
            },
            vec![odd()],
        );
        spec.env.push((odd(), odd()));
        spec.etc_hosts = Some(vec![0, 1, 255]);
        spec.mounts = vec![
            MountSpec::new(
                "/x",
                MountKind::Tmpfs {
                    size: Some(1),
                    readonly: true,
                },
            ),
            MountSpec::new(
                "/y",
                MountKind::Bytes {
                    content: vec![1, 2, 0],
                    mode: 0o400,
                    uid: 1,
                    gid: 2,
                },
            ),
        ];
        let text = serde_json::to_vec(&spec).unwrap();
        let back: ProcessSpec = serde_json::from_slice(&text).unwrap();
        assert_eq!(back, spec);
    }
}
