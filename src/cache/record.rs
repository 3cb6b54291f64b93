//! Records of steps: writing, looking up, and why a lookup missed.

use serde::{Deserialize, Serialize};

use super::{Input, Key, KeyBuilder};
use crate::{
    oci::{ChainId, Descriptor, DiffId, Digest, sha256, to_json},
    store::{Found, StepFolder, Store, StoreError},
};

/// Whether earlier results are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// Earlier results are used.
    On,
    /// They are not (`--no-cache`); new ones are recorded.
    Off,
}

/// Where a step stands, for finding out what it looked like last time. Two steps that share a position only spoil
/// each other's explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(Digest);

impl Position {
    /// The position that these texts describe: the Dockerfile, the target platform, the stage, the step's number.
    pub fn new(parts: &[&str]) -> Self {
        Self(sha256(
            serde_json::Value::from(parts).to_string().as_bytes(),
        ))
    }
}

impl Position {
    /// What the step here made last time, whatever its inputs were; its blob is in the store.
    pub fn last_result(self, store: &Store) -> Result<Option<StepRecord>, StoreError> {
        let Some(last) = last(store, self)? else {
            return Ok(None);
        };
        let Found::Valid(bytes) = store.step(StepFolder::Key, &last.key)? else {
            return Ok(None);
        };
        let Ok(Stored { record, .. }) = serde_json::from_slice::<Stored>(&bytes) else {
            return Ok(None);
        };
        Ok(store.has(&record.descriptor)?.then_some(record))
    }
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
    /// What progress called the step, for lists of what the cache holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

impl StepRecord {
    /// A record and the state that its step ran on, out of the bytes that the store keeps; `None` when they are none.
    pub fn read(bytes: &[u8]) -> Option<(Self, Option<ChainId>)> {
        let Stored { record, inputs } = serde_json::from_slice(bytes).ok()?;
        let parent = inputs.iter().find(|input| input.name == "parent");
        let parent = parent.and_then(|input| input.value.parse().ok());
        Some((record, parent.map(ChainId)))
    }
}

/// The key of the step that stood at a position last, out of the bytes that the store keeps.
pub fn key_at_position(bytes: &[u8]) -> Option<Digest> {
    let last: Last = serde_json::from_slice(bytes).ok()?;
    Some(last.key)
}

/// A record as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    record: StepRecord,
    inputs: Vec<Input>,
}

/// What a step at a position had last time.
#[derive(Serialize, Deserialize)]
struct Last {
    key: Digest,
    inputs: Vec<Input>,
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The layer of an earlier execution, which is in the store.
    Hit(Box<StepRecord>),
    /// Nothing to use.
    Miss(MissReason),
}

/// Why there is no earlier result to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
#[non_exhaustive]
pub enum MissReason {
    /// No step at this position was ever executed with this store.
    NoRecord,
    /// The step was executed with other inputs.
    Changed {
        /// Which inputs differ from the last time.
        changes: Vec<Change>,
    },
    /// The step was executed with these inputs, but the layer's blob has gone.
    Evicted {
        /// The blob.
        blob: Digest,
    },
    /// The record cannot be read.
    Corrupt,
    /// Earlier results are not wanted.
    Disabled,
    /// The last execution had the same inputs, and yet there is no record of it.
    Unknown,
}

/// An input that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The input.
    pub name: String,
    /// What it was; `None` when it is new.
    pub before: Option<String>,
    /// What it is; `None` when it is gone.
    pub after: Option<String>,
}

impl Key {
    /// Looks for an earlier result of the step with this key. A hit's blob is in the store with the right size.
    pub fn lookup(
        &self,
        store: &Store,
        position: Position,
        cache: CacheUse,
    ) -> Result<Lookup, StoreError> {
        if cache == CacheUse::Off {
            return Ok(Lookup::Miss(MissReason::Disabled));
        }
        let record = match store.step(StepFolder::Key, self.digest())? {
            Found::Valid(bytes) => serde_json::from_slice::<Stored>(&bytes).ok(),
            Found::Invalid => None,
            Found::Absent => return Ok(Lookup::Miss(self.compare(store, position)?)),
        };
        let Some(Stored { record, .. }) = record else {
            return Ok(Lookup::Miss(MissReason::Corrupt));
        };
        if !store.has(&record.descriptor)? {
            return Ok(Lookup::Miss(MissReason::Evicted {
                blob: record.descriptor.digest,
            }));
        }
        // Another step may have stood here meanwhile, or none.
        self.remember(store, position)?;
        Ok(Lookup::Hit(Box::new(record)))
    }

