//! A cache in a directory, which is an OCI image layout. Several caches are told apart by their tags.
//!
//! Writers hold `.lock` exclusively, so one does not remove what another has just written; readers hold nothing, and a blob
//! that is removed under their hands is a miss. Files are written beside their place, as `NAME.new`, and renamed. At the end
//! the blobs go that the cache had before under this tag, if no manifest of `index.json` leads to them any longer: the directory
//! does not grow with every build, and what others keep in it stays. A writer that is killed leaves blobs that nothing leads to;
//! a later one that writes the same finds them, nobody removes them.
//!
//! The directory may belong to somebody else: only regular files are read, and a link that stands in the place of a file that is
//! to be written is replaced, never followed.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{Place, PlaceError, Records, RecordsError, Selection, records::MAX_DOCUMENT_BYTES};
use crate::{
    oci::{
        ANNOTATION_REF_NAME, Descriptor, Digest, Index, Manifest, MediaType, Platform, sha256,
        to_json,
    },
    registry::{BlobSink, Pushed, Upload},
};

/// How much of a blob is read at once.
const PIECE_BYTES: usize = 128 << 10;

/// A directory and the name of a cache in it.
#[derive(Debug)]
pub struct LayoutPlace {
    dir: PathBuf,
    tag: String,
    /// Instead of the tag.
    digest: Option<Digest>,
    /// Held by the writer, from its first blob to the end.
    lock: Mutex<Option<File>>,
}

impl LayoutPlace {
    /// The cache `tag` in a directory, which need not be there to be written to; or the one whose manifest has a digest.
    pub fn new(dir: PathBuf, tag: String, digest: Option<Digest>) -> Self {
        Self {
            dir,
            tag,
            digest,
            lock: Mutex::new(None),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn index(&self) -> Result<Index, PlaceError> {
        let bytes = read(&self.dir.join("index.json"), MAX_DOCUMENT_BYTES)?;
        Ok(serde_json::from_slice(&bytes).map_err(RecordsError::from)?)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PlaceError> {
        let path = self.path(&descriptor.digest);
        let bytes = read(&path, MAX_DOCUMENT_BYTES)?;
        let actual = sha256(&bytes);
        if actual != descriptor.digest {
            return Err(PlaceError::Damaged {
                expected: descriptor.digest,
                reason: format!("it has digest {actual}"),
            });
        }
        Ok(bytes)
    }

    fn is_mine(&self, entry: &Descriptor) -> bool {
        match &self.digest {
            Some(digest) => entry.digest == *digest,
            None => entry.annotations.get(ANNOTATION_REF_NAME) == Some(&self.tag),
        }
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
        let blobs = self.dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed("create", &blobs))?;
        let path = self.dir.join(".lock");
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
            let bytes = self.document(&descriptor).ok()?;
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
        self.dir.display().to_string()
    }

    fn records(&self, _: &[Platform]) -> Result<Selection, PlaceError> {
        let index = match self.index() {
            Err(PlaceError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(PlaceError::Absent);
            }
            other => other?,
        };
        let entry = index.manifests.iter().find(|entry| self.is_mine(entry));
        let entry = entry.ok_or(PlaceError::Absent)?;
        let manifest: Manifest =
            serde_json::from_slice(&self.document(entry)?).map_err(RecordsError::from)?;
        let config = self.document(&manifest.config)?;
        Ok(vec![Records::from_image(&manifest, &config)?])
    }

    fn blob(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError> {
        let path = self.path(&blob.digest);
        let mut file = open(&path).map_err(failed("read", &path))?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let n = file.read(&mut piece).map_err(failed("read", &path))?;
            if n == 0 {
                return Ok(());
            }
            sink.write(&piece[..n]).map_err(failed("copy", &path))?;
        }
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
        let size = copied.map_err(failed("write", &new))?;
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
        let config = records.to_config();
        let layers = records.layers.iter().map(|layer| layer.blob.clone());
        let config_descriptor = Descriptor::of(MediaType::OCI_CONFIG, &config);
        let manifest = to_json(&Manifest::new(config_descriptor.clone(), layers.collect()));
        let mut entry = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
        replace(&self.path(&config_descriptor.digest), &config)?;
        replace(&self.path(&entry.digest), &manifest)?;
        entry
            .annotations
            .insert(ANNOTATION_REF_NAME.to_owned(), self.tag.clone());
        let path = self.dir.join("index.json");
        let mut index = match self.index() {
            Err(PlaceError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Index::new(Vec::new())
            }
            other => other?,
        };
        let (replaced, others) = index
            .manifests
            .into_iter()
            .partition(|entry| self.is_mine(entry));
        index.manifests = others;
        index.manifests.push(entry);
        replace(
            &self.dir.join("oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
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

/// Gives a file its bytes at once.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), PlaceError> {
    let new = path.with_extension("new");
    create(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path))
        .map_err(failed("write", path))
}

/// Begins a file; what a writer that was killed has left goes, and a link with it.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(path)
}

/// Opens a regular file; opening a pipe would wait for somebody to write into it.
fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::other("it is no regular file"))
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, PlaceError> {
    let mut bytes = Vec::new();
    open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(failed("read", path)(io::Error::other(format!(
            "it has more than {limit} bytes"
        ))));
    }
    Ok(bytes)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::File {
        action,
        path,
        source,
    }
}
