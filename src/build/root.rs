//! A state of a stage's file system: a stack of layers, and what can be asked of it.
//!
//! Asking costs as little as it can: the layers' identity is always known; what a path is needs the layers' tables
//! of contents, which fetch a base layer's blob the first time; a directory on disk is made only for a process.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;

use super::{Services, blobs::Fetch, error::StepError, image_source::ImageError};
use crate::{
    layer::{ArchiveError, BlobSource, FileDigests, FileSink, LayerBlob, LayerTree, Toc},
    oci::{ChainId, Descriptor, DiffId},
    snapshot::Stage,
    store::{LayerRecord, Store, StoreError},
};

/// How many layers are fetched at a time.
const AT_A_TIME: usize = 4;

/// One layer of a state.
#[derive(Debug, Clone)]
pub(super) struct RootLayer {
    pub(super) diff_id: DiffId,
    pub(super) descriptor: Descriptor,
    /// When it was made, or first seen when it belongs to a base image.
    pub(super) created: Timestamp,
    /// What progress called the step that made it.
    pub(super) description: String,
    /// The layer itself, where this build has made it.
    pub(super) made: Option<Arc<LayerBlob>>,
}

/// A state: what one layer makes of the state below it.
#[derive(Debug)]
pub(super) struct Root {
    below: Option<Arc<Self>>,
    layer: Option<RootLayer>,
    chain: Option<ChainId>,
    tree: Mutex<Option<Arc<LayerTree>>>,
}

impl Root {
    /// The empty root.
    pub(super) fn scratch() -> Arc<Self> {
        Arc::new(Self {
            below: None,
            layer: None,
            chain: None,
            tree: Mutex::new(None),
        })
    }

    /// The state with one more layer.
    pub(super) fn push(self: &Arc<Self>, layer: RootLayer) -> Arc<Self> {
        Arc::new(Self {
            chain: Some(ChainId::after(self.chain, layer.diff_id)),
            layer: Some(layer),
            below: Some(Arc::clone(self)),
            tree: Mutex::new(None),
        })
    }

    /// Its name; `None` is the empty root.
    pub(super) fn chain(&self) -> Option<ChainId> {
        self.chain
    }

    /// Its layers, base first.
    pub(super) fn layers(&self) -> Vec<RootLayer> {
        let states = std::iter::successors(Some(self), |state| state.below.as_deref());
        let mut layers: Vec<_> = states.filter_map(|state| state.layer.clone()).collect();
        layers.reverse();
        layers
    }

    /// Its file system, answered from tables of contents.
    pub(super) fn tree(&self, fetch: Fetch<'_>) -> Result<Arc<LayerTree>, StepError> {
        let mut known = self.known_tree();
        if let Some(tree) = &*known {
            return Ok(Arc::clone(tree));
        }
        self.look_ahead(fetch);
        // From the nearest state below whose tree is known. A tree of its own is kept for states that somebody else may ask
        // about too, who waits for it meanwhile: trees of all states take memory by the square of their number.
        let mut above = Vec::new();
        let mut lower = self.below.as_ref();
        let mut tree = Arc::new(LayerTree::empty());
        while let Some(state) = lower {
            let mut known = state.known_tree();
            let is_shared = Arc::strong_count(state) > 1;
            let found = if is_shared {
                known.clone()
            } else {
                // It becomes the tree of the state above, without a copy of each directory that this one has, too.
                known.take()
            };
            if let Some(found) = found {
                tree = found;
                break;
            }
            above.push((state, is_shared.then_some(known)));
            lower = state.below.as_ref();
        }
        for (state, known) in above.into_iter().rev() {
            tree = state.on_top_of(tree, fetch)?;
            if let Some(mut known) = known {
                *known = Some(Arc::clone(&tree));
            }
        }
        tree = self.on_top_of(tree, fetch)?;
        *known = Some(Arc::clone(&tree));
        Ok(tree)
    }

    fn known_tree(&self) -> MutexGuard<'_, Option<Arc<LayerTree>>> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its layer makes of the tree of the state below.
    fn on_top_of(
        &self,
        below: Arc<LayerTree>,
        fetch: Fetch<'_>,
    ) -> Result<Arc<LayerTree>, StepError> {
        let Some(layer) = &self.layer else {
            return Ok(below);
        };
        let blob = Self::blob(fetch, layer)?;
        let made = Arc::unwrap_or_clone(below).topped(blob);
        let made = made.map_err(|source| StepError::Stack {
            layer: layer.descriptor.digest,
            source,
        })?;
        Ok(Arc::new(made))
    }

    /// Puts into the store what is known of files since [`Root::tree`] was asked for their digests.
    pub(super) fn keep_digests(&self, store: &Store) -> Result<(), StoreError> {
        let tree = self.known_tree();
        let blobs = tree.as_ref().map(|tree| tree.layers()).unwrap_or_default();
        for (layer, blob) in self.layers().iter().zip(blobs) {
            if let Some(toc) = blob.completed() {
                store.put_layer(&LayerRecord {
                    diff_id: layer.diff_id,
                    descriptor: layer.descriptor.clone(),
                    toc: toc.to_bytes(),
                })?;
            }
        }
        Ok(())
    }

