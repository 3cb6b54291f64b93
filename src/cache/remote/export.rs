//! Writing what a build did to a place.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    MountChoice, MountPacker, Place, PlaceError, Records, RemoteStep, StoredLayer, Trail,
    mounts::Chosen,
};
use crate::{
    oci::{Descriptor, DiffId, Digest, Platform},
    reference::Reference,
    registry::{self, OnBytes, Pushed, Upload},
};

/// Which layers are exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those of the final image.
    #[default]
    Min,
    /// Those of all steps.
    Max,
}

/// Where the bytes of layers come from, and who hears of their way.
pub trait LayerSource: Sync {
    /// Opens a blob; it may have to be fetched first.
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>>;

    /// Repositories that may have it.
    fn repositories(&self, blob: &Digest) -> Vec<Reference>;

    /// Hears how many bytes of a blob were sent.
    fn meter(&self, blob: &Descriptor) -> Option<OnBytes>;

    /// Hears what became of it.
    fn put(&self, blob: &Descriptor, pushed: &Pushed);
}

/// What an export came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// Steps whose records are in the place.
    pub steps: usize,
    /// Layers whose bytes are there.
    pub layers: usize,
    /// Layers whose bytes could not be had; their records are there without them.
    pub without_bytes: usize,
    /// Cache mounts that are there.
    pub mounts: usize,
    /// The cache's manifest, where it is an image.
    pub manifest: Option<Descriptor>,
}

/// What of a build is written.
#[derive(Debug, Clone, Copy)]
pub struct What<'a> {
    /// The steps.
    pub trail: &'a Trail,
    /// Which layers.
    pub mode: Mode,
    /// For a build that failed: what the place has of steps that this build did not come to stays, if it is for these.
    pub keep: Option<&'a [Platform]>,
    /// Which of the steps' cache mounts, and who packs them.
    pub mounts: (&'a MountChoice, &'a MountPacker<'a>),
}

/// Writes the finished steps to a place, and cache mounts. That a mount cannot be written fails nothing.
pub fn export(
    place: &dyn Place,
    what: &What<'_>,
    source: &dyn LayerSource,
) -> Result<Exported, PlaceError> {
    let What { trail, mode, .. } = *what;
    let steps = trail.steps();
    let wanted: BTreeMap<Digest, StoredLayer> = steps
        .iter()
        .filter(|step| mode == Mode::Max || step.in_image)
        .map(|step| {
            let layer = StoredLayer {
                diff_id: step.record.diff_id,
                blob: step.record.descriptor.clone(),
            };
            (layer.blob.digest, layer)
        })
        .collect();
    let wanted: Vec<StoredLayer> = wanted.into_values().collect();
    let stored = put_layers(place, &wanted, source)?;
    let mut records = records(trail, stored);
    let mut exported = Exported {
        steps: records.steps.len(),
        layers: records.layers.len(),
        without_bytes: wanted.len() - records.layers.len(),
        mounts: 0,
        manifest: None,
    };
    let (choice, packer) = what.mounts;
    let mut mounts = trail.mounts();
    mounts.retain(|mount| choice.has(mount));
    if !mounts.is_empty() {
        let before = match place.records(&[]) {
            Ok(before) => before,
            Err(error) if has_nothing_to_keep(&error) => Vec::new(),
            // Writing over what cannot be read just now would drop the mounts that it has.
            Err(error) => return Err(error),
        };
        put_mounts(place, packer, packer.choose(&mounts, &before), &mut records);
        exported.mounts = records.mounts.len();
    }
    if let Some(platforms) = what.keep
        && let Ok(before) = place.records(platforms)
    {
        let mut merged = records.clone();
        for mut earlier in before {
            let layers = earlier.layers.iter().map(|layer| (layer.diff_id, layer));
            let layers: BTreeMap<DiffId, &StoredLayer> = layers.collect();
            for step in &mut earlier.steps {
                let layer = layers.get(&step.diff_id);
                step.blob = step.blob.take().or_else(|| layer.map(|l| l.blob.clone()));
            }
            merged.layers.append(&mut earlier.layers);
            merged.steps.append(&mut earlier.steps);
            merged.facts.append(&mut earlier.facts);
            merged.mounts.append(&mut earlier.mounts);
        }
        merged.normalize();
        // A layer of an earlier export may be gone by now; then the place refuses to have it named.
        if let Ok(manifest) = place.put_records(&merged) {
            exported.manifest = manifest;
            return Ok(exported);
        }
    }
    records.normalize();
    exported.manifest = place.put_records(&records)?;
    Ok(exported)
}

