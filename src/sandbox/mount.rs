//! Mounting by descriptor: a target is opened first, inside the root, and then mounted on through `/proc/self/fd`, so
//! that no symbolic link of an image can lead a mount out of the root.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{self, MountFlags, MountPropagationFlags},
};

use super::{
    error::{During as _, Failure},
    sys,
};

/// `MOUNT_ATTR_…` of mount(2), in the form of `mount_setattr`.
pub(super) mod attr {
    /// Read-only.
    pub(in super::super) const RDONLY: u64 = 1;
    /// Set-user-ID bits count for nothing.
    pub(in super::super) const NOSUID: u64 = 2;
    /// Devices cannot be opened.
    pub(in super::super) const NODEV: u64 = 4;
    /// Programs cannot be run.
    pub(in super::super) const NOEXEC: u64 = 8;
}

/// As many links as Linux follows before it gives up (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// The name by which the kernel finds what `fd` is open on.
pub(super) fn fd_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Opens `path` of the host to mount from; a symbolic link as the last component is an error.
pub(super) fn open_host(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty()).during_at("open", path)?;
    let stat = fs::fstat(&fd).during_at("look at", path)?;
    if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        return Err(Failure::new("open", Errno::LOOP).at(path));
    }
    Ok(fd)
}

/// Whether `fd` is open on a directory.
pub(super) fn is_dir(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fs::fstat(fd)?.st_mode).is_dir())
}

/// Mounts a new file system of type `kind` on what `target` is open on.
pub(super) fn mount_new(
    kind: &str,
    target: impl AsFd,
    flags: MountFlags,
    options: &str,
) -> io::Result<()> {
    let options = CString::new(options)?;
    let data = (!options.is_empty()).then_some(options.as_c_str());
    Ok(mount::mount(kind, fd_path(&target), kind, flags, data)?)
}

/// Mounts what `source` is open on at `target`, with everything mounted below it.
pub(super) fn bind(source: impl AsFd, target: impl AsFd) -> io::Result<()> {
    if bind_with(source.as_fd(), target.as_fd(), 0).is_ok() {
        return Ok(());
    }
    // Recursive always: in a user namespace a bind that would uncover what lies below other mounts is refused.
    Ok(mount::mount_bind_recursive(
        fd_path(&source),
        fd_path(&target),
    )?)
}

/// The same, with `attributes` (`attr::…`) from the start; by system calls that need no names.
fn bind_with(source: BorrowedFd<'_>, target: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let tree = sys::copy_mounts(source)?;
    if attributes != 0 {
        sys::mount_setattr(tree.as_fd(), attributes, true)?;
    }
    sys::attach(tree.as_fd(), target)
}

/// Mounts what `source` is open on at `place` (as [`Root::resolve`] gives it) in `root`, with everything mounted below it, all of it
/// with `attributes` (`attr::…`).
pub(super) fn bind_restricted(
    source: BorrowedFd<'_>,
    (root, place): (&Root, &Path),
    attributes: u64,
) -> Result<(), Failure> {
    let target = root.at(place)?;
    if bind_with(source, target.as_fd(), attributes).is_ok() {
        return Ok(());
    }
    bind(source, target).during_at("bind a mount on", place)?;
    if attributes != 0 {
        let bound = root.at(place)?;
        restrict(bound.as_fd(), attributes, true).during_at("restrict the mount on", place)?;
    }
    Ok(())
}

/// Sets `attributes` (`attr::…`) on the mount that `fd` is in; those it has stay.
pub(super) fn restrict(fd: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    match sys::mount_setattr(fd, attributes, recursive) {
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::NOSYS | Errno::PERM)
            ) =>
        {
            // Before Linux 5.12, and under filters that do not know the call. A remount has to repeat the flags that
            // a user namespace may not clear. It reaches the topmost mount only; those below keep what they allow.
            let present = fs::fstatvfs(fd)?.f_flag.bits();
            let mut flags = MountFlags::from_bits_retain(
                u32::try_from((present | attributes) & 0xf).map_err(io::Error::other)?,
            );
            // ST_NOATIME, ST_NODIRATIME and ST_RELATIME of statvfs are other numbers than those of mount.
            for (of_statvfs, of_mount) in [
                (1 << 10, MountFlags::NOATIME),
                (1 << 11, MountFlags::NODIRATIME),
                (1 << 12, MountFlags::RELATIME),
            ] {
                if present & of_statvfs != 0 {
                    flags |= of_mount;
                }
            }
            Ok(mount::mount_remount(
                fd_path(&fd),
                MountFlags::BIND | flags,
                "",
            )?)
        }
        other => other,
    }
}

/// Which device files work in a root.
///
/// A step of root may make the file of any device, the disk of the machine among them. Engines refuse to open those with a
/// control group, which takes rights that not every root has. Here they do not work on any mount that a step can make one on;
/// those of `/dev` are mounts of their own. A step cannot take the restriction off: it lacks `CAP_SYS_ADMIN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Devices {
    /// Those that `/dev` is furnished with.
    OfDev,
    /// All that the kernel opens.
    All,
}

