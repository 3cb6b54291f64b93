//! What a path means, and who may reach it.
//!
//! A path is followed by the view of the [keeper](super::super::keeper), in the root and through `/proc`; what is found in the root is
//! then opened in the kernel by a path without links, bound to the root.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::{
    super::{
        keeper::view::{Last, Place, Seen, Spot, read_link},
        supervisor::{identity::Identity, record, tracee::Tracee},
    },
    owners::Known,
    serve::{At, Emulator, Object, named},
};

pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const EXECUTE: u32 = 1;

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// A file of the root, whether it exists or not: relative, free of links but perhaps for its last component.
    File {
        path: PathBuf,
        dir_only: bool,
        seen: Seen,
    },
    /// What only the keeper can show.
    Shown(Place),
}

/// Something that exists.
#[derive(Debug)]
pub(super) struct Thing {
    /// Open to look at.
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
    /// Where it lies in the root; `None` when it does not.
    pub(super) path: Option<PathBuf>,
}

/// A directory of the root, open to look at, and a name in it.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) dir: OwnedFd,
    pub(super) last: OsString,
    pub(super) path: PathBuf,
    /// Whether it can be that of a directory only.
    pub(super) dir_only: bool,
    /// What was there when its path was followed.
    pub(super) seen: Seen,
}

impl Thing {
    pub(super) fn is_dir(&self) -> bool {
        fs::FileType::from_raw_mode(self.stat.st_mode).is_dir()
    }

    pub(super) fn is_link(&self) -> bool {
        fs::FileType::from_raw_mode(self.stat.st_mode).is_symlink()
    }
}

