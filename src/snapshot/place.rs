//! Putting inodes into a directory, confined to it, with all their metadata.
//!
//! Every parent is a directory that was put before, so no path leads through a symbolic link; the kernel is asked to check that
//! all the same. The order per inode matters: changing the owner clears set-user-id bits and capabilities, so mode and
//! attributes come after it, and times last.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, fchmod, fchown,
        futimens, linkat, makedev, mkdirat, mknodat, openat, openat2, renameat, symlinkat,
        utimensat,
    },
    io::Errno,
};

use super::{
    At, Owners, SnapshotError, Style,
    owner::{self, Owner},
    xattr,
};
use crate::tree::{Kind, Metadata, TreeError};

/// The attribute that holds file capabilities.
pub(super) const SECURITY_CAPABILITY: &str = "security.capability";

/// Puts inodes below one directory.
pub(super) struct Placer {
    root: OwnedFd,
    /// For errors.
    shown: PathBuf,
    /// The file with the owners that attributes cannot hold.
    owners: PathBuf,
    style: Style,
    /// The directory that was used last; files come directory by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories with whiteouts that are attributes, which overlayfs must be told of.
    marked: std::collections::BTreeSet<PathBuf>,
}

/// The bytes of a file, whose failures are told from those of the disk that they go to.
struct Content<'a> {
    reader: &'a mut dyn Read,
    is_damaged: bool,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buf);
        self.is_damaged |=
            matches!(&read, Err(error) if error.kind() != io::ErrorKind::Interrupted);
        read
    }
}

