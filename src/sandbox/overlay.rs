//! Overlays: a stack of directories seen as one.
//!
//! Directories are named to the kernel by descriptor, relative to `/proc/self/fd`: a few bytes each, whatever their
//! paths, so that the page that mount(2) takes holds more layers than an image can have (127), and no character of a
//! path needs an escape.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
    mount::MountFlags,
    process,
};

use super::{
    error::{During as _, Failure},
    kit::Dirs,
    mount::make_dir,
};

/// The most directories that overlayfs takes below the upper one.
const MAX_LOWER: usize = 500;

/// Where an overlay keeps changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writable<'a> {
    /// The directory that takes them.
    pub(super) upper: &'a Path,
    /// An empty directory on the same file system.
    pub(super) work: &'a Path,
}

/// The directories of an overlay, opened: what is mounted over them later does not matter.
#[derive(Debug)]
pub(super) struct Stack {
    lower: Vec<Rc<OwnedFd>>,
    /// The upper directory and the kernel's own one.
    changes: Option<(OwnedFd, OwnedFd)>,
}

impl Stack {
    /// Opens `lower` (topmost first), on which `top` lies, and the directories for changes. `empty` is a directory to make up the numbers with:
    /// an overlay needs one lower directory, and two when nothing can be written.
    pub(super) fn open(
        (top, lower): (Option<OwnedFd>, &[PathBuf]),
        writable: Option<Writable<'_>>,
        empty: &Path,
        dirs: &mut Dirs,
    ) -> Result<Self, Failure> {
        if lower.len() > MAX_LOWER {
            return Err(Failure::new(
                format!("stack {} layers", lower.len()),
                Errno::TOOBIG,
            ));
        }
        let top = top.map(|top| Ok(Rc::new(top)));
        let mut fds = top
            .into_iter()
            .chain(lower.iter().map(|path| dirs.open(path)))
            .collect::<Result<Vec<_>, _>>()?;
        let needed = if writable.is_some() { 1 } else { 2 };
        if fds.len() < needed {
            make_dir(empty)?;
            fds.push(Rc::new(open_dir(empty)?));
        }
        if fds.len() < needed {
            let second = empty.with_extension("2");
            make_dir(&second)?;
            fds.push(Rc::new(open_dir(&second)?));
        }
        let changes = match writable {
            Some(Writable { upper, work }) => Some((open_dir(upper)?, open_dir(work)?)),
            None => None,
        };
        Ok(Self {
            lower: fds,
            changes,
        })
    }

    /// The directory that takes changes.
    pub(super) fn into_upper(self) -> Option<OwnedFd> {
        self.changes.map(|(upper, _)| upper)
    }

    /// Mounts the overlay at the directory `target` of the host.
    ///
    /// Changes the working directory of the calling process.
    pub(super) fn mount(&self, target: &Path, userxattr: bool) -> Result<(), Failure> {
        let names = self.lower.iter().map(|fd| fd.as_raw_fd().to_string());
        let names: Vec<_> = names.collect();
        let directories = match &self.changes {
            Some((upper, work)) => {
                let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
                format!(",upperdir={upper},workdir={work}")
            }
            None => String::new(),
        };
        let options = format!(
            "lowerdir={},index=off,metacopy=off,redirect_dir=nofollow{directories}{}",
            names.join(":"),
            if userxattr { ",userxattr" } else { "" },
        );
        let target_fd = open_dir(target)?;
        process::chdir("/proc/self/fd").during("go to `/proc/self/fd`")?;
        let attempt = |options: &str| {
            super::mount::mount_new("overlay", &target_fd, MountFlags::empty(), options)
        };
        // Without `volatile` the kernel writes everything out when the overlay goes away. A step's changes are read back
        // at once and kept elsewhere, so that is time for nothing. Before Linux 5.10 it is an error.
        let result = if let Some((_, work)) = &self.changes {
            let volatile = format!("{options},volatile");
            attempt(&volatile)
                .or_else(|refused| {
                    // Somebody has mounted it so before, for a step that was not run in it then: since the machine did not go
                    // down, nothing is lost.
                    let mark = "work/incompat/volatile";
                    let removed = fs::unlinkat(work, format!("{mark}/dirty"), AtFlags::empty())
                        .and_then(|()| fs::unlinkat(work, mark, AtFlags::REMOVEDIR));
                    match removed {
                        Ok(()) => attempt(&volatile),
                        Err(_) => Err(refused),
                    }
                })
                .or_else(|_unknown| attempt(&options))
        } else {
            attempt(&options)
        };
        process::chdir("/").during("leave `/proc/self/fd`")?;
        result.during_at("mount an overlay on", target)
    }
}

/// Opens the directories of an overlay and mounts it, see [`Stack`].
pub(super) fn mount(
    target: &Path,
    lower: &[PathBuf],
    writable: Option<Writable<'_>>,
    userxattr: bool,
    empty: &Path,
) -> Result<(), Failure> {
    Stack::open((None, lower), writable, empty, &mut Dirs::default())?.mount(target, userxattr)
}

/// Opens a directory of the host to mount from or on.
pub(super) fn open_dir(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).during_at("open the directory", path)
}

/// Gives `path` mode and owner of `like`. An overlay's root shows those of its upper directory.
pub(super) fn dress(path: &Path, like: &Path) -> Result<(), Failure> {
    let stat = fs::stat(like).during_at("look at", like)?;
    let (uid, gid) = (
        fs::Uid::from_raw(stat.st_uid),
        fs::Gid::from_raw(stat.st_gid),
    );
    // An owner that has no number here cannot be given; it stays the caller's.
    match fs::chown(path, Some(uid), Some(gid)) {
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::OVERFLOW) => {}
        Err(error) => return Err(Failure::new("set the owner of", error).at(path)),
    }
    fs::chmod(path, Mode::from_raw_mode(stat.st_mode & 0o7777)).during_at("set the mode of", path)
}
