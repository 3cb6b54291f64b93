//! Answers for owners and users that do not exist here.
//!
//! In a user namespace with one id, `chown`, `setuid` and the like fail, and every file belongs to root. The supervisor
//! is a process beside the step to which a filter of system calls announces the calls that concern owners and
//! identities. It carries them out as far as that is possible, remembers the rest (`record`, `identity`), and answers
//! `stat` and `getuid` from memory. Programs are not touched, so it does not matter how they are linked.
//!
//! This is about giving the step the world that it expects, not about security: a thread can change a path while the
//! supervisor looks at it, and gains nothing that it could not do by itself.
//!
//! ```text
//! calls       which are announced, and for whom          owners      who owns what, who owns what is made
//! identity    who a thread believes to be                names       what a new name means to a record
//! record      the owners that do not exist here          attributes  where the records are, and not seen
//! access      what users that do not exist may reach     tracee      looking into a thread
//! peers       who is at the other end of a socket
//! ```
//!
//! A step that shares its process numbers with others (a container that hides parts of `/proc`) is kept to its own by
//! `members`, which also serves the [keeper](super::keeper).
//!
//! Not answered: access control lists; who may signal whom; the calls of 32-bit programs that have ids of 16 bits. What
//! `/proc` says of ids, and the ids that messages carry, are the kernel's.

mod access;
mod attributes;
mod calls;
pub(super) mod identity;
pub(super) mod members;
mod names;
mod owners;
pub(super) mod peers;
pub(super) mod record;
pub(super) mod sys;
pub(super) mod tracee;

use std::{
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{self as rfs, Mode, OFlags},
    io::Errno,
    process::{self, Pid, Signal},
    thread,
};

use self::{
    calls::Call,
    identity::Identities,
    members::Members,
    record::Records,
    sys::{Answer, Notification},
    tracee::Tracee,
};
pub(super) use self::{
    calls::{Scope, filter, numbers_of_identity},
    identity::{Identity, ROOT_SLACK},
};
use super::{
    error::{During as _, Failure},
    idmap::lines,
    mounts::Stranger,
    seccomp::bpf::Architecture,
};

/// What a supervisor is given.
#[derive(Debug)]
pub(super) struct Charge {
    /// Where calls are announced.
    pub(super) listener: OwnedFd,
    /// The step's process.
    pub(super) step: Pid,
    /// How much to answer for.
    pub(super) scope: Scope,
    /// The process from which all of the step descends, if it shares process numbers with others.
    pub(super) helper: Option<Pid>,
    /// Who it starts as.
    pub(super) identity: Identity,
    /// The files `owners` of the directories that make up the root, topmost first, whether they exist or not.
    pub(super) owners: Vec<PathBuf>,
    /// Files that were mounted and whose owners do not exist here.
    pub(super) strangers: Vec<Stranger>,
}

/// Serves a step until it ends. To be called in a process of its own, which it ties to its parent.
pub(super) fn serve(charge: Charge) -> Result<(), Failure> {
    process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie to the parent")?;
    process::umask(Mode::empty());
    // All that belongs to the host is opened before the step's root takes its place.
    let texts: Vec<Vec<u8>> = charge
        .owners
        .iter()
        .map(|path| std::fs::read(path).unwrap_or_default())
        .collect();
    let own = charge.owners.first().map(|path| {
        let file = File::options().append(true).create(true).open(path);
        file.during_at("open", path)
    });
    let own = own.transpose()?;
    let map = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/self/{name}"))?;
        Ok::<_, std::io::Error>(lines(&text).map(|[_, _, count]| count).sum())
    };
    let mapped = [map("uid_map"), map("gid_map")].map(|count| count.unwrap_or(u64::MAX));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rfs::open("/proc", flags, Mode::empty()).during("open /proc")?;
    let namespace = format!("/proc/{}/ns/mnt", charge.step.as_raw_pid());
    let namespace = rfs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during("open the step's namespace")?;
    thread::move_into_link_name_space(namespace.as_fd(), Some(thread::LinkNameSpaceType::Mount))
        .during("enter the step's namespace")?;
    process::fchdir(&proc).during("go to /proc")?;
    let mut records = Records::load(own, &texts);
    for stranger in &charge.strangers {
        records.introduce(&stranger.path, stranger.uid, stranger.gid);
    }
    Supervisor {
        proc: rfs::stat("/proc").ok().map(|stat| stat.st_dev),
        members: charge.helper.map(|helper| Members {
            helper: helper.as_raw_pid(),
            server: process::getpid().as_raw_pid(),
            first: charge.step.as_raw_pid(),
        }),
        listener: charge.listener,
        scope: charge.scope,
        mapped,
        identities: Identities::new(charge.identity),
        records,
    }
    .run()
}

#[derive(Debug)]
struct Supervisor {
    listener: OwnedFd,
    /// The file system at `/proc`.
    proc: Option<u64>,
    scope: Scope,
    members: Option<Members>,
    /// How many users and groups are mapped, from 0 on.
    mapped: [u64; 2],
    identities: Identities,
    records: Records,
}

