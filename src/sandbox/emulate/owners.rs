//! What the files of a step are to those who see them: their owners, modes and devices, recorded in the form of `snapshot`.
//!
//! To the kernel all files are the builder's, who may read and write each: its mode there has these rights whatever the step has given.
//! Regular files and directories that are to look otherwise carry a record, `UID:GID:MODE:TYPE`, as an attribute; what cannot have one
//! is known by its path. What has no record is root's, with the mode that the kernel knows.

use std::{
    cell::RefCell,
    collections::HashMap,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, Stat, XattrFlags},
    io::Errno,
};

use super::super::supervisor::record::{self, Record, Records, XATTR};

/// What a file is to those who see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permissions with set-user-ID, set-group-ID and sticky bit.
    pub(super) mode: u32,
    /// Type bits, major, minor of a device.
    pub(super) device: Option<(u32, u32, u32)>,
}

/// The mode that a file has to the kernel when the step sees `mode`.
pub(super) fn real_mode(mode: u32, is_dir: bool) -> Mode {
    let runs = is_dir || mode & 0o111 != 0;
    Mode::from_raw_mode(mode & 0o777 | if runs { 0o700 } else { 0o600 })
}

/// Whether something can carry a record itself.
pub(super) fn carries(mode: u32) -> bool {
    matches!(
        FileType::from_raw_mode(mode),
        FileType::RegularFile | FileType::Directory
    )
}

impl Known {
    fn parse(text: &[u8]) -> Option<Self> {
        let record = Record::parse(text)?;
        let mode = text.split(|b| *b == b':').nth(2)?;
        let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
        Some(Self {
            uid: record.uid,
            gid: record.gid,
            mode: mode & 0o7777,
            device: record.device,
        })
    }

    fn record(self) -> Record {
        Record {
            uid: self.uid,
            gid: self.gid,
            device: self.device,
        }
    }

    /// Gives a file or directory this look; `bare` is one that has no record. The record that it has now, if it takes one.
    fn give(self, fd: BorrowedFd<'_>, stat: &Stat, bare: bool) -> Result<Option<Self>, Errno> {
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        let mode = real_mode(self.mode, is_dir);
        let name = record::name(fd);
        if stat.st_mode & 0o7777 != mode.as_raw_mode() {
            fs::chmod(&*name, mode)?;
        }
        let plain = (self.uid, self.gid) == (0, 0) && self.device.is_none();
        if plain && mode.as_raw_mode() == self.mode {
            return match if bare {
                Ok(())
            } else {
                fs::removexattr(&*name, XATTR)
            } {
                Ok(()) | Err(Errno::NODATA) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let text = self.record().text(stat.st_mode & libc::S_IFMT | self.mode);
        fs::setxattr(&*name, XATTR, text.as_bytes(), XattrFlags::empty())?;
        Ok(Some(self))
    }
}

/// What is known of the files of a step.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) by_path: Records,
    /// The ids that this process has, which all files of the root have.
    own: (u32, u32),
    /// The records of files and directories, by device and inode: what is in a root is changed by this process alone. `None` is one
    /// that has no record.
    records: RefCell<HashMap<(u64, u64), Option<Known>>>,
}

/// So many records are remembered before all are forgotten: some MiB.
const MOST: usize = 1 << 16;

impl Looks {
    pub(super) fn new(by_path: Records, own: (u32, u32)) -> Self {
        Self {
            by_path,
            own,
            records: RefCell::default(),
        }
    }

    fn remember(&self, stat: &Stat, record: Option<Known>) {
        let mut records = self.records.borrow_mut();
        if records.len() >= MOST {
            records.clear();
        }
        records.insert((stat.st_dev, stat.st_ino), record);
    }

    /// Forgets what something looks like that may be gone: another one may get its inode.
    pub(super) fn forget(&self, stat: &Stat) {
        let key = (stat.st_dev, stat.st_ino);
        self.records.borrow_mut().remove(&key);
    }

    /// Gives a file or directory a look, whatever it looked like.
    pub(super) fn give(&self, known: Known, fd: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
        let before = self
            .records
            .borrow_mut()
            .remove(&(stat.st_dev, stat.st_ino));
        let record = known.give(fd, stat, before == Some(None))?;
        self.remember(stat, record);
        Ok(())
    }

