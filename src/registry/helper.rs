//! Credential helpers: programs named `docker-credential-NAME` that keep credentials elsewhere.
//!
//! The protocol: a verb as the only argument, input on stdin, JSON or nothing on stdout. Secrets travel through
//! pipes only, never in arguments. A helper has no terminal and must answer within a time limit. It has a process group of its own,
//! since most are scripts around other programs: what is given up ends with all that it started.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use super::{
    credentials::{Credential, server_key},
    error::Error,
    redact::printable,
};

/// How much a helper may say.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How long the end of a stream may take after the helper itself has ended.
const LINGER: Duration = Duration::from_millis(300);

/// A program that keeps credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Helper {
    name: String,
    origin: String,
    dirs: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helper {
    /// The helper `docker-credential-NAME`, looked for in `dirs`; `origin` is the file that names it.
    pub fn new(name: &str, origin: &str, dirs: &[PathBuf]) -> Self {
        Self {
            name: name.to_owned(),
            origin: origin.to_owned(),
            dirs: dirs.to_vec(),
        }
    }

    /// Its name, without `docker-credential-`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The credential it has for a server, if it has one. `server` is a key as [`server_key`] makes it.
    /// Once `is_canceled` says so, it is not waited for any longer.
    pub fn get(
        &self,
        server: &str,
        limit: Duration,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<Option<Credential>, Error> {
        let output = match self.run("get", server.as_bytes(), limit, is_canceled)? {
            Outcome::Done(stdout) => stdout,
            Outcome::Refused(message) => {
                let message = message.to_lowercase();
                // What the helpers' common library says; each names the same thing a little differently.
                if message.contains("credentials not found") || message.contains("no credentials") {
                    return Ok(None);
                }
                return Err(self.error(printable(&message, 300)));
            }
        };
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_e: serde_json::Error| self.error("its answer is not what helpers say"))?;
        if answer.username.is_empty() && answer.secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::from_login(
            &answer.username,
            &answer.secret,
        )))
    }

    /// Lets it keep a credential for a registry.
    pub fn store(
        &self,
        registry: &str,
        credential: &Credential,
        limit: Duration,
    ) -> Result<(), Error> {
        let (username, secret) = match credential {
            Credential::Basic { username, password } => (username.as_str(), password),
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => {
                ("<token>", token)
            }
        };
        let input = serde_json::json!({
            "ServerURL": server_key(registry),
            "Username": username,
            "Secret": secret.expose(),
        });
        self.run("store", input.to_string().as_bytes(), limit, &|| false)?
            .done(self)
    }

    /// Lets it forget the credential of a registry.
    pub fn erase(&self, registry: &str, limit: Duration) -> Result<(), Error> {
        self.run("erase", server_key(registry).as_bytes(), limit, &|| false)?
            .done(self)
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::Helper {
            name: self.name.clone(),
            origin: self.origin.clone(),
            reason: reason.into(),
        }
    }

    fn program(&self) -> Result<PathBuf, Error> {
        let usable = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if !usable(&self.name) {
            return Err(self.error("its name is not that of a program"));
        }
        let file = format!("docker-credential-{}", self.name);
        self.dirs
            .iter()
            .map(|dir| dir.join(&file))
            .find(|path| path.is_file())
            .ok_or_else(|| self.error("there is no such program"))
    }

    fn run(
        &self,
        verb: &str,
        input: &[u8],
        limit: Duration,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<Outcome, Error> {
        let deadline = Instant::now() + limit;
        let failed = |e: io::Error| self.error(e.to_string());
        let mut command = Command::new(self.program()?);
        command
            .arg(verb)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = loop {
            match command.spawn() {
                Ok(child) => break child,
                // Somebody is just writing the program, or forked while they were.
                Err(e)
                    if e.kind() == io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(e) => return Err(failed(e)),
            }
        };
        let stdout = Collected::from(child.stdout.take());
        let stderr = Collected::from(child.stderr.take());
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input says why on stderr; input is far smaller than a pipe.
            stdin.write_all(input).ok();
        }
        let status = loop {
            match child.try_wait().map_err(failed)? {
                Some(status) => break status,
                None if is_canceled() => {
                    end(&mut child).map_err(failed)?;
                    return Err(Error::Canceled);
                }
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                None => {
                    end(&mut child).map_err(failed)?;
                    return Err(self.error(format!("no answer within {} s", limit.as_secs())));
                }
            }
        };
        let (stdout, stderr) = (stdout.take(), stderr.take());
        if status.success() {
            return Ok(Outcome::Done(stdout));
        }
        // Some helpers complain on stdout. Nothing on it is a secret when the call failed.
        let text = if stdout.is_empty() { &stderr } else { &stdout };
        let mut message = String::from_utf8_lossy(text).trim().to_owned();
        if message.is_empty() {
            message = status.to_string();
        }
        Ok(Outcome::Refused(message))
    }
}

/// Ends a helper with all that it started.
fn end(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // It may have ended by itself meanwhile. It is not reaped yet, so the number is still its own.
        kill_process_group(group, Signal::KILL).ok();
    }
    child.wait().map(|_| ())
}

/// What a helper writes, read on a thread so that neither side waits for the other.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    end: mpsc::Receiver<()>,
}

