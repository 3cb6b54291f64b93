//! Helpers before and after their step: one that is started ahead saves the next step the wait, and nobody waits for
//! one that has reported and only has to end.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use super::helper::ROLE;

/// A helper, and the socket that it listens on.
pub(super) type Helper = (Child, UnixStream);

/// Starts helpers and sees them end. Dropping it ends those that were started in vain: they find their socket closed.
#[derive(Debug)]
pub(super) struct Ready {
    program: PathBuf,
    waiting: Mutex<Option<Helper>>,
    ending: Mutex<Vec<Child>>,
}

impl Ready {
    pub(super) const fn new(program: PathBuf) -> Self {
        Self {
            program,
            waiting: Mutex::new(None),
            ending: Mutex::new(Vec::new()),
        }
    }

    /// Starts the program under the name of a role.
    pub(super) fn start(&self, role: &str) -> io::Result<Helper> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(&self.program)
            .arg0(role)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's interrupt is for the program, which then cancels.
            .process_group(0)
            .spawn()?;
        Ok((child, ours))
    }

    /// Starts a helper for a step to come, unless one waits.
    pub(super) fn prepare(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_none() {
            // When it fails, so will the step's own attempt, which tells.
            *waiting = self.start(ROLE).ok();
        }
    }

    /// The helper that waits, or a new one.
    pub(super) fn take(&self) -> io::Result<Helper> {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.take()
        };
        match waiting {
            Some(helper) => Ok(helper),
            None => self.start(ROLE),
        }
    }

    /// Takes over a helper that is about to end.
    pub(super) fn see_off(&self, child: Child) {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        ending.push(child);
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let waiting = self
            .waiting
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let ending = self
            .ending
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        ending.extend(waiting.take().map(|(child, _)| child));
        for child in ending {
            let _gone = child.wait().is_ok();
        }
    }
}
