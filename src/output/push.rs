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

    /// Forgets what was only concluded of what the repository has; whether there was anything. Then a document that was
    /// refused may be taken once the blobs are pushed again.
    fn reconsider(&self, to: &Destination) -> bool;

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
        let is_first = !repositories.contains(&name.name());
        repositories.push(name.name());
        let image = Pushed {
            services,
            pusher,
            documents,
            name,
            insecure,
        };
        if let Err(error) = image.put(&to, is_first) {
            if !is_first || !pusher.reconsider(&to) {
                return Err(error);
            }
            image.put(&to, true)?;
        }
    }
    Ok(())
}

/// An image on its way to one of its names.
struct Pushed<'a> {
    services: &'a Services<'a>,
    pusher: &'a dyn Pusher,
    documents: &'a Documents,
    name: &'a Reference,
    insecure: bool,
}

impl Pushed<'_> {
    /// Pushes all that the image consists of, unless the repository has it from another name, and what `named` names.
    fn put(&self, named: &Destination, with_contents: bool) -> Result<(), OutputError> {
        let (services, root) = (self.services, &self.documents.root);
        if with_contents {
            services.status(format!("pushing layers for {}", self.name.name()));
            let to = self.at(self.name.clone());
            self.pusher
                .push_blobs(&to, &blobs(self.documents))
                .map_err(self.failed("layers"))?;
            for manifest in &self.documents.manifests {
                let descriptor = &manifest.descriptor;
                if descriptor.digest == root.digest {
                    continue;
                }
                let to = self.at(self.name.clone().with_digest(descriptor.digest));
                let bytes = services.store.read_blob(descriptor)?;
                self.pusher
                    .push_document(&to, descriptor, &bytes)
                    .map_err(self.failed("manifest"))?;
            }
        }
        let shown = self.name.clone().with_digest(root.digest);
        services.status(format!("pushing manifest for {shown}"));
        let bytes = services.store.read_blob(root)?;
        self.pusher
            .push_document(named, root, &bytes)
            .map_err(self.failed("manifest"))
    }

    fn at(&self, reference: Reference) -> Destination {
        Destination {
            reference,
            insecure: self.insecure,
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(BoxError) -> OutputError {
        let reference = self.name.clone();
        move |source| OutputError::Push {
            what,
            reference,
            source,
        }
    }
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
