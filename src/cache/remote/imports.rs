//! The caches that a build reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Place, PlaceError, Records, StoredLayer, StoredMount};
use crate::{
    cache::{
        Key, Question, StepRecord,
        equal::key_of_result,
        record::{holds, is_wrapped_as_told},
    },
    layer::Toc,
    oci::{ChainId, Descriptor, DiffId, Digest},
    reference::Reference,
    registry::BlobSink,
    store::{BlobWriter, CacheMountId, LayerRecord, Store, StoreError},
};

/// Places to read caches from, best first. They are read the first time that the local cache does not have a step.
#[derive(Debug, Default)]
pub struct Imports {
    places: Vec<Arc<dyn Place>>,
    loaded: OnceLock<Loaded>,
    /// Blobs that could not be had, and in which round that was found out.
    lost: Mutex<BTreeMap<Digest, usize>>,
    /// How often the build began again.
    round: AtomicUsize,
    /// Blobs of records that the build was given, and the layers that they have to hold.
    given: Mutex<BTreeMap<Digest, DiffId>>,
}

/// What the places have.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Results by key, and by definition and content; of several, one whose bytes can be had comes first.
    steps: BTreeMap<Digest, Vec<Found>>,
    facts: BTreeMap<Digest, String>,
    mounts: BTreeMap<String, (StoredMount, StoredLayer)>,
    /// The places that hold a blob.
    holders: BTreeMap<Digest, Vec<usize>>,
}

#[derive(Debug, Clone)]
struct Found {
    record: StepRecord,
    /// The state that the step ran on.
    parent: Option<ChainId>,
    stored: bool,
}

impl Imports {
    /// These places.
    pub fn new(places: Vec<Arc<dyn Place>>) -> Self {
        Self {
            places,
            ..Self::default()
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Reads the places with `read`, all at once, unless that was done. `read` gives nothing for a place that
    /// cannot be read, having told the user.
    pub fn load(&self, read: impl Fn(&dyn Place) -> Vec<Records> + Sync) -> &Loaded {
        self.loaded.get_or_init(|| {
            let read = &read;
            let documents: Vec<Vec<Records>> = std::thread::scope(|scope| {
                let threads: Vec<_> = self
                    .places
                    .iter()
                    .map(|place| scope.spawn(move || read(&**place)))
                    .collect();
                let joined = threads.into_iter().map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                });
                joined.collect()
            });
            Loaded::of(&documents)
        })
    }

    /// The result of the step with this key. Its blob is in the store, or may be had with [`Imports::fetch`].
    pub fn find(
        &self,
        loaded: &Loaded,
        key: &Key,
        store: &Store,
    ) -> Result<Option<StepRecord>, StoreError> {
        self.pick(loaded.steps.get(key.digest()), store)
    }

    /// A result of the same instruction on the same state with the same content. On another state the layer would lead to
    /// no state that is known, and cost a transfer.
    pub fn find_equal(
        &self,
        loaded: &Loaded,
        key: &Key,
        content: &Digest,
        store: &Store,
    ) -> Result<Option<StepRecord>, StoreError> {
        let parent = key.parent();
        let key = key_of_result(key.definition(), content);
        let found = loaded.steps.get(&key).map(|results| {
            let same = results.iter().filter(|result| result.parent == parent);
            same.cloned().collect::<Vec<_>>()
        });
        self.pick(found.as_ref(), store)
    }

    fn pick(
        &self,
        results: Option<&Vec<Found>>,
        store: &Store,
    ) -> Result<Option<StepRecord>, StoreError> {
        for Found { record, .. } in results.into_iter().flatten() {
            let blob = &record.descriptor;
            let is_usable = if store.has(blob)? {
                holds(store, record.diff_id, blob)?
            } else if self.has_lost(&blob.digest) {
                false
            } else {
                // A blob holds one layer; of records that say otherwise the first one counts until it proves wrong.
                let mut given = lock(&self.given);
                *given.entry(blob.digest).or_insert(record.diff_id) == record.diff_id
            };
            if is_usable {
                return Ok(Some(record.clone()));
            }
        }
        Ok(None)
    }

    /// Whether the build has a record with this blob from here, and counts on it.
    pub fn gave(&self, blob: &Digest) -> bool {
        self.promised(blob).is_some() && !self.has_lost(blob)
    }

    /// The layer that a blob has to hold by a record that the build has from here.
    pub fn promised(&self, blob: &Digest) -> Option<DiffId> {
        lock(&self.given).get(blob).copied()
    }

    /// Whether a blob, which is in the store by now, holds what was promised; true of blobs that nothing was promised of.
    pub fn is_kept(&self, store: &Store, blob: &Descriptor) -> Result<bool, StoreError> {
        let Some(diff_id) = self.promised(&blob.digest) else {
            return Ok(true);
        };
        holds(store, diff_id, blob)
    }

    /// Whether a blob was given up.
    pub fn has_lost(&self, blob: &Digest) -> bool {
        lock(&self.lost).contains_key(blob)
    }

    /// Gives up a blob: its records count no longer.
    pub fn lose(&self, blob: &Digest) {
        let round = self.round.load(Ordering::Relaxed);
        lock(&self.lost).entry(*blob).or_insert(round);
    }

