//! The store: everything that outlives a build, in one directory that is itself an OCI image layout.
//!
//! ```text
//! ROOT/
//!   oci-layout         marks an image layout (image-spec, image-layout.md)
//!   index.json         the named images, see `tags`
//!   blobs/sha256/HEX   manifests, configs, layers: the name is the digest
//!   layers/            what is known of layers, see `record`
//!   steps/             results of steps by cache key, see `record` and the `cache` module
//!   mounts/            cache mounts, see `mounts`
//!   snapshots/         file system states; the `snapshot` module's
//!   stat/              digests of context files; the `context` module's
//!   tmp/               what is being made, a directory for each process, see `temp`
//!   locks/             lock files, empty
//!   rbuild.json        {"format":1}: made last, so a store without it was never finished
//! ```
//!
//! **Many processes.** Whatever is in its place is complete: files and directories are made in `tmp/` and renamed.
//! Things are removed while others use the store, see `uses`. `index.json` is edited under `locks/index`. One process
//! executes a step at a time ([`Store::wait_for_step`]). The kernel lets go of a lock when its holder dies.
//!
//! **Crashes.** A process that is killed leaves its directory in `tmp/`, which the next [`Store::open`] removes, and
//! blobs that nothing names. Names are written through to the disk, after the blobs they lead to
//! ([`Store::set_tags`]); all else is not. After a power loss a blob may be torn and then has another size than its
//! descriptor says, which [`Store::has`] sees; a torn record fails its own digest.
//!
//! **Trust.** What comes from outside is verified on its way in; what is in the store is not hashed again, except
//! documents, which are small.
//!
//! The directory is private to its owner (0700) when the store makes it: it holds set-user-ID programs.

mod blob;
mod error;
mod follow;
mod listing;
mod lists;
mod lock;
mod mounts;
mod record;
mod regular;
mod spread;
mod tags;
mod temp;
#[cfg(test)]
mod tests;
mod uses;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use serde::{Deserialize, Serialize};

pub use blob::{BlobFile, BlobWriter, MAX_DOCUMENT_BYTES};
pub use error::StoreError;
pub use follow::{Follower, Growth, HeadStart};
pub use listing::{BlobOnDisk, LayerOnDisk, StepOnDisk};
pub use lock::StepLock;
pub use mounts::{CacheMount, CacheMountId, CacheMountOnDisk, CacheSharing};
pub use record::{Found, LayerRecord, StepFolder};
pub use regular::{open_regular, read_regular};
pub use spread::spread;
pub use tags::{ANNOTATION_IMAGE_NAME, Tag};
pub use temp::{TempDir, remove_tree};

use error::At as _;
use lock::{FileLock, Hold};
use temp::Workspace;
use uses::Uses;

/// The format of stores that this version makes, and the newest it uses.
const FORMAT: u32 = 1;
/// The file that says so.
const FORMAT_FILE: &str = "rbuild.json";
/// The directories of a store, parents first.
const DIRS: [&str; 9] = [
    "blobs",
    "blobs/sha256",
    "layers",
    "locks",
    "mounts",
    "snapshots",
    "stat",
    "steps",
    "tmp",
];
/// What an unused directory may hold: the root of a file system of its own has this.
const HARMLESS: &str = "lost+found";

#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
}

/// An open store. Threads share it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    workspace: Workspace,
    uses: Uses,
    /// Whether a blob was added.
    grown: AtomicBool,
}

impl Store {
    /// Opens the store in `root`, which is made if it is not there or empty. Sweeps up what killed processes left.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        prepare(root)?;
        let workspace = Workspace::create(root)?;
        let since = workspace.stamp()?;
        let store = Self {
            root: root.to_owned(),
            uses: Uses::new(root, since)?,
            grown: AtomicBool::new(false),
            workspace,
        };
        store.sweep()?;
        Ok(store)
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory for file system states. It and `tmp/` are on one file system.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// The directory for remembered digests of context files.
    pub fn stat_dir(&self) -> PathBuf {
        self.root.join("stat")
    }
}

/// Makes sure that `root` holds a store of a format that can be used.
fn prepare(root: &Path) -> Result<(), StoreError> {
    if check_format(root)? {
        // Who copies a store may leave out directories that are empty.
        return make_dirs(root);
    }
    match fs::DirBuilder::new().mode(0o700).create(root) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = root.parent().unwrap_or(root);
            fs::create_dir_all(parent).at("create", parent)?;
            match fs::DirBuilder::new().mode(0o700).create(root) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).at("create", root);
                }
                _ => {}
            }
        }
        Err(error) => return Err(error).at("create", root),
    }
    refuse_foreign(root)?;
    spread(root);
    // Made first: it tells a store that is being made from somebody else's directory.
    ensure_dir(&root.join("locks"))?;
    let _init = FileLock::wait(&root.join("locks/init"), Hold::Exclusive)?;
    if check_format(root)? {
        return Ok(());
    }
    make_dirs(root)?;
    let workspace = Workspace::create(root)?;
    let write = |name: &str, text: &str| workspace.replace(&root.join(name), text.as_bytes());
    write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = root.join("index.json");
    if !index.try_exists().at("read", &index)? {
        let empty = crate::oci::Index::new(Vec::new());
        workspace.replace(&index, &crate::oci::to_json(&empty))?;
    }
    workspace.replace_durably(
        &root.join(FORMAT_FILE),
        &crate::oci::to_json(&Format { format: FORMAT }),
    )
}

/// Whether there is a finished store; an error when it is of a newer format.
fn check_format(root: &Path) -> Result<bool, StoreError> {
    let path = root.join(FORMAT_FILE);
    let bytes = match read_regular(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(StoreError::NotADirectory {
                root: root.to_owned(),
            });
        }
        Err(error) => return Err(error).at("read", &path),
    };
    let format: Format = serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    if format.format == 0 {
        let reason = "there is no format 0".to_owned();
        return Err(StoreError::Damaged { path, reason });
    }
    if format.format > FORMAT {
        return Err(StoreError::TooNew {
            root: root.to_owned(),
            found: format.format,
            supported: FORMAT,
        });
    }
    Ok(true)
}

/// Refuses a directory that has something in it and is not a store that is being made.
fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
    let mut foreign = None;
    for entry in fs::read_dir(root).at("read", root)? {
        let name = entry.at("read", root)?.file_name();
        if name != HARMLESS {
            foreign = Some(name.to_string_lossy().into_owned());
        }
    }
    let locks = root.join("locks");
    match foreign {
        // Looked for last, since another process may be making the store meanwhile.
        Some(entry) if !locks.try_exists().at("read", &locks)? => Err(StoreError::Foreign {
            root: root.to_owned(),
            entry,
        }),
        _ => Ok(()),
    }
}

/// Makes the directories that are missing. Some hold what nobody else is to see.
fn make_dirs(root: &Path) -> Result<(), StoreError> {
    for dir in DIRS {
        let path = root.join(dir);
        let private = matches!(dir, "snapshots" | "mounts" | "tmp");
        let mode = if private { 0o700 } else { 0o777 };
        match fs::DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made.at("create", &path)?;
                if private {
                    // Volumes hand their group down by a set-group-ID bit (`fsGroup` of Kubernetes); files of steps are the builder's.
                    let plain = fs::Permissions::from_mode(mode);
                    fs::set_permissions(&path, plain).at("restrict", &path)?;
                }
                if dir == "tmp" {
                    // Each process makes its files in a directory of its own there.
                    spread(&path);
                }
            }
        }
    }
    Ok(())
}

fn ensure_dir(path: &Path) -> Result<(), StoreError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at("create", path),
    }
}
