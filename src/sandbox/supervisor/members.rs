//! Which processes belong to a step, and what its processes may do to others: nothing.
//!
//! A step has no process numbers of its own here. All of it descends from the helper, which also adopts orphans, so a process
//! belongs to the step when its parents lead to the helper; the one who serves it is the helper's other child. To a step, a process
//! that does not belong to it does not exist.
//!
//! Numbers are passed by value, so nobody can change them between the look and the call.

use std::path::Path;

use rustix::{
    io::Errno,
    process::{self, Pid, Signal},
};

use super::{
    super::seccomp::bpf::{Action, Architecture, Section},
    sys::Answer,
    tracee::Tracee,
};

/// More generations than this no step has.
const MAX_GENERATIONS: usize = 4096;

/// A call that names a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Call {
    /// It names a process or thread in its first argument.
    Process,
    /// The same, and perhaps a group.
    Kill,
    Setpriority,
    IoprioSet,
    Kcmp,
    Ptrace,
    Fcntl,
}

/// When a call is announced.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// Unless this argument is 0, which means the caller.
    Named(u32),
    /// If this argument is among these.
    Among(u32, &'static [u32]),
}

/// `PTRACE_ATTACH` and `PTRACE_SEIZE`: all other requests are for those who are traced already.
const ATTACH: &[u32] = &[16, 0x4206];
/// `F_SETOWN` and `F_SETOWN_EX`: the owner gets signals.
const SET_OWNER: &[u32] = &[8, 15];
/// `FIOSETOWN` and `SIOCSPGRP`: the same for sockets.
const SET_SOCKET_OWNER: &[u32] = &[0x8901, 0x8902];

/// The calls and their numbers on 64-bit x86, on 64-bit ARM and on 32-bit x86; -1 where there is none.
#[rustfmt::skip]
const CALLS: &[(Call, When, [i32; 3])] = &[
    (Call::Kill, When::Always, [62, 129, 37]),
    (Call::Process, When::Always, [200, 130, 238]),       // tkill
    (Call::Process, When::Always, [234, 131, 270]),       // tgkill
    (Call::Process, When::Always, [129, 138, 178]),       // rt_sigqueueinfo
    (Call::Process, When::Always, [297, 240, 335]),       // rt_tgsigqueueinfo
    (Call::Process, When::Always, [434, 434, 434]),       // pidfd_open
    (Call::Process, When::Always, [310, 270, 347]),       // process_vm_readv
    (Call::Process, When::Always, [311, 271, 348]),       // process_vm_writev
    (Call::Process, When::Named(0), [302, 261, 340]),     // prlimit64
    (Call::Process, When::Named(0), [142, 118, 154]),     // sched_setparam
    (Call::Process, When::Named(0), [144, 119, 156]),     // sched_setscheduler
    (Call::Process, When::Named(0), [203, 122, 241]),     // sched_setaffinity
    (Call::Process, When::Named(0), [314, 274, 351]),     // sched_setattr
    (Call::Process, When::Named(0), [274, 100, 312]),     // get_robust_list
    (Call::Setpriority, When::Always, [141, 140, 97]),
    (Call::IoprioSet, When::Always, [251, 30, 289]),    // ioprio_set
    (Call::Kcmp, When::Always, [312, 272, 349]),
    (Call::Ptrace, When::Among(0, ATTACH), [101, 117, 26]),
    (Call::Fcntl, When::Among(1, SET_OWNER), [72, 25, 55]),
    (Call::Fcntl, When::Among(1, SET_OWNER), [-1, -1, 221]),
];

/// `ioctl`.
const IOCTL: [u32; 3] = [16, 29, 54];

impl Call {
    /// The call with this number.
    pub(in crate::sandbox) fn from_number(architecture: Architecture, number: i32) -> Option<Self> {
        let column = architecture.column();
        let found = CALLS.iter().find(|(.., numbers)| numbers[column] == number);
        found.map(|(call, ..)| *call)
    }
}

/// Has the calls that name processes announced, for [`Members::decide`].
pub(in crate::sandbox) fn announce(section: &mut Section, architecture: Architecture) {
    for (_, when, numbers) in CALLS {
        let Ok(number) = u32::try_from(numbers[architecture.column()]) else {
            continue;
        };
        match when {
            When::Always => section.answer(number, Action::Notify),
            When::Named(index) => {
                section.judge_argument(number, *index, &[0], [Action::Allow, Action::Notify]);
            }
            When::Among(index, values) => {
                section.judge_argument(number, *index, values, [Action::Notify, Action::Allow]);
            }
        }
    }
    let refused = [Action::Errno(libc::EPERM), Action::Allow];
    let number = IOCTL[architecture.column()];
    section.judge_argument(number, 1, SET_SOCKET_OWNER, refused);
}

/// The processes of a step.
#[derive(Debug)]
pub(in crate::sandbox) struct Members {
    pub(in crate::sandbox) helper: i32,
    pub(in crate::sandbox) server: i32,
    /// The first process.
    pub(in crate::sandbox) first: i32,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    parent: i32,
    group: i32,
}

