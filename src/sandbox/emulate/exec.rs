//! Starting programs. The kernel would look for a program, for the interpreter of a script and for that of a dynamic program in the
//! root directory of the container. So a script's interpreter is found here, and what is run is a copy of the program that asks for its
//! own interpreter by its path on the host (`elf`), by the name that it was called by.
//!
//! A thread is given the directory of the copy and starts it by a name that lies at the end of its own path: nothing is written into
//! its memory, which may be that of its parent (`vfork`). Other arguments, which scripts need, are put in place when the new program has
//! a stack of its own.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{ffi::OsStrExt as _, fs::FileExt as _},
    },
    path::{Path, PathBuf},
    sync::PoisonError,
};

use rustix::{
    fs::{self, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    super::{
        keeper::{Verdict, view::Last},
        supervisor::{sys, tracee::Tracee},
    },
    elf::{self, Interpreter, Kind},
    paths::{EXECUTE, Found, Thing},
    serve::{Emulator, Object},
    sys::number,
    trace::{Session, Started},
};

/// Scripts may be run by scripts so many times.
const MAX_SCRIPTS: usize = 5;

/// The name of a copy in its directory; it has further ones.
const COPY: &str = ".program";

/// What tells one program from another, and from itself after a change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    inode: (u64, u64),
    size: i64,
    changed: (i64, u64),
    interpreter: Option<PathBuf>,
}

/// Copies of programs, in a directory outside the root.
#[derive(Debug)]
pub(super) struct Programs {
    dir: PathBuf,
    count: usize,
    known: HashMap<Key, Program>,
}

/// A copy of a program.
#[derive(Debug, Clone)]
struct Program {
    /// The directory that it is alone in, by several names.
    dir: PathBuf,
    inode: (u64, u64),
}

