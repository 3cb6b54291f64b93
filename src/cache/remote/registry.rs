//! A cache in a registry: an image of its own under a tag, or the config of an image that was built with an inline cache.

use std::sync::Arc;

use super::{Place, PlaceError, Records, RecordsError, Selection, records::MAX_DOCUMENT_BYTES};
use crate::{
    oci::{Descriptor, Manifest, MediaType, Platform, to_json},
    reference::Reference,
    registry::{BlobSink, Client, Document, Pushed, Upload},
};

/// As many manifests of an index are looked at; no image is for more platforms.
const MAX_MANIFESTS: usize = 32;

/// A repository and a tag.
#[derive(Debug)]
pub struct RegistryPlace {
    client: Arc<Client>,
    reference: Reference,
}

impl RegistryPlace {
    /// The place under a reference; without tag and digest, the tag `latest`.
    pub fn new(client: Arc<Client>, reference: Reference) -> Self {
        Self {
            client,
            reference: reference.with_default_tag(),
        }
    }

    /// Reads a manifest and its config, of no more bytes than are left; takes them off.
    fn of_manifest(&self, document: &Document, left: &mut u64) -> Result<Records, PlaceError> {
        let manifest: Manifest =
            serde_json::from_slice(&document.bytes).map_err(RecordsError::from)?;
        let config = self
            .client
            .blob_bytes(&self.reference, &manifest.config, *left)?;
        *left = left.saturating_sub(manifest.config.size);
        Ok(Records::from_image(&manifest, &config)?)
    }
}

impl Place for RegistryPlace {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn records(&self, platforms: &[Platform]) -> Result<Selection, PlaceError> {
        let document = match self.client.manifest(&self.reference) {
            Err(error) if error.is_not_found() => return Err(PlaceError::Absent),
            other => other?,
        };
        // For all documents together: an index may name large ones many times.
        let mut left = MAX_DOCUMENT_BYTES;
        let Some(index) = document.index() else {
            return Ok(vec![self.of_manifest(&document, &mut left)?]);
        };
        let mut found = Vec::new();
        let wanted = index.manifests.iter().filter(|entry| {
            entry.platform.as_ref().is_none_or(|platform| {
                platforms
                    .iter()
                    .any(|wanted| wanted.match_rank(platform).is_some())
            })
        });
        for entry in wanted.take(MAX_MANIFESTS) {
            let child = self.reference.clone().with_digest(entry.digest);
            match self.of_manifest(&self.client.manifest(&child)?, &mut left) {
                Ok(records) => found.push(records),
                // An image for one platform may have none where that for another does.
                Err(PlaceError::Records(RecordsError::NoRecords)) => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            return Err(RecordsError::NoRecords.into());
        }
        Ok(found)
    }

    fn blob(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError> {
        Ok(self.client.blob(&self.reference, blob, sink)?)
    }

    fn put_blob(&self, upload: &Upload<'_>) -> Result<Pushed, PlaceError> {
        Ok(self.client.push_blob(&self.reference, upload)?)
    }

    fn put_records(&self, records: &Records) -> Result<Option<Descriptor>, PlaceError> {
        let config = records.to_config();
        let descriptor = Descriptor::of(MediaType::OCI_CONFIG, &config);
        self.client.push_blob(
            &self.reference,
            &Upload {
                descriptor: &descriptor,
                open: &|| Ok(Box::new(std::io::Cursor::new(config.clone()))),
                mount_from: &[],
                is_new: false,
                progress: None,
            },
        )?;
        let layers = records.layers.iter().map(|layer| layer.blob.clone());
        let manifest = to_json(&Manifest::new(descriptor, layers.collect()));
        self.client
            .push_manifest(&self.reference, &MediaType::OCI_MANIFEST, &manifest)?;
        Ok(Some(Descriptor::of(MediaType::OCI_MANIFEST, &manifest)))
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }
}
