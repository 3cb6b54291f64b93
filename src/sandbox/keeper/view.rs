//! Where a path leads a process of the step: to the files of its root, which it reaches by itself, or to something that only
//! the keeper can show it.
//!
//! Most paths have no symbolic link in them, and then one call to the kernel tells that the path means what it says. The others
//! are followed name by name, through `/proc` and its links into the root and back.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::super::supervisor::{members::Members, tracee::Tracee};

/// As many links as Linux follows before it gives up (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// Something that a path can lead to. Paths in it are relative and free of links, `.` and `..`, but perhaps for the last
/// component of those in `/proc` and `/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) enum Place {
    /// A file of the root, whether it exists or not.
    Root(PathBuf),
    /// A file of `/proc`, processes by their numbers.
    Proc(PathBuf),
    /// A file of `/sys`.
    Sys(PathBuf),
}

/// What to do about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) enum Spot {
    /// The kernel finds it.
    Native(Option<PathBuf>),
    /// The kernel would not find it.
    Shown(Place),
}

/// What the kernel has found at the end of a path: the thing, open to look at, or why there is none. `None`: it was not asked.
pub(in crate::sandbox) type Seen = Option<Result<OwnedFd, Errno>>;

/// The tree that a step sees.
#[derive(Debug)]
pub(in crate::sandbox) struct View {
    /// Its root directory.
    pub(in crate::sandbox) root: OwnedFd,
    /// The path of that directory on the host.
    pub(in crate::sandbox) path: PathBuf,
    /// Devices that could not be made, in `/dev`.
    pub(in crate::sandbox) devices: Vec<&'static str>,
    pub(in crate::sandbox) members: Members,
    /// Directories of copies of programs, which lie outside the root, and the files in it that they are copies of.
    pub(in crate::sandbox) programs: Mutex<HashMap<PathBuf, PathBuf>>,
}

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Last {
    Follow,
    Keep,
}

