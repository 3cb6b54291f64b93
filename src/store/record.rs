//! Records: small files that are valid or count as absent.
//!
//! ```text
//! layers/DIFFID/BLOB   what is known of a layer: its descriptor and its table of contents
//! steps/key/KEY        the result of a step, by its cache key
//! steps/at/PLACE       what a step looked like last time, by where it stands
//! steps/files/PLACE    which files it read then
//! steps/facts/QUESTION what was found out about a state
//! ```
//! A record begins with `rbuild 1 sha256:HEX\n`, the format and the digest of the rest. They are written without
//! `fsync`: after a power loss a torn record fails its digest and is a miss. What the bytes of a step's record mean
//! is the `cache` module's business.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Store, StoreError, error::At as _, open_regular, read_regular};
use crate::oci::{Descriptor, DiffId, Digest, sha256};

/// The format of records; others are passed over, so that versions can share a store.
const FORMAT: &str = "rbuild 1 ";

/// How much of a record is read for the start of its table of contents; the descriptor before it takes some 200 bytes.
const TOC_START: u64 = 1 << 10;

/// How often the directory of a record is made before it is given up; it does not go so often at the wrong moment.
const MOST_ATTEMPTS: usize = 100;

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The blob that holds it, which may or may not be in the store.
    pub descriptor: Descriptor,
    /// Its encoded table of contents; empty when there is none yet.
    pub toc: Vec<u8>,
}

/// What stands in front of the table of contents.
#[derive(Serialize, Deserialize)]
struct LayerHeader {
    descriptor: Descriptor,
}

/// What reading a record found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// A valid record.
    Valid(T),
    /// Nothing.
    Absent,
    /// Bytes that are no valid record of this version.
    Invalid,
}

/// The folders of step records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepFolder {
    /// By cache key.
    Key,
    /// What a step looked like last time, by its place.
    Position,
    /// Answers by question.
    Fact,
    /// Which files it read then, by the same.
    Files,
}

