//! Runs one process of a `RUN` step in a root directory, apart from the machine it runs on.
//!
//! [`ProcessSpec`] says what the process is to find, [`Sandbox::run`] runs it, [`Exit`] says how it ended. What it may
//! do is what Docker allows: its capability set, its system call filter, its masked files.
//!
//! ```text
//! program ── Sandbox::run        starts the helper, passes output on, cancels
//!    │ socket: spec, report
//! helper  ── maybe_helper        own mount, ipc, uts (and net) namespaces; overlay, /sys, /dev, mounts
//!    │ fork: own pid and mount namespace
//! step    ── /proc, change of root, filter, user, exec
//! ```
//!
//! Not here: making the directories of the root (`snapshot`), deciding what a step needs (`build`).

mod caps;
mod child;
mod chroot;
mod emulate;
mod error;
mod helper;
mod hosts;
mod idmap;
mod isolation;
mod keeper;
mod kernelfs;
mod kit;
mod mount;
mod mounts;
mod obstacle;
mod overlay;
mod probe;
mod ready;
mod run;
mod scene;
mod seccomp;
mod shelter;
mod spec;
mod step;
mod stubs;
mod supervisor;
mod sys;
mod userns;
mod users;
mod verdict;
mod wire;

pub use error::{Failure, SandboxError};
pub use helper::maybe_helper;
pub use hosts::{RESOLVED_CONF, etc_hosts, is_stub, resolv_conf};
pub use idmap::{IdMap, IdRange, subordinate_ids};
pub use isolation::{Choice, Isolation, Refusal, Rung, UnknownIsolation, choose};
pub use obstacle::Obstacle;
pub use probe::{Ability, Check, Identity, Probe};
pub use run::{Cancel, Sandbox, SetUp, Signals};
pub use shelter::{Shelter, shelter};
pub use spec::{
    Exit, HOSTNAME, MountKind, MountSpec, Network, ProcessSpec, Rootfs, Streams, Ulimit,
};
pub use userns::{Entry, NamespaceError, Program, enter_user_namespace, is_privileged};
pub use users::{User, UserError, find_user};
pub use verdict::{Advice, Gain, Verdict};