impl View {
    /// What a path of the host is called in the step; `None` when it lies outside.
    pub(in crate::sandbox) fn inside<'a>(&self, host: &'a Path) -> Option<&'a Path> {
        host.strip_prefix(&self.path).ok()
    }

    /// What a path of the host stands for that is a copy of a program.
    pub(in crate::sandbox) fn original(&self, host: &Path) -> Option<PathBuf> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.get(host.parent()?).cloned()
    }

    /// Where `path`, relative to the descriptor `dir` of `caller`, leads.
    pub(in crate::sandbox) fn locate(
        &self,
        caller: &Tracee,
        dir: i32,
        path: &OsStr,
        last: Last,
    ) -> Result<Spot, Errno> {
        self.locate_and_see(caller, dir, path, last)
            .map(|(spot, _)| spot)
    }

    /// The same, with what is there as far as that was seen on the way.
    pub(in crate::sandbox) fn locate_and_see(
        &self,
        caller: &Tracee,
        dir: i32,
        path: &OsStr,
        last: Last,
    ) -> Result<(Spot, Seen), Errno> {
        let mut full = Vec::new();
        if !path.as_bytes().starts_with(b"/") {
            let base = caller.location(dir)?;
            match self.inside(&base) {
                Some(base) => full.extend(base.as_os_str().as_bytes()),
                // Neither in the root nor shown by us: a pipe, or a directory that is gone.
                None => return Ok((Spot::Native(None), None)),
            }
            full.push(b'/');
        }
        full.extend(path.as_bytes());
        // Relative to the root; slashes at the start would be dropped anyway.
        let start = full.iter().position(|b| *b != b'/').unwrap_or(full.len());
        let full = PathBuf::from(OsString::from_vec(full.split_off(start)));
        let plain = lexical(&full);
        let last = if path.as_bytes().ends_with(b"/") || path.as_bytes().ends_with(b"/.") {
            Last::Follow
        } else {
            last
        };
        if !self.is_shown(&plain) {
            match self.look_for(&full, last) {
                Ok(thing) => return Ok((Spot::Native(Some(plain)), Some(Ok(thing)))),
                // Filters of old container engines refuse what they do not know.
                Err(Errno::LOOP | Errno::NOSYS | Errno::PERM) => {}
                // What is left out of the plain path may be what is missing.
                Err(_) if full.iter().any(|name| name == "..") => {}
                Err(error) => return Ok((Spot::Native(Some(plain)), Some(Err(error)))),
            }
        }
        Ok((self.walk(caller, &full, last)?, None))
    }

    /// Whether a path without links lies where the kernel of the step shows nothing.
    fn is_shown(&self, path: &Path) -> bool {
        let mut names = path.iter().map(OsStr::as_bytes);
        match names.next() {
            Some(b"proc" | b"sys") => true,
            Some(b"dev") => match names.next() {
                Some(b"fd" | b"stdin" | b"stdout" | b"stderr") => true,
                Some(name) => self.devices.iter().any(|d| d.as_bytes() == name),
                None => false,
            },
            _ => false,
        }
    }

    /// Opens what a path leads to without a symbolic link on the way, to look at.
    fn look_for(&self, path: &Path, last: Last) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if last == Last::Keep {
            flags |= OFlags::NOFOLLOW;
        }
        let name = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        fs::openat2(&self.root, name, flags, Mode::empty(), resolve)
    }

    /// Follows a path name by name.
    fn walk(&self, caller: &Tracee, path: &Path, last: Last) -> Result<Spot, Errno> {
        let mut todo: Vec<OsString> = Vec::new();
        push_reversed(&mut todo, path.as_os_str());
        let mut at = Place::Root(PathBuf::new());
        let mut crossed = false;
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let ends = todo.is_empty();
            let keep = ends && last == Last::Keep;
            if name == ".." {
                self.is_dir(&at)?;
                at = at.parent();
                continue;
            }
            let next = at.child(&name);
            let step = match &next {
                Place::Root(here) => self.follow_in_root(here, keep),
                Place::Proc(here) => {
                    crossed = true;
                    self.follow_in_proc(caller, here, ends, keep)?
                }
                Place::Sys(here) => {
                    crossed = true;
                    follow_in_sys(here, keep)
                }
            };
            match step {
                Step::On => at = next,
                Step::Jump(place) => at = place,
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.as_bytes().starts_with(b"/") {
                        at = Place::Root(PathBuf::new());
                    }
                    push_reversed(&mut todo, &target);
                }
            }
        }
        match at {
            Place::Root(path) if !crossed && !self.is_shown(&path) => Ok(Spot::Native(Some(path))),
            place => Ok(Spot::Shown(place)),
        }
    }

    /// Fails where `..` leads nowhere.
    fn is_dir(&self, at: &Place) -> Result<(), Errno> {
        let Place::Root(path) = at else { return Ok(()) };
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let stat = fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            Ok(())
        } else {
            Err(Errno::NOTDIR)
        }
    }

    fn follow_in_root(&self, here: &Path, keep: bool) -> Step {
        if keep {
            return Step::On;
        }
        // It holds no link but perhaps in its last component, so the kernel follows nothing here.
        match fs::readlinkat(&self.root, here, Vec::new()) {
            Ok(target) => Step::Link(OsString::from_vec(target.into_bytes())),
            Err(_) => Step::On,
        }
    }

    fn follow_in_proc(
        &self,
        caller: &Tracee,
        here: &Path,
        ends: bool,
        keep: bool,
    ) -> Result<Step, Errno> {
        let names: Vec<&[u8]> = here.iter().map(OsStr::as_bytes).collect();
        let number = |name: &[u8]| -> Option<i32> { std::str::from_utf8(name).ok()?.parse().ok() };
        let jump = |path: String| Ok(Step::Jump(Place::Proc(path.into())));
        match names.as_slice() {
            [] => Ok(Step::On),
            [b"self"] if !keep => jump(caller.process().ok_or(Errno::NOENT)?.to_string()),
            [b"thread-self"] if !keep => {
                let process = caller.process().ok_or(Errno::NOENT)?;
                jump(format!("{process}/task/{}", caller.thread()))
            }
            // Programs ask what the first process is, to find out where they are.
            [b"1"] => jump(self.members.first.to_string()),
            [name] => match number(name) {
                Some(pid) if !self.members.contains(pid) => Err(Errno::NOENT),
                Some(_) => Ok(Step::On),
                None => Ok(link_or_on(here, keep)),
            },
            [process, inner @ ..] if number(process).is_some() => {
                let inner = match inner {
                    [b"task", _, deeper @ ..] if !deeper.is_empty() => deeper,
                    other => other,
                };
                match inner {
                    _ if keep => Ok(Step::On),
                    [b"root"] => Ok(Step::Jump(Place::Root(PathBuf::new()))),
                    [b"cwd"] => self.jump_to(caller, here),
                    [b"exe"] => {
                        let copied = caller.as_itself(|| read_link(here));
                        let original = copied.ok().and_then(|copy| self.original(&copy));
                        Ok(match original {
                            Some(path) => Step::Jump(Place::Root(path)),
                            None => Step::On,
                        })
                    }
                    [b"fd", _] if !ends => self.jump_to(caller, here),
                    _ => Ok(Step::On),
                }
            }
            _ => Ok(link_or_on(here, keep)),
        }
    }

    /// Goes where a link of `/proc` leads, which is a directory of the root.
    fn jump_to(&self, caller: &Tracee, link: &Path) -> Result<Step, Errno> {
        let target = caller.as_itself(|| read_link(link))?;
        let inside = self.inside(&target).ok_or(Errno::ACCESS)?;
        Ok(Step::Jump(Place::Root(inside.to_owned())))
    }
}

