//! Calls that give names to what has its record by name: links, pipes and sockets.
//!
//! A record of theirs is about a path, so it has to move with it, and must not be taken for that of something made there later.

use std::{
    ffi::OsStr,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
};

use rustix::{
    fs::{self, AtFlags, RenameFlags},
    io::Errno,
};

use super::{Supervisor, Verdict, sys::Answer, tracee::Tracee};

/// The longest address of a socket with a path, and how it begins.
const ADDRESS: usize = 110;
const UNIX: [u8; 2] = 1_u16.to_ne_bytes();

/// Descriptor and argument of a path.
type Path = (i32, usize);

impl Supervisor {
    /// `rename` and its kin.
    pub(super) fn rename(&mut self, tracee: &Tracee, from: Path, to: Path, flags: u32) -> Verdict {
        if self.records.all_by_inode() {
            return Ok(Answer::Native);
        }
        let place = |(dir, path): Path| Ok::<_, Errno>(tracee.place(dir, &tracee.path(path)?));
        let (Some(from), Some(to)) = (place(from)?, place(to)?) else {
            return Ok(Answer::Native);
        };
        let (Some(old), Some(new)) = (from.path(), to.path()) else {
            return Ok(Answer::Native);
        };
        let flags = RenameFlags::from_bits_retain(flags);
        fs::renameat_with(&from.dir, &from.name, &to.dir, &to.name, flags)?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        self.records.moved(&old, &new, exchange)?;
        Ok(Answer::Value(0))
    }

    /// `bind`, which may make a socket. The kernel makes it; the record is there before, and that of a socket that cannot be made
    /// is about nothing.
    pub(super) fn bind(&mut self, tracee: &Tracee) -> Verdict {
        let length =
            usize::try_from(tracee.number(2)).map_or(ADDRESS, |length| length.min(ADDRESS));
        let address = tracee.read(tracee.word(1), length)?;
        let path = match address.split_at_checked(2) {
            Some((family, path)) if family == UNIX => path.split(|b| *b == 0).next(),
            _ => None,
        };
        let path = OsStr::from_bytes(path.unwrap_or_default());
        let place = tracee.place(libc::AT_FDCWD, path);
        let Some(place) = place.filter(|place| !place.is_taken()) else {
            return Ok(Answer::Native);
        };
        match (self.maker(tracee, place.dir.as_fd()), place.path()) {
            (Some(record), Some(path)) => {
                let text = record.text(libc::S_IFSOCK | 0o777 & !tracee.umask());
                self.records.set_path(path, &text, record)?;
            }
            (None, Some(path)) => self.records.renew(&path)?,
            (_, None) => {}
        }
        Ok(Answer::Native)
    }

    /// `link` and its kin.
    pub(super) fn link(&mut self, tracee: &Tracee, from: Path, to: Path, flags: u32) -> Verdict {
        let follow = flags & libc::AT_SYMLINK_FOLLOW.cast_unsigned() != 0;
        if self.records.all_by_inode() || follow {
            return Ok(Answer::Native);
        }
        let place = |(dir, path): Path| Ok::<_, Errno>(tracee.place(dir, &tracee.path(path)?));
        let (Some(from), Some(to)) = (place(from)?, place(to)?) else {
            return Ok(Answer::Native);
        };
        let (Some(old), Some(new)) = (from.path(), to.path()) else {
            return Ok(Answer::Native);
        };
        fs::linkat(&from.dir, &from.name, &to.dir, &to.name, AtFlags::empty())?;
        self.records.linked(&old, &new)?;
        Ok(Answer::Value(0))
    }
}
