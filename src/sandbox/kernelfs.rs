//! `/proc`, `/sys` and `/dev` of a step, as Docker gives them to a container.

use std::{
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, FileType, Mode, OFlags},
    io::Errno,
    mount::MountFlags,
};

use super::{
    error::{During as _, Failure},
    mount::{Devices, Root, attr, bind, bind_restricted, is_dir, mount_new, open_host, restrict},
    spec::ProcessSpec,
    stubs::{Keep, Kind, Stubs},
};

/// Not to be seen: they tell of the host or reach into it. Relative to `/proc`.
pub(super) const MASKED_PROC: [&str; 9] = [
    "acpi",
    "asound",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// The same in `/sys`.
pub(super) const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// To be read only. Relative to `/proc`.
const READONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Devices of `/dev`: name, major, minor.
pub(super) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links of `/dev`: name, target.
pub(super) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Bytes that `/dev/shm` holds unless a step is told otherwise.
pub(super) const SHM_BYTES: u64 = 64 << 20;

/// Where the three lie in a root, links followed.
#[derive(Debug)]
pub(super) struct Places {
    proc: PathBuf,
    sys: PathBuf,
    dev: PathBuf,
}

/// Makes the mount points and mounts `/sys` and `/dev`; [`mount_proc`] is for the process that is to live there.
pub(super) fn mount_sys_and_dev(
    root: &Root,
    stubs: &mut Stubs,
    spec: &ProcessSpec,
    devices: Devices,
) -> Result<Places, Failure> {
    let mut place = |name: &str| {
        let path = root.resolve(Path::new(name))?;
        // They stay in the step's changes when the image lacks them: so it is with BuildKit, whose images people compare.
        stubs.ensure(root, &path, Kind::Dir, Keep::Stay)?;
        Ok::<_, Failure>(path)
    };
    let places = Places {
        proc: place("proc")?,
        sys: place("sys")?,
        dev: place("dev")?,
    };
    mount_sys(root, &places.sys, spec.insecure)?;
    mount_dev(root, &places.dev, spec.shm_size, devices)?;
    if !spec.insecure {
        for name in MASKED_SYS {
            mask(root, &places, &places.sys.join(name))?;
        }
    }
    Ok(places)
}

fn mount_sys(root: &Root, sys: &Path, insecure: bool) -> Result<(), Failure> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let flags = if insecure {
        safe
    } else {
        safe | MountFlags::RDONLY
    };
    match mount_new("sysfs", root.at(sys)?, flags, "") {
        Ok(()) => {
            let cgroup = sys.join("fs/cgroup");
            if root.stat(&cgroup)?.is_some() && is_unified() {
                // Without it a step sees no limits; nothing else depends on it.
                let _absent = mount_new("cgroup2", root.at(&cgroup)?, flags, "");
            }
            Ok(())
        }
        // The network namespace is not ours: what the host has mounted there serves, too.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
            bind(open_host(Path::new("/sys"))?, root.at(sys)?).during("bind /sys")?;
            let readonly = if insecure { 0 } else { attr::RDONLY };
            restrict(
                root.at(sys)?.as_fd(),
                readonly | attr::NOSUID | attr::NODEV | attr::NOEXEC,
                true,
            )
            .during("make /sys read-only")
        }
        Err(error) => Err(error).during("mount /sys"),
    }
}

/// Whether the host has nothing but the second version of control groups.
fn is_unified() -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    fs::statfs("/sys/fs/cgroup").is_ok_and(|s| u64::try_from(s.f_type) == Ok(CGROUP2_SUPER_MAGIC))
}

