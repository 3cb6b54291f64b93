//! What a step runs on: the directories of its root, and its changes when it has run.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::{
    layer::{Change, LayerTree},
    oci::ChainId,
    sandbox::{Rootfs, Rung, SetUp},
    snapshot::{
        Ahead, Blank, Checkout, Leftovers, Marks, Overlay, Shelf, SnapshotError, Snapshots,
    },
};

/// What steps have left for the next ones.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Whole directories, by the state that each holds: the next step of the stage goes on in one.
    whole: Mutex<HashMap<ChainId, Checkout>>,
    /// The states that the build has on disk.
    pub(super) shelf: Shelf,
    leftovers: Leftovers,
}

impl Left {
    fn take(&self, chain: ChainId) -> Option<Checkout> {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.remove(&chain)
    }

    fn leave(&self, chain: ChainId, checkout: Checkout) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.insert(chain, checkout);
    }
}

/// The root of a step that is set up already, while what the step before has changed is written.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) dirs: Ahead,
    pub(super) set_up: SetUp,
}

/// Directories for a step, as far as there are.
#[derive(Debug)]
pub(super) enum Room {
    None,
    Blank(Blank),
    Early(Early),
}

/// The root of a step on disk.
#[derive(Debug)]
pub(super) enum Ground {
    /// An overlay on the snapshots of the layers below.
    Overlay(Overlay),
    /// A directory with all of them, for where nothing can be mounted; whether the root directory cannot be changed either.
    Whole(Checkout, bool),
}

impl Ground {
    /// For a step on `tree`, the state `chain`; and what is set up for it in there.
    pub(super) fn prepare(
        snapshots: &Snapshots,
        rung: Rung,
        left: &Left,
        (tree, chain): (&LayerTree, Option<ChainId>),
        room: Room,
    ) -> Result<(Self, Option<SetUp>), SnapshotError> {
        let ground = match rung {
            Rung::Native | Rung::Userns => {
                let stack = snapshots.stack_with(&left.shelf, tree)?;
                Self::Overlay(match room {
                    Room::Blank(blank) => snapshots.prepare_in(blank, stack)?,
                    Room::Early(Early { dirs, set_up }) => {
                        match snapshots.prepare_ahead(dirs, stack)? {
                            Ok(overlay) => return Ok((Self::Overlay(overlay), Some(set_up))),
                            Err(stack) => snapshots.prepare(stack)?,
                        }
                    }
                    Room::None => snapshots.prepare(stack)?,
                })
            }
            Rung::Chroot | Rung::Emulate => {
                let checkout = match chain.and_then(|chain| left.take(chain)) {
                    Some(checkout) => checkout,
                    None => snapshots.checkout(tree)?,
                };
                Self::Whole(checkout, rung == Rung::Emulate)
            }
        };
        Ok((ground, None))
    }

    /// Directories for the next step, on what this one has left; `None` where there are no overlays.
    pub(super) fn ahead(&self, blank: Blank) -> Result<Option<Ahead>, SnapshotError> {
        match self {
            Self::Overlay(overlay) => overlay.ahead(blank).map(Some),
            Self::Whole(..) => Ok(None),
        }
    }

    /// The same as the sandbox takes it.
    pub(super) fn rootfs(&self) -> Rootfs {
        match self {
            Self::Overlay(overlay) => Rootfs::Overlay {
                lower: overlay.lower(),
                upper: overlay.upper(),
                work: overlay.work(),
                userxattr: overlay.style().marks == Marks::User,
            },
            Self::Whole(checkout, true) => Rootfs::Emulated {
                path: checkout.root(),
                work: checkout.work(),
            },
            Self::Whole(checkout, false) => Rootfs::Chroot {
                path: checkout.root(),
                work: checkout.work(),
            },
        }
    }

    /// The bytes of a small file as the directories of the state have it, see [`Overlay::peek`].
    pub(super) fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        /// Larger ones are read from their layer.
        const MOST: u64 = 1 << 20;
        match self {
            Self::Overlay(overlay) => overlay.peek(path, MOST),
            Self::Whole(..) => None,
        }
    }

    /// What the step changed on `tree`. They have to be written before this value goes.
    pub(super) fn changes(&mut self, tree: &LayerTree) -> Result<Vec<Change>, SnapshotError> {
        match self {
            Self::Overlay(overlay) => overlay.diff(tree),
            Self::Whole(checkout, _) => checkout.diff(tree),
        }
    }

    /// Keeps the result for the next step, for which `early` is set up.
    pub(super) fn adopt(
        self,
        left: &Left,
        chain: ChainId,
        early: Option<&mut Early>,
    ) -> Result<(), SnapshotError> {
        match self {
            Self::Overlay(overlay) => {
                let ahead = early.map(|early| &mut early.dirs);
                let (snapshot, remains) = overlay.adopt(chain, ahead)?;
                left.shelf.put(snapshot);
                left.leftovers.take(remains);
            }
            Self::Whole(checkout, _) => {
                if let Some(checkout) = checkout.renew()? {
                    left.leave(chain, checkout);
                }
            }
        }
        Ok(())
    }
}

/// Directories for the step after this one as the sandbox takes them, without the topmost of the lower ones.
pub(super) fn rootfs_ahead(ahead: &Ahead) -> Rootfs {
    Rootfs::Overlay {
        lower: ahead.lower(),
        upper: ahead.upper(),
        work: ahead.work(),
        userxattr: ahead.style().marks == Marks::User,
    }
}
