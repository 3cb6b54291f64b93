//! The snapshots that one build uses.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use super::{Snapshot, Staged};
use crate::oci::{ChainId, DiffId};

/// Each has an open file, of which a process may have 1024.
const MOST: usize = 256;

/// Snapshots that are in use. Each is looked for on disk once, and nobody removes it while this value has it: it keeps
/// the latest 256.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    snapshots: HashMap<ChainId, Snapshot>,
    /// The oldest first.
    order: VecDeque<ChainId>,
    /// Files of layers that are to become snapshots.
    staged: HashMap<DiffId, Staged>,
}

impl Shelf {
    pub(super) fn get(&self, chain_id: ChainId) -> Option<Snapshot> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.snapshots.get(&chain_id).cloned()
    }

    /// Adds the files of a verified layer, for the snapshot of the state that it completes.
    pub fn put_staged(&self, layer: DiffId, staged: Staged) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.staged.insert(layer, staged);
    }

    pub(super) fn take_staged(&self, layer: DiffId) -> Option<Staged> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.staged.remove(&layer)
    }

    /// Adds one.
    pub fn put(&self, snapshot: Snapshot) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let chain_id = snapshot.chain_id;
        if state.snapshots.insert(chain_id, snapshot).is_some() {
            return;
        }
        state.order.push_back(chain_id);
        if state.order.len() > MOST
            && let Some(oldest) = state.order.pop_front()
        {
            state.snapshots.remove(&oldest);
        }
    }
}
