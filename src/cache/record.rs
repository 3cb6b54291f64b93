//! Records of steps: writing and looking up.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::{Input, Key, Memory, Sight, equal::key_of_result};
use crate::{
    layer::{Encoding, Toc},
    oci::{ChainId, Descriptor, DiffId, Digest, MediaType, to_json},
    store::{Found, LayerRecord, StepFolder, Store, StoreError},
};

/// Whether earlier results are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// Earlier results are used.
    On,
    /// They are not (`--no-cache`); new ones are recorded.
    Off,
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The layer's diffID.
    pub diff_id: DiffId,
    /// The blob that holds the layer.
    pub descriptor: Descriptor,
    /// When the layer was made, RFC 3339; the `created` of its history entry.
    pub created: String,
    /// A digest of what the layer holds, file times left out ([`super::content_digest`]); for recognising an equal
    /// result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// When the process began that made it, RFC 3339; `None` where none did or nobody knows. Together with `created` it tells
    /// file times that were set from those of writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<String>,
    /// What progress called the step, for lists of what the cache holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

impl StepRecord {
    /// A record and the state that its step ran on, out of the bytes that the store keeps; `None` when they are none.
    pub fn read(bytes: &[u8]) -> Option<(Self, Option<ChainId>)> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let parent = stored.parent();
        Some((stored.record, parent))
    }
}

/// The record of a step with all that a store keeps of it, without the key's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) record: StepRecord,
    /// What it was asked to do; records of earlier versions do not say.
    pub(super) definition: Option<Digest>,
    /// The state that it ran on.
    pub(super) parent: Option<ChainId>,
}

impl Kept {
    /// Out of the bytes that the store keeps; `None` when they are none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            definition: stored.definition,
            parent: stored.parent(),
            record: stored.record,
        })
    }

    /// Records it by its key and by its content, where the store has no result yet; whether that was so for the key.
    pub(super) fn keep(&self, store: &Store, key: &Digest) -> Result<bool, StoreError> {
        let parent = self.parent.map(|parent| Input {
            name: PARENT.to_owned(),
            value: parent.0.to_string(),
        });
        let bytes = to_json(&Stored {
            record: self.record.clone(),
            inputs: parent.into_iter().collect(),
            definition: self.definition,
        });
        let put = |key: &Digest| {
            let is_new = result_of(store, key)?.is_none();
            if is_new {
                store.put_step(StepFolder::Key, key, &bytes)?;
            }
            Ok(is_new)
        };
        if let (Some(definition), Some(content)) = (&self.definition, &self.record.content) {
            put(&key_of_result(definition, content))?;
        }
        put(key)
    }
}

/// A record as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    record: StepRecord,
    inputs: Vec<Input>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    definition: Option<Digest>,
}

/// The name of the input that is the state before.
const PARENT: &str = "parent";

fn parent_of(inputs: &[Input]) -> Option<ChainId> {
    let parent = inputs.iter().find(|input| input.name == PARENT)?;
    parent.value.parse().ok().map(ChainId)
}

impl Stored {
    fn parent(&self) -> Option<ChainId> {
        parent_of(&self.inputs)
    }
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The layer of an earlier execution, which is in the store.
    Hit(Box<StepRecord>),
    /// Nothing to use. [`Key::reason`] says why.
    Miss(Miss),
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// There is no record.
    Absent,
    /// There is a record, but this blob has gone.
    Evicted(Digest),
    /// The record cannot be read, or its blob holds another layer than it says.
    Corrupt,
    /// Earlier results are not wanted.
    Disabled,
}

/// The result that is recorded by a key, if its blob is in the store.
pub(super) fn result_of(store: &Store, key: &Digest) -> Result<Option<StepRecord>, StoreError> {
    let Found::Valid(bytes) = store.step(StepFolder::Key, key)? else {
        return Ok(None);
    };
    let Ok(Stored { record, .. }) = serde_json::from_slice::<Stored>(&bytes) else {
        return Ok(None);
    };
    let blob = &record.descriptor;
    let is_here = store.has(blob)? && holds(store, record.diff_id, blob)?;
    Ok(is_here.then_some(record))
}

/// Whether a blob, which is in the store, holds this layer and is wrapped as its media type says. A remote cache may have said
/// anything; the store's own record of a layer was made of the blob's bytes.
pub(super) fn holds(store: &Store, diff_id: DiffId, blob: &Descriptor) -> Result<bool, StoreError> {
    if !is_wrapped_as_told(store.open_blob(&blob.digest)?, blob) {
        return Ok(false);
    }
    if store.knows_layer(diff_id, &blob.digest)? {
        return Ok(true);
    }
    let Ok(toc) = Toc::read(store.open_blob(&blob.digest)?) else {
        return Ok(false);
    };
    if toc.diff_id != diff_id {
        return Ok(false);
    }
    store.put_layer(&LayerRecord {
        diff_id,
        descriptor: blob.clone(),
        toc: toc.to_bytes(),
    })?;
    Ok(true)
}

