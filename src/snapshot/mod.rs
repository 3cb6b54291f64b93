//! Snapshots: file system states on disk, as directories that overlayfs stacks.
//!
//! ```text
//! DIR/STYLE/                 STYLE: how marks and owners are kept, so that no two ways mix
//!   <chainID>/fs/            what one layer adds to the states below: an overlayfs lower directory
//!   <chainID>/owners         owners that `fs` itself cannot hold, see `owner`
//!   <chainID>/lock           held shared by whoever uses the snapshot, alone by whoever removes it; boot in which it was made
//!   <chainID>/settled        it is known to be on disk as a whole
//!   <chainID>/usage          what it takes up, once that was measured, see `usage`
//!   stubs/                   the bottom of all overlays, see `stubs`
//!   tmp/<pid>-<n>/           being made or used by one step: fs | upper, work, scratch | files; lock, held alone
//! ```
//! A snapshot is made in `tmp` and renamed into place, so it is whole or absent; who comes second throws its own away. A kill leaves
//! directories in `tmp` whose lock nobody holds: [`Snapshots::sweep`] removes them. A power cut may leave a snapshot without all of its
//! bytes, so one from an earlier boot is thrown away unless [`Snapshots::settle`] ran after it was made. It runs beside later steps,
//! and when a store is pruned or verified: what the last build before a power cut made is made anew.
//!
//! Of more layers than the kernel stacks, the lower ones are unpacked together, as `<sha256 of "whole CHAINID">`, each 256 layers
//! anew: that takes as much room as a second base image.
//!
//! A step runs on [`Snapshots::prepare`]'s overlay. Its changes are read from the upper directory alone
//! ([`Overlay::diff`]), never by scanning a tree, and the upper directory becomes the snapshot of the next state
//! ([`Overlay::adopt`]).
//!
//! Whiteouts on disk are character devices 0:0. Overlays are mounted with `index=off,metacopy=off,redirect_dir=nofollow`: with
//! any of these on, upper directories would mean nothing by themselves.
//!
//! Nothing here mounts anything: `sandbox` does.

mod apply;
mod checkout;
mod diff;
mod error;
mod leftovers;
mod lock;
mod overlay;
pub mod owner;
mod place;
mod remove;
mod settle;
mod shelf;
mod stage;
mod stubs;
mod style;
mod usage;
mod writers;
mod xattr;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

pub use checkout::Checkout;
pub use diff::{Changed, diff_upper};
pub use error::SnapshotError;
pub use leftovers::Leftovers;
pub use overlay::{Ahead, Blank, Overlay, Remains};
pub use remove::remove_tree;
pub use settle::LEAST_AGE;
pub use shelf::Shelf;
pub use stage::{Stage, Staged};
pub use style::{Marks, Owners, Style};
pub use usage::{SnapshotOnDisk, disk_usage};

use self::{
    error::At,
    lock::{Held, Scratch},
    settle::SETTLED,
};
use crate::{
    layer::LayerTree,
    oci::{ChainId, sha256},
    store::spread,
};

/// Unpacks a whole state into `dir/fs`, which is made, with owners as `style` keeps them; gives that directory. `dir` may get a
/// file of owners, see [`owner`].
pub fn unpack(dir: &Path, tree: &LayerTree, style: Style) -> Result<PathBuf, SnapshotError> {
    apply::unpack(dir, &LayerTree::empty(), tree, style, None)?;
    Ok(dir.join("fs"))
}

/// A snapshot of a state, or of what its topmost layers add.
struct Wanted {
    id: ChainId,
    layers: Range<usize>,
}

/// The most snapshots that an overlay is made of. The kernel takes 500 directories, among them those that the sandbox adds, and a
/// process may commonly have 1024 files open.
const MOST_STACKED: usize = 400;
/// Where there are more layers, so many times a number of them are in one snapshot: the next steps have it below them, too.
const WHOLE_STEP: usize = 256;

/// How many of so many layers, from the base on, are in one snapshot.
const fn n_whole(n_layers: usize) -> usize {
    if n_layers > MOST_STACKED {
        (n_layers - 1) / WHOLE_STEP * WHOLE_STEP
    } else {
        0
    }
}

/// How many layers are unpacked at once.
const UNPACKERS: usize = 3;

/// The directory of all snapshots. Any number of processes may use it at once.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: Arc<Path>,
    style: Style,
    /// Whether earlier snapshots are being settled, or were.
    settling: Arc<AtomicBool>,
}

/// A snapshot on disk. While this value lives, nobody removes it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which state it completes.
    pub chain_id: ChainId,
    path: PathBuf,
    held: Arc<Held>,
}

impl Snapshot {
    /// The overlayfs lower directory.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }
}