impl Facts {
    /// Of a process or thread; `None` when it is gone.
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("{pid}/stat")).ok()?)
    }

    /// The name stands in parentheses and may hold any character.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|b| *b == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut words = rest.split_ascii_whitespace().skip(1);
        let mut next = || words.next()?.parse().ok();
        Some(Self {
            parent: next()?,
            group: next()?,
        })
    }
}

impl Members {
    /// Whether a process, or the process of a thread, belongs to the step.
    pub(in crate::sandbox) fn contains(&self, pid: i32) -> bool {
        let mut pid = pid;
        for _ in 0..MAX_GENERATIONS {
            if pid <= 1 || pid == self.server || pid == self.helper {
                return false;
            }
            match Facts::of(pid) {
                Some(facts) if facts.parent == self.helper => return pid != self.server,
                Some(facts) => pid = facts.parent,
                None => return false,
            }
        }
        false
    }

    /// All of them.
    pub(in crate::sandbox) fn all(&self) -> Vec<i32> {
        let Ok(entries) = std::fs::read_dir(Path::new(".")) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| self.contains(*pid))
            .collect()
    }

    fn has_group(&self, group: i32) -> bool {
        let leads = Facts::of(group).is_some_and(|facts| facts.group == group);
        if leads && self.contains(group) {
            return true;
        }
        let members = self.all();
        let mut facts = members.into_iter().filter_map(Facts::of);
        facts.any(|facts| facts.group == group)
    }

    fn check(&self, pid: i32) -> Result<Answer, Errno> {
        if self.contains(pid) {
            Ok(Answer::Native)
        } else {
            Err(Errno::SRCH)
        }
    }

    fn check_group(&self, group: i32) -> Result<Answer, Errno> {
        // That of the caller is the step's: a step is a session of its own.
        if group == 0 || self.has_group(group) {
            Ok(Answer::Native)
        } else {
            Err(Errno::SRCH)
        }
    }

    /// What becomes of a call that names a process.
    pub(in crate::sandbox) fn decide(&self, call: Call, caller: &Tracee) -> Result<Answer, Errno> {
        let own = |pid: i32| u32::try_from(pid) == Ok(caller.thread());
        let first = caller.signed(0);
        match call {
            Call::Process if own(first) => Ok(Answer::Native),
            Call::Process => self.check(first),
            Call::Ptrace => self.check(caller.signed(1)),
            Call::Kcmp => {
                self.check(first)?;
                self.check(caller.signed(1))
            }
            Call::Kill => match first {
                pid if own(pid) => Ok(Answer::Native),
                -1 => self.kill_all(caller),
                group @ ..=0 => self.check_group(group.checked_neg().ok_or(Errno::SRCH)?),
                pid => self.check(pid),
            },
            Call::Setpriority => self.set_priority(first, caller.signed(1)),
            // It counts the same three from 1.
            Call::IoprioSet => self.set_priority(first.wrapping_sub(1), caller.signed(1)),
            Call::Fcntl => {
                /// Its argument is in memory, where it can change after a look.
                const F_SETOWN_EX: i32 = 15;
                if caller.signed(1) == F_SETOWN_EX {
                    return Err(Errno::PERM);
                }
                match caller.signed(2) {
                    0 => Ok(Answer::Native),
                    group @ ..0 => self.check_group(group.checked_neg().ok_or(Errno::SRCH)?),
                    pid => self.check(pid),
                }
            }
        }
    }

    /// Sets a priority of a process (0), a group (1) or all that a user has anywhere (2); `id` 0 is the caller's.
    fn set_priority(&self, which: i32, id: i32) -> Result<Answer, Errno> {
        match (which, id) {
            (0 | 1, 0) => Ok(Answer::Native),
            (0, pid) => self.check(pid),
            (1, group) => self.check_group(group),
            _ => Err(Errno::PERM),
        }
    }

    /// `kill(-1)`: all that the caller may kill, itself and the first process aside, as in a namespace of their own.
    fn kill_all(&self, caller: &Tracee) -> Result<Answer, Errno> {
        let signal = caller.signed(1);
        let named = Signal::from_named_raw(signal);
        if signal != 0 && named.is_none() {
            return Err(Errno::INVAL);
        }
        let group = caller.process();
        let identity = caller.real_identity();
        let mut found = false;
        for pid in self.all() {
            if pid == self.first || Some(pid) == group {
                continue;
            }
            let may = identity.user() == 0
                || u32::try_from(pid)
                    .is_ok_and(|pid| Tracee::of(pid).real_identity().users[0] == identity.user());
            if let (true, Some(pid)) = (may, Pid::from_raw(pid)) {
                found = true;
                if let Some(signal) = named {
                    let _gone = process::kill_process(pid, signal);
                }
            }
        }
        if found {
            Ok(Answer::Value(0))
        } else {
            Err(Errno::SRCH)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        let facts = Facts::parse(b"42 (a) S 1 (x) R 7 9 9 0 -1").unwrap();
        assert_eq!(
            facts,
            Facts {
                parent: 7,
                group: 9
            }
        );
        assert_eq!(Facts::parse(b"nothing"), None);
    }
}
