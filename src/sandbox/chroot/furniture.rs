//! What a root without mounts needs for the time of a step: put into the directory, and taken out without a trace.
//!
//! Something put at a place that is taken moves what is there aside, and back afterwards. A directory that things were put
//! into gets back the time of its last change, unless the step changed it, too. Everything is done by descriptors that were opened
//! before the step ran: whatever the step makes of its tree, nothing outside the root is touched.
//!
//! A crash leaves things in a root that nobody reads any more.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};

use super::super::{
    emulate,
    error::{During as _, Failure},
    keeper::{Mounted, Mounting},
    kernelfs::{DEVICES, LINKS, SHM_BYTES},
    mount::{Root, fd_path, make_dir},
    mounts::{NEW_TMPFS, Proxy},
    spec::{MountKind, MountSpec},
};

/// Where the owners of what is put into a root are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Owning {
    /// In the inodes.
    Real,
    /// In records, and devices cannot be made.
    Recorded,
}

/// Things put into a root.
#[derive(Debug)]
pub(in crate::sandbox) struct Furniture {
    owning: Owning,
    root: Root,
    /// A directory outside the root, on its file system, for what is moved aside.
    aside: OwnedFd,
    count: u32,
    placed: Vec<Placed>,
    proxies: Vec<Proxy>,
    /// Places in the root where writing is refused.
    readonly: Vec<PathBuf>,
    /// What would be mounted.
    mounted: Vec<Mounted>,
    /// Sockets, with their owners.
    sockets: Vec<(PathBuf, (u32, u32))>,
}

/// Something put somewhere.
#[derive(Debug)]
struct Placed {
    /// The directory it was put into, and its name there.
    dir: OwnedFd,
    name: OsString,
    end: End,
    /// What was there, by its name in the directory for that.
    replaced: Option<OsString>,
    /// The times of the directory before, and of its last change right after.
    before: Timestamps,
    after: Timespec,
}

/// What becomes of something after the step.
#[derive(Debug)]
enum End {
    /// It is thrown away.
    Remove,
    /// A directory that was missing is removed if nothing is in it.
    RemoveEmpty,
    /// It goes back to where it came from.
    Return(PathBuf),
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos: u64| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanos).expect("the kernel keeps nanoseconds below a second"),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

