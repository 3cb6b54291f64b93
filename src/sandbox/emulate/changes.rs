//! Calls that change what a file looks like: mode, owner, times, length.

use std::os::fd::{AsFd as _, AsRawFd as _};

use rustix::{
    fs::{self, AtFlags, CWD, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use super::{
    super::{
        keeper::Verdict,
        supervisor::{
            identity::{Identity, KEEP},
            record::{self, CAPABILITY},
            sys::Answer,
            tracee::Tracee,
        },
    },
    calls::Call,
    owners::Known,
    paths::{Thing, WRITE},
    serve::{Emulator, Object, object_of},
    sys::{self, number},
};

const NOW: i64 = libc::UTIME_NOW;

impl Emulator {
    /// What a thing that is to be changed looks like, and where it lies. `None` is what is not the step's, such as a pipe or a device of the
    /// host: root is told that it has been done.
    fn to_change<'a>(
        &self,
        who: &Identity,
        thing: &'a Thing,
    ) -> Result<Option<(Known, &'a std::path::Path)>, Errno> {
        match thing.path.as_deref() {
            Some(path) => {
                self.writable(path)?;
                Ok(Some((self.known(thing), path)))
            }
            None if who.is_root() => Ok(None),
            None => Err(Errno::PERM),
        }
    }

    pub(super) fn chmod(
        &mut self,
        caller: &Tracee,
        object: Object,
        argument: usize,
    ) -> Result<(), Errno> {
        let thing = self.thing(caller, object)?;
        if thing.is_link() {
            return Err(Errno::OPNOTSUPP);
        }
        let who = self.who(caller);
        let Some((known, path)) = self.to_change(&who, &thing)? else {
            return Ok(());
        };
        if !who.is_root() && known.uid != who.user() {
            return Err(Errno::PERM);
        }
        let mut mode = caller.number(argument) & 0o7777;
        let is_member = who.group() == known.gid || who.supplementary.contains(&known.gid);
        if !who.is_root() && !is_member {
            mode &= !libc::S_ISGID;
        }
        let known = Known { mode, ..known };
        self.looks.set(thing.fd.as_fd(), &thing.stat, path, known)
    }

    /// `chown` and its kin; the new owner is in the arguments from `first` on.
    pub(super) fn chown(
        &mut self,
        caller: &Tracee,
        object: Object,
        first: usize,
    ) -> Result<(), Errno> {
        let thing = self.thing(caller, object)?;
        let who = self.who(caller);
        let Some((now, path)) = self.to_change(&who, &thing)? else {
            return Ok(());
        };
        let chosen = |argument, now| match caller.number(argument) {
            KEEP => now,
            id => id,
        };
        let mut known = Known {
            uid: chosen(first, now.uid),
            gid: chosen(first + 1, now.gid),
            ..now
        };
        if !may_give(&who, now, known) {
            return Err(Errno::PERM);
        }
        if !thing.is_dir() && !thing.is_link() {
            // What a program may do goes with its owner.
            known = without_set_ids(known);
            let _none = fs::removexattr(record::name(thing.fd.as_fd()), CAPABILITY);
        }
        self.looks.set(thing.fd.as_fd(), &thing.stat, path, known)
    }

    /// A program that is emptied loses its capabilities, and when somebody else than root does it, its set-ID bits. The kernel does so
    /// at each write, of which we hear nothing.
    pub(super) fn after_truncation(&self, caller: &Tracee, thing: &Thing) -> Result<(), Errno> {
        if thing.stat.st_mode & 0o111 == 0 {
            return Ok(());
        }
        let _none = fs::removexattr(record::name(thing.fd.as_fd()), CAPABILITY);
        let known = self.known(thing);
        let stripped = without_set_ids(known);
        if stripped == known || self.who(caller).is_root() {
            return Ok(());
        }
        self.looks.give(stripped, thing.fd.as_fd(), &thing.stat)
    }

    pub(super) fn dates(&mut self, call: Call, caller: &Tracee) -> Result<(), Errno> {
        let here = libc::AT_FDCWD;
        let dir = caller.signed(0);
        let (object, argument) = match call {
            Call::Utime | Call::Utimes => ((here, Some(0), true), 1),
            Call::Futimesat if caller.word(1) == 0 => ((dir, None, true), 2),
            Call::Futimesat => ((dir, Some(1), true), 2),
            _ => (object_of(caller, 3, 0)?, 2),
        };
        let thing = self.thing(caller, object)?;
        let times = times(call, caller, argument)?;
        if let Some(path) = &thing.path {
            self.writable(path)?;
        }
        let who = self.who(caller);
        if !who.is_root() && self.known(&thing).uid != who.user() {
            let is_now = |time: &Timespec| time.tv_nsec == NOW;
            if !is_now(&times.last_access) || !is_now(&times.last_modification) {
                return Err(Errno::PERM);
            }
            self.may(&who, &thing, WRITE)?;
        }
        let name = format!("/proc/self/fd/{}", thing.fd.as_raw_fd());
        fs::utimensat(CWD, &*name, &times, AtFlags::empty())
    }

    pub(super) fn truncate(&mut self, caller: &Tracee, id: u64) -> Verdict {
        let thing = self.thing(caller, (libc::AT_FDCWD, Some(0), true))?;
        if thing.is_dir() {
            return Err(Errno::ISDIR);
        }
        let path = thing.path.as_deref().ok_or(Errno::INVAL)?;
        self.writable(path)?;
        self.may(&self.who(caller), &thing, WRITE)?;
        let is_file = fs::FileType::from_raw_mode(thing.stat.st_mode).is_file();
        if !is_file || self.known(&thing).device.is_some() {
            return Err(Errno::INVAL);
        }
        let length = caller.word(1);
        if length.cast_signed() < 0 {
            return Err(Errno::INVAL);
        }
        let name = format!("/proc/self/fd/{}", thing.fd.as_raw_fd());
        let file = fs::open(name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        let is_larger = length > thing.stat.st_size.cast_unsigned();
        if is_larger && sys::size_limit(caller.thread()).is_some_and(|limit| length > limit) {
            // It is told by a signal, too, which the kernel sends when the thread does it itself.
            return self.with_given(caller, id, &file, |session, file| {
                session.call(number::FTRUNCATE, [file, length, 0, 0, 0])
            });
        }
        fs::ftruncate(file, length)?;
        self.after_truncation(caller, &thing)?;
        Ok(Some(Answer::Value(0)))
    }
}

/// The times that a call sets, at the address in an argument; none there are now.
fn times(call: Call, caller: &Tracee, argument: usize) -> Result<Timestamps, Errno> {
    let address = caller.word(argument);
    if address == 0 {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: NOW,
        };
        return Ok(Timestamps {
            last_access: now,
            last_modification: now,
        });
    }
    let words = |count: usize| -> Result<Vec<i64>, Errno> {
        let bytes = caller.read(address, 8 * count)?;
        let word = |word: &[u8]| i64::from_ne_bytes(std::array::from_fn(|i| word[i]));
        Ok(bytes.chunks_exact(8).map(word).collect())
    };
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let micros = |sec, micros: i64| {
        if (0..1_000_000).contains(&micros) {
            Ok(time(sec, micros * 1000))
        } else {
            Err(Errno::INVAL)
        }
    };
    let (last_access, last_modification) = match call {
        Call::Utime => {
            let words = words(2)?;
            (time(words[0], 0), time(words[1], 0))
        }
        Call::Utimes | Call::Futimesat => {
            let words = words(4)?;
            (micros(words[0], words[1])?, micros(words[2], words[3])?)
        }
        _ => {
            let words = words(4)?;
            (time(words[0], words[1]), time(words[2], words[3]))
        }
    };
    Ok(Timestamps {
        last_access,
        last_modification,
    })
}

/// What a program's look becomes when it changes hands or contents.
fn without_set_ids(mut known: Known) -> Known {
    known.mode &= !libc::S_ISUID;
    if known.mode & libc::S_IXGRP != 0 {
        known.mode &= !libc::S_ISGID;
    }
    known
}

/// Whether a thread may change an owner: root to anything, others their own files to a group of theirs.
fn may_give(who: &Identity, now: Known, wanted: Known) -> bool {
    let own_group = || {
        wanted.gid == now.gid
            || wanted.gid == who.group()
            || who.supplementary.contains(&wanted.gid)
    };
    who.is_root() || (now.uid == who.user() && wanted.uid == now.uid && own_group())
}