/// Whether the bytes of a layer begin as the media type of its blob says.
pub(super) fn is_wrapped_as_told(bytes: impl Read, blob: &Descriptor) -> bool {
    let mut start = Vec::new();
    let read = bytes.take(6).read_to_end(&mut start);
    let told = match blob.media_type.to_oci() {
        t if t == MediaType::OCI_LAYER => Encoding::Plain,
        t if t == MediaType::OCI_LAYER_GZIP => Encoding::Gzip,
        t if t == MediaType::OCI_LAYER_ZSTD => Encoding::Zstd,
        _ => return false,
    };
    read.is_ok() && Encoding::of_start(&start) == told
}

/// The table of contents of a record's layer, if the store has it, with the digests of its files.
pub(super) fn toc_of(store: &Store, record: &StepRecord) -> Result<Option<Toc>, StoreError> {
    let layer = store.layer_record_of(record.diff_id, &record.descriptor.digest)?;
    let Some(toc) = layer.and_then(|layer| Toc::from_bytes(&layer.toc).ok()) else {
        return Ok(None);
    };
    if toc.has_digests() {
        return Ok(Some(toc));
    }
    // What a step made was a layer of somebody's base before.
    let blob = &record.descriptor;
    if !store.has(blob)? {
        return Ok(None);
    }
    let Ok(toc) = Toc::read(store.open_blob(&blob.digest)?) else {
        return Ok(None);
    };
    store.put_layer(&LayerRecord {
        diff_id: toc.diff_id,
        descriptor: blob.clone(),
        toc: toc.to_bytes(),
    })?;
    Ok(Some(toc))
}

impl Key {
    /// Looks for an earlier result of the step with this key. A hit's blob is in the store with the right size.
    pub fn lookup(&self, store: &Store, cache: CacheUse) -> Result<Lookup, StoreError> {
        if cache == CacheUse::Off {
            return Ok(Lookup::Miss(Miss::Disabled));
        }
        let record = match store.step(StepFolder::Key, self.digest())? {
            Found::Valid(bytes) => serde_json::from_slice::<Stored>(&bytes).ok(),
            Found::Invalid => None,
            Found::Absent => return Ok(Lookup::Miss(Miss::Absent)),
        };
        let Some(Stored { record, .. }) = record else {
            return Ok(Lookup::Miss(Miss::Corrupt));
        };
        if !store.has(&record.descriptor)? {
            return Ok(Lookup::Miss(Miss::Evicted(record.descriptor.digest)));
        }
        if !holds(store, record.diff_id, &record.descriptor)? {
            return Ok(Lookup::Miss(Miss::Corrupt));
        }
        Ok(Lookup::Hit(Box::new(record)))
    }

    /// Records the result of the step with this key, whose blob is in the store.
    pub fn record(&self, store: &Store, record: &StepRecord) -> Result<(), StoreError> {
        let stored = Stored {
            record: record.clone(),
            inputs: self.inputs().to_vec(),
            definition: Some(*self.definition()),
        };
        let bytes = to_json(&stored);
        match &record.content {
            Some(content) => {
                let by_content = key_of_result(self.definition(), content);
                store.put_step_twice([self.digest(), &by_content], &bytes)
            }
            None => store.put_step(StepFolder::Key, self.digest(), &bytes),
        }
    }

    /// The state that the step runs on; `None` for one that looks at none.
    pub(super) fn parent(&self) -> Option<ChainId> {
        parent_of(self.inputs())
    }

    /// Remembers how the step looks, for telling later why it missed. To be done after every hit and execution: it costs two
    /// small reads when nothing has changed.
    pub fn remember(&self, store: &Store, sight: &Sight<'_>) -> Result<(), StoreError> {
        sight.remember(store, self)
    }

    /// The same for a step that reads no files.
    pub fn remember_later(&self, store: &Store, memory: Memory) -> Result<(), StoreError> {
        memory.keep(store, self, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{KeyBuilder, content_digest},
        layer::{WriteOptions, write_layer},
        oci::sha256,
    };

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root")).unwrap();
        (dir, store)
    }

    fn key(argv: &str) -> Key {
        KeyBuilder::new("run")
            .text("argv", argv)
            .text("user", "")
            .finish()
    }