impl Collected {
    fn from<R: io::Read + Send + 'static>(stream: Option<R>) -> Self {
        let (sender, end) = mpsc::channel();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        if let Some(mut stream) = stream {
            let kept = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                // A stream that breaks off is judged by the exit status.
                while let Ok(n @ 1..) = stream.read(&mut piece) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() < MAX_ANSWER_BYTES {
                        kept.extend_from_slice(&piece[..n]);
                    }
                }
                // Nobody may be listening any more.
                sender.send(()).ok();
            });
        }
        Self { bytes, end }
    }

    /// All that was written by a helper that has ended. A process that it left behind may keep the stream open, and
    /// is not waited for.
    fn take(self) -> Vec<u8> {
        self.end.recv_timeout(LINGER).ok();
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

enum Outcome {
    Done(Vec<u8>),
    Refused(String),
}

impl Outcome {
    fn done(self, helper: &Helper) -> Result<(), Error> {
        match self {
            Self::Done(_) => Ok(()),
            Self::Refused(message) => Err(helper.error(printable(&message, 300))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt as _,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    fn helper(name: &str, script: &str) -> (tempfile::TempDir, Helper) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own file");
        let helper = Helper::new(name, "config.json", &[dir.path().to_owned()]);
        (dir, helper)
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn answers_are_read() {
        let (_dir, h) = helper(
            "ok",
            r#"read url; printf '{"ServerURL":"%s","Username":"%s","Secret":"s3"}' "$url" "$1-$url""#,
        );
        let found = h
            .get("r.example", LIMIT, &|| false)
            .expect("helper answers");
        assert_eq!(found, Some(Credential::from_login("get-r.example", "s3")));
        let (_dir, h) = helper("idt", r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        let found = h
            .get("r.example", LIMIT, &|| false)
            .expect("helper answers");
        assert!(matches!(found, Some(Credential::IdentityToken(_))));
    }

    #[test]
    fn absence_is_no_error_and_errors_say_why() {
        let (_dir, h) = helper(
            "none",
            "echo 'credentials not found in native keychain'; exit 1",
        );
        assert_eq!(h.get("r.example", LIMIT, &|| false).expect("none"), None);
        let (_dir, h) = helper("locked", "echo 'keychain is locked' >&2; exit 1");
        let error = h
            .get("r.example", LIMIT, &|| false)
            .expect_err("refused")
            .to_string();
        assert_eq!(
            error,
            "docker-credential-locked (named in config.json): keychain is locked"
        );
        let (_dir, h) = helper("garbled", "echo '{\"Secret\": hunter2'");
        let error = h
            .get("r.example", LIMIT, &|| false)
            .expect_err("garbled")
            .to_string();
        assert!(
            error.contains("not what helpers say") && !error.contains("hunter2"),
            "{error}"
        );
        let h = Helper::new("absent", "config.json", &[]);
        let error = h
            .get("r.example", LIMIT, &|| false)
            .expect_err("absent")
            .to_string();
        assert!(error.ends_with("there is no such program"), "{error}");
        let h = Helper::new("../../x", "config.json", &["/tmp".into()]);
        assert!(h.get("r.example", LIMIT, &|| false).is_err());
    }

    #[test]
    fn a_helper_that_hangs_is_ended_with_all_that_it_started() {
        // The child would write a file if it lived on.
        let script = r#"(sleep 1.5; touch "$(dirname "$0")/alive") & sleep 100"#;
        let (dir, h) = helper("slow", script);
        let start = Instant::now();
        let error = h
            .get("r.example", Duration::from_millis(100), &|| false)
            .expect_err("slow");
        assert!(error.to_string().contains("no answer within"), "{error}");
        let has_begun = AtomicBool::new(false);
        let error = h
            .get("r.example", Duration::from_secs(100), &|| {
                has_begun.swap(true, Ordering::Relaxed)
            })
            .expect_err("called off");
        assert!(matches!(error, Error::Canceled), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!dir.path().join("alive").is_file());
    }

    #[test]
    fn a_process_that_a_helper_leaves_behind_is_not_waited_for() {
        let (_dir, h) = helper(
            "daemon",
            r#"sleep 100 & echo '{"Username":"u","Secret":"s"}'"#,
        );
        let start = Instant::now();
        let found = h
            .get("r.example", LIMIT, &|| false)
            .expect("helper answers");
        assert_eq!(found, Some(Credential::from_login("u", "s")));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn secrets_are_stored_through_stdin() {
        let (dir, h) = helper(
            "keep",
            r#"cat > "$(dirname "$0")/$1"; echo "$*" > "$(dirname "$0")/args""#,
        );
        let credential = Credential::from_login("me", "hunter2");
        h.store("docker.io", &credential, LIMIT).expect("stored");
        let stored = fs::read_to_string(dir.path().join("store")).expect("written");
        assert!(stored.contains("hunter2") && stored.contains("https://index.docker.io/v1/"));
        let args = fs::read_to_string(dir.path().join("args")).expect("written");
        assert_eq!(args, "store\n");
        h.erase("docker.io", LIMIT).expect("erased");
        let erased = fs::read_to_string(dir.path().join("erase")).expect("written");
        assert_eq!(erased, "https://index.docker.io/v1/");
    }
}