/// What to do about a call.
pub(super) type Verdict = Result<Answer, Errno>;

impl Supervisor {
    fn run(mut self) -> Result<(), Failure> {
        sys::wake_in_turn(self.listener.as_fd());
        loop {
            let received = sys::receive(self.listener.as_fd());
            let Some(notification) = received.during("hear of a system call")? else {
                continue;
            };
            // Whoever asked may be gone by now.
            let _gone = match self.decide(&notification) {
                Some(answer) => sys::send(self.listener.as_fd(), notification.id, answer),
                None => Ok(()),
            };
        }
    }

    /// The answer to a call; `None` when it has been given.
    fn decide(&mut self, notification: &Notification) -> Option<Answer> {
        let architecture = Architecture::from_token(notification.architecture);
        if let (Some(architecture), Some(members)) = (architecture, &self.members)
            && let Some(call) = members::Call::from_number(architecture, notification.number)
        {
            let answer = members.decide(call, &Tracee::new(notification));
            return Some(answer.unwrap_or_else(|errno| Answer::Error(errno.raw_os_error())));
        }
        let call = architecture.and_then(|architecture| {
            let call = Call::from_number(architecture, notification.number)?;
            Some((call, architecture))
        });
        let Some((call, architecture)) = call.filter(|(call, _)| !self.is_for_others(*call)) else {
            return Some(Answer::Native);
        };
        let tracee = Tracee::new(notification);
        if !sys::is_valid(self.listener.as_fd(), notification.id) {
            return None;
        }
        let opens = matches!(
            call,
            Call::Open | Call::Openat | Call::Openat2 | Call::Creat
        );
        let answer = match self.check(call, &tracee) {
            Err(refused) => Err(refused),
            Ok(()) if opens => self.open(call, &tracee, notification.id),
            Ok(()) => self.answer(call, &tracee, architecture).map(Some),
        };
        answer.unwrap_or_else(|errno| Some(Answer::Error(errno.raw_os_error())))
    }

    /// Whether a call is announced for the sake of other users, and there are none.
    fn is_for_others(&self, call: Call) -> bool {
        self.scope == Scope::All && self.identities.all_root() && call.only_needs_access()
    }

    /// Refuses what the thread's user, who does not exist, may not do.
    fn check(&self, call: Call, tracee: &Tracee) -> Result<(), Errno> {
        if self.scope != Scope::All || self.identities.all_root() {
            return Ok(());
        }
        let who = self.identities.of(tracee.thread());
        if who.is_root() && !matches!(call, Call::Access | Call::Faccessat | Call::Faccessat2) {
            return Ok(());
        }
        self.admit(call, tracee, who)
    }

    fn answer(&mut self, call: Call, tracee: &Tracee, architecture: Architecture) -> Verdict {
        let here = libc::AT_FDCWD;
        let place = |dir: usize, path: usize| (tracee.signed(dir), path);
        match call {
            Call::Chown => self.chown(tracee, (here, Some(0), true), 1),
            Call::Lchown => self.chown(tracee, (here, Some(0), false), 1),
            Call::Fchown => self.chown(tracee, (tracee.signed(0), None, true), 1),
            Call::Fchownat => self.chown(tracee, object_of(tracee, 4), 2),
            Call::Stat => self.stat(tracee, (here, Some(0), true), 1, architecture),
            Call::Lstat => self.stat(tracee, (here, Some(0), false), 1, architecture),
            Call::Fstat => self.stat(tracee, (tracee.signed(0), None, true), 1, architecture),
            Call::Newfstatat => self.stat(tracee, object_of(tracee, 3), 2, architecture),
            Call::Statx => self.statx(tracee),
            Call::Mknod => self.mknod(tracee, here, 0),
            Call::Mknodat => self.mknod(tracee, tracee.signed(0), 1),
            Call::Mkdir => self.mkdir(tracee, here, 0),
            Call::Mkdirat => self.mkdir(tracee, tracee.signed(0), 1),
            Call::Symlink => self.symlink(tracee, here, 1),
            Call::Symlinkat => self.symlink(tracee, tracee.signed(1), 2),
            Call::Link => self.link(tracee, (here, 0), (here, 1), 0),
            Call::Linkat => self.link(tracee, place(0, 1), place(2, 3), tracee.number(4)),
            Call::Rename => self.rename(tracee, (here, 0), (here, 1), 0),
            Call::Renameat => self.rename(tracee, place(0, 1), place(2, 3), 0),
            Call::Renameat2 => self.rename(tracee, place(0, 1), place(2, 3), tracee.number(4)),
            Call::Execve => self.exec(tracee, (here, Some(0), true)),
            Call::Execveat => self.exec(tracee, object_of(tracee, 4)),
            Call::Getsockopt => self.peer(tracee),
            Call::Bind => self.bind(tracee),
            Call::Prctl => self.keep_capabilities(tracee),
            call if call.is_about_attributes() => self.attributes(call, tracee),
            _ => self.identity(call, tracee),
        }
    }

