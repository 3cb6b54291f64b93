//! The document of a remote cache: reading it without trust, writing it in stable order. The module's header has the form.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cache::{StepRecord, facts::MAX_ANSWER_BYTES},
    oci::{ChainId, Descriptor, DiffId, Digest, Manifest, MediaType, to_json},
    store::CacheMountId,
};

/// The key in an image config that holds the records.
pub(super) const CONFIG_KEY: &str = "rbuild.cache.v1";
/// The largest document that is read. A step takes about 600 bytes of it.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// More steps than any build has.
const MAX_STEPS: usize = 20_000;
/// The longest name of a step that is read.
pub(super) const MAX_LABEL_BYTES: usize = 4096;
/// The largest layer that is believed in: 1 TiB.
const MAX_LAYER_BYTES: u64 = 1 << 40;
/// The media types of layers that this program reads.
const LAYER_TYPES: [MediaType; 5] = [
    MediaType::OCI_LAYER,
    MediaType::OCI_LAYER_GZIP,
    MediaType::OCI_LAYER_ZSTD,
    MediaType::DOCKER_LAYER,
    MediaType::DOCKER_LAYER_GZIP,
];

/// What a place has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// The layers whose bytes are in the place.
    pub layers: Vec<StoredLayer>,
    /// The steps.
    pub steps: Vec<RemoteStep>,
    /// The facts.
    pub facts: Vec<Fact>,
    /// The cache mounts. Their layers are among `layers`.
    pub mounts: Vec<StoredMount>,
}

/// A cache mount in a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMount {
    /// What identifies it.
    pub mount: CacheMountId,
    /// The layer with its files.
    pub diff_id: DiffId,
    /// When a step used it last.
    #[serde(with = "rfc3339")]
    pub used: Timestamp,
}

/// Times as texts.
mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A layer in a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLayer {
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// Its blob.
    pub blob: Descriptor,
}

/// A step and the layer it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStep {
    /// The step's cache key.
    pub key: Digest,
    /// What it was asked to do ([`super::super::Key::definition`]).
    pub definition: Digest,
    /// The layer.
    pub diff_id: DiffId,
    /// The layer's blob, when it is not among [`Records::layers`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Descriptor>,
    /// When the layer was made, RFC 3339.
    pub created: String,
    /// A digest of what the layer holds, file times left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// The state that it ran on, where a whole cache was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ChainId>,
    /// What progress called it, likewise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// What was found out about a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fact {
    /// The question ([`super::super::Question::digest`]).
    pub question: Digest,
    /// The answer.
    pub answer: String,
}

/// The media type of the configs of BuildKit's caches.
const BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// It is no JSON, or lacks what it has to have.
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It is a cache of BuildKit.
    #[error("it is one of BuildKit, which rbuild does not read")]
    BuildKit,
    /// It has no records of this program.
    #[error("it holds no records of rbuild")]
    NoRecords,
    /// Manifest and config name different numbers of layers.
    #[error("it does not have as many layers ({layers}) as diffIDs ({diff_ids})")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// There are more steps or facts than any build has.
    #[error("it has {0} records")]
    TooMany(usize),
    /// A layer is not of a type that layers have, or larger than any.
    #[error("its layer {digest} is a `{media_type}` of {size} bytes")]
    Layer {
        /// The blob.
        digest: Digest,
        /// Its declared type.
        media_type: MediaType,
        /// Its declared size in bytes.
        size: u64,
    },
    /// A time is none.
    #[error("the time `{0}` of a step is none")]
    Time(String),
    /// A layer has no descriptor.
    #[error("the layer {0} of a step or mount is not described")]
    NoBlob(DiffId),
    /// What a step is called is longer than that is.
    #[error("the name of a step has {0} bytes")]
    Label(usize),
    /// A cache mount is none that a step can have.
    #[error("the cache mount `{0}` is none")]
    Mount(String),
    /// An answer is longer than answers are.
    #[error("an answer has {0} bytes")]
    Answer(usize),
}

#[derive(Serialize, Deserialize)]
struct Body {
    steps: Vec<RemoteStep>,
    #[serde(default)]
    facts: Vec<Fact>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<StoredMount>,
}

/// The one object that holds everything.
#[derive(Serialize, Deserialize)]
struct Object {
    layers: Vec<StoredLayer>,
    #[serde(rename = "rbuild.cache.v1")]
    body: Body,
}