    /// Fetches and reads layers that nobody has looked into, some at a time. What goes wrong goes wrong again when the
    /// layer's turn comes.
    fn look_ahead(&self, fetch: Fetch<'_>) {
        let store = fetch.services.store;
        let is_unknown = |layer: &RootLayer| {
            !store.has(&layer.descriptor).unwrap_or(true)
                || !matches!(
                    store.layer_record_of(layer.diff_id, &layer.descriptor.digest),
                    Ok(Some(_))
                )
        };
        // States below that are known already have been looked into.
        if self.below.as_ref().is_none_or(|below| below.is_known()) {
            return;
        }
        let mut layers = self.layers();
        layers.retain(is_unknown);
        if layers.len() < 2 {
            return;
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..layers.len().min(AT_A_TIME) {
                scope.spawn(|| {
                    while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _later = Self::blob(fetch, layer).is_err();
                    }
                });
            }
        });
    }

    fn is_known(&self) -> bool {
        let tree = self.known_tree();
        self.layer.is_none() || tree.is_some()
    }

    fn blob(fetch: Fetch<'_>, layer: &RootLayer) -> Result<Arc<LayerBlob>, StepError> {
        if let Some(made) = &layer.made {
            return Ok(Arc::clone(made));
        }
        let store = fetch.services.store;
        let record = store.layer_record_of(layer.diff_id, &layer.descriptor.digest)?;
        let known = record.and_then(|record| Toc::from_bytes(&record.toc).ok());
        let toc = match known {
            Some(toc) => toc,
            None => Self::read_toc(fetch, layer)?,
        };
        let source = StoredBlob(store.blob_path(&layer.descriptor.digest));
        if !store.has(&layer.descriptor)? {
            fetch.blob(&layer.descriptor)?;
        }
        Ok(LayerBlob::new(
            Arc::new(toc),
            source,
            Some(fetch.services.scratch.to_owned()),
        ))
    }

    /// Reads a layer once, for its table of contents; checks that it is the layer that the config, or a remote cache, names.
    fn read_toc(fetch: Fetch<'_>, layer: &RootLayer) -> Result<Toc, StepError> {
        let blob = layer.descriptor.digest;
        let imports = &fetch.services.remote_cache.imports;
        Self::read_as_it_comes(fetch, layer).map_err(|error| match error {
            StepError::Archive { .. } | StepError::DiffId { .. }
                if imports.promised(&blob) == Some(layer.diff_id) =>
            {
                imports.lose(&blob);
                ImageError::Lost(blob).into()
            }
            error => error,
        })
    }

    /// Reads it while it comes, where it comes from a registry. Its files are staged if they will be needed.
    fn read_as_it_comes(fetch: Fetch<'_>, layer: &RootLayer) -> Result<Toc, StepError> {
        let Services {
            store, snapshots, ..
        } = *fetch.services;
        let blob = layer.descriptor.digest;
        // Where files cannot be staged the layer is unpacked later.
        let stage = || fetch.staging.and_then(|_| snapshots.stage().ok());
        let (fetched, early) = std::thread::scope(|scope| {
            let mut reading = None;
            let fetched = fetch.blob_followed(&layer.descriptor, &mut |follower| {
                reading = Some(scope.spawn(move || read(follower, fetch.digests, stage())));
            });
            let early = reading.map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            (fetched, early)
        });
        fetched?;
        let (toc, stage) = match early {
            Some((Ok(toc), stage)) => (toc, stage),
            // It was there already, or had to be begun again, or it is no layer.
            Some((Err(_), _)) | None => {
                let (toc, stage) = read(store.open_blob(&blob)?, fetch.digests, stage());
                let toc = toc.map_err(|source| StepError::Archive {
                    layer: blob,
                    source,
                })?;
                (toc, stage)
            }
        };
        if toc.diff_id != layer.diff_id {
            return Err(StepError::DiffId {
                layer: blob,
                expected: layer.diff_id,
                actual: toc.diff_id,
            });
        }
        if let Some(staged) = stage.and_then(Stage::finish)
            && let Some(shelf) = fetch.staging
        {
            shelf.put_staged(layer.diff_id, staged);
        }
        store.put_layer(&LayerRecord {
            diff_id: layer.diff_id,
            descriptor: layer.descriptor.clone(),
            toc: toc.to_bytes(),
        })?;
        Ok(toc)
    }
}

impl Drop for Root {
    /// One state after the other: images may have more layers than the stack has room for.
    fn drop(&mut self) {
        let mut lower = self.below.take();
        while let Some(mut state) = lower.and_then(Arc::into_inner) {
            lower = state.below.take();
        }
    }
}

/// Reads a layer, and stages its files.
fn read(
    blob: impl io::Read + Send,
    digests: FileDigests,
    mut stage: Option<Stage>,
) -> (Result<Toc, ArchiveError>, Option<Stage>) {
    let files = stage.as_mut().map(|stage| stage as &mut dyn FileSink);
    let toc = Toc::read_into(blob, digests, files);
    (toc, stage)
}

/// A blob that the store has.
struct StoredBlob(PathBuf);

impl BlobSource for StoredBlob {
    fn open(&self) -> io::Result<File> {
        File::open(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{MediaType, sha256};

    #[test]
    fn states_of_any_number_of_layers_need_no_more_stack() {
        let layer = RootLayer {
            diff_id: DiffId(sha256(b"a")),
            descriptor: Descriptor::of(MediaType::OCI_LAYER, b"a"),
            created: Timestamp::UNIX_EPOCH,
            description: String::new(),
            made: None,
        };
        let top = (0..50_000).fold(Root::scratch(), |root, _| root.push(layer.clone()));
        assert_eq!(top.layers().len(), 50_000);
        drop(top);
    }
}
