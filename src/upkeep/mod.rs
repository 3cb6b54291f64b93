//! Upkeep of a store: what it holds, what of it can go, whether it is whole.
//!
//! [`Inventory::take`] lists everything that takes up space as [`Item`]s: what goes goes item by item, so a layer goes
//! with the records of the steps that made it. [`Policy::choose`] is a pure function of an inventory, so a dry run says
//! what the run then does; [`remove`] looks at each item once more and leaves alone what came into use meanwhile.
//!
//! | an item is       | it is, and                                                        | it stays when                  |
//! |------------------|-------------------------------------------------------------------|--------------------------------|
//! | shared           | part of an image with a name, or made from one                    | `all` is not asked for; blobs of named images always |
//! | in use           | used since the oldest process began that has the store open (blobs, records), or locked (states, cache mounts) | always |
//! | neither          | an earlier result that a later build may want                     | it is young, or there is room  |
//!
//! [`verify`] reads all of it and drops what is damaged: each of these things can be made or fetched again.
//!
//! Nothing here stops builds, which go on meanwhile (see the `store` module). A process that is killed while it removes
//! leaves less, never half of something: records go before the blobs that they name.

mod budget;
mod groups;
mod inventory;
mod item;
mod prune;
mod verify;

use std::{io, path::PathBuf};

pub use budget::{Free, free_space};
pub use inventory::Inventory;
pub use item::{Item, Kind, Part, PartKind};
pub use prune::{Policy, remove};
pub use verify::{Damage, Verified, verify};

use crate::{
    snapshot::{self, SnapshotError, Snapshots},
    store::{Store, StoreError},
};

/// Why upkeep could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Unpacked states could not be looked at or removed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Sees to it that the unpacked states there are outlive a power cut. What was made in the last minute waits for another time.
pub fn settle(store: &Store) -> Result<(), UpkeepError> {
    for snapshots in Snapshots::of_all_styles(&store.snapshots_dir())? {
        snapshots.settle(snapshot::LEAST_AGE)?;
    }
    Ok(())
}

trait At<T> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, UpkeepError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, UpkeepError> {
        self.map_err(|error| UpkeepError::Io {
            action,
            path: path.to_owned(),
            source: error.into(),
        })
    }
}

#[cfg(test)]
mod tests;