impl Placer {
    /// Puts inodes into the existing directory `root`.
    pub(super) fn new(root: &Path, owners: PathBuf, style: Style) -> Result<Self, SnapshotError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(root, flags, Mode::empty()).at("open", root)?,
            shown: root.to_owned(),
            owners,
            style,
            parent: None,
            marked: std::collections::BTreeSet::new(),
        })
    }

    /// One more for the same directory.
    pub(super) fn again(&self) -> Result<Self, SnapshotError> {
        Ok(Self {
            root: self.root.try_clone().at("open", &self.shown)?,
            shown: self.shown.clone(),
            owners: self.owners.clone(),
            style: self.style,
            parent: None,
            marked: std::collections::BTreeSet::new(),
        })
    }

    /// A directory that everybody else is kept out of until [`Self::finish_dir`].
    pub(super) fn dir(&mut self, path: &Path) -> Result<(), SnapshotError> {
        let shown = self.shown.join(path);
        let (parent, name) = self.parent(path)?;
        mkdirat(parent, name, Mode::RWXU).at("create", shown)
    }

    /// Gives a directory its metadata, once nothing is put into it any more. The empty path is the root.
    pub(super) fn finish_dir(
        &mut self,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<(), SnapshotError> {
        let shown = self.shown.join(path);
        let name = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = open_below(&self.root, name, flags).at("open", &shown)?;
        if self.marked.contains(path) {
            let name = format!("{}opaque", self.style.marks.prefix());
            xattr::set(&dir, name, b"x").at("mark", &shown)?;
        }
        dress(self.style, &dir, metadata, &shown)
    }

    /// The mark for something gone.
    pub(super) fn whiteout(&mut self, path: &Path) -> Result<(), SnapshotError> {
        let shown = self.shown.join(path);
        let style = self.style;
        let (parent, name) = self.parent(path)?;
        match mknodat(
            parent,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        ) {
            // Overlayfs below overlayfs refuses the device. Linux 6.7 reads attributes instead.
            Err(Errno::PERM) => {
                let file = create(parent, name).at("create", &shown)?;
                let name = format!("{}whiteout", style.marks.prefix());
                xattr::set(&file, name, b"y").at("mark", &shown)?;
                let dir = path.parent().unwrap_or(Path::new(""));
                self.marked.insert(dir.to_owned());
                Ok(())
            }
            other => other.at("whiteout", shown),
        }
    }

    /// A regular file with the bytes of `content`, of which there have to be as many as the metadata says.
    pub(super) fn file(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        content: &mut dyn Read,
    ) -> Result<(), SnapshotError> {
        let shown = self.shown.join(path);
        let (parent, name) = self.parent(path)?;
        let mut file = create(parent, name).at("create", &shown)?;
        if let Kind::File { size } = metadata.kind {
            let mut content = Content {
                reader: content,
                is_damaged: false,
            };
            let copied = match io::copy(&mut (&mut content).take(size), &mut file) {
                Err(source) if content.is_damaged => {
                    return Err(SnapshotError::Tree(TreeError {
                        action: "read",
                        path: path.to_owned(),
                        source,
                    }));
                }
                copied => copied.at("write", &shown)?,
            };
            if copied < size {
                let path = path.to_owned();
                return Err(SnapshotError::Incomplete { path });
            }
        }
        dress(self.style, &file, metadata, &shown)
    }

    /// A regular file that is on disk already, by its name in another directory. `dressed` is what it looks like there.
    pub(super) fn adopt(
        &mut self,
        (dir, name): (&OwnedFd, &str),
        path: &Path,
        (dressed, metadata): (&Metadata, &Metadata),
    ) -> Result<(), SnapshotError> {
        let shown = self.shown.join(path);
        let style = self.style;
        let (parent, new) = self.parent(path)?;
        renameat(dir, name, parent, new).at("rename", &shown)?;
        if dressed == metadata {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, new, flags, Mode::empty()).at("open", &shown)?;
        dress(style, &file, metadata, &shown)
    }

    /// One more name for what was put before.
    pub(super) fn link(&mut self, path: &Path, target: &Path) -> Result<(), SnapshotError> {
        let shown = self.shown.join(path);
        let (parent, name) = self.parent(target)?;
        let (parent, name) = (
            parent.try_clone_to_owned().at("open", &shown)?,
            name.to_owned(),
        );
        let (to, to_name) = self.parent(path)?;
        linkat(&parent, &name, to, to_name, AtFlags::empty()).at("link", shown)
    }

    /// What is neither a file nor a directory.
    pub(super) fn special(
        &mut self,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<(), SnapshotError> {
        let shown = self.shown.join(path);
        let mode = Mode::from_raw_mode(metadata.mode & 0o7777);
        let style = self.style;
        let (parent, name) = self.parent(path)?;
        match &metadata.kind {
            Kind::Symlink { target } => symlinkat(target, parent, name).at("create", &shown)?,
            Kind::Fifo => {
                mknodat(parent, name, FileType::Fifo, mode, 0).at("create", &shown)?;
            }
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                let kind = if matches!(metadata.kind, Kind::Char { .. }) {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                match mknodat(parent, name, kind, mode, makedev(*major, *minor)) {
                    Err(Errno::PERM) => {
                        let stand_in = create(parent, name).at("create", &shown)?;
                        Owner::of(metadata).write_at(&stand_in).at("mark", &shown)?;
                        let mode = real_mode(style, metadata);
                        fchmod(&stand_in, mode).at("set the mode of", &shown)?;
                        return futimens(&stand_in, &metadata.mtime.into())
                            .at("set the time of", shown);
                    }
                    other => other.at("create", &shown)?,
                }
            }
            // Neither layers nor archives have sockets.
            Kind::Socket | Kind::File { .. } | Kind::Dir => return Ok(()),
        }
        self.own_special(path, metadata, &shown)?;
        let (parent, name) = self.parent(path)?;
        if !matches!(metadata.kind, Kind::Symlink { .. }) {
            chmodat(parent, name, mode, AtFlags::empty()).at("set the mode of", &shown)?;
        }
        utimensat(
            parent,
            name,
            &metadata.mtime.into(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .at("set the time of", shown)
    }

    /// Records whose a further name of a link or pipe is: such records are about names.
    pub(super) fn own_name(&self, path: &Path, metadata: &Metadata) -> Result<(), SnapshotError> {
        let carries_record = matches!(metadata.kind, Kind::File { .. } | Kind::Dir);
        let is_recorded = matches!(self.style.owners, Owners::Recorded | Owners::Emulated);
        if carries_record || !is_recorded || (metadata.uid, metadata.gid) == (0, 0) {
            return Ok(());
        }
        owner::append(&self.owners, path, Owner::of(metadata)).at("write", &self.owners)
    }

    fn own_special(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        shown: &Path,
    ) -> Result<(), SnapshotError> {
        let style = self.style;
        if !matches!(style.owners, Owners::Recorded | Owners::Emulated) {
            let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
            let (parent, name) = self.parent(path)?;
            match chownat(
                parent,
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            ) {
                Err(Errno::INVAL | Errno::PERM) if style.owners == Owners::Mapped => {}
                other => return other.at("set the owner of", shown),
            }
        } else if (metadata.uid, metadata.gid) == (0, 0) {
            return Ok(());
        }
        owner::append(&self.owners, path, Owner::of(metadata)).at("write", &self.owners)
    }

    /// The open parent of a path, and its last component.
    fn parent<'a>(
        &'a mut self,
        path: &'a Path,
    ) -> Result<(BorrowedFd<'a>, &'a OsStr), SnapshotError> {
        let name = path.file_name().unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            return Ok((self.root.as_fd(), name));
        }
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = open_below(&self.root, parent, flags).at("open", self.shown.join(parent))?;
            self.parent = Some((parent.to_owned(), fd));
        }
        let (_, fd) = self.parent.as_ref().expect("it was just opened");
        Ok((fd.as_fd(), name))
    }
}

