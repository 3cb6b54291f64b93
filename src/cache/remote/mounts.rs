//! Cache mounts on their way between machines: one instance of each, as a layer.
//!
//! **Out.** The instance that was used last is packed while nobody uses it; whoever looks for one waits for so long, and not for the
//! sending. One that a build uses is not packed. A place keeps what it has of a mount that this store cannot give, or has older.
//!
//! **In.** A mount of the place becomes the store's when the store has none, or one that was used longer ago, and nobody uses it. It
//! is there as a whole or not at all. Where a mount came from is noted, so that a machine whose clock is behind does not take the
//! same one again and again.
//!
//! Owners, modes and links come back as they were; times to the second, as layers have them; sockets do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use jiff::Timestamp;

use super::{Place, PlaceError, Records, StoredLayer, StoredMount};
use crate::{
    layer::{
        ArchiveError, LayerBlob, LayerError, LayerTree, StackError, Toc, WriteOptions, write_layer,
    },
    oci::{Descriptor, Digest, Digester},
    registry::BlobSink,
    snapshot::{self, SnapshotError, Style, diff_upper, owner},
    store::{CacheMountId, CacheMountOnDisk, Store, StoreError, TempDir},
};

/// Which cache mounts travel, by the `id` that Dockerfiles give them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MountChoice {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// These.
    Ids(BTreeSet<String>),
}

impl MountChoice {
    /// Whether a mount is among them.
    pub fn has(&self, mount: &CacheMountId) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Ids(ids) => ids.contains(&mount.id),
        }
    }
}

/// Why a cache mount stays where it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Somebody uses it.
    #[error("a build uses it")]
    InUse,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its files could not be read or put in place.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It could not be packed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// What came is no layer.
    #[error("its layer is damaged")]
    Archive(#[from] ArchiveError),
    /// Likewise.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The place failed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What came is another layer than the place has said.
    #[error("its layer {expected} is damaged: {reason}")]
    Damaged {
        /// What was asked for.
        expected: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// A file failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `create`, `read`, `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Packs mounts, each once for all places.
pub struct MountPacker<'a> {
    store: &'a Store,
    style: Style,
    told: &'a (dyn Fn(&CacheMountId, &MountError) + Sync),
    packed: Mutex<BTreeMap<String, Option<Arc<Packed>>>>,
}

impl std::fmt::Debug for MountPacker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountPacker").finish_non_exhaustive()
    }
}

/// A packed mount. Its file goes with it.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) mount: StoredMount,
    pub(super) layer: StoredLayer,
    pub(super) file: PathBuf,
    _dir: TempDir,
}

/// What a place is to have of mounts.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// What it has already, and keeps.
    pub(super) kept: Vec<(StoredMount, StoredLayer)>,
    /// What it gets.
    pub(super) new: Vec<Arc<Packed>>,
}

impl<'a> MountPacker<'a> {
    /// For the mounts of a store, whose owners are kept as `style` says. `told` hears which mounts stay behind, and why.
    pub fn new(
        store: &'a Store,
        style: Style,
        told: &'a (dyn Fn(&CacheMountId, &MountError) + Sync),
    ) -> Self {
        Self {
            store,
            style,
            told,
            packed: Mutex::default(),
        }
    }

    /// Tells that a mount stays behind.
    pub(super) fn tell(&self, mount: &CacheMountId, error: &MountError) {
        (self.told)(mount, error);
    }

    /// What of these mounts a place is to have that has `before` now.
    pub(super) fn choose(&self, ids: &[CacheMountId], before: &[Records]) -> Chosen {
        let mut chosen = Chosen::default();
        for id in ids {
            let there = newest(before, id);
            let here = match self.newest_here(id) {
                Ok(here) => here,
                Err(error) => {
                    self.tell(id, &error.into());
                    None
                }
            };
            let is_newer = |here: &CacheMountOnDisk| {
                there
                    .as_ref()
                    .is_none_or(|(there, _)| there.used < timestamp(here.last_used))
            };
            let packed = here.filter(is_newer).and_then(|here| self.pack(id, &here));
            match (packed, there) {
                (Some(packed), _) => chosen.new.push(packed),
                (None, Some(there)) => chosen.kept.push(there),
                (None, None) => {}
            }
        }
        chosen
    }

    fn newest_here(&self, id: &CacheMountId) -> Result<Option<CacheMountOnDisk>, StoreError> {
        let instances = self.store.cache_mount_instances(id)?;
        Ok(instances.into_iter().max_by_key(|mount| mount.last_used))
    }

    fn pack(&self, id: &CacheMountId, here: &CacheMountOnDisk) -> Option<Arc<Packed>> {
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = packed.entry(id.key()).or_insert_with(|| {
            let packed = pack(self.store, self.style, id, here);
            let packed = packed.inspect_err(|error| self.tell(id, error));
            packed.ok().map(Arc::new)
        });
        slot.clone()
    }
}

