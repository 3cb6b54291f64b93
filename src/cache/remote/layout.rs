//! A cache in a directory, which is an OCI image layout. Several caches are told apart by their tags.
//!
//! Writers hold `.lock` exclusively, so one does not remove what another has just written; readers hold nothing, and a blob
//! that is removed under their hands is a miss. Files are written beside their place, as `NAME.new`, and renamed. At the end
//! the blobs go that the cache had before under this tag, if no manifest of `index.json` leads to them any longer: the directory
//! does not grow with every build, and what others keep in it stays. A writer that is killed leaves blobs that nothing leads to;
//! one that writes the same later finds them, nobody removes them.
//!
//! The directory may belong to somebody else: only regular files are read, and a link that stands in the place of a file that is
//! to be written is replaced, never followed.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{
    Place, PlaceError, Records, Selection,
    layout_files::{self, Files, Pick, failed, is_absent},
};
use crate::{
    oci::{Descriptor, Digest, Index, Manifest, Platform, to_json},
    registry::{BlobSink, Pushed, Upload},
};

/// A directory and the name of a cache in it.
#[derive(Debug)]
pub struct LayoutPlace {
    dir: Dir,
    pick: Pick,
    /// Held by the writer, from its first blob to the end.
    lock: Mutex<Option<File>>,
}

#[derive(Debug)]
struct Dir(PathBuf);

impl Files for Dir {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        use rustix::fs::{Mode, OFlags};
        // A pipe must not make the open wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(self.path(name), flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(Box::new(file))
    }
}

impl LayoutPlace {
    /// The cache `tag` in a directory, which need not be there to be written to; or the one whose manifest has a digest.
    pub fn new(dir: PathBuf, tag: String, digest: Option<Digest>) -> Self {
        Self {
            dir: Dir(dir),
            pick: Pick { tag, digest },
            lock: Mutex::new(None),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.path(&layout_files::blob_name(digest))
    }

    /// Makes the directory and takes the lock.
    fn prepare(&self) -> Result<(), PlaceError> {
        let mut lock = self
            .lock
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if lock.is_some() {
            return Ok(());
        }
        let blobs = self.dir.path("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed("create", &blobs))?;
        let path = self.dir.path(".lock");
        // Not truncated: a link may lead anywhere.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed("create", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        *lock = Some(file);
        Ok(())
    }

    /// What these manifests lead to, themselves included; `None` when one of them cannot be read.
    fn led_to(&self, mut pending: Vec<Descriptor>) -> Option<BTreeSet<Digest>> {
        let mut found = BTreeSet::new();
        while let Some(descriptor) = pending.pop() {
            if !found.insert(descriptor.digest) {
                continue;
            }
            let bytes = layout_files::document(&self.dir, &descriptor).ok()?;
            if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
                pending.extend(index.manifests);
            } else {
                let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
                found.insert(manifest.config.digest);
                found.extend(manifest.layers.iter().map(|layer| layer.digest));
            }
        }
        Some(found)
    }

    /// Removes what the replaced manifests led to and none of the index does. Nothing is removed when a document cannot be
    /// read: what it leads to is not known.
    fn sweep(&self, replaced: Vec<Descriptor>, index: &Index) {
        let used = self.led_to(index.manifests.clone());
        let (Some(old), Some(used)) = (self.led_to(replaced), used) else {
            return;
        };
        for digest in old.difference(&used) {
            // What stays takes room, and harms nobody.
            fs::remove_file(self.path(digest)).ok();
        }
    }
}

impl Place for LayoutPlace {
    fn name(&self) -> String {
        self.dir.0.display().to_string()
    }

    fn records(&self, _: &[Platform]) -> Result<Selection, PlaceError> {
        layout_files::records(&self.dir, &self.pick)
    }

    fn blob(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError> {
        layout_files::blob(&self.dir, blob, sink)
    }

    fn put_blob(&self, upload: &Upload<'_>) -> Result<Pushed, PlaceError> {
        self.prepare()?;
        let path = self.path(&upload.descriptor.digest);
        if fs::metadata(&path).is_ok_and(|found| found.len() == upload.descriptor.size) {
            return Ok(Pushed::Existed);
        }
        let mut reader = (upload.open)().map_err(failed("read", &path))?;
        let new = path.with_extension("new");
        let copied = create(&new).and_then(|mut file| io::copy(&mut reader, &mut file));
        let size = copied
            .inspect_err(|_| {
                fs::remove_file(&new).ok();
            })
            .map_err(failed("write", &new))?;
        if size != upload.descriptor.size {
            fs::remove_file(&new).ok();
            return Err(PlaceError::Damaged {
                expected: upload.descriptor.digest,
                reason: format!("it has {size} bytes"),
            });
        }
        fs::rename(&new, &path).map_err(failed("write", &path))?;
        Ok(Pushed::Uploaded)
    }

    fn put_records(&self, records: &Records) -> Result<(), PlaceError> {
        self.prepare()?;
        let documents = layout_files::Documents::of(records, &self.pick.tag);
        for (descriptor, bytes) in &documents.blobs {
            replace(&self.path(&descriptor.digest), bytes)?;
        }
        let path = self.dir.path("index.json");
        let mut index = match layout_files::index(&self.dir) {
            Err(error) if is_absent(&error) => Index::new(Vec::new()),
            other => other?,
        };
        let (replaced, others) = index
            .manifests
            .into_iter()
            .partition(|entry| self.pick.is(entry));
        index.manifests = others;
        index.manifests.push(documents.entry);
        replace(&self.dir.path("oci-layout"), layout_files::OCI_LAYOUT)?;
        replace(&path, &to_json(&index))?;
        self.sweep(replaced, &index);
        let mut lock = self
            .lock
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Closing the file lets go of the lock.
        *lock = None;
        Ok(())
    }
}

/// Begins a file; what a writer that was killed has left goes, and a link with it.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(path)
}

/// Gives a file its bytes at once.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), PlaceError> {
    let new = path.with_extension("new");
    create(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path))
        .map_err(failed("write", path))
}
