//! What can go wrong with a registry or another HTTP server: every refusal and every lie has a variant.

use std::{io, path::PathBuf, time::Duration};

use crate::oci::{Digest, Platform};

/// Why a transfer failed. Every variant that a server caused names its host; no variant holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server wants other credentials than were sent, or the ones sent do not suffice.
    #[error("{host} denied {what} ({status}, {credentials}){}", detail(message))]
    Unauthorized {
        /// The server.
        host: String,
        /// What was asked for: `pull of library/alpine`.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Whose credentials were sent, and where they came from.
        credentials: String,
        /// The server's own words.
        message: String,
    },
    /// There is no such manifest, blob or file.
    #[error("{what}: not found on {host}{}", detail(message))]
    NotFound {
        /// The server.
        host: String,
        /// The reference or blob.
        what: String,
        /// The server's own words.
        message: String,
    },
    /// The server wants fewer requests, and retrying did not help.
    #[error("{host} limits the rate of requests ({credentials}){}{}", wait(*retry_after), detail(message))]
    RateLimited {
        /// The server.
        host: String,
        /// Whose credentials were sent, and where they came from.
        credentials: String,
        /// How long it wants us to wait.
        retry_after: Option<Duration>,
        /// The server's own words.
        message: String,
    },
    /// Any other answer than the expected one.
    #[error("{method} {url}: {status}{}", detail(message))]
    Status {
        /// The server.
        host: String,
        /// The method of the request.
        method: String,
        /// Its URL, without secrets.
        url: String,
        /// The status.
        status: u16,
        /// The registry's error code, such as `MANIFEST_INVALID`; empty when it gave none.
        code: String,
        /// The server's own words, the code included.
        message: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{host} served {what} with digest {actual} instead of {expected}")]
    DigestMismatch {
        /// The server.
        host: String,
        /// The reference or blob.
        what: String,
        /// The digest asked for or declared.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// There are more or other many bytes than the descriptor says.
    #[error("{host} served {actual} bytes of {what} instead of {expected}")]
    SizeMismatch {
        /// The server.
        host: String,
        /// The blob.
        what: String,
        /// The size in the descriptor.
        expected: u64,
        /// The size that was declared, or reached before giving up.
        actual: u64,
    },
    /// The bytes ended early, again and again.
    #[error("{host} ended {what} after {actual} of {expected} bytes")]
    Truncated {
        /// The server.
        host: String,
        /// The blob.
        what: String,
        /// The size in the descriptor.
        expected: u64,
        /// What arrived.
        actual: u64,
    },
    /// An answer is larger than any honest one.
    #[error("{host} served more than {limit} bytes as {what}")]
    TooLarge {
        /// The server.
        host: String,
        /// What was asked for.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A document's own media type contradicts the one that was promised.
    #[error("{host} served {what} as `{promised}` but it says `{actual}`")]
    WrongMediaType {
        /// The server.
        host: String,
        /// The reference.
        what: String,
        /// The type in the header or descriptor.
        promised: String,
        /// The type in the document.
        actual: String,
    },
    /// A document or answer cannot be understood.
    #[error("{host} served {what} that is malformed: {reason}")]
    Malformed {
        /// The server.
        host: String,
        /// The document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image exists in Docker's first format only, which nothing produces since 2017.
    #[error(
        "{what} on {host} is in the obsolete schema 1 format; push it again with a current tool"
    )]
    Schema1 {
        /// The server.
        host: String,
        /// The reference.
        what: String,
    },
    /// The image has nothing for the platform.
    #[error("{what} has no image for {wanted}; it has {}", list(available))]
    NoPlatform {
        /// The reference.
        what: String,
        /// The platform asked for.
        wanted: Box<Platform>,
        /// The platforms it has.
        available: Vec<Platform>,
    },
    /// No trusted connection could be made.
    #[error("no trusted connection to {host}: {reason}")]
    Tls {
        /// The server.
        host: String,
        /// Why.
        reason: String,
    },
    /// No connection could be made, or it broke.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        host: String,
        /// Why.
        reason: String,
        /// Whether the connection was made and broke later.
        connected: bool,
    },
    /// It was connected to, and too little came for too long.
    #[error("{host} {}: {what}", pace(*n_bytes, *time))]
    TooSlow {
        /// The server.
        host: String,
        /// What was waited for.
        what: String,
        /// What came in this time,
        n_bytes: u64,
        /// which was waited.
        time: Duration,
    },
    /// The server sends us where we will not go.
    #[error("{host} redirects to {target}: {reason}")]
    Redirect {
        /// The server.
        host: String,
        /// Where to, without secrets.
        target: String,
        /// Why not.
        reason: &'static str,
    },
    /// The configuration forbids the registry.
    #[error("{what} is blocked by the entry `{prefix}` of registries.conf")]
    Blocked {
        /// The reference.
        what: String,
        /// The prefix of the entry.
        prefix: String,
    },
    /// A credential helper failed.
    #[error("docker-credential-{name} (named in {origin}): {reason}")]
    Helper {
        /// The helper, without `docker-credential-`.
        name: String,
        /// The file that names it.
        origin: String,
        /// What it said, or why it could not be run.
        reason: String,
    },
    /// A certificate or key that was configured cannot be used.
    #[error("certificate {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("{what} `{value}`: {reason}")]
    Setting {
        /// Which.
        what: &'static str,
        /// Its value, without secrets.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The work was called off.
    #[error("canceled")]
    Canceled,
    /// Our own side of the transfer failed: the blob could not be read, or what arrived not be kept.
    #[error("cannot {action} {what}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The blob or file.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether a remote said no, or could not be reached or trusted, as opposed to our own side's failure.
    pub fn is_remote(&self) -> bool {
        !matches!(
            self,
            Self::Io { .. }
                | Self::Setting { .. }
                | Self::Certificate { .. }
                | Self::Helper { .. }
                | Self::Blocked { .. }
                | Self::NoPlatform { .. }
                | Self::Canceled
        )
    }

    /// The same, for somebody else who has waited for the same server meanwhile.
    pub(super) fn shared(&self) -> Option<Self> {
        match self {
            Self::Unreachable {
                host,
                reason,
                connected,
            } => Some(Self::Unreachable {
                host: host.clone(),
                reason: reason.clone(),
                connected: *connected,
            }),
            Self::TooSlow {
                host,
                what,
                n_bytes,
                time,
            } => Some(Self::TooSlow {
                host: host.clone(),
                what: what.clone(),
                n_bytes: *n_bytes,
                time: *time,
            }),
            _ => None,
        }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// A failed attempt: the error, and whether another attempt may help.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) transient: bool,
    /// What the server asked for with `Retry-After`.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// Another attempt may help.
    pub(super) fn transient(error: Error) -> Self {
        Self {
            error,
            transient: true,
            retry_after: None,
        }
    }
}

impl Failure {
    /// Says what was waited for, where nothing came: the request itself tells its address alone.
    pub(super) fn about(mut self, thing: &str) -> Self {
        if let Error::TooSlow { what, .. } = &mut self.error {
            thing.clone_into(what);
        }
        self
    }
}

/// An error that another attempt would only repeat.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            transient: false,
            retry_after: None,
        }
    }
}

fn detail(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

fn pace(n_bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs();
    match n_bytes {
        0 => format!("has sent nothing for {seconds} s"),
        _ => format!("sends too slowly, {n_bytes} bytes in {seconds} s"),
    }
}

fn wait(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| {
        format!(", it asks to wait {} s", time.as_secs())
    })
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
