//! The root of a step with everything mounted: set up before it, taken down after it.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
    net::{AddressFamily, SocketFlags, SocketType},
    process::{self, Signal, WaitOptions},
};

use super::{
    error::{During as _, Failure},
    idmap::IdMap,
    kernelfs::{self, Places},
    kit::Kit,
    mount::{self, Devices, Root, make_dir},
    mounts::{Mounter, Proxy, Stranger},
    overlay::{self, Writable},
    spec::{Network, ProcessSpec, Rootfs},
    stubs::Stubs,
    sys::{self, Fork},
};

/// A root with everything mounted.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) root: Root,
    pub(super) stubs: Stubs,
    pub(super) places: Places,
    pub(super) devices: Devices,
    pub(super) proxies: Vec<Proxy>,
    pub(super) strangers: Vec<Stranger>,
    /// The sandbox's own file system, in which the root is mounted.
    own: Root,
    /// Where changes go, for an overlay.
    upper: Option<PathBuf>,
    upper_fd: Option<OwnedFd>,
    /// How overlays are mounted.
    userxattr: bool,
    /// How many things lie beside the root in `own`.
    n_private: u32,
}

impl Scene {
    /// Mounts everything but the step's own mounts; the root at [`root_place`].
    ///
    /// `top` lies on the lower directories of an overlay.
    pub(super) fn set_up(
        spec: &ProcessSpec,
        top: Option<OwnedFd>,
        kit: &mut Kit,
    ) -> Result<Self, Failure> {
        let work = spec.rootfs.work();
        let scratch = work.with_file_name("scratch");
        let stack = match &spec.rootfs {
            Rootfs::Overlay { lower, upper, .. } => {
                let empty = scratch.join("empty");
                if lower.is_empty() && top.is_none() {
                    make_dir(&scratch)?;
                }
                let changes = Writable { upper, work };
                kit.dirs.keep(lower);
                Some(overlay::Stack::open(
                    (top, lower),
                    Some(changes),
                    &empty,
                    &mut kit.dirs,
                )?)
            }
            Rootfs::Dir { .. } | Rootfs::Chroot { .. } | Rootfs::Emulated { .. } => None,
        };
        // What is the sandbox's own is in memory: making and removing a directory on disk can take longer than a step.
        mount::mount_new(
            "tmpfs",
            Root::open(work)?.fd(),
            MountFlags::NOSUID | MountFlags::NODEV,
            "mode=700",
        )
        .during_at("mount a tmpfs on", work)?;
        let place = &root_place(spec);
        make_dir(place)?;
        // In other user namespaces than the first the kernel opens no devices anyway.
        let devices = if !spec.insecure && kit.ids == IdMap::Full {
            Devices::OfDev
        } else {
            Devices::All
        };
        let mut upper_fd = None;
        let userxattr = match &spec.rootfs {
            Rootfs::Overlay { userxattr, .. } => {
                let stack = stack.expect("an overlay has a stack");
                stack.mount(place, *userxattr)?;
                upper_fd = stack.into_upper();
                *userxattr
            }
            Rootfs::Dir { path, .. }
            | Rootfs::Chroot { path, .. }
            | Rootfs::Emulated { path, .. } => {
                let target = Root::open(place)?;
                mount::bind(mount::open_host(path)?, target.fd())
                    .during_at("bind the root", path)?;
                false
            }
        };
        let root = Root::open(place)?;
        devices.disarm(root.fd()).during("disarm device files")?;
        let mut stubs = Stubs::default();
        let own = Root::open(work)?;
        let places = kernelfs::mount_sys_and_dev(&root, &mut stubs, spec, devices)?;
        let mut mounter = Mounter::new(&root, &mut stubs, work, scratch, (userxattr, devices), 0)?;
        for (path, content) in [
            ("/etc/resolv.conf", &spec.resolv_conf),
            ("/etc/hosts", &spec.etc_hosts),
        ] {
            if let Some(content) = content {
                mounter.bytes(Path::new(path), content, 0o644, (0, 0))?;
            }
        }
        let (proxies, strangers, n_private) = mounter.finish()?;
        let upper = match &spec.rootfs {
            Rootfs::Overlay { upper, .. } => Some(upper.clone()),
            Rootfs::Dir { .. } | Rootfs::Chroot { .. } | Rootfs::Emulated { .. } => None,
        };
        Ok(Self {
            root,
            stubs,
            places,
            devices,
            proxies,
            strangers,
            own,
            upper,
            upper_fd,
            userxattr,
            n_private,
        })
    }