    /// Gives a new file its look.
    pub(super) fn give_new(&self, known: Known, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let stat = fs::fstat(fd)?;
        self.remember(&stat, None);
        self.give(known, fd, &stat)
    }

    /// What `fd` is open on, whose metadata is `stat`; `path` is where it lies in the root, if it does.
    pub(super) fn of(&self, fd: BorrowedFd<'_>, stat: &Stat, path: Option<&Path>) -> Known {
        self.of_named(&record::name(fd), stat, path)
    }

    /// The same for what `name` leads to.
    pub(super) fn of_named(&self, name: &str, stat: &Stat, path: Option<&Path>) -> Known {
        let mine = |id: u32, own: u32| if id == own { 0 } else { id };
        let plain = Known {
            uid: mine(stat.st_uid, self.own.0),
            gid: mine(stat.st_gid, self.own.1),
            mode: stat.st_mode & 0o7777,
            device: None,
        };
        // What lies elsewhere is what the kernel says.
        let Some(path) = path else { return plain };
        if carries(stat.st_mode) {
            let remembered = self
                .records
                .borrow()
                .get(&(stat.st_dev, stat.st_ino))
                .copied();
            let record = remembered.unwrap_or_else(|| {
                let mut text = [0; 128];
                let length = fs::getxattr(name, XATTR, &mut text);
                let record = length.ok().and_then(|length| Known::parse(&text[..length]));
                if matches!(length, Ok(_) | Err(Errno::NODATA)) {
                    self.remember(stat, record);
                }
                record
            });
            return record.unwrap_or(plain);
        }
        self.by_path
            .of_path(&absolute(path))
            .map_or(plain, |record| Known {
                uid: record.uid,
                gid: record.gid,
                ..plain
            })
    }

    /// Takes note of what something looks like that is open as `fd` and lies at `path`.
    pub(super) fn set(
        &mut self,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        path: &Path,
        known: Known,
    ) -> Result<(), Errno> {
        if carries(stat.st_mode) {
            return self.give(known, fd, stat);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink
            && stat.st_mode & 0o7777 != known.mode
        {
            fs::chmod(&*record::name(fd), Mode::from_raw_mode(known.mode & 0o777))?;
        }
        let path = absolute(path);
        if (known.uid, known.gid) == (0, 0) && self.by_path.of_path(&path).is_none() {
            return Ok(());
        }
        let text = known
            .record()
            .text(stat.st_mode & libc::S_IFMT | known.mode);
        self.by_path.set_path(path, &text, known.record())
    }
}

/// A path in the root as records have it.
pub(super) fn absolute(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// Gives something that was put into a root owner and mode, as the step is to see them.
pub(in crate::sandbox) fn dress(
    dir: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<(), Errno> {
    use rustix::fs::OFlags;
    use std::os::fd::AsFd as _;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(dir, name, flags, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    if !carries(stat.st_mode) {
        // Whose it is is known by its path.
        return fs::chmodat(
            dir,
            name,
            Mode::from_raw_mode(mode & 0o777),
            AtFlags::empty(),
        );
    }
    let known = Known {
        uid,
        gid,
        mode: mode & 0o7777,
        device: None,
    };
    let fd_name = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd())
    );
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    fs::chmod(&*fd_name, real_mode(mode, is_dir))?;
    let text = known
        .record()
        .text(stat.st_mode & libc::S_IFMT | known.mode);
    fs::setxattr(&*fd_name, XATTR, text.as_bytes(), XattrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_keeps_its_rights_whatever_the_step_gives() {
        let real = |mode, is_dir| real_mode(mode, is_dir).as_raw_mode();
        assert_eq!(real(0o4000, false), 0o600);
        assert_eq!(real(0o440, false), 0o640);
        assert_eq!(real(0o555, false), 0o755);
        assert_eq!(real(0o6755, false), 0o755);
        assert_eq!(real(0o1777, true), 0o777);
        assert_eq!(real(0, true), 0o700);
    }

    #[test]
    fn a_record_says_owner_mode_and_device() {
        let known = Known::parse(b"5:6:4040:char-1-3").unwrap();
        assert_eq!((known.uid, known.gid, known.mode), (5, 6, 0o4040));
        assert_eq!(known.device, Some((libc::S_IFCHR, 1, 3)));
        assert_eq!(Known::parse(b"5:6"), None);
    }
}
