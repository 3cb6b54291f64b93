//! What the caller decides about registries. Plain data: nothing here reads a file or the environment.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use super::{credentials::Credentials, mirrors::RegistriesConf, redact::redacted_text};

/// How to talk to registries and other HTTP servers. The default trusts the system's certificates and Mozilla's,
/// knows no credentials, mirrors or proxies, and retries patiently.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `User-Agent` of every request.
    pub user_agent: String,
    /// Where credentials are looked up.
    pub credentials: Credentials,
    /// `registries.conf`: rewrites, mirrors, insecure and blocked registries.
    pub registries: RegistriesConf,
    /// Mirrors of `docker.io` (`--registry-mirror`), `host[:port][/path]` with or without a scheme; tried in order
    /// before those of [`Settings::registries`].
    pub mirrors: Vec<String>,
    /// Hosts that may be spoken to without TLS or with certificates that nobody vouches for.
    pub insecure: Vec<String>,
    /// Directories with one directory for each `host[:port]`, holding `*.crt` (authorities to trust) and
    /// `*.cert` with `*.key` (to show as a client). For a host, the first one that has its directory counts.
    pub certs_d: Vec<PathBuf>,
    /// Authorities to trust everywhere, in PEM.
    pub extra_ca: Vec<PathBuf>,
    /// Authorities to trust for one `host[:port]`, in PEM.
    pub registry_ca: Vec<(String, PathBuf)>,
    /// The system's authorities.
    pub trust: Trust,
    /// Proxies.
    pub proxies: Proxies,
    /// How patient to be.
    pub retry: Retry,
    /// How long to wait for things.
    pub timeouts: Timeouts,
    /// Uploads blobs in pieces of this many bytes, for proxies that limit the size of a request. Without it,
    /// pieces are used only after a server answered 413.
    pub chunk_bytes: Option<u64>,
    /// Takes remarks that are no errors: a mirror that was skipped, a helper that is missing.
    pub warn: Option<Warn>,
    /// Asked now and then whether to stop; requests under way then end with [`Error::Canceled`](super::Error).
    pub canceled: Option<Canceled>,
}

/// Tells whether the work was called off.
#[derive(Clone)]
pub struct Canceled(pub Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Canceled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canceled")
    }
}

/// Takes a remark of one line, without secrets.
#[derive(Clone)]
pub struct Warn(pub Arc<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for Warn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Warn")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            credentials: Credentials::default(),
            registries: RegistriesConf::default(),
            mirrors: Vec::new(),
            insecure: Vec::new(),
            certs_d: Vec::new(),
            extra_ca: Vec::new(),
            registry_ca: Vec::new(),
            trust: Trust::default(),
            proxies: Proxies::default(),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            chunk_bytes: None,
            warn: None,
            canceled: None,
        }
    }
}

/// Which authorities the system trusts. Mozilla's are used when there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// A file with authorities in PEM (`$SSL_CERT_FILE`); without it the well-known places are tried.
    pub file: Option<PathBuf>,
    /// Directories of such files with hashed names (`$SSL_CERT_DIR`).
    pub dirs: Vec<PathBuf>,
}

/// Proxies, as the usual environment variables give them. Loopback addresses are never proxied.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://` (`$http_proxy`).
    pub http: Option<String>,
    /// For `https://` (`$HTTPS_PROXY`).
    pub https: Option<String>,
    /// For both where the above say nothing (`$ALL_PROXY`); `socks5://` works too.
    pub all: Option<String>,
    /// Hosts, domains, addresses and networks that are reached directly (`$NO_PROXY`), separated by commas.
    pub no_proxy: String,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |proxy: &Option<String>| proxy.as_deref().map(redacted_text);
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("all", &shown(&self.all))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// How often and how soon to try again. Refusals are never retried; 408, 425, 429, 5xx, timeouts and broken
/// connections are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many attempts there are in all; at least one.
    pub attempts: u32,
    /// The delay after the first attempt; it doubles with each further one, give or take a fifth.
    pub base: Duration,
    /// The longest such delay.
    pub max: Duration,
    /// The longest `Retry-After` that is waited for; a longer one ends the attempts.
    pub max_retry_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_secs(1),
            max: Duration::from_mins(1),
            max_retry_after: Duration::from_mins(2),
        }
    }
}

/// How long to wait. There is no limit on a whole transfer, only on its pauses, and on how slowly it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of an answer, and between two pieces of a body; so much waiting has to bring half a KiB a second.
    pub idle: Duration,
    /// For the answer to an upload once all of it was sent; some stores hash the blob again before they answer.
    pub commit: Duration,
    /// For a credential helper.
    pub helper: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            commit: Duration::from_mins(5),
            helper: Duration::from_secs(10),
        }
    }
}
