//! Records of owners that do not exist here. Their form is that of `snapshot`, which reads them when it compares
//! directories: `UID:GID:MODE:TYPE`, as an attribute of files and directories, and for everything else as a line
//! of the file `owners` beside the upper directory.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::Write as _,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, CWD, FileType, Stat, XattrFlags},
    io::Errno,
};

/// The attribute.
pub(in crate::sandbox) const XATTR: &str = "user.containers.override_stat";
/// The attribute for file capabilities that could not be set.
pub(in crate::sandbox) const CAPABILITY: &str = "user.rbuild.capability";

/// An owner, and what the owned thing stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) struct Record {
    pub(in crate::sandbox) uid: u32,
    pub(in crate::sandbox) gid: u32,
    /// Type bits, major, minor of a device that could not be made.
    pub(in crate::sandbox) device: Option<(u32, u32, u32)>,
}

impl Record {
    pub(in crate::sandbox) fn text(self, mode: u32) -> String {
        let kind = match (self.device, FileType::from_raw_mode(mode)) {
            (Some((libc::S_IFBLK, major, minor)), _) => format!("block-{major}-{minor}"),
            (Some((_, major, minor)), _) => format!("char-{major}-{minor}"),
            (None, FileType::Directory) => "dir".to_owned(),
            (None, FileType::Symlink) => "symlink".to_owned(),
            (None, FileType::Fifo) => "pipe".to_owned(),
            (None, FileType::Socket) => "socket".to_owned(),
            (None, _) => "file".to_owned(),
        };
        format!("{}:{}:{:04o}:{kind}", self.uid, self.gid, mode & 0o7777)
    }

    pub(in crate::sandbox) fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.split(':');
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let kind = parts.nth(1).unwrap_or("file");
        let numbers = |type_bits: u32, text: &str| {
            let (major, minor) = text.split_once('-')?;
            Some((type_bits, major.parse().ok()?, minor.parse().ok()?))
        };
        let device = if let Some(text) = kind.strip_prefix("block-") {
            Some(numbers(libc::S_IFBLK, text)?)
        } else if let Some(text) = kind.strip_prefix("char-") {
            Some(numbers(libc::S_IFCHR, text)?)
        } else {
            None
        };
        Some(Self { uid, gid, device })
    }
}

/// The records of a step.
#[derive(Debug)]
pub(in crate::sandbox) struct Records {
    /// Those of links, pipes and sockets, by their paths in the root.
    by_path: HashMap<PathBuf, Record>,
    /// Those of files on file systems without such attributes, by device and inode.
    by_inode: HashMap<(u64, u64), Record>,
    /// Where new ones of the first kind are written.
    owners: Option<File>,
    /// The file system of the root.
    device: u64,
}

impl Records {
    /// The records that the files `owners` of the directories that make up the root hold, the topmost first; new ones go
    /// to `file`. The working directory must be `/proc`, the root directory the step's.
    pub(in crate::sandbox) fn load(file: Option<File>, texts: &[Vec<u8>]) -> Self {
        let mut by_path = HashMap::new();
        for text in texts.iter().rev() {
            for line in text.split(|b| *b == 0) {
                let Some(space) = line.iter().position(|b| *b == b' ') else {
                    continue;
                };
                if let Some(record) = Record::parse(&line[..space]) {
                    let path = Path::new("/").join(OsStr::from_bytes(&line[space + 1..]));
                    by_path.insert(path, record);
                }
            }
        }
        Self {
            by_path,
            by_inode: HashMap::new(),
            owners: file,
            device: fs::stat("/").map_or(0, |stat| stat.st_dev),
        }
    }

    /// Takes note of the owner of something that was mounted, which is in no layer.
    pub(in crate::sandbox) fn introduce(&mut self, path: &Path, uid: u32, gid: u32) {
        let record = Record {
            uid,
            gid,
            device: None,
        };
        if let Ok(stat) = fs::lstat(path) {
            self.by_inode.insert((stat.st_dev, stat.st_ino), record);
        }
        self.by_path.insert(path.to_owned(), record);
    }

