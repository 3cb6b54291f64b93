//! Descriptors: what a document says of the bytes it points to.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Digest, Platform};

/// A media type, kept as written so that unknown ones survive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(std::borrow::Cow<'static, str>);

macro_rules! media_types {
    ($($name:ident = $text:literal),* $(,)?) => {
        impl MediaType {
            $(#[doc = concat!("`", $text, "`")] pub const $name: Self = Self(std::borrow::Cow::Borrowed($text));)*
        }
    };
}

media_types! {
    OCI_INDEX = "application/vnd.oci.image.index.v1+json",
    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json",
    OCI_CONFIG = "application/vnd.oci.image.config.v1+json",
    OCI_LAYER = "application/vnd.oci.image.layer.v1.tar",
    OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip",
    OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd",
    DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json",
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json",
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json",
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar",
    DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip",
}

impl MediaType {
    /// A media type that was read somewhere.
    pub fn new(text: impl Into<String>) -> Self {
        Self(std::borrow::Cow::Owned(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this names a list of manifests, in OCI's or Docker's words.
    pub fn is_index(&self) -> bool {
        *self == Self::OCI_INDEX || *self == Self::DOCKER_LIST
    }

    /// Whether this names the manifest of one image, in OCI's or Docker's words.
    pub fn is_manifest(&self) -> bool {
        *self == Self::OCI_MANIFEST || *self == Self::DOCKER_MANIFEST
    }

    /// The OCI name of a Docker type with the same bytes; other types are returned as they are.
    #[must_use]
    pub fn to_oci(&self) -> Self {
        match self.as_str() {
            t if t == Self::DOCKER_LIST.as_str() => Self::OCI_INDEX,
            t if t == Self::DOCKER_MANIFEST.as_str() => Self::OCI_MANIFEST,
            t if t == Self::DOCKER_CONFIG.as_str() => Self::OCI_CONFIG,
            t if t == Self::DOCKER_LAYER.as_str() => Self::OCI_LAYER,
            t if t == Self::DOCKER_LAYER_GZIP.as_str() => Self::OCI_LAYER_GZIP,
            _ => self.clone(),
        }
    }

    /// The Docker name of an OCI type with the same bytes; other types are returned as they are.
    #[must_use]
    pub fn to_docker(&self) -> Self {
        match self.as_str() {
            t if t == Self::OCI_INDEX.as_str() => Self::DOCKER_LIST,
            t if t == Self::OCI_MANIFEST.as_str() => Self::DOCKER_MANIFEST,
            t if t == Self::OCI_CONFIG.as_str() => Self::DOCKER_CONFIG,
            t if t == Self::OCI_LAYER.as_str() => Self::DOCKER_LAYER,
            t if t == Self::OCI_LAYER_GZIP.as_str() => Self::DOCKER_LAYER_GZIP,
            _ => self.clone(),
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a document says of the bytes it points to (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the bytes.
    pub media_type: MediaType,
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Where else they may be found ("foreign" layers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform of a manifest inside an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Descriptor {
    /// A descriptor with nothing but the three mandatory fields.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            other: BTreeMap::new(),
        }
    }

    /// Describes these bytes.
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Self {
        Self::new(media_type, super::sha256(bytes), bytes.len() as u64)
    }
}