    /// Records the result of the step with this key, whose blob is in the store.
    pub fn record(
        &self,
        store: &Store,
        position: Position,
        record: &StepRecord,
    ) -> Result<(), StoreError> {
        let stored = Stored {
            record: record.clone(),
            inputs: self.inputs().to_vec(),
        };
        store.put_step(StepFolder::Key, self.digest(), &to_json(&stored))?;
        if let Some(content) = &record.content {
            let key = self.key_of_result(content);
            store.put_step(StepFolder::Key, &key, &to_json(&stored))?;
        }
        self.remember(store, position)
    }

    /// An earlier result of the same instruction, on whatever inputs, with the same content; its blob is in the
    /// store. A step that had to be executed again keeps that layer, so that what follows stays cached.
    pub fn equal_result(
        &self,
        store: &Store,
        content: &Digest,
    ) -> Result<Option<StepRecord>, StoreError> {
        let Found::Valid(bytes) = store.step(StepFolder::Key, &self.key_of_result(content))? else {
            return Ok(None);
        };
        let Ok(Stored { record, .. }) = serde_json::from_slice::<Stored>(&bytes) else {
            return Ok(None);
        };
        Ok(store.has(&record.descriptor)?.then_some(record))
    }

    /// Where the latest result with this content is kept. The definition belongs to it, because an instruction may be
    /// there for the file times alone.
    fn key_of_result(&self, content: &Digest) -> Digest {
        *KeyBuilder::new("equal result")
            .input("definition", self.definition())
            .input("content", content)
            .finish()
            .digest()
    }

    fn remember(&self, store: &Store, position: Position) -> Result<(), StoreError> {
        if last(store, position)?.is_some_and(|last| last.key == *self.digest()) {
            return Ok(());
        }
        let last = Last {
            key: *self.digest(),
            inputs: self.inputs().to_vec(),
        };
        store.put_step(StepFolder::Position, &position.0, &to_json(&last))
    }

    /// What differs from the last time.
    fn compare(&self, store: &Store, position: Position) -> Result<MissReason, StoreError> {
        let Some(last) = last(store, position)? else {
            return Ok(MissReason::NoRecord);
        };
        if last.key == *self.digest() {
            return Ok(MissReason::Unknown);
        }
        let changes = changes(&last.inputs, self.inputs());
        Ok(if changes.is_empty() {
            // The order of inputs, or more of a long value than is kept.
            MissReason::Unknown
        } else {
            MissReason::Changed { changes }
        })
    }
}

fn last(store: &Store, position: Position) -> Result<Option<Last>, StoreError> {
    Ok(match store.step(StepFolder::Position, &position.0)? {
        Found::Valid(bytes) => serde_json::from_slice(&bytes).ok(),
        Found::Absent | Found::Invalid => None,
    })
}