/// The mode that a file or directory gets.
fn real_mode(style: Style, metadata: &Metadata) -> Mode {
    let mode = metadata.mode & 0o7777;
    Mode::from_raw_mode(match style.owners {
        Owners::Emulated => owner::unprivileged_mode(mode, metadata.is_dir()),
        Owners::Real | Owners::Mapped | Owners::Recorded => mode,
    })
}

/// Owner, mode, attributes, time: in this order.
pub(super) fn dress(
    style: Style,
    file: impl AsFd,
    metadata: &Metadata,
    shown: &Path,
) -> Result<(), SnapshotError> {
    let file = file.as_fd();
    let recorded = match style.owners {
        Owners::Recorded => (metadata.uid, metadata.gid) != (0, 0),
        Owners::Emulated => {
            (metadata.uid, metadata.gid) != (0, 0)
                || real_mode(style, metadata).as_raw_mode() != metadata.mode & 0o7777
        }
        owners => {
            let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
            match fchown(file, Some(uid), Some(gid)) {
                Err(Errno::INVAL | Errno::PERM) if owners == Owners::Mapped => true,
                other => other.at("set the owner of", shown).map(|()| false)?,
            }
        }
    };
    fchmod(file, real_mode(style, metadata)).at("set the mode of", shown)?;
    if recorded {
        Owner::of(metadata).write_at(file).at("mark", shown)?;
    }
    for (name, value) in &metadata.xattrs {
        attribute(style, file, name, value, shown)?;
    }
    futimens(file, &metadata.mtime.into()).at("set the time of", shown)
}

/// Sets an attribute as far as this place allows: an image says nothing of the file system it will lie on. Capabilities are never
/// lost in silence.
fn attribute(
    style: Style,
    file: BorrowedFd<'_>,
    name: &OsStr,
    value: &[u8],
    shown: &Path,
) -> Result<(), SnapshotError> {
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(b"trusted.overlay.") || bytes.starts_with(b"user.overlay.") {
        // Would be a mark for overlayfs.
        return Ok(());
    }
    match xattr::set(file, name, value) {
        Ok(()) => Ok(()),
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP)
            if name == SECURITY_CAPABILITY && style.owners != Owners::Real =>
        {
            xattr::set(file, owner::CAPABILITY, value).at("set capabilities of", shown)
        }
        Err(error) if name == SECURITY_CAPABILITY => Err(error).at("set capabilities of", shown),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        Err(error) => Err(error).at("set attributes of", shown),
    }
}

/// Opens something below a directory; no component may be a symbolic link.
pub(super) fn open_below(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        // Filters of old container engines refuse what they do not know.
        Err(Errno::NOSYS | Errno::PERM) => {}
        other => return other,
    }
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = openat(root, ".", step, Mode::empty())?;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let flags = if components.peek().is_some() {
            step
        } else {
            flags
        };
        dir = openat(&dir, component.as_os_str(), flags, Mode::empty())?;
    }
    Ok(dir)
}

pub(super) fn create(parent: impl AsFd, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}