fn pack(
    store: &Store,
    style: Style,
    id: &CacheMountId,
    here: &CacheMountOnDisk,
) -> Result<Packed, MountError> {
    let dir = store.temp_dir()?;
    let path = dir.path().join("layer");
    let owners = dir.path().join("owners");
    let read = |root: &Path| -> Result<_, MountError> {
        let changed = diff_upper(root, &owners, &LayerTree::empty(), style)?;
        let file = File::create_new(&path).map_err(failed("create", &path))?;
        Ok(write_layer(
            changed.changes,
            file,
            &WriteOptions::default(),
        )?)
    };
    let written = store
        .read_cache_mount(here, read)?
        .ok_or(MountError::InUse)??;
    Ok(Packed {
        mount: StoredMount {
            mount: id.clone(),
            diff_id: written.diff_id,
            used: timestamp(here.last_used),
        },
        layer: StoredLayer {
            diff_id: written.diff_id,
            blob: written.descriptor,
        },
        file: path,
        _dir: dir,
    })
}

/// What records have of a mount, the one that was used last.
pub(super) fn newest(records: &[Records], id: &CacheMountId) -> Option<(StoredMount, StoredLayer)> {
    let all = records.iter().flat_map(Records::stored_mounts);
    all.filter(|(mount, _)| mount.mount == *id)
        .max_by(|(a, _), (b, _)| a.used.cmp(&b.used))
        .map(|(mount, layer)| (mount.clone(), layer.clone()))
}

/// Takes a mount into the store, if it is to have it (see above); whether it did. `fetch` gets its blob.
pub fn restore_mount(
    store: &Store,
    style: Style,
    (mount, layer): &(StoredMount, StoredLayer),
    fetch: &dyn Fn(&Descriptor, &mut dyn BlobSink) -> Result<(), PlaceError>,
) -> Result<bool, MountError> {
    let blob = &layer.blob;
    let used = SystemTime::from(mount.used);
    let here = store.cache_mount_instances(&mount.mount)?;
    let is_older = here
        .iter()
        .all(|here| !here.in_use && here.last_used < used);
    let is_same = || store.cache_mount_origin(&mount.mount) == Some(blob.digest);
    if !is_older || (!here.is_empty() && is_same()) {
        return Ok(false);
    }
    let dir = store.temp_dir()?;
    let path = dir.path().join("layer");
    let file = File::create_new(&path).map_err(failed("create", &path))?;
    let mut sink = FileSink {
        file,
        digester: Digester::new(),
        size: 0,
        limit: blob.size,
    };
    fetch(blob, &mut sink)?;
    let damaged = |reason: String| MountError::Damaged {
        expected: blob.digest,
        reason,
    };
    let actual = sink.digester.finish();
    if (actual, sink.size) != (blob.digest, blob.size) {
        return Err(damaged(format!("it has digest {actual}")));
    }
    let toc = Toc::read(File::open(&path).map_err(failed("read", &path))?)?;
    if toc.diff_id != layer.diff_id {
        return Err(damaged(format!("its diffID is {}", toc.diff_id)));
    }
    let scratch = dir.path().to_owned();
    let tree = LayerTree::of([LayerBlob::new(Arc::new(toc), path, Some(scratch))])?;
    let unpacked = snapshot::unpack(dir.path(), &tree, style)?;
    let CacheMountId { mode, uid, gid, .. } = mount.mount;
    owner::give_dir(&unpacked, uid, gid, mode).map_err(failed("change", &unpacked))?;
    Ok(store.replace_cache_mount(&mount.mount, &unpacked, used, &blob.digest)?)
}

/// Gives those of these mounts to a store that it is to have; how many. `told` hears which cannot be had, and why.
pub(super) fn restore_all(
    store: &Store,
    style: Style,
    place: &dyn Place,
    records: &[Records],
    choice: &MountChoice,
    told: &dyn Fn(&CacheMountId, &MountError),
) -> usize {
    let all = records.iter().flat_map(Records::stored_mounts);
    let wanted = all.filter(|(mount, _)| choice.has(&mount.mount));
    let restored = wanted.filter(|(mount, layer)| {
        let mount = ((*mount).clone(), (*layer).clone());
        let fetch = |blob: &Descriptor, sink: &mut dyn BlobSink| place.blob(blob, sink);
        restore_mount(store, style, &mount, &fetch).unwrap_or_else(|error| {
            told(&mount.0.mount, &error);
            false
        })
    });
    restored.count()
}

/// A time of last use. The store's clock is finer than what is kept of it.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.to_owned();
    move |source| MountError::File {
        action,
        path,
        source,
    }
}

/// Takes a blob into a file, and not more of it than was announced.
struct FileSink {
    file: File,
    digester: Digester,
    size: u64,
    limit: u64,
}

impl BlobSink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > self.limit {
            return Err(io::Error::other("there are more bytes than announced"));
        }
        self.file.write_all(bytes)?;
        self.digester.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        use std::io::Seek as _;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.digester = Digester::new();
        self.size = 0;
        Ok(())
    }
}