/// Whether records that cannot be read are none, or of no use to anybody. Where one may not list a bucket, 403 is what a missing
/// object looks like.
fn has_nothing_to_keep(error: &PlaceError) -> bool {
    match error {
        PlaceError::Absent | PlaceError::Records(_) | PlaceError::Damaged { .. } => true,
        PlaceError::Registry(error) => {
            error.is_not_found()
                || matches!(
                    error,
                    registry::Error::Unauthorized { .. }
                        | registry::Error::Status {
                            status: 401 | 403,
                            ..
                        }
                )
        }
        _ => false,
    }
}

/// What the config of an image with these layers holds for an inline cache.
pub fn inline(trail: &Trail, diff_ids: &[DiffId]) -> serde_json::Value {
    let steps = trail.steps();
    let stored = steps
        .iter()
        .filter(|step| diff_ids.contains(&step.record.diff_id))
        .map(|step| StoredLayer {
            diff_id: step.record.diff_id,
            blob: step.record.descriptor.clone(),
        });
    let mut records = records(trail, stored.collect());
    records.normalize();
    records.to_value()
}

/// The records of all finished steps.
fn records(trail: &Trail, stored: Vec<StoredLayer>) -> Records {
    let steps = trail.steps().into_iter().map(|step| RemoteStep {
        key: step.key,
        definition: step.definition,
        diff_id: step.record.diff_id,
        blob: Some(step.record.descriptor),
        created: step.record.created,
        content: step.record.content,
        parent: step.parent,
        label: String::new(),
    });
    Records {
        layers: stored,
        steps: steps.collect(),
        facts: trail.facts(),
        mounts: Vec::new(),
    }
}

/// Sees to it that the place has these mounts, and puts them into the records.
pub(super) fn put_mounts(
    place: &dyn Place,
    packer: &MountPacker<'_>,
    chosen: Chosen,
    records: &mut Records,
) {
    for packed in chosen.new {
        let open = || Ok(Box::new(File::open(&packed.file)?) as Box<dyn Read + Send>);
        let upload = Upload {
            descriptor: &packed.layer.blob,
            open: &open,
            mount_from: &[],
            is_new: false,
            progress: None,
        };
        match place.put_blob(&upload) {
            Ok(_) => {
                records.layers.push(packed.layer.clone());
                records.mounts.push(packed.mount.clone());
            }
            Err(error) => packer.tell(&packed.mount.mount, &error.into()),
        }
    }
    for (mount, layer) in chosen.kept {
        records.layers.push(layer);
        records.mounts.push(mount);
    }
}

/// Sees to it that the place has these layers; gives those whose bytes could be had.
pub(super) fn put_layers(
    place: &dyn Place,
    layers: &[StoredLayer],
    source: &dyn LayerSource,
) -> Result<Vec<StoredLayer>, PlaceError> {
    let next = AtomicUsize::new(0);
    let stored = Mutex::new(Vec::new());
    let failure = Mutex::new(None);
    let lock = || failure.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            if lock().is_some() {
                return;
            }
            match put_layer(place, &layer.blob, source) {
                Ok(true) => {
                    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
                    stored.push(layer.clone());
                }
                Ok(false) => {}
                Err(error) => *lock() = Some(error),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..place.at_a_time().min(layers.len()) {
            scope.spawn(work);
        }
    });
    let failed = lock().take();
    match failed {
        Some(error) => Err(error),
        None => Ok(stored.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// False when its bytes cannot be had.
fn put_layer(
    place: &dyn Place,
    blob: &Descriptor,
    source: &dyn LayerSource,
) -> Result<bool, PlaceError> {
    let unavailable = Mutex::new(false);
    let open = || {
        source.open(blob).inspect_err(|_| {
            *unavailable.lock().unwrap_or_else(PoisonError::into_inner) = true;
        })
    };
    let mount_from = source.repositories(&blob.digest);
    let upload = Upload {
        descriptor: blob,
        open: &open,
        mount_from: &mount_from,
        is_new: false,
        progress: source.meter(blob),
    };
    match place.put_blob(&upload) {
        Ok(pushed) => {
            source.put(blob, &pushed);
            Ok(true)
        }
        Err(PlaceError::TooLarge(_)) => Ok(false),
        Err(_) if *unavailable.lock().unwrap_or_else(PoisonError::into_inner) => Ok(false),
        Err(error) => Err(error),
    }
}
