//! Manifests and indexes: what they are, and which one of several is meant.

use crate::{
    oci::{ConfigFile, Descriptor, Index, Manifest, MediaType, Platform},
    reference::Reference,
};

use super::error::Error;

/// A manifest or an index, with the bytes that its digest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its media type, digest and size.
    pub descriptor: Descriptor,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// An image for one platform, without its layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The index that lists it; `None` when the reference names the manifest itself.
    pub index: Option<Document>,
    /// Its manifest.
    pub document: Document,
    /// The manifest, parsed.
    pub manifest: Manifest,
    /// The exact bytes of its config.
    pub config_bytes: Vec<u8>,
    /// The config, parsed.
    pub config: ConfigFile,
}

impl Document {
    /// The index, if it is one.
    pub fn index(&self) -> Option<Index> {
        let is_index = self.descriptor.media_type.is_index();
        is_index.then(|| serde_json::from_slice(&self.bytes).ok())?
    }

    /// The manifest, if it is one.
    pub fn manifest(&self) -> Option<Manifest> {
        let is_manifest = self.descriptor.media_type.is_manifest();
        is_manifest.then(|| serde_json::from_slice(&self.bytes).ok())?
    }
}

/// The best manifest for a platform; else the platforms there are.
pub fn select(index: &Index, platform: &Platform) -> Result<Descriptor, Vec<Platform>> {
    let candidates = || {
        index.manifests.iter().filter_map(|descriptor| {
            let platform = descriptor.platform.as_ref()?;
            // Signatures and attestations pose as images for a platform that does not exist.
            let is_image = platform.os != "unknown"
                && !descriptor
                    .annotations
                    .contains_key("vnd.docker.reference.type");
            is_image.then_some((descriptor, platform))
        })
    };
    let best = candidates()
        .filter_map(|(descriptor, p)| Some((platform.match_rank(p)?, descriptor)))
        // The first of equals.
        .min_by_key(|(rank, _)| *rank);
    if let Some((_, descriptor)) = best {
        return Ok(descriptor.clone());
    }
    // An index without platforms that lists one thing means that thing.
    if let [only] = index.manifests.as_slice()
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    let mut available: Vec<Platform> = candidates().map(|(_, p)| p.clone().normalized()).collect();
    available.dedup();
    Err(available)
}

/// What a document is, by its own word and the header's, which must not contradict each other.
pub(super) fn document_type(
    host: &str,
    what: &str,
    promised: Option<MediaType>,
    bytes: &[u8],
) -> Result<MediaType, Error> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default)]
        schema_version: u32,
        media_type: Option<MediaType>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let malformed = |reason: &str| Error::Malformed {
        host: host.to_owned(),
        what: what.to_owned(),
        reason: reason.to_owned(),
    };
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|e| malformed(&format!("not the JSON of a manifest ({e})")))?;
    if head.schema_version == 1 {
        return Err(Error::Schema1 {
            host: host.to_owned(),
            what: what.to_owned(),
        });
    }
    // A document that is both would mean one image to one reader and another to the next.
    let shape = match (head.manifests, head.config, head.layers) {
        (Some(_), None, None) => MediaType::OCI_INDEX,
        (None, Some(_), Some(_)) => MediaType::OCI_MANIFEST,
        _ => {
            return Err(malformed(
                "it is neither clearly a manifest nor clearly an index",
            ));
        }
    };
    let own = head.media_type.clone();
    let media_type = own
        .clone()
        .or_else(|| promised.clone())
        .unwrap_or(shape.clone());
    let contradicts = |promised: &MediaType| *promised != media_type;
    if promised.as_ref().is_some_and(contradicts) || media_type.is_index() != shape.is_index() {
        return Err(Error::WrongMediaType {
            host: host.to_owned(),
            what: what.to_owned(),
            promised: promised.unwrap_or(shape).to_string(),
            actual: media_type.to_string(),
        });
    }
    // Only now that nothing contradicts it.
    if !media_type.is_index() && !media_type.is_manifest() {
        return Err(malformed(&format!("`{media_type}` is no type of an image")));
    }
    let is_whole = if media_type.is_index() {
        serde_json::from_slice::<Index>(bytes).map(|_| ())
    } else {
        serde_json::from_slice::<Manifest>(bytes).map(|_| ())
    };
    is_whole.map_err(|e| malformed(&e.to_string()))?;
    Ok(media_type)
}

/// What an index said of a manifest must be true.
pub(super) fn check_descriptor(
    reference: &Reference,
    promised: &Descriptor,
    document: &Document,
) -> Result<(), Error> {
    let actual = &document.descriptor;
    let (host, what) = (reference.registry().to_owned(), reference.to_string());
    if promised.size != actual.size {
        return Err(Error::SizeMismatch {
            host,
            what,
            expected: promised.size,
            actual: actual.size,
        });
    }
    if promised.media_type != actual.media_type {
        return Err(Error::WrongMediaType {
            host,
            what,
            promised: promised.media_type.to_string(),
            actual: actual.media_type.to_string(),
        });
    }
    Ok(())
}
