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
    paths::{Found, Name, READ, Thing, WRITE},
    serve::{At, Emulator, only},
};

impl Emulator {
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
        let who = self.who(caller);
        self.may_make(&who, &name)?;
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
        let who = self.who(caller);
        self.may_make(&who, &name)?;
        let kind = match FileType::from_raw_mode(mode) {
            // Nothing said is a regular file.
            FileType::Unknown if mode & libc::S_IFMT == 0 => FileType::RegularFile,
            FileType::Directory => return Err(Errno::PERM),
            FileType::Symlink | FileType::Unknown => return Err(Errno::INVAL),
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
        let who = self.who(caller);
        self.may_make(&who, &name)?;
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
        let name = match self.name_or_place(caller, at)? {
            Ok(name) => name,
            Err(Place::Sys(_)) => return Err(Errno::ROFS),
            Err(Place::Proc(path)) if is_dir && path.as_os_str().is_empty() => {
                return Err(Errno::BUSY);
            }
            Err(place) => {
                return Err(self
                    .keeper
                    .look(caller, &place, false)
                    .err()
                    .unwrap_or(Errno::PERM));
            }
        };
        if name.last == "." {
            return Err(if is_dir { Errno::BUSY } else { Errno::ISDIR });
        }
        let mut name = name;
        let thing = self.seen_thing(&name.path, name.seen.take())?;
        match (thing.is_dir(), is_dir) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            (false, false) if name.dir_only => return Err(Errno::NOTDIR),
            _ => {}
        }
        if self.keeper.is_place(&name.path) {
            return Err(Errno::BUSY);
        }
        self.may_replace(&self.who(caller), &name)?;
        let flags = if is_dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        self.looks.forget(&thing.stat);
        fs::unlinkat(&name.dir, &name.last, flags)
    }

    pub(super) fn rename(
        &mut self,
        caller: &Tracee,
        from: At,
        to: At,
        flags: u32,
    ) -> Result<(), Errno> {
        // To or from what is shown: another file system.
        let name = |at| {
            self.name_or_place(caller, at)?
                .map_err(|_shown| Errno::XDEV)
        };
        let (from, to) = (name(from)?, name(to)?);
        if from.last == "." || to.last == "." {
            return Err(Errno::BUSY);
        }
        let mut from = from;
        let old = self.seen_thing(&from.path, from.seen.take())?;
        if (from.dir_only || to.dir_only) && !old.is_dir() {
            return Err(Errno::NOTDIR);
        }
        // Before anything else: `mv` then copies, also from where nothing can be removed.
        self.same_place(&from, &to)?;
        if self.keeper.is_place(&from.path) || self.keeper.is_place(&to.path) {
            return Err(Errno::BUSY);
        }
        let who = self.who(caller);
        self.may_replace(&who, &from)?;
        self.may_replace(&who, &to)?;
        let flags = RenameFlags::from_bits_retain(flags);
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        if let Some(Ok(replaced)) = &to.seen {
            self.looks.forget(&fs::fstat(replaced)?);
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
        only(flags, libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH)?;
        let to = self.name(caller, to)?;
        if to.dir_only && to.last != "." {
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
                Found::File { path, dir_only, .. } => Some(self.name_in_root(path, dir_only)?),
                // A file that was made without a name, by the link to its descriptor.
                Found::Shown(Place::Proc(_)) => None,
                Found::Shown(_) => return Err(Errno::XDEV),
            }
        };
        let Some(old) = old else {
            let thing = self.thing(caller, (from.0, (!nameless).then_some(from.1), follow))?;
            return self.name_the_nameless(&who, &thing.fd, &to);
        };
        let thing = self.open_thing(&old.path)?;
        if old.dir_only && !thing.is_dir() {
            return Err(Errno::NOTDIR);
        }
        self.may_make(&who, &to)?;
        if thing.is_dir() {
            return Err(Errno::PERM);
        }
        self.may_link(&who, &thing)?;
        self.same_place(&old, &to)?;
        fs::linkat(&old.dir, &old.last, &to.dir, &to.last, AtFlags::empty())?;
        let (old, new) = (absolute(&old.path), absolute(&to.path));
        if self.looks.by_path.all_by_inode() {
            return Ok(());
        }
        self.looks.by_path.linked(&old, &new)
    }

    /// Who is not root gives names only to files that are his, or that he may read and write: `protected_hardlinks`, which all systems
    /// with containers have.
    fn may_link(&self, who: &Identity, thing: &Thing) -> Result<(), Errno> {
        let known = self.known(thing);
        if who.is_root() || known.uid == who.user() {
            return Ok(());
        }
        let set_group = libc::S_ISGID | libc::S_IXGRP;
        let is_special = known.mode & libc::S_ISUID != 0 || known.mode & set_group == set_group;
        if is_special || !FileType::from_raw_mode(thing.stat.st_mode).is_file() {
            return Err(Errno::PERM);
        }
        self.may(who, thing, READ | WRITE)
            .map_err(|_closed| Errno::PERM)
    }

    fn name_the_nameless(
        &self,
        who: &Identity,
        fd: &std::os::fd::OwnedFd,
        to: &Name,
    ) -> Result<(), Errno> {
        self.may_make(who, to)?;
        let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
        fs::linkat(CWD, &*source, &to.dir, &to.last, AtFlags::SYMLINK_FOLLOW)
    }
}
