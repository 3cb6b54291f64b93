//! The judge: is an image in the store what its documents say? Everything is computed again from the bytes.

use std::{collections::BTreeSet, fmt, io};

use super::OutputError;
use crate::{
    layer::archive::decompress,
    oci::{
        ConfigFile, Descriptor, DiffId, Digest, Digester, Index, Manifest, MediaType, Platform,
        sha256,
    },
    store::{Store, StoreError},
};

/// Something about an image that is not as its documents say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The blob that it is about.
    pub blob: Digest,
    /// What is wrong.
    pub kind: FaultKind,
}

/// What can be wrong with a blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// It is not there.
    #[error("is not in the store")]
    Missing,
    /// It is longer or shorter than its descriptor says.
    #[error("has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// What the descriptor says.
        expected: u64,
        /// What was read.
        actual: u64,
    },
    /// It has other bytes.
    #[error("has the digest {0}")]
    Digest(Digest),
    /// It is no document of its media type.
    #[error("cannot be understood: {0}")]
    Malformed(String),
    /// A document names another type for itself than its descriptor does.
    #[error("says that it is `{0}`")]
    MediaType(MediaType),
    /// The config does not have as many diffIDs as the manifest has layers.
    #[error("does not have as many layers ({layers}) as its config has diffIDs ({diff_ids})")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// The config's list of `diff_ids`.
        diff_ids: usize,
    },
    /// The history does not have as many entries with a layer as there are layers.
    #[error("does not have as many layers ({layers}) as its history ({entries})")]
    History {
        /// Layers of the manifest.
        layers: usize,
        /// Entries of the history that have a layer.
        entries: usize,
    },
    /// A layer's content is not the one that the config says.
    #[error("has diffID {actual}, the config says {expected}")]
    DiffId {
        /// What the config says.
        expected: DiffId,
        /// What the layer has.
        actual: DiffId,
    },
    /// A layer cannot be decompressed.
    #[error("cannot be decompressed: {0}")]
    Compression(String),
    /// The config is for another platform than the index says.
    #[error("is for {actual}, the index says {expected}")]
    Platform {
        /// What the index says.
        expected: Platform,
        /// What the config says.
        actual: Platform,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.blob, self.kind)
    }
}

/// All faults of an image, in the order in which its documents lead to them; none is a valid image.
pub fn validate(store: &Store, image: &Descriptor) -> Result<Vec<Fault>, OutputError> {
    let mut judge = Judge {
        store,
        seen: BTreeSet::new(),
        faults: Vec::new(),
    };
    judge.image(image, 0)?;
    Ok(judge.faults)
}

/// Indexes inside one another are followed this far.
const MAX_DEPTH: usize = 4;

struct Judge<'a> {
    store: &'a Store,
    seen: BTreeSet<Digest>,
    faults: Vec<Fault>,
}