    /// The record of what `fd` is open on, whose metadata is `stat`.
    pub(in crate::sandbox) fn get(&self, fd: BorrowedFd<'_>, stat: &Stat) -> Option<Record> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                let mut text = [0; 128];
                match fs::getxattr(name(fd), XATTR, &mut text) {
                    Ok(length) => Record::parse(&text[..length]),
                    Err(_) if self.by_inode.is_empty() => None,
                    Err(_) => self.by_inode.get(&(stat.st_dev, stat.st_ino)).copied(),
                }
            }
            _ if self.by_path.is_empty() => None,
            _ => self.by_path.get(&path(fd)?).copied(),
        }
    }

    /// Records the owner of what `fd` is open on.
    pub(in crate::sandbox) fn set(
        &mut self,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        record: Record,
    ) -> Result<(), Errno> {
        let text = record.text(stat.st_mode);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                match fs::setxattr(name(fd), XATTR, text.as_bytes(), XattrFlags::empty()) {
                    Err(Errno::OPNOTSUPP) => {
                        self.by_inode.insert((stat.st_dev, stat.st_ino), record);
                        Ok(())
                    }
                    other => other,
                }
            }
            _ => {
                let Some(path) = path(fd) else { return Ok(()) };
                // What lies in another file system is in no layer.
                if stat.st_dev == self.device || is_inside(fd, self.device) {
                    self.append(&text, &path)?;
                }
                self.by_path.insert(path, record);
                Ok(())
            }
        }
    }

    /// The record of what lies at a path that carries none itself.
    pub(in crate::sandbox) fn of_path(&self, path: &Path) -> Option<Record> {
        self.by_path.get(path).copied()
    }

    /// Sets it; `text` is its form with mode and type.
    pub(in crate::sandbox) fn set_path(
        &mut self,
        path: PathBuf,
        text: &str,
        record: Record,
    ) -> Result<(), Errno> {
        self.append(text, &path)?;
        self.by_path.insert(path, record);
        Ok(())
    }

    /// Takes the record away that `fd` has, if it has one.
    pub(in crate::sandbox) fn forget(&mut self, fd: BorrowedFd<'_>, stat: &Stat) {
        // Where it is a line of the file it stays: what has a real owner is not looked up there.
        let _none = fs::removexattr(name(fd), XATTR);
        self.by_inode.remove(&(stat.st_dev, stat.st_ino));
    }

    /// Whether no record goes by a name, so that it does not matter what becomes of names.
    pub(in crate::sandbox) fn all_by_inode(&self) -> bool {
        self.by_path.is_empty()
    }

    /// Takes note that `old` is now called `new`, or of the two having changed places.
    pub(in crate::sandbox) fn moved(
        &mut self,
        old: &Path,
        new: &Path,
        exchange: bool,
    ) -> Result<(), Errno> {
        let from_old = self.take(old)?;
        let from_new = self.take(new)?;
        self.bring(from_old, new)?;
        if exchange {
            self.bring(from_new, old)?;
        }
        Ok(())
    }

    /// Takes note that what is called `old` has another name.
    pub(in crate::sandbox) fn linked(&mut self, old: &Path, new: &Path) -> Result<(), Errno> {
        self.renew(new)?;
        match self.by_path.get(old) {
            Some(record) => self.bring(vec![(PathBuf::new(), *record)], new),
            None => Ok(()),
        }
    }

    /// Takes note that what is at `path` is new and belongs to root.
    pub(in crate::sandbox) fn renew(&mut self, path: &Path) -> Result<(), Errno> {
        self.take(path).map(drop)
    }

    /// Takes away the records of `path` and of all below it; gives them with what follows `path` in theirs.
    fn take(&mut self, path: &Path) -> Result<Vec<(PathBuf, Record)>, Errno> {
        let below = |(known, record): (&PathBuf, &Record)| {
            let rest = known.strip_prefix(path).ok()?;
            Some((rest.to_owned(), *record))
        };
        let taken: Vec<_> = self.by_path.iter().filter_map(below).collect();
        for (rest, _) in &taken {
            let known = join(path, rest);
            // A line is not taken back but outdone.
            let root = Record {
                uid: 0,
                gid: 0,
                device: None,
            };
            self.append(&root.text(libc::S_IFLNK | 0o777), &known)?;
            self.by_path.remove(&known);
        }
        Ok(taken)
    }

    fn bring(&mut self, records: Vec<(PathBuf, Record)>, to: &Path) -> Result<(), Errno> {
        for (rest, record) in records {
            let path = join(to, &rest);
            self.append(&record.text(libc::S_IFLNK | 0o777), &path)?;
            self.by_path.insert(path, record);
        }
        Ok(())
    }

    /// Adds a line, in one write so that a kill leaves whole lines.
    fn append(&mut self, text: &str, path: &Path) -> Result<(), Errno> {
        let Some(file) = &mut self.owners else {
            return Ok(());
        };
        let mut line = text.as_bytes().to_vec();
        line.push(b' ');
        line.extend(
            path.strip_prefix("/")
                .unwrap_or(path)
                .as_os_str()
                .as_bytes(),
        );
        line.push(0);
        file.write_all(&line)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }
}

