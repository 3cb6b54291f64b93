//! Opening files: by us, for the thread that asks, which is given the descriptor.

use std::{
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{self, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    super::{
        keeper::{
            Verdict,
            files::Wish,
            view::{Last, Place, Seen},
        },
        kernelfs::DEVICES,
        supervisor::{
            sys::{self, Answer},
            tracee::Tracee,
        },
    },
    calls::Call,
    owners::{Known, real_mode},
    paths::{EXECUTE, Found, Name, READ, Thing, WRITE},
    serve::Emulator,
    sys::number,
    trace::Session,
};

impl Emulator {
    pub(super) fn open(&mut self, call: Call, caller: &Tracee, id: u64) -> Verdict {
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let bits = |index| OFlags::from_bits_retain(caller.number(index));
        let (dir, path, flags, mode) = match call {
            Call::Creat => (libc::AT_FDCWD, 0, create, caller.number(1)),
            Call::Open => (libc::AT_FDCWD, 0, bits(1), caller.number(2)),
            _ => (caller.signed(0), 1, bits(2), caller.number(3)),
        };
        let path = caller.path(path)?;
        let creates = flags.contains(OFlags::CREATE);
        let excludes = flags.contains(OFlags::CREATE | OFlags::EXCL);
        let keeps = flags.contains(OFlags::NOFOLLOW) || excludes;
        let last = if keeps { Last::Keep } else { Last::Follow };
        let (path, dir_only, seen) = match self.find(caller, (dir, &path), last)? {
            Found::File {
                path,
                dir_only,
                seen,
            } => (path, dir_only, seen),
            Found::Shown(place) => return self.open_shown(caller, &place, flags, id),
        };
        if flags.contains(OFlags::PATH) {
            return self.open_to_look(caller, &path, flags, id);
        }
        let mode = mode & 0o7777;
        if flags.contains(OFlags::TMPFILE) {
            return self.open_nameless(caller, &path, (flags, mode), id);
        }
        if dir_only && creates {
            return Err(Errno::ISDIR);
        }
        let mut seen = seen;
        loop {
            if !excludes {
                match self.seen_thing(&path, seen.take()) {
                    Ok(thing) => return self.open_existing(caller, &thing, (flags, dir_only), id),
                    Err(Errno::NOENT) if creates => {}
                    Err(error) => return Err(error),
                }
            }
            let absent = if excludes {
                seen.take()
            } else {
                Some(Err(Errno::NOENT))
            };
            match self.create(caller, &path, (flags, mode), absent) {
                // Somebody else was faster.
                Err(Errno::EXIST) if !excludes => {}
                Err(error) => return Err(error),
                Ok(file) => return self.hand_over(&file, flags, id),
            }
        }
    }

    fn open_shown(&self, caller: &Tracee, place: &Place, flags: OFlags, id: u64) -> Verdict {
        // Descriptors to look at cannot be handed over.
        let flags = flags.difference(OFlags::PATH);
        let wish = Wish::new(flags.bits().into(), 0);
        let file = match self.told(place, flags) {
            Some(told) => told?,
            None => self.keeper.open_place(caller, place, wish)?,
        };
        self.hand_over(&file, flags, id)
    }

    fn hand_over(&self, file: &OwnedFd, flags: OFlags, id: u64) -> Verdict {
        let close = flags.contains(OFlags::CLOEXEC);
        sys::send_fd(self.keeper.listener.as_fd(), id, file.as_fd(), close)
            .map(|()| None)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
    }

    fn open_existing(
        &self,
        caller: &Tracee,
        thing: &Thing,
        (flags, dir_only): (OFlags, bool),
        id: u64,
    ) -> Verdict {
        let kind = FileType::from_raw_mode(thing.stat.st_mode);
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        match kind {
            FileType::Symlink if !flags.contains(OFlags::DIRECTORY) => return Err(Errno::LOOP),
            FileType::Directory if writes || flags.contains(OFlags::CREATE) => {
                return Err(Errno::ISDIR);
            }
            FileType::Socket => return Err(Errno::NXIO),
            FileType::Directory => {}
            _ if dir_only || flags.contains(OFlags::DIRECTORY) => return Err(Errno::NOTDIR),
            _ => {}
        }
        if writes && let Some(path) = &thing.path {
            self.writable(path)?;
        }
        let who = self.who(caller);
        if !who.is_root() {
            let mut wanted = match flags.bits() & 3 {
                0 => READ,
                1 => WRITE,
                _ => READ | WRITE,
            };
            if flags.contains(OFlags::TRUNC) {
                wanted |= WRITE;
            }
            self.may(&who, thing, wanted)?;
            if flags.contains(OFlags::NOATIME) && self.known(thing).uid != who.user() {
                return Err(Errno::PERM);
            }
        }
        let rest = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let again = flags.difference(rest) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let name = format!("/proc/self/fd/{}", thing.fd.as_raw_fd());
        if let Some((_, major, minor)) = self.known(thing).device {
            let known = DEVICES.into_iter().find(|d| (d.1, d.2) == (major, minor));
            let (device, ..) = known.ok_or(Errno::NXIO)?;
            let file = fs::open(Path::new("/dev").join(device), again, Mode::empty())?;
            return self.hand_over(&file, flags, id);
        }
        if kind == FileType::Fifo && !flags.contains(OFlags::NONBLOCK) {
            // It may wait for the other end, which asks us to open it.
            let listener = self.keeper.listener.try_clone();
            let listener = listener.map_err(|_full| Errno::MFILE)?;
            let held = thing.fd.try_clone().map_err(|_full| Errno::MFILE)?;
            std::thread::spawn(move || {
                let name = format!("/proc/self/fd/{}", held.as_raw_fd());
                let close = flags.contains(OFlags::CLOEXEC);
                // Whoever asked may be gone by now.
                let _gone = match fs::open(name, again, Mode::empty()) {
                    Ok(file) => sys::send_fd(listener.as_fd(), id, file.as_fd(), close),
                    Err(error) => {
                        let answer = Answer::Error(error.raw_os_error());
                        sys::send(listener.as_fd(), id, answer)
                    }
                };
            });
            return Ok(None);
        }
        let file = fs::open(name, again, Mode::empty())?;
        if flags.contains(OFlags::TRUNC) && kind.is_file() {
            self.after_truncation(caller, thing)?;
        }
        self.hand_over(&file, flags, id)
    }

    /// Makes a file that is not there yet.
    fn create(
        &mut self,
        caller: &Tracee,
        path: &Path,
        (flags, mode): (OFlags, u32),
        seen: Seen,
    ) -> Result<OwnedFd, Errno> {
        let name = Name {
            seen,
            ..self.name_in_root(path.to_owned(), false)?
        };
        let who = self.who(caller);
        self.may_make(&who, &name)?;
        let known = self.of_new(&who, &name, mode & !caller.umask(), false)?;
        let flags = flags | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let real = real_mode(known.mode, false);
        let file = fs::openat(&name.dir, &name.last, flags, real)?;
        self.looks.give_new(known, file.as_fd())?;
        Ok(file)
    }

    /// An `open` with `O_TMPFILE`.
    fn open_nameless(
        &self,
        caller: &Tracee,
        path: &Path,
        (flags, mode): (OFlags, u32),
        id: u64,
    ) -> Verdict {
        self.writable(path)?;
        let dir = self.open_thing(path)?;
        if !dir.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let who = self.who(caller);
        self.may(&who, &dir, WRITE | EXECUTE)?;
        let name = self.name_in_root(path.join("."), false)?;
        let known = Known {
            mode: mode & !caller.umask(),
            ..self.of_new(&who, &name, mode, false)?
        };
        let real = real_mode(known.mode, false);
        let again = flags.difference(OFlags::NOFOLLOW) | OFlags::CLOEXEC;
        let file = fs::open(format!("/proc/self/fd/{}", dir.fd.as_raw_fd()), again, real)?;
        self.looks.give_new(known, file.as_fd())?;
        self.hand_over(&file, flags, id)
    }

    /// An `open` with `O_PATH`. Such descriptors cannot be handed over, so the thread opens it itself, in a directory that it is given.
    fn open_to_look(&self, caller: &Tracee, path: &Path, flags: OFlags, id: u64) -> Verdict {
        let thing = self.open_thing(path)?;
        if flags.contains(OFlags::DIRECTORY) && !thing.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let name = self.name_in_root(path.to_owned(), false)?;
        let listener = self.keeper.listener.as_fd();
        let dir = give(listener, id, &name.dir)?;
        let mut bytes = name.last.as_bytes().to_vec();
        bytes.push(0);
        // Links have been followed.
        let flags = u64::from((flags | OFlags::NOFOLLOW).bits());
        let session = Session::begin(listener, (caller, id), self.pass);
        in_session(session, |session| {
            let dir_number = u64::from(dir.cast_unsigned());
            let result = session.with_memory(&bytes, |session, address| {
                session.call(number::OPENAT, [dir_number, address, flags, 0, 0])
            })?;
            session.call(number::CLOSE, [dir_number, 0, 0, 0, 0])?;
            Ok(result)
        })
    }

    /// Changes the working directory: the thread does it itself, with a descriptor that it is given.
    pub(super) fn chdir(&self, caller: &Tracee, id: u64) -> Verdict {
        let path = caller.path(0)?;
        let file = match self.find(caller, (libc::AT_FDCWD, &path), Last::Follow)? {
            Found::File { path, seen, .. } => {
                let thing = self.seen_thing(&path, seen)?;
                if !thing.is_dir() {
                    return Err(Errno::NOTDIR);
                }
                self.may(&self.who(caller), &thing, EXECUTE)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let name = format!("/proc/self/fd/{}", thing.fd.as_raw_fd());
                fs::open(name, flags, Mode::empty())?
            }
            Found::Shown(place) => {
                let flags = OFlags::DIRECTORY.bits().into();
                self.keeper
                    .open_place(caller, &place, Wish::new(flags, 0))?
            }
        };
        let change = |session: &Session, dir| session.call(number::FCHDIR, [dir, 0, 0, 0, 0]);
        match self.with_given(caller, id, &file, change) {
            Err(Errno::MFILE) => {}
            other => return other,
        }
        // It has no descriptor left. Ours has a name that leads there whatever becomes of the directory's own.
        let name = format!("/proc/{}/fd/{}\0", std::process::id(), file.as_raw_fd());
        let session = Session::begin(self.keeper.listener.as_fd(), (caller, id), self.pass);
        in_session(session, |session| {
            session.with_memory(name.as_bytes(), |session, address| {
                let result = session.call(number::CHDIR, [address, 0, 0, 0, 0])?;
                // That of a builder with capabilities cannot be reached.
                let refused = result == -i64::from(libc::EACCES);
                Ok(if refused {
                    -i64::from(libc::EMFILE)
                } else {
                    result
                })
            })
        })
    }

    /// Has a thread do something with a descriptor that it is given for that.
    pub(super) fn with_given(
        &self,
        caller: &Tracee,
        id: u64,
        file: &OwnedFd,
        work: impl FnOnce(&Session, u64) -> Result<i64, Errno>,
    ) -> Verdict {
        let listener = self.keeper.listener.as_fd();
        let number = sys::give_fd(listener, id, file.as_fd())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
        let number = u64::from(number.cast_unsigned());
        let session = Session::begin(listener, (caller, id), self.pass);
        in_session(session, |session| {
            let result = work(session, number)?;
            session.call(number::CLOSE, [number, 0, 0, 0, 0])?;
            Ok(result)
        })
    }
}

/// Gives the thread that waits for the answer to `id` a directory; its number there. `dir` may be open only to look at.
pub(super) fn give(
    listener: std::os::fd::BorrowedFd<'_>,
    id: u64,
    dir: &OwnedFd,
) -> Result<i32, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = fs::openat(dir, ".", flags, Mode::empty())?;
    sys::give_fd(listener, id, open.as_fd())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
}

/// Has a thread make calls, and ends its own with the result.
pub(super) fn in_session(
    session: Result<Session, Errno>,
    work: impl FnOnce(&Session) -> Result<i64, Errno>,
) -> Verdict {
    let session = match session {
        Ok(session) => session,
        // It was killed.
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // What fails from here on does so because the thread is gone.
    let _gone = match work(&session) {
        Ok(result) => session.end(result),
        Err(error) => session.end(-i64::from(error.raw_os_error())),
    };
    Ok(None)
}
