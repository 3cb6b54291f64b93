//! What a call of the program gave.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Status and output of one call. Printing it tells all that a failed test needs.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    command: String,
    dir: PathBuf,
}

impl Outcome {
    pub(crate) fn of(command: &mut Command, dir: &Path) -> Self {
        let output = command.output().expect("the program starts");
        Self::new(&output, format!("{command:?}"), dir)
    }

    pub(crate) fn new(output: &Output, command: String, dir: &Path) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            command,
            dir: dir.to_owned(),
        }
    }

    /// The call succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.exits(0)
    }

    /// The call ended with this status.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit status\n{self}");
        self
    }

    /// Standard error has this text.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}\n{self}");
        self
    }

    /// Standard output has this text.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "stdout lacks {text:?}\n{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {}", self.command)?;
        writeln!(f, "--- stdout\n{}", self.stdout)?;
        writeln!(f, "--- stderr\n{}", self.stderr)?;
        writeln!(f, "--- status {:?}, files", self.code)?;
        tree(f, &self.dir, 0)
    }
}

/// Lists a directory, a few levels deep.
fn tree(f: &mut fmt::Formatter<'_>, dir: &Path, depth: usize) -> fmt::Result {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().take(20) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        writeln!(f, "{}{name}", "  ".repeat(depth))?;
        if depth < 3 && path.is_dir() && !path.is_symlink() {
            tree(f, path, depth + 1)?;
        }
    }
    Ok(())
}
