//! The loop that answers the calls of a step, and what it knows.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{self, Pid},
};

use super::{
    super::{
        error::{During as _, Failure},
        keeper::{Keeper, Verdict},
        supervisor::{
            self,
            identity::{Identities, Identity},
            members,
            sys::{self, Answer, Notification},
            tracee::Tracee,
        },
        sys as sandbox_sys,
    },
    calls::{ARCHITECTURE, Call},
    exec::Programs,
    owners::Looks,
    sockets::Addresses,
};

/// Answers for everything that a step does with files, users and programs.
#[derive(Debug)]
pub(super) struct Emulator {
    /// Knows what lies in `/proc` and `/sys`, and what belongs to the step.
    pub(super) keeper: Keeper,
    pub(super) looks: Looks,
    pub(super) identities: Identities,
    pub(super) programs: Programs,
    pub(super) addresses: Addresses,
    /// What calls that we have a thread make have in their last argument.
    pub(super) pass: u64,
}

impl Emulator {
    /// Serves the step until its first process, a child of this thread, has ended; gives its status. Fails when nobody has `alive` open
    /// for writing any more, which is when the helper is gone.
    ///
    /// Another thread answers, which waits for calls and nothing else: that saves it a system call for each, and this one is woken
    /// when a process has ended.
    pub(super) fn run(self, first: Pid, alive: BorrowedFd<'_>) -> Result<i32, Failure> {
        // Who would kill us with the helper would leave to run what the step has put into the background.
        process::set_parent_process_death_signal(None).during("outlive the parent")?;
        super::sys::hear_of_ends_only().during("watch for the end")?;
        let ended = sandbox_sys::signal_fd(&[libc::SIGCHLD]).during("watch for the end")?;
        sys::wake_in_turn(self.keeper.listener.as_fd());
        std::thread::Builder::new()
            .spawn(move || self.serve())
            .during("start a thread")?;
        loop {
            if let Some(status) = reap(first)? {
                return Ok(status);
            }
            let mut fds = [
                PollFd::new(&ended, PollFlags::IN),
                PollFd::from_borrowed_fd(alive, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => {
                    return Err(Failure::new("find the helper alive", Errno::SRCH));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::new("wait for the step", error)),
            }
            while sandbox_sys::read_signal(ended.as_fd())
                .during("wait for the step")?
                .is_some()
            {}
        }
    }

    fn serve(mut self) {
        loop {
            let notification = match sys::receive(self.keeper.listener.as_fd()) {
                Ok(Some(notification)) => notification,
                Ok(None) if !self.is_alone() => continue,
                // The first process is about to be reaped.
                Ok(None) => return,
                // The step hears that its calls are not implemented, and fails.
                Err(_) => sandbox_sys::exit_now(1),
            };
            let answer = match self.decide(&notification) {
                Ok(Some(answer)) => answer,
                Ok(None) => continue,
                Err(errno) => Answer::Error(errno.raw_os_error()),
            };
            // Whoever asked may be gone by now.
            let _gone = sys::send(self.keeper.listener.as_fd(), notification.id, answer);
        }
    }

    /// Whether nobody is left who could make a call.
    fn is_alone(&self) -> bool {
        let mut fds = [PollFd::new(&self.keeper.listener, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    fn decide(&mut self, notification: &Notification) -> Verdict {
        let caller = Tracee::new(notification);
        let (number, id) = (notification.number, notification.id);
        if let Some(call) = Call::from_number(number) {
            return self.answer(call, &caller, id);
        }
        if let Some(call) = members::Call::from_number(ARCHITECTURE, number) {
            self.may_signal(call, &caller)?;
            return self.keeper.view.members.decide(call, &caller).map(Some);
        }
        let identities = &mut self.identities;
        match supervisor::answer_identity(identities, ARCHITECTURE, number, &caller) {
            Some(answer) => answer.map(Some),
            None => Err(Errno::NOSYS),
        }
    }

    fn answer(&mut self, call: Call, caller: &Tracee, id: u64) -> Verdict {
        let here = libc::AT_FDCWD;
        let dir = caller.signed(0);
        let done = |()| Some(Answer::Value(0));
        match call {
            Call::Open | Call::Creat | Call::Openat => self.open(call, caller, id),
            Call::Stat => self.stat(caller, (here, Some(0), true), 1),
            Call::Lstat => self.stat(caller, (here, Some(0), false), 1),
            Call::Fstat => self.fstat(caller),
            Call::Newfstatat => {
                let object = object_of(caller, 3, libc::AT_NO_AUTOMOUNT)?;
                self.stat(caller, object, 2)
            }
            Call::Statx => self.statx(caller),
            Call::Statfs => self.statfs(caller, (here, Some(0), true)),
            Call::Fstatfs => self.statfs(caller, (dir, None, true)),
            Call::Access => self.access(caller, (here, Some(0), true), caller.number(1), false),
            Call::Faccessat => self.access(caller, (dir, Some(1), true), caller.number(2), false),
            Call::Faccessat2 => {
                let effective = caller.signed(3) & libc::AT_EACCESS != 0;
                let object = object_of(caller, 3, libc::AT_EACCESS)?;
                self.access(caller, object, caller.number(2), effective)
            }
            Call::Readlink => self.readlink(caller, (here, 0), 1),
            Call::Readlinkat => self.readlink(caller, (dir, 1), 2),
            Call::Getcwd => self.getcwd(caller),
            Call::Chdir => self.chdir(caller, id),
            Call::Mkdir => self.mkdir(caller, (here, 0), caller.number(1)).map(done),
            Call::Mkdirat => self.mkdir(caller, (dir, 1), caller.number(2)).map(done),
            Call::Rmdir => self.unlink(caller, (here, 0), true).map(done),
            Call::Unlink => self.unlink(caller, (here, 0), false).map(done),
            Call::Unlinkat => {
                let is_dir = caller.signed(2) & libc::AT_REMOVEDIR != 0;
                only(caller.signed(2), libc::AT_REMOVEDIR)?;
                self.unlink(caller, (dir, 1), is_dir).map(done)
            }
            Call::Rename => self.rename(caller, (here, 0), (here, 1), 0).map(done),
            Call::Renameat => self
                .rename(caller, (dir, 1), (caller.signed(2), 3), 0)
                .map(done),
            Call::Renameat2 => {
                let flags = caller.number(4);
                self.rename(caller, (dir, 1), (caller.signed(2), 3), flags)
                    .map(done)
            }
            Call::Link => self.link(caller, (here, 0), (here, 1), 0).map(done),
            Call::Linkat => {
                let flags = caller.signed(4);
                self.link(caller, (dir, 1), (caller.signed(2), 3), flags)
                    .map(done)
            }
            Call::Symlink => self.symlink(caller, (here, 1)).map(done),
            Call::Symlinkat => self.symlink(caller, (caller.signed(1), 2)).map(done),
            Call::Mknod => self.mknod(caller, (here, 0), 1).map(done),
            Call::Mknodat => self.mknod(caller, (dir, 1), 2).map(done),
            Call::Chmod => self.chmod(caller, (here, Some(0), true), 1).map(done),
            Call::Fchmod => {
                caller.is_to_use(dir)?;
                self.chmod(caller, (dir, None, true), 1).map(done)
            }
            Call::Fchmodat => self.chmod(caller, (dir, Some(1), true), 2).map(done),
            Call::Fchmodat2 => self.chmod(caller, object_of(caller, 3, 0)?, 2).map(done),
            Call::Chown => self.chown(caller, (here, Some(0), true), 1).map(done),
            Call::Lchown => self.chown(caller, (here, Some(0), false), 1).map(done),
            Call::Fchown => {
                caller.is_to_use(dir)?;
                self.chown(caller, (dir, None, true), 1).map(done)
            }
            Call::Fchownat => self.chown(caller, object_of(caller, 4, 0)?, 2).map(done),
            Call::Utime | Call::Utimes | Call::Futimesat | Call::Utimensat => {
                self.dates(call, caller).map(done)
            }
            Call::Truncate => self.truncate(caller, id),
            Call::Execve => self.exec(caller, (here, Some(0), true), [1, 2], id),
            Call::Execveat => self.exec(caller, object_of(caller, 4, 0)?, [2, 3], id),
            Call::InotifyAddWatch => self.watch(caller, id),
            Call::Bind | Call::Connect | Call::Sendto | Call::Sendmsg | Call::Sendmmsg => {
                self.socket(call, caller, id)
            }
            Call::Uname => self.keeper.uname(caller),
            Call::Capget => self.capget(caller),
            Call::Capset => self.capset(caller),
            Call::Prctl => self.prctl(caller),
            Call::Getrlimit | Call::Setrlimit | Call::Prlimit64 => self.limit(call, caller),
            Call::Getsockname | Call::Getpeername => self.told_address(call, caller, id),
            Call::Getsockopt => self.peer(caller, id),
            _ => self.attributes(call, caller),
        }
    }

    /// Who a thread is.
    pub(super) fn who(&self, caller: &Tracee) -> Identity {
        self.identities.of(caller.thread()).clone()
    }

    /// Refuses signals to a process of another user.
    fn may_signal(&self, call: members::Call, caller: &Tracee) -> Result<(), Errno> {
        let Ok(target) = u32::try_from(caller.signed(0)) else {
            return Ok(());
        };
        if call != members::Call::Kill || target == 0 || target == caller.thread() {
            return Ok(());
        }
        let [real, effective, _] = self.who(caller).users;
        let [theirs, _, saved] = self.identities.of(target).users;
        let may = [theirs, saved]
            .iter()
            .any(|id| [real, effective].contains(id));
        if effective == 0 || may {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }

    /// The step's root directory.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.keeper.view.root
    }

    /// Refuses writing at places that cannot be written.
    pub(super) fn writable(&self, path: &Path) -> Result<(), Errno> {
        if self.keeper.is_readonly(path) {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }
}

/// Takes note of children that have ended; gives the status of `first` when it is among them.
fn reap(first: Pid) -> Result<Option<i32>, Failure> {
    loop {
        match super::sys::reap(Some(first.as_raw_pid())) {
            Ok(Some((_, status))) => return Ok(Some(status)),
            Ok(None) => break,
            Err(Errno::INTR) => {}
            // It has ended while it was traced, in which only this kills, and who traced it has taken note.
            Err(Errno::CHILD) => return Ok(Some(libc::SIGKILL)),
            Err(error) => return Err(Failure::new("wait for the step", error)),
        }
    }
    loop {
        match super::sys::reap(None) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(error) => return Err(Failure::new("wait for the step", error)),
        }
    }
}

/// The object of an `…at` call: descriptor, argument of the path (`None`: the descriptor itself), whether a link at the end is
/// followed. `flags` is the argument with the flags, which besides those that say this may be `more`.
pub(super) fn object_of(caller: &Tracee, flags: usize, more: i32) -> Result<Object, Errno> {
    let flags = caller.signed(flags);
    only(
        flags,
        libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | more,
    )?;
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    let empty =
        flags & libc::AT_EMPTY_PATH != 0 && (caller.word(1) == 0 || caller.path(1)?.is_empty());
    Ok((caller.signed(0), (!empty).then_some(1), follow))
}

/// Refuses flags that a call does not know.
pub(super) fn only(flags: i32, known: i32) -> Result<(), Errno> {
    if flags & !known == 0 {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}

/// Ends this process as the step's first process has ended.
pub(super) fn end_like(status: i32) -> ! {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        sandbox_sys::reset_signals();
        // Its memory is nobody's business.
        let none = process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _best_effort = process::setrlimit(process::Resource::Core, none);
        if let Some(signal) = process::Signal::from_named_raw(signal) {
            let _dying = process::kill_process(process::getpid(), signal);
        }
        sandbox_sys::exit_now(128 + signal);
    }
    sandbox_sys::exit_now(libc::WEXITSTATUS(status))
}

/// Descriptor and argument of a path.
pub(super) type At = (i32, usize);

/// Descriptor, argument of the path (`None`: the descriptor itself), whether a link at the end is followed.
pub(super) type Object = (i32, Option<usize>, bool);

/// The path of a directory as calls by descriptor take it.
pub(super) fn named(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}
