//! Calls that make names, move them and take them away.

use std::os::fd::{AsFd as _, AsRawFd as _};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, RenameFlags},
    io::Errno,
};

use super::{
    super::{
        keeper::view::{Last, Place},
        supervisor::{identity::Identity, tracee::Tracee},
    },
    owners::{Known, absolute, carries, real_mode},
    paths::{Found, Name},
    serve::{At, Emulator},
};

impl Emulator {
    /// Refuses a name that is taken, as the kernel does before it asks who may.
    fn free(name: &Name) -> Result<(), Errno> {
        if name.last == "." || fs::statat(&name.dir, &name.last, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        {
            return Err(Errno::EXIST);
        }
        Ok(())
    }

    /// Gives what was made at a name its look.
    fn look_made(&mut self, name: &Name, known: Known) -> Result<(), Errno> {
        let thing = self.open_thing(&name.path)?;
        if !carries(thing.stat.st_mode) {
            // Whatever was there before.
            self.looks.by_path.renew(&absolute(&name.path))?;
        }
        self.looks
            .set(thing.fd.as_fd(), &thing.stat, &name.path, known)
    }

    pub(super) fn mkdir(&mut self, caller: &Tracee, at: At, mode: u32) -> Result<(), Errno> {
        let name = self.name(caller, at)?;
        Self::free(&name)?;
        let who = self.who(caller);
        self.may_change(&who, &name)?;
        let mode = mode & 0o1777 & !caller.umask();
        let known = self.of_new(&who, &name, mode, true)?;
        fs::mkdirat(&name.dir, &name.last, real_mode(known.mode, true))?;
        self.look_made(&name, known)
    }

    pub(super) fn mknod(
        &mut self,
        caller: &Tracee,
        at: At,
        mode_argument: usize,
    ) -> Result<(), Errno> {
        let mode = caller.number(mode_argument);
        let name = self.name(caller, at)?;
        if name.dir_only {
            return Err(Errno::NOENT);
        }
        Self::free(&name)?;
        let who = self.who(caller);
        self.may_change(&who, &name)?;
        let kind = match FileType::from_raw_mode(mode) {
            // Nothing said is a regular file.
            FileType::Unknown if mode & libc::S_IFMT == 0 => FileType::RegularFile,
            FileType::Directory | FileType::Symlink | FileType::Unknown => {
                return Err(Errno::INVAL);
            }
            kind => kind,
        };
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if is_device && !who.is_root() {
            return Err(Errno::PERM);
        }
        let mut known = self.of_new(&who, &name, mode & 0o7777 & !caller.umask(), false)?;
        // A device becomes an empty file with a note of what it stands for.
        let made = if is_device {
            let number = caller.word(mode_argument + 1);
            known.device = Some((mode & libc::S_IFMT, fs::major(number), fs::minor(number)));
            FileType::RegularFile
        } else {
            kind
        };
        fs::mknodat(&name.dir, &name.last, made, real_mode(known.mode, false), 0)?;
        self.look_made(&name, known)
    }

    pub(super) fn symlink(&mut self, caller: &Tracee, at: At) -> Result<(), Errno> {
        let target = caller.path(0)?;
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let name = self.name(caller, at)?;
        if name.dir_only {
            return Err(Errno::NOENT);
        }
        Self::free(&name)?;
        let who = self.who(caller);
        self.may_change(&who, &name)?;
        let known = self.of_new(&who, &name, 0o777, false)?;
        fs::symlinkat(&target, &name.dir, &name.last)?;
        self.look_made(&name, known)
    }

    pub(super) fn unlink(&mut self, caller: &Tracee, at: At, is_dir: bool) -> Result<(), Errno> {
        let path = caller.path(at.1)?;
        let bytes = path.as_encoded_bytes();
        if is_dir {
            // Names of directories that are somewhere else, too.
            if bytes == b"." || bytes.ends_with(b"/.") {
                return Err(Errno::INVAL);
            }
            if bytes == b".." || bytes.ends_with(b"/..") {
                return Err(Errno::NOTEMPTY);
            }
        }
        let name = self.name(caller, at).map_err(|error| match error {
            Errno::EXIST => Errno::PERM,
            other => other,
        })?;
        if name.last == "." {
            return Err(if is_dir { Errno::BUSY } else { Errno::ISDIR });
        }
        let thing = self.open_thing(&name.path)?;
        match (thing.is_dir(), is_dir) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            (false, false) if name.dir_only => return Err(Errno::NOTDIR),
            _ => {}
        }
        self.may_replace(&self.who(caller), &name)?;
        if self.keeper.is_place(&name.path) {
            return Err(Errno::BUSY);
        }
        let flags = if is_dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        fs::unlinkat(&name.dir, &name.last, flags)
    }

