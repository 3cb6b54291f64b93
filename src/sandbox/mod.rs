//! Runs one process of a `RUN` step in a root directory, apart from the machine it runs on.
//!
//! [`ProcessSpec`] says what the process is to find; [`Exit`] says how it ended. What it may do is what Docker
//! allows: its capability set, its system call filter, its masked files.
//!
//! Not here: making the directories of the root (`snapshot`), deciding what a step needs (`build`).

mod error;
mod hosts;
mod spec;
mod users;
mod wire;

pub use error::{Failure, SandboxError};
pub use hosts::{RESOLVED_CONF, etc_hosts, is_stub, resolv_conf};
pub use spec::{
    Exit, HOSTNAME, MountKind, MountSpec, Network, ProcessSpec, Rootfs, SHM_SIZE, Ulimit,
};
pub use users::{User, UserError, find_group, find_user};
