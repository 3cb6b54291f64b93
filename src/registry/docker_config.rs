//! Docker's `config.json` and containers' `auth.json`: reading them, and the edits that `login` and `logout` make.

use std::{collections::BTreeMap, path::PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use super::{
    credentials::{Candidate, Credential, Found, normal_key, server_key},
    helper::Helper,
    redact::Secret,
};

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

impl DockerConfig {
    /// What this file has for the first of the keys that it knows.
    pub(super) fn candidates(
        &self,
        keys: &[String],
        origin: &str,
        helper_dirs: &[PathBuf],
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