    /// Who a thread is: what it believes, or what it is where that is real.
    fn identity_of(&self, tracee: &Tracee) -> Identity {
        match self.scope {
            Scope::All => self.identities.of(tracee.thread()).clone(),
            Scope::Unmapped | Scope::Nothing => tracee.real_identity(),
        }
    }

    /// `PR_SET_KEEPCAPS`, by which a thread that becomes another user may still change its groups.
    fn keep_capabilities(&mut self, tracee: &Tracee) -> Verdict {
        let mut identity = self.identities.of(tracee.thread()).clone();
        identity.keeps = tracee.word(1) == 1;
        self.identities.set(tracee.thread(), identity)?;
        Ok(Answer::Native)
    }

    fn identity(&mut self, call: Call, tracee: &Tracee) -> Verdict {
        if call.only_needs_access() {
            return Ok(Answer::Native);
        }
        identity_call(&mut self.identities, call, tracee)
    }
}

/// The answer to the call with this number if it tells who a thread is, or changes that.
pub(super) fn answer_identity(
    identities: &mut Identities,
    architecture: Architecture,
    number: i32,
    tracee: &Tracee,
) -> Option<Verdict> {
    let call = Call::from_number(architecture, number).filter(|call| call.is_about_identity())?;
    Some(identity_call(identities, call, tracee))
}

fn identity_call(identities: &mut Identities, call: Call, tracee: &Tracee) -> Verdict {
    let mut identity = identities.of(tracee.thread()).clone();
    let word = |index| tracee.number(index);
    let value = |id: u32| Ok(Answer::Value(id.into()));
    match call {
        Call::Getuid => return value(identity.users[0]),
        Call::Geteuid => return value(identity.users[1]),
        Call::Getgid => return value(identity.groups[0]),
        Call::Getegid => return value(identity.groups[1]),
        // The ids of the file system always follow the effective ones; the calls report them and cannot fail.
        Call::Setfsuid => return value(identity.users[1]),
        Call::Setfsgid => return value(identity.groups[1]),
        Call::Getresuid => return three(tracee, identity.users),
        Call::Getresgid => return three(tracee, identity.groups),
        Call::Getgroups => return groups(tracee, &identity),
        Call::Setuid => identity.setuid(word(0))?,
        Call::Setgid => identity.setgid(word(0))?,
        Call::Setreuid => identity.setreuid([word(0), word(1)])?,
        Call::Setregid => identity.setregid([word(0), word(1)])?,
        Call::Setresuid => identity.setresuid([word(0), word(1), word(2)])?,
        Call::Setresgid => identity.setresgid([word(0), word(1), word(2)])?,
        Call::Setgroups => {
            /// As many as the kernel takes.
            const NGROUPS_MAX: u32 = 65536;
            if word(0) > NGROUPS_MAX {
                return Err(Errno::INVAL);
            }
            let count = usize::try_from(word(0)).unwrap_or(0);
            let bytes = tracee.read(tracee.word(1), 4 * count)?;
            let id = |b: &[u8]| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
            identity.setgroups(bytes.chunks_exact(4).map(id).collect())?;
        }
        _ => return Ok(Answer::Native),
    }
    identities.set(tracee.thread(), identity)?;
    Ok(Answer::Value(0))
}

/// The object of an `…at` call: descriptor, argument of the path (`None`: the descriptor itself), whether a link at the
/// end is followed. `flags` is the argument with the flags.
fn object_of(tracee: &Tracee, flags: usize) -> (i32, Option<usize>, bool) {
    let follow = tracee.signed(flags) & libc::AT_SYMLINK_NOFOLLOW == 0;
    let empty = tracee.signed(flags) & libc::AT_EMPTY_PATH != 0
        && (tracee.word(1) == 0 || tracee.path(1).is_ok_and(|path| path.is_empty()));
    (tracee.signed(0), (!empty).then_some(1), follow)
}

fn three(tracee: &Tracee, ids: [u32; 3]) -> Verdict {
    for (index, id) in ids.into_iter().enumerate() {
        tracee.write(tracee.word(index), &id.to_ne_bytes())?;
    }
    Ok(Answer::Value(0))
}

fn groups(tracee: &Tracee, identity: &Identity) -> Verdict {
    let count = identity.supplementary.len();
    let room = tracee.signed(0);
    if room < 0 || (room > 0 && usize::try_from(room).is_ok_and(|room| room < count)) {
        return Err(Errno::INVAL);
    }
    if room > 0 {
        let bytes: Vec<u8> = identity
            .supplementary
            .iter()
            .flat_map(|group| group.to_ne_bytes())
            .collect();
        tracee.write(tracee.word(1), &bytes)?;
    }
    Ok(Answer::Value(i64::try_from(count).unwrap_or(0)))
}
