//! Image references: `registry/repository[:tag][@digest]`.
//!
//! [`Reference::parse`] reads what people type and normalises it as Docker does: a first part that is no host
//! belongs to `docker.io`, and a repository of `docker.io` with a single part gets `library/` in front. No tag
//! is invented: [`Reference::with_default_tag`] does that where `latest` is meant.
//!
//! Invariants: every [`Reference`] is well formed, and printing one and parsing the text gives it back.
//! When a reference has a tag and a digest, the digest says what is meant and the tag is a remark.
//!
//! The grammar is that of the `distribution/reference` package, which Docker, BuildKit and Podman share.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, DigestError};

/// The registry that is meant when a reference names none.
pub const DOCKER_IO: &str = "docker.io";
/// The tag that is meant when a reference names none.
pub const DEFAULT_TAG: &str = "latest";

/// The longest repository that the grammar admits, in bytes.
const MAX_REPOSITORY_BYTES: usize = 255;
/// The longest tag that the grammar admits, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// Names an image in a registry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a text that should be a reference. The words are Docker's, which people search for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// There is no repository.
    #[error("repository name must have at least one component")]
    Empty,
    /// The grammar does not admit the text.
    #[error("invalid reference format")]
    Format,
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository is longer than 255 bytes.
    #[error("repository name must not be more than {MAX_REPOSITORY_BYTES} characters")]
    TooLong,
    /// The text is 64 hexadecimal digits, which Docker reserves for image IDs.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// What follows `@` cannot be verified.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A tag by itself is malformed.
    #[error("invalid tag format")]
    Tag,
}

impl Reference {
    /// Reads a reference and normalises it.
    ///
    /// ```
    /// use rbuild::reference::Reference;
    /// let image = Reference::parse("alpine:3.20")?;
    /// assert_eq!(image.to_string(), "docker.io/library/alpine:3.20");
    /// assert_eq!(image.familiar(), "alpine:3.20");
    /// # Ok::<(), rbuild::reference::ReferenceError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let error = |reason| ReferenceError {
            text: text.to_owned(),
            reason,
        };
        if text.is_empty() {
            return Err(error(Reason::Empty));
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error(Reason::Identifier(text.to_owned())));
        }
        let (registry, rest) = split_registry(text);
        // Docker looks for upper case only up to the first colon, before it applies the grammar.
        let name = rest.split(':').next().unwrap_or_default();
        if name.chars().any(char::is_uppercase) {
            return Err(error(Reason::Uppercase(name.to_owned())));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest.as_str(), None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_registry(registry)
            || !is_repository(repository)
            || !tag.is_none_or(is_tag)
            || !digest.is_none_or(looks_like_digest)
        {
            return Err(error(Reason::Format));
        }
        if repository.len() > MAX_REPOSITORY_BYTES {
            return Err(error(Reason::TooLong));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(ToOwned::to_owned),
            digest: digest
                .map(str::parse)
                .transpose()
                .map_err(|e: DigestError| error(e.into()))?,
        })
    }

    /// The host, with its port if it was given one: `docker.io`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path inside the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The registry and the repository: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The tag, or `latest` where neither tag nor digest was given.
    pub fn tag_or_default(&self) -> Option<&str> {
        match (&self.tag, self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some(DEFAULT_TAG),
            (None, Some(_)) => None,
        }
    }

    /// What stands after `/manifests/` in the registry's API: the digest if there is one, else the tag.
    pub fn selector(&self) -> String {
        self.digest.map_or_else(
            || self.tag.as_deref().unwrap_or(DEFAULT_TAG).to_owned(),
            |digest| digest.to_string(),
        )
    }

    /// The same reference with the tag `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository and tag, pinned to a digest.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The same repository and tag, not pinned.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest = None;
        self
    }

    /// The same repository at a digest, without a tag.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError {
                text: tag.to_owned(),
                reason: Reason::Tag,
            });
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The short form that people type: without `docker.io/` and `library/` where these are implied.
    pub fn familiar(&self) -> String {
        let canonical = self.to_string();
        let Some(rest) = canonical.strip_prefix("docker.io/") else {
            return canonical;
        };
        // `library/` must stay where what is behind it would be read as a host or has further parts.
        match rest.strip_prefix("library/") {
            Some(short) if Self::parse(short).as_ref() == Ok(self) => short.to_owned(),
            _ if Self::parse(rest).as_ref() == Ok(self) => rest.to_owned(),
            _ => canonical,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// Whether a text can stand as the registry of a reference: `host`, `host:port`, `[ipv6]:port`.
pub fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else {
                return false;
            };
            let hex = |b: u8| b.is_ascii_hexdigit() || b == b':';
            if address.is_empty() || !address.bytes().all(hex) {
                return false;
            }
            if after.is_empty() {
                return true;
            }
            ("x", after.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("0")),
        },
    };
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('-')
            && !p.ends_with('-')
            && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(part)
        && port.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a text can stand as a tag: at most 128 letters, digits, `_`, `.` and `-`, the last two not in front.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG_BYTES
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// Splits off the registry; the rest of a `docker.io` reference gets the implied `library/`.
fn split_registry(text: &str) -> (&str, String) {
    let (registry, rest) = match text.split_once('/') {
        Some((first, rest)) => match first {
            "index.docker.io" => (DOCKER_IO, rest),
            "localhost" => (first, rest),
            _ if first.contains(['.', ':']) || first.chars().any(char::is_uppercase) => {
                (first, rest)
            }
            _ => (DOCKER_IO, text),
        },
        None => (DOCKER_IO, text),
    };
    if registry == DOCKER_IO && !rest.contains('/') {
        return (registry, format!("library/{rest}"));
    }
    (registry, rest.to_owned())
}

/// `part(/part)*`, a part being runs of lower-case letters and digits joined by `.`, `_`, `__` or any number of `-`.
fn is_repository(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.split('/').all(|part| {
        let ends = [part.bytes().next(), part.bytes().last()];
        ends.iter().all(|end| end.is_some_and(alphanumeric))
            && part
                .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                .all(|joint| {
                    matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-')
                })
    })
}

/// The grammar's idea of a digest, of which [`Digest`] then takes those that can be verified.
fn looks_like_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let part = |p: &str| {
        p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && p.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(part)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