impl Store {
    /// Remembers a layer. An earlier record of the same layer in the same blob is replaced.
    pub fn put_layer(&self, record: &LayerRecord) -> Result<(), StoreError> {
        let header = LayerHeader {
            descriptor: record.descriptor.clone(),
        };
        let mut payload = crate::oci::to_json(&header);
        payload.push(b'\n');
        payload.extend_from_slice(&record.toc);
        let dir = self.layer_dir(record.diff_id);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.at("create", &dir)?,
        }
        self.write_record(&dir.join(record.descriptor.digest.hex()), &payload)
    }

    /// What is known of a layer. When several blobs hold it, one that is in the store is preferred.
    pub fn layer_record(&self, diff_id: DiffId) -> Result<Option<LayerRecord>, StoreError> {
        let dir = self.layer_dir(diff_id);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", &dir),
        };
        let mut paths = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
            .at("read", &dir)?;
        paths.sort();
        let mut absent = None;
        for path in paths {
            self.uses.mark(&path)?;
            if let Found::Valid(record) = read_layer(&path, diff_id)? {
                if self.has(&record.descriptor)? {
                    return Ok(Some(record));
                }
                absent = absent.or(Some(record));
            }
        }
        Ok(absent)
    }

    /// What is known of a layer in a certain blob.
    pub fn layer_record_of(
        &self,
        diff_id: DiffId,
        blob: &Digest,
    ) -> Result<Option<LayerRecord>, StoreError> {
        let path = self.layer_dir(diff_id).join(blob.hex());
        self.uses.mark(&path)?;
        Ok(match read_layer(&path, diff_id)? {
            Found::Valid(record) if record.descriptor.digest == *blob => Some(record),
            Found::Valid(_) | Found::Absent | Found::Invalid => None,
        })
    }

    /// Whether there is a record of a layer in a certain blob: that this blob holds this layer was found out here then.
    pub fn knows_layer(&self, diff_id: DiffId, blob: &Digest) -> Result<bool, StoreError> {
        let path = self.layer_dir(diff_id).join(blob.hex());
        Ok(self.uses.mark(&path)?.is_some())
    }

    /// How the table of contents of a layer in a certain blob begins: not verified, and no use of it. `None` where it is
    /// not known.
    pub fn toc_start(&self, diff_id: DiffId, blob: &Digest) -> Option<Vec<u8>> {
        let file = open_regular(&self.layer_dir(diff_id).join(blob.hex())).ok()?;
        let mut start = Vec::new();
        file.take(TOC_START).read_to_end(&mut start).ok()?;
        let lines = start.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let (end, _) = lines.take(2).nth(1)?;
        Some(start.split_off(end + 1))
    }

    fn layer_dir(&self, diff_id: DiffId) -> PathBuf {
        self.root.join("layers").join(diff_id.0.hex())
    }

    /// Remembers the bytes of a step's record; an earlier one is replaced.
    pub fn put_step(
        &self,
        folder: StepFolder,
        key: &Digest,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        self.write_record(&self.step_path(folder, key), bytes)
    }

    /// Remembers the same bytes by two keys, as [`Store::put_step`] twice; on disk they are one file where that can be.
    pub fn put_step_twice(&self, keys: [&Digest; 2], bytes: &[u8]) -> Result<(), StoreError> {
        let [path, other] = keys.map(|key| self.step_path(StepFolder::Key, key));
        self.write_record(&path, bytes)?;
        if self.workspace.link(&path, &other).is_ok() {
            return Ok(());
        }
        self.write_record(&other, bytes)
    }

    /// Whether there is a record of any step.
    pub fn has_steps(&self) -> Result<bool, StoreError> {
        let dir = self.root.join("steps").join("key");
        match fs::read_dir(&dir) {
            Ok(mut records) => Ok(records.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("read", &dir),
        }
    }

    /// The bytes of a step's record.
    pub fn step(&self, folder: StepFolder, key: &Digest) -> Result<Found<Vec<u8>>, StoreError> {
        let path = self.step_path(folder, key);
        self.uses.mark(&path)?;
        read_record(&path)
    }

    fn step_path(&self, folder: StepFolder, key: &Digest) -> PathBuf {
        let hex = key.hex();
        let name = match folder {
            StepFolder::Key => "key",
            StepFolder::Position => "at",
            StepFolder::Fact => "facts",
            StepFolder::Files => "files",
        };
        self.root.join("steps").join(name).join(hex)
    }

    fn write_record(&self, path: &Path, payload: &[u8]) -> Result<(), StoreError> {
        let mut bytes = format!("{FORMAT}{}\n", sha256(payload)).into_bytes();
        bytes.extend_from_slice(payload);
        let parent = path.parent().unwrap_or(&self.root);
        let mut attempts = 0;
        loop {
            match self.workspace.replace(path, &bytes) {
                Err(StoreError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && attempts < MOST_ATTEMPTS =>
                {
                    // The first record there, or somebody has removed the last other one, and with it the directory. Others make
                    // it and remove it at the same time.
                    fs::create_dir_all(parent).at("create", parent)?;
                    attempts += 1;
                }
                other => return other,
            }
        }
    }
}

pub(super) fn read_record(path: &Path) -> Result<Found<Vec<u8>>, StoreError> {
    let mut bytes = match read_regular(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::IsADirectory | io::ErrorKind::InvalidData
            ) =>
        {
            return Ok(Found::Invalid);
        }
        Err(error) => return Err(error).at("read", path),
    };
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
        return Ok(Found::Invalid);
    };
    let payload = bytes.split_off(end + 1);
    let expected = format!("{FORMAT}{}\n", sha256(&payload));
    Ok(if bytes == expected.as_bytes() {
        Found::Valid(payload)
    } else {
        Found::Invalid
    })
}

pub(super) fn read_layer(path: &Path, diff_id: DiffId) -> Result<Found<LayerRecord>, StoreError> {
    let mut payload = match read_record(path)? {
        Found::Valid(payload) => payload,
        Found::Absent => return Ok(Found::Absent),
        Found::Invalid => return Ok(Found::Invalid),
    };
    let Some(end) = payload.iter().position(|b| *b == b'\n') else {
        return Ok(Found::Invalid);
    };
    let toc = payload.split_off(end + 1);
    Ok(match serde_json::from_slice::<LayerHeader>(&payload) {
        Ok(header) => Found::Valid(LayerRecord {
            diff_id,
            descriptor: header.descriptor,
            toc,
        }),
        Err(_) => Found::Invalid,
    })
}