    pub(super) fn rename(
        &mut self,
        caller: &Tracee,
        from: At,
        to: At,
        flags: u32,
    ) -> Result<(), Errno> {
        let busy = |error| match error {
            // To or from what is shown: another file system.
            Errno::EXIST | Errno::ROFS => Errno::XDEV,
            other => other,
        };
        let from = self.name(caller, from).map_err(busy)?;
        let to = self.name(caller, to).map_err(busy)?;
        if from.last == "." || to.last == "." {
            return Err(Errno::BUSY);
        }
        let old = self.open_thing(&from.path)?;
        if (from.dir_only || to.dir_only) && !old.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let who = self.who(caller);
        self.may_replace(&who, &from)?;
        self.may_replace(&who, &to)?;
        self.same_place(&from, &to)?;
        if self.keeper.is_place(&from.path) || self.keeper.is_place(&to.path) {
            return Err(Errno::BUSY);
        }
        let flags = RenameFlags::from_bits_retain(flags);
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        fs::renameat_with(&from.dir, &from.last, &to.dir, &to.last, flags)?;
        if self.looks.by_path.all_by_inode() {
            return Ok(());
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let (old, new) = (absolute(&from.path), absolute(&to.path));
        self.looks.by_path.moved(&old, &new, exchange)
    }

    /// Refuses what would move a name from one mount to another.
    fn same_place(&self, from: &Name, to: &Name) -> Result<(), Errno> {
        let above = |name: &Name| name.path.parent().map(std::path::Path::to_owned);
        let mount = |path: Option<std::path::PathBuf>| {
            path.and_then(|path| self.keeper.mount_of(&path).map(std::path::Path::to_owned))
        };
        if mount(above(from)) == mount(above(to)) {
            Ok(())
        } else {
            Err(Errno::XDEV)
        }
    }

    pub(super) fn link(
        &mut self,
        caller: &Tracee,
        from: At,
        to: At,
        flags: i32,
    ) -> Result<(), Errno> {
        let to = self.name(caller, to)?;
        if to.dir_only {
            return Err(Errno::NOENT);
        }
        let who = self.who(caller);
        let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
        let path = caller.path(from.1)?;
        let nameless = flags & libc::AT_EMPTY_PATH != 0 && path.is_empty();
        let old = if nameless {
            None
        } else {
            let last = if follow { Last::Follow } else { Last::Keep };
            match self.find(caller, (from.0, &path), last)? {
                Found::File { path, .. } => Some(self.name_in_root(path, false)?),
                // A file that was made without a name, by the link to its descriptor.
                Found::Shown(Place::Proc(_)) => None,
                Found::Shown(_) => return Err(Errno::XDEV),
            }
        };
        let Some(old) = old else {
            let thing = self.thing(caller, (from.0, (!nameless).then_some(from.1), follow))?;
            return self.name_the_nameless(&who, &thing.fd, &to);
        };
        if self.open_thing(&old.path)?.is_dir() {
            return Err(Errno::PERM);
        }
        Self::free(&to)?;
        self.may_change(&who, &to)?;
        self.same_place(&old, &to)?;
        fs::linkat(&old.dir, &old.last, &to.dir, &to.last, AtFlags::empty())?;
        let (old, new) = (absolute(&old.path), absolute(&to.path));
        if self.looks.by_path.all_by_inode() {
            return Ok(());
        }
        self.looks.by_path.linked(&old, &new)
    }

    fn name_the_nameless(
        &self,
        who: &Identity,
        fd: &std::os::fd::OwnedFd,
        to: &Name,
    ) -> Result<(), Errno> {
        Self::free(to)?;
        self.may_change(who, to)?;
        let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
        fs::linkat(CWD, &*source, &to.dir, &to.last, AtFlags::SYMLINK_FOLLOW)
    }
}
