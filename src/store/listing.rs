//! What is there, for lists and for cleaning up. Nothing here counts as use.

use std::{
    fs::{self, DirEntry},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Found, LayerRecord, StepFolder, Store, StoreError,
    error::At as _,
    read_regular,
    record::{read_layer, read_record},
};
use crate::oci::{DiffId, Digest};

/// A file of `blobs/sha256`.
#[derive(Debug, Clone)]
pub struct BlobOnDisk {
    /// The digest that its name says.
    pub digest: Digest,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// When it was used last.
    pub last_used: SystemTime,
}

/// A record of a layer.
#[derive(Debug, Clone)]
pub struct LayerOnDisk {
    /// The layer that its directory's name says.
    pub diff_id: DiffId,
    /// What it says.
    pub found: Found<LayerRecord>,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// When it was used last.
    pub last_used: SystemTime,
}

/// A record of a step.
#[derive(Debug, Clone)]
pub struct StepOnDisk {
    /// Which folder it is in.
    pub folder: StepFolder,
    /// Its name.
    pub key: Digest,
    /// Its bytes, without the line that protects them.
    pub found: Found<Vec<u8>>,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// When it was used last.
    pub last_used: SystemTime,
}

impl Store {
    /// All blobs, and files between them that are none.
    pub fn blobs_on_disk(&self) -> Result<(Vec<BlobOnDisk>, Vec<PathBuf>), StoreError> {
        let (mut blobs, mut strays) = (Vec::new(), Vec::new());
        for entry in entries(&self.root.join("blobs/sha256"))? {
            let path = entry.path();
            let is_file = entry.file_type().at("read", &path)?.is_file();
            let Some(digest) = digest(&entry).filter(|_| is_file) else {
                strays.push(path);
                continue;
            };
            if let Some((size, last_used)) = facts(&entry)? {
                blobs.push(BlobOnDisk {
                    digest,
                    path,
                    size,
                    last_used,
                });
            }
        }
        blobs.sort_by_key(|blob| blob.digest);
        Ok((blobs, strays))
    }

    /// All records of layers.
    pub fn layers_on_disk(&self) -> Result<Vec<LayerOnDisk>, StoreError> {
        let mut layers = Vec::new();
        for dir in entries(&self.root.join("layers"))? {
            let Some(diff_id) = digest(&dir).map(DiffId) else {
                continue;
            };
            for entry in entries(&dir.path())? {
                let path = entry.path();
                if let Some((size, last_used)) = facts(&entry)? {
                    layers.push(LayerOnDisk {
                        diff_id,
                        found: read_layer(&path, diff_id)?,
                        path,
                        size,
                        last_used,
                    });
                }
            }
        }
        layers.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(layers)
    }

    /// All records of steps.
    pub fn steps_on_disk(&self) -> Result<Vec<StepOnDisk>, StoreError> {
        let mut steps = Vec::new();
        for dir in entries(&self.root.join("steps"))? {
            let name = dir.file_name();
            let folder = match name.to_str() {
                Some("at") => StepFolder::Position,
                Some("files") => StepFolder::Files,
                Some("facts") => StepFolder::Fact,
                _ => StepFolder::Key,
            };
            for entry in entries(&dir.path())? {
                let path = entry.path();
                let (Some(key), Some((size, last_used))) = (digest(&entry), facts(&entry)?) else {
                    continue;
                };
                steps.push(StepOnDisk {
                    folder,
                    key,
                    found: read_record(&path)?,
                    path,
                    size,
                    last_used,
                });
            }
        }
        steps.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(steps)
    }

    /// The bytes of all lists of images that are being joined.
    pub fn lists(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let files = entries(&self.root.join("lists"))?.into_iter();
        files
            .map(|entry| read_regular(&entry.path()).at("read", &entry.path()))
            .collect()
    }
}

/// What is in a directory; nothing when there is none.
fn entries(dir: &Path) -> Result<Vec<DirEntry>, StoreError> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<_>>().at("read", dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).at("read", dir),
    }
}

fn digest(entry: &DirEntry) -> Option<Digest> {
    let name = entry.file_name();
    format!("sha256:{}", name.to_str()?).parse().ok()
}

/// Size and time; `None` when it has gone meanwhile.
fn facts(entry: &DirEntry) -> Result<Option<(u64, SystemTime)>, StoreError> {
    match entry.metadata() {
        Ok(metadata) => {
            let modified = metadata.modified().at("read", &entry.path())?;
            Ok(Some((metadata.len(), modified)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", &entry.path()),
    }
}
