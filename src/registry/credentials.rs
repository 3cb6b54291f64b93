//! Where credentials come from: Docker's `config.json`, containers' `auth.json`, credential helpers.
//!
//! Sources are asked in order, each for the repository and then for shorter and shorter namespaces down to the
//! host; the first answer counts. Within a file a helper named for the registry (`credHelpers`) comes before
//! the general one (`credsStore`), and that before what stands in `auths`. All names of Docker Hub are one.
//! An entry with a path is never offered to another path.
//!
//! Every credential remembers where it was found, because that is what people need to know when it is refused.

use std::fmt;

pub use super::docker_config::{
    CredentialsError, DockerConfig, docker_config_with, docker_config_with_helper_entry,
    docker_config_without, parse_docker_config,
};
use super::{helper::Helper, redact::Secret};
use crate::reference::DOCKER_IO;

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

    /// Adds a credential that was given outright, for one `host[:port]`, or for every registry, mirrors included, when
    /// that is empty.
    pub fn push(&mut self, registry: &str, credential: Credential, origin: impl Into<String>) {
        self.sources.push(Source::Given {
            key: normal_key(registry),
            found: Found {
                credential,
                origin: origin.into(),
            },
        });
    }

    /// What to try for a repository, in order; last the helpers that `registries.conf` names for all registries.
    /// Helpers are not run here.
    pub(super) fn candidates(
        &self,
        host: &str,
        repository: &str,
        general: &[String],
    ) -> Vec<Candidate> {
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
        candidates.extend(general.iter().map(|name| Candidate::Ask {
            helper: Helper::new(name, "registries.conf", &self.helper_dirs),
            server: server_key(host),
        }));
        candidates
    }
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
pub(super) fn normal_key(key: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(config: &str, host: &str, repository: &str) -> Vec<String> {
        let mut credentials = Credentials::default();
        credentials.push_file(parse_docker_config(config).expect(config), "F");
        credentials
            .candidates(host, repository, &[])
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
        let first = |host| match credentials.candidates(host, "x", &[]).into_iter().next() {
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
