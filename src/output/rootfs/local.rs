//! A tree into a directory of this machine. Symbolic links that are there already are never followed: they are replaced
//! like any other file, so that an image cannot write outside of the directory.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{
    output::{LocalMode, OutputError, error::At as _},
    store::remove_tree,
    tree::{Kind, Metadata, Timestamp, Tree},
};

/// How a tree is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) mode: LocalMode,
    /// The modification time of everything, in place of its own.
    pub(super) mtime: Option<Timestamp>,
    /// Nothing is deleted, whatever the mode says.
    pub(super) only_add: bool,
}

/// Makes the directory, and those above it. Returns those that were not there, the lowest first.
pub(super) fn create(dir: &Path) -> Result<Vec<PathBuf>, OutputError> {
    let missing = dir
        .ancestors()
        .filter(|dir| !dir.as_os_str().is_empty())
        .take_while(|dir| dir.symlink_metadata().is_err());
    let missing = missing.map(Path::to_owned).collect();
    fs::create_dir_all(dir).at("create", dir)?;
    Ok(missing)
}

/// Sets the modification time of a directory.
pub(super) fn date(dir: &Path, mtime: Timestamp) -> Result<(), OutputError> {
    let follow = AtFlags::empty();
    rustix::fs::utimensat(rustix::fs::CWD, dir, &mtime.into(), follow).at("change", dir)
}

/// Removes directories that were made for nothing, as far as they are empty.
pub(super) fn remove_empty(made: &[PathBuf]) {
    made.iter()
        .take_while(|dir| fs::remove_dir(dir).is_ok())
        .for_each(drop);
}

/// The directories of platforms.
#[derive(Debug, Default)]
pub(super) struct Kept(BTreeSet<OsString>);

impl Kept {
    pub(super) fn add(&mut self, dir: &Path) {
        self.0.insert(dir.as_os_str().to_owned());
    }

    pub(super) fn delete_others(&self, dir: &Path) -> Result<(), OutputError> {
        delete_others(dir, &self.0)
    }
}

/// Writes a tree into the directory `target`, which is made if need be. Returns the devices that could not be made.
pub(super) fn write(
    tree: &dyn Tree,
    target: &Path,
    options: Options,
) -> Result<Vec<PathBuf>, OutputError> {
    drop(create(target)?);
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty()).at("open", target)?;
    let mut writer = Writer {
        tree,
        target,
        root: root.as_fd(),
        options,
        first_names: HashMap::new(),
        skipped: Vec::new(),
    };
    writer.fill(Path::new(""), root.as_fd())?;
    Ok(writer.skipped)
}

struct Writer<'a> {
    tree: &'a dyn Tree,
    target: &'a Path,
    root: BorrowedFd<'a>,
    options: Options,
    /// The first name of each inode with several.
    first_names: HashMap<u64, PathBuf>,
    skipped: Vec<PathBuf>,
}

/// The name under which a file is made before it replaces what is there.
const TEMP: &str = ".rbuild-export.tmp";

