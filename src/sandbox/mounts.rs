//! Mounts of a step beside the file systems of the kernel: `RUN --mount`, `/etc/hosts`, `/etc/resolv.conf`.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{self, AtFlags, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

use super::{
    error::{During as _, Failure},
    mount::{
        Devices, Root, attr, bind_restricted, fd_path, is_dir, make_dir, mount_new, open_host,
        restrict,
    },
    overlay::{self, Writable},
    spec::{MountKind, MountSpec},
    stubs::{Keep, Kind, Stubs},
};

/// The mode of a tmpfs that covers no directory.
pub(super) const NEW_TMPFS: u32 = 0o1777;

/// Directories of `/dev` that are mounts of their own.
const DEV_DIRS: [&str; 3] = ["dev/pts", "dev/mqueue", "dev/shm"];

/// Mounts things at places in a root.
#[derive(Debug)]
pub(super) struct Mounter<'a> {
    root: &'a Root,
    stubs: &'a mut Stubs,
    /// A directory in memory that the step cannot see.
    private: Root,
    private_path: PathBuf,
    /// A directory on disk for what the step writes into throw-away copies.
    scratch: PathBuf,
    userxattr: bool,
    devices: Devices,
    count: u32,
    proxies: Vec<Proxy>,
    strangers: Vec<Stranger>,
    /// File systems that are read-only once all is mounted in them.
    sealed: Vec<PathBuf>,
}

/// A mounted file whose owner does not exist here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stranger {
    /// Where it is in the root, links followed.
    pub(super) path: PathBuf,
    /// Its owner.
    pub(super) uid: u32,
    /// Its group.
    pub(super) gid: u32,
}

/// A socket of the step and the socket of the host that it stands for.
#[derive(Debug)]
pub(super) struct Proxy {
    listener: UnixListener,
    host: PathBuf,
}

impl<'a> Mounter<'a> {
    /// A mounter that keeps its own things in the file system mounted at `private`, a path of the host, and what has to be
    /// on disk in the directory `scratch`, which it makes. `count` things of earlier mounters are in `private`.
    pub(super) fn new(
        root: &'a Root,
        stubs: &'a mut Stubs,
        private: &Path,
        scratch: PathBuf,
        (userxattr, devices): (bool, Devices),
        count: u32,
    ) -> Result<Self, Failure> {
        Ok(Self {
            root,
            stubs,
            private: Root::open(private)?,
            private_path: private.to_owned(),
            scratch,
            userxattr,
            devices,
            count,
            proxies: Vec::new(),
            strangers: Vec::new(),
            sealed: Vec::new(),
        })
    }

    /// Ends mounting. The sockets to serve while the step runs, the files whose owners have to be made up, and how many things
    /// are in `private` now.
    pub(super) fn finish(self) -> Result<(Vec<Proxy>, Vec<Stranger>, u32), Failure> {
        for place in &self.sealed {
            let mounted = self.root.at(place)?;
            restrict(mounted.as_fd(), attr::RDONLY, false).during_at("seal the tmpfs on", place)?;
        }
        Ok((self.proxies, self.strangers, self.count))
    }

    /// Mounts what `spec` says.
    pub(super) fn mount(&mut self, spec: &MountSpec) -> Result<(), Failure> {
        match &spec.kind {
            MountKind::Bind { source, readonly } => {
                let fd = open_host(source)?;
                let dir = is_dir(&fd).during_at("look at", source)?;
                // Whoever names a device, or the directory of all, means it; no file can be made beside it.
                let devices = if dir && source != Path::new("/dev") {
                    self.devices
                } else {
                    Devices::All
                };
                self.bind(&fd, &spec.target, *readonly, devices)
            }
            MountKind::Own { source, readonly } => {
                let fd = open_host(source)?;
                self.bind(&fd, &spec.target, *readonly, self.devices)
            }
            MountKind::ScratchBind { source } => self.scratch(&spec.target, source),
            MountKind::Tree {
                lower,
                source,
                writable,
            } => self.tree(&spec.target, lower, source, *writable),
            MountKind::Tmpfs { size, readonly } => self.tmpfs(&spec.target, *size, *readonly),
            MountKind::Bytes {
                content,
                mode,
                uid,
                gid,
            } => self.bytes(&spec.target, content, *mode, (*uid, *gid)),
            MountKind::Socket {
                host,
                mode,
                uid,
                gid,
            } => self.socket(&spec.target, host, *mode, (*uid, *gid)),
        }
    }

