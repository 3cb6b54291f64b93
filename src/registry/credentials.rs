//! Where credentials come from: Docker's `config.json`, containers' `auth.json`, credential helpers.
//!
//! Sources are asked in order, each for the repository and then for shorter and shorter namespaces down to the
//! host; the first answer counts. Within a file a helper named for the registry (`credHelpers`) comes before
//! the general one (`credsStore`), and that before what stands in `auths`. All names of Docker Hub are one.
//! An entry with a path is never offered to another path.
//!
//! Every credential remembers where it was found, because that is what people need to know when it is refused.

use std::{collections::BTreeMap, fmt};

use base64::Engine as _;
use serde::Deserialize;

use super::{helper::Helper, redact::Secret};
use crate::reference::{DOCKER_IO, Reference};

/// The key of Docker Hub in configuration files and helpers.
pub const DOCKER_IO_KEY: &str = "https://index.docker.io/v1/";

/// What is shown to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password.
    Basic {
        /// The user.
        username: String,
        /// The password, or a token that stands in for it.
        password: Secret,
    },
    /// A refresh token, which the token server exchanges for access tokens.
    IdentityToken(Secret),
    /// An access token, sent as it is.
    RegistryToken(Secret),
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "user `{username}`"),
            Self::IdentityToken(_) => f.write_str("an identity token"),
            Self::RegistryToken(_) => f.write_str("a registry token"),
        }
    }
}

/// A credential and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What to show.
    pub credential: Credential,
    /// The file, helper or option it comes from.
    pub origin: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.credential, self.origin)
    }
}

/// A parsed `config.json` or `auth.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerConfig {
    /// Credentials by normalised key: `host[:port][/namespace…]`. `None` says that a helper has them.
    auths: BTreeMap<String, Auth>,
    /// The helper for all registries.
    pub creds_store: Option<String>,
    /// Helpers by normalised key.
    pub cred_helpers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Auth {
    /// The key as written, which is what helpers know the credentials by.
    written: String,
    credential: Option<Credential>,
}

/// Why a text is no Docker configuration.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It is not JSON, or a value has the wrong type. The text itself is not shown: it holds secrets.
    #[error("line {line}, column {column}: {}", if *is_syntax { "not JSON" } else { "a value of the wrong type" })]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// Whether it is not JSON at all.
        is_syntax: bool,
    },
    /// An entry's `auth` is not the base64 of `user:password`.
    #[error("the entry `{0}` has an `auth` that is not the base64 of `user:password`")]
    Auth(String),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, FileAuth>>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
struct FileAuth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
    #[serde(default)]
    registrytoken: Option<String>,
}

/// Reads Docker's `config.json`, containers' `auth.json`, or the older `.dockercfg`. An empty text is an empty
/// configuration.
pub fn parse_docker_config(text: &str) -> Result<DockerConfig, CredentialsError> {
    if text.trim().is_empty() {
        return Ok(DockerConfig::default());
    }
    let syntax = |e: serde_json::Error| CredentialsError::Syntax {
        line: e.line(),
        column: e.column(),
        is_syntax: e.is_syntax() || e.is_eof(),
    };
    let value: serde_json::Value = serde_json::from_str(text).map_err(syntax)?;
    // `.dockercfg` is what stands in `auths` by itself.
    let is_legacy = value.as_object().is_some_and(|map| {
        !map.contains_key("auths")
            && map
                .values()
                .any(|v| v.get("auth").is_some_and(serde_json::Value::is_string))
    });
    let file = if is_legacy {
        File {
            auths: Some(serde_json::from_str(text).map_err(syntax)?),
            ..File::default()
        }
    } else {
        serde_json::from_str(text).map_err(syntax)?
    };
    let mut auths = BTreeMap::new();
    for (key, auth) in file.auths.unwrap_or_default() {
        let credential = auth.credential(&key)?;
        let normal = normal_key(&key);
        let entry = Auth {
            written: key,
            credential,
        };
        // Several spellings of one host: an entry that says something wins.
        let old = auths.remove(&normal);
        auths.insert(
            normal,
            old.filter(|old: &Auth| old.credential.is_some())
                .unwrap_or(entry),
        );
    }
    Ok(DockerConfig {
        auths,
        creds_store: file.creds_store.filter(|name| !name.is_empty()),
        cred_helpers: file
            .cred_helpers
            .unwrap_or_default()
            .into_iter()
            .map(|(key, name)| (normal_key(&key), name))
            .collect(),
    })
}

