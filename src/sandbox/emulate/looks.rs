//! Questions about files, answered into the caller's memory.

use std::{
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::Path,
};

use rustix::{
    fs::{self, Access, AtFlags, CWD, Stat},
    io::Errno,
};

use super::{
    super::{
        keeper::{
            Verdict,
            answers::give_link,
            view::{Last, Place},
        },
        supervisor::{
            sys::{self, Answer, Changed, RawStat, RawStatx},
            tracee::Tracee,
        },
    },
    owners::Known,
    paths::Found,
    serve::{At, Emulator, Object, object_of},
};

impl Emulator {
    fn changed(&self, known: Known, stat: &Stat, path: Option<&Path>) -> Changed {
        Changed {
            uid: known.uid,
            gid: known.gid,
            mode: Some(known.mode),
            device: known.device.filter(|_| stat.st_size == 0),
            file_system: path.and_then(|path| self.keeper.file_system(path)),
        }
    }

    /// `fstat`, of which programs make one for each file that they read: nothing is opened for it, since it changes nothing.
    pub(super) fn fstat(&self, caller: &Tracee) -> Verdict {
        let descriptor = caller.signed(0);
        let link = format!("{}/fd/{descriptor}", caller.thread());
        let (Ok(stat), Ok(host)) = (fs::stat(&*link), caller.location(descriptor)) else {
            // Whose it is has to be looked at more closely.
            return self.stat(caller, (descriptor, None, true), 1);
        };
        let path = self.keeper.view.inside(&host);
        let known = self.looks.of_named(&link, &stat, path);
        let mut raw = RawStat::new(&stat);
        raw.change(self.changed(known, &stat, path));
        caller.write(caller.word(1), &raw.0)?;
        Ok(Some(Answer::Value(0)))
    }

    /// The `stat` calls that fill a `struct stat` at the address in argument `buffer`.
    pub(super) fn stat(&self, caller: &Tracee, object: Object, buffer: usize) -> Verdict {
        let thing = self.thing(caller, object)?;
        let mut raw = RawStat::new(&thing.stat);
        raw.change(self.changed(self.known(&thing), &thing.stat, thing.path.as_deref()));
        caller.write(caller.word(buffer), &raw.0)?;
        Ok(Some(Answer::Value(0)))
    }

    pub(super) fn statx(&self, caller: &Tracee) -> Verdict {
        /// `AT_STATX_SYNC_TYPE`: at most one of its bits.
        const SYNC: i32 = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
        /// `STATX__RESERVED`
        const RESERVED: u32 = 0x8000_0000;
        let (flags, mask) = (caller.signed(2), caller.number(3));
        let object = object_of(caller, 2, SYNC | libc::AT_NO_AUTOMOUNT)?;
        if flags & SYNC == SYNC || mask & RESERVED != 0 {
            return Err(Errno::INVAL);
        }
        let thing = self.thing(caller, object)?;
        let mut raw = RawStatx::of(thing.fd.as_fd(), flags, mask).map_err(|_gone| Errno::NOENT)?;
        raw.change(self.changed(self.known(&thing), &thing.stat, thing.path.as_deref()));
        caller.write(caller.word(4), &raw.0)?;
        Ok(Some(Answer::Value(0)))
    }

    pub(super) fn statfs(&self, caller: &Tracee, object: Object) -> Verdict {
        let thing = self.thing(caller, object)?;
        let raw = sys::raw_statfs(thing.fd.as_fd()).map_err(|_gone| Errno::NOENT)?;
        let memory = thing.path.as_deref();
        let raw = match memory.and_then(|path| self.keeper.memory_at(path)) {
            Some(size) => sys::in_memory(raw, size),
            None => raw,
        };
        caller.write(caller.word(1), &raw)?;
        Ok(Some(Answer::Value(0)))
    }

    /// `access` goes by the real ids unless `effective`.
    pub(super) fn access(
        &self,
        caller: &Tracee,
        object: Object,
        wanted: u32,
        effective: bool,
    ) -> Verdict {
        if wanted & !7 != 0 {
            return Err(Errno::INVAL);
        }
        let thing = self.thing(caller, object)?;
        let Some(path) = &thing.path else {
            let wanted = Access::from_bits_retain(wanted);
            let name = format!("/proc/self/fd/{}", thing.fd.as_raw_fd());
            fs::accessat(CWD, &*name, wanted, AtFlags::empty())?;
            return Ok(Some(Answer::Value(0)));
        };
        if wanted & super::paths::WRITE != 0 {
            self.writable(path)?;
        }
        let mut who = self.who(caller);
        if !effective {
            (who.users[1], who.groups[1]) = (who.users[0], who.groups[0]);
        }
        if wanted != 0 && !thing.is_link() {
            self.may(&who, &thing, wanted)?;
        }
        Ok(Some(Answer::Value(0)))
    }

    pub(super) fn readlink(&self, caller: &Tracee, (dir, path): At, buffer: usize) -> Verdict {
        let path = caller.path(path)?;
        if path.is_empty() && dir != libc::AT_FDCWD {
            // The link that the descriptor is open on.
            let thing = self.held(caller, dir)?;
            if !thing.is_link() {
                return Err(Errno::NOENT);
            }
            let target = fs::readlinkat(&thing.fd, "", Vec::new())?;
            let target = std::ffi::OsString::from_vec(target.into_bytes());
            return give_link(caller, &target, buffer);
        }
        let place = match self.find(caller, (dir, &path), Last::Keep)? {
            Found::File {
                path,
                dir_only,
                seen,
            } => {
                if path.as_os_str().is_empty() {
                    return Err(Errno::INVAL);
                }
                let thing = self.seen_thing(&path, seen)?;
                if dir_only && !thing.is_dir() {
                    return Err(Errno::NOTDIR);
                }
                if !thing.is_link() {
                    return Err(Errno::INVAL);
                }
                let target = fs::readlinkat(&thing.fd, "", Vec::new())?;
                let target = std::ffi::OsString::from_vec(target.into_bytes());
                return give_link(caller, &target, buffer);
            }
            Found::Shown(place) => place,
        };
        if matches!(&place, Place::Root(path) if path.as_os_str().is_empty()) {
            return Err(Errno::INVAL);
        }
        give_link(caller, &self.keeper.target(caller, &place)?, buffer)
    }

    pub(super) fn getcwd(&self, caller: &Tracee) -> Verdict {
        let host = caller.location(libc::AT_FDCWD)?;
        let inside = self.keeper.view.inside(&host).ok_or(Errno::NOENT)?;
        let mut bytes = b"/".to_vec();
        bytes.extend(inside.as_os_str().as_bytes());
        if bytes.ends_with(b" (deleted)") && !self.is_there(inside) {
            return Err(Errno::NOENT);
        }
        bytes.push(0);
        if usize::try_from(caller.word(1)).is_ok_and(|room| room < bytes.len()) {
            return Err(Errno::RANGE);
        }
        caller.write(caller.word(0), &bytes)?;
        Ok(Some(Answer::Value(i64::try_from(bytes.len()).unwrap_or(0))))
    }

    fn is_there(&self, path: &std::path::Path) -> bool {
        self.open_thing(path).is_ok()
    }
}