impl Programs {
    /// Copies go to the empty directory `dir`.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            known: HashMap::new(),
            count: 0,
        }
    }

    /// A copy of `thing`, which has `name` in its directory.
    fn copy(
        &mut self,
        thing: &Thing,
        (kind, interpreter): (Option<Interpreter>, Option<PathBuf>),
        name: &OsStr,
    ) -> Result<Program, Errno> {
        let Stat {
            st_dev,
            st_ino,
            st_size,
            st_ctime,
            st_ctime_nsec,
            ..
        } = thing.stat;
        let key = Key {
            inode: (st_dev, st_ino),
            size: st_size,
            changed: (st_ctime, st_ctime_nsec),
            interpreter,
        };
        let program = if let Some(program) = self.known.get(&key) {
            program.clone()
        } else {
            let dir = self.dir.join(self.count.to_string());
            // Also what fails half-way has taken its name.
            self.count += 1;
            let to = key.interpreter.as_deref();
            let inode = write_copy(thing, &dir, kind.zip(to)).map_err(errno)?;
            let program = Program { dir, inode };
            self.known.insert(key, program.clone());
            program
        };
        let dir = &program.dir;
        if name != COPY && !name.is_empty() {
            match std::fs::hard_link(dir.join(COPY), dir.join(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(program)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Makes the directory `dir` with a copy of a program, which asks for another interpreter if one is given; gives the copy's device and
/// inode.
fn write_copy(
    thing: &Thing,
    dir: &Path,
    interpreter: Option<(Interpreter, &Path)>,
) -> io::Result<(u64, u64)> {
    let mut from = File::open(format!("/proc/self/fd/{}", thing.fd.as_raw_fd()))?;
    fs::mkdir(dir, Mode::RWXU)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o755);
    let mut to = File::from(fs::open(dir.join(COPY), flags, mode)?);
    if fs::ioctl_ficlone(&to, &from).is_err() {
        io::copy(&mut from, &mut to)?;
    }
    if let Some((found, path)) = interpreter {
        let size = to.metadata()?.len();
        for (at, bytes) in found.redirect(size, path.as_os_str().as_bytes()) {
            to.write_all_at(&bytes, at)?;
        }
    }
    let stat = fs::fstat(&to)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A program that can be started.
struct Runnable {
    thing: Thing,
    interpreter: Option<Interpreter>,
    /// What comes in front of the arguments, instead of the first one.
    front: Vec<OsString>,
}

impl Emulator {
    /// `execve` and `execveat`; arguments and environment are in the arguments `vectors`.
    pub(super) fn exec(
        &mut self,
        caller: &Tracee,
        object: Object,
        vectors: [usize; 2],
        id: u64,
    ) -> Verdict {
        let (dir, argument, _) = object;
        let called = argument.map(|argument| caller.path(argument)).transpose()?;
        let called = called.unwrap_or_default();
        let thing = self.thing(caller, object)?;
        let runnable = self.runnable(caller, thing, &called_by(dir, &called))?;
        let by_descriptor = dir != libc::AT_FDCWD && !called.as_bytes().starts_with(b"/");
        if by_descriptor && !runnable.front.is_empty() && caller.closes_on_exec(dir) {
            // The interpreter would not find the script.
            return Err(Errno::NOENT);
        }
        let start = called.as_bytes().iter().rposition(|b| *b == b'/');
        let start = start.map_or(0, |at| at + 1);
        let name = OsStr::from_bytes(&called.as_bytes()[start..]);
        let interpreter = match &runnable.interpreter {
            Some(found) => Some(self.interpreter(caller, &runnable.thing, *found)?),
            None => None,
        };
        let wanted = (runnable.interpreter, interpreter);
        let copy = self.copy(&runnable.thing, wanted, name)?;
        let (given, address, flags) = if let Some(argument) = argument {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let given = fs::open(&copy.dir, flags, Mode::empty())?;
            (given, caller.word(argument) + start as u64, 0)
        } else {
            // By a descriptor alone: so is the copy, by an empty path, which is not looked at where there is none.
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let given = fs::open(copy.dir.join(COPY), flags, Mode::empty())?;
            (given, caller.word(1), libc::AT_EMPTY_PATH.cast_unsigned())
        };
        let vectors = vectors.map(|index| caller.word(index));
        let given = sys::give_fd(self.keeper.listener.as_fd(), id, given.as_fd());
        match given.map_err(errno) {
            Ok(given) => {
                let given = u64::from(given.cast_unsigned());
                self.start(caller, id, &runnable, copy.inode, |session| {
                    let [argv, envp] = vectors;
                    let started = session.exec([given, address, argv, envp, flags.into()])?;
                    if started != Started::Yes {
                        session.call(number::CLOSE, [given, 0, 0, 0, 0])?;
                    }
                    Ok(started)
                })
            }
            // It has no descriptor left.
            Err(Errno::MFILE) => {
                let name = Some(name).filter(|name| !name.is_empty());
                let path = copy.dir.join(name.unwrap_or(OsStr::new(COPY)));
                let mut path = path.into_os_string().into_encoded_bytes();
                path.push(0);
                self.start(caller, id, &runnable, copy.inode, |session| {
                    session.exec_path(&path, vectors)
                })
            }
            Err(error) => Err(error),
        }
    }

    /// A copy of `thing`, which is known for that from now on.
    fn copy(
        &mut self,
        thing: &Thing,
        wanted: (Option<Interpreter>, Option<PathBuf>),
        name: &OsStr,
    ) -> Result<Program, Errno> {
        let copy = self.programs.copy(thing, wanted, name)?;
        if let Some(path) = &thing.path {
            let programs = &self.keeper.view.programs;
            let mut programs = programs.lock().unwrap_or_else(PoisonError::into_inner);
            programs.insert(copy.dir.clone(), path.clone());
        }
        Ok(copy)
    }

    /// Has a thread start the program with this inode.
    fn start(
        &mut self,
        caller: &Tracee,
        id: u64,
        runnable: &Runnable,
        inode: (u64, u64),
        start: impl FnOnce(&Session) -> Result<Started, Errno>,
    ) -> Verdict {
        let listener = self.keeper.listener.as_fd();
        let process = caller.process().ok_or(Errno::SRCH)?;
        let before = self.who(caller);
        let session = match Session::begin(listener, (caller, id), self.pass) {
            Ok(session) => session,
            // It was killed.
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        let _gone = match start(&session) {
            // The name is in the caller's memory, which another thread may have changed: no other program gets to run.
            Ok(Started::Yes) if program_of(process) != Some(inode) => session.kill(),
            Ok(Started::Yes) => {
                let mut identity = before.in_new_program();
                let known = self.known(&runnable.thing);
                if runnable.front.is_empty() && known.mode & libc::S_ISUID != 0 {
                    identity.users[1] = known.uid;
                }
                let set_group = libc::S_ISGID | libc::S_IXGRP;
                if runnable.front.is_empty() && known.mode & set_group == set_group {
                    identity.groups[1] = known.gid;
                }
                identity.users[2] = identity.users[1];
                identity.groups[2] = identity.groups[1];
                if identity != before
                    && let Ok(process) = u32::try_from(process)
                {
                    let _gone = self.identities.set(process, identity);
                }
                session.release(&runnable.front)
            }
            Ok(Started::No(result)) => session.end(result),
            Err(error) => Err(error),
        };
        Ok(None)
    }

    /// The program that a file is, or that runs it.
    fn runnable(&self, caller: &Tracee, thing: Thing, called: &OsStr) -> Result<Runnable, Errno> {
        let mut thing = thing;
        let mut front = Vec::new();
        let who = self.who(caller);
        for _ in 0..=MAX_SCRIPTS {
            if thing.is_link() {
                return Err(Errno::LOOP);
            }
            if !fs::FileType::from_raw_mode(thing.stat.st_mode).is_file() {
                return Err(Errno::ACCESS);
            }
            self.may(&who, &thing, EXECUTE)?;
            let mut head = vec![0; elf::HEAD];
            let file = File::open(format!("/proc/self/fd/{}", thing.fd.as_raw_fd()));
            let length = file
                .and_then(|file| file.read_at(&mut head, 0))
                .map_err(errno)?;
            head.truncate(length);
            match Kind::of(&head) {
                Kind::Unknown => return Err(Errno::NOEXEC),
                Kind::Static => {
                    return Ok(Runnable {
                        thing,
                        interpreter: None,
                        front,
                    });
                }
                Kind::Dynamic(found) => {
                    return Ok(Runnable {
                        thing,
                        interpreter: Some(found),
                        front,
                    });
                }
                Kind::Script {
                    interpreter,
                    argument,
                } => {
                    if front.is_empty() {
                        front.push(called.to_owned());
                    }
                    if let Some(argument) = argument {
                        front.insert(0, argument);
                    }
                    thing = self.thing_at(caller, &interpreter)?;
                    front.insert(0, interpreter);
                }
            }
        }
        Err(Errno::LOOP)
    }

    fn thing_at(&self, caller: &Tracee, path: &OsStr) -> Result<Thing, Errno> {
        match self.find(caller, (libc::AT_FDCWD, path), Last::Follow)? {
            Found::File { path, .. } => self.open_thing(&path),
            Found::Shown(_) => Err(Errno::ACCESS),
        }
    }

    /// The path of a copy of a dynamic program's interpreter. A name in the root would be looked up by the kernel, after the step may have
    /// put a link at it.
    fn interpreter(
        &mut self,
        caller: &Tracee,
        thing: &Thing,
        found: Interpreter,
    ) -> Result<PathBuf, Errno> {
        let file = File::open(format!("/proc/self/fd/{}", thing.fd.as_raw_fd())).map_err(errno)?;
        let mut name = vec![0; found.length];
        file.read_exact_at(&mut name, found.offset)
            .map_err(|_short| Errno::NOEXEC)?;
        if name.pop() != Some(0) {
            return Err(Errno::NOEXEC);
        }
        let loader = self.thing_at(caller, OsStr::from_bytes(&name))?;
        self.may(&self.who(caller), &loader, EXECUTE)?;
        let copy = self.copy(&loader, (None, None), OsStr::new(""))?;
        Ok(copy.dir.join(COPY))
    }
}

/// Device and inode of the program that a process runs.
fn program_of(process: i32) -> Option<(u64, u64)> {
    let stat = fs::stat(format!("{process}/exe")).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// The name of a script for its interpreter.
fn called_by(dir: i32, path: &OsStr) -> OsString {
    let bytes = path.as_bytes();
    if dir == libc::AT_FDCWD || bytes.starts_with(b"/") {
        return path.to_owned();
    }
    let mut name = OsString::from(format!("/dev/fd/{dir}"));
    if !bytes.is_empty() {
        name.push("/");
        name.push(path);
    }
    name
}
