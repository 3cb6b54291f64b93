//! What can go wrong before a step's process runs, as values.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A step could not be run. That its process failed is no error but an [`Exit`](super::Exit).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The helper process could not be started, or did not do as agreed.
    #[error("cannot {action} the sandbox helper")]
    Helper {
        /// What was tried: `start`, `talk to`, `wait for`.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The helper ended without a word: it was killed, or is of another version.
    #[error("the sandbox helper ended unexpectedly: {status}")]
    HelperDied {
        /// How it ended.
        status: String,
    },
    /// The kernel refused something that the sandbox is made of.
    #[error("{0}")]
    Setup(Failure),
    /// A path that no file can have.
    #[error("the {what} {path:?} holds a NUL byte")]
    Nul {
        /// What is there: `working directory`, `mount target`.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A value that cannot be acted on, such as an unknown resource limit.
    #[error("{0}")]
    Invalid(String),
}

/// What the sandbox tried and could not do, as told by the process that tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was tried, in words: `mount the overlay`, `enter new namespaces`.
    pub action: String,
    /// On what, if that helps: a path in the root or of the host.
    #[serde(with = "option_path")]
    pub path: Option<PathBuf>,
    /// The error number.
    pub errno: i32,
}

impl Failure {
    /// `action` failed with `error`.
    pub fn new(action: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self {
            action: action.into(),
            path: None,
            errno: error.into().raw_os_error().unwrap_or(0),
        }
    }

    /// The same, said of a path.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    /// The error of the operating system.
    pub fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}", self.action)?;
        if let Some(path) = &self.path {
            write!(f, " `{}`", path.display())?;
        }
        // The text of `io::Error` ends in "(os error 13)", which helps those who search for it.
        if self.errno != 0 {
            write!(f, ": {}", self.error())?;
        }
        Ok(())
    }
}

/// Names the attempt that an error of the operating system belongs to.
pub(super) trait During<T> {
    /// Turns the error into a [`Failure`] to do `action`.
    fn during(self, action: &str) -> Result<T, Failure>;

    /// The same for an action on `path`.
    fn during_at(self, action: &str, path: &Path) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, action: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(action, error))
    }

    fn during_at(self, action: &str, path: &Path) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(action, error).at(path))
    }
}

mod option_path {
    use std::path::PathBuf;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::sandbox::wire;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Text(#[serde(with = "wire::path")] PathBuf);

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => to.serialize_some(&Text(path.clone())),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|t| t.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_where_and_why() {
        let failure = Failure::new("mount tmpfs on", io::Error::from_raw_os_error(1)).at("/dev");
        assert_eq!(
            failure.to_string(),
            "cannot mount tmpfs on `/dev`: Operation not permitted (os error 1)"
        );
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
    }
}
