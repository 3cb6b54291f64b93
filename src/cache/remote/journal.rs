//! What the writers of a cache in a directory have begun and not come to the end of.
//!
//! The file `.writing` has a line for each blob that a writer adds: its digest, written before the blob is. A writer that
//! comes to its end removes the file. So one that finds it knows what those before it have left, killed or failed, and removes
//! at its own end what nothing leads to. Blobs that are in no such file are somebody else's.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::layout_files::Files;
use crate::oci::Digest;

/// The name of the file.
const NAME: &str = ".writing";
/// What is read of it: a line has 72 bytes, and no cache has more blobs than this holds.
const MAX_BYTES: u64 = 16 << 20;

/// The blobs that the present writer and unlucky ones before it have added. Whoever has one holds the lock of the directory.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    begun: BTreeSet<Digest>,
}

impl Journal {
    /// Takes over what others have left. A link in the place of the file is replaced, not followed.
    pub(super) fn take_over(dir: &dyn Files) -> io::Result<Self> {
        let path = dir.path(NAME);
        let mut text = String::new();
        // What cannot be read is no journal, and what it would say stays.
        let _readable = dir
            .open(NAME)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        let begun: BTreeSet<Digest> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let new = path.with_extension("new");
        remove(&new)?;
        let mut file = File::create_new(&new)?;
        let lines: Vec<String> = begun.iter().map(line).collect();
        file.write_all(lines.concat().as_bytes())?;
        fs::rename(&new, &path)?;
        Ok(Self { path, file, begun })
    }

    /// Notes that a blob is about to be added.
    pub(super) fn begin(&mut self, blob: &Digest) -> io::Result<()> {
        if self.begun.insert(*blob) {
            self.file.write_all(line(blob).as_bytes())?;
        }
        Ok(())
    }

    /// The blobs.
    pub(super) fn begun(&self) -> &BTreeSet<Digest> {
        &self.begun
    }

    /// Comes to an end: all that was begun is either led to or gone.
    pub(super) fn end(self) -> io::Result<()> {
        remove(&self.path)
    }
}

fn line(blob: &Digest) -> String {
    format!("{blob}\n")
}

/// Removes a file that may be gone.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
