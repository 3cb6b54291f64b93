//! Who a thread believes to be.
//!
//! All threads of a step have the one user and group that exist. What they set by `setuid` and its kin is kept here
//! and given back by `getuid` and its kin. A thread's identity has to follow it through forks and new programs, even
//! when its parent is gone, so the kernel carries it: as the thread's timer slack, an attribute that children inherit
//! and that is worth 50 µs plus or minus nothing that anybody would notice. Identities are numbered, and the number is
//! added to the slack in nanoseconds.
//!
//! Who lacks `CAP_SYS_NICE` can neither read nor set the slack of others. There another attribute carries the number, which is the same
//! for all threads of a process: the limit to the time that real-time processes run, of which that much below "none" is as good as none.

use std::path::PathBuf;

use rustix::io::Errno;

use super::super::emulate::{set_time_limit, time_limit};

/// The slack of identity 0, in nanoseconds: the kernel's default.
const BASE_SLACK: u64 = 50_000;

/// The slack of identity 1, which is root: what a step is until it becomes its user.
pub(in crate::sandbox) const ROOT_SLACK: u64 = BASE_SLACK + 1;

/// How many identities there can be; a slack of a millisecond is still nothing.
const MAX: usize = 1_000_000;

/// The ids of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Identity {
    /// Real, effective, saved user.
    pub(in crate::sandbox) users: [u32; 3],
    /// Real, effective, saved group.
    pub(in crate::sandbox) groups: [u32; 3],
    /// Supplementary groups.
    pub(in crate::sandbox) supplementary: Vec<u32>,
    /// Whether it has asked to keep its capabilities when it stops being root (`PR_SET_KEEPCAPS`).
    pub(in crate::sandbox) keeps: bool,
    /// Whether it has kept them.
    pub(in crate::sandbox) capable: bool,
}

/// An argument that means "as it is".
pub(in crate::sandbox) const KEEP: u32 = u32::MAX;

impl Identity {
    /// A thread that has always been `uid` and `gid`.
    pub(in crate::sandbox) fn new(uid: u32, gid: u32, supplementary: Vec<u32>) -> Self {
        Self {
            users: [uid; 3],
            groups: [gid; 3],
            supplementary,
            keeps: false,
            capable: false,
        }
    }

    /// The effective user.
    pub(in crate::sandbox) fn user(&self) -> u32 {
        self.users[1]
    }

    /// The effective group.
    pub(in crate::sandbox) fn group(&self) -> u32 {
        self.groups[1]
    }

    /// Whether it may take on any id and give files to anybody.
    pub(in crate::sandbox) fn is_root(&self) -> bool {
        self.user() == 0 || self.capable
    }

    /// Changes the users. Capabilities go with the last one that is root, unless they are kept.
    fn set_users(
        &mut self,
        set: impl FnOnce(&mut [u32; 3], bool) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let root = self.is_root();
        set(&mut self.users, root)?;
        self.capable = root && self.keeps && !self.users.contains(&0);
        Ok(())
    }

    /// What it is in a new program, without what it has kept for itself.
    pub(in crate::sandbox) fn in_new_program(&self) -> Self {
        Self {
            keeps: false,
            capable: false,
            ..self.clone()
        }
    }

    /// `setuid` (with `users`) and `setgid` (with `groups`) of a thread that is root or not.
    fn set_one(ids: &mut [u32; 3], id: u32, root: bool) -> Result<(), Errno> {
        if id == KEEP {
            return Err(Errno::INVAL);
        }
        if root {
            *ids = [id; 3];
        } else if ids[0] == id || ids[2] == id {
            ids[1] = id;
        } else {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    /// `setreuid` and `setregid`.
    fn set_two(ids: &mut [u32; 3], [real, effective]: [u32; 2], root: bool) -> Result<(), Errno> {
        let may = |id: u32, among: &[u32]| id == KEEP || root || among.contains(&id);
        if !may(real, &ids[..2]) || !may(effective, &ids[..]) {
            return Err(Errno::PERM);
        }
        let before = ids[0];
        if real != KEEP {
            ids[0] = real;
        }
        if effective != KEEP {
            ids[1] = effective;
        }
        if real != KEEP || (effective != KEEP && effective != before) {
            ids[2] = ids[1];
        }
        Ok(())
    }

    /// `setresuid` and `setresgid`.
    fn set_three(ids: &mut [u32; 3], wanted: [u32; 3], root: bool) -> Result<(), Errno> {
        let may = |id: u32| id == KEEP || root || ids.contains(&id);
        if !wanted.into_iter().all(may) {
            return Err(Errno::PERM);
        }
        for (id, wanted) in ids.iter_mut().zip(wanted) {
            if wanted != KEEP {
                *id = wanted;
            }
        }
        Ok(())
    }

    pub(in crate::sandbox) fn setuid(&mut self, id: u32) -> Result<(), Errno> {
        self.set_users(|users, root| Self::set_one(users, id, root))
    }

    pub(in crate::sandbox) fn setgid(&mut self, id: u32) -> Result<(), Errno> {
        let root = self.is_root();
        Self::set_one(&mut self.groups, id, root)
    }

    pub(in crate::sandbox) fn setreuid(&mut self, ids: [u32; 2]) -> Result<(), Errno> {
        self.set_users(|users, root| Self::set_two(users, ids, root))
    }

    pub(in crate::sandbox) fn setregid(&mut self, ids: [u32; 2]) -> Result<(), Errno> {
        let root = self.is_root();
        Self::set_two(&mut self.groups, ids, root)
    }

    pub(in crate::sandbox) fn setresuid(&mut self, ids: [u32; 3]) -> Result<(), Errno> {
        self.set_users(|users, root| Self::set_three(users, ids, root))
    }

    pub(in crate::sandbox) fn setresgid(&mut self, ids: [u32; 3]) -> Result<(), Errno> {
        let root = self.is_root();
        Self::set_three(&mut self.groups, ids, root)
    }

    pub(in crate::sandbox) fn setgroups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.is_root() {
            return Err(Errno::PERM);
        }
        self.supplementary = groups;
        Ok(())
    }
}

/// The identities of a step; number 0 is that of its first program.
#[derive(Debug)]
pub(in crate::sandbox) struct Identities {
    known: Vec<Identity>,
    all_root: bool,
    carrier: Carrier,
}

/// What of a thread carries the number of its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Slack,
    TimeLimit,
}