/// How a path goes on from a name.
enum Step {
    /// It is no link.
    On,
    /// It stands for a place.
    Jump(Place),
    /// It is a link, relative to where it is.
    Link(OsString),
}

impl Place {
    fn parent(self) -> Self {
        let up = |mut path: PathBuf| {
            path.pop();
            path
        };
        match self {
            Self::Root(path) => Self::Root(up(path)),
            Self::Proc(path) | Self::Sys(path) if path.as_os_str().is_empty() => {
                Self::Root(PathBuf::new())
            }
            Self::Proc(path) => Self::Proc(up(path)),
            Self::Sys(path) => Self::Sys(up(path)),
        }
    }

    fn child(&self, name: &OsStr) -> Self {
        match self {
            Self::Root(path) if path.as_os_str().is_empty() && name == "proc" => {
                Self::Proc(PathBuf::new())
            }
            Self::Root(path) if path.as_os_str().is_empty() && name == "sys" => {
                Self::Sys(PathBuf::new())
            }
            Self::Root(path) => Self::Root(path.join(name)),
            Self::Proc(path) => Self::Proc(path.join(name)),
            Self::Sys(path) => Self::Sys(path.join(name)),
        }
    }
}

/// The target of a link of the host's `/proc`, which is the working directory.
pub(in crate::sandbox) fn read_link(link: &Path) -> Result<PathBuf, Errno> {
    let target = fs::readlink(link, Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

fn link_or_on(here: &Path, keep: bool) -> Step {
    match read_link(here) {
        Ok(target) if !keep => Step::Link(target.into()),
        _ => Step::On,
    }
}

fn follow_in_sys(here: &Path, keep: bool) -> Step {
    link_or_on(&Path::new("/sys").join(here), keep)
}

fn push_reversed(stack: &mut Vec<OsString>, path: &OsStr) {
    let parts = path.as_bytes().split(|b| *b == b'/').rev();
    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
    stack.extend(parts.map(|part| OsStr::from_bytes(part).to_owned()));
}

/// A path without `.` and `..`, as it is when it has no links.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for name in path.as_os_str().as_bytes().split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                clean.pop();
            }
            name => clean.push(OsStr::from_bytes(name)),
        }
    }
    clean
}