/// The inputs that differ, in the order of the new ones, those that are gone last.
fn changes(before: &[Input], after: &[Input]) -> Vec<Change> {
    let value = |inputs: &[Input], name: &str| {
        inputs
            .iter()
            .find(|input| input.name == name)
            .map(|input| input.value.clone())
    };
    let names = after.iter().chain(
        before
            .iter()
            .filter(|input| value(after, &input.name).is_none()),
    );
    names
        .map(|input| Change {
            name: input.name.clone(),
            before: value(before, &input.name),
            after: value(after, &input.name),
        })
        .filter(|change| change.before != change.after)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaType;

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
        store.put_bytes(b"layer").unwrap();
        StepRecord {
            diff_id: DiffId(sha256(b"tar")),
            descriptor: Descriptor::of(MediaType::OCI_LAYER_GZIP, b"layer"),
            created: "2026-01-01T00:00:00Z".to_owned(),
            content: None,
            label: String::new(),
        }
    }

    fn miss(found: Lookup) -> MissReason {
        match found {
            Lookup::Miss(reason) => reason,
            Lookup::Hit(record) => panic!("a hit: {record:?}"),
        }
    }

    #[test]
    fn the_last_result_is_that_of_the_step_that_stood_there() {
        let (_dir, store) = store();
        let (here, there) = (Position::new(&["here"]), Position::new(&["there"]));
        assert_eq!(here.last_result(&store).unwrap(), None);
        let record = layer(&store);
        key("one").record(&store, here, &record).unwrap();
        assert_eq!(here.last_result(&store).unwrap(), Some(record.clone()));
        assert_eq!(there.last_result(&store).unwrap(), None);
        std::fs::remove_file(store.blob_path(&record.descriptor.digest)).unwrap();
        assert_eq!(here.last_result(&store).unwrap(), None, "its blob is gone");
    }

    #[test]
    fn what_was_recorded_is_found() {
        let (_dir, store) = store();
        let at = Position::new(&["Dockerfile", "build", "1"]);
        let record = layer(&store);
        let look = |key: &Key, cache| key.lookup(&store, at, cache).unwrap();
        assert_eq!(miss(look(&key("make"), CacheUse::On)), MissReason::NoRecord);
        key("make").record(&store, at, &record).unwrap();
        assert_eq!(
            look(&key("make"), CacheUse::On),
            Lookup::Hit(Box::new(record.clone()))
        );
        assert_eq!(
            miss(look(&key("make"), CacheUse::Off)),
            MissReason::Disabled
        );
    }

    #[test]
    fn a_miss_says_what_changed() {
        let (_dir, store) = store();
        let at = Position::new(&["Dockerfile", "build", "1"]);
        key("make").record(&store, at, &layer(&store)).unwrap();
        let now = KeyBuilder::new("run")
            .text("argv", "make all")
            .text("env.A", "1")
            .finish();
        let change = |name: &str, before: Option<&str>, after: Option<&str>| Change {
            name: name.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        assert_eq!(
            miss(now.lookup(&store, at, CacheUse::On).unwrap()),
            MissReason::Changed {
                changes: vec![
                    change("argv", Some("make"), Some("make all")),
                    change("env.A", None, Some("1")),
                    change("user", Some(""), None),
                ]
            }
        );
    }

    #[test]
    fn an_equal_result_of_the_same_instruction_is_found() {
        let (_dir, store) = store();
        let at = Position::new(&["x"]);
        let key = |argv: &str, parent: &[u8]| {
            KeyBuilder::new("run")
                .input("parent", &sha256(parent))
                .text("argv", argv)
                .finish()
        };
        let content = sha256(b"content");
        let record = StepRecord {
            content: Some(content),
            ..layer(&store)
        };
        key("make", b"one").record(&store, at, &record).unwrap();
        let find = |key: Key, content: &Digest| key.equal_result(&store, content).unwrap();
        assert_eq!(find(key("make", b"two"), &content), Some(record.clone()));
        assert_eq!(find(key("touch", b"one"), &content), None);
        assert_eq!(find(key("make", b"two"), &sha256(b"other")), None);
        std::fs::remove_file(store.blob_path(&record.descriptor.digest)).unwrap();
        assert_eq!(find(key("make", b"two"), &content), None);
    }

    #[test]
    fn a_layer_that_has_gone_or_a_torn_record_is_a_miss() {
        let (_dir, store) = store();
        let at = Position::new(&["x"]);
        let record = layer(&store);
        key("make").record(&store, at, &record).unwrap();
        std::fs::write(store.blob_path(&record.descriptor.digest), "torn").unwrap();
        let look = || miss(key("make").lookup(&store, at, CacheUse::On).unwrap());
        let blob = record.descriptor.digest;
        assert_eq!(look(), MissReason::Evicted { blob });
        std::fs::remove_file(store.blob_path(&blob)).unwrap();
        assert_eq!(look(), MissReason::Evicted { blob });
        store
            .put_step(StepFolder::Key, key("make").digest(), b"[]")
            .unwrap();
        assert_eq!(look(), MissReason::Corrupt);
    }
}
