//! Pushing an image: layers and config, then manifests, then the index, then names. A registry refuses a document
//! that points to something it does not have, and nobody sees a name before all behind it is there.
//!
//! A build that made nothing new asks one question, whether the name stands for this image already, and believes the answer.
//! BuildKit and Docker then ask for each blob as well, which repairs a registry that has lost some. That is one request a layer
//! in every build that changes nothing, for what hardly ever happens; who needs it has `rbuild push`, which asks for each.

use super::{BoxError, OutputError, Services, documents::Documents};
use crate::{oci::Descriptor, reference::Reference};

/// Where an image is pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The repository; for documents, with the tag or the digest under which they are put.
    pub reference: Reference,
    /// Whether plain HTTP and unknown certificates are fine.
    pub insecure: bool,
}

/// Talks to registries. Both methods are called only with what comes after what they depend on.
pub trait Pusher: Sync {
    /// Sees to it that the repository has these blobs: by looking, by mounting them from another repository, or by
    /// sending them. Blobs may be missing in the store: those of a base image that
    /// no step has looked into.
    fn push_blobs(&self, to: &Destination, blobs: &[Descriptor]) -> Result<(), BoxError>;

    /// Whether the tag or digest of the destination stands for this document already.
    fn is_named(&self, to: &Destination, document: &Descriptor) -> bool;

    /// Puts a manifest or an index under the tag or digest of the destination.
    fn push_document(
        &self,
        to: &Destination,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), BoxError>;
}

/// Pushes an image under all its names.
pub(super) fn push(
    services: &Services<'_>,
    documents: &Documents,
    names: &[Reference],
    by_digest: bool,
    insecure: bool,
) -> Result<(), OutputError> {
    let Some(first) = names.first() else {
        return Err(OutputError::NoName);
    };
    let Some(pusher) = services.pusher else {
        return Err(OutputError::NoPusher {
            reference: first.clone(),
        });
    };
    let root = &documents.root;
    // Where no layer is new, all may be there; a registry that has the image has what it consists of.
    let may_be_there = !services.store.has_grown();
    let mut repositories: Vec<String> = Vec::new();
    for name in names {
        let by_digest_name = name.clone().with_digest(root.digest);
        let to = Destination {
            reference: if by_digest {
                by_digest_name
            } else {
                name.clone().with_default_tag().without_digest()
            },
            insecure,
        };
        if may_be_there && pusher.is_named(&to, root) {
            services.status(format!("{} exists already", to.reference));
            continue;
        }
        let named = to;
        if !repositories.contains(&name.name()) {
            repositories.push(name.name());
            let failed = |what| {
                let reference = name.clone();
                move |source| OutputError::Push {
                    what,
                    reference,
                    source,
                }
            };
            services.status(format!("pushing layers for {}", name.name()));
            let to = Destination {
                reference: name.clone(),
                insecure,
            };
            pusher
                .push_blobs(&to, &blobs(documents))
                .map_err(failed("layers"))?;
            for manifest in &documents.manifests {
                let descriptor = &manifest.descriptor;
                if descriptor.digest == root.digest {
                    continue;
                }
                let to = Destination {
                    reference: name.clone().with_digest(descriptor.digest),
                    insecure,
                };
                let bytes = services.store.read_blob(descriptor)?;
                pusher
                    .push_document(&to, descriptor, &bytes)
                    .map_err(failed("manifest"))?;
            }
        }
        let shown = name.clone().with_digest(root.digest);
        services.status(format!("pushing manifest for {shown}"));
        let bytes = services.store.read_blob(root)?;
        pusher
            .push_document(&named, root, &bytes)
            .map_err(|source| OutputError::Push {
                what: "manifest",
                reference: name.clone(),
                source,
            })?;
    }
    Ok(())
}

/// The layers of all platforms, then the configs, each once.
fn blobs(documents: &Documents) -> Vec<Descriptor> {
    let mut seen = std::collections::BTreeSet::new();
    let layers = documents.manifests.iter().flat_map(|m| &m.layers);
    let configs = documents.manifests.iter().map(|m| &m.config);
    layers
        .chain(configs)
        .filter(|blob| seen.insert(blob.digest))
        .cloned()
        .collect()
}
