//! Calls that give files owners, make files, and look at files.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
};

use super::{
    super::seccomp::bpf::Architecture,
    Supervisor, Verdict,
    calls::{Call, Scope},
    identity::{Identity, KEEP},
    record::Record,
    sys::{self, Answer, Changed, RawStat, RawStatx},
    tracee::{Place, Tracee},
};

/// Descriptor, argument of the path, whether a link at the end is followed.
type Object = (i32, Option<usize>, bool);

impl Supervisor {
    /// Opens what a call is about.
    pub(super) fn object(
        tracee: &Tracee,
        (descriptor, path, follow): Object,
    ) -> Result<OwnedFd, Errno> {
        match path {
            Some(index) => tracee.open(descriptor, &tracee.path(index)?, follow),
            None => tracee.descriptor(descriptor),
        }
    }

    pub(super) fn owner(&self, fd: BorrowedFd<'_>, stat: &Stat) -> Record {
        self.records.get(fd, stat).unwrap_or(Record {
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: None,
        })
    }

    /// `chown` and its kin; the new owner is in the arguments from `first` on.
    pub(super) fn chown(&mut self, tracee: &Tracee, object: Object, first: usize) -> Verdict {
        let fd = Self::object(tracee, object)?;
        let stat = fs::fstat(&fd)?;
        let known = self.records.get(fd.as_fd(), &stat);
        let now = self.owner(fd.as_fd(), &stat);
        let (uid, gid) = (tracee.number(first), tracee.number(first + 1));
        if self.scope == Scope::Unmapped {
            let mapped = |id: u32, count: u64| id == KEEP || u64::from(id) < count;
            if mapped(uid, self.mapped[0]) && mapped(gid, self.mapped[1]) {
                // A record would count again as soon as the file is root's.
                if known.is_some() {
                    self.records.forget(fd.as_fd(), &stat);
                }
                return Ok(Answer::Native);
            }
        }
        let identity = self.identity_of(tracee);
        let wanted = Record {
            uid: if uid == KEEP { now.uid } else { uid },
            gid: if gid == KEEP { now.gid } else { gid },
            device: now.device,
        };
        if !may_give(&identity, now, wanted) {
            return Err(Errno::PERM);
        }
        // The real owner stays, but what else the call does is done: the file comes up into the upper directory,
        // set-user-ID bits go, the time changes.
        // What has a record is root's.
        let real = (Uid::ROOT, Gid::ROOT);
        fs::chownat(&fd, "", Some(real.0), Some(real.1), AtFlags::EMPTY_PATH)?;
        let plain = (wanted.uid, wanted.gid) == (0, 0);
        if known.is_some() || !plain {
            self.records.set(fd.as_fd(), &stat, wanted)?;
        }
        Ok(Answer::Value(0))
    }

    /// The `stat` calls that fill a `struct stat` at the address in argument `buffer`.
    pub(super) fn stat(
        &self,
        tracee: &Tracee,
        object: Object,
        buffer: usize,
        architecture: Architecture,
    ) -> Verdict {
        let Some((fd, changed)) = self.changed(tracee, object) else {
            return Ok(Answer::Native);
        };
        if architecture == Architecture::I386 {
            let stat = fs::fstat(&fd)?;
            tracee.write(tracee.word(buffer), &sys::stat_of_32_bits(&stat, changed))?;
        } else {
            let mut raw = RawStat::of(fd.as_fd()).map_err(|_gone| Errno::NOENT)?;
            raw.change(changed);
            tracee.write(tracee.word(buffer), &raw.0)?;
        }
        Ok(Answer::Value(0))
    }

    pub(super) fn statx(&self, tracee: &Tracee) -> Verdict {
        let Some((fd, changed)) = self.changed(tracee, super::object_of(tracee, 2)) else {
            return Ok(Answer::Native);
        };
        let mut raw = RawStatx::of(fd.as_fd(), tracee.signed(2), tracee.number(3))
            .map_err(|_gone| Errno::NOENT)?;
        raw.change(changed);
        tracee.write(tracee.word(4), &raw.0)?;
        Ok(Answer::Value(0))
    }

    /// The object of a call if the kernel would not tell the truth about it. Whatever goes wrong is left to the kernel,
    /// which has the right error number.
    fn changed(&self, tracee: &Tracee, object: Object) -> Option<(OwnedFd, Changed)> {
        let fd = Self::object(tracee, object).ok()?;
        let stat = fs::fstat(&fd).ok()?;
        let record = self.records.get(fd.as_fd(), &stat)?;
        let empty_file =
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0;
        let changed = Changed {
            file_system: None,
            uid: record.uid,
            gid: record.gid,
            mode: None,
            device: record.device.filter(|_| empty_file),
        };
        Some((fd, changed))
    }