    /// Tells that the build begins again, without what was lost.
    pub fn begin_again(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a blob was given up since the build began, or began again: a record with it may be in use still.
    pub fn has_just_lost(&self, blob: &Digest) -> bool {
        lock(&self.lost).get(blob) == Some(&self.round.load(Ordering::Relaxed))
    }

    /// How many blobs were given up.
    pub fn n_lost(&self) -> usize {
        lock(&self.lost).len()
    }

    /// The repositories that hold a blob.
    pub fn repositories(&self, blob: &Digest) -> Vec<Reference> {
        let holders = self
            .loaded
            .get()
            .and_then(|loaded| loaded.holders.get(blob));
        let places = holders.into_iter().flatten().map(|i| &self.places[*i]);
        places
            .filter_map(|place| place.repository().cloned())
            .collect()
    }

    /// Puts the blob of a record into the store, with the layer's table of contents. Bytes and diffID are those of the
    /// record then. `told` hears how many bytes are here.
    pub fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), PlaceError> {
        let holders = self
            .loaded
            .get()
            .and_then(|loaded| loaded.holders.get(&blob.digest));
        let mut failure = PlaceError::Lost(blob.digest);
        for place in holders.into_iter().flatten() {
            let expected = lock(&self.given).get(&blob.digest).copied();
            match fetch_layer(&*self.places[*place], store, blob, expected, told) {
                Ok(()) => return Ok(()),
                // The same everywhere.
                Err(error @ PlaceError::Store(_)) => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Fetches a blob from a place that holds it. The caller verifies it.
    pub fn copy(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError> {
        let loaded = self.loaded.get();
        let holders = loaded.and_then(|loaded| loaded.holders.get(&blob.digest));
        let mut failure = PlaceError::Lost(blob.digest);
        for place in holders.into_iter().flatten() {
            match self.places[*place].blob(blob, sink) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
            if sink.reset().is_err() {
                break;
            }
        }
        Err(failure)
    }
}

/// Puts a layer's blob into the store, with its table of contents. `told` hears how many bytes are here.
pub(super) fn fetch_layer(
    place: &dyn Place,
    store: &Store,
    blob: &Descriptor,
    expected: Option<DiffId>,
    told: &mut dyn FnMut(u64),
) -> Result<(), PlaceError> {
    let mut sink = StoreSink {
        writer: store.blob_writer()?,
        limit: blob.size,
        told,
    };
    place.blob(blob, &mut sink)?;
    let damaged = |reason: String| PlaceError::Damaged {
        expected: blob.digest,
        reason,
    };
    // Looked into before it becomes a blob: what holds another layer than was promised is not kept.
    if !is_wrapped_as_told(sink.writer.written()?, blob) {
        return Err(damaged(format!("it is no {}", blob.media_type)));
    }
    let toc = Toc::read(sink.writer.written()?).map_err(|e| damaged(e.to_string()))?;
    if expected.is_some_and(|expected| expected != toc.diff_id) {
        return Err(damaged(format!("its diffID is {}", toc.diff_id)));
    }
    match sink.writer.commit_as(blob) {
        Err(error @ (StoreError::Corrupt { .. } | StoreError::Size { .. })) => {
            return Err(damaged(error.to_string()));
        }
        other => other?,
    }
    store.put_layer(&LayerRecord {
        diff_id: toc.diff_id,
        descriptor: blob.clone(),
        toc: toc.to_bytes(),
    })?;
    Ok(())
}

impl Loaded {
    fn of(places: &[Vec<Records>]) -> Self {
        let mut loaded = Self::default();
        for (place, documents) in places.iter().enumerate() {
            for records in documents {
                loaded.add(place, records);
            }
        }
        for results in loaded.steps.values_mut() {
            results.sort_by_key(|result| !result.stored);
        }
        loaded
    }

    fn add(&mut self, place: usize, records: &Records) {
        for layer in &records.layers {
            let holders = self.holders.entry(layer.blob.digest).or_default();
            if !holders.contains(&place) {
                holders.push(place);
            }
        }
        // Each result whose bytes do not come costs the build a new beginning: a document has one of each step, or is made by
        // somebody who wants it to take long.
        let mut keys = BTreeSet::new();
        let mut equal = BTreeSet::new();
        for (step, record, stored) in records.results() {
            let result = Found {
                record,
                parent: step.parent,
                stored,
            };
            // What has no bytes is no better than what was just made.
            if let (Some(content), true) = (&step.content, stored) {
                let key = key_of_result(&step.definition, content);
                if equal.insert((key, step.parent)) {
                    self.steps.entry(key).or_default().push(result.clone());
                }
            }
            if keys.insert(step.key) {
                self.steps.entry(step.key).or_default().push(result);
            }
        }
        for (mount, layer) in records.stored_mounts() {
            let newest = self.mounts.entry(mount.mount.key());
            let newest = newest.or_insert_with(|| (mount.clone(), layer.clone()));
            if newest.0.used < mount.used {
                *newest = (mount.clone(), layer.clone());
            }
        }
        for fact in &records.facts {
            self.facts
                .entry(fact.question)
                .or_insert_with(|| fact.answer.clone());
        }
    }

    /// A cache mount, as the place has it where it was used last.
    pub fn mount(&self, id: &CacheMountId) -> Option<&(StoredMount, StoredLayer)> {
        self.mounts.get(&id.key())
    }

    /// The answer to a question.
    pub fn answer(&self, question: Question) -> Option<&str> {
        self.facts.get(question.digest()).map(String::as_str)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a blob into the store, and not more of it than was announced.
struct StoreSink<'a> {
    writer: BlobWriter<'a>,
    limit: u64,
    told: &'a mut dyn FnMut(u64),
}

impl BlobSink for StoreSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.writer.size() + bytes.len() as u64 > self.limit {
            return Err(io::Error::other("there are more bytes than announced"));
        }
        self.writer.write_all(bytes)?;
        (self.told)(self.writer.size());
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.writer.restart().map_err(io::Error::other)
    }
}
