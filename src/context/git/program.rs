//! Calls of the `git` program: with nothing of the user's settings, and with secrets where other users cannot see them.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::Engine as _;

use super::{GitError, GitSettings, GitSource, process};

/// As much of the program's complaints as is shown.
const MAX_MESSAGE_BYTES: usize = 2000;

/// How long a server may be silent, in seconds. One that counts objects says every few seconds that it is still there.
const SILENCE: u32 = 300;

/// The program, for one repository and the directory of its copy.
pub(super) struct Git<'a> {
    pub(super) source: &'a GitSource,
    pub(super) settings: &'a GitSettings,
    pub(super) dir: &'a Path,
}

impl Git<'_> {
    /// The one line that a command prints.
    pub(super) fn line<'a>(
        &self,
        action: &'static str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<String, GitError> {
        let out = self.run(action, args)?;
        Ok(String::from_utf8_lossy(&out).trim().to_owned())
    }

    /// Runs the program in the copy; gives what it prints. `action` is what it is for, in messages.
    pub(super) fn run<'a>(
        &self,
        action: &'static str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<u8>, GitError> {
        self.run_in(Some(self.dir), action, args)
    }

    /// Runs it in a copy, or in none.
    pub(super) fn run_in<'a>(
        &self,
        repository: Option<&Path>,
        action: &'static str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<u8>, GitError> {
        let mut command = Command::new(self.program());
        if let Some(dir) = repository {
            command.arg("-C").arg(dir);
        } else {
            command.current_dir("/");
        }
        command
            .args(args)
            .env_clear()
            .envs(self.settings.env.iter().map(|(k, v)| (k, v)))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CEILING_DIRECTORIES", self.dir)
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .env("GIT_SSH_COMMAND", self.ssh_command())
            .envs(self.config())
            .stdin(Stdio::null());
        let remote = self.source.display_remote();
        let canceled =
            || (self.settings.canceled.as_ref()).is_some_and(|is_canceled| is_canceled());
        let output = process::output(command, &canceled).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => GitError::NoGit {
                remote: remote.clone(),
            },
            io::ErrorKind::Interrupted => GitError::Canceled {
                remote: remote.clone(),
            },
            _ => GitError::Io {
                action: "run git",
                remote: remote.clone(),
                source,
            },
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(GitError::Failed {
            action,
            message: self.complaint(&output.stderr),
            remote,
        })
    }

    /// The program, looked for in the `PATH` given rather than in that of this process.
    fn program(&self) -> OsString {
        let path = self.settings.env.iter().find(|(name, _)| name == "PATH");
        path.into_iter()
            .flat_map(|(_, dirs)| std::env::split_paths(dirs))
            .map(|dir| dir.join("git"))
            .find(|program| program.is_file())
            .map_or_else(|| "git".into(), PathBuf::into_os_string)
    }

    fn ssh_command(&self) -> OsString {
        let mut command = OsString::from("ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=");
        command.push(self.silence().to_string());
        // Three of them without an answer end a connection.
        command.push(" -o ServerAliveInterval=60 -o UserKnownHostsFile=");
        match &self.settings.known_hosts {
            Some(file) => {
                command.push(shell_quoted(file.as_os_str()));
            }
            None => command.push("/dev/null -o StrictHostKeyChecking=no"),
        }
        command
    }

    fn silence(&self) -> u32 {
        self.settings.silence.unwrap_or(SILENCE)
    }

    /// Configuration by environment variables, which other users cannot see.
    fn config(&self) -> Vec<(String, String)> {
        let mut entries = vec![
            ("advice.detachedHead".to_owned(), "false".to_owned()),
            ("core.autocrlf".to_owned(), "false".to_owned()),
            // A log would say when the copy was made.
            ("core.logAllRefUpdates".to_owned(), "false".to_owned()),
            ("core.hooksPath".to_owned(), "/dev/null".to_owned()),
            ("gc.auto".to_owned(), "0".to_owned()),
            // Otherwise a server that hangs is waited for as long as the connection lasts.
            ("http.lowSpeedLimit".to_owned(), "1".to_owned()),
            ("http.lowSpeedTime".to_owned(), self.silence().to_string()),
        ];
        let authorization = match (&self.settings.header, &self.settings.token) {
            (Some(header), _) => Some(header.clone()),
            (None, Some(token)) => {
                let pair = format!("x-access-token:{token}");
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                Some(format!("basic {encoded}"))
            }
            (None, None) => None,
        };
        if let (Some(value), Some(server)) = (authorization, server(&self.source.remote)) {
            entries.push((
                format!("http.{server}.extraheader"),
                format!("Authorization: {value}"),
            ));
            // Git sends the header to the server that it is led to, too, whatever its name.
            entries.push((format!("http.{server}.followRedirects"), "false".to_owned()));
        }
        let mut env = vec![("GIT_CONFIG_COUNT".to_owned(), entries.len().to_string())];
        for (i, (key, value)) in entries.into_iter().enumerate() {
            env.push((format!("GIT_CONFIG_KEY_{i}"), key));
            env.push((format!("GIT_CONFIG_VALUE_{i}"), value));
        }
        env
    }

    /// The end of what the program said, a password in the repository's name taken out.
    fn complaint(&self, stderr: &[u8]) -> String {
        let start = stderr.len().saturating_sub(MAX_MESSAGE_BYTES);
        let mut message = String::from_utf8_lossy(&stderr[start..])
            .trim()
            .replace(&self.source.remote, &self.source.display_remote());
        // What stands in front of a host of the web is a password, or a token.
        if let Some(user) = user_of(&self.source.remote) {
            message = message.replace(&format!("{user}@"), "xxxxx@");
        }
        let has_secret = self.settings.header.is_some() || self.settings.token.is_some();
        if has_secret && message.contains("returned error: 30") {
            message.push_str(" (a token goes nowhere else: name the place that it redirects to)");
        }
        message
    }
}

/// What stands in front of the host of a web address.
fn user_of(remote: &str) -> Option<&str> {
    let (scheme, rest) = remote.split_once("://")?;
    let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
    (matches!(scheme, "http" | "https") && !user.is_empty()).then_some(user)
}

/// `https://host/` of a web address.
fn server(remote: &str) -> Option<String> {
    let (scheme, rest) = remote.split_once("://")?;
    let host = rest.split('/').next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    matches!(scheme, "http" | "https").then(|| format!("{scheme}://{host}/"))
}

fn shell_quoted(text: &OsStr) -> OsString {
    let mut quoted = OsString::from("'");
    for (i, part) in text.as_encoded_bytes().split(|b| *b == b'\'').enumerate() {
        if i > 0 {
            quoted.push("'\\''");
        }
        quoted.push(OsStr::from_bytes(part));
    }
    quoted.push("'");
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_the_web_are_taken_for_secrets() {
        for (remote, user) in [
            ("https://me:secret@host/a.git", Some("me:secret")),
            ("https://token@host/a.git", Some("token")),
            ("https://host/a@b.git", None),
            ("ssh://git@host/a", None),
            ("git@host:a", None),
        ] {
            assert_eq!(user_of(remote), user, "{remote}");
        }
    }
}
