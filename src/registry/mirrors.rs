//! `registries.conf` (version 2): where an image is really fetched from.
//!
//! The entry with the longest prefix that matches a reference decides. Its `location` replaces the prefix, its
//! mirrors are asked first, and only for pulls: a push goes to the registry that the reference names, as with
//! Podman. `insecure` and `blocked` hold for pushes too.
//!
//! A prefix is `host[:port][/path…]`, or `*.domain` for all hosts below a domain. It matches whole path
//! parts, and may go down to a tag or digest. Spec: containers-registries.conf(5).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::reference::{self, Reference, ReferenceError};

/// A parsed `registries.conf`, or several of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    /// Short names and the full names they stand for.
    pub aliases: BTreeMap<String, String>,
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

/// Why a text is no `registries.conf`.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// It is not TOML, or a value has the wrong type.
    #[error("line {line}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// It is in version 1, which no tool reads any more.
    #[error(
        "version 1 of the format (`[registries.…]`) is not supported; write `[[registry]]` entries"
    )]
    Version1,
    /// An entry makes no sense.
    #[error("entry `{entry}`: {reason}")]
    Entry {
        /// Its prefix or location.
        entry: String,
        /// What is wrong.
        reason: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default)]
    credential_helpers: Vec<String>,
    #[serde(default)]
    registry: Vec<FileEntry>,
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<FileMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileMirror {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<String>,
}

/// Reads a `registries.conf`. Unknown keys are left alone, as the format asks.
pub fn parse_registries_conf(text: &str) -> Result<RegistriesConf, RegistriesError> {
    let file: File = toml::from_str(text).map_err(|e| RegistriesError::Syntax {
        line: e.span().map_or(1, |span| {
            1 + text[..span.start].bytes().filter(|b| *b == b'\n').count()
        }),
        message: e.message().lines().next().unwrap_or_default().to_owned(),
    })?;
    if file.registries.is_some() {
        return Err(RegistriesError::Version1);
    }
    let registries = file
        .registry
        .into_iter()
        .map(Entry::from_file)
        .collect::<Result<_, _>>()?;
    Ok(RegistriesConf {
        aliases: file.aliases,
        credential_helpers: file
            .credential_helpers
            .into_iter()
            // The name by which the format calls the files themselves.
            .filter(|name| name != "containers-auth.json")
            .collect(),
        registries,
    })
}

