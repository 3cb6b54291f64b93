//! Mount points that a root lacks: made before a step and taken away after it, without a trace in its changes.
//!
//! A file or directory that was made is removed when it is still empty. The directory it lies in gets back the
//! modification time that it had before, unless the step changed that directory, too: then the step's time stays.
//! In an overlay, making a file copies its directory up; a directory that came up for a stub alone is taken out of the
//! upper directory again.
//!
//! A crash leaves stubs in the upper directory of a step that has failed, which nobody reads.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps},
    io::Errno,
};

use super::{
    error::{During as _, Failure},
    mount::Root,
};

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory.
    Dir,
    /// A file.
    File,
}

/// What happens to a mount point after the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// It stays, as `/proc` does with BuildKit, unless it is [claimed](Stubs::claim).
    Stay,
    /// It goes.
    Remove,
}

/// The mount points made in one root.
#[derive(Debug, Default)]
pub(super) struct Stubs {
    made: Vec<Made>,
    parents: Vec<Parent>,
}

#[derive(Debug)]
struct Made {
    path: PathBuf,
    kind: Kind,
    /// When the directory it lies in was last changed before.
    before: Timestamps,
    /// When it was last changed right after.
    after: Timespec,
    /// Whether it is for [`Keep::Stay`].
    stays: bool,
}

/// A directory of the root in which a stub was made, as it was before.
#[derive(Debug)]
struct Parent {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
    mtime: Timespec,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

fn times(stat: &Stat) -> Timestamps {
    let nanos = |n: u64| i64::try_from(n).expect("the kernel keeps nanoseconds below a second");
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: nanos(stat.st_atime_nsec),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: nanos(stat.st_mtime_nsec),
        },
    }
}

impl Stubs {
    /// Sees to it that `path` (resolved in `root`) is there to be mounted on, with all directories above it.
    pub(super) fn ensure(
        &mut self,
        root: &Root,
        path: &Path,
        kind: Kind,
        keep: Keep,
    ) -> Result<(), Failure> {
        let device = match root.stat(Path::new(""))? {
            Some(stat) => stat.st_dev,
            None => return Err(Failure::new("look at the root", Errno::NOENT)),
        };
        if let Some(stat) = root.stat(path)? {
            return check_kind(&stat, path, kind);
        }
        let mut parent = PathBuf::new();
        let mut parent_made = false;
        let components: Vec<_> = path.iter().collect();
        for (index, name) in components.iter().enumerate() {
            let here = parent.join(name);
            let last = index + 1 == components.len();
            let want = if last { kind } else { Kind::Dir };
            if let Some(stat) = root.stat(&here)? {
                check_kind(&stat, &here, want)?;
            } else {
                let above = root
                    .stat(&parent)?
                    .ok_or_else(|| Failure::new("look at", Errno::NOENT).at(&parent))?;
                // What is made in a file system of the sandbox's own, such as `/dev`, goes away with that.
                let recorded = above.st_dev == device;
                let removed = recorded && keep == Keep::Remove;
                if removed && !parent_made && !parent.as_os_str().is_empty() {
                    self.remember(root, &parent, &above);
                }
                make(root, &here, want).during_at("make the mount point", &here)?;
                if recorded {
                    let after = root
                        .stat(&parent)?
                        .map_or(Timespec::default(), |stat| times(&stat).last_modification);
                    self.made.push(Made {
                        path: here.clone(),
                        kind: want,
                        before: times(&above),
                        after,
                        stays: keep == Keep::Stay,
                    });
                }
                parent_made = true;
            }
            parent = here;
        }
        Ok(())
    }

    /// Something is mounted at `place` by the step's wish: what was made of the way there goes after the step, whatever it is.
    pub(super) fn claim(&mut self, place: &Path) {
        for made in &mut self.made {
            made.stays &= !place.starts_with(&made.path);
        }
    }

    /// Whether `place` was made by these.
    pub(super) fn has_made(&self, place: &Path) -> bool {
        self.made.iter().any(|made| made.path == place)
    }