impl Snapshots {
    /// The snapshots of one style below `dir`, which is made when missing. Leftovers of killed processes are removed.
    pub fn open(dir: &Path, style: Style) -> Result<Self, SnapshotError> {
        let path = dir.join(style.dir_name());
        let tmp = path.join("tmp");
        if !tmp.is_dir() {
            std::fs::create_dir_all(&tmp).at("create", &tmp)?;
            spread(&tmp);
        }
        // Set-user-id programs of images lie in here. What is made in here belongs to no group that a volume hands down.
        for dir in [&path, &tmp] {
            rustix::fs::chmod(dir, rustix::fs::Mode::RWXU).at("restrict", dir)?;
        }
        let snapshots = Self {
            dir: path.into(),
            style,
            settling: Arc::default(),
        };
        // Garbage is in nobody's way: what cannot be removed is left to whoever can.
        let _best_effort = snapshots.sweep().is_ok();
        Ok(snapshots)
    }

    /// How states are kept here.
    pub const fn style(&self) -> Style {
        self.style
    }

    /// The snapshot that completes a state, if it is there and whole.
    pub fn get(&self, chain_id: ChainId) -> Result<Option<Snapshot>, SnapshotError> {
        let path = self.dir.join(chain_id.0.hex());
        let Some(mut held) = Held::shared(&path)? else {
            return Ok(None);
        };
        let whole = held.is_of_this_boot().at("read", &path)?
            || path.join(SETTLED).try_exists().at("find", &path)?;
        if !whole {
            drop(held);
            if self.remove(chain_id)? {
                return Ok(None);
            }
            // Somebody uses it: another machine with the same disk, which has all of it in memory.
            match Held::shared(&path)? {
                Some(again) => held = again,
                None => return Ok(None),
            }
        }
        held.mark_used().at("mark", &path)?;
        Ok(Some(Snapshot {
            chain_id,
            path,
            held: Arc::new(held),
        }))
    }

    /// The snapshots that make up a state, topmost first, as overlayfs wants its lower directories. Those that are missing are
    /// unpacked from the layers. Empty for the empty tree.
    pub fn stack(&self, tree: &LayerTree) -> Result<Vec<Snapshot>, SnapshotError> {
        self.stack_with(&Shelf::default(), tree)
    }

    /// The same; what `shelf` has is not looked for again, and all that was is on it afterwards.
    pub fn stack_with(
        &self,
        shelf: &Shelf,
        tree: &LayerTree,
    ) -> Result<Vec<Snapshot>, SnapshotError> {
        self.settle_aside(LEAST_AGE);
        let n_whole = n_whole(tree.layers().len());
        let mut chain_id = None;
        let mut wanted = Vec::new();
        for (n, layer) in (1..).zip(tree.layers()) {
            let id = ChainId::after(chain_id, layer.toc().diff_id);
            chain_id = Some(id);
            if n == n_whole {
                let id = ChainId(sha256(format!("whole {}", id.0).as_bytes()));
                wanted.push(Wanted { id, layers: 0..n });
            } else if n > n_whole {
                wanted.push(Wanted {
                    id,
                    layers: n - 1..n,
                });
            }
        }
        let find = |it: &Wanted| match shelf.get(it.id) {
            Some(snapshot) => Ok(Some(snapshot)),
            None => Ok(self.get(it.id)?.inspect(|found| shelf.put(found.clone()))),
        };
        let mut found = wanted
            .iter()
            .map(find)
            .collect::<Result<Vec<_>, SnapshotError>>()?;
        for (n, snapshot) in self.unpack(shelf, tree, &wanted, &found)? {
            shelf.put(snapshot.clone());
            found[n] = Some(snapshot);
        }
        Ok(found.into_iter().rev().flatten().collect())
    }

