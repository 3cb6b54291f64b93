//! Remote caches: the records of steps, and the layers they made, in places that other machines can reach.
//!
//! A [`Place`] is a registry's repository, a directory, an image, a bucket. It holds blobs by digest, and one document of
//! [`Records`]. Importing reads the document alone; a layer's bytes are fetched when something needs them.
//!
//! **The document in registries, directories and images** is the config of an OCI image, so every registry takes it:
//!
//! ```text
//! manifest  an OCI image manifest; `layers` are the layers whose bytes are here, each once
//! config    an OCI image config; `rootfs.diff_ids` names the layers in the manifest's order, and beside `rootfs` there is
//!           "rbuild.cache.v1": {
//!             "steps": [{"key":        the step's cache key
//!                        "definition": what it was asked to do, for recognising an equal result
//!                        "diff_id":    the layer it made
//!                        "blob":       the layer's descriptor, when its bytes are not here
//!                        "created":    RFC 3339
//!                        "parent":     chainID of the state that it ran on
//!                        "content":    digest of what the layer holds, file times left out}],
//!             "facts": [{"question": …, "answer": …}],      see `facts`
//!             "mounts": [{"mount":   the cache mount: id, seed, mode, uid, gid
//!                         "diff_id": the layer that holds its files
//!                         "used":    when a step used it last, RFC 3339}]}
//! ```
//! An image of its own is for the platform `unknown/unknown`, so that nobody runs it by mistake. An image that was built with
//! an inline cache is the image itself with this key in its config. **In buckets and the Actions cache** the document is one
//! object ([`Records::to_object`]): the same, with `"layers": [{"diff_id", "blob"}]` in front.
//!
//! **Modes.** `min` holds the bytes of the layers that the final image consists of, `max` those of all steps. Records of all
//! steps are in both: with `min`, a build that finds all of them executes nothing either. A step of which only the
//! record is there is executed when its bytes are needed.
//!
//! **Whole stores.** [`export_store`] writes the steps of all builds to a place, [`import_store`] puts what a place has into a
//! store. The form is the same; steps have one more field, `label`, for lists. Directories and
//! archives hold it, and a build can read the directory.
//!
//! **Cache mounts** travel when asked for, each as a layer (`mounts`). They are nobody's result: whatever goes wrong with one, the
//! build goes on without.
//!
//! **Trust.** A record says that a key has a layer, and nobody can check that without executing the step: whoever may write
//! to a cache decides what is in the images of those who import it, and what they import stays in their stores as the result
//! of these keys. That is all that a cache can do. What it says is treated so:
//!
//! | said                                | believed |
//! |-------------------------------------|----------|
//! | a document                          | up to a size, a number of records and of manifests; with a wrong digest, time, size or media type all of it is refused |
//! | a blob has this digest and size     | never: bytes are counted and hashed on their way in, and there are no more of them than announced |
//! | a blob holds this diffID, wrapped so| never before the store counts on it: the layer is read when it comes; a blob that is here already has to have been read ([`StepRecord`](super::StepRecord)s are checked at every lookup) |
//! | a layer has this content            | never: a result is taken for an equal one when its table of contents, made here, says so |
//! | the answer to a question            | for finding a result, which is the cache's word as well; never for executing and recording a step, and it is not kept |
//! | paths, tables of contents, addresses| there are none: names are digests, tables are made of the layers, `urls` of descriptors are dropped |
//!
//! A build that fetches no layer, since the registry it pushes to has them, passes on what it was told of a layer's diffID; an
//! image with a wrong one is refused by whoever unpacks it.
//!
//! **Failure.** A place that cannot be read is a warning. A layer that cannot be had when its bytes are needed is lost
//! ([`Imports::lose`]): its records count no longer, and the build begins again from what is there, so that the step
//! is executed. Each time there is one record less, hence this ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

mod archive;
mod export;
mod gha;
mod imports;
mod journal;
mod layout;
mod layout_files;
mod mounts;
mod place;
mod records;
mod registry;
mod s3;
mod trail;
mod whole;

use crate::store::CacheMountId;

pub use archive::{ArchivePlace, ArchiveSink};
pub use export::{Exported, LayerSource, Mode, What, export, inline};
pub use gha::{GhaPlace, GhaSettings};
pub use imports::{Imports, Loaded};
pub use layout::LayoutPlace;
pub use mounts::{MountChoice, MountError, MountPacker, restore_mount};
pub use place::{Place, PlaceError, Selection};
pub use records::{Fact, Records, RecordsError, RemoteStep, StoredLayer, StoredMount};
pub use registry::RegistryPlace;
pub use s3::{S3Place, S3Settings};
pub use trail::{Finished, Trail};
pub use whole::{Lost, WholeExported, WholeImported, export_store, import_steps, import_store};

/// The remote caches of a build: those it reads, and what it did, for those it writes.
#[derive(Debug, Default)]
pub struct RemoteCache {
    /// What is read.
    pub imports: Imports,
    /// What was done.
    pub trail: Trail,
    /// Which cache mounts are read.
    pub mounts: MountChoice,
    /// The mounts that were asked for in this build.
    asked: Mutex<BTreeMap<String, Arc<OnceLock<()>>>>,
}

impl RemoteCache {
    /// Caches to read, and which cache mounts of them.
    pub fn new(imports: Imports, mounts: MountChoice) -> Self {
        Self {
            imports,
            mounts,
            ..Self::default()
        }
    }

    /// Calls `restore` the first time that a mount is asked for, if it is one of those that are read. Who asks meanwhile waits.
    pub fn first_use(&self, mount: &CacheMountId, restore: impl FnOnce()) {
        if self.imports.is_empty() || !self.mounts.has(mount) {
            return;
        }
        let cell = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(asked.entry(mount.key()).or_default())
        };
        cell.get_or_init(restore);
    }
}