impl Devices {
    /// The flags of a new mount on which device files can be made.
    pub(super) const fn flags(self) -> MountFlags {
        match self {
            Self::OfDev => MountFlags::NODEV,
            Self::All => MountFlags::empty(),
        }
    }

    /// The same as attributes (`attr::…`).
    pub(super) const fn attributes(self) -> u64 {
        match self {
            Self::OfDev => attr::NODEV,
            Self::All => 0,
        }
    }

    /// Has no device file work on the mount that `fd` is in and on those below it, unless all do.
    pub(super) fn disarm(self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::OfDev => restrict(fd, attr::NODEV, true),
            Self::All => Ok(()),
        }
    }
}

/// Cuts the calling process's mount namespace off, so that nothing mounted here shows up elsewhere.
pub(super) fn isolate() -> Result<(), Failure> {
    let recursive = MountPropagationFlags::REC;
    // Slave rather than private where possible: what the host unmounts meanwhile goes away here, too.
    mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | recursive)
        .or_else(|_refused| mount::mount_change("/", MountPropagationFlags::PRIVATE | recursive))
        .during("keep mounts apart from those of the host")
}

/// A directory that processes have as `/`, seen from outside.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
}

impl Root {
    /// The root at `path` of the host.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).during_at("open the root", path)?;
        Ok(Self { fd })
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where `path` leads with all symbolic links followed inside the root: relative, free of links, `.` and `..`.
    /// Components that do not exist are kept.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, Failure> {
        let mut done = PathBuf::new();
        let mut todo: Vec<OsString> = Vec::new();
        push_reversed(&mut todo, path.as_os_str());
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            done.push(&name);
            // `done` holds no link but perhaps in its last component, so the kernel follows nothing here.
            match fs::readlinkat(&self.fd, &done, Vec::new()) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Failure::new("follow", Errno::LOOP).at(path));
                    }
                    done.pop();
                    let target = OsString::from_vec(target.into_bytes());
                    if target.as_bytes().starts_with(b"/") {
                        done.clear();
                    }
                    push_reversed(&mut todo, &target);
                }
                Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(Failure::new("follow", error).at(path)),
            }
        }
        Ok(done)
    }

    /// Opens `path` (as [`Root::resolve`] gives it) to mount on or from; no link is followed.
    pub(super) fn at(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.open_beneath(path, flags).during_at("open", path)
    }

    /// The same; `None` when there is nothing.
    pub(super) fn find(&self, path: &Path) -> Result<Option<OwnedFd>, Failure> {
        match self.at(path) {
            Ok(fd) => Ok(Some(fd)),
            Err(_) if fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW).is_err() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let name = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        match fs::openat2(&self.fd, name, flags, Mode::empty(), how) {
            // Before Linux 5.6.
            Err(Errno::NOSYS) => self.walk(path, flags),
            other => other,
        }
    }

    /// The same name by name.
    fn walk(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = fs::openat(&self.fd, ".", step, Mode::empty())?;
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            let flags = if names.peek().is_some() { step } else { flags };
            here = fs::openat(&here, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            if FileType::from_raw_mode(fs::fstat(&here)?.st_mode).is_symlink() {
                return Err(Errno::LOOP);
            }
        }
        Ok(here)
    }

    /// The metadata of `path` (resolved); `None` when there is nothing.
    pub(super) fn stat(&self, path: &Path) -> Result<Option<fs::Stat>, Failure> {
        let name = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Failure::new("look at", error).at(path)),
        }
    }
}

fn push_reversed(stack: &mut Vec<OsString>, path: &OsStr) {
    let parts = path.as_bytes().split(|b| *b == b'/').rev();
    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
    stack.extend(parts.map(|part| OsStr::from_bytes(part).to_owned()));
}

/// Makes the directory `path` of the host unless it is there.
pub(super) fn make_dir(path: &Path) -> Result<(), Failure> {
    match fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(Failure::new("make", error).at(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        };
        std::fs::create_dir_all(dir.path().join("run/lock")).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        link("/run", "var");
        link("../../../run/./lock", "etc/up");
        link("../run/missing/conf", "etc/dangling");
        link("loop", "loop");
        let root = Root::open(dir.path()).unwrap();
        let resolve = |path: &str| root.resolve(Path::new(path)).unwrap();
        assert_eq!(resolve("/var/lock"), Path::new("run/lock"));
        assert_eq!(resolve("/etc/up/x"), Path::new("run/lock/x"));
        assert_eq!(resolve("/etc/dangling"), Path::new("run/missing/conf"));
        assert_eq!(resolve("/../../etc/./x"), Path::new("etc/x"));
        assert_eq!(resolve("/"), Path::new(""));
        let stat = |fd: OwnedFd| fs::fstat(fd).unwrap().st_ino;
        for path in ["", "run/lock"] {
            let walked = root.walk(Path::new(path), OFlags::PATH).unwrap();
            assert_eq!(stat(walked), stat(root.at(Path::new(path)).unwrap()));
        }
        let error = root.walk(Path::new("var/lock"), OFlags::PATH).unwrap_err();
        assert_eq!(error, Errno::LOOP);
        let error = root.resolve(Path::new("/loop")).unwrap_err();
        assert_eq!(error.errno, Errno::LOOP.raw_os_error());
    }
}