    /// Shows a read-only file of these bytes at `target`.
    pub(super) fn bytes(
        &mut self,
        target: &Path,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), Failure> {
        let name = self.name("file");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = fs::openat(self.private.fd(), &name, flags, Mode::from_raw_mode(0o600))
            .during_at("make a file for", target)?;
        let mut rest = content;
        while !rest.is_empty() {
            let n = rustix::io::write(&file, rest).during_at("write the file for", target)?;
            rest = &rest[n..];
        }
        drop(file);
        self.dress(&name, mode, owner, target)?;
        let source = self.private.at(&name)?;
        self.bind(&source, target, true, self.devices)
    }

    fn name(&mut self, kind: &str) -> PathBuf {
        self.count += 1;
        PathBuf::from(format!("{kind}-{}", self.count))
    }

    fn dress(
        &mut self,
        name: &Path,
        mode: u32,
        (uid, gid): (u32, u32),
        target: &Path,
    ) -> Result<(), Failure> {
        let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
        let at = self.private.fd();
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        match fs::chownat(at, name, Some(owner.0), Some(owner.1), nofollow) {
            Err(Errno::INVAL) => self.strangers.push(Stranger {
                path: Path::new("/").join(self.root.resolve(target)?),
                uid,
                gid,
            }),
            other => other.during_at("set the owner of", target)?,
        }
        fs::chmodat(
            at,
            name,
            Mode::from_raw_mode(mode & 0o7777),
            AtFlags::empty(),
        )
        .during_at("set the mode of", target)
    }

    fn bind(
        &mut self,
        source: &OwnedFd,
        target: &Path,
        readonly: bool,
        devices: Devices,
    ) -> Result<(), Failure> {
        let dir = is_dir(source).during_at("look at the source for", target)?;
        let kind = if dir { Kind::Dir } else { Kind::File };
        let (place, _) = self.ready(target, kind)?;
        let readonly = if readonly { attr::RDONLY } else { 0 };
        let attributes = readonly | devices.attributes();
        bind_restricted(source.as_fd(), (self.root, &place), attributes)
    }

    fn scratch(&mut self, target: &Path, source: &Path) -> Result<(), Failure> {
        let original = open_host(source)?;
        if is_dir(&original).during_at("look at", source)? {
            return self.tree(target, &[source.to_owned()], Path::new("/"), true);
        }
        make_dir(&self.scratch)?;
        let name = self.name("copy");
        let copy = self.scratch.join(name);
        std::fs::copy(fd_path(&original), &copy).during_at("copy", source)?;
        overlay::dress(&copy, source)?;
        let fd = open_host(&copy)?;
        self.bind(&fd, target, false, self.devices)
    }

    fn tree(
        &mut self,
        target: &Path,
        lower: &[PathBuf],
        source: &Path,
        writable: bool,
    ) -> Result<(), Failure> {
        let tree = match lower {
            [only] if !writable => Root::open(only)?,
            _ => {
                let name = self.name("tree");
                let place = self.private_path.join(&name);
                make_dir(&place)?;
                let scratch = self.scratch.join(&name);
                let (upper, work) = (scratch.join("upper"), scratch.join("work"));
                let empty = self.private_path.join("empty");
                let changes = if writable {
                    for dir in [&self.scratch, &scratch, &upper, &work] {
                        make_dir(dir)?;
                    }
                    if let Some(first) = lower.first() {
                        overlay::dress(&upper, first)?;
                    }
                    Some(Writable {
                        upper: &upper,
                        work: &work,
                    })
                } else {
                    None
                };
                overlay::mount(&place, lower, changes, self.userxattr, &empty)?;
                Root::open(&place)?
            }
        };
        let inside = tree.resolve(source)?;
        let fd = tree.at(&inside)?;
        self.bind(&fd, target, !writable, self.devices)
    }