    /// The owner of what a thread makes in a directory, if it is not the real one.
    pub(super) fn maker(&self, tracee: &Tracee, dir: BorrowedFd<'_>) -> Option<Record> {
        if self.scope != Scope::All {
            return None;
        }
        let identity = self.identities.of(tracee.thread());
        let (uid, mut gid) = (identity.user(), identity.group());
        let stat = fs::fstat(dir).ok()?;
        if stat.st_mode & libc::S_ISGID != 0 {
            gid = self.owner(dir, &stat).gid;
        }
        ((uid, gid) != (0, 0)).then_some(Record {
            uid,
            gid,
            device: None,
        })
    }

    fn record_new(&mut self, place: &Place, record: Record) -> Result<(), Errno> {
        let fd = place.open()?;
        let stat = fs::fstat(&fd)?;
        self.records.set(fd.as_fd(), &stat, record)
    }

    pub(super) fn mknod(&mut self, tracee: &Tracee, dir: i32, path: usize) -> Verdict {
        let mode = tracee.number(path + 1);
        let kind = FileType::from_raw_mode(mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let Some(place) = tracee.place(dir, &tracee.path(path)?) else {
            return Ok(Answer::Native);
        };
        let maker = self.maker(tracee, place.dir.as_fd());
        if !is_device && maker.is_none() && self.records.all_by_inode() {
            return Ok(Answer::Native);
        }
        if is_device && !self.identity_of(tracee).is_root() {
            return Err(Errno::PERM);
        }
        // A device becomes an empty file with a note of what it stands for.
        let made = if is_device {
            FileType::RegularFile
        } else {
            kind
        };
        let permissions = Mode::from_raw_mode(mode & 0o7777 & !tracee.umask());
        fs::mknodat(&place.dir, &place.name, made, permissions, 0)?;
        if maker.is_none() && !is_device {
            self.renew(&place)?;
            return Ok(Answer::Value(0));
        }
        let device = is_device.then(|| {
            let number = tracee.word(path + 2);
            (mode & libc::S_IFMT, fs::major(number), fs::minor(number))
        });
        let owner = maker.unwrap_or(Record {
            uid: 0,
            gid: 0,
            device: None,
        });
        self.record_new(&place, Record { device, ..owner })?;
        Ok(Answer::Value(0))
    }

    pub(super) fn mkdir(&mut self, tracee: &Tracee, dir: i32, path: usize) -> Verdict {
        let made = tracee
            .place(dir, &tracee.path(path)?)
            .and_then(|place| Some((self.maker(tracee, place.dir.as_fd())?, place)));
        let Some((record, place)) = made else {
            return Ok(Answer::Native);
        };
        let mode = tracee.number(path + 1) & 0o1777 & !tracee.umask();
        fs::mkdirat(&place.dir, &place.name, Mode::from_raw_mode(mode))?;
        self.record_new(&place, record)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn symlink(&mut self, tracee: &Tracee, dir: i32, path: usize) -> Verdict {
        let Some(place) = tracee.place(dir, &tracee.path(path)?) else {
            return Ok(Answer::Native);
        };
        let maker = self.maker(tracee, place.dir.as_fd());
        if maker.is_none() && self.records.all_by_inode() {
            return Ok(Answer::Native);
        }
        fs::symlinkat(&tracee.path(0)?, &place.dir, &place.name)?;
        match maker {
            Some(record) => self.record_new(&place, record)?,
            None => self.renew(&place)?,
        }
        Ok(Answer::Value(0))
    }

    /// What was made at a place is root's, whatever was there before.
    fn renew(&mut self, place: &Place) -> Result<(), Errno> {
        match place.path() {
            Some(path) => self.records.renew(&path),
            None => Ok(()),
        }
    }

    /// An `open` that may make a file; `None` when the caller has got its descriptor.
    pub(super) fn open(
        &mut self,
        call: Call,
        tracee: &Tracee,
        id: u64,
    ) -> Result<Option<Answer>, Errno> {
        let native = Ok(Some(Answer::Native));
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let flags = |word: u32| OFlags::from_bits_retain(word);
        let (dir, path, flags, mode) = match call {
            Call::Creat => (libc::AT_FDCWD, 0, create, tracee.number(1)),
            Call::Open => (libc::AT_FDCWD, 0, flags(tracee.number(1)), tracee.number(2)),
            Call::Openat => (
                tracee.signed(0),
                1,
                flags(tracee.number(2)),
                tracee.number(3),
            ),
            _ => {
                // `struct open_how`: flags, mode, resolve. Who restricts resolution gets it from the kernel alone.
                let how = tracee.read(tracee.word(2), 24)?;
                let word = |at: usize| {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&how[at..at + 8]);
                    u64::from_ne_bytes(bytes)
                };
                let (Ok(bits), Ok(mode), 0) =
                    (u32::try_from(word(0)), u32::try_from(word(8)), word(16))
                else {
                    return native;
                };
                (tracee.signed(0), 1, flags(bits), mode)
            }
        };
        if flags.contains(OFlags::TMPFILE) {
            return self.open_nameless(tracee, (dir, path), (flags, mode), id);
        }
        if !flags.contains(OFlags::CREATE) {
            return native;
        }
        let Some(place) = tracee.place(dir, &tracee.path(path)?) else {
            return native;
        };
        let Some(record) = self.maker(tracee, place.dir.as_fd()) else {
            return native;
        };
        if place.is_taken() {
            return native;
        }
        let mode = Mode::from_raw_mode(mode & 0o7777 & !tracee.umask());
        // Made first, so that it has its owner before anybody can see it through a descriptor; then opened as asked.
        let made = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = match fs::openat(&place.dir, &place.name, made, mode) {
            Ok(file) => file,
            Err(Errno::EXIST) => return native,
            Err(error) => return Err(error),
        };
        let stat = fs::fstat(&file)?;
        self.records.set(file.as_fd(), &stat, record)?;
        drop(file);
        if !flags.contains(OFlags::EXCL) {
            return native;
        }
        let again = flags.difference(OFlags::CREATE | OFlags::EXCL) | OFlags::CLOEXEC;
        let file = fs::openat(&place.dir, &place.name, again, Mode::empty())?;
        self.hand_over(&file, flags, id)
    }

    /// An `open` with `O_TMPFILE`.
    fn open_nameless(
        &mut self,
        tracee: &Tracee,
        (dir, path): (i32, usize),
        (flags, mode): (OFlags, u32),
        id: u64,
    ) -> Result<Option<Answer>, Errno> {
        let dir = tracee.open(dir, &tracee.path(path)?, true)?;
        let Some(record) = self.maker(tracee, dir.as_fd()) else {
            return Ok(Some(Answer::Native));
        };
        let mode = Mode::from_raw_mode(mode & 0o7777 & !tracee.umask());
        let file = fs::openat(&dir, ".", flags | OFlags::CLOEXEC, mode)?;
        let stat = fs::fstat(&file)?;
        self.records.set(file.as_fd(), &stat, record)?;
        self.hand_over(&file, flags, id)
    }

    fn hand_over(&self, file: &OwnedFd, flags: OFlags, id: u64) -> Result<Option<Answer>, Errno> {
        let close = flags.contains(OFlags::CLOEXEC);
        sys::send_fd(self.listener.as_fd(), id, file.as_fd(), close)
            .map(|()| None)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
    }

    /// A set-user-ID program gives its owner's identity, as far as anybody can tell.
    pub(super) fn exec(&mut self, tracee: &Tracee, object: Object) -> Verdict {
        if self.scope != Scope::All || self.identities.all_root() {
            return Ok(Answer::Native);
        }
        let mut identity = self.identities.of(tracee.thread()).clone();
        if identity.users == [0; 3] && identity.groups == [0; 3] && !identity.keeps {
            return Ok(Answer::Native);
        }
        let before = identity.clone();
        identity = identity.in_new_program();
        if let Ok(fd) = Self::object(tracee, object)
            && let Ok(stat) = fs::fstat(&fd)
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        {
            let owner = self.owner(fd.as_fd(), &stat);
            if stat.st_mode & libc::S_ISUID != 0 {
                identity.users[1] = owner.uid;
            }
            if stat.st_mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP {
                identity.groups[1] = owner.gid;
            }
        }
        identity.users[2] = identity.users[1];
        identity.groups[2] = identity.groups[1];
        if identity != before {
            self.identities.set(tracee.thread(), identity)?;
        }
        Ok(Answer::Native)
    }
}

/// Whether a thread may change an owner: root to anything, others their own files to a group of theirs.
fn may_give(identity: &Identity, now: Record, wanted: Record) -> bool {
    let own_group = || {
        wanted.gid == now.gid
            || wanted.gid == identity.group()
            || identity.supplementary.contains(&wanted.gid)
    };
    identity.is_root() || (now.uid == identity.user() && wanted.uid == now.uid && own_group())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_gives_files_away() {
        let record = |uid, gid| Record {
            uid,
            gid,
            device: None,
        };
        let root = Identity::new(0, 0, vec![]);
        let ann = Identity::new(1000, 1000, vec![27]);
        assert!(may_give(&root, record(5, 5), record(6, 6)));
        assert!(may_give(&ann, record(1000, 1000), record(1000, 27)));
        assert!(!may_give(&ann, record(1000, 1000), record(1000, 28)));
        assert!(!may_give(&ann, record(1000, 1000), record(0, 1000)));
        assert!(!may_give(&ann, record(0, 0), record(0, 27)));
    }
}
