//! A place for states where the store's own directory is none: the upper directory of an overlay cannot lie on an
//! overlay, which is what the root of a container usually is.
//!
//! Something is mounted on the directory, in a mount namespace of this process: nobody else sees it, and it goes away with
//! the process. Other processes with the same store have states of their own.

use std::path::{Path, PathBuf};

use rustix::{
    fs::{self, CWD, Mode},
    mount::MountFlags,
};

use super::{
    error::{During as _, Failure},
    mount::{Root, bind, isolate, make_dir, mount_new, open_host},
    sys,
};

/// What a directory of states was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shelter {
    /// It is fine as it is.
    None,
    /// A directory on another file system, below one of those that were offered; to be removed afterwards.
    Dir(PathBuf),
    /// Memory.
    Memory,
}

/// Whether `path` is on an overlay.
fn is_overlay(path: &Path) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC`
    const MAGIC: u32 = 0x794c_7630;
    fs::statfs(path).is_ok_and(|found| found.f_type == i64::from(MAGIC))
}

/// Sees to it that overlays can be made of directories below `dir`, which is made: with a directory in one of `places`, or
/// with memory. For a process that may mount; to be called before there is a second thread.
pub fn shelter(dir: &Path, places: &[PathBuf]) -> Result<Shelter, Failure> {
    make_dir(dir)?;
    if !is_overlay(dir) {
        return Ok(Shelter::None);
    }
    sys::unshare(libc::CLONE_NEWNS).during("make a mount namespace")?;
    isolate()?;
    let target = Root::open(dir)?;
    let name = format!("rbuild-states-{}", rustix::process::getpid().as_raw_pid());
    for place in places.iter().filter(|place| !is_overlay(place)) {
        let own = place.join(&name);
        // Only a new one: others may write to such places, too.
        if fs::mkdirat(CWD, &own, Mode::RWXU).is_err() {
            continue;
        }
        if bind(open_host(&own)?, target.fd()).is_ok() {
            return Ok(Shelter::Dir(own));
        }
        let _left_over = std::fs::remove_dir(&own);
    }
    mount_new("tmpfs", target.fd(), MountFlags::empty(), "mode=0700")
        .during_at("mount a tmpfs for states on", dir)?;
    Ok(Shelter::Memory)
}
