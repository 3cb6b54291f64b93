//! The snapshots that one build uses.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use super::Snapshot;
use crate::oci::ChainId;

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
}

impl Shelf {
    pub(super) fn get(&self, chain_id: ChainId) -> Option<Snapshot> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.snapshots.get(&chain_id).cloned()
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