    /// Unpacks what is `wanted` of `tree` and not `found`.
    fn unpack(
        &self,
        shelf: &Shelf,
        tree: &LayerTree,
        wanted: &[Wanted],
        found: &[Option<Snapshot>],
    ) -> Result<Vec<(usize, Snapshot)>, SnapshotError> {
        let mut missing = Vec::new();
        let mut state = LayerTree::empty();
        let last = found.iter().rposition(Option::is_none);
        for (n, Wanted { layers, .. }) in wanted.iter().enumerate().take(last.map_or(0, |n| n + 1))
        {
            let below = found[n].is_none().then(|| state.clone());
            for layer in &tree.layers()[layers.clone()] {
                state = state.topped(Arc::clone(layer))?;
            }
            missing.extend(below.map(|below| (n, below, state.clone())));
        }
        // Each layer is unpacked by itself; one thread decompresses while another writes, so a few at a time are enough.
        let next = AtomicUsize::new(0);
        let unpack = || {
            let mut made = Vec::new();
            while let Some((n, below, above)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Wanted { id, layers } = &wanted[*n];
                // What is staged is of one layer.
                let top = layers.end - 1;
                let staged = (layers.len() == 1)
                    .then(|| shelf.take_staged(tree.layers()[top].toc().diff_id))
                    .flatten();
                made.push((*n, self.apply_staged(*id, below, above, staged.as_ref())?));
            }
            Ok::<_, SnapshotError>(made)
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..missing.len().min(UNPACKERS))
                .map(|_| scope.spawn(unpack))
                .collect();
            let mut made = unpack()?;
            for other in others {
                let other = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                made.extend(other?);
            }
            Ok(made)
        })
    }

    /// Unpacks what `above` adds to `below`, the state that `chain_id` completes.
    pub fn apply(
        &self,
        chain_id: ChainId,
        below: &LayerTree,
        above: &LayerTree,
    ) -> Result<Snapshot, SnapshotError> {
        self.apply_staged(chain_id, below, above, None)
    }

    fn apply_staged(
        &self,
        chain_id: ChainId,
        below: &LayerTree,
        above: &LayerTree,
        staged: Option<&Staged>,
    ) -> Result<Snapshot, SnapshotError> {
        let scratch = Scratch::new(&self.dir)?;
        apply::unpack(&scratch.path, below, above, self.style, staged)?;
        Ok(self.publish(scratch, chain_id)?.0)
    }

    /// A place for the files of a layer that is about to be read for the first time.
    pub fn stage(&self) -> Result<Stage, SnapshotError> {
        Stage::new(Scratch::new(&self.dir)?, self.style)
    }

    /// Gives a step directories for its changes on top of `stack` (topmost first).
    pub fn prepare(&self, stack: Vec<Snapshot>) -> Result<Overlay, SnapshotError> {
        self.prepare_in(self.blank()?, stack)
    }

    /// Makes directories for a step ahead of it.
    pub fn blank(&self) -> Result<Blank, SnapshotError> {
        Blank::new(&self.dir)
    }

    /// [`Snapshots::prepare`] with directories that were made ahead.
    pub fn prepare_in(&self, blank: Blank, stack: Vec<Snapshot>) -> Result<Overlay, SnapshotError> {
        Overlay::prepare(self.clone(), blank, stack)
    }

    /// The same with directories on which an overlay may be mounted already; gives back `stack` when they are of no use for it.
    pub fn prepare_ahead(
        &self,
        ahead: Ahead,
        stack: Vec<Snapshot>,
    ) -> Result<Result<Overlay, Vec<Snapshot>>, SnapshotError> {
        Overlay::prepare_ahead(self.clone(), ahead, stack)
    }

    /// Unpacks a whole state into a directory of its own, for where overlays cannot be mounted.
    pub fn checkout(&self, tree: &LayerTree) -> Result<Checkout, SnapshotError> {
        Checkout::new(Scratch::new(&self.dir)?, tree, self.style)
    }

    /// Moves what was made into place. Who comes second takes what the first one made; whether that is what was moved.
    fn publish(
        &self,
        scratch: Scratch,
        chain_id: ChainId,
    ) -> Result<(Snapshot, bool), SnapshotError> {
        let path = self.dir.join(chain_id.0.hex());
        loop {
            if let Some(snapshot) = self.get(chain_id)? {
                return Ok((snapshot, false));
            }
            match std::fs::rename(&scratch.path, &path) {
                Ok(()) => {
                    let held = scratch.published();
                    let snapshot = Snapshot {
                        chain_id,
                        path,
                        held: Arc::new(held),
                    };
                    return Ok((snapshot, true));
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                    ) => {}
                Err(error) => return Err(error).at("rename", &scratch.path),
            }
        }
    }

    /// All snapshots on disk.
    pub fn list(&self) -> Result<Vec<ChainId>, SnapshotError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).at("read", &self.dir)? {
            let entry = entry.at("read", &self.dir)?;
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse().ok());
            found.extend(digest.map(ChainId));
        }
        found.sort();
        Ok(found)
    }

    /// Removes a snapshot unless somebody uses it; whether it is gone.
    pub fn remove(&self, chain_id: ChainId) -> Result<bool, SnapshotError> {
        let path = self.dir.join(chain_id.0.hex());
        let Some(held) = Held::alone(&path)? else {
            return Ok(!path.try_exists().at("find", &path)?);
        };
        Scratch::taking(&self.dir, &path, held)?;
        Ok(true)
    }

    /// Removes what killed processes left in `tmp`; how many directories there were.
    pub fn sweep(&self) -> Result<usize, SnapshotError> {
        lock::sweep(&self.dir.join("tmp"))
    }
}

#[cfg(test)]
mod tests;