    fn layer(store: &Store) -> StepRecord {
        let mut blob = Vec::new();
        let written = write_layer(Vec::new(), &mut blob, &WriteOptions::default()).unwrap();
        store.put_bytes(&blob).unwrap();
        StepRecord {
            diff_id: written.diff_id,
            descriptor: written.descriptor,
            created: "2026-01-01T00:00:00Z".to_owned(),
            content: None,
            began: None,
            label: String::new(),
        }
    }

    fn miss(found: Lookup) -> Miss {
        match found {
            Lookup::Miss(miss) => miss,
            Lookup::Hit(record) => panic!("a hit: {record:?}"),
        }
    }

    #[test]
    fn what_was_recorded_is_found() {
        let (_dir, store) = store();
        let record = layer(&store);
        let look = |key: &Key, cache| key.lookup(&store, cache).unwrap();
        assert_eq!(miss(look(&key("make"), CacheUse::On)), Miss::Absent);
        key("make").record(&store, &record).unwrap();
        assert_eq!(
            look(&key("make"), CacheUse::On),
            Lookup::Hit(Box::new(record.clone()))
        );
        assert_eq!(miss(look(&key("make"), CacheUse::Off)), Miss::Disabled);
    }

    #[test]
    fn an_equal_result_of_the_same_instruction_is_found() {
        let (_dir, store) = store();
        let key = |argv: &str, parent: &[u8]| {
            KeyBuilder::new("run")
                .input("parent", &sha256(parent))
                .text("argv", argv)
                .finish()
        };
        let made = layer(&store);
        assert!(holds(&store, made.diff_id, &made.descriptor).unwrap());
        let toc = toc_of(&store, &made).unwrap().expect("it was read");
        let content = content_digest(&toc.entries);
        let record = StepRecord {
            content: Some(content),
            ..made
        };
        key("make", b"one").record(&store, &record).unwrap();
        let find = |key: Key, content: &Digest| key.equal_result(&store, content).unwrap();
        assert_eq!(find(key("make", b"two"), &content), Some(record.clone()));
        assert_eq!(find(key("touch", b"one"), &content), None);
        assert_eq!(find(key("make", b"two"), &sha256(b"other")), None);
        let other = StepRecord {
            content: Some(sha256(b"other")),
            ..record.clone()
        };
        key("make", b"three").record(&store, &other).unwrap();
        assert_eq!(
            find(key("make", b"two"), &sha256(b"other")),
            None,
            "what a record says of its content is not believed"
        );
        std::fs::remove_file(store.blob_path(&record.descriptor.digest)).unwrap();
        assert_eq!(find(key("make", b"two"), &content), None);
    }

    #[test]
    fn a_record_of_another_layer_than_its_blob_holds_is_a_miss() {
        let (_dir, store) = store();
        let record = layer(&store);
        let wrong = [
            StepRecord {
                diff_id: DiffId(sha256(b"another")),
                ..record.clone()
            },
            StepRecord {
                descriptor: Descriptor {
                    media_type: MediaType::OCI_LAYER_ZSTD,
                    ..record.descriptor.clone()
                },
                ..record.clone()
            },
            StepRecord {
                descriptor: Descriptor::of(MediaType::OCI_LAYER, b"no archive"),
                ..record.clone()
            },
        ];
        store.put_bytes(b"no archive").unwrap();
        let key = key("make");
        for (n, wrong) in wrong.iter().enumerate() {
            key.record(&store, wrong).unwrap();
            let found = key.lookup(&store, CacheUse::On).unwrap();
            assert_eq!(miss(found), Miss::Corrupt, "record {n}");
            assert_eq!(result_of(&store, key.digest()).unwrap(), None, "record {n}");
        }
        key.record(&store, &record).unwrap();
        let found = key.lookup(&store, CacheUse::On).unwrap();
        assert_eq!(found, Lookup::Hit(Box::new(record)));
    }

    #[test]
    fn a_layer_that_has_gone_or_a_torn_record_is_a_miss() {
        let (_dir, store) = store();
        let record = layer(&store);
        key("make").record(&store, &record).unwrap();
        std::fs::write(store.blob_path(&record.descriptor.digest), "torn").unwrap();
        let look = || miss(key("make").lookup(&store, CacheUse::On).unwrap());
        let blob = record.descriptor.digest;
        assert_eq!(look(), Miss::Evicted(blob));
        std::fs::remove_file(store.blob_path(&blob)).unwrap();
        assert_eq!(look(), Miss::Evicted(blob));
        store
            .put_step(StepFolder::Key, key("make").digest(), b"[]")
            .unwrap();
        assert_eq!(look(), Miss::Corrupt);
    }
}
