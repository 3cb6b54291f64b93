//! Questions about a place that only the keeper can show, answered into the caller's memory.

use std::{
    ffi::OsString,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, Access, AtFlags, CWD},
    io::Errno,
};

use super::{
    super::supervisor::{
        sys::{self, Answer, RawStat, RawStatx},
        tracee::Tracee,
    },
    Keeper, Verdict,
    files::as_user,
    view::{Last, Place, Spot},
};

impl Keeper {
    pub(in crate::sandbox) fn stat(
        &self,
        caller: &Tracee,
        object: (i32, usize, Last),
        buffer: usize,
    ) -> Verdict {
        let Spot::Shown(place) = self.spot(caller, object)? else {
            return Ok(Some(Answer::Native));
        };
        let fd = self.look(caller, &place, object.2 == Last::Follow)?;
        let raw = RawStat::of(fd.as_fd()).map_err(|_gone| Errno::NOENT)?;
        caller.write(caller.word(buffer), &raw.0)?;
        Ok(Some(Answer::Value(0)))
    }

    pub(in crate::sandbox) fn statx(&self, caller: &Tracee) -> Verdict {
        let flags = caller.signed(2);
        let last = if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
            Last::Follow
        } else {
            Last::Keep
        };
        let Spot::Shown(place) = self.spot(caller, (caller.signed(0), 1, last))? else {
            return Ok(Some(Answer::Native));
        };
        let fd = self.look(caller, &place, last == Last::Follow)?;
        let raw =
            RawStatx::of(fd.as_fd(), flags, caller.number(3)).map_err(|_gone| Errno::NOENT)?;
        caller.write(caller.word(4), &raw.0)?;
        Ok(Some(Answer::Value(0)))
    }

    pub(in crate::sandbox) fn statfs(&self, caller: &Tracee) -> Verdict {
        let object = (libc::AT_FDCWD, 0, Last::Follow);
        let raw = match self.spot(caller, object)? {
            Spot::Native(Some(path)) => {
                let Some(size) = self.memory_at(&path) else {
                    return Ok(Some(Answer::Native));
                };
                let fd = self.look(caller, &Place::Root(path), true)?;
                sys::raw_statfs(fd.as_fd()).map(|raw| sys::in_memory(raw, size))
            }
            Spot::Native(None) => return Ok(Some(Answer::Native)),
            Spot::Shown(place) => {
                let fd = self.look(caller, &place, true)?;
                sys::raw_statfs(fd.as_fd())
            }
        };
        let raw = raw.map_err(|_gone| Errno::NOENT)?;
        caller.write(caller.word(1), &raw)?;
        Ok(Some(Answer::Value(0)))
    }

    pub(in crate::sandbox) fn access(
        &self,
        caller: &Tracee,
        object: (i32, usize, Last),
        wanted: u32,
    ) -> Verdict {
        let wanted = Access::from_bits_retain(wanted);
        let place = match self.spot(caller, object)? {
            Spot::Native(Some(path))
                if wanted.contains(Access::WRITE_OK) && self.is_readonly(&path) =>
            {
                return Err(Errno::ROFS);
            }
            Spot::Native(_) => return Ok(Some(Answer::Native)),
            Spot::Shown(place) => place,
        };
        let fd = self.look(caller, &place, object.2 == Last::Follow)?;
        if wanted.contains(Access::WRITE_OK) && matches!(place, Place::Sys(_)) {
            return Err(Errno::ROFS);
        }
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        // By the ids of the file system, which are the caller's for the moment.
        as_user(caller, || {
            fs::accessat(CWD, &*name, wanted, AtFlags::EACCESS)
        })?;
        Ok(Some(Answer::Value(0)))
    }

    pub(in crate::sandbox) fn readlink(
        &self,
        caller: &Tracee,
        (dir, path): (i32, usize),
        buffer: usize,
    ) -> Verdict {
        let place = match self.spot(caller, (dir, path, Last::Keep))? {
            Spot::Native(_) => return Ok(Some(Answer::Native)),
            Spot::Shown(place) => place,
        };
        give_link(caller, &self.target(caller, &place)?, buffer)
    }

    /// Where the link at a place leads.
    pub(in crate::sandbox) fn target(
        &self,
        caller: &Tracee,
        place: &Place,
    ) -> Result<OsString, Errno> {
        Ok(match place {
            Place::Root(path) => {
                let target = fs::readlinkat(&self.view.root, path, Vec::new())?;
                OsString::from_vec(target.into_bytes())
            }
            Place::Proc(path) if path == Path::new("self") => {
                caller.process().ok_or(Errno::NOENT)?.to_string().into()
            }
            Place::Proc(path) if path == Path::new("thread-self") => {
                let process = caller.process().ok_or(Errno::NOENT)?;
                format!("{process}/task/{}", caller.thread()).into()
            }
            Place::Proc(path) => {
                self.look(caller, place, false)?;
                let target = caller.as_itself(|| fs::readlink(path, Vec::new()))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                self.seen(&target).into()
            }
            Place::Sys(path) => {
                self.look(caller, place, false)?;
                let target = fs::readlink(Path::new("/sys").join(path), Vec::new())?;
                OsString::from_vec(target.into_bytes())
            }
        })
    }
}

/// Answers a `readlink` whose buffer is in argument `buffer`, its size in the next one.
pub(in crate::sandbox) fn give_link(
    caller: &Tracee,
    target: &std::ffi::OsStr,
    buffer: usize,
) -> Verdict {
    let room = usize::try_from(caller.signed(buffer + 1)).map_err(|_negative| Errno::INVAL)?;
    if room == 0 {
        return Err(Errno::INVAL);
    }
    let bytes = &target.as_bytes()[..target.len().min(room)];
    caller.write(caller.word(buffer), bytes)?;
    Ok(Some(Answer::Value(i64::try_from(bytes.len()).unwrap_or(0))))
}
