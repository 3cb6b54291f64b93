//! Layers that steps have made, on their way into the store.

use std::sync::Arc;

use super::{
    departures::{Announced, Departures},
    error::StepError,
    root::RootLayer,
    session::Session,
    shared::is_in_image,
    stage::Worker,
};
use crate::{
    cache::content_digest,
    layer::{Changes, LayerBlob, WriteOptions, write_layer, write_layer_after},
    oci::{Descriptor, DiffId, Digest},
    store::{HeadStart, LayerRecord, Store, StoreError},
};

/// What executing a step made.
pub(super) struct Made {
    pub(super) layer: RootLayer,
    /// A digest of what the layer says, file times left out.
    pub(super) content: Digest,
    /// Whether it has departed: whoever sends it knows that it belongs to the image.
    pub(super) is_told: bool,
}

/// Puts the table of contents of a layer that [`write`] has written into the store.
pub(super) fn record_layer(store: &Store, layer: &RootLayer) -> Result<(), StoreError> {
    match &layer.made {
        Some(made) => {
            let toc = made.toc().to_bytes();
            put_layer(store, layer.diff_id, &layer.descriptor, toc)
        }
        // Done, as the table of contents is not kept in memory.
        None => Ok(()),
    }
}

fn put_layer(
    store: &Store,
    diff_id: DiffId,
    descriptor: &Descriptor,
    toc: Vec<u8>,
) -> Result<(), StoreError> {
    store.put_layer(&LayerRecord {
        diff_id,
        descriptor: descriptor.clone(),
        toc,
    })
}

/// The table of contents of a layer with more entries is read again when something asks for it: most layers nobody looks
/// into.
const KEPT_ENTRIES: u64 = 2000;

/// Writes changes as a layer into the store, and tells `departures`. [`record_layer`] is still to be called.
pub(super) fn write(
    session: &Session<'_>,
    departures: Option<&dyn Departures>,
    changes: impl Into<Changes>,
    description: String,
) -> Result<Made, StepError> {
    write_after(session, departures, changes, description, Before::default())
}

/// What there is of a layer before it is made.
#[derive(Default)]
pub(super) struct Before<'a> {
    /// The one of last time, from which what is the same is taken over.
    pub(super) earlier: Option<&'a Arc<LayerBlob>>,
    /// What has left already.
    pub(super) head_start: Option<HeadStart>,
}

/// As [`write`], with what there is.
pub(super) fn write_after(
    session: &Session<'_>,
    departures: Option<&dyn Departures>,
    changes: impl Into<Changes>,
    description: String,
    before: Before<'_>,
) -> Result<Made, StepError> {
    let store = session.services.store;
    let mut blob = Announced::new(store.blob_file()?, departures, before.head_start);
    let options = WriteOptions {
        compression: session.services.compression,
        ..WriteOptions::default()
    };
    let written = match before.earlier {
        Some(earlier) => write_layer_after(changes, &mut blob, &options, earlier)?,
        None => write_layer(changes, &mut blob, &options)?,
    };
    blob.commit(&written.descriptor.digest)?;
    let content = content_digest(written.toc.entries());
    let made = if written.toc.n_entries() <= KEPT_ENTRIES {
        let path = store.blob_path(&written.descriptor.digest);
        let scratch = session.services.scratch.to_owned();
        let toc = Arc::new(written.toc.unpack());
        Some(LayerBlob::new(toc, path, Some(scratch)))
    } else {
        let toc = written.toc.into_bytes();
        put_layer(store, written.diff_id, &written.descriptor, toc)?;
        None
    };
    Ok(Made {
        content,
        is_told: false,
        layer: RootLayer {
            diff_id: written.diff_id,
            descriptor: written.descriptor,
            created: (session.services.clock)(),
            description,
            made,
        },
    })
}

impl Worker<'_> {
    /// Who is told of the stage's layers.
    pub(super) fn departures(&self) -> Option<&dyn Departures> {
        let departures = self.session.services.departures;
        departures.filter(|_| is_in_image(self.plan, self.stage.id))
    }

    /// Writes changes as a layer into the store.
    pub(super) fn write(
        &self,
        changes: impl Into<Changes>,
        description: String,
    ) -> Result<Made, StepError> {
        write(self.session, self.departures(), changes, description)
    }
}