/// `path` with what follows it, which may be nothing.
fn join(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() {
        path.to_owned()
    } else {
        path.join(rest)
    }
}

/// Whether a link is in the root's file system although it shows another device, as an overlay over several file
/// systems does: then its directory is.
fn is_inside(fd: BorrowedFd<'_>, device: u64) -> bool {
    let Some(path) = path(fd) else { return false };
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::stat(parent).is_ok_and(|stat| stat.st_dev == device)
}

/// The name of what `fd` is open on, for calls that take no descriptor; relative to `/proc`.
pub(in crate::sandbox) fn name(fd: BorrowedFd<'_>) -> String {
    format!("self/fd/{}", fd.as_raw_fd())
}

/// The path in the root of what `fd` is open on; `None` when it has none.
pub(in crate::sandbox) fn path(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let text = fs::readlinkat(CWD, name(fd), Vec::new()).ok()?.into_bytes();
    let whole = text.starts_with(b"/") && !text.ends_with(b" (deleted)");
    whole.then(|| OsString::from_vec(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_names_move_with_them() {
        let at = tempfile::tempdir().unwrap();
        let file = at.path().join("owners");
        let open = || File::options().append(true).create(true).open(&file);
        let mut records = Records::load(Some(open().unwrap()), &[]);
        let mine = Record {
            uid: 7,
            gid: 8,
            device: None,
        };
        let path = |name: &str| Path::new(name).to_owned();
        records.by_path.insert(path("/dir/link"), mine);
        records.by_path.insert(path("/dirt"), mine);
        records.moved(&path("/dir"), &path("/new"), false).unwrap();
        records.linked(&path("/new/link"), &path("/other")).unwrap();
        records.renew(&path("/dirt")).unwrap();
        let mut known: Vec<_> = records.by_path.keys().collect();
        known.sort();
        assert_eq!(known, [&path("/new/link"), &path("/other")]);
        let text = std::fs::read(&file).unwrap();
        let read = Records::load(None, &[text]);
        let of = |name: &str| read.by_path[Path::new(name)].uid;
        assert_eq!((of("/dir/link"), of("/dirt")), (0, 0));
        assert_eq!((of("/new/link"), of("/other")), (7, 7));
    }

    #[test]
    fn records_have_the_form_that_snapshots_read() {
        let record = |device| Record {
            uid: 5,
            gid: 6,
            device,
        };
        let file = libc::S_IFREG | 0o4755;
        assert_eq!(record(None).text(file), "5:6:4755:file");
        assert_eq!(record(None).text(libc::S_IFLNK | 0o777), "5:6:0777:symlink");
        let device = record(Some((libc::S_IFCHR, 1, 3)));
        assert_eq!(device.text(libc::S_IFREG | 0o666), "5:6:0666:char-1-3");
        for (record, mode) in [(record(None), file), (device, file)] {
            assert_eq!(Record::parse(record.text(mode).as_bytes()), Some(record));
            let read = crate::snapshot::owner::Owner::parse(record.text(mode).as_bytes()).unwrap();
            assert_eq!((read.uid, read.gid, read.mode), (5, 6, 0o4755));
        }
        assert_eq!(Record::parse(b"x:1:0:file"), None);
    }
}
