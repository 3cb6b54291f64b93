//! Shows a step what nothing can be mounted for, and keeps it from all processes but its own.
//!
//! A keeper is a process beside the step to which a filter of system calls announces those that name files or processes. It
//! lets the kernel make nearly all of them: a path that leads to files of the root is found there. What a path finds in
//! `/proc` and `/sys` is opened by the keeper, and the step is given the descriptor; `stat` and `readlink` are answered.
//!
//! ```text
//! calls    which are announced                     mirror   directories of /proc and /sys, as real ones in the root
//! view     where a path leads: Native or a Place   files    what is done to a Place
//! mounted  what a step is told of mounts           answers  what is said of a Place
//! changes  modes and owners of what is open
//! ```
//!
//! What holds whatever a step does (a thread can change a path after it was looked at): a call that the kernel makes is
//! confined by `chroot`; what names a process is passed by value; a descriptor that the keeper gives is never
//! that of a directory outside the root, from which `..` would lead on. In `/proc` only the step's processes exist, so nobody's
//! environment or memory but its own can be read.
//!
//! Another step's world, one with paths or users that the kernel does not have, would be another [`view::View`] and more
//! of `files`: the calls, the loop and the members are the same.

pub(super) mod answers;
mod calls;
mod changes;
pub(super) mod files;
mod mirror;
pub(super) mod mounted;
pub(super) mod view;

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Mutex,
};

use rustix::{
    io::Errno,
    process::{self, Pid, Signal},
};

use self::{calls::Call, mirror::Mirror, view::View};
pub(super) use self::{
    calls::filter,
    mounted::{Mounted, Mounting},
};
use super::{
    error::{During as _, Failure},
    mount::fd_path,
    seccomp::bpf::Architecture,
    supervisor::{
        members::{self, Members},
        sys::{self, Answer, Notification},
        tracee::Tracee,
    },
};

/// Directories in the root that a keeper looks after.
#[derive(Debug)]
pub(super) struct Kept {
    /// The directory that lies at `/proc`.
    pub(super) proc: OwnedFd,
    /// The directory that lies at `/sys`.
    pub(super) sys: OwnedFd,
    /// Devices that could not be made in `/dev`.
    pub(super) devices: Vec<&'static str>,
}

/// What a keeper is given.
#[derive(Debug)]
pub(super) struct Charge {
    /// Where calls are announced.
    pub(super) listener: OwnedFd,
    /// The step's first process.
    pub(super) step: Pid,
    /// The process from which all of the step descends.
    pub(super) helper: Pid,
    /// The root directory.
    pub(super) root: OwnedFd,
    /// Places in the root where writing is refused: relative, free of links.
    pub(super) readonly: Vec<PathBuf>,
    /// What would be mounted elsewhere.
    pub(super) mounted: Vec<Mounted>,
    /// Whether there is no network.
    pub(super) offline: bool,
    /// The name of the machine.
    pub(super) hostname: String,
    pub(super) kept: Kept,
}

/// Serves a step until it ends. To be called in a process of its own, which it ties to its parent.
pub(super) fn serve(charge: Charge) -> Result<(), Failure> {
    process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie to the parent")?;
    process::umask(rustix::fs::Mode::empty());
    Keeper::new(charge)?.run()
}

#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) listener: OwnedFd,
    pub(super) view: View,
    readonly: Vec<PathBuf>,
    mounted: Vec<Mounted>,
    offline: bool,
    hostname: String,
    proc: Mirror,
    sys: Mirror,
}

/// What to do about a call; `None` when it has been answered.
pub(super) type Verdict = Result<Option<Answer>, Errno>;

impl Keeper {
    /// One that knows what it is charged with, in this process, which goes to `/proc`.
    pub(super) fn new(charge: Charge) -> Result<Self, Failure> {
        let path = std::fs::read_link(fd_path(&charge.root)).during("find the root")?;
        process::chdir("/proc").during("go to /proc")?;
        Ok(Self {
            listener: charge.listener,
            view: View {
                root: charge.root,
                path,
                devices: charge.kept.devices,
                members: Members {
                    helper: charge.helper.as_raw_pid(),
                    server: process::getpid().as_raw_pid(),
                    first: charge.step.as_raw_pid(),
                },
                programs: Mutex::default(),
            },
            readonly: charge.readonly,
            mounted: charge.mounted,
            offline: charge.offline,
            hostname: charge.hostname,
            proc: Mirror::new(charge.kept.proc),
            sys: Mirror::new(charge.kept.sys),
        })
    }

    fn run(self) -> Result<(), Failure> {
        sys::wake_in_turn(self.listener.as_fd());
        loop {
            let received = sys::receive(self.listener.as_fd());
            let Some(notification) = received.during("hear of a system call")? else {
                continue;
            };
            let answer = match self.decide(&notification) {
                Ok(Some(answer)) => answer,
                Ok(None) => continue,
                Err(errno) => Answer::Error(errno.raw_os_error()),
            };
            // Whoever asked may be gone by now.
            let _gone = sys::send(self.listener.as_fd(), notification.id, answer);
        }
    }

    fn decide(&self, notification: &Notification) -> Verdict {
        let architecture = Architecture::from_token(notification.architecture);
        let caller = Tracee::new(notification);
        let number = notification.number;
        if let Some(call) = architecture.and_then(|a| members::Call::from_number(a, number)) {
            return self.view.members.decide(call, &caller).map(Some);
        }
        let Some(call) = architecture.and_then(|a| Call::from_number(a, number)) else {
            return Ok(Some(Answer::Native));
        };
        match call {
            Call::Uname => self.uname(&caller),
            _ => match self.file(call, &caller, notification.id) {
                // It cannot be looked into, as after it has changed its user: it finds what lies in the root.
                Err(Errno::ACCESS | Errno::PERM) if caller.path(path_argument(call)).is_err() => {
                    Ok(Some(Answer::Native))
                }
                other => other,
            },
        }
    }
}

impl Keeper {
    /// Fills a `struct new_utsname`: six fields of 65 bytes.
    pub(super) fn uname(&self, caller: &Tracee) -> Verdict {
        const FIELD: usize = 65;
        let of_kernel = rustix::system::uname();
        let fields = [
            of_kernel.sysname().to_bytes(),
            self.hostname.as_bytes(),
            of_kernel.release().to_bytes(),
            of_kernel.version().to_bytes(),
            of_kernel.machine().to_bytes(),
            of_kernel.domainname().to_bytes(),
        ];
        let mut bytes = [0; 6 * FIELD];
        for (place, field) in bytes.chunks_exact_mut(FIELD).zip(fields) {
            let length = field.len().min(FIELD - 1);
            place[..length].copy_from_slice(&field[..length]);
        }
        match caller.write(caller.word(0), &bytes) {
            Err(Errno::ACCESS | Errno::PERM) => Ok(Some(Answer::Native)),
            written => written.map(|()| Some(Answer::Value(0))),
        }
    }
}

/// The argument with the path.
fn path_argument(call: Call) -> usize {
    match call {
        Call::Openat
        | Call::Openat2
        | Call::Newfstatat
        | Call::Statx
        | Call::Faccessat
        | Call::Faccessat2
        | Call::Readlinkat
        | Call::Linkat
        | Call::Fchmodat
        | Call::Fchownat
        | Call::Execveat => 1,
        _ => 0,
    }
}