impl Furniture {
    /// For the root at `path`, with an own directory below `work`.
    pub(in crate::sandbox) fn new(
        path: &Path,
        work: &Path,
        owning: Owning,
    ) -> Result<Self, Failure> {
        let aside = work.join("aside");
        make_dir(&aside)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            owning,
            root: Root::open(path)?,
            aside: fs::open(&aside, flags, Mode::empty()).during_at("open", &aside)?,
            count: 0,
            placed: Vec::new(),
            proxies: Vec::new(),
            readonly: Vec::new(),
            mounted: Vec::new(),
            sockets: Vec::new(),
        })
    }

    /// The root.
    pub(in crate::sandbox) fn root(&self) -> &Root {
        &self.root
    }

    /// Places in the root where writing is refused: relative, links followed.
    pub(in crate::sandbox) fn readonly(&self) -> &[PathBuf] {
        &self.readonly
    }

    /// What would be mounted, in this order.
    pub(in crate::sandbox) fn mounted(&self) -> &[Mounted] {
        &self.mounted
    }

    /// Where sockets lie, and whose they are: relative, links followed.
    pub(in crate::sandbox) fn sockets(&self) -> &[(PathBuf, (u32, u32))] {
        &self.sockets
    }

    /// Sockets to be served while the step runs.
    pub(in crate::sandbox) fn take_proxies(&mut self) -> Vec<Proxy> {
        std::mem::take(&mut self.proxies)
    }

    /// Puts an empty directory over `/NAME`, one of the directories that the kernel fills elsewhere; gives the new directory.
    /// A root that lacks it has it from now on, as with BuildKit.
    pub(super) fn kernel_dir(&mut self, name: &str) -> Result<OwnedFd, Failure> {
        let path = Path::new(name);
        match fs::mkdirat(self.root.fd(), path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Failure::new("make", error).at(path)),
        }
        self.put_dir(path, 0o755)
    }

    /// Fills `/dev`. Devices that may not be made here are given by name: they have to be shown in another way.
    pub(super) fn dev(&mut self, shm_size: Option<u64>) -> Result<Vec<&'static str>, Failure> {
        let dev = self.kernel_dir("dev")?;
        let mut missing = Vec::new();
        for (name, major, minor) in DEVICES {
            let mode = Mode::from_raw_mode(0o666);
            let kind = FileType::CharacterDevice;
            let made = match self.owning {
                Owning::Real => fs::mknodat(&dev, name, kind, mode, fs::makedev(major, minor)),
                Owning::Recorded => Err(Errno::PERM),
            };
            match made {
                Ok(()) => {}
                Err(Errno::PERM) => {
                    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                    fs::openat(&dev, name, flags, mode).during_at("make", Path::new(name))?;
                    missing.push(name);
                }
                Err(error) => return Err(Failure::new("make the device", error).at(name)),
            }
        }
        for (name, target) in LINKS {
            fs::symlinkat(target, &dev, name).during_at("make", Path::new(name))?;
        }
        for (name, mode) in [("pts", 0o755), ("mqueue", 0o1777), ("shm", 0o1777)] {
            make_with_mode(&dev, OsStr::new(name), mode)?;
        }
        self.tell(
            Path::new("dev/shm"),
            Mounting::Memory {
                size: Some(shm_size.unwrap_or(SHM_BYTES)),
                readonly: false,
            },
        );
        Ok(missing)
    }

    /// Takes note of what would be mounted, and covers what is there.
    fn tell(&mut self, place: &Path, kind: Mounting) {
        self.mounted.retain(|other| !other.place.starts_with(place));
        let place = place.to_owned();
        self.mounted.push(Mounted { place, kind });
    }

    /// Puts what `spec` says at its place.
    pub(super) fn put(&mut self, spec: &MountSpec) -> Result<(), Failure> {
        let target = &spec.target;
        match &spec.kind {
            MountKind::Own { source, readonly } => self.own(target, source, *readonly),
            MountKind::Tmpfs { size, readonly } => {
                let place = self.ready(target)?;
                let (size, readonly) = (*size, *readonly);
                if readonly {
                    self.readonly.push(place.clone());
                }
                self.tell(&place, Mounting::Memory { size, readonly });
                let before = self.root.stat(&place)?;
                let mode = before.map_or(NEW_TMPFS, |stat| stat.st_mode & 0o7777);
                self.put_dir(&place, mode).map(drop)
            }
            MountKind::Bytes {
                content,
                mode,
                uid,
                gid,
            } => self.bytes(target, content, *mode, (*uid, *gid)),
            MountKind::Socket {
                host,
                mode,
                uid,
                gid,
            } => self.socket(target, host, *mode, (*uid, *gid)),
            MountKind::Bind { .. } | MountKind::ScratchBind { .. } | MountKind::Tree { .. } => Err(
                Failure::new("show files of the host without mounts, at", Errno::PERM).at(target),
            ),
        }
    }

    /// Puts a read-only file of these bytes at `target`.
    pub(super) fn bytes(
        &mut self,
        target: &Path,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), Failure> {
        let place = self.ready(target)?;
        self.readonly.push(place.clone());
        let owning = self.owning;
        self.fill(&place, End::Remove, |dir, name| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
            let mut rest = content;
            while !rest.is_empty() {
                let n = rustix::io::write(&file, rest)?;
                rest = &rest[n..];
            }
            dress(owning, dir, name, mode, owner)
        })
    }

    fn own(&mut self, target: &Path, source: &Path, readonly: bool) -> Result<(), Failure> {
        let place = self.ready(target)?;
        if readonly {
            self.readonly.push(place.clone());
        }
        self.tell(&place, Mounting::Disk { readonly });
        self.fill(&place, End::Return(source.to_owned()), |dir, name| {
            fs::renameat(CWD, source, dir, name)
        })
    }

    fn socket(
        &mut self,
        target: &Path,
        host: &Path,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), Failure> {
        let place = self.ready(target)?;
        self.sockets.push((place.clone(), owner));
        let (mut listener, owning) = (None, self.owning);
        self.fill(&place, End::Remove, |dir, name| {
            // By descriptor: the name of a socket has no room for a long path.
            let bound = UnixListener::bind(fd_path(dir).join(name));
            listener = Some(bound.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?);
            dress(owning, dir, name, mode, owner)
        })?;
        self.proxies
            .extend(listener.map(|listener| Proxy::new(listener, host)));
        Ok(())
    }

    fn put_dir(&mut self, place: &Path, mode: u32) -> Result<OwnedFd, Failure> {
        let mut made = None;
        self.fill(place, End::Remove, |dir, name| {
            fs::mkdirat(dir, name, Mode::RWXU)?;
            fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            made = Some(fs::openat(dir, name, flags, Mode::empty())?);
            Ok(())
        })?;
        made.ok_or_else(|| Failure::new("open", Errno::NOENT).at(place))
    }

    /// Where `target` lies in the root; the directories above it are made if need be.
    fn ready(&mut self, target: &Path) -> Result<PathBuf, Failure> {
        let place = self.root.resolve(target)?;
        if place.as_os_str().is_empty() {
            return Err(Failure::new("put something over", Errno::BUSY).at("/"));
        }
        let mut above: Vec<&Path> = place.ancestors().skip(1).collect();
        above.reverse();
        for dir in above.into_iter().skip(1) {
            match self.root.stat(dir)? {
                Some(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {}
                Some(_) => return Err(Failure::new("make", Errno::NOTDIR).at(dir)),
                None => {
                    let (above, name) = self.parent(dir)?;
                    self.change(above, &name, End::RemoveEmpty, None, |above, name| {
                        make_with_mode(above, name, 0o755)
                            .map_err(|f| Errno::from_io_error(&f.error()).unwrap_or(Errno::IO))
                    })?;
                }
            }
        }
        Ok(place)
    }

    fn parent(&self, place: &Path) -> Result<(OwnedFd, OsString), Failure> {
        let dir = self.root.at(place.parent().unwrap_or(Path::new("")))?;
        Ok((dir, place.file_name().unwrap_or_default().to_owned()))
    }

    /// Moves aside what is at `place` and makes something else there.
    fn fill(
        &mut self,
        place: &Path,
        end: End,
        make: impl FnOnce(&OwnedFd, &OsStr) -> Result<(), Errno>,
    ) -> Result<(), Failure> {
        let (dir, name) = self.parent(place)?;
        self.count += 1;
        let aside = OsString::from(self.count.to_string());
        let before = fs::fstat(&dir).during_at("look at", place)?;
        let replaced = match fs::renameat(&dir, &name, &self.aside, &aside) {
            Ok(()) => Some(aside),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(Failure::new("move aside", error).at(place)),
        };
        self.change(dir, &name, end, Some((before, replaced)), make)
    }

    fn change(
        &mut self,
        dir: OwnedFd,
        name: &OsStr,
        end: End,
        begun: Option<(Stat, Option<OsString>)>,
        make: impl FnOnce(&OwnedFd, &OsStr) -> Result<(), Errno>,
    ) -> Result<(), Failure> {
        let (before, replaced) = match begun {
            Some(begun) => begun,
            None => (fs::fstat(&dir).during_at("look at", Path::new(name))?, None),
        };
        let made = make(&dir, name).during_at("put something at", Path::new(name));
        let after = fs::fstat(&dir).during_at("look at", Path::new(name))?;
        // Also what failed half-way has to be taken back.
        self.placed.push(Placed {
            dir,
            name: name.to_owned(),
            end,
            replaced,
            before: times(&before),
            after: times(&after).last_modification,
        });
        made
    }

    /// Takes everything out again. What the step has destroyed is not put back.
    pub(in crate::sandbox) fn take_out(mut self) -> Result<(), Failure> {
        while let Some(placed) = self.placed.pop() {
            self.count += 1;
            let trash = self.count.to_string();
            placed
                .take_out(&self.aside, &trash)
                .during_at("take out", Path::new(&placed.name))?;
        }
        Ok(())
    }
}

