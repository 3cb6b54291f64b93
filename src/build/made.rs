//! Layers that steps have made, on their way into the store.

use std::sync::Arc;

use super::{error::StepError, root::RootLayer, session::Session};
use crate::{
    cache::content_digest,
    layer::{Change, LayerBlob, Toc, WriteOptions, write_layer, write_layer_after},
    oci::{Descriptor, DiffId, Digest},
    store::{LayerRecord, Store, StoreError},
};

/// What executing a step made.
pub(super) struct Made {
    pub(super) layer: RootLayer,
    /// A digest of what the layer says, file times left out.
    pub(super) content: Digest,
}

/// Puts the table of contents of a layer that [`write`] has written into the store.
pub(super) fn record_layer(store: &Store, layer: &RootLayer) -> Result<(), StoreError> {
    match &layer.made {
        Some(made) => put_layer(store, layer.diff_id, &layer.descriptor, made.toc()),
        // Done, as the table of contents is not kept in memory.
        None => Ok(()),
    }
}

fn put_layer(
    store: &Store,
    diff_id: DiffId,
    descriptor: &Descriptor,
    toc: &Toc,
) -> Result<(), StoreError> {
    store.put_layer(&LayerRecord {
        diff_id,
        descriptor: descriptor.clone(),
        toc: toc.to_bytes(),
    })
}

/// The table of contents of a layer with more entries is read again when something asks for it: most layers nobody looks
/// into.
const KEPT_ENTRIES: usize = 2000;

/// Writes changes as a layer into the store. [`record_layer`] is still to be called.
pub(super) fn write(
    session: &Session<'_>,
    changes: Vec<Change>,
    description: String,
) -> Result<Made, StepError> {
    write_after(session, changes, description, None)
}

/// As [`write`], taking over what `earlier` has of the layer.
pub(super) fn write_after(
    session: &Session<'_>,
    changes: Vec<Change>,
    description: String,
    earlier: Option<&Arc<LayerBlob>>,
) -> Result<Made, StepError> {
    let store = session.services.store;
    let mut blob = store.blob_file()?;
    let options = WriteOptions::default();
    let written = match earlier {
        Some(earlier) => write_layer_after(changes, &mut blob, &options, earlier)?,
        None => write_layer(changes, &mut blob, &options)?,
    };
    blob.commit(&written.descriptor.digest)?;
    let content = content_digest(&written.toc);
    let is_kept = written.toc.entries.len() <= KEPT_ENTRIES;
    if !is_kept {
        put_layer(store, written.diff_id, &written.descriptor, &written.toc)?;
    }
    let made = is_kept.then(|| {
        let path = store.blob_path(&written.descriptor.digest);
        let scratch = session.services.scratch.to_owned();
        LayerBlob::new(Arc::new(written.toc), path, Some(scratch))
    });
    Ok(Made {
        content,
        layer: RootLayer {
            diff_id: written.diff_id,
            descriptor: written.descriptor,
            created: (session.services.clock)(),
            description,
            made,
        },
    })
}