    /// Where `target` lies in the root, ready to be mounted on, and the mode of what the root has there.
    fn ready(&mut self, target: &Path, kind: Kind) -> Result<(PathBuf, Option<u32>), Failure> {
        let place = self.root.resolve(target)?;
        // It would be hidden: `/proc` is mounted last, by the process that lives there.
        if place.starts_with("proc") {
            return Err(Failure::new("mount inside of /proc, at", Errno::PERM).at(target));
        }
        self.clear(&place);
        self.stubs.claim(&place);
        let is_the_root_s = place != Path::new("sys") && !self.stubs.has_made(&place);
        let before = self.root.stat(&place)?.filter(|_| is_the_root_s);
        self.stubs.ensure(self.root, &place, kind, Keep::Remove)?;
        Ok((place, before.map(|stat| stat.st_mode & 0o7777)))
    }

    /// Takes away what is mounted at `place` itself, such as an earlier mount: with BuildKit a mount replaces another at
    /// the same place. The file systems of the kernel stay below, since more than the step depends on them, except for those
    /// in `/dev`, which go with their mount points.
    fn clear(&mut self, place: &Path) {
        self.sealed.retain(|sealed| !sealed.starts_with(place));
        let kernel = ["", "proc", "sys", "dev"].map(Path::new);
        let Ok(fd) = self.root.at(place) else { return };
        let mask = StatxFlags::BASIC_STATS;
        let is_mount = fs::statx(&fd, "", AtFlags::EMPTY_PATH, mask)
            .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        if is_mount && !kernel.contains(&place) {
            // If it does not go, it is covered.
            let uncovered = rustix::mount::unmount(fd_path(&fd), UnmountFlags::DETACH);
            drop(fd);
            if uncovered.is_ok() && DEV_DIRS.map(Path::new).contains(&place) {
                let _covered = fs::unlinkat(self.root.fd(), place, AtFlags::REMOVEDIR);
            }
        }
    }

    fn tmpfs(&mut self, target: &Path, size: Option<u64>, readonly: bool) -> Result<(), Failure> {
        let (place, mode) = self.ready(target, Kind::Dir)?;
        // As runc does: the mode of the directory that it covers, but root's.
        let mode = mode.unwrap_or(NEW_TMPFS);
        let options = match size {
            Some(size) => format!("mode={mode:o},size={size}"),
            None => format!("mode={mode:o}"),
        };
        // The flags that BuildKit gives it, which steps see. That no device can be made there is for `caps` to see to.
        mount_new("tmpfs", self.root.at(&place)?, MountFlags::NOSUID, &options)
            .during_at("mount a tmpfs on", target)?;
        if readonly {
            self.sealed.push(place);
        }
        Ok(())
    }

    fn socket(
        &mut self,
        target: &Path,
        host: &Path,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), Failure> {
        let name = self.name("socket");
        // By descriptor: the name of a socket has no room for a long path.
        let place = fd_path(&self.private.fd()).join(&name);
        let listener = UnixListener::bind(&place).during_at("make a socket for", target)?;
        self.dress(&name, mode, owner, target)?;
        let source = self.private.at(&name)?;
        self.bind(&source, target, false, self.devices)?;
        self.proxies.push(Proxy {
            listener,
            host: host.to_owned(),
        });
        Ok(())
    }
}

impl Proxy {
    /// Connections to `listener` are passed on to the socket `host`.
    pub(super) fn new(listener: UnixListener, host: &Path) -> Self {
        Self {
            listener,
            host: host.to_owned(),
        }
    }

    /// Passes connections on, in threads of their own, until the process ends.
    pub(super) fn serve(self) {
        thread::spawn(move || {
            while let Ok((inner, _)) = self.listener.accept() {
                // A host socket that does not answer closes the connection: the step sees an agent that is gone.
                if let Ok(outer) = UnixStream::connect(&self.host) {
                    let _gone = connect(inner, outer);
                }
            }
        });
    }
}

fn connect(inner: UnixStream, outer: UnixStream) -> io::Result<()> {
    let (from, to) = (inner.try_clone()?, outer.try_clone()?);
    thread::spawn(move || pass(from, to));
    thread::spawn(move || pass(outer, inner));
    Ok(())
}

fn pass(mut from: UnixStream, mut to: UnixStream) {
    let _closed = io::copy(&mut from, &mut to);
    let _closed = to.shutdown(std::net::Shutdown::Write);
}
