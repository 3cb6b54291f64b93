//! The process's surroundings, taken once: variables, user, streams. Everything after this point gets them as values.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::IsTerminal as _,
    path::PathBuf,
};

use super::diagnostics::Failure;

/// What the program was started in.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// The effective user.
    pub(crate) uid: u32,
    /// Whether standard error is a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether there is no standard output.
    pub(crate) stdout_is_closed: bool,
}

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            uid: rustix::process::geteuid().as_raw(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stdout_is_closed: super::sys::stdout_was_closed(),
        }
    }

    /// Refuses to write an archive to standard output where it would be lost, or do harm. `instead` says what to do.
    pub(crate) fn takes_archive(&self, instead: &str) -> Result<(), Failure> {
        let refused = if self.stdout_is_terminal {
            "an archive is not written to a terminal"
        } else if self.stdout_is_closed {
            "an archive cannot be written to standard output, which is closed"
        } else {
            return Ok(());
        };
        Err(Failure::usage(refused).with_hint(format!("redirect standard output, or {instead}")))
    }

    /// All variables.
    pub(crate) fn variables(&self) -> Vec<(OsString, OsString)> {
        let pairs = self.variables.iter();
        pairs.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// A variable; an empty one counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable that may be empty.
    pub(crate) fn get_raw(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
    }

    /// A variable as text; one that is not UTF-8 counts as not set.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(OsStr::to_str)
    }

    /// A variable that is a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// The home directory; without `$HOME`, none.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.path("HOME")
    }

    /// An environment for tests.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)], uid: u32) -> Self {
        Self {
            variables: variables
                .iter()
                .map(|(k, v)| (OsString::from(k), OsString::from(v)))
                .collect(),
            uid,
            stderr_is_terminal: false,
            stdout_is_terminal: false,
            stdout_is_closed: false,
        }
    }
}