impl Judge<'_> {
    fn fault(&mut self, blob: &Descriptor, kind: FaultKind) {
        self.faults.push(Fault {
            blob: blob.digest,
            kind,
        });
    }

    fn image(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(), OutputError> {
        if !self.seen.insert(descriptor.digest) {
            return Ok(());
        }
        let Some(bytes) = self.document(descriptor)? else {
            return Ok(());
        };
        if descriptor.media_type.is_index() && depth < MAX_DEPTH {
            if let Some(index) = self.parse::<Index>(descriptor, &bytes) {
                self.own_type(descriptor, index.media_type.as_ref());
                for manifest in &index.manifests {
                    self.image(manifest, depth + 1)?;
                }
            }
        } else if descriptor.media_type.is_manifest() {
            if let Some(manifest) = self.parse::<Manifest>(descriptor, &bytes) {
                self.own_type(descriptor, manifest.media_type.as_ref());
                self.manifest(descriptor, &manifest)?;
            }
        } else {
            let reason = format!("`{}` is no image", descriptor.media_type);
            self.fault(descriptor, FaultKind::Malformed(reason));
        }
        Ok(())
    }

    fn manifest(
        &mut self,
        descriptor: &Descriptor,
        manifest: &Manifest,
    ) -> Result<(), OutputError> {
        let config_type = manifest.config.media_type.to_oci();
        let config = match self.document(&manifest.config)? {
            Some(bytes) if config_type == MediaType::OCI_CONFIG => {
                self.parse::<ConfigFile>(&manifest.config, &bytes)
            }
            _ => None,
        };
        let diff_ids = config.as_ref().map(|config| &config.rootfs.diff_ids[..]);
        for (i, layer) in manifest.layers.iter().enumerate() {
            let expected = diff_ids.and_then(|diff_ids| diff_ids.get(i)).copied();
            self.layer(layer, expected)?;
        }
        let Some(config) = config else {
            return Ok(());
        };
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            self.fault(descriptor, FaultKind::LayerCount { layers, diff_ids });
        }
        let entries = config.history.iter().filter(|h| !h.empty_layer).count();
        if !config.history.is_empty() && entries != layers {
            self.fault(descriptor, FaultKind::History { layers, entries });
        }
        if let Some(expected) = &descriptor.platform
            && expected.clone().normalized() != config.platform.clone().normalized()
        {
            self.fault(
                descriptor,
                FaultKind::Platform {
                    expected: expected.clone(),
                    actual: config.platform,
                },
            );
        }
        Ok(())
    }

    /// Reads a layer once: its size, its digest, and the digest of what is in it.
    fn layer(&mut self, layer: &Descriptor, expected: Option<DiffId>) -> Result<(), OutputError> {
        let file = match self.store.open_blob(&layer.digest) {
            Ok(file) => file,
            Err(StoreError::Missing { .. }) => {
                self.fault(layer, FaultKind::Missing);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let path = self.store.blob_path(&layer.digest);
        let read_error = |source| StoreError::Io {
            action: "read",
            path: path.clone(),
            source,
        };
        let mut digester = Digester::new();
        let actual = io::copy(&mut &file, &mut digester).map_err(read_error)?;
        let digest = digester.finish();
        if digest != layer.digest {
            self.fault(layer, FaultKind::Digest(digest));
        }
        let expected_size = layer.size;
        if actual != expected_size {
            let expected = expected_size;
            self.fault(layer, FaultKind::Size { expected, actual });
        }
        let Some(expected) = expected else {
            return Ok(());
        };
        let mut digester = Digester::new();
        let again = self.store.open_blob(&layer.digest)?;
        let tar = decompress(again).and_then(|mut tar| io::copy(&mut tar, &mut digester));
        match tar {
            Ok(_) => {
                let actual = DiffId(digester.finish());
                if actual != expected {
                    self.fault(layer, FaultKind::DiffId { expected, actual });
                }
            }
            Err(error) => self.fault(layer, FaultKind::Compression(error.to_string())),
        }
        Ok(())
    }

    /// The bytes of a document, when they are what its descriptor says.
    fn document(&mut self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, OutputError> {
        let kind = match self.store.read_blob(descriptor) {
            Ok(bytes) => {
                debug_assert_eq!(sha256(&bytes), descriptor.digest);
                return Ok(Some(bytes));
            }
            Err(StoreError::Missing { .. }) => FaultKind::Missing,
            Err(StoreError::Size {
                expected, actual, ..
            }) => FaultKind::Size { expected, actual },
            Err(StoreError::Corrupt { actual, .. }) => FaultKind::Digest(actual),
            Err(error @ StoreError::TooLarge { .. }) => FaultKind::Malformed(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        self.fault(descriptor, kind);
        Ok(None)
    }

    fn parse<T: serde::de::DeserializeOwned>(
        &mut self,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Option<T> {
        match serde_json::from_slice(bytes) {
            Ok(document) => Some(document),
            Err(error) => {
                self.fault(descriptor, FaultKind::Malformed(error.to_string()));
                None
            }
        }
    }

    fn own_type(&mut self, descriptor: &Descriptor, own: Option<&MediaType>) {
        if let Some(own) = own
            && *own != descriptor.media_type
        {
            self.fault(descriptor, FaultKind::MediaType(own.clone()));
        }
    }
}
