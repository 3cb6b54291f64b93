//! A cache in a directory, which is an OCI image layout. Several caches are told apart by their tags.
//!
//! Writers hold `.lock` exclusively, so one does not remove what another has just written; readers hold nothing, and a blob
//! that is removed under their hands is a miss. Files are written beside their place, as `NAME.new`, and renamed. At the end
//! the blobs go that the cache had before under this tag, if no manifest of `index.json` leads to them any longer: the directory
//! does not grow with every build, and what others keep in it stays. A writer that is killed leaves blobs that nothing leads to,
//! and a list of them (see `journal`): one that writes the same later uses them, and whoever writes next removes the others.
//!
//! The directory may belong to somebody else: only regular files are read, and a link that stands in the place of a file that is
//! to be written is replaced, never followed.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Place, PlaceError, Records, Selection,
    journal::{self, Journal},
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
    /// Of the writer, from its first blob to the end.
    writing: Mutex<Option<Writing>>,
}

#[derive(Debug)]
struct Writing {
    journal: Journal,
    /// Held; closing the file lets go of it.
    _lock: File,
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
            writing: Mutex::new(None),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.path(&layout_files::blob_name(digest))
    }

    fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a blob is about to be added.
    fn begin(&self, blob: &Digest) -> Result<(), PlaceError> {
        match &mut *self.writing() {
            Some(writing) => writing
                .journal
                .begin(blob)
                .map_err(failed("write", &self.dir.0)),
            None => Ok(()),
        }
    }

    /// Makes the directory and takes the lock.
    fn prepare(&self) -> Result<(), PlaceError> {
        let mut writing = self.writing();
        if writing.is_some() {
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
        let journal = Journal::take_over(&self.dir).map_err(failed("write", &self.dir.0))?;
        *writing = Some(Writing {
            journal,
            _lock: file,
        });
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

    /// Removes what the replaced manifests led to, or a writer has begun, and none of the index leads to. Nothing is removed
    /// when a document cannot be read: what it leads to is not known.
    fn sweep(&self, replaced: Vec<Descriptor>, index: &Index, journal: Journal) {
        let Some(used) = self.led_to(index.manifests.clone()) else {
            return;
        };
        let old = self.led_to(replaced).unwrap_or_default();
        // What stays takes room, and harms nobody.
        for digest in old.union(journal.begun()).filter(|d| !used.contains(d)) {
            fs::remove_file(self.path(digest)).ok();
        }
        for digest in journal.begun() {
            fs::remove_file(new_name(&self.path(digest))).ok();
        }
        journal.end().ok();
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
        self.begin(&upload.descriptor.digest)?;
        let new = new_name(&path);
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

    fn put_records(&self, records: &Records) -> Result<Option<Descriptor>, PlaceError> {
        self.prepare()?;
        let documents = layout_files::Documents::of(records, &self.pick.tag);
        for (descriptor, bytes) in &documents.blobs {
            self.begin(&descriptor.digest)?;
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
        if let Some(Writing { journal, _lock }) = self.writing().take() {
            self.sweep(replaced, &index, journal);
        }
        let [_, (manifest, _)] = documents.blobs;
        Ok(Some(manifest))
    }
}

/// Begins a file; what a writer that was killed has left goes, and a link with it.
fn create(path: &Path) -> io::Result<File> {
    journal::remove(path)?;
    File::create_new(path)
}

/// The name of a file that is being written.
fn new_name(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Gives a file its bytes at once.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), PlaceError> {
    let new = new_name(path);
    create(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path))
        .map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::{super::StoredLayer, *};
    use crate::oci::{DiffId, MediaType};

    fn place(dir: &Path) -> LayoutPlace {
        LayoutPlace::new(dir.to_owned(), "latest".to_owned(), None)
    }

    /// Writes a layer, as far as its blob.
    fn put(place: &LayoutPlace, bytes: &'static [u8]) -> Descriptor {
        let blob = Descriptor::of(MediaType::OCI_LAYER_GZIP, bytes);
        let upload = Upload {
            descriptor: &blob,
            open: &|| Ok(Box::new(bytes)),
            mount_from: &[],
            is_new: false,
            progress: None,
        };
        let _new = place.put_blob(&upload).unwrap();
        blob
    }

    fn finish(place: &LayoutPlace, layers: &[&Descriptor]) {
        let layers = layers.iter().map(|blob| StoredLayer {
            diff_id: DiffId(blob.digest),
            blob: (*blob).clone(),
        });
        let records = Records {
            layers: layers.collect(),
            ..Records::default()
        };
        place.put_records(&records).unwrap();
    }

    fn has(dir: &Path, blob: &Descriptor) -> bool {
        place(dir).path(&blob.digest).try_exists().unwrap()
    }

    #[test]
    fn what_killed_writers_leave_the_next_one_uses_or_removes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let first = put(&place(dir), b"of the first that is killed");
        let killed = place(dir);
        let second = put(&killed, b"of the second");
        let wanted = put(&killed, b"wanted again");
        // Killed in the middle of a file.
        let half = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"half");
        killed.begin(&half.digest).unwrap();
        let new = new_name(&killed.path(&half.digest));
        fs::write(&new, "ha").unwrap();
        drop(killed);
        let foreign = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"somebody else's");
        fs::write(place(dir).path(&foreign.digest), "somebody else's").unwrap();

        let lucky = place(dir);
        let third = put(&lucky, b"of the third");
        put(&lucky, b"wanted again");
        finish(&lucky, &[&third, &wanted]);
        assert!(has(dir, &third) && has(dir, &wanted) && has(dir, &foreign));
        assert!(!has(dir, &first) && !has(dir, &second) && !new.try_exists().unwrap());
        assert!(!dir.join(".writing").try_exists().unwrap());
        assert_eq!(place(dir).records(&[]).unwrap()[0].layers.len(), 2);
    }

    #[test]
    fn a_list_of_begun_blobs_takes_away_nothing_that_is_used_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, outside) = (dir.path().join("cache"), dir.path().join("outside"));
        let writer = place(&dir);
        let used = put(&writer, b"used");
        finish(&writer, &[&used]);
        fs::write(
            &outside,
            format!("{}\nnonsense\n../../outside\n", used.digest),
        )
        .unwrap();
        std::os::unix::fs::symlink(&outside, dir.join(".writing")).unwrap();
        let before = fs::read(&outside).unwrap();
        let other = LayoutPlace::new(dir.clone(), "other".to_owned(), None);
        let new = put(&other, b"new");
        finish(&other, &[&new]);
        assert!(has(&dir, &used) && has(&dir, &new));
        assert_eq!(fs::read(&outside).unwrap(), before);
    }
}
