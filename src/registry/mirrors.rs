//! `registries.conf` (version 2): where an image is really fetched from.
//!
//! The entry with the longest prefix that matches a reference decides. Its `location` replaces the prefix, its
//! mirrors are asked first, and only for pulls: a push goes to the registry that the reference names, as with
//! Podman. `insecure` and `blocked` hold for pushes too.
//!
//! A prefix is `host[:port][/path…]`, or `*.domain` for all hosts below a domain. It matches whole path
//! parts, and may go down to a tag or digest. Spec: containers-registries.conf(5).

mod parse;
#[cfg(test)]
mod tests;

pub use self::parse::{RegistriesError, parse_registries_conf};
use crate::reference::{self, Reference};

/// A parsed `registries.conf`, or several of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    /// Names of credential helpers to ask for every registry.
    pub credential_helpers: Vec<String>,
    /// The entries, in the order of the file.
    pub registries: Vec<Entry>,
}

/// What is said of the images below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which references it is about.
    pub prefix: String,
    /// What replaces the prefix; empty leaves the reference as it is.
    pub location: String,
    /// Whether plain HTTP and unverified certificates are fine.
    pub insecure: bool,
    /// Whether such images must not be used.
    pub blocked: bool,
    /// Where to ask first.
    pub mirrors: Vec<Mirror>,
}

/// A place that has copies of a registry's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// What replaces the prefix.
    pub location: String,
    /// Whether plain HTTP and unverified certificates are fine.
    pub insecure: bool,
    /// For which references.
    pub pulls: Pulls,
}

/// Which references a mirror is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pulls {
    /// All.
    #[default]
    All,
    /// Those with a digest.
    DigestOnly,
    /// Those without.
    TagOnly,
}

impl Entry {
    /// How many bytes of `name` (`host/path:tag@digest`) the prefix covers.
    fn covers(&self, name: &str) -> Option<usize> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host_end = name.find('/').unwrap_or(name.len());
            let host = name[..host_end].split(':').next().unwrap_or_default();
            return host.ends_with(domain).then_some(host.len());
        }
        let rest = name.strip_prefix(self.prefix.as_str())?;
        // Behind a mere host a colon begins a port, and another port is another server.
        let ends = if self.prefix.contains('/') {
            rest.is_empty() || rest.starts_with(['/', ':', '@'])
        } else {
            rest.starts_with('/')
        };
        ends.then_some(self.prefix.len())
    }
}

impl RegistriesConf {
    /// Takes in a file that is read later (a drop-in) and overrides this one: entries replace those with the same
    /// prefix.
    pub fn merge(&mut self, later: Self) {
        if !later.credential_helpers.is_empty() {
            self.credential_helpers = later.credential_helpers;
        }
        for entry in later.registries {
            match self
                .registries
                .iter_mut()
                .find(|e| e.prefix == entry.prefix)
            {
                Some(old) => *old = entry,
                None => self.registries.push(entry),
            }
        }
    }

    /// The entry that is about a reference.
    pub fn entry(&self, reference: &Reference) -> Option<&Entry> {
        self.matching(&reference.to_string())
            .map(|(entry, _)| entry)
    }

    fn matching(&self, name: &str) -> Option<(&Entry, usize)> {
        self.registries
            .iter()
            .filter_map(|entry| Some((entry, entry.covers(name)?)))
            // Of equally long prefixes the first entry counts.
            .rev()
            .max_by_key(|(entry, _)| entry.prefix.len())
    }

    /// Where to pull a reference from, in order: mirrors, then the registry itself or what replaces it.
    pub(super) fn pull_endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let name = reference.name();
        let own = Endpoint::of(reference);
        let Some((entry, covered)) = self.matching(&reference.to_string()) else {
            return vec![own];
        };
        // A prefix may go down to the tag; then it covers the whole name.
        let rest = name.get(covered..).unwrap_or_default();
        let at = |location: &str, insecure, is_mirror| {
            Endpoint::at(&format!("{location}{rest}"), insecure, is_mirror)
        };
        let mut endpoints: Vec<Endpoint> = entry
            .mirrors
            .iter()
            .filter(|mirror| match mirror.pulls {
                Pulls::All => true,
                Pulls::DigestOnly => reference.digest().is_some(),
                Pulls::TagOnly => reference.digest().is_none(),
            })
            .filter_map(|mirror| at(&mirror.location, mirror.insecure, true))
            .collect();
        let main = if entry.location.is_empty() {
            None
        } else {
            at(&entry.location, entry.insecure, false)
        };
        endpoints.push(main.unwrap_or(Endpoint {
            insecure: entry.insecure,
            ..own
        }));
        endpoints
    }
}

/// A repository on a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    /// `host[:port]`, as credentials and certificates are filed under.
    pub(super) host: String,
    /// The path of the repository there.
    pub(super) repository: String,
    /// Whether plain HTTP and unverified certificates are fine.
    pub(super) insecure: bool,
    /// Whether it stands in for another registry.
    pub(super) is_mirror: bool,
}

impl Endpoint {
    /// The registry that the reference itself names.
    pub(super) fn of(reference: &Reference) -> Self {
        Self {
            host: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            insecure: false,
            is_mirror: false,
        }
    }

    /// Splits `host[:port]/repository`.
    fn at(name: &str, insecure: bool, is_mirror: bool) -> Option<Self> {
        let (host, repository) = name.split_once('/')?;
        if !reference::is_registry(host) || repository.is_empty() {
            return None;
        }
        Some(Self {
            host: host.to_owned(),
            repository: repository.to_owned(),
            insecure,
            is_mirror,
        })
    }

    /// The repository below a mirror given on the command line: `[scheme://]host[:port][/path]`.
    pub(super) fn at_mirror(mirror: &str, repository: &str) -> Option<Self> {
        let (plain, rest) = match mirror.split_once("://") {
            Some(("http", rest)) => (true, rest),
            Some(("https", rest)) => (false, rest),
            Some(_) => return None,
            None => (false, mirror),
        };
        Self::at(
            &format!("{}/{repository}", rest.trim_end_matches('/')),
            plain,
            true,
        )
    }

    /// The host that answers the API.
    pub(super) fn api_host(&self) -> &str {
        if self.host == reference::DOCKER_IO {
            "registry-1.docker.io"
        } else {
            &self.host
        }
    }
}
