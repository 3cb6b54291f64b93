//! Removing trees that steps left behind.

use std::{io, path::Path};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, chmodat, openat, unlinkat},
    io::Errno,
};

use super::{At, SnapshotError};

/// Removes a directory and all below it, also where its owner took away all rights. Follows no links and does
/// not care how deep it goes. That there is nothing is fine.
pub fn remove_tree(path: &Path) -> Result<(), SnapshotError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).at("remove", path);
    };
    let parent = match rustix::fs::open(
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error).at("remove", path),
    };
    // Directories that are open, outermost first, with the name by which each goes.
    let mut open = Vec::new();
    match enter(&parent, name) {
        Ok(Some(dir)) => open.push((dir, name.to_owned())),
        Ok(None) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return unlinkat(&parent, name, AtFlags::empty()).at("remove", path);
        }
        Err(error) => return Err(error).at("remove", path),
    }
    while let Some((dir, _)) = open.last_mut() {
        let Some(entry) = dir.next() else {
            let Some((_, name)) = open.pop() else { break };
            let removed = match open.last() {
                Some((above, _)) => above
                    .fd()
                    .and_then(|above| unlinkat(above, &name, AtFlags::REMOVEDIR)),
                None => unlinkat(&parent, &name, AtFlags::REMOVEDIR),
            };
            match removed {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(error).at("remove", path.join(name)),
            }
        };
        let entry = entry.at("read", path)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let here = dir.fd().at("read", path)?;
        let gone = if entry.file_type() == FileType::Directory {
            Err(Errno::ISDIR)
        } else {
            unlinkat(here, name, AtFlags::empty())
        };
        match gone {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                use std::os::unix::ffi::OsStringExt as _;
                let name = std::ffi::OsString::from_vec(name.to_bytes().to_vec());
                match enter(here, &name) {
                    Ok(Some(child)) => open.push((child, name)),
                    Ok(None) => {}
                    Err(error) => return Err(error).at("remove", path.join(name)),
                }
            }
            Err(error) => {
                let name = String::from_utf8_lossy(name.to_bytes()).into_owned();
                return Err(error).at("remove", path.join(name));
            }
        }
    }
    Ok(())
}

/// Opens a directory for emptying it; `None` when it is gone.
fn enter(parent: impl std::os::fd::AsFd, name: &std::ffi::OsStr) -> Result<Option<Dir>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR);
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