impl FileAuth {
    fn credential(self, key: &str) -> Result<Option<Credential>, CredentialsError> {
        let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
        if let Some(token) = filled(self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(token) = filled(self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(Secret::new(token))));
        }
        let bad = || CredentialsError::Auth(key.to_owned());
        let (username, password) = if let Some(auth) = filled(self.auth) {
            let engine = base64::engine::GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                base64::engine::GeneralPurposeConfig::new()
                    .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
            );
            let bytes = engine.decode(auth.trim()).ok().ok_or_else(bad)?;
            let text = String::from_utf8(bytes).ok().ok_or_else(bad)?;
            let (username, password) = text.split_once(':').ok_or_else(bad)?;
            // Docker once padded with NULs.
            (username.to_owned(), password.trim_matches('\0').to_owned())
        } else {
            match (filled(self.username), filled(self.password)) {
                (Some(username), Some(password)) => (username, password),
                _ => return Ok(None),
            }
        };
        Ok(Some(Credential::from_login(&username, &password)))
    }
}

impl Credential {
    /// What a user name and a password mean: the name `<token>` marks an identity token.
    pub fn from_login(username: &str, password: &str) -> Self {
        if username == "<token>" {
            Self::IdentityToken(Secret::new(password))
        } else {
            Self::Basic {
                username: username.to_owned(),
                password: Secret::new(password),
            }
        }
    }
}

/// All sources, most important first.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    sources: Vec<Source>,
    /// Where `docker-credential-*` programs are looked for, in order.
    pub helper_dirs: Vec<std::path::PathBuf>,
}

#[derive(Clone, Debug)]
enum Source {
    /// A credential for one registry (`host[:port]`), or for all when the key is empty.
    Given { key: String, found: Found },
    File {
        config: DockerConfig,
        origin: String,
    },
}

/// Where a credential may be had from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    Found(Found),
    /// Ask this helper for this server URL.
    Ask {
        helper: Helper,
        server: String,
    },
}

impl Credentials {
    /// Adds a file; `origin` is how it is called in messages, usually its path.
    pub fn push_file(&mut self, config: DockerConfig, origin: impl Into<String>) {
        self.sources.push(Source::File {
            config,
            origin: origin.into(),
        });
    }

    /// Adds a credential that was given outright, for one `host[:port]`, or for every registry when that is empty.
    pub fn push(&mut self, registry: &str, credential: Credential, origin: impl Into<String>) {
        self.sources.push(Source::Given {
            key: normal_key(registry),
            found: Found {
                credential,
                origin: origin.into(),
            },
        });
    }

    /// What to try for a repository, in order. Helpers are not run here.
    pub(super) fn candidates(&self, host: &str, repository: &str) -> Vec<Candidate> {
        let keys = keys(host, repository);
        let mut candidates = Vec::new();
        for source in &self.sources {
            match source {
                Source::Given { key, found } => {
                    if key.is_empty() || keys.contains(key) {
                        candidates.push(Candidate::Found(found.clone()));
                    }
                }
                Source::File { config, origin } => {
                    config.candidates(&keys, origin, &self.helper_dirs, &mut candidates);
                }
            }
        }
        candidates
    }
}