    /// Mounts what the step asks for.
    pub(super) fn mount(&mut self, spec: &ProcessSpec) -> Result<(), Failure> {
        if spec.mounts.is_empty() {
            return Ok(());
        }
        let work = spec.rootfs.work();
        let scratch = work.with_file_name("scratch");
        let ways = (self.userxattr, self.devices);
        let (root, stubs) = (&self.root, &mut self.stubs);
        let mut mounter = Mounter::new(root, stubs, work, scratch, ways, self.n_private)?;
        for mount in &spec.mounts {
            mounter.mount(mount)?;
        }
        let (proxies, strangers, n_private) = mounter.finish()?;
        self.n_private = n_private;
        self.proxies.extend(proxies);
        self.strangers.extend(strangers);
        Ok(())
    }

    /// Whether nothing was put into the root that has to be taken out again. The process's changes can then be read before
    /// anything is unmounted.
    pub(super) fn is_traceless(&self) -> bool {
        self.stubs.is_empty()
    }

    /// Where the step's changes are.
    pub(super) fn take_upper(&mut self) -> Option<Upper> {
        let (path, fd) = (self.upper.clone()?, self.upper_fd.take()?);
        Some(Upper { path, fd })
    }

    /// The sockets to serve while the step runs.
    pub(super) fn take_proxies(&mut self) -> Vec<Proxy> {
        std::mem::take(&mut self.proxies)
    }

    /// Unmounts the root and takes away what was put into it to mount on.
    pub(super) fn take_down(self) -> Result<(), Failure> {
        // With everything that is mounted below; the root itself stays reachable by its descriptor. By descriptor, too: the directory
        // may have been moved, or removed, with which the kernel unmounts what lay on it.
        match rustix::mount::unmount(mount::fd_path(&self.own.fd()), UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(Failure::new("unmount the root", error)),
        }
        self.stubs.remove(&self.root)?;
        drop(self.root);
        match &self.upper {
            Some(upper) => self.stubs.prune(upper),
            None => Ok(()),
        }
    }
}

/// The upper directory of a step that has ended. Overlays are mounted from directories of this process's own mounts alone, so the
/// program cannot pass it on by descriptor.
#[derive(Debug)]
pub(super) struct Upper {
    /// What it was called.
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

/// Where the root is mounted: in the sandbox's own file system, which lies on the directory for its use.
pub(super) fn root_place(spec: &ProcessSpec) -> PathBuf {
    spec.rootfs.work().join("root")
}

/// How this process is kept apart.
#[derive(Debug, Default)]
pub(super) struct Apart {
    has_mounts: bool,
    /// Something was entered that there is no way out of.
    is_bound: bool,
}

impl Apart {
    /// Moves this process into namespaces of its own, for a step. From the second step on it stays in that of mounts, of which the
    /// step gets a copy.
    pub(super) fn enter(&mut self, spec: &ProcessSpec) -> Result<(), Failure> {
        let mut flags = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if spec.network == Network::None {
            flags |= libc::CLONE_NEWNET;
            self.is_bound = true;
        }
        if self.has_mounts {
            sys::unshare(flags).during("enter new namespaces")?;
        } else {
            flags |= libc::CLONE_NEWNS;
            match sys::unshare(flags | libc::CLONE_NEWCGROUP) {
                // A kernel without control groups.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                    sys::unshare(flags).during("enter new namespaces")?;
                }
                // Some filters refuse `unshare` and let `clone` pass.
                Err(error) => {
                    go_on_in_child(flags)
                        .map_err(|_refused| error)
                        .during("enter new namespaces")?;
                    self.is_bound = true;
                }
                Ok(()) => {}
            }
            mount::isolate()?;
            self.has_mounts = true;
        }
        name_host(spec)
    }

    /// Whether another step can be run after this one.
    pub(super) const fn is_as_before(&self) -> bool {
        !self.is_bound
    }
}

/// Gives the namespaces that this process has entered what a step expects of them.
fn name_host(spec: &ProcessSpec) -> Result<(), Failure> {
    match rustix::system::sethostname(spec.hostname.as_bytes()) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(Failure::new("set the host name", error)),
    }
    if spec.network == Network::None {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
            .during("make a socket")?;
        match sys::loopback_up(socket.as_fd()) {
            Ok(()) => {}
            // Without CAP_NET_ADMIN, as in a container with SYS_ADMIN alone, the step is as far from any network with it down.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {}
            Err(error) => return Err(Failure::new("switch the loopback interface on", error)),
        }
    }
    Ok(())
}

/// Forks into the new namespaces; returns in the child, while this process waits for it and ends with it.
fn go_on_in_child(flags: libc::c_int) -> std::io::Result<()> {
    match sys::clone3(flags).or_else(|_refused| sys::clone(flags))? {
        Fork::Child => Ok(process::set_parent_process_death_signal(Some(
            Signal::KILL,
        ))?),
        Fork::Parent(pid) => {
            let _gone = process::waitpid(Some(pid), WaitOptions::empty());
            sys::exit_now(0)
        }
    }
}