impl Identities {
    pub(in crate::sandbox) fn new(first: Identity) -> Self {
        let root = Identity::new(0, 0, Vec::new());
        Self {
            all_root: first.users == [0; 3],
            known: vec![first, root],
            carrier: Carrier::Slack,
        }
    }

    /// The same for who has no privilege.
    pub(in crate::sandbox) fn without_privilege(first: Identity) -> Self {
        Self {
            carrier: Carrier::TimeLimit,
            ..Self::new(first)
        }
    }

    /// Whether there is nobody but root, and never was, nor anybody who wants to keep its capabilities.
    pub(in crate::sandbox) fn all_root(&self) -> bool {
        self.all_root
    }

    fn file(thread: u32) -> PathBuf {
        format!("{thread}/timerslack_ns").into()
    }

    /// The number that a thread carries.
    fn number(&self, thread: u32) -> Option<usize> {
        let number = match self.carrier {
            Carrier::Slack => {
                let slack = std::fs::read_to_string(Self::file(thread)).ok()?;
                slack.trim().parse::<u64>().ok()?.checked_sub(BASE_SLACK)
            }
            Carrier::TimeLimit => {
                let (soft, _) = time_limit(thread)?;
                u64::MAX.checked_sub(soft)
            }
        };
        usize::try_from(number?).ok()
    }

    /// The identity of a thread. The working directory must be `/proc`.
    pub(in crate::sandbox) fn of(&self, thread: u32) -> &Identity {
        // With one identity there is nothing to find out.
        if self.carrier == Carrier::TimeLimit && self.known.len() == 2 && self.all_root {
            return &self.known[0];
        }
        // A program that sets its slack itself loses its identity for that of the step's first program.
        self.number(thread)
            .and_then(|number| self.known.get(number))
            .unwrap_or(&self.known[0])
    }

    /// Gives a thread another identity.
    pub(in crate::sandbox) fn set(&mut self, thread: u32, identity: Identity) -> Result<(), Errno> {
        let number = match self.known.iter().position(|known| *known == identity) {
            Some(number) => number,
            None if self.known.len() < MAX => {
                self.all_root &= identity.users == [0; 3] && !identity.keeps;
                self.known.push(identity);
                self.known.len() - 1
            }
            None => return Err(Errno::AGAIN),
        };
        let number = number as u64;
        match self.carrier {
            Carrier::Slack => {
                let slack = BASE_SLACK + number;
                std::fs::write(Self::file(thread), slack.to_string())
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))
            }
            Carrier::TimeLimit => {
                let (_, hard) = time_limit(thread).ok_or(Errno::SRCH)?;
                set_time_limit(thread, (u64::MAX - number, hard))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_takes_on_any_id_and_others_their_own() {
        let mut id = Identity::new(0, 0, vec![10]);
        id.setgroups(vec![1, 2]).unwrap();
        id.setresgid([33, 33, 33]).unwrap();
        id.setresuid([KEEP, 33, KEEP]).unwrap();
        assert_eq!((id.users, id.groups), ([0, 33, 0], [33; 3]));
        assert_eq!(id.setgroups(vec![]), Err(Errno::PERM));
        assert_eq!(id.setresuid([5, 5, 5]), Err(Errno::PERM));
        id.setuid(0).unwrap();
        assert!(id.is_root());
        id.setuid(33).unwrap();
        assert_eq!(id.users, [33; 3]);
        assert_eq!(id.setuid(0), Err(Errno::PERM));
        assert_eq!(id.setgid(KEEP), Err(Errno::INVAL));
    }

    #[test]
    fn who_keeps_capabilities_may_still_change_groups() {
        let mut id = Identity::new(0, 0, vec![]);
        id.keeps = true;
        id.setresuid([33, 33, 33]).unwrap();
        assert_eq!(id.user(), 33);
        id.setresgid([34, 34, 34]).unwrap();
        let mut next = id.in_new_program();
        assert_eq!(next.setresgid([35, 35, 35]), Err(Errno::PERM));
    }

    #[test]
    fn setreuid_moves_the_saved_id_along() {
        let mut id = Identity::new(0, 0, vec![]);
        id.setreuid([1000, 1000]).unwrap();
        assert_eq!(id.users, [1000; 3]);
        let mut id = Identity::new(0, 0, vec![]);
        id.setreuid([KEEP, 1000]).unwrap();
        assert_eq!(id.users, [0, 1000, 1000]);
        id.setreuid([1000, 0]).unwrap();
        assert_eq!(id.users, [1000, 0, 0]);
    }
}