impl DockerConfig {
    fn candidates(
        &self,
        keys: &[String],
        origin: &str,
        helper_dirs: &[std::path::PathBuf],
        candidates: &mut Vec<Candidate>,
    ) {
        let ask = |name: &str, server: String| Candidate::Ask {
            helper: Helper::new(name, origin, helper_dirs),
            server,
        };
        if let Some((key, name)) = keys
            .iter()
            .find_map(|key| self.cred_helpers.get_key_value(key))
            && !name.is_empty()
        {
            candidates.push(ask(name, server_key(key)));
        } else if let Some(name) = &self.creds_store {
            // The key under which `login` stored the credentials, if it left a trace in `auths`.
            let written = keys.iter().find_map(|key| self.auths.get(key));
            let host = keys.last().map(String::as_str).unwrap_or_default();
            let server = written.map_or_else(|| server_key(host), |auth| auth.written.clone());
            candidates.push(ask(name, server));
        }
        let found = keys
            .iter()
            .find_map(|key| self.auths.get(key)?.credential.clone());
        candidates.extend(found.map(|credential| {
            Candidate::Found(Found {
                credential,
                origin: origin.to_owned(),
            })
        }));
    }

    /// The helper that `login` and `logout` must use for a registry, if there is one.
    pub fn helper_name(&self, registry: &str) -> Option<&str> {
        self.cred_helpers
            .get(&normal_key(registry))
            .or(self.creds_store.as_ref())
            .map(String::as_str)
    }

    /// The normalised keys of all entries.
    pub fn registries(&self) -> impl Iterator<Item = &str> {
        self.auths.keys().map(String::as_str)
    }
}

/// The text of a Docker configuration with a credential put in; everything else is kept.
pub fn docker_config_with(
    text: &str,
    registry: &str,
    credential: &Credential,
) -> Result<String, CredentialsError> {
    let entry = match credential {
        Credential::Basic { username, password } => {
            let pair = format!("{username}:{}", password.expose());
            serde_json::json!({ "auth": base64::engine::general_purpose::STANDARD.encode(pair) })
        }
        Credential::IdentityToken(token) => serde_json::json!({ "identitytoken": token.expose() }),
        Credential::RegistryToken(token) => serde_json::json!({ "registrytoken": token.expose() }),
    };
    edit(text, registry, Some(entry))
}

/// The text of a Docker configuration with an empty entry, which says that a helper has the credentials.
pub fn docker_config_with_helper_entry(
    text: &str,
    registry: &str,
) -> Result<String, CredentialsError> {
    edit(text, registry, Some(serde_json::json!({})))
}

/// The text of a Docker configuration without the entries of a registry; everything else is kept.
pub fn docker_config_without(text: &str, registry: &str) -> Result<String, CredentialsError> {
    edit(text, registry, None)
}

fn edit(
    text: &str,
    registry: &str,
    entry: Option<serde_json::Value>,
) -> Result<String, CredentialsError> {
    let wrong = |e: &serde_json::Error| CredentialsError::Syntax {
        line: e.line(),
        column: e.column(),
        is_syntax: true,
    };
    let not_an_object = CredentialsError::Syntax {
        line: 1,
        column: 1,
        is_syntax: false,
    };
    let text = if text.trim().is_empty() { "{}" } else { text };
    let mut document: serde_json::Value = serde_json::from_str(text).map_err(|e| wrong(&e))?;
    let Some(map) = document.as_object_mut() else {
        return Err(not_an_object);
    };
    let auths = map.entry("auths").or_insert_with(|| serde_json::json!({}));
    if auths.is_null() {
        *auths = serde_json::json!({});
    }
    let Some(auths) = auths.as_object_mut() else {
        return Err(not_an_object);
    };
    let normal = normal_key(registry);
    auths.retain(|key, _| normal_key(key) != normal);
    if let Some(entry) = entry {
        auths.insert(server_key(&normal), entry);
    }
    let mut text = serde_json::to_string_pretty(&document).map_err(|e| wrong(&e))?;
    text.push('\n');
    Ok(text)
}

