//! The cache of a whole store, to a place and from one.
//!
//! What an export names is there in full: a step whose layer has gone is left out, since no build behind could make use of its
//! record alone. It looks without using: what the cache would drop next stays so. An import adds: layers first, each verified, then the
//! records of the steps that made them. Facts are not kept: a store finds them out from the layers, which are here then. One that ends early leaves a store with fewer steps; one that is repeated goes on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Read},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use super::{
    Fact, LayerSource, MountChoice, MountError, MountPacker, Place, PlaceError, Records,
    RemoteStep, Selection, StoredLayer,
    export::{put_layers, put_mounts},
    imports::fetch_layer,
    mounts::restore_all,
    place::AT_A_TIME,
    records::MAX_LABEL_BYTES,
};
use crate::{
    cache::{equal::key_of_result, facts::MAX_ANSWER_BYTES, record::Kept},
    oci::{Descriptor, DiffId, Digest, Platform},
    reference::Reference,
    registry::{OnBytes, Pushed},
    snapshot::Style,
    store::{CacheMountId, Found, StepFolder, StepOnDisk, Store, StoreError},
};

/// As many steps, and as many facts, are exported: a document has a largest size.
const MAX_EXPORTED: usize = 10_000;

/// What an export came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WholeExported {
    /// Steps that are in the place.
    pub steps: usize,
    /// Their layers.
    pub layers: usize,
    /// What these have, in bytes.
    pub bytes: u64,
    /// Facts.
    pub facts: usize,
    /// Cache mounts.
    pub mounts: usize,
    /// Steps and facts that are not, because there were too many; those used last are.
    pub left_out: usize,
}

/// What an import came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WholeImported {
    /// Steps that the store did not have.
    pub steps: usize,
    /// Layers that came.
    pub layers: usize,
    /// What these have, in bytes.
    pub bytes: u64,
    /// Cache mounts that the store did not have, or had older.
    pub mounts: usize,
    /// Steps whose layers are not in the place, or are damaged.
    pub without_layer: usize,
}

