//! Between a build's result and its outputs: `build` knows where layers are, `output` what is to become of them, and
//! neither knows the other.

use std::{
    io::{self, Read},
    sync::Arc,
};

use rbuild::{
    build::{BuildResult, BuiltImage, Scan, Services},
    oci::Descriptor,
    output::{BoxError, Destination, Image, ImageLayer, LayerOrigin, Layers, Pusher, Sbom},
    progress::{Event, Reporter as _, Vertex},
    registry::{Pushed, Upload},
    tree::Tree,
};

use super::{progress::Renderer, transfer};

/// The layers of a build's result, for one output.
pub(crate) struct Export<'a> {
    pub(crate) result: &'a BuildResult,
    pub(crate) services: &'a Services<'a>,
    pub(crate) renderer: &'a Arc<Renderer>,
    pub(crate) vertex: Vertex,
}

/// The images as outputs take them.
pub(crate) fn images(result: &BuildResult) -> Vec<Image> {
    result.images.iter().map(image).collect()
}

fn image(built: &BuiltImage) -> Image {
    let diff_ids = built.config.rootfs.diff_ids.iter();
    Image {
        config: built.config.clone(),
        base_history: built.base_history,
        layers: built
            .layers
            .iter()
            .zip(diff_ids)
            .enumerate()
            .map(|(n, (descriptor, diff_id))| ImageLayer {
                diff_id: *diff_id,
                descriptor: descriptor.clone(),
                origin: if n < built.base_layers {
                    LayerOrigin::Base
                } else {
                    LayerOrigin::Built
                },
            })
            .collect(),
    }
}

/// What a scanner says, as outputs take it.
pub(crate) fn sbom(scan: Scan) -> Sbom {
    Sbom {
        lists: scan.lists,
        layers: scan.layers,
        tool: concat!("rbuild-", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

impl Layers for Export<'_> {
    fn ensure(&self, blob: &Descriptor) -> Result<(), BoxError> {
        Ok(self.result.ensure_blob(self.services, self.vertex, blob)?)
    }

    fn tree(&self, image: &Image) -> Result<Arc<dyn Tree>, BoxError> {
        let wanted = |built: &&BuiltImage| {
            built.config.history == image.config.history
                && built.config.platform == image.config.platform
                && built.config.config == image.config.config
                && built
                    .layers
                    .iter()
                    .eq(image.layers.iter().map(|layer| &layer.descriptor))
        };
        let Some(built) = self.result.images.iter().find(wanted) else {
            return Err("the image is not one of this build".into());
        };
        Ok(self.result.tree(self.services, self.vertex, built)?)
    }
}

impl Pusher for Export<'_> {
    fn push_blobs(&self, to: &Destination, blobs: &[Descriptor]) -> Result<(), BoxError> {
        transfer::each(blobs, |blob| self.push_blob(to, blob))
    }

    fn is_named(&self, to: &Destination, document: &Descriptor) -> bool {
        self.services.registry.is_named(&to.reference, document)
    }

    fn reconsider(&self, to: &Destination) -> bool {
        self.services.registry.reconsider(&to.reference)
    }

    fn push_document(
        &self,
        to: &Destination,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), BoxError> {
        self.services
            .registry
            .push_manifest(&to.reference, &descriptor.media_type, bytes)?;
        self.renderer.event(Event::Status {
            vertex: self.vertex,
            text: format!("pushing manifest for {} done", to.reference),
        });
        Ok(())
    }
}

impl Export<'_> {
    fn push_blob(&self, to: &Destination, blob: &Descriptor) -> Result<(), BoxError> {
        // A layer of the base image is fetched only if the registry can neither show nor mount it.
        let open = || -> io::Result<Box<dyn Read + Send>> {
            self.ensure(blob).map_err(io::Error::other)?;
            let file = self
                .services
                .store
                .open_blob(&blob.digest)
                .map_err(io::Error::other)?;
            Ok(Box::new(file))
        };
        let meter = transfer::Meter::new(Arc::clone(self.renderer), self.vertex, blob);
        let told = meter.clone();
        let mut mount_from = self.result.blobs.repositories(&blob.digest);
        let imports = &self.services.remote_cache.imports;
        mount_from.extend(imports.repositories(&blob.digest));
        let upload = Upload {
            descriptor: blob,
            open: &open,
            mount_from: &mount_from,
            is_new: false,
            progress: Some(Arc::new(move |sent| told.moved(sent))),
        };
        match self.services.registry.push_blob(&to.reference, &upload)? {
            Pushed::Existed => meter.status("exists already"),
            Pushed::Mounted { from } => meter.status(&format!("mounted from {from}")),
            Pushed::Uploaded => meter.moved(blob.size),
        }
        Ok(())
    }
}