impl Entry {
    fn from_file(file: FileEntry) -> Result<Self, RegistriesError> {
        let name = if file.prefix.is_empty() {
            file.location.clone()
        } else {
            file.prefix.clone()
        };
        let error = |reason| RegistriesError::Entry {
            entry: name.clone(),
            reason,
        };
        let prefix = file.prefix.trim_end_matches('/').to_owned();
        let location = file.location.trim_end_matches('/').to_owned();
        let has_scheme = |text: &str| text.contains("://");
        if has_scheme(&prefix) || has_scheme(&location) {
            return Err(error(
                "a scheme such as `https://` is not part of a location",
            ));
        }
        if prefix.is_empty() && location.is_empty() {
            return Err(error("it has neither a prefix nor a location"));
        }
        let prefix = if prefix.is_empty() {
            location.clone()
        } else {
            prefix
        };
        if let Some(domain) = prefix.strip_prefix("*.")
            && domain.contains(['/', '*', '@', ':'])
        {
            return Err(error(
                "a wildcard stands for hosts and cannot be followed by a path, tag or port",
            ));
        }
        let mut mirrors = Vec::new();
        for mirror in file.mirror {
            let location = mirror.location.trim_end_matches('/').to_owned();
            if location.is_empty() {
                return Err(error("a mirror has no location"));
            }
            if has_scheme(&location) {
                return Err(error(
                    "a scheme such as `https://` is not part of a mirror's location",
                ));
            }
            let pulls = match mirror.pull_from_mirror.as_deref() {
                None | Some("") if file.mirror_by_digest_only => Pulls::DigestOnly,
                None | Some("" | "all") if !file.mirror_by_digest_only => Pulls::All,
                Some("digest-only") => Pulls::DigestOnly,
                Some("tag-only") if !file.mirror_by_digest_only => Pulls::TagOnly,
                Some("all" | "tag-only") => {
                    return Err(error(
                        "`pull-from-mirror` contradicts `mirror-by-digest-only`",
                    ));
                }
                _ => {
                    return Err(error(
                        "`pull-from-mirror` is not `all`, `digest-only` or `tag-only`",
                    ));
                }
            };
            mirrors.push(Mirror {
                location,
                insecure: mirror.insecure,
                pulls,
            });
        }
        Ok(Self {
            prefix,
            location,
            insecure: file.insecure,
            blocked: file.blocked,
            mirrors,
        })
    }

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
    /// prefix, aliases those with the same name.
    pub fn merge(&mut self, later: Self) {
        self.aliases.extend(later.aliases);
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

    /// Reads a reference as [`Reference::parse`] does, after replacing a short name that has an alias.
    pub fn reference(&self, text: &str) -> Result<Reference, ReferenceError> {
        let end = text.find([':', '@']).unwrap_or(text.len());
        match self.aliases.get(&text[..end]) {
            Some(full) if !full.is_empty() => Reference::parse(&format!("{full}{}", &text[end..])),
            _ => Reference::parse(text),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(conf: &str, reference: &str) -> Vec<String> {
        let conf = parse_registries_conf(conf).expect(conf);
        let reference = Reference::parse(reference).expect(reference);
        conf.pull_endpoints(&reference)
            .iter()
            .map(|e| {
                format!(
                    "{}/{}{}{}",
                    e.host,
                    e.repository,
                    if e.insecure { " insecure" } else { "" },
                    if e.is_mirror { " mirror" } else { "" }
                )
            })
            .collect()
    }

    const CONF: &str = r#"
        unqualified-search-registries = ["docker.io", "quay.io"]
        short-name-mode = "enforcing"
        [aliases]
        "centos" = "quay.io/centos/centos"
        [[registry]]
        prefix = "docker.io"
        location = "127.0.0.1:5000/hub/"
        insecure = true
        [[registry]]
        location = "quay.io"
        [[registry.mirror]]
        location = "mirror.example/quay"
        [[registry.mirror]]
        location = "pins.example"
        pull-from-mirror = "digest-only"
        insecure = true
        [[registry.mirror]]
        location = "tags.example"
        pull-from-mirror = "tag-only"
        [[registry]]
        prefix = "quay.io/team"
        location = "team.example/x"
        [[registry]]
        prefix = "*.corp.example"
        location = "proxy.example/corp"
        [[registry]]
        prefix = "bad.example"
        blocked = true
        [[registry]]
        prefix = "one.example/app:1"
        location = "other.example/old"
    "#;

    #[test]
    fn the_longest_prefix_decides() {
        let pin = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (reference, want) in [
            ("alpine", vec!["127.0.0.1:5000/hub/library/alpine insecure"]),
            (
                "quay.io/a/b",
                vec![
                    "mirror.example/quay/a/b mirror",
                    "tags.example/a/b mirror",
                    "quay.io/a/b",
                ],
            ),
            (
                &format!("quay.io/a/b{pin}"),
                vec![
                    "mirror.example/quay/a/b mirror",
                    "pins.example/a/b insecure mirror",
                    "quay.io/a/b",
                ],
            ),
            ("quay.io/team/app:1", vec!["team.example/x/app"]),
            (
                "quay.io/teams/app",
                vec![
                    "mirror.example/quay/teams/app mirror",
                    "tags.example/teams/app mirror",
                    "quay.io/teams/app",
                ],
            ),
            ("a.corp.example/x/y", vec!["proxy.example/corp/x/y"]),
            ("corp.example/x", vec!["corp.example/x"]),
            ("quay.io:5000/a", vec!["quay.io:5000/a"]),
            ("one.example/app:1", vec!["other.example/old"]),
            ("one.example/app:2", vec!["one.example/app"]),
            ("ghcr.io/a/b", vec!["ghcr.io/a/b"]),
        ] {
            assert_eq!(endpoints(CONF, reference), want, "{reference}");
        }
        let conf = parse_registries_conf(CONF).expect("valid");
        let blocked = Reference::parse("bad.example/x").expect("valid");
        assert!(conf.entry(&blocked).is_some_and(|e| e.blocked));
    }

    #[test]
    fn aliases_replace_short_names_only() {
        let conf = parse_registries_conf(CONF).expect("valid");
        for (text, want) in [
            ("centos", "quay.io/centos/centos"),
            ("centos:7", "quay.io/centos/centos:7"),
            ("me/centos", "docker.io/me/centos"),
            ("fedora", "docker.io/library/fedora"),
        ] {
            assert_eq!(conf.reference(text).expect(text).to_string(), want);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, message) in [
            ("a = ", "line 1: "),
            ("\n[[registry]]\ninsecure = 3", "line 3: "),
            (
                "[registries.search]\nregistries = ['x']",
                "version 1 of the format",
            ),
            (
                "[[registry]]\ninsecure = true",
                "it has neither a prefix nor a location",
            ),
            (
                "[[registry]]\nlocation = 'https://x.io'",
                "a scheme such as",
            ),
            (
                "[[registry]]\nprefix = '*.x.io/a'\nlocation = 'y.io'",
                "a wildcard stands for hosts",
            ),
            (
                "[[registry]]\nlocation = 'x.io'\n[[registry.mirror]]\ninsecure = true",
                "a mirror has no location",
            ),
            (
                "[[registry]]\nlocation = 'x.io'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'y.io'\npull-from-mirror = 'all'",
                "contradicts",
            ),
            (
                "[[registry]]\nlocation = 'x.io'\n[[registry.mirror]]\nlocation = 'y.io'\npull-from-mirror = 'never'",
                "is not `all`",
            ),
        ] {
            let error = parse_registries_conf(text).expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_entries_there_is_somewhere_to_pull_from(
            prefix in "(\\*\\.)?[a-z./:@*]{1,12}",
            location in "[a-z./:]{0,12}",
            name in "[a-z]{1,4}(\\.[a-z]{1,3}(:1)?)?/[a-z]{1,3}(/[a-z]{1,3})?(:[a-z]{1,2})?",
        ) {
            let text = format!("[[registry]]\nprefix='{prefix}'\nlocation='{location}'");
            let (Ok(conf), Ok(reference)) = (parse_registries_conf(&text), Reference::parse(&name)) else {
                return Ok(());
            };
            proptest::prop_assert!(!conf.pull_endpoints(&reference).is_empty());
        }
    }

    #[test]
    fn later_files_override_entries_with_the_same_prefix() {
        let mut conf = parse_registries_conf(CONF).expect("valid");
        let n_entries = conf.registries.len();
        conf.merge(
            parse_registries_conf("[[registry]]\nprefix = 'docker.io'\nlocation = 'new.example'")
                .expect("valid"),
        );
        assert_eq!(conf.registries.len(), n_entries);
        let alpine = Reference::parse("alpine").expect("valid");
        assert_eq!(conf.pull_endpoints(&alpine)[0].host, "new.example");
    }

    #[test]
    fn mirrors_of_the_command_line_take_paths_and_schemes() {
        for (mirror, want) in [
            ("m.example", Some(("m.example", "library/x", false))),
            (
                "http://m:5000/hub/",
                Some(("m:5000", "hub/library/x", true)),
            ),
            ("https://m.example", Some(("m.example", "library/x", false))),
            ("ftp://m.example", None),
        ] {
            let endpoint = Endpoint::at_mirror(mirror, "library/x");
            let got = endpoint
                .as_ref()
                .map(|e| (e.host.as_str(), e.repository.as_str(), e.insecure));
            assert_eq!(got, want, "{mirror}");
        }
    }
}
