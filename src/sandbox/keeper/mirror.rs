//! Directories of `/proc` and `/sys` as real directories in the root.
//!
//! A descriptor of the kernel's own directory would be a way out of the root. So a step that opens a directory gets one that lies
//! in the root and has entries of the same names and types, made anew each time that it is opened. Opening an entry by such a
//! descriptor leads the keeper back to the kernel's file.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Dir, Mode, OFlags},
    io::Errno,
};

use super::super::mount::fd_path;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Dir,
    File,
    Link(PathBuf),
}

/// A tree of copies.
#[derive(Debug)]
pub(super) struct Mirror {
    top: OwnedFd,
}

impl Mirror {
    /// In the empty directory `top`.
    pub(super) fn new(top: OwnedFd) -> Self {
        Self { top }
    }

    /// Opens the copy of the directory `path`, with these entries.
    pub(super) fn open(
        &self,
        path: &Path,
        entries: &BTreeMap<OsString, Entry>,
    ) -> Result<OwnedFd, Errno> {
        let dir = self.dir(path)?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
            let stale = entries.get(name).is_none_or(|wanted| match wanted {
                Entry::Dir => !entry.file_type().is_dir(),
                Entry::File => !entry.file_type().is_file(),
                // Where it leads may have changed.
                Entry::Link(_) => true,
            });
            if stale && name != "." && name != ".." {
                remove(&dir, name)?;
            }
        }
        for (name, entry) in entries {
            let made = match entry {
                Entry::Dir => fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)),
                Entry::File => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    fs::openat(&dir, name, flags, Mode::from_raw_mode(0o444)).map(drop)
                }
                Entry::Link(target) => fs::symlinkat(target, &dir, name),
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dir)
    }

    /// Puts a link to `target` at `path`, for calls that the kernel has to make.
    pub(super) fn link(&self, path: &Path, target: &Path) -> Result<(), Errno> {
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().unwrap_or_default();
        remove(&dir, name)?;
        fs::symlinkat(target, &dir, name)
    }

    fn dir(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = fs::openat(&self.top, ".", flags, Mode::empty())?;
        for name in path {
            let open = |dir: &OwnedFd| fs::openat(dir, name, flags, Mode::empty());
            dir = match open(&dir) {
                Ok(next) => next,
                Err(error) => {
                    if error != Errno::NOENT {
                        remove(&dir, name)?;
                    }
                    fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755))?;
                    open(&dir)?
                }
            };
        }
        Ok(dir)
    }
}

fn remove(dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Follows no links, wherever they are.
        Err(Errno::ISDIR) => std::fs::remove_dir_all(fd_path(&dir.as_fd()).join(name))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_entries_of_the_last_time() {
        let at = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mirror = Mirror::new(fs::open(at.path(), flags, Mode::empty()).unwrap());
        let show = |entries: &[(&str, Entry)]| {
            let entries = entries
                .iter()
                .map(|(name, e)| (OsString::from(name), e.clone()));
            mirror.open(Path::new("7/fd"), &entries.collect()).unwrap();
            let mut names: Vec<_> = std::fs::read_dir(at.path().join("7/fd"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let link = |target: &str| Entry::Link(target.into());
        assert_eq!(show(&[("0", link("/a")), ("x", Entry::Dir)]), ["0", "x"]);
        std::fs::create_dir(at.path().join("7/fd/x/y")).unwrap();
        assert_eq!(show(&[("0", link("/b")), ("1", Entry::File)]), ["0", "1"]);
        let target = std::fs::read_link(at.path().join("7/fd/0")).unwrap();
        assert_eq!(target, Path::new("/b"));
    }
}
