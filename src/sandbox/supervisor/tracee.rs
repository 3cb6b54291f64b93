//! Looking into a thread of the step: its memory, its descriptors, and the files that it means by a path.
//!
//! The supervisor lives in the step's mount namespace and has the step's root, so paths lead it where they lead the
//! step. Its working directory is the host's `/proc`, where threads are found by the numbers that it knows.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::FileExt as _,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    identity::{Identity, KEEP},
    sys::{self, Notification},
};

/// The longest path that the kernel takes, with its end.
const PATH_MAX: usize = 4096;

/// A thread that waits for an answer.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct Tracee {
    thread: u32,
    arguments: [u64; 6],
}

/// A directory and a name in it that may not exist yet.
#[derive(Debug)]
pub(in crate::sandbox) struct Place {
    pub(in crate::sandbox) dir: OwnedFd,
    pub(in crate::sandbox) name: OsString,
}

impl Tracee {
    pub(in crate::sandbox) fn new(notification: &Notification) -> Self {
        Self {
            thread: notification.thread,
            arguments: notification.arguments,
        }
    }

    /// A thread that waits for nothing.
    pub(in crate::sandbox) fn of(thread: u32) -> Self {
        Self {
            thread,
            arguments: [0; 6],
        }
    }

    /// The number of its process.
    pub(in crate::sandbox) fn process(&self) -> Option<i32> {
        self.status("Tgid:")?.parse().ok()
    }

    /// The number by which it knows itself.
    pub(super) fn inner_number(&self) -> Option<i32> {
        let all = self.status("NSpid:")?;
        all.split_ascii_whitespace().next_back()?.parse().ok()
    }

    /// Whether it has the same process numbers as another one.
    pub(super) fn shares_numbers_with(&self, other: &Self) -> bool {
        let of = |thread: u32| fs::readlink(format!("{thread}/ns/pid"), Vec::new()).ok();
        let own = of(self.thread);
        own.is_some() && own == of(other.thread)
    }

    /// Its number.
    pub(in crate::sandbox) fn thread(&self) -> u32 {
        self.thread
    }

    /// An argument as it was passed.
    pub(in crate::sandbox) fn word(&self, index: usize) -> u64 {
        self.arguments[index]
    }

    /// An argument that is 32 bits wide.
    pub(in crate::sandbox) fn number(&self, index: usize) -> u32 {
        u32::try_from(self.arguments[index] & 0xffff_ffff).unwrap_or(u32::MAX)
    }

    /// An argument that is a signed number, such as a descriptor.
    pub(in crate::sandbox) fn signed(&self, index: usize) -> i32 {
        self.number(index).cast_signed()
    }

