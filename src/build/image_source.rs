//! Images that a build starts or copies from: which manifest a name stands for, and where its blobs are.
//!
//! A name is looked up once in a build, so all stages see the same image. Order: a named context; an image of the
//! local store with that name, unless `--pull`; the registry. Only manifests and configs are read here, layers
//! when something needs their bytes ([`super::blobs::Blobs`]).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{
    blobs::{BlobOrigin, Blobs},
    request::NamedSource,
    root::Root,
    session::Session,
};
use crate::{
    oci::{
        ANNOTATION_REF_NAME, ConfigFile, Descriptor, Digest, DigestError, Index, Manifest,
        MediaType, Platform, sha256,
    },
    plan::ImageSource,
    reference::{Reference, ReferenceError},
    registry,
    store::{MAX_DOCUMENT_BYTES, StoreError, read_regular},
    used::UsedImage,
};

/// As many indexes are followed inside one another; registries have no use for more than two.
const MAX_INDEX_DEPTH: usize = 4;

/// An image that a build uses.
#[derive(Debug)]
pub(super) struct ResolvedImage {
    /// What progress and errors call it.
    pub(super) name: String,
    /// The manifest's digest: what the name stands for in cache keys.
    pub(super) digest: Digest,
    pub(super) manifest: Manifest,
    pub(super) config: ConfigFile,
    /// The state that its layers make, for all that begin with it or copy from it.
    pub(super) root: OnceLock<Arc<Root>>,
}