fn mount_dev(
    root: &Root,
    dev: &Path,
    shm_size: Option<u64>,
    devices: Devices,
) -> Result<(), Failure> {
    mount_new(
        "tmpfs",
        root.at(dev)?,
        MountFlags::NOSUID | MountFlags::STRICTATIME,
        "mode=755,size=65536k",
    )
    .during("mount /dev")?;
    for (name, major, minor) in DEVICES {
        device(root, &dev.join(name), (major, minor), devices)?;
    }
    // The mounts on the files stay as they are.
    let mounted = root.at(dev)?;
    let attributes = devices.attributes();
    if attributes != 0 {
        restrict(mounted.as_fd(), attributes, false).during("disarm device files of /dev")?;
    }
    for (name, target) in LINKS {
        fs::symlinkat(target, root.fd(), dev.join(name)).during_at("make", &dev.join(name))?;
    }
    // Nobody can make a file in a devpts.
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC;
    let sub = |name: &str, kind: &str, flags: MountFlags, options: &[&str]| {
        let path = dev.join(name);
        fs::mkdirat(root.fd(), &path, Mode::from_raw_mode(0o755)).during_at("make", &path)?;
        let target = root.at(&path)?;
        let mut result = Ok(());
        for options in options {
            result = mount_new(kind, &target, flags, options);
            if result.is_ok() {
                break;
            }
        }
        match result {
            // The kernel was built without it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(()),
            other => other.during_at("mount", &path),
        }
    };
    // Group 5 is tty; where that group has no number here, terminals belong to the group of their user.
    let pts = "newinstance,ptmxmode=0666,mode=0620";
    sub("pts", "devpts", safe, &[&format!("{pts},gid=5"), pts])?;
    let safe = safe | MountFlags::NODEV;
    sub("mqueue", "mqueue", safe, &[""])?;
    // BuildKit mounts one of a given size as it does `--mount=type=tmpfs`.
    let (size, flags) = match shm_size {
        Some(size) => (size, MountFlags::NOSUID | devices.flags()),
        None => (SHM_BYTES, safe),
    };
    sub("shm", "tmpfs", flags, &[&format!("mode=1777,size={size}")])
}

fn device(
    root: &Root,
    path: &Path,
    (major, minor): (u32, u32),
    devices: Devices,
) -> Result<(), Failure> {
    let mode = Mode::from_raw_mode(0o666);
    let number = fs::makedev(major, minor);
    match fs::mknodat(root.fd(), path, FileType::CharacterDevice, mode, number) {
        Ok(()) if devices == Devices::All => Ok(()),
        // The mount on it keeps what that of /dev is about to lose.
        Ok(()) => {
            let itself = root.at(path)?;
            bind(&itself, &itself).during_at("bind", path)
        }
        // Devices cannot be made in a user namespace, but those of the host can be shown.
        Err(Errno::PERM) => {
            let name = path.file_name().unwrap_or_default();
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            fs::openat(root.fd(), path, flags, mode).during_at("make", path)?;
            let host = Path::new("/dev").join(name);
            bind(open_host(&host)?, root.at(path)?).during_at("bind", &host)
        }
        Err(error) => Err(Failure::new("make the device", error).at(path)),
    }
}

/// Mounts `/proc` for the process number namespace of the calling process.
pub(super) fn mount_proc(root: &Root, places: &Places) -> std::io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let target = root.at(&places.proc).map_err(|failure| failure.error())?;
    mount_new("proc", target, flags, "")
}

/// Shows the host's `/proc`, for a process that shares its process numbers. It cannot be written: it also has the files of
/// processes of the same user outside of the step.
pub(super) fn bind_proc(root: &Root, places: &Places) -> Result<(), Failure> {
    bind(open_host(Path::new("/proc"))?, root.at(&places.proc)?).during("bind /proc")?;
    let bound = root.at(&places.proc)?;
    restrict(bound.as_fd(), attr::RDONLY, false).during("make /proc read-only")
}

/// Hides or protects the parts of `/proc` that are not the step's business.
pub(super) fn mask_proc(root: &Root, places: &Places) -> Result<(), Failure> {
    for name in MASKED_PROC {
        mask(root, places, &places.proc.join(name))?;
    }
    for name in READONLY_PROC {
        let path = places.proc.join(name);
        if let Some(itself) = root.find(&path)? {
            bind_restricted(itself.as_fd(), (root, &path), attr::RDONLY)?;
        }
    }
    Ok(())
}

fn mask(root: &Root, places: &Places, path: &Path) -> Result<(), Failure> {
    let Some(target) = root.find(path)? else {
        return Ok(());
    };
    if is_dir(&target).during_at("look at", path)? {
        let flags =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_new("tmpfs", &target, flags, "size=0,mode=555").during_at("mask", path)
    } else {
        bind(root.at(&places.dev.join("null"))?, &target).during_at("mask", path)
    }
}