    /// Whether none has to be taken away.
    pub(super) fn is_empty(&self) -> bool {
        self.made.iter().all(|made| made.stays) && self.parents.is_empty()
    }

    fn remember(&mut self, root: &Root, path: &Path, stat: &Stat) {
        // The directories above come up with it.
        for dir in path.ancestors().filter(|p| !p.as_os_str().is_empty()) {
            if self.parents.iter().any(|known| known.path == dir) {
                continue;
            }
            let stat = if dir == path {
                Some(*stat)
            } else {
                root.stat(dir).ok().flatten()
            };
            let Some(stat) = stat else { continue };
            self.parents.push(Parent {
                path: dir.to_owned(),
                mode: stat.st_mode,
                owner: (stat.st_uid, stat.st_gid),
                mtime: times(&stat).last_modification,
                xattrs: xattrs(root, dir),
            });
        }
    }

    /// Takes the stubs away again. Nothing may be mounted on them any more.
    pub(super) fn remove(&self, root: &Root) -> Result<(), Failure> {
        for made in self.made.iter().rev().filter(|made| !made.stays) {
            let parent = made.path.parent().unwrap_or(Path::new(""));
            let Some(stat) = root.stat(&made.path)? else {
                continue;
            };
            if check_kind(&stat, &made.path, made.kind).is_err() {
                continue;
            }
            let Some(above) = root.stat(parent)? else {
                continue;
            };
            let removed = match made.kind {
                Kind::Dir => fs::unlinkat(root.fd(), &made.path, AtFlags::REMOVEDIR),
                Kind::File if stat.st_size != 0 => continue,
                Kind::File => fs::unlinkat(root.fd(), &made.path, AtFlags::empty()),
            };
            match removed {
                Ok(()) => {}
                // The step put something beside it.
                Err(Errno::NOTEMPTY | Errno::EXIST) => continue,
                Err(error) => {
                    return Err(Failure::new("remove the mount point", error).at(&made.path));
                }
            }
            let mut restored = times(&above);
            if restored.last_modification == made.after {
                restored = made.before.clone();
            }
            set_times(root, parent, &restored)?;
        }
        Ok(())
    }

    /// Takes directories that the stubs alone have brought up out of `upper`, the upper directory of an overlay that
    /// is no longer mounted.
    pub(super) fn prune(&self, upper: &Path) -> Result<(), Failure> {
        if self.parents.is_empty() {
            return Ok(());
        }
        let upper = Root::open(upper)?;
        let mut parents: Vec<_> = self.parents.iter().collect();
        parents.sort_by_key(|parent| std::cmp::Reverse(parent.path.components().count()));
        for parent in parents {
            let Some(stat) = upper.stat(&parent.path)? else {
                continue;
            };
            let unchanged = stat.st_mode == parent.mode
                && (stat.st_uid, stat.st_gid) == parent.owner
                && times(&stat).last_modification == parent.mtime
                && xattrs(&upper, &parent.path) == parent.xattrs;
            if !unchanged {
                continue;
            }
            let above = parent.path.parent().unwrap_or(Path::new(""));
            let Some(before) = upper.stat(above)? else {
                continue;
            };
            match fs::unlinkat(upper.fd(), &parent.path, AtFlags::REMOVEDIR) {
                Ok(()) => set_times(&upper, above, &times(&before))?,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(Failure::new("remove", error).at(&parent.path)),
            }
        }
        Ok(())
    }
}

fn check_kind(stat: &Stat, path: &Path, kind: Kind) -> Result<(), Failure> {
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    match (kind, is_dir) {
        (Kind::Dir, false) => Err(Failure::new("mount a directory on", Errno::NOTDIR).at(path)),
        (Kind::File, true) => Err(Failure::new("mount a file on", Errno::ISDIR).at(path)),
        _ => Ok(()),
    }
}