impl Writer<'_> {
    fn fill(&mut self, dir: &Path, fd: BorrowedFd<'_>) -> Result<(), OutputError> {
        let names = self.tree.names(dir).map_err(super::tree_error)?;
        if self.options.mode == LocalMode::Delete && !self.options.only_add {
            let kept: BTreeSet<OsString> = names.iter().cloned().collect();
            delete_others(&self.target.join(dir), &kept)?;
        }
        for name in names {
            let path = dir.join(&name);
            let Some(node) = self.tree.node(&path).map_err(super::tree_error)? else {
                continue;
            };
            let mut metadata = node.metadata;
            if let Some(mtime) = self.options.mtime {
                metadata.mtime = mtime;
            }
            if metadata.is_dir() {
                self.put_dir(&path, fd, &name, &metadata)?;
            } else {
                self.put_leaf(&path, fd, &name, &metadata, node.inode)?;
            }
        }
        Ok(())
    }

    fn put_dir(
        &mut self,
        path: &Path,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        metadata: &Metadata,
    ) -> Result<(), OutputError> {
        let shown = self.target.join(path);
        let mode = Mode::from_raw_mode(metadata.mode);
        match file_type(parent, name).at("read", &shown)? {
            Some(FileType::Directory) => {
                // A directory of an earlier export may be closed to its owner.
                let open = mode | Mode::RWXU;
                rustix::fs::chmodat(parent, name, open, AtFlags::empty()).at("change", &shown)?;
            }
            Some(_) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).at("remove", &shown)?;
                rustix::fs::mkdirat(parent, name, Mode::RWXU).at("create", &shown)?;
            }
            None => rustix::fs::mkdirat(parent, name, Mode::RWXU).at("create", &shown)?,
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).at("open", &shown)?;
        self.fill(path, fd.as_fd())?;
        rustix::fs::fchmod(&fd, mode).at("change", &shown)?;
        rustix::fs::futimens(&fd, &metadata.mtime.into()).at("change", &shown)
    }

    /// Anything but a directory: made under another name, then renamed over what is there.
    fn put_leaf(
        &mut self,
        path: &Path,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        metadata: &Metadata,
        inode: Option<u64>,
    ) -> Result<(), OutputError> {
        let shown = self.target.join(path);
        if file_type(parent, name).at("read", &shown)? == Some(FileType::Directory) {
            remove_tree(&shown)?;
        }
        rustix::fs::unlinkat(parent, TEMP, AtFlags::empty())
            .or_else(absent_is_fine)
            .at("remove", &shown)?;
        let linked = match inode.and_then(|inode| self.first_names.get(&inode)) {
            Some(first) => {
                rustix::fs::linkat(self.root, first, parent, TEMP, AtFlags::empty()).is_ok()
            }
            None => false,
        };
        if !linked && !self.make(path, parent, metadata, &shown)? {
            return Ok(());
        }
        let renamed = rustix::fs::renameat(parent, TEMP, parent, name);
        // Renaming a name of an inode over another one of the same inode does nothing at all.
        rustix::fs::unlinkat(parent, TEMP, AtFlags::empty())
            .or_else(absent_is_fine)
            .at("remove", &shown)?;
        renamed.at("write", &shown)?;
        if let Some(inode) = inode {
            self.first_names
                .entry(inode)
                .or_insert_with(|| path.to_owned());
        }
        Ok(())
    }

    /// Makes a new inode. `false` when that needs privileges.
    fn make(
        &mut self,
        path: &Path,
        parent: BorrowedFd<'_>,
        metadata: &Metadata,
        shown: &Path,
    ) -> Result<bool, OutputError> {
        let mode = Mode::from_raw_mode(metadata.mode);
        let node = match &metadata.kind {
            Kind::File { .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let fd: OwnedFd = rustix::fs::openat(parent, TEMP, flags, Mode::RUSR | Mode::WUSR)
                    .at("create", shown)?;
                let mut file = File::from(fd);
                let mut source = self.tree.open(path).map_err(super::tree_error)?;
                io::copy(&mut source, &mut file)
                    .inspect_err(|_| {
                        rustix::fs::unlinkat(parent, TEMP, AtFlags::empty()).ok();
                    })
                    .at("write", shown)?;
                for (name, value) in &metadata.xattrs {
                    // Not every file system has them, and not everybody may set them; the files are what counts.
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::fsetxattr(&file, name, value, flags).ok();
                }
                rustix::fs::fchmod(&file, mode).at("change", shown)?;
                rustix::fs::futimens(&file, &metadata.mtime.into()).at("change", shown)?;
                return Ok(true);
            }
            Kind::Symlink { target } => {
                rustix::fs::symlinkat(target, parent, TEMP).at("create", shown)?;
                set_times(parent, metadata.mtime).at("change", shown)?;
                return Ok(true);
            }
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Char { major, minor } => (
                FileType::CharacterDevice,
                rustix::fs::makedev(*major, *minor),
            ),
            Kind::Block { major, minor } => {
                (FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::Dir | Kind::Socket => return Ok(false),
        };
        let (file_type, device) = node;
        match rustix::fs::mknodat(parent, TEMP, file_type, mode, device) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                self.skipped.push(path.to_owned());
                return Ok(false);
            }
            Err(error) => return Err(error).at("create", shown),
        }
        rustix::fs::chmodat(parent, TEMP, mode, AtFlags::empty()).at("change", shown)?;
        set_times(parent, metadata.mtime).at("change", shown)?;
        Ok(true)
    }
}

fn set_times(parent: BorrowedFd<'_>, mtime: Timestamp) -> rustix::io::Result<()> {
    rustix::fs::utimensat(parent, TEMP, &mtime.into(), AtFlags::SYMLINK_NOFOLLOW)
}

/// What a name is, not followed; `None` when there is nothing.
fn file_type(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Option<FileType>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn absent_is_fine(error: Errno) -> rustix::io::Result<()> {
    if error == Errno::NOENT {
        Ok(())
    } else {
        Err(error)
    }
}

fn delete_others(dir: &Path, kept: &BTreeSet<OsString>) -> Result<(), OutputError> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        if kept.contains(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        remove_tree(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_were_made_for_nothing_go_and_others_stay() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b/c");
        let made = create(&dir).unwrap();
        assert_eq!(made.len(), 3);
        assert!(create(&dir).unwrap().is_empty());
        fs::write(temp.path().join("a/file"), "").unwrap();
        remove_empty(&made);
        let there = |name: &str| temp.path().join(name).try_exists().unwrap();
        assert!(there("a/file") && !there("a/b"));
    }
}
