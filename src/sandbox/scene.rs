//! The root of a step with everything mounted: set up before it, taken down after it.

use std::{os::fd::AsFd as _, path::Path};

use rustix::{
    io::Errno,
    mount::UnmountFlags,
    net::{AddressFamily, SocketFlags, SocketType},
    process::{self, Signal, WaitOptions},
};

use super::{
    error::{During as _, Failure},
    idmap::IdMap,
    kernelfs::{self, Places},
    mount::{self, Root, make_dir},
    mounts::{Mounter, Proxy, Stranger},
    overlay::{self, Writable},
    spec::{Network, ProcessSpec, Rootfs},
    stubs::Stubs,
    sys::{self, Fork},
};

/// Directories that an overlay always needs in its working directory.
pub(super) const WORK_DIRS: [&str; 3] = ["root", "overlay", "private"];

/// A root with everything mounted.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) root: Root,
    pub(super) stubs: Stubs,
    pub(super) places: Places,
    pub(super) proxies: Vec<Proxy>,
    pub(super) strangers: Vec<Stranger>,
}

impl Scene {
    /// Mounts everything; the root at `place`, a path of the host.
    pub(super) fn set_up(spec: &ProcessSpec, place: &Path) -> Result<Self, Failure> {
        make_dir(place)?;
        let work = spec.rootfs.work();
        let userxattr = match &spec.rootfs {
            Rootfs::Overlay {
                lower,
                upper,
                work,
                userxattr,
            } => {
                let overlay_work = work.join("overlay");
                make_dir(&overlay_work)?;
                let changes = Writable {
                    upper,
                    work: &overlay_work,
                };
                let empty = work.join("empty");
                overlay::mount(place, lower, Some(changes), *userxattr, &empty)?;
                *userxattr
            }
            Rootfs::Dir { path, .. } | Rootfs::Chroot { path, .. } => {
                let target = Root::open(place)?;
                mount::bind(mount::open_host(path)?, target.fd())
                    .during_at("bind the root", path)?;
                false
            }
        };
        let root = Root::open(place)?;
        let mut stubs = Stubs::default();
        let places = kernelfs::mount_sys_and_dev(&root, &mut stubs, spec.shm_size, spec.insecure)?;
        let mut mounter = Mounter::new(&root, &mut stubs, work, userxattr)?;
        for (path, content) in [
            ("/etc/resolv.conf", &spec.resolv_conf),
            ("/etc/hosts", &spec.etc_hosts),
        ] {
            if let Some(content) = content {
                mounter.bytes(Path::new(path), content, 0o644, (0, 0))?;
            }
        }
        for mount in &spec.mounts {
            mounter.mount(mount)?;
        }
        let (proxies, strangers) = mounter.finish();
        if !spec.insecure && matches!(IdMap::current(), Ok(IdMap::Full)) {
            kernelfs::disarm_devices(&root, &places)?;
        }
        Ok(Self {
            root,
            stubs,
            places,
            proxies,
            strangers,
        })
    }

    /// The sockets to serve while the step runs.
    pub(super) fn take_proxies(&mut self) -> Vec<Proxy> {
        std::mem::take(&mut self.proxies)
    }

    /// Unmounts the root and takes away what was put into it to mount on.
    pub(super) fn take_down(self, spec: &ProcessSpec, place: &Path) -> Result<(), Failure> {
        // With everything that is mounted on it; the root itself stays reachable by its descriptor.
        rustix::mount::unmount(place, UnmountFlags::DETACH).during("unmount the root")?;
        self.stubs.remove(&self.root)?;
        drop(self.root);
        match &spec.rootfs {
            Rootfs::Overlay { upper, .. } => self.stubs.prune(upper),
            Rootfs::Dir { .. } | Rootfs::Chroot { .. } => Ok(()),
        }
    }
}

/// Moves this process into namespaces of its own.
pub(super) fn enter_namespaces(spec: &ProcessSpec) -> Result<(), Failure> {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    match sys::unshare(flags | libc::CLONE_NEWCGROUP) {
        // A kernel without control groups.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            sys::unshare(flags).during("enter new namespaces")?;
        }
        // Some filters refuse `unshare` and let `clone` pass.
        Err(error) => go_on_in_child(flags)
            .map_err(|_refused| error)
            .during("enter new namespaces")?,
        Ok(()) => {}
    }
    mount::isolate()?;
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
