//! The documents of an image that is exported: config, manifest, index.

use super::{Annotation, AnnotationPlace, Image, ImageOptions, OutputError, Request, attestation};
use crate::{
    oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform, to_json},
    store::Store,
};

/// The documents of an image, which are in the store.
#[derive(Debug)]
pub(super) struct Documents {
    /// The manifest, or the index of several.
    pub(super) root: Descriptor,
    /// All that the index points to, or the manifest alone: the images, in the order of the platforms, then what is said about
    /// each.
    pub(super) manifests: Vec<Written>,
    n_images: usize,
}

impl Documents {
    /// The manifests of images.
    pub(super) fn images(&self) -> &[Written] {
        &self.manifests[..self.n_images]
    }

    /// The manifests that say something about images.
    pub(super) fn attestations(&self) -> &[Written] {
        &self.manifests[self.n_images..]
    }
}

/// A manifest and what it points to.
#[derive(Debug)]
pub(super) struct Written {
    /// The manifest, with its platform.
    pub(super) descriptor: Descriptor,
    /// The config.
    pub(super) config: Descriptor,
    /// The layers, base first.
    pub(super) layers: Vec<Descriptor>,
}

/// Puts the documents of `images` into the store. Equal images, names and options give equal bytes.
pub(super) fn write(
    store: &Store,
    request: &Request<'_>,
    images: &[Image],
    options: &ImageOptions,
) -> Result<Documents, OutputError> {
    let annotations: Vec<&Annotation> = request
        .annotations
        .iter()
        .chain(&options.annotations)
        .collect();
    let with_index = request.is_index(images);
    check(&annotations, images, options, with_index)?;
    let mut manifests = images
        .iter()
        .map(|image| write_manifest(store, image, options, &annotations))
        .collect::<Result<Vec<_>, _>>()?;
    let n_images = manifests.len();
    let names = request.names(options);
    for (n, image) in images.iter().enumerate() {
        let statements = request.statements(n, image)?;
        // As in BuildKit, nothing is said of what has no files.
        if !image.layers.is_empty() && !statements.is_empty() {
            let about = &manifests[n].descriptor;
            manifests.push(attestation::write(
                store,
                about,
                &names,
                &statements,
                options.artifacts,
            )?);
        }
    }
    let root = match &manifests[..] {
        [only] if !with_index => only.descriptor.clone(),
        several => {
            let entries = several.iter().map(|m| m.descriptor.clone()).collect();
            let mut index = Index::new(entries);
            for annotation in placed(&annotations, AnnotationPlace::Index, None) {
                index
                    .annotations
                    .insert(annotation.key.clone(), annotation.value.clone());
            }
            let media_type = family(&MediaType::OCI_INDEX, options);
            index.media_type = Some(media_type.clone());
            let mut descriptor = put(store, media_type, &to_json(&index))?;
            for annotation in placed(&annotations, AnnotationPlace::IndexDescriptor, None) {
                descriptor
                    .annotations
                    .insert(annotation.key.clone(), annotation.value.clone());
            }
            descriptor
        }
    };
    Ok(Documents {
        root,
        manifests,
        n_images,
    })
}

fn write_manifest(
    store: &Store,
    image: &Image,
    options: &ImageOptions,
    annotations: &[&Annotation],
) -> Result<Written, OutputError> {
    let platform = image.config.platform.clone();
    let config_type = family(&MediaType::OCI_CONFIG, options);
    let config = put(store, config_type, &to_json(&image.config))?;
    let layers: Vec<Descriptor> = image
        .layers
        .iter()
        .map(|layer| Descriptor {
            media_type: family(&layer.descriptor.media_type, options),
            ..layer.descriptor.clone()
        })
        .collect();
    let mut manifest = Manifest::new(config.clone(), layers.clone());
    for annotation in placed(annotations, AnnotationPlace::Manifest, Some(&platform)) {
        manifest
            .annotations
            .insert(annotation.key.clone(), annotation.value.clone());
    }
    let media_type = family(&MediaType::OCI_MANIFEST, options);
    manifest.media_type = Some(media_type.clone());
    let mut descriptor = put(store, media_type, &to_json(&manifest))?;
    for annotation in placed(
        annotations,
        AnnotationPlace::ManifestDescriptor,
        Some(&platform),
    ) {
        descriptor
            .annotations
            .insert(annotation.key.clone(), annotation.value.clone());
    }
    descriptor.platform = Some(platform);
    Ok(Written {
        descriptor,
        config,
        layers,
    })
}

fn put(store: &Store, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor, OutputError> {
    let digest: Digest = store.put_bytes(bytes)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

/// The type in the words of the family that was asked for.
fn family(media_type: &MediaType, options: &ImageOptions) -> MediaType {
    if options.oci_media_types {
        media_type.to_oci()
    } else {
        media_type.to_docker()
    }
}

/// The annotations for a place, those for all platforms first so that those for one have the last word.
fn placed<'a>(
    annotations: &'a [&Annotation],
    place: AnnotationPlace,
    platform: Option<&'a Platform>,
) -> impl Iterator<Item = &'a Annotation> {
    let of = move |specific: bool| {
        annotations.iter().copied().filter(move |annotation| {
            annotation.place == place
                && match &annotation.platform {
                    None => !specific,
                    Some(wanted) => specific && platform.is_some_and(|p| same(wanted, p)),
                }
        })
    };
    of(false).chain(of(true))
}

fn same(a: &Platform, b: &Platform) -> bool {
    a.clone().normalized() == b.clone().normalized()
}

/// Refuses annotations that would go nowhere.
fn check(
    annotations: &[&Annotation],
    images: &[Image],
    options: &ImageOptions,
    with_index: bool,
) -> Result<(), OutputError> {
    for annotation in annotations {
        let key = annotation.key.clone();
        let on_document = matches!(
            annotation.place,
            AnnotationPlace::Manifest | AnnotationPlace::Index
        );
        if !options.oci_media_types && on_document {
            return Err(OutputError::NoAnnotations { key });
        }
        let on_index = matches!(
            annotation.place,
            AnnotationPlace::Index | AnnotationPlace::IndexDescriptor
        );
        if on_index && !with_index {
            return Err(OutputError::NoIndex { key });
        }
        if let Some(platform) = &annotation.platform
            && !images
                .iter()
                .any(|image| same(&image.config.platform, platform))
        {
            let platform = platform.clone();
            return Err(OutputError::NoPlatform { key, platform });
        }
    }
    Ok(())
}