/// The key under which a registry's credentials are stored and helpers know them.
pub fn server_key(registry: &str) -> String {
    let normal = normal_key(registry);
    if normal == DOCKER_IO {
        DOCKER_IO_KEY.to_owned()
    } else {
        normal
    }
}

/// Without scheme, API version and trailing slashes; Docker Hub by one name.
fn normal_key(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key)
        .trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    let (host, path) = key.split_once('/').map_or((key, ""), |(h, p)| (h, p));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DOCKER_IO,
        other => other,
    };
    if path.is_empty() {
        host.to_owned()
    } else {
        format!("{host}/{path}")
    }
}

/// `host/a/b`, `host/a`, `host`.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let full = normal_key(&format!("{host}/{repository}"));
    let mut keys = vec![full.clone()];
    let mut rest = full.as_str();
    while let Some((shorter, _)) = rest.rsplit_once('/') {
        keys.push(shorter.to_owned());
        rest = shorter;
    }
    keys
}

/// Whether a reference's credentials are those of Docker Hub.
pub fn is_docker_hub(reference: &Reference) -> bool {
    reference.registry() == DOCKER_IO
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(config: &str, host: &str, repository: &str) -> Vec<String> {
        let mut credentials = Credentials::default();
        credentials.push_file(parse_docker_config(config).expect(config), "F");
        credentials
            .candidates(host, repository)
            .into_iter()
            .map(|candidate| match candidate {
                Candidate::Found(found) => match found.credential {
                    Credential::Basic { username, password } => {
                        format!("{username}:{}", password.expose())
                    }
                    Credential::IdentityToken(t) => format!("identity {}", t.expose()),
                    Credential::RegistryToken(t) => format!("registry {}", t.expose()),
                },
                Candidate::Ask { helper, server } => format!("{} for {server}", helper.name()),
            })
            .collect()
    }

    #[test]
    fn auths_are_found_by_host_and_namespace() {
        // dTpw = u:p, djpx = v:q, dzpyOnI= = w:r:r
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "https://reg.example/v2/": {"auth": "djpx"},
            "reg.example/team": {"auth": "dzpyOnI"},
            "reg.example/team/app": {"username": "x", "password": "s"},
            "other.example:5000": {"identitytoken": "idt", "auth": "PHRva2VuPjo="},
            "token.example": {"registrytoken": "rt"},
            "az.example": {"username": "<token>", "password": "t"},
            "empty.example": {}
        }}"#;
        for (host, repository, want) in [
            ("docker.io", "library/alpine", vec!["u:p"]),
            ("reg.example", "a/b", vec!["v:q"]),
            ("reg.example", "team/x/y", vec!["w:r:r"]),
            ("reg.example", "team/app", vec!["x:s"]),
            ("reg.example", "team2/app", vec!["v:q"]),
            ("reg.example:443", "a", vec![]),
            ("other.example:5000", "a", vec!["identity idt"]),
            ("token.example", "a", vec!["registry rt"]),
            ("az.example", "a", vec!["identity t"]),
            ("empty.example", "a", vec![]),
        ] {
            assert_eq!(shown(config, host, repository), want, "{host}/{repository}");
        }
    }

    #[test]
    fn a_namespace_entry_is_not_offered_to_its_neighbour() {
        let config = r#"{"auths": {"quay.io/org-a": {"auth": "dTpw"}}}"#;
        assert_eq!(shown(config, "quay.io", "org-a/app"), ["u:p"]);
        assert!(shown(config, "quay.io", "org-b/app").is_empty());
        assert!(shown(config, "quay.io", "org-ab/app").is_empty());
    }

    #[test]
    fn helpers_come_first_and_are_asked_by_the_stored_key() {
        let config = r#"{
            "auths": {"https://stored.example/v2/": {}, "https://index.docker.io/v1/": {}, "plain.example": {"auth": "dTpw"}},
            "credsStore": "desktop",
            "credHelpers": {"ecr.example": "ecr-login", "gcr.example/team": "gcloud"}
        }"#;
        for (host, repository, want) in [
            ("ecr.example", "a", vec!["ecr-login for ecr.example"]),
            ("gcr.example", "team/a", vec!["gcloud for gcr.example/team"]),
            (
                "stored.example",
                "a",
                vec!["desktop for https://stored.example/v2/"],
            ),
            (
                "docker.io",
                "library/a",
                vec!["desktop for https://index.docker.io/v1/"],
            ),
            ("unknown.example", "a", vec!["desktop for unknown.example"]),
            (
                "plain.example",
                "a",
                vec!["desktop for plain.example", "u:p"],
            ),
        ] {
            assert_eq!(shown(config, host, repository), want, "{host}/{repository}");
        }
    }

    #[test]
    fn sources_are_merged_by_registry() {
        let mut credentials = Credentials::default();
        let file = |text| parse_docker_config(text).expect("valid");
        credentials.push("given.example", Credential::from_login("g", "p"), "--creds");
        credentials.push_file(file(r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#), "one");
        credentials.push_file(
            file(r#"{"auths":{"a.example":{"auth":"djpx"},"b.example":{"auth":"djpx"}}}"#),
            "two",
        );
        let first = |host| match credentials.candidates(host, "x").into_iter().next() {
            Some(Candidate::Found(found)) => found.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(first("given.example"), "user `g` from --creds");
        assert_eq!(first("a.example"), "user `u` from one");
        assert_eq!(first("b.example"), "user `v` from two");
    }

    #[test]
    fn odd_files_are_read_or_refused_without_showing_secrets() {
        assert_eq!(
            parse_docker_config(" ").expect("empty"),
            DockerConfig::default()
        );
        let legacy = r#"{"https://index.docker.io/v1/": {"auth": "dTpw", "email": "x"}}"#;
        assert_eq!(shown(legacy, "docker.io", "me/app"), ["u:p"]);
        let nulls = r#"{"auths": null, "credHelpers": null, "HttpHeaders": {"X": "y"}}"#;
        assert!(shown(nulls, "docker.io", "me/app").is_empty());
        for (text, message) in [
            (
                r#"{"auths": {"h": {"auth": "%%hunter2"}}}"#,
                "the entry `h` has an `auth`",
            ),
            (
                r#"{"auths": {"h": {"auth": "dXNlcg=="}}}"#,
                "the entry `h` has an `auth`",
            ),
            (r#"{"auths": {"h": {"auth": "hunter2""#, "not JSON"),
            (r#"{"auths": "hunter2"}"#, "wrong type"),
        ] {
            let error = parse_docker_config(text).expect_err(text).to_string();
            assert!(error.contains(message), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let debug = format!("{:?}", parse_docker_config(legacy).expect("valid"));
        assert!(!debug.contains("\"p\""), "{debug}");
    }

    #[test]
    fn login_and_logout_keep_what_they_do_not_know() {
        let text = r#"{"HttpHeaders": {"A": "b"}, "auths": {"https://docker.io": {"auth": "dTpw"}, "x.example": {}}}"#;
        let credential = Credential::from_login("me", "pa:ss");
        let with = docker_config_with(text, "docker.io", &credential).expect("valid");
        assert!(with.contains("HttpHeaders") && with.contains("x.example"));
        assert_eq!(shown(&with, "docker.io", "a/b"), ["me:pa:ss"]);
        assert!(with.contains(DOCKER_IO_KEY) && !with.contains("dTpw"));
        let without = docker_config_without(&with, "index.docker.io").expect("valid");
        assert!(shown(&without, "docker.io", "a/b").is_empty());
        assert!(without.contains("x.example"));
        assert!(docker_config_with("", "r:5000", &credential).is_ok());
        assert!(docker_config_with("[]", "r:5000", &credential).is_err());
    }
}
