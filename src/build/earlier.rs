//! Layers of last time, from which unchanged parts are taken when a step makes its layer again.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    departures::{Departures, head_start},
    session::Session,
};
use crate::{
    cache::Place,
    copy::Before,
    layer::{Compression, LayerBlob, Toc},
    store::HeadStart,
    tree,
};

/// A layer of last time.
pub(super) struct Earlier {
    pub(super) layer: Arc<LayerBlob>,
    /// When it was whole.
    pub(super) created: Option<Timestamp>,
}

impl Earlier {
    /// Lets the beginning of the layer that will be made leave, as far as nothing was changed since this one was made.
    pub(super) fn head_start(
        &self,
        departures: &dyn Departures,
        before: &Before,
        compression: Compression,
    ) -> Option<HeadStart> {
        let created = self.created?;
        let created = tree::Timestamp {
            seconds: created.as_second(),
            nanos: u32::try_from(created.subsec_nanosecond()).ok()?,
        };
        let unchanged = before.unchanged_since(created);
        head_start(departures, &self.layer, unchanged, compression)
    }
}

/// The layer that the step at a place made last time, if it is still there, its table without the entries. Whatever is wrong with it, the step can do
/// without.
pub(super) fn layer(session: &Session<'_>, place: Place) -> Option<Earlier> {
    let store = session.services.store;
    let record = place.last_result(store).ok()??;
    let blob = &record.descriptor.digest;
    let layer = store.layer_record_of(record.diff_id, blob).ok()??;
    let toc = Toc::head_of(&layer.toc).ok()?;
    Some(Earlier {
        layer: LayerBlob::new(Arc::new(toc), store.blob_path(blob), None),
        created: record.created.parse().ok(),
    })
}