impl Records {
    /// Reads a manifest and its config.
    pub fn from_image(manifest: &Manifest, config: &[u8]) -> Result<Self, RecordsError> {
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Vec<DiffId>,
        }
        #[derive(Deserialize)]
        struct Config {
            rootfs: RootFs,
            #[serde(rename = "rbuild.cache.v1")]
            body: Option<Body>,
        }
        if manifest.config.media_type.as_str() == BUILDKIT {
            return Err(RecordsError::BuildKit);
        }
        let config: Config = serde_json::from_slice(config)?;
        let body = config.body.ok_or(RecordsError::NoRecords)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(RecordsError::Layers {
                layers: manifest.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let layers = diff_ids.into_iter().zip(manifest.layers.iter().cloned());
        Self::checked(
            layers
                .map(|(diff_id, blob)| StoredLayer { diff_id, blob })
                .collect(),
            body,
        )
    }

    /// Reads what [`Records::to_object`] wrote.
    pub fn from_object(bytes: &[u8]) -> Result<Self, RecordsError> {
        let object: Object = serde_json::from_slice(bytes)?;
        Self::checked(object.layers, object.body)
    }

    fn checked(layers: Vec<StoredLayer>, body: Body) -> Result<Self, RecordsError> {
        let counts = [
            &body.steps.len(),
            &body.facts.len(),
            &layers.len(),
            &body.mounts.len(),
        ];
        let count = counts.into_iter().copied().max().unwrap_or(0);
        if count > MAX_STEPS {
            return Err(RecordsError::TooMany(count));
        }
        let mut records = Self {
            layers,
            steps: body.steps,
            facts: body.facts,
            mounts: body.mounts,
        };
        let described: BTreeSet<DiffId> = records.layers.iter().map(|l| l.diff_id).collect();
        for step in &records.steps {
            if step.blob.is_none() && !described.contains(&step.diff_id) {
                return Err(RecordsError::NoBlob(step.diff_id));
            }
            if step.label.len() > MAX_LABEL_BYTES {
                return Err(RecordsError::Label(step.label.len()));
            }
            if step.created.parse::<Timestamp>().is_err() {
                return Err(RecordsError::Time(step.created.chars().take(40).collect()));
            }
        }
        for mount in &records.mounts {
            let CacheMountId { id, mode, .. } = &mount.mount;
            if id.len() > MAX_LABEL_BYTES || *mode > 0o7777 {
                return Err(RecordsError::Mount(id.chars().take(40).collect()));
            }
            if !described.contains(&mount.diff_id) {
                return Err(RecordsError::NoBlob(mount.diff_id));
            }
        }
        if let Some(fact) = records
            .facts
            .iter()
            .find(|fact| fact.answer.len() > MAX_ANSWER_BYTES)
        {
            return Err(RecordsError::Answer(fact.answer.len()));
        }
        let stored = records.layers.iter_mut().map(|layer| &mut layer.blob);
        let named = records.steps.iter_mut().filter_map(|s| s.blob.as_mut());
        for blob in stored.chain(named) {
            check_layer(blob)?;
        }
        Ok(records)
    }

    /// Sorts everything and drops what is there twice, so that equal records have equal bytes.
    pub(super) fn normalize(&mut self) {
        let mut seen = BTreeSet::new();
        self.layers.sort_by_key(|layer| layer.diff_id);
        self.layers.retain(|layer| seen.insert(layer.diff_id));
        let stored = seen;
        let mut keys = BTreeSet::new();
        // The first of equals is the newest.
        self.steps.retain(|step| keys.insert(step.key));
        self.steps.sort_by_key(|step| step.key);
        for step in &mut self.steps {
            if stored.contains(&step.diff_id) {
                step.blob = None;
            }
        }
        let mut mounts = BTreeSet::new();
        self.mounts.retain(|mount| mounts.insert(mount.mount.key()));
        self.mounts.sort_by_key(|mount| mount.mount.key());
        self.facts.sort();
        self.facts.dedup_by_key(|fact| fact.question);
    }

    /// What stands under `CONFIG_KEY` in an image config.
    pub fn to_value(&self) -> serde_json::Value {
        let body = Body {
            steps: self.steps.clone(),
            facts: self.facts.clone(),
            mounts: self.mounts.clone(),
        };
        serde_json::json!(body)
    }

    /// An image config that holds these records and is no image of any platform.
    pub fn to_config(&self) -> Vec<u8> {
        let diff_ids: Vec<DiffId> = self.layers.iter().map(|layer| layer.diff_id).collect();
        to_json(&serde_json::json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            CONFIG_KEY: self.to_value(),
        }))
    }

    /// One object with everything.
    pub fn to_object(&self) -> Vec<u8> {
        to_json(&Object {
            layers: self.layers.clone(),
            body: Body {
                steps: self.steps.clone(),
                facts: self.facts.clone(),
                mounts: self.mounts.clone(),
            },
        })
    }

    /// The cache mounts with their layers.
    pub(super) fn stored_mounts(&self) -> impl Iterator<Item = (&StoredMount, &StoredLayer)> {
        // Each may be there twenty thousand times.
        let layers = self.layers.iter().map(|layer| (layer.diff_id, layer));
        let layers: BTreeMap<DiffId, &StoredLayer> = layers.rev().collect();
        self.mounts
            .iter()
            .filter_map(move |mount| Some((mount, *layers.get(&mount.diff_id)?)))
    }

    /// The results of the steps, by position in [`Records::steps`], and whether their bytes are in the place.
    pub(super) fn results(&self) -> impl Iterator<Item = (&RemoteStep, StepRecord, bool)> {
        let stored: BTreeMap<DiffId, &Descriptor> = self
            .layers
            .iter()
            .map(|layer| (layer.diff_id, &layer.blob))
            .collect();
        self.steps.iter().filter_map(move |step| {
            let here = stored.get(&step.diff_id).copied();
            let descriptor = here.or(step.blob.as_ref())?.clone();
            let record = StepRecord {
                diff_id: step.diff_id,
                descriptor,
                created: step.created.clone(),
                content: step.content,
                began: None,
                label: step.label.clone(),
            };
            Some((step, record, here.is_some()))
        })
    }
}

/// Refuses what cannot be a layer; leaves type, digest and size of it.
fn check_layer(blob: &mut Descriptor) -> Result<(), RecordsError> {
    if !LAYER_TYPES.contains(&blob.media_type) || blob.size > MAX_LAYER_BYTES {
        return Err(RecordsError::Layer {
            digest: blob.digest,
            media_type: blob.media_type.clone(),
            size: blob.size,
        });
    }
    *blob = Descriptor::new(blob.media_type.to_oci(), blob.digest, blob.size);
    Ok(())
}

#[cfg(test)]
mod tests;
