//! What users that only the supervisor knows may reach. To the kernel every thread is the one user that exists, who may do
//! everything, so the permission bits are compared here, with the owners that the records say.
//!
//! Asked before the kernel makes a call, and only for threads that are not root; what is refused for another reason, such
//! as a file that is not there, is left to the kernel. Not compared: access control lists, and what lies in `/proc`.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
};

use rustix::{
    fs::{self, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{Supervisor, calls::Call, identity::Identity, object_of, tracee::Tracee};

/// As many links as Linux follows before it gives up (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

const READ: u32 = 4;
const WRITE: u32 = 2;
const EXECUTE: u32 = 1;

/// What is done at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// A link is followed.
    Follow,
    /// A link is the object itself.
    Keep,
    /// A name is made, removed or replaced: its directory counts.
    Name,
}

/// Where a path leads.
#[derive(Debug)]
enum Reached {
    Object(OwnedFd),
    /// A directory, and a name in it.
    Name(OwnedFd, OsString),
    /// Somewhere in `/proc`.
    Proc,
}

/// Descriptor and argument of the path; `None`: the descriptor itself.
type At = (i32, Option<usize>);

const HERE: i32 = libc::AT_FDCWD;

impl Supervisor {
    /// Refuses a call that `who` may not make.
    pub(super) fn admit(&self, call: Call, tracee: &Tracee, who: &Identity) -> Result<(), Errno> {
        let number = |index| tracee.signed(index);
        let object = |flags| {
            let (dir, path, follow) = object_of(tracee, flags);
            let last = if follow { Last::Follow } else { Last::Keep };
            ((dir, path), last)
        };
        let path = |index| ((HERE, Some(index)), Last::Follow);
        let path_at = |index| ((number(0), Some(index)), Last::Follow);
        let this = |(at, last)| self.look(tracee, who, at, last);
        let names = |at: At| self.change(tracee, who, at);
        match call {
            Call::Open | Call::Openat | Call::Openat2 | Call::Creat => {
                self.admit_open(call, tracee, who)
            }
            Call::Stat | Call::Chown => this(path(0)).map(drop),
            Call::Lstat | Call::Lchown | Call::Readlink => {
                this(((HERE, Some(0)), Last::Keep)).map(drop)
            }
            Call::Newfstatat => this(object(3)).map(drop),
            Call::Statx => this(object(2)).map(drop),
            Call::Fchownat => this(object(4)).map(drop),
            Call::Readlinkat => this(((number(0), Some(1)), Last::Keep)).map(drop),
            Call::Access => self.access(this(path(0))?, who, tracee.number(1), false),
            Call::Faccessat => self.access(this(path_at(1))?, who, tracee.number(2), false),
            Call::Faccessat2 => {
                let effective = number(3) & libc::AT_EACCESS != 0;
                self.access(this(object(3))?, who, tracee.number(2), effective)
            }
            Call::Execve => self.want(this(path(0))?, who, EXECUTE),
            Call::Execveat => self.want(this(object(4))?, who, EXECUTE),
            Call::Chdir => self.want(this(path(0))?, who, EXECUTE),
            Call::Fchdir => self.want(this(((number(0), None), Last::Follow))?, who, EXECUTE),
            Call::Truncate => self.want(this(path(0))?, who, WRITE),
            Call::Chroot => Err(Errno::PERM),
            Call::Chmod => self.owns(this(path(0))?, who),
            Call::Fchmod => self.owns(this(((number(0), None), Last::Follow))?, who),
            Call::Fchmodat => self.owns(this(path_at(1))?, who),
            Call::Fchmodat2 => self.owns(this(object(3))?, who),
            Call::Utime | Call::Utimes => self.dates(this(path(0))?, who, tracee, 1),
            Call::Utimensat => self.dates(this(object(3))?, who, tracee, 2),
            Call::Setxattr | Call::Removexattr => self.want(this(path(0))?, who, WRITE),
            Call::Fsetxattr | Call::Fremovexattr => {
                self.want(this(((number(0), None), Last::Follow))?, who, WRITE)
            }
            Call::Setxattrat | Call::Removexattrat => self.want(this(object(2))?, who, WRITE),
            Call::Mkdir | Call::Mknod => self.make(tracee, who, (HERE, Some(0))),
            Call::Mkdirat | Call::Mknodat => self.make(tracee, who, (number(0), Some(1))),
            Call::Symlink => self.make(tracee, who, (HERE, Some(1))),
            Call::Symlinkat => self.make(tracee, who, (number(1), Some(2))),
            Call::Link => self.make(tracee, who, (HERE, Some(1))),
            Call::Linkat => self.make(tracee, who, (number(2), Some(3))),
            Call::Unlink => names((HERE, Some(0))),
            Call::Unlinkat => names((number(0), Some(1))),
            Call::Rename => {
                names((HERE, Some(0)))?;
                names((HERE, Some(1)))
            }
            Call::Renameat | Call::Renameat2 => {
                names((number(0), Some(1)))?;
                names((number(2), Some(3)))
            }
            _ => Ok(()),
        }
    }

    fn admit_open(&self, call: Call, tracee: &Tracee, who: &Identity) -> Result<(), Errno> {
        let (at, flags) = match call {
            Call::Creat => ((HERE, Some(0)), libc::O_CREAT | libc::O_WRONLY),
            Call::Open => ((HERE, Some(0)), tracee.signed(1)),
            Call::Openat => ((tracee.signed(0), Some(1)), tracee.signed(2)),
            _ => {
                let how = tracee.read(tracee.word(2), 8)?;
                let flags = i32::from_ne_bytes([how[0], how[1], how[2], how[3]]);
                ((tracee.signed(0), Some(1)), flags)
            }
        };
        let has = |flag: i32| flags & flag == flag;
        if has(libc::O_CREAT | libc::O_EXCL) {
            return self.make(tracee, who, at);
        }
        let last = if has(libc::O_NOFOLLOW) {
            Last::Keep
        } else {
            Last::Follow
        };
        let found = match self.reach(tracee, who, at, last) {
            Err(Errno::NOENT) if has(libc::O_CREAT) => return self.make(tracee, who, at),
            Err(Errno::ACCESS) => return Err(Errno::ACCESS),
            Err(_) => return Ok(()),
            Ok(Reached::Object(found)) if !has(libc::O_PATH) => found,
            Ok(_) => return Ok(()),
        };
        let mut wanted = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => READ,
            libc::O_WRONLY => WRITE,
            _ => READ | WRITE,
        };
        if has(libc::O_TMPFILE) {
            wanted = WRITE | EXECUTE;
        } else if has(libc::O_TRUNC) {
            wanted |= WRITE;
        }
        self.want(Some(found), who, wanted)
    }

    /// What a path leads to, `None` when that is nothing to compare; fails where a directory on the way may not be passed.
    fn look(
        &self,
        tracee: &Tracee,
        who: &Identity,
        at: At,
        last: Last,
    ) -> Result<Option<OwnedFd>, Errno> {
        match self.reach(tracee, who, at, last) {
            Ok(Reached::Object(found)) => Ok(Some(found)),
            Err(Errno::ACCESS) => Err(Errno::ACCESS),
            _ => Ok(None),
        }
    }

    /// Whether `who` may make a name that is not there yet.
    fn make(&self, tracee: &Tracee, who: &Identity, at: At) -> Result<(), Errno> {
        match self.reach(tracee, who, at, Last::Name) {
            Ok(Reached::Name(dir, name)) => {
                if fs::statat(&dir, &name, fs::AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    return Ok(());
                }
                self.want(Some(dir), who, WRITE | EXECUTE)
            }
            Err(Errno::ACCESS) => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }

    /// Whether `who` may take a name away or put something else there.
    fn change(&self, tracee: &Tracee, who: &Identity, at: At) -> Result<(), Errno> {
        let (dir, name) = match self.reach(tracee, who, at, Last::Name) {
            Ok(Reached::Name(dir, name)) => (dir, name),
            Err(Errno::ACCESS) => return Err(Errno::ACCESS),
            _ => return Ok(()),
        };
        let stat = fs::fstat(&dir)?;
        self.may(who, dir.as_fd(), &stat, WRITE | EXECUTE)?;
        if stat.st_mode & libc::S_ISVTX == 0 || self.owner(dir.as_fd(), &stat).uid == who.user() {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&dir, &name, flags, Mode::empty()) {
            Ok(there) => self.owns(Some(there), who),
            Err(_) => Ok(()),
        }
    }

    /// `access` goes by the real ids.
    fn access(
        &self,
        found: Option<OwnedFd>,
        who: &Identity,
        wanted: u32,
        effective: bool,
    ) -> Result<(), Errno> {
        let mut who = who.clone();
        if !effective {
            (who.users[1], who.groups[1]) = (who.users[0], who.groups[0]);
        }
        if who.is_root() {
            return Ok(());
        }
        self.want(found, &who, wanted & 7)
    }

    fn want(&self, found: Option<OwnedFd>, who: &Identity, wanted: u32) -> Result<(), Errno> {
        let Some(found) = found else { return Ok(()) };
        let stat = fs::fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode).is_symlink() {
            return Ok(());
        }
        self.may(who, found.as_fd(), &stat, wanted)
    }

    fn owns(&self, found: Option<OwnedFd>, who: &Identity) -> Result<(), Errno> {
        let Some(found) = found else { return Ok(()) };
        let stat = fs::fstat(&found)?;
        if self.owner(found.as_fd(), &stat).uid == who.user() {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }

    /// Times are for owners to set; who may write may set them to now.
    fn dates(
        &self,
        found: Option<OwnedFd>,
        who: &Identity,
        tracee: &Tracee,
        times: usize,
    ) -> Result<(), Errno> {
        let Some(found) = found else { return Ok(()) };
        let stat = fs::fstat(&found)?;
        if self.owner(found.as_fd(), &stat).uid == who.user() {
            return Ok(());
        }
        if tracee.word(times) != 0 {
            tracee.is_now(times)?;
        }
        self.may(who, found.as_fd(), &stat, WRITE)
    }

    /// Compares the permission bits of what `fd` is open on.
    fn may(
        &self,
        who: &Identity,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        wanted: u32,
    ) -> Result<(), Errno> {
        let bits = [6, 3, 0].map(|shift| stat.st_mode >> shift & wanted == wanted);
        if bits == [true; 3] || who.is_root() {
            return Ok(());
        }
        let owner = self.owner(fd, stat);
        let is_member = |gid| who.group() == gid || who.supplementary.contains(&gid);
        let class = match (owner.uid == who.user(), is_member(owner.gid)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        if bits[class] {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }

    /// Follows a path name by name, as far as `who` may.
    fn reach(
        &self,
        tracee: &Tracee,
        who: &Identity,
        (dir, path): At,
        last: Last,
    ) -> Result<Reached, Errno> {
        let Some(index) = path else {
            return tracee.descriptor(dir).map(Reached::Object);
        };
        let path = tracee.path(index)?;
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let root = tracee.root()?;
        let mut at = match path.as_bytes().first() {
            Some(b'/') => root.try_clone().map_err(|_full| Errno::MFILE)?,
            _ => tracee.descriptor(dir)?,
        };
        let last = match last {
            // `name/` is the directory that the name stands for.
            Last::Keep if path.as_bytes().ends_with(b"/") => Last::Follow,
            other => other,
        };
        let mut todo = Vec::new();
        push_reversed(&mut todo, &path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let stat = fs::fstat(&at)?;
            if self.proc == Some(stat.st_dev) {
                return Ok(Reached::Proc);
            }
            if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                return Err(Errno::NOTDIR);
            }
            self.may(who, at.as_fd(), &stat, EXECUTE)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if name == ".." {
                let top = fs::fstat(&root)?;
                if (top.st_dev, top.st_ino) != (stat.st_dev, stat.st_ino) {
                    at = fs::openat(&at, "..", flags, Mode::empty())?;
                }
                continue;
            }
            if todo.is_empty() && last == Last::Name {
                return Ok(Reached::Name(at, name));
            }
            let next = fs::openat(&at, &name, flags, Mode::empty())?;
            let is_link = FileType::from_raw_mode(fs::fstat(&next)?.st_mode).is_symlink();
            if is_link && !(todo.is_empty() && last == Last::Keep) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = fs::readlinkat(&next, "", Vec::new())?;
                let target = OsString::from_vec(target.into_bytes());
                if target.as_bytes().starts_with(b"/") {
                    at = root.try_clone().map_err(|_full| Errno::MFILE)?;
                }
                push_reversed(&mut todo, &target);
                continue;
            }
            at = next;
        }
        Ok(Reached::Object(at))
    }
}

fn push_reversed(todo: &mut Vec<OsString>, path: &OsStr) {
    let names = path.as_bytes().split(|b| *b == b'/');
    let real = names.filter(|name| !name.is_empty() && *name != b".");
    todo.extend(real.rev().map(|name| OsStr::from_bytes(name).to_owned()));
}
