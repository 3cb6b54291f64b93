//! Layers of last time, from which unchanged parts are taken when a step makes its layer again.

use std::sync::Arc;

use super::session::Session;
use crate::{
    cache::Place,
    layer::{LayerBlob, Toc},
};

/// The layer that the step at a place made last time, if it is still there, its table without the entries. Whatever is wrong with it, the step can do
/// without.
pub(super) fn layer(session: &Session<'_>, place: Place) -> Option<Arc<LayerBlob>> {
    let store = session.services.store;
    let record = place.last_result(store).ok()??;
    let blob = &record.descriptor.digest;
    let layer = store.layer_record_of(record.diff_id, blob).ok()??;
    let toc = Toc::head_of(&layer.toc).ok()?;
    Some(LayerBlob::new(Arc::new(toc), store.blob_path(blob), None))
}