/// Writes the cache of a store to a place, with `since` what was used then or later; cache mounts as chosen.
pub fn export_store(
    store: &Store,
    place: &dyn Place,
    since: Option<SystemTime>,
    (choice, packer): (&MountChoice, &MountPacker<'_>),
) -> Result<WholeExported, PlaceError> {
    let (mut records, left_out) = gather(store, since)?;
    let stored = put_layers(place, &records.layers, &OfStore(store))?;
    let diff_ids: BTreeSet<DiffId> = stored.iter().map(|layer| layer.diff_id).collect();
    records.layers = stored;
    records
        .steps
        .retain(|step| diff_ids.contains(&step.diff_id));
    let mut exported = WholeExported {
        steps: records.steps.len(),
        layers: records.layers.len(),
        bytes: records.layers.iter().map(|layer| layer.blob.size).sum(),
        left_out,
        ..WholeExported::default()
    };
    let mounts = mounts_of(store, since, choice)?;
    if !mounts.is_empty() {
        let before = place.records(&[]).unwrap_or_default();
        put_mounts(place, packer, packer.choose(&mounts, &before), &mut records);
    }
    records.normalize();
    place.put_records(&records)?;
    exported.facts = records.facts.len();
    exported.mounts = records.mounts.len();
    Ok(exported)
}

/// The mounts of a store that are chosen.
fn mounts_of(
    store: &Store,
    since: Option<SystemTime>,
    choice: &MountChoice,
) -> Result<Vec<CacheMountId>, StoreError> {
    if *choice == MountChoice::None {
        return Ok(Vec::new());
    }
    let mut mounts = BTreeMap::new();
    for mount in store.cache_mounts()? {
        if let Some(id) = mount.id
            && choice.has(&id)
            && since.is_none_or(|since| mount.last_used >= since)
        {
            mounts.insert(mount.key, id);
        }
    }
    Ok(mounts.into_values().collect())
}

/// All steps with a layer that is in the store, their layers, all facts; and how many did not fit.
fn gather(store: &Store, since: Option<SystemTime>) -> Result<(Records, usize), StoreError> {
    let (blobs, _) = store.blobs_on_disk()?;
    let sizes: HashMap<Digest, u64> = blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
    let mut on_disk = store.steps_on_disk()?;
    on_disk.retain(|step| since.is_none_or(|since| step.last_used >= since));
    // The digest decides where times are equal: the same store gives the same export.
    on_disk.sort_by_key(|step| (std::cmp::Reverse(step.last_used), step.key));
    let mut records = Records::default();
    let mut layers: BTreeMap<DiffId, StoredLayer> = BTreeMap::new();
    let mut left_out = 0;
    for step in &on_disk {
        let room = |taken: usize| taken < MAX_EXPORTED;
        match step.folder {
            StepFolder::Key => {
                let Some((step, layer)) = as_remote(step) else {
                    continue;
                };
                if sizes.get(&layer.blob.digest) != Some(&layer.blob.size) {
                    continue;
                }
                if room(records.steps.len()) {
                    layers.entry(layer.diff_id).or_insert(layer);
                    records.steps.push(step);
                } else {
                    left_out += 1;
                }
            }
            StepFolder::Fact => match as_fact(step) {
                Some(fact) if room(records.facts.len()) => records.facts.push(fact),
                Some(_) => left_out += 1,
                None => {}
            },
            StepFolder::Position | StepFolder::Files => {}
        }
    }
    records.layers = layers.into_values().collect();
    Ok((records, left_out))
}

/// A step's record by its key; not the one by its content, which follows from it.
fn as_remote(step: &StepOnDisk) -> Option<(RemoteStep, StoredLayer)> {
    let Found::Valid(bytes) = &step.found else {
        return None;
    };
    let Kept {
        record,
        definition,
        parent,
    } = Kept::read(bytes)?;
    if let (Some(definition), Some(content)) = (&definition, &record.content)
        && key_of_result(definition, content) == step.key
    {
        return None;
    }
    let mut label = record.label;
    label.truncate(label.floor_char_boundary(MAX_LABEL_BYTES));
    let layer = StoredLayer {
        diff_id: record.diff_id,
        blob: record.descriptor,
    };
    let step = RemoteStep {
        key: step.key,
        // Nothing has this definition: the result is found by its key alone.
        definition: definition.unwrap_or(step.key),
        diff_id: record.diff_id,
        blob: None,
        created: record.created,
        content: record.content,
        parent,
        label,
    };
    Some((step, layer))
}

fn as_fact(fact: &StepOnDisk) -> Option<Fact> {
    let Found::Valid(bytes) = &fact.found else {
        return None;
    };
    let answer = String::from_utf8(bytes.clone()).ok()?;
    (answer.len() <= MAX_ANSWER_BYTES).then_some(Fact {
        question: fact.key,
        answer,
    })
}

/// The blobs of a store, without using them.
struct OfStore<'a>(&'a Store);

impl LayerSource for OfStore<'_> {
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.0.blob_path(&blob.digest))?))
    }

    fn repositories(&self, _: &Digest) -> Vec<Reference> {
        Vec::new()
    }

    fn meter(&self, _: &Descriptor) -> Option<OnBytes> {
        None
    }

    fn put(&self, _: &Descriptor, _: &Pushed) {}
}

/// Who hears of what an import leaves out, and why.
pub struct Lost<'a> {
    /// A layer, with its steps.
    pub layer: &'a (dyn Fn(&Descriptor, &PlaceError) + Sync),
    /// A cache mount.
    pub mount: &'a dyn Fn(&CacheMountId, &MountError),
}

impl std::fmt::Debug for Lost<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lost").finish_non_exhaustive()
    }
}