impl ResolvedImage {
    /// The digest of what the registry has under the name: the index when there are images for several platforms. This is
    /// what pins a base in a Dockerfile.
    pub(super) fn published_digest(&self) -> Digest {
        let reference = Reference::parse(&self.name).ok();
        let published = reference.as_ref().and_then(Reference::digest);
        published.unwrap_or(self.digest)
    }
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name is no reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry has it not, or did not give it.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No image for the platform.
    #[error("no match for platform in manifest: `{name}` has no image for {wanted}; it has {}", .available.join(", "))]
    NoPlatform {
        /// The image.
        name: String,
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
    /// A document is not what it should be.
    #[error("`{name}` has an unusable {what}: {reason}")]
    Malformed {
        /// The image.
        name: String,
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A layout does not have what was asked for.
    #[error("the image layout {} has no image `{image}`", path.display())]
    NotInLayout {
        /// The layout.
        path: PathBuf,
        /// The tag or digest.
        image: String,
    },
    /// A layout cannot be read.
    #[error("cannot read {}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A blob of a layout has other bytes than its descriptor says.
    #[error("{} is damaged: {reason}", path.display())]
    DamagedBlob {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer of a remote cache cannot be had. Its records count no longer, so building again executes the step.
    #[error("the layer {0} is not in the cache any longer")]
    Lost(Digest),
    /// The name of a layout's image is no digest though it begins like one.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// An image, once it was looked up; locked while it is.
type Cell = Arc<Mutex<Option<Arc<ResolvedImage>>>>;

/// Looks images up, each once, different ones at the same time.
#[derive(Debug, Default)]
pub(super) struct Images {
    cells: Mutex<BTreeMap<ImageSource, Cell>>,
}

/// Where the documents of one image are read.
enum Source {
    Registry(Reference),
    Layout(PathBuf),
    Store,
}

impl Images {
    /// The image, looked up if this is the first time.
    pub(super) fn get(
        &self,
        session: &Session<'_>,
        source: &ImageSource,
    ) -> Result<Arc<ResolvedImage>, ImageError> {
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(source.clone()).or_default())
        };
        let mut found = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = &*found {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(look_up(session, source)?);
        *found = Some(Arc::clone(&image));
        Ok(image)
    }
}

impl Images {
    /// What was looked up so far.
    pub(super) fn used(&self) -> Vec<UsedImage> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used: Vec<UsedImage> = cells
            .iter()
            .filter_map(|(source, cell)| {
                let cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
                let image = cell.as_ref()?;
                let reference = Reference::parse(&image.name).ok();
                Some(UsedImage {
                    is_layout: reference.is_none(),
                    digest: image.published_digest(),
                    name: reference.map_or_else(
                        || source.name.clone(),
                        |reference| reference.without_digest().familiar(),
                    ),
                    platform: source.platform.clone(),
                })
            })
            .collect();
        used.sort();
        used.dedup();
        used
    }
}

fn look_up(session: &Session<'_>, source: &ImageSource) -> Result<ResolvedImage, ImageError> {
    if source.named {
        match session.request.named_contexts.get(&source.name) {
            Some(NamedSource::Layout { path, image }) => {
                return from_layout(session, path, image.as_deref(), &source.platform);
            }
            Some(NamedSource::Image(name)) => {
                return from_reference(session, name, &source.platform);
            }
            Some(NamedSource::Directory { .. } | NamedSource::Tree(..)) | None => {}
        }
    }
    from_reference(session, &source.name, &source.platform)
}

fn from_reference(
    session: &Session<'_>,
    name: &str,
    platform: &Platform,
) -> Result<ResolvedImage, ImageError> {
    let reference = Reference::parse(name)?;
    let store = session.services.store;
    if !session.request.pull
        && let Some(descriptor) = store.tag(&reference)?
    {
        let bytes = store.read_blob(&descriptor)?;
        return pick(
            session,
            &Source::Store,
            &reference.to_string(),
            &descriptor,
            &bytes,
            platform,
        );
    }
    let document = session.services.registry.manifest(&reference)?;
    let descriptor = document.descriptor;
    let name = reference
        .clone()
        .with_default_tag()
        .with_digest(descriptor.digest)
        .to_string();
    pick(
        session,
        &Source::Registry(reference),
        &name,
        &descriptor,
        &document.bytes,
        platform,
    )
}

fn from_layout(
    session: &Session<'_>,
    path: &Path,
    image: Option<&str>,
    platform: &Platform,
) -> Result<ResolvedImage, ImageError> {
    let index_path = path.join("index.json");
    let bytes = read_regular(&index_path).map_err(|source| ImageError::Layout {
        path: index_path.clone(),
        source,
    })?;
    let name = format!("oci-layout://{}", path.display());
    let index: Index = parse(&name, "index", &bytes)?;
    let descriptor = entry_of(&index, image)?.ok_or_else(|| ImageError::NotInLayout {
        path: path.to_owned(),
        image: image.unwrap_or("latest").to_owned(),
    })?;
    let source = Source::Layout(path.to_owned());
    let bytes = document(session, &source, &name, &descriptor)?;
    pick(session, &source, &name, &descriptor, &bytes, platform)
}

/// The entry of a layout's index that is meant: by digest, by tag, `latest`, or the only one.
fn entry_of(index: &Index, image: Option<&str>) -> Result<Option<Descriptor>, DigestError> {
    if let Some(text) = image
        && text.starts_with("sha256:")
    {
        let digest: Digest = text.parse()?;
        let entry = index.manifests.iter().find(|entry| entry.digest == digest);
        return Ok(entry.cloned());
    }
    let tag = image.unwrap_or("latest");
    let tagged = index.manifests.iter().find(|entry| {
        entry
            .annotations
            .get(ANNOTATION_REF_NAME)
            .is_some_and(|name| {
                name == tag
                    || name
                        .strip_suffix(tag)
                        .is_some_and(|rest| rest.ends_with(':'))
            })
    });
    Ok(match (tagged, image, index.manifests.as_slice()) {
        (Some(entry), _, _) => Some(entry.clone()),
        (None, None, [only]) => Some(only.clone()),
        _ => None,
    })
}

/// Follows indexes to the manifest for the platform, and reads it and its config.
fn pick(
    session: &Session<'_>,
    source: &Source,
    name: &str,
    descriptor: &Descriptor,
    bytes: &[u8],
    platform: &Platform,
) -> Result<ResolvedImage, ImageError> {
    let (mut descriptor, mut bytes) = (descriptor.clone(), bytes.to_vec());
    for _ in 0..MAX_INDEX_DEPTH {
        if !is_index(&descriptor.media_type, &bytes) {
            return open_manifest(session, source, name, &descriptor, &bytes);
        }
        let index: Index = parse(name, "index", &bytes)?;
        descriptor = best_match(name, &index, platform)?;
        bytes = document(session, source, name, &descriptor)?;
    }
    Err(malformed(
        name,
        "index",
        "it leads through too many other indexes",
    ))
}

/// Trusts the document's own words before its descriptor's, as a missing or wrong type there is common.
fn is_index(media_type: &MediaType, bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice::<Shape>(bytes) {
        Ok(Shape {
            manifests: Some(_),
            config: None,
        }) => true,
        Ok(Shape {
            config: Some(_), ..
        }) => false,
        _ => media_type.is_index(),
    }
}

/// The entry of an index that serves the platform best; attestations are no images.
fn best_match(name: &str, index: &Index, platform: &Platform) -> Result<Descriptor, ImageError> {
    registry::select(index, platform).map_err(|available| ImageError::NoPlatform {
        name: name.to_owned(),
        wanted: platform.clone(),
        available: available.iter().map(ToString::to_string).collect(),
    })
}

fn open_manifest(
    session: &Session<'_>,
    source: &Source,
    name: &str,
    descriptor: &Descriptor,
    bytes: &[u8],
) -> Result<ResolvedImage, ImageError> {
    let manifest: Manifest = parse(name, "manifest", bytes)?;
    let config = document(session, source, name, &manifest.config)?;
    let config: ConfigFile = parse(name, "config", &config)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        let reason = format!(
            "{} layers in the manifest, {} in the config",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        );
        return Err(malformed(name, "config", &reason));
    }
    for layer in &manifest.layers {
        session.blobs.know(layer, &origin(source));
    }
    Ok(ResolvedImage {
        name: name.to_owned(),
        digest: descriptor.digest,
        manifest,
        config,
        root: OnceLock::new(),
    })
}

fn origin(source: &Source) -> BlobOrigin {
    match source {
        Source::Registry(reference) => BlobOrigin::Registry(reference.clone()),
        Source::Layout(path) => BlobOrigin::Layout(path.clone()),
        Source::Store => BlobOrigin::Store,
    }
}

/// Reads a manifest, index or config. Its digest is verified.
fn document(
    session: &Session<'_>,
    source: &Source,
    name: &str,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, ImageError> {
    let store = session.services.store;
    if store.has(descriptor)? {
        return Ok(store.read_blob(descriptor)?);
    }
    let bytes = match source {
        Source::Store => store.read_blob(descriptor)?,
        Source::Layout(path) => {
            let path = Blobs::path_in_layout(path, &descriptor.digest);
            read_document(name, &path, descriptor)?
        }
        Source::Registry(reference) => {
            let registry = session.services.registry;
            if descriptor.media_type.is_manifest() || descriptor.media_type.is_index() {
                registry
                    .manifest(&reference.clone().with_digest(descriptor.digest))?
                    .bytes
            } else {
                registry.blob_bytes(reference, descriptor, MAX_DOCUMENT_BYTES)?
            }
        }
    };
    store.put_bytes(&bytes)?;
    Ok(bytes)
}

fn read_document(name: &str, path: &Path, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let layout = |source| ImageError::Layout {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(layout)?.len();
    if size != descriptor.size || size > MAX_DOCUMENT_BYTES {
        let reason = format!(
            "{} has {size} bytes instead of {}",
            path.display(),
            descriptor.size
        );
        return Err(malformed(name, "blob", &reason));
    }
    let bytes = read_regular(path).map_err(layout)?;
    let digest = sha256(&bytes);
    if digest != descriptor.digest {
        return Err(malformed(
            name,
            "blob",
            &format!("{} has digest {digest}", path.display()),
        ));
    }
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(
    name: &str,
    what: &'static str,
    bytes: &[u8],
) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| malformed(name, what, &error.to_string()))
}

fn malformed(name: &str, what: &'static str, reason: &str) -> ImageError {
    ImageError::Malformed {
        name: name.to_owned(),
        what,
        reason: reason.to_owned(),
    }
}
