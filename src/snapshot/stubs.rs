//! Files that the sandbox mounts something on for every step, in a directory that each overlay has at the bottom.
//!
//! A state that has none of its own shows these. Made in its root instead, for the time of a step, they would take their
//! directory up into the changes, which costs more than all else that a step without changes does. No change refers to what is
//! in here: changes are told from the layers. The files are empty, and nobody ever writes to them.
//!
//! A crash may leave some of them unmade; who comes next makes them. Where a state hides them, the sandbox makes its own.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{At, SnapshotError};

/// Beside the snapshots of a style.
const NAME: &str = "stubs";

/// By directory.
const DIRS: [&str; 1] = ["etc"];
const FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// Sees to it that they are there, below `snapshots`; gives the directory.
pub(super) fn prepared(snapshots: &Path) -> Result<PathBuf, SnapshotError> {
    let root = snapshots.join(NAME);
    if root
        .join(FILES[FILES.len() - 1])
        .try_exists()
        .at("find", &root)?
    {
        return Ok(root);
    }
    for dir in [root.clone()]
        .into_iter()
        .chain(DIRS.map(|dir| root.join(dir)))
    {
        match std::fs::DirBuilder::new().mode(0o755).create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.at("create", &dir)?,
        }
    }
    for file in FILES {
        let file = root.join(file);
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(false).mode(0o644);
        opened.open(&file).at("create", &file)?;
    }
    Ok(root)
}
