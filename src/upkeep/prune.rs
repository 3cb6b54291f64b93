//! What goes, and its removal.

use std::time::{Duration, SystemTime};

use super::{Free, Inventory, Item, Kind, UpkeepError, item::Means};
use crate::store::Store;

/// What shall go. The limits are those of `docker buildx prune`: without any, all that the other fields allow; with some,
/// what was not used for the longest time, until they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Also what named images were made with, but for the images themselves.
    pub all: bool,
    /// Only what was not used for so long.
    pub older_than: Option<Duration>,
    /// Only these kinds.
    pub kinds: Option<Vec<Kind>>,
    /// The cache may always have so many bytes.
    pub reserved: Option<u64>,
    /// The cache shall not have more bytes than this.
    pub max_used: Option<u64>,
    /// So many bytes of the disk shall be free.
    pub min_free: Option<u64>,
}

impl Policy {
    /// What goes, in the order in which it does.
    pub fn choose<'a>(
        &self,
        inventory: &'a Inventory,
        free: Free,
        now: SystemTime,
    ) -> Vec<&'a Item> {
        let mut items: Vec<&Item> = inventory
            .items
            .iter()
            .filter(|item| self.allows(item, now))
            .collect();
        let order = |item: &Item| (item.kind != Kind::Temporary, item.last_used);
        items.sort_by(|a, b| {
            order(a)
                .cmp(&order(b))
                .then(b.depth.cmp(&a.depth))
                .then(a.id.cmp(&b.id))
        });
        let mut used = inventory.size();
        let Some(keep) = self.keep(used, free) else {
            return items;
        };
        items
            .into_iter()
            .take_while(|item| {
                let goes = used > keep;
                used = used.saturating_sub(item.size());
                goes
            })
            .collect()
    }

    fn allows(&self, item: &Item, now: SystemTime) -> bool {
        let old_enough = self.older_than.is_none_or(|age| {
            now.duration_since(item.last_used)
                .is_ok_and(|since| since >= age)
        });
        !item.in_use
            && item.parts.iter().any(|part| !part.pinned)
            && (self.all || !item.shared)
            && old_enough
            && self
                .kinds
                .as_ref()
                .is_none_or(|kinds| kinds.contains(&item.kind))
    }

    /// How many bytes the cache may keep; `None` when there is no limit to go by, and everything goes.
    fn keep(&self, used: u64, free: Free) -> Option<u64> {
        if self.reserved.is_none() && self.max_used.is_none() && self.min_free.is_none() {
            return None;
        }
        let mut keep = match (self.max_used, self.min_free) {
            (Some(max), _) => max,
            // With nothing but a reserve, all beyond it goes.
            (None, None) => 0,
            (None, Some(_)) => used,
        };
        if let Some(min_free) = self.min_free {
            let excess = min_free.saturating_sub(free.0);
            keep = keep.min(used.saturating_sub(excess));
        }
        Some(keep.max(self.reserved.unwrap_or(0)))
    }
}

/// Removes an item unless it came into use; whether it is gone.
pub fn remove(store: &Store, inventory: &Inventory, item: &Item) -> Result<bool, UpkeepError> {
    match &item.means {
        Means::Files => {
            let parts = item.parts.iter().filter(|part| !part.pinned);
            let files: Vec<_> = parts.map(|part| part.path.clone()).collect();
            Ok(store.remove_unused(&files, inventory.horizon)?)
        }
        Means::Snapshot(snapshots, chain_id) => Ok(snapshots.remove(*chain_id)?),
        Means::Mount(mount) => Ok(store.remove_cache_mount(mount)?),
    }
}
