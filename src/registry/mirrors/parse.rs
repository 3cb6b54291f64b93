//! Reading `registries.conf`.

use serde::Deserialize;

use super::{Entry, Mirror, Pulls, RegistriesConf};

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
}