fn make(root: &Root, path: &Path, kind: Kind) -> rustix::io::Result<()> {
    match kind {
        Kind::Dir => fs::mkdirat(root.fd(), path, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            fs::openat(root.fd(), path, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

fn set_times(root: &Root, path: &Path, times: &Timestamps) -> Result<(), Failure> {
    let name = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    fs::utimensat(root.fd(), name, times, AtFlags::SYMLINK_NOFOLLOW)
        .during_at("restore the time of", path)
}

/// The extended attributes of a directory, without the overlay's own notes on copied directories. Empty where they
/// cannot be read: then nothing else tells a changed directory, and none can have been set.
fn xattrs(root: &Root, path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(dir) = fs::openat(root.fd(), path, flags, Mode::empty()) else {
        return Vec::new();
    };
    // The kernel's limits on the list of names and on one value.
    let mut buffer = vec![0; 1 << 16];
    let Ok(length) = fs::flistxattr(&dir, &mut buffer) else {
        return Vec::new();
    };
    let mut all: Vec<_> = buffer[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .filter(|name| {
            let note = [".overlay.origin", ".overlay.impure", ".overlay.uuid"];
            !note.iter().any(|end| name.ends_with(end.as_bytes()))
        })
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = fs::fgetxattr(&dir, name, &mut value).unwrap_or(0);
            value.truncate(length);
            (OsString::from_vec(name.to_vec()), value)
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mtime(path: &Path) -> (i64, i64) {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.mtime(), metadata.mtime_nsec())
    }

    #[test]
    fn stubs_leave_nothing_and_times_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let before = mtime(&dir.path().join("etc"));
        let root_before = mtime(dir.path());
        let mut stubs = Stubs::default();
        for (path, kind) in [
            ("etc/hosts", Kind::File),
            ("etc/resolv.conf", Kind::File),
            ("x/y/z", Kind::Dir),
            ("x/y/f", Kind::File),
        ] {
            stubs
                .ensure(&root, Path::new(path), kind, Keep::Remove)
                .unwrap();
        }
        assert!(dir.path().join("x/y/z").is_dir());
        stubs.remove(&root).unwrap();
        assert_eq!(mtime(&dir.path().join("etc")), before);
        assert_eq!(mtime(dir.path()), root_before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(
            std::fs::read_dir(dir.path().join("etc")).unwrap().count(),
            0
        );
    }

    #[test]
    fn what_the_step_added_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut stubs = Stubs::default();
        stubs
            .ensure(&root, Path::new("x/y/z"), Kind::Dir, Keep::Remove)
            .unwrap();
        std::fs::write(dir.path().join("x/kept"), "k").unwrap();
        stubs.remove(&root).unwrap();
        assert!(dir.path().join("x/kept").is_file());
        assert!(!dir.path().join("x/y").try_exists().unwrap());
    }

    #[test]
    fn a_mount_point_of_the_wrong_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let mut stubs = Stubs::default();
        let mut try_at = |path, kind| {
            stubs
                .ensure(&root, Path::new(path), kind, Keep::Remove)
                .map_err(|failure| failure.errno)
        };
        assert_eq!(try_at("file", Kind::Dir), Err(Errno::NOTDIR.raw_os_error()));
        assert_eq!(
            try_at("file/x", Kind::Dir),
            Err(Errno::NOTDIR.raw_os_error())
        );
        assert_eq!(try_at("file", Kind::File), Ok(()));
    }

    #[test]
    fn directories_copied_up_for_stubs_are_pruned() {
        let upper = tempfile::tempdir().unwrap();
        let root = Root::open(upper.path()).unwrap();
        std::fs::create_dir_all(upper.path().join("a/b")).unwrap();
        std::fs::create_dir_all(upper.path().join("c")).unwrap();
        let mut stubs = Stubs::default();
        for path in ["a/b/stub", "c/stub"] {
            stubs
                .ensure(&root, Path::new(path), Kind::File, Keep::Remove)
                .unwrap();
        }
        stubs.remove(&root).unwrap();
        std::fs::write(upper.path().join("c/new"), "").unwrap();
        stubs.prune(upper.path()).unwrap();
        assert!(!upper.path().join("a").try_exists().unwrap());
        assert!(upper.path().join("c/new").try_exists().unwrap());
    }
}