impl Placed {
    fn take_out(&self, aside: &OwnedFd, trash: &str) -> Result<(), Errno> {
        let (dir, name) = (&self.dir, &self.name);
        let now = fs::fstat(dir)?;
        let gone = |result: Result<(), Errno>| match result {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        match &self.end {
            End::Remove => gone(fs::renameat(dir, name, aside, trash))?,
            End::RemoveEmpty => match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                // The step has put something there.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => return Ok(()),
                Err(error) => return Err(error),
            },
            End::Return(source) => {
                let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
                match stat {
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                        fs::renameat(dir, name, CWD, source)?;
                    }
                    Ok(_) => fs::renameat(dir, name, aside, trash)?,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(replaced) = &self.replaced {
            match fs::renameat(aside, replaced, dir, name) {
                // The step has removed the directory in which it was.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        let mut restored = times(&now);
        if restored.last_modification == self.after {
            restored = self.before.clone();
        }
        gone(fs::utimensat(dir, ".", &restored, AtFlags::empty()))
    }
}

fn make_with_mode(dir: &OwnedFd, name: &OsStr, mode: u32) -> Result<(), Failure> {
    let made = fs::mkdirat(dir, name, Mode::RWXU)
        .and_then(|()| fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty()));
    made.during_at("make", Path::new(name))
}

fn dress(
    owning: Owning,
    dir: &OwnedFd,
    name: &OsStr,
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<(), Errno> {
    if owning == Owning::Recorded {
        return emulate::dress(dir.as_fd(), name, mode, (uid, gid));
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(mode & 0o7777);
    fs::chmodat(dir, name, mode, AtFlags::empty())
}

#[cfg(test)]
mod tests;
