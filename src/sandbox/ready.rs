//! Helpers before and after their steps: one that has run a step and is as it was before runs the next one, one that is
//! started ahead saves a step the wait, and nobody waits for one that only has to end.

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

/// Starts helpers and sees them end. Dropping it ends those that have nothing to do: they find their socket closed.
#[derive(Debug)]
pub(super) struct Ready {
    program: PathBuf,
    waiting: Mutex<Vec<Helper>>,
    ending: Mutex<Vec<Child>>,
}

impl Ready {
    pub(super) const fn new(program: PathBuf) -> Self {
        Self {
            program,
            waiting: Mutex::new(Vec::new()),
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
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The terminal's interrupt is for the program, which then cancels.
            .process_group(0)
            .spawn()?;
        Ok((child, ours))
    }

    /// Starts a helper for a step to come, unless one waits.
    pub(super) fn prepare(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            // When it fails, so will the step's own attempt, which tells.
            waiting.extend(self.start(ROLE).ok());
        }
    }

    /// A helper that waits, or a new one. One that somebody has killed meanwhile is no helper.
    pub(super) fn take(&self) -> io::Result<Helper> {
        match self.take_waiting() {
            Some(helper) => Ok(helper),
            None => self.start(ROLE),
        }
    }

    /// A helper that waits, if there is one.
    pub(super) fn take_waiting(&self) -> Option<Helper> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((mut child, socket)) = waiting.pop() {
            if matches!(child.try_wait(), Ok(None)) {
                return Some((child, socket));
            }
        }
        None
    }

    /// Takes back a helper that waits for another step.
    pub(super) fn give_back(&self, helper: Helper) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(helper);
    }

    /// Takes over a helper that is about to end.
    pub(super) fn see_off(&self, child: Child) {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        ending.push(child);
    }

    /// Tells the helpers that wait to end.
    pub(super) fn dismiss(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        for (child, socket) in waiting {
            drop(socket);
            self.see_off(child);
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.dismiss();
        let ending = self
            .ending
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for child in ending {
            let _gone = child.wait().is_ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_was_killed_is_replaced() {
        // Ends when its socket is closed, as helpers do.
        let ready = Ready::new("/bin/cat".into());
        let (mut killed, socket) = ready.take().unwrap();
        let id = killed.id();
        killed.kill().unwrap();
        killed.wait().unwrap();
        ready.give_back((killed, socket));
        let (mut child, socket) = ready.take().unwrap();
        assert_ne!(child.id(), id);
        assert!(matches!(child.try_wait(), Ok(None)));
        ready.give_back((child, socket));
    }
}