    fn memory(&self, write: bool) -> Result<File, Errno> {
        let open = || {
            let path = format!("{}/mem", self.thread);
            let file = File::options().read(true).write(write).open(path);
            file.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::FAULT))
        };
        self.as_itself(open)
    }

    /// Does something that only a thread's own user may do to it, unless one has `CAP_SYS_PTRACE`.
    pub(in crate::sandbox) fn as_itself<T>(
        &self,
        action: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match action() {
            Err(Errno::ACCESS | Errno::PERM) => {}
            other => return other,
        }
        let identity = self.real_identity();
        sys::set_file_ids(identity.user(), identity.group());
        let result = action();
        sys::set_file_ids(0, 0);
        result
    }

    /// Reads as many bytes at an address as there are.
    fn read_some(&self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        if into.is_empty() {
            return Ok(0);
        }
        match sys::read_memory(self.thread, address, into) {
            Ok(n) => Ok(n),
            Err(error) if is_refused(&error) => self
                .memory(false)?
                .read_at(into, address)
                .map_err(|_unmapped| Errno::FAULT),
            Err(_) => Err(Errno::FAULT),
        }
    }

    /// Reads `length` bytes at the address in an argument.
    pub(in crate::sandbox) fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        if self.read_some(address, &mut bytes)? == length {
            Ok(bytes)
        } else {
            Err(Errno::FAULT)
        }
    }

    /// Reads as many bytes of `length` at an address as there are, at least one.
    pub(in crate::sandbox) fn read_up_to(
        &self,
        address: u64,
        length: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        let n = self.read_some(address, &mut bytes)?;
        bytes.truncate(n);
        if n == 0 { Err(Errno::FAULT) } else { Ok(bytes) }
    }

    /// Writes bytes at an address.
    pub(in crate::sandbox) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        match sys::write_memory(self.thread, address, bytes) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(Errno::FAULT),
            Err(error) if is_refused(&error) => self
                .memory(true)?
                .write_all_at(bytes, address)
                .map_err(|_unmapped| Errno::FAULT),
            Err(_) => Err(Errno::FAULT),
        }
    }

    /// The path at the address in argument `index`.
    pub(in crate::sandbox) fn path(&self, index: usize) -> Result<OsString, Errno> {
        const PAGE: u64 = 4096;
        let address = self.arguments[index];
        let mut path = vec![0; PATH_MAX];
        let mut length = 0;
        // Page by page: the page after the path's end may not be there.
        while length < PATH_MAX {
            let at = address.wrapping_add(length as u64);
            let rest = usize::try_from(PAGE - at % PAGE).unwrap_or(PATH_MAX);
            let end = (length + rest).min(PATH_MAX);
            let n = self.read_some(at, &mut path[length..end])?;
            if n == 0 {
                return Err(Errno::FAULT);
            }
            if let Some(nul) = path[length..length + n].iter().position(|b| *b == 0) {
                path.truncate(length + nul);
                return Ok(OsString::from_vec(path));
            }
            length += n;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// What it has open as `descriptor`; `AT_FDCWD` is its working directory.
    pub(in crate::sandbox) fn descriptor(&self, descriptor: i32) -> Result<OwnedFd, Errno> {
        let name = if descriptor == libc::AT_FDCWD {
            format!("{}/cwd", self.thread)
        } else {
            format!("{}/fd/{descriptor}", self.thread)
        };
        let open = || fs::open(&*name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        self.as_itself(open).map_err(|error| match error {
            Errno::NOENT => Errno::BADF,
            other => other,
        })
    }

    /// The path of the host of what it has open as `descriptor`; `AT_FDCWD` is its working directory.
    pub(in crate::sandbox) fn location(&self, descriptor: i32) -> Result<PathBuf, Errno> {
        let link = if descriptor == libc::AT_FDCWD {
            format!("{}/cwd", self.thread)
        } else {
            format!("{}/fd/{descriptor}", self.thread)
        };
        let target = self.as_itself(|| match fs::readlink(&*link, Vec::new()) {
            Err(Errno::NOENT) => Err(Errno::BADF),
            other => other,
        })?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Fails where its descriptor is open only to look at (`O_PATH`): then the link in `/proc` has no rights.
    pub(in crate::sandbox) fn is_to_use(&self, descriptor: i32) -> Result<(), Errno> {
        let link = format!("{}/fd/{descriptor}", self.thread);
        match fs::lstat(&*link) {
            Ok(stat) if stat.st_mode & 0o600 == 0 => Err(Errno::BADF),
            // Whoever looks at the descriptor finds that out.
            _ => Ok(()),
        }
    }

    /// Whether a descriptor is closed when it starts a program.
    pub(in crate::sandbox) fn closes_on_exec(&self, descriptor: i32) -> bool {
        let path = format!("{}/fdinfo/{descriptor}", self.thread);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| i32::from_str_radix(text.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
    }

    /// Its root directory.
    pub(in crate::sandbox) fn root(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        fs::open(format!("{}/root", self.thread), flags, Mode::empty())
    }

    /// Whether the two times at the address in an argument mean "now"; others are not permitted.
    pub(in crate::sandbox) fn is_now(&self, index: usize) -> Result<(), Errno> {
        let times = self.read(self.word(index), 32)?;
        let nanos = |at: usize| i64::from_ne_bytes(std::array::from_fn(|i| times[at + i]));
        if nanos(8) == libc::UTIME_NOW && nanos(24) == libc::UTIME_NOW {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }

    /// What it means by `path`, relative to `descriptor` of its.
    pub(in crate::sandbox) fn open(
        &self,
        descriptor: i32,
        path: &OsStr,
        follow: bool,
    ) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if !path.as_bytes().starts_with(b"/") {
            let dir = self.descriptor(descriptor)?;
            return fs::openat(dir, path, flags, Mode::empty());
        }
        if let Some(own) = self.own(path) {
            return fs::open(own, flags, Mode::empty());
        }
        let root = format!("{}/root", self.thread);
        let theirs = fs::stat(&*root)?;
        let ours = fs::stat("/")?;
        if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
            return fs::open(path, flags, Mode::empty());
        }
        // It has changed its root directory.
        let root = fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// The host's name for a path that means another thing to every process.
    fn own(&self, path: &OsStr) -> Option<PathBuf> {
        let thread = self.thread;
        let bytes = path.as_bytes();
        for (prefix, own) in [
            ("/proc/self/", format!("{thread}/")),
            ("/proc/thread-self/", format!("{thread}/")),
            ("/dev/fd/", format!("{thread}/fd/")),
        ] {
            if let Some(rest) = bytes.strip_prefix(prefix.as_bytes()) {
                return Some(Path::new(&own).join(OsStr::from_bytes(rest)));
            }
        }
        let number = match bytes {
            b"/dev/stdin" => 0,
            b"/dev/stdout" => 1,
            b"/dev/stderr" => 2,
            _ => return None,
        };
        Some(format!("{thread}/fd/{number}").into())
    }

    /// The directory in which `path` is to be made, and its name there. Paths that end in a slash or in dots have none.
    pub(in crate::sandbox) fn place(&self, descriptor: i32, path: &OsStr) -> Option<Place> {
        let bytes = path.as_bytes();
        let bytes = match bytes.strip_suffix(b"/") {
            // `mkdir dir/` is common; the kernel sees to everything stranger.
            Some(rest) if !rest.ends_with(b"/") => rest,
            Some(_) => return None,
            None => bytes,
        };
        let (dir, name) = match bytes.iter().rposition(|b| *b == b'/') {
            Some(0) => (b"/".as_slice(), &bytes[1..]),
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (b".".as_slice(), bytes),
        };
        if name.is_empty() || name == b"." || name == b".." {
            return None;
        }
        let dir = self.open(descriptor, OsStr::from_bytes(dir), true).ok()?;
        Some(Place {
            dir,
            name: OsStr::from_bytes(name).to_owned(),
        })
    }

    /// A line of its status, without the name.
    fn status(&self, name: &str) -> Option<String> {
        let status = std::fs::read_to_string(format!("{}/status", self.thread)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    }

    /// Its file mode creation mask.
    pub(in crate::sandbox) fn umask(&self) -> u32 {
        let mask = self.status("Umask:");
        mask.and_then(|text| u32::from_str_radix(&text, 8).ok())
            .unwrap_or(0o022)
    }

    /// The ids it really has; nobody's when it is gone.
    pub(in crate::sandbox) fn real_identity(&self) -> Identity {
        let ids = |name: &str| -> Vec<u32> {
            let line = self.status(name).unwrap_or_default();
            line.split_ascii_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect()
        };
        let first_three = |ids: &[u32]| match ids {
            [real, effective, saved, ..] => [*real, *effective, *saved],
            _ => [KEEP; 3],
        };
        Identity {
            users: first_three(&ids("Uid:")),
            groups: first_three(&ids("Gid:")),
            supplementary: ids("Groups:"),
            keeps: false,
            capable: false,
        }
    }
}

/// Whether a filter, or who a process has become, keeps one out of its memory by the shorter way.
fn is_refused(error: &std::io::Error) -> bool {
    let refused = [libc::EPERM, libc::EACCES, libc::ENOSYS];
    error
        .raw_os_error()
        .is_some_and(|number| refused.contains(&number))
}

impl Place {
    /// Its path in the root.
    pub(in crate::sandbox) fn path(&self) -> Option<PathBuf> {
        Some(super::record::path(self.dir.as_fd())?.join(&self.name))
    }

    /// Whether something is there.
    pub(in crate::sandbox) fn is_taken(&self) -> bool {
        fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Opens what is there, links not followed, to look at.
    pub(in crate::sandbox) fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&self.dir, &self.name, flags, Mode::empty())
    }
}
