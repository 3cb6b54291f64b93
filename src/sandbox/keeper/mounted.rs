//! What a step is told of mounts: its root, what is shown to it, and what would be mounted for it elsewhere.

use std::{
    fmt::Write as _,
    io::Write as _,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, MemfdFlags, Mode, OFlags},
    io::Errno,
};

use super::{super::supervisor::sys, Keeper};

/// Something that lies at a place in the root for the time of the step.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct Mounted {
    /// Where: relative, free of links.
    pub(in crate::sandbox) place: PathBuf,
    pub(in crate::sandbox) kind: Mounting,
}

/// What it would be, mounted.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) enum Mounting {
    /// A file system in memory.
    Memory {
        /// Its size in bytes; `None`: half of the machine's memory.
        size: Option<u64>,
        /// Whether it cannot be written.
        readonly: bool,
    },
    /// A directory on disk.
    Disk {
        /// Whether it cannot be written.
        readonly: bool,
    },
}

/// A line of the list: source, place, file system, options of the mount, options of the file system.
type Line = (&'static str, String, &'static str, String, String);

impl Keeper {
    /// `/proc/PID/mounts` and its kin.
    pub(in crate::sandbox) fn mounts(&self, file: &[u8]) -> Result<OwnedFd, Errno> {
        let line = |source, place: &str, kind, flags: &str| {
            (
                source,
                place.to_owned(),
                kind,
                flags.to_owned(),
                String::new(),
            )
        };
        let of_kernel = "rw,nosuid,nodev,noexec,relatime";
        let mut lines: Vec<Line> = vec![
            line("overlay", "/", "overlay", "rw,relatime"),
            line("proc", "/proc", "proc", of_kernel),
            line("sysfs", "/sys", "sysfs", &of_kernel.replace("rw", "ro")),
            line("tmpfs", "/dev", "tmpfs", "rw,nosuid"),
        ];
        lines.extend(self.mounted.iter().map(Mounted::line));
        let stat = fs::fstat(&self.view.root)?;
        let real = (fs::major(stat.st_dev), fs::minor(stat.st_dev));
        let mut text = String::new();
        for (index, (source, place, kind, flags, options)) in lines.iter().enumerate() {
            let all = [flags.as_str(), options].join(if options.is_empty() { "" } else { "," });
            let written = match file {
                b"mounts" => writeln!(text, "{source} {place} {kind} {all} 0 0"),
                b"mountinfo" => {
                    let above = i32::from(index > 0);
                    let (major, minor) = if index == 0 { real } else { device(index) };
                    let access = if options.is_empty() {
                        "rw".to_owned()
                    } else {
                        format!("rw,{options}")
                    };
                    writeln!(
                        text,
                        "{} {above} {major}:{minor} / {place} {flags} - {kind} {source} {access}",
                        index + 1
                    )
                }
                _ => writeln!(
                    text,
                    "device {source} mounted on {place} with fstype {kind}"
                ),
            };
            written.map_err(|_never| Errno::IO)?;
        }
        told(text.as_bytes())
    }

    /// Whether something lies at `place` itself that cannot be moved or removed.
    pub(in crate::sandbox) fn is_place(&self, place: &Path) -> bool {
        let of_kernel = ["proc", "sys", "dev"];
        of_kernel.iter().any(|name| place == Path::new(name))
            || self.mounted.iter().any(|mounted| mounted.place == place)
            || self.readonly.iter().any(|readonly| readonly == place)
    }

    /// The device number, major and minor, of what `place` would be in if that were mounted; `None`: what it has.
    pub(in crate::sandbox) fn file_system(&self, place: &Path) -> Option<(u32, u32)> {
        let above = |mounted: &Mounted| place.starts_with(&mounted.place);
        match self.mounted.iter().rposition(above) {
            Some(index) => Some(device(FIXED + index)),
            None => place.starts_with("dev").then(|| device(FIXED - 1)),
        }
    }

    /// Where the file system begins that `place` would be in; `None`: at the root.
    pub(in crate::sandbox) fn mount_of(&self, place: &Path) -> Option<&Path> {
        let above = |mounted: &&Mounted| place.starts_with(&mounted.place);
        let found = self.mounted.iter().rev().find(above)?;
        Some(&found.place)
    }

    /// The size of the file system in memory that `place` would be in, if it would be in one.
    pub(in crate::sandbox) fn memory_at(&self, place: &Path) -> Option<u64> {
        let above = |mounted: &&Mounted| place.starts_with(&mounted.place);
        let found = self.mounted.iter().rev().find(above)?;
        match found.kind {
            Mounting::Memory { size, .. } => Some(size.unwrap_or_else(|| sys::memory() / 2)),
            Mounting::Disk { .. } => None,
        }
    }
}

/// How many lines come before those of what would be mounted; that of `/dev` is the last of them.
const FIXED: usize = 4;

/// The device number of the file system of a line: of the kind that those without a device have, and higher than any of them.
fn device(line: usize) -> (u32, u32) {
    /// Minor numbers have twenty bits.
    const HIGH: u32 = 0xf_0000;
    (0, HIGH + u32::try_from(line).unwrap_or(0))
}

impl Mounted {
    fn line(&self) -> Line {
        // As the kernel writes what would end a word.
        let place = Path::new("/").join(&self.place).display().to_string();
        let place = place.replace('\\', "\\134").replace(' ', "\\040");
        let place = place.replace('\t', "\\011").replace('\n', "\\012");
        match self.kind {
            Mounting::Memory { size, readonly } => {
                let access = if readonly { "ro" } else { "rw" };
                let options = size.map_or(String::new(), |size| format!("size={}k", size / 1024));
                (
                    "tmpfs",
                    place,
                    "tmpfs",
                    format!("{access},nosuid,relatime"),
                    options,
                )
            }
            Mounting::Disk { readonly } => {
                let flags = if readonly {
                    "ro,relatime"
                } else {
                    "rw,relatime"
                };
                ("overlay", place, "overlay", flags.to_owned(), String::new())
            }
        }
    }
}

/// A file in memory that holds a text and can only be read.
pub(in crate::sandbox) fn told(text: &[u8]) -> Result<OwnedFd, Errno> {
    let fd = fs::memfd_create("told", MemfdFlags::CLOEXEC)?;
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut file = std::fs::File::from(fd);
    file.write_all(text).map_err(failed)?;
    // Opened anew it has a position of its own, and cannot be written.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
