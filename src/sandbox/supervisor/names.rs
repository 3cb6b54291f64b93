//! Calls that give names to what has its record by name: links, pipes and sockets.
//!
//! A record of theirs is about a path, so it has to move with it, and must not be taken for that of something made there later.

use rustix::{
    fs::{self, AtFlags, RenameFlags},
    io::Errno,
};

use super::{Supervisor, Verdict, sys::Answer, tracee::Tracee};

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