/// Puts what a place has into a store. `lost` hears of layers that cannot be had or are not what the records say; their steps
/// are left out. Of records that are refused nothing comes. Cache mounts come as chosen, with owners as `style` keeps them.
pub fn import_store(
    store: &Store,
    place: &dyn Place,
    (choice, style): (&MountChoice, Style),
    lost: &Lost<'_>,
) -> Result<WholeImported, PlaceError> {
    let mut imported = WholeImported::default();
    let all = place.records(&[])?;
    imported.mounts = restore_all(store, style, place, &all, choice, lost.mount);
    import_all(store, place, all, lost.layer, &mut imported)?;
    Ok(imported)
}

/// As [`import_store`], without cache mounts; of an image, what it has for these platforms.
pub fn import_steps(
    store: &Store,
    place: &dyn Place,
    platforms: &[Platform],
    lost: &(dyn Fn(&Descriptor, &PlaceError) + Sync),
) -> Result<WholeImported, PlaceError> {
    let mut imported = WholeImported::default();
    let all = place.records(platforms)?;
    import_all(store, place, all, lost, &mut imported)?;
    Ok(imported)
}

fn import_all(
    store: &Store,
    place: &dyn Place,
    all: Selection,
    lost: &(dyn Fn(&Descriptor, &PlaceError) + Sync),
    imported: &mut WholeImported,
) -> Result<(), PlaceError> {
    for mut records in all {
        // Layers of mounts alone are no steps' business.
        let of_steps: BTreeSet<DiffId> = records.steps.iter().map(|step| step.diff_id).collect();
        records
            .layers
            .retain(|layer| of_steps.contains(&layer.diff_id));
        let here = fetch_layers(store, place, &records.layers, lost, imported)?;
        for (step, record, is_stored) in records.results() {
            if !is_stored || !here.contains(&step.diff_id) {
                imported.without_layer += 1;
                continue;
            }
            let kept = Kept {
                record,
                definition: Some(step.definition),
                parent: step.parent,
            };
            imported.steps += usize::from(kept.keep(store, &step.key)?);
        }
    }
    Ok(())
}

/// Sees to it that the store has these layers; gives those that it has then.
fn fetch_layers(
    store: &Store,
    place: &dyn Place,
    layers: &[StoredLayer],
    lost: &(dyn Fn(&Descriptor, &PlaceError) + Sync),
    imported: &mut WholeImported,
) -> Result<BTreeSet<DiffId>, PlaceError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let here = Mutex::new((BTreeSet::new(), imported));
    let work = || {
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            if lock(&failure).is_some() {
                return;
            }
            let fetched = match is_here(store, layer) {
                Ok(true) => Ok(false),
                Ok(false) => {
                    let expected = Some(layer.diff_id);
                    fetch_layer(place, store, &layer.blob, expected, &mut |_| {}).map(|()| true)
                }
                Err(error) => Err(error.into()),
            };
            match fetched {
                Ok(came) => {
                    let (here, imported) = &mut *lock(&here);
                    here.insert(layer.diff_id);
                    if came {
                        imported.layers += 1;
                        imported.bytes += layer.blob.size;
                    }
                }
                // The store fails for the next one as well.
                Err(error) if is_of_store(&error) => {
                    lock(&failure).get_or_insert(error);
                }
                Err(error) => lost(&layer.blob, &error),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(layers.len()) {
            scope.spawn(work);
        }
    });
    let failed = lock(&failure).take();
    match failed {
        Some(error) => Err(error),
        None => Ok(here.into_inner().unwrap_or_else(PoisonError::into_inner).0),
    }
}

fn is_of_store(error: &PlaceError) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error {
        PlaceError::Store(_) => true,
        // Bytes on their way into the store.
        PlaceError::File { source, .. } => {
            matches!(
                source.kind(),
                StorageFull | QuotaExceeded | ReadOnlyFilesystem
            )
        }
        _ => false,
    }
}

/// Whether the store has a layer and knows what is in it.
fn is_here(store: &Store, layer: &StoredLayer) -> Result<bool, StoreError> {
    Ok(store.has(&layer.blob)?
        && store
            .layer_record_of(layer.diff_id, &layer.blob.digest)?
            .is_some_and(|record| !record.toc.is_empty()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