impl Emulator {
    /// Where a path leads.
    pub(super) fn find(
        &self,
        caller: &Tracee,
        (dir, path): (i32, &OsStr),
        last: Last,
    ) -> Result<Found, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let bytes = path.as_bytes();
        let dir_only = bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b".";
        let (spot, seen) = self.keeper.view.locate_and_see(caller, dir, path, last)?;
        let file = |path| Found::File {
            path,
            dir_only,
            seen,
        };
        let found = match spot {
            // Relative to a pipe, or the like.
            Spot::Native(None) => return Err(Errno::NOTDIR),
            Spot::Native(Some(path)) => file(path),
            Spot::Shown(Place::Root(path)) if self.keeper.device(&path).is_none() => file(path),
            Spot::Shown(place) => Found::Shown(place),
        };
        if let Found::File { path, .. } = &found {
            self.pass_to(&self.who(caller), path)?;
        }
        Ok(found)
    }

    /// Refuses the way to a file through directories that are closed to `who`.
    fn pass_to(&self, who: &Identity, path: &Path) -> Result<(), Errno> {
        if who.is_root() {
            return Ok(());
        }
        for dir in path.ancestors().skip(1) {
            match self.open_thing(dir) {
                Ok(thing) if !thing.is_dir() => return Err(Errno::NOTDIR),
                Ok(thing) => self.may(who, &thing, EXECUTE)?,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens a file of the root to look at, links not followed.
    pub(super) fn open_thing(&self, path: &Path) -> Result<Thing, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd = fs::openat2(self.root(), named(path), flags, Mode::empty(), inside)?;
        let stat = fs::fstat(&fd)?;
        Ok(Thing {
            fd,
            stat,
            path: Some(path.to_owned()),
        })
    }

    /// What was seen at `path`, or is there.
    pub(super) fn seen_thing(&self, path: &Path, seen: Seen) -> Result<Thing, Errno> {
        let fd = match seen {
            Some(seen) => seen?,
            None => return self.open_thing(path),
        };
        let stat = fs::fstat(&fd)?;
        Ok(Thing {
            fd,
            stat,
            path: Some(path.to_owned()),
        })
    }

    /// What a thread has open as `descriptor`.
    pub(super) fn held(&self, caller: &Tracee, descriptor: i32) -> Result<Thing, Errno> {
        let fd = caller.descriptor(descriptor)?;
        let stat = fs::fstat(&fd)?;
        let host = caller.location(descriptor)?;
        let path = self.keeper.view.inside(&host).map(Path::to_owned);
        Ok(Thing { fd, stat, path })
    }

    /// What a call is about.
    pub(super) fn thing(
        &self,
        caller: &Tracee,
        (dir, path, follow): Object,
    ) -> Result<Thing, Errno> {
        let Some(argument) = path else {
            return self.held(caller, dir);
        };
        let path = caller.path(argument)?;
        let last = if follow { Last::Follow } else { Last::Keep };
        match self.find(caller, (dir, &path), last)? {
            Found::File {
                path,
                dir_only,
                seen,
            } => {
                let thing = self.seen_thing(&path, seen)?;
                if dir_only && !thing.is_dir() {
                    return Err(Errno::NOTDIR);
                }
                Ok(thing)
            }
            Found::Shown(place) => {
                let fd = self.keeper.look(caller, &place, follow)?;
                let stat = fs::fstat(&fd)?;
                // A link of `/proc` to a file of the root, such as that of a descriptor, is as good as its name.
                let path = match &place {
                    Place::Proc(_) if follow => {
                        let host = read_link(Path::new(&record::name(fd.as_fd())))?;
                        self.keeper.view.inside(&host).map(Path::to_owned)
                    }
                    _ => None,
                };
                Ok(Thing { fd, stat, path })
            }
        }
    }

    /// The name that a call makes, replaces or takes away.
    pub(super) fn name(&self, caller: &Tracee, (dir, path): At) -> Result<Name, Errno> {
        match self.name_or_place(caller, (dir, path))? {
            Ok(name) => Ok(name),
            Err(place) => {
                // What is there cannot be made anew, and what is not there not at all.
                let is_there = self.keeper.look(caller, &place, false).is_ok();
                Err(match place {
                    _ if is_there => Errno::EXIST,
                    Place::Sys(_) => Errno::ROFS,
                    Place::Proc(_) | Place::Root(_) => Errno::NOENT,
                })
            }
        }
    }

    /// The same, or what only the keeper can show. A link at the end is never followed, whatever slashes come after it.
    pub(super) fn name_or_place(
        &self,
        caller: &Tracee,
        (dir, path): At,
    ) -> Result<Result<Name, Place>, Errno> {
        let path = caller.path(path)?;
        let bytes = path.as_bytes();
        let end = bytes
            .iter()
            .rposition(|b| *b != b'/')
            .map_or(0, |at| at + 1);
        let last = bytes[..end].rsplit(|b| *b == b'/').next();
        if matches!(last, None | Some(b"" | b"." | b"..")) {
            return Ok(match self.find(caller, (dir, &path), Last::Follow)? {
                Found::File { path, seen, .. } => Ok(Name {
                    dir: self.seen_thing(&path, seen)?.fd,
                    last: ".".into(),
                    path: path.join("."),
                    dir_only: true,
                    seen: None,
                }),
                Found::Shown(place) => Err(place),
            });
        }
        let trimmed = OsStr::from_bytes(&bytes[..end]);
        Ok(match self.find(caller, (dir, trimmed), Last::Keep)? {
            Found::File { path, seen, .. } => Ok(Name {
                seen,
                ..self.name_in_root(path, end < bytes.len())?
            }),
            Found::Shown(place) => Err(place),
        })
    }

    pub(super) fn name_in_root(&self, path: PathBuf, dir_only: bool) -> Result<Name, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let above = path.parent().unwrap_or(Path::new(""));
        let dir = fs::openat2(self.root(), named(above), flags, Mode::empty(), inside)?;
        let last = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
        Ok(Name {
            dir,
            last,
            path,
            dir_only,
            seen: None,
        })
    }

    /// What something looks like.
    pub(super) fn known(&self, thing: &Thing) -> Known {
        self.looks
            .of(thing.fd.as_fd(), &thing.stat, thing.path.as_deref())
    }

    /// Compares permission bits.
    pub(super) fn may(&self, who: &Identity, thing: &Thing, wanted: u32) -> Result<(), Errno> {
        let known = self.known(thing);
        let allowed = |shift: u32| known.mode >> shift & wanted == wanted;
        if who.is_root() {
            // Even root runs only what is a program to somebody.
            let runs = thing.is_dir() || known.mode & 0o111 != 0;
            return if wanted & EXECUTE == 0 || runs {
                Ok(())
            } else {
                Err(Errno::ACCESS)
            };
        }
        let is_member = who.group() == known.gid || who.supplementary.contains(&known.gid);
        let may = match (who.user() == known.uid, is_member) {
            (true, _) => allowed(6),
            (false, true) => allowed(3),
            (false, false) => allowed(0),
        };
        if may { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// Whether `who` may put names into the directory of `name` and take them out.
    pub(super) fn may_change(&self, who: &Identity, name: &Name) -> Result<(), Errno> {
        self.writable(&name.path)?;
        if who.is_root() {
            return Ok(());
        }
        self.may(who, &Self::dir_of(name)?, WRITE | EXECUTE)
    }

    /// Refuses a name that is taken, as the kernel does before it asks who may, and to put one where `who` may not.
    pub(super) fn may_make(&self, who: &Identity, name: &Name) -> Result<(), Errno> {
        let is_there = match &name.seen {
            Some(Ok(_)) => true,
            // Who makes it is told if it has come to be since.
            Some(Err(Errno::NOENT)) => false,
            _ => fs::statat(&name.dir, &name.last, AtFlags::SYMLINK_NOFOLLOW).is_ok(),
        };
        if name.last == "." || is_there {
            return Err(Errno::EXIST);
        }
        self.may_change(who, name)
    }

    /// The same for what is there already: in a sticky directory it is for its owner.
    pub(super) fn may_replace(&self, who: &Identity, name: &Name) -> Result<(), Errno> {
        self.may_change(who, name)?;
        if who.is_root() {
            return Ok(());
        }
        let dir = self.known_dir(name)?;
        if dir.mode & libc::S_ISVTX == 0 || dir.uid == who.user() {
            return Ok(());
        }
        match self.open_thing(&name.path) {
            Ok(thing) if self.known(&thing).uid != who.user() => Err(Errno::PERM),
            _ => Ok(()),
        }
    }

    pub(super) fn dir_of(name: &Name) -> Result<Thing, Errno> {
        let stat = fs::fstat(&name.dir)?;
        let above = name.path.parent().unwrap_or(Path::new(""));
        Ok(Thing {
            fd: name.dir.try_clone().map_err(|_full| Errno::MFILE)?,
            stat,
            path: Some(above.to_owned()),
        })
    }

    /// What the directory of `name` looks like.
    fn known_dir(&self, name: &Name) -> Result<Known, Errno> {
        let stat = fs::fstat(&name.dir)?;
        let above = name.path.parent().unwrap_or(Path::new(""));
        Ok(self.looks.of(name.dir.as_fd(), &stat, Some(above)))
    }

    /// What is made in the directory of `name` by `who` looks like this.
    pub(super) fn of_new(
        &self,
        who: &Identity,
        name: &Name,
        mode: u32,
        is_dir: bool,
    ) -> Result<Known, Errno> {
        let dir = self.known_dir(name)?;
        let inherits = dir.mode & libc::S_ISGID != 0;
        Ok(Known {
            uid: who.user(),
            gid: if inherits { dir.gid } else { who.group() },
            mode: if inherits && is_dir {
                mode | libc::S_ISGID
            } else {
                mode
            },
            device: None,
        })
    }
}
