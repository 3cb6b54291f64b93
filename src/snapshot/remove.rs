//! Removing trees that steps left behind.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, statat, unlinkat},
    io::Errno,
};

use super::{At, SnapshotError};

/// So many directories are open at once; what lies deeper is first moved up.
const MAX_OPEN: usize = 100;

/// Removes a directory and all below it, also where its owner took away all rights. Follows no links and does
/// not care how deep it goes. That there is nothing is fine.
pub fn remove_tree(path: &Path) -> Result<(), SnapshotError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).at("remove", path);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => remove_at(&parent, name).at("remove", path),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).at("remove", path),
    }
}

/// Removes what has this name in a directory.
fn remove_at(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    loop {
        let Some(top) = enter(parent, name)? else {
            return absent_is_fine(unlinkat(parent, name, AtFlags::empty()));
        };
        empty(top)?;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // What was moved up came too late for the listing.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return absent_is_fine(other),
        }
    }
}

fn absent_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes what is in a directory, except what had to be moved up to it from too far below.
fn empty(top: Dir) -> Result<(), Errno> {
    // Directories that are open, outermost first, each with the name by which it goes.
    let mut open: Vec<(Dir, OsString)> = vec![(top, OsString::new())];
    let mut moved = 0;
    while let Some((dir, _)) = open.last_mut() {
        let Some(entry) = dir.next() else {
            let (_, name) = open.pop().expect("it was just looked at");
            if let Some((above, _)) = open.last() {
                absent_is_fine(unlinkat(above.fd()?, &name, AtFlags::REMOVEDIR))?;
            }
            continue;
        };
        let entry = entry?;
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        if name == "." || name == ".." {
            continue;
        }
        let depth = open.len();
        let here = open[depth - 1].0.fd()?;
        let child = match entry.file_type() {
            FileType::Directory | FileType::Unknown => enter(here, &name)?,
            _ => None,
        };
        let Some(child) = child else {
            absent_is_fine(unlinkat(here, &name, AtFlags::empty()))?;
            continue;
        };
        if depth < MAX_OPEN {
            open.push((child, name));
            continue;
        }
        let top = open[0].0.fd()?;
        loop {
            moved += 1;
            let new = format!("moved-up-{moved}");
            match renameat(here, &name, top, &new) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => {}
                other => break other?,
            }
        }
    }
    Ok(())
}

/// Opens a directory for emptying it; `None` when it is something else, or gone.
fn enter(parent: impl AsFd, name: &OsStr) -> Result<Option<Dir>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(None);
    }
    // Without all three rights it can be neither listed nor emptied, unless one is root.
    if stat.st_mode & 0o700 != 0o700 {
        let _best_effort = chmodat(&parent, name, Mode::RWXU, AtFlags::empty()).is_ok();
    }
    match openat(&parent, name, flags, Mode::empty()) {
        Ok(fd) => Dir::new(fd).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
