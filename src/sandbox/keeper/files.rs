//! What is done to a place that only the keeper can show.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::{
    super::{
        kernelfs::{MASKED_PROC, MASKED_SYS},
        supervisor::{
            sys::{self, Answer},
            tracee::Tracee,
        },
    },
    Keeper, Verdict,
    calls::Call,
    mirror::Entry,
    mounted::told,
    view::{Last, Place, Spot, read_link},
};

/// What a step may write to of a process's own directory: nothing that goes by the privileges of the one who writes.
const WRITABLE: [&[u8]; 4] = [b"comm", b"coredump_filter", b"clear_refs", b"oom_score_adj"];

/// What an `open` asks for.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct Wish {
    flags: OFlags,
    mode: u32,
}

impl Wish {
    pub(in crate::sandbox) fn new(flags: u64, mode: u64) -> Self {
        Self {
            flags: OFlags::from_bits_retain(u32::try_from(flags & 0xffff_ffff).unwrap_or(0)),
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
        }
    }

    pub(in crate::sandbox) fn writes(self) -> bool {
        let path_only = self.flags.contains(OFlags::PATH);
        let writes = OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC | OFlags::CREATE;
        !path_only && self.flags.intersects(writes)
    }
}

impl Keeper {
    /// A call that names a file.
    pub(super) fn file(&self, call: Call, caller: &Tracee, id: u64) -> Verdict {
        let nofollow = |flags: i32| {
            if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
                Last::Follow
            } else {
                Last::Keep
            }
        };
        let dir = caller.signed(0);
        let here = libc::AT_FDCWD;
        match call {
            Call::Open => self.open(
                caller,
                (here, 0),
                Wish::new(caller.word(1), caller.word(2)),
                id,
            ),
            Call::Openat => self.open(
                caller,
                (dir, 1),
                Wish::new(caller.word(2), caller.word(3)),
                id,
            ),
            Call::Openat2 => self.openat2(caller, id),
            Call::Stat => self.stat(caller, (here, 0, Last::Follow), 1),
            Call::Lstat => self.stat(caller, (here, 0, Last::Keep), 1),
            Call::Newfstatat => self.stat(caller, (dir, 1, nofollow(caller.signed(3))), 2),
            Call::Statx => self.statx(caller),
            Call::Statfs => self.statfs(caller),
            Call::Access => self.access(caller, (here, 0, Last::Follow), caller.number(1)),
            Call::Faccessat => self.access(caller, (dir, 1, Last::Follow), caller.number(2)),
            Call::Faccessat2 => self.access(
                caller,
                (dir, 1, nofollow(caller.signed(3))),
                caller.number(2),
            ),
            Call::Readlink => self.readlink(caller, (here, 0), 1),
            Call::Readlinkat => self.readlink(caller, (dir, 1), 2),
            Call::Linkat => self.link(caller),
            Call::Chdir | Call::Execve => self.prepare(caller, (here, 0, Last::Follow)),
            Call::Execveat => self.prepare(caller, (dir, 1, nofollow(caller.signed(4)))),
            Call::Chmod | Call::Fchmodat | Call::Chown | Call::Fchownat => {
                self.change(call, caller)
            }
            Call::Uname => Ok(Some(Answer::Native)),
        }
    }

    pub(in crate::sandbox) fn spot(
        &self,
        caller: &Tracee,
        (dir, path, last): (i32, usize, Last),
    ) -> Result<Spot, Errno> {
        let path = caller.path(path)?;
        if path.is_empty() {
            return Ok(Spot::Native(None));
        }
        self.view.locate(caller, dir, &path, last)
    }

    fn open(&self, caller: &Tracee, (dir, path): (i32, usize), wish: Wish, id: u64) -> Verdict {
        let creates_new = wish.flags.contains(OFlags::CREATE | OFlags::EXCL);
        let last = if wish.flags.contains(OFlags::NOFOLLOW) || creates_new {
            Last::Keep
        } else {
            Last::Follow
        };
        let place = match self.spot(caller, (dir, path, last))? {
            Spot::Native(Some(path)) if wish.writes() && self.is_readonly(&path) => {
                return Err(Errno::ROFS);
            }
            Spot::Native(_) => return Ok(Some(Answer::Native)),
            Spot::Shown(place) => place,
        };
        let fd = self.open_place(caller, &place, wish)?;
        let close = wish.flags.contains(OFlags::CLOEXEC);
        // Whoever asked may be gone by now.
        match sys::send_fd(self.listener.as_fd(), id, fd.as_fd(), close) {
            Ok(()) => Ok(None),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    fn openat2(&self, caller: &Tracee, id: u64) -> Verdict {
        // `struct open_how`: flags, mode, resolve.
        let how = caller.read(caller.word(2), 24)?;
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&how[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        if word(16) != 0 {
            // Bound to a directory: what we show lies nowhere below it.
            return Ok(Some(Answer::Native));
        }
        self.open(
            caller,
            (caller.signed(0), 1),
            Wish::new(word(0), word(8)),
            id,
        )
    }

    pub(in crate::sandbox) fn is_readonly(&self, path: &Path) -> bool {
        self.readonly.iter().any(|place| path.starts_with(place))
    }

    pub(in crate::sandbox) fn open_place(
        &self,
        caller: &Tracee,
        place: &Place,
        wish: Wish,
    ) -> Result<OwnedFd, Errno> {
        let flags = wish.flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let mode = Mode::from_raw_mode(wish.mode & !caller.umask());
        match place {
            Place::Root(path) => {
                if wish.writes() && self.is_readonly(path) {
                    return Err(Errno::ROFS);
                }
                if let Some(device) = self.device(path) {
                    return fs::open(device, flags, Mode::empty());
                }
                let mode = if flags.contains(OFlags::CREATE) {
                    mode
                } else {
                    Mode::empty()
                };
                let name = if path.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    path
                };
                as_user(caller, || {
                    fs::openat2(&self.view.root, name, flags, mode, ResolveFlags::IN_ROOT)
                })
            }
            Place::Proc(path) => self.open_proc(caller, path, wish, flags),
            Place::Sys(path) => {
                if wish.writes() {
                    return Err(Errno::ROFS);
                }
                self.look(caller, place, true)?;
                let host = Path::new("/sys").join(path);
                if is_dir(&self.stat_of(caller, place, true)?) {
                    let shown = |name: &OsStr| !self.is_hidden(&path.join(name));
                    return self.sys.open(path, &list(&host, shown)?);
                }
                as_user(caller, || fs::open(&host, flags, Mode::empty()))
            }
        }
    }

    fn open_proc(
        &self,
        caller: &Tracee,
        path: &Path,
        wish: Wish,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let stat = self.stat_of(caller, &Place::Proc(path.to_owned()), true)?;
        let names: Vec<&[u8]> = path.iter().map(OsStr::as_bytes).collect();
        let of_process = names.first().is_some_and(|name| is_number(name));
        let last = *names.last().unwrap_or(&b"".as_slice());
        let is_descriptor = of_process && names.iter().rev().nth(1) == Some(&b"fd".as_slice());
        if is_dir(&stat) && !is_descriptor {
            if flags.contains(OFlags::NOFOLLOW) && fs::readlink(path, Vec::new()).is_ok() {
                return Err(Errno::LOOP);
            }
            return self.proc.open(path, &self.list_proc(caller, path)?);
        }
        if is_descriptor && is_dir(&stat) {
            // Only what lies in the root leads nowhere else.
            let target = caller.as_itself(|| read_link(path))?;
            let inside = self.view.inside(&target).ok_or(Errno::ACCESS)?;
            let place = Place::Root(inside.to_owned());
            return self.open_place(caller, &place, wish);
        }
        if wish.writes() && !is_descriptor && !(of_process && WRITABLE.contains(&last)) {
            let readonly = !of_process;
            return Err(if readonly { Errno::ROFS } else { Errno::ACCESS });
        }
        if names == [b"sys".as_slice(), b"kernel", b"hostname"] {
            return told(format!("{}\n", self.hostname).as_bytes());
        }
        if of_process && names.len() >= 2 && !wish.flags.contains(OFlags::PATH) {
            match last {
                b"mounts" | b"mountinfo" | b"mountstats" => return self.mounts(last),
                b"map_files" => return Err(Errno::PERM),
                _ => {}
            }
        }
        let flags = flags.difference(OFlags::CREATE | OFlags::EXCL);
        as_user(caller, || fs::open(path, flags, Mode::empty()))
    }

    /// The host's device that stands behind a file of `/dev`, if it could not be made there.
    pub(in crate::sandbox) fn device(&self, path: &Path) -> Option<PathBuf> {
        let name = path.strip_prefix("dev").ok()?;
        let known = self
            .view
            .devices
            .iter()
            .any(|device| name == Path::new(device));
        known.then(|| Path::new("/dev").join(name))
    }

    /// Whether a file of `/sys` is not the step's business.
    fn is_hidden(&self, path: &Path) -> bool {
        let of_network = path.strip_prefix("class/net").ok();
        let interface = of_network.and_then(|path| path.iter().next());
        MASKED_SYS.iter().any(|masked| path.starts_with(masked))
            || (self.offline && interface.is_some_and(|name| name != "lo"))
    }

    /// Opens a place to look at.
    pub(in crate::sandbox) fn look(
        &self,
        caller: &Tracee,
        place: &Place,
        follow: bool,
    ) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        match place {
            Place::Root(path) => {
                if let Some(device) = self.device(path) {
                    return fs::open(device, flags, Mode::empty());
                }
                let name = if path.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    path
                };
                fs::openat2(
                    &self.view.root,
                    name,
                    flags,
                    Mode::empty(),
                    ResolveFlags::IN_ROOT,
                )
            }
            Place::Proc(path) => {
                let top = path.iter().next().unwrap_or_default();
                if MASKED_PROC.iter().any(|masked| top == *masked) {
                    return Err(Errno::NOENT);
                }
                let name = if path.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    path
                };
                caller.as_itself(|| fs::open(name, flags, Mode::empty()))
            }
            Place::Sys(path) => {
                if self.is_hidden(path) {
                    return Err(Errno::NOENT);
                }
                fs::open(Path::new("/sys").join(path), flags, Mode::empty())
            }
        }
    }

    fn stat_of(&self, caller: &Tracee, place: &Place, follow: bool) -> Result<Stat, Errno> {
        fs::fstat(self.look(caller, place, follow)?)
    }

    /// The entries of a directory of `/proc`.
    fn list_proc(&self, caller: &Tracee, path: &Path) -> Result<BTreeMap<OsString, Entry>, Errno> {
        let top = path.as_os_str().is_empty();
        let name = if top { Path::new(".") } else { path };
        let shown = |name: &OsStr| {
            let number = name.to_str().and_then(|text| text.parse().ok());
            match number {
                Some(pid) if top => self.view.members.contains(pid),
                _ => !top || !MASKED_PROC.iter().any(|masked| name == *masked),
            }
        };
        // The directory of another user's process opens for root, but its links can be read by that user alone.
        let mut entries = match path.iter().next().map(OsStr::as_bytes) {
            Some(process) if is_number(process) => as_user(caller, || list(name, shown))?,
            _ => list(name, shown)?,
        };
        if top {
            // It means another one to each, and is found by name.
            for name in ["self", "thread-self"] {
                entries.insert(name.into(), Entry::Dir);
            }
        }
        for entry in entries.values_mut() {
            if let Entry::Link(target) = entry {
                *target = self.seen(target);
            }
        }
        Ok(entries)
    }

    /// How a link's target is called in the step.
    pub(in crate::sandbox) fn seen(&self, target: &Path) -> PathBuf {
        if let Some(original) = self.view.original(target) {
            return Path::new("/").join(original);
        }
        match self.view.inside(target) {
            Some(inside) => Path::new("/").join(inside),
            None => target.to_owned(),
        }
    }

    /// `linkat` that follows a link: how a file made without a name gets one, by way of `/proc/self/fd`.
    fn link(&self, caller: &Tracee) -> Verdict {
        let Spot::Shown(Place::Proc(path)) =
            self.spot(caller, (caller.signed(0), 1, Last::Follow))?
        else {
            return Ok(Some(Answer::Native));
        };
        let new = self.spot(caller, (caller.signed(2), 3, Last::Keep))?;
        let Spot::Native(Some(new)) = new else {
            return Err(Errno::XDEV);
        };
        let fd = self.look(caller, &Place::Proc(path), true)?;
        let (Some(above), Some(name)) = (new.parent(), new.file_name()) else {
            return Err(Errno::EXIST);
        };
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (root, inside) = (&self.view.root, ResolveFlags::IN_ROOT);
        let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
        as_user(caller, || {
            let dir = fs::openat2(root, above, flags, Mode::empty(), inside)?;
            fs::linkat(CWD, &*source, &dir, name, AtFlags::SYMLINK_FOLLOW)
        })?;
        Ok(Some(Answer::Value(0)))
    }

    /// For calls that the kernel has to make: puts what they name into the root, where it will find it.
    fn prepare(&self, caller: &Tracee, object: (i32, usize, Last)) -> Verdict {
        if let Spot::Shown(Place::Proc(path)) = self.spot(caller, object)? {
            let process = caller.process().ok_or(Errno::NOENT)?.to_string();
            if is_dir(&self.stat_of(caller, &Place::Proc(path.clone()), true)?) {
                self.proc.open(&path, &self.list_proc(caller, &path)?)?;
            } else if let Ok(target) = caller.as_itself(|| read_link(&path)) {
                self.proc.link(&path, &self.seen(&target))?;
            }
            self.proc.link(Path::new("self"), Path::new(&process))?;
        }
        Ok(Some(Answer::Native))
    }
}

/// Opens as the caller's user would: what it may not read by itself it may not read through us.
pub(in crate::sandbox) fn as_user<T>(
    caller: &Tracee,
    action: impl Fn() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let identity = caller.real_identity();
    sys::set_file_ids(identity.user(), identity.group());
    let result = action();
    sys::set_file_ids(0, 0);
    result
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// The entries of a directory of the host that `wanted` lets pass.
fn list(dir: &Path, wanted: impl Fn(&OsStr) -> bool) -> Result<BTreeMap<OsString, Entry>, Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut entries = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if !wanted(&name) {
            continue;
        }
        let kind = entry.file_type().map_err(failed)?;
        let entry = if kind.is_dir() {
            Entry::Dir
        } else if kind.is_symlink() {
            match read_link(&dir.join(&name)) {
                Ok(target) => Entry::Link(target),
                // Closed in the meantime.
                Err(_) => continue,
            }
        } else {
            Entry::File
        };
        entries.insert(name, entry);
    }
    Ok(entries)
}
