//! A cache in an archive: the image layout of [`super::LayoutPlace`], in one file or a stream.
//!
//! ```text
//! blobs/sha256/HEX   layers, config, manifest
//! index.json
//! oci-layout
//! ```
//! Entries are root's, with times of 0. An archive is whole or refused: reading it begins with all of its table of contents.

use std::{
    fmt,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    Place, PlaceError, Records, Selection,
    layout_files::{self, Files, Pick},
};
use crate::{
    layer::{
        LayerTree,
        archive::{self, OpenError},
    },
    oci::{Descriptor, Index, Platform, to_json},
    registry::{BlobSink, Pushed, Upload},
    tree::Tree as _,
};

/// An archive that is read.
#[derive(Debug)]
pub struct ArchivePlace {
    archive: Archive,
    pick: Pick,
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    tree: LayerTree,
}

impl Files for Archive {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        match self.tree.open(Path::new(name)) {
            Ok(file) => Ok(file),
            Err(error) => Err(error.source),
        }
    }
}

impl ArchivePlace {
    /// The cache `tag` in an archive, compressed or not. `scratch` is a directory for a decompressed copy. `None` when the file
    /// is no archive.
    pub fn open(path: PathBuf, scratch: PathBuf, tag: String) -> Result<Option<Self>, OpenError> {
        let tree = archive::open(path.clone(), Some(scratch))?;
        Ok(tree.map(|tree| Self {
            archive: Archive { path, tree },
            pick: Pick { tag, digest: None },
        }))
    }
}

impl Place for ArchivePlace {
    fn name(&self) -> String {
        self.archive.path.display().to_string()
    }

    fn records(&self, _: &[Platform]) -> Result<Selection, PlaceError> {
        layout_files::records(&self.archive, &self.pick)
    }

    fn blob(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError> {
        layout_files::blob(&self.archive, blob, sink)
    }

    fn put_blob(&self, _: &Upload<'_>) -> Result<Pushed, PlaceError> {
        Err(self.only("written to"))
    }

    fn put_records(&self, _: &Records) -> Result<Option<Descriptor>, PlaceError> {
        Err(self.only("written to"))
    }
}

impl ArchivePlace {
    fn only(&self, what: &str) -> PlaceError {
        let source = io::Error::other(format!("this end of an archive cannot be {what}"));
        layout_files::failed("use", &self.archive.path)(source)
    }
}

/// An archive that is written.
pub struct ArchiveSink {
    name: PathBuf,
    tag: String,
    sink: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for ArchiveSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ArchiveSink").field(&self.name).finish()
    }
}

impl ArchiveSink {
    /// Writes the cache `tag` to `sink`, which messages call `name`. The archive is whole after [`Place::put_records`].
    pub fn new(name: PathBuf, tag: String, sink: Box<dyn Write + Send>) -> Self {
        Self {
            name,
            tag,
            sink: Mutex::new(sink),
        }
    }

    fn entry(&self, name: &str, size: u64, mut bytes: impl Read) -> Result<(), PlaceError> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let written = sink
            .write_all(&archive::file_header(name, size))
            .and_then(|()| io::copy(&mut (&mut bytes).take(size), &mut *sink));
        let written = written.map_err(layout_files::failed("write", &self.name))?;
        if written != size || bytes.read(&mut [0]).is_ok_and(|more| more > 0) {
            let source = io::Error::other(format!("`{name}` does not have {size} bytes"));
            return Err(layout_files::failed("write", &self.name)(source));
        }
        sink.write_all(archive::padding(size))
            .map_err(layout_files::failed("write", &self.name))
    }
}

impl Place for ArchiveSink {
    fn name(&self) -> String {
        self.name.display().to_string()
    }

    fn records(&self, _: &[Platform]) -> Result<Selection, PlaceError> {
        Err(PlaceError::Absent)
    }

    fn blob(&self, blob: &Descriptor, _: &mut dyn BlobSink) -> Result<(), PlaceError> {
        Err(PlaceError::Lost(blob.digest))
    }

    fn at_a_time(&self) -> usize {
        1
    }

    fn put_blob(&self, upload: &Upload<'_>) -> Result<Pushed, PlaceError> {
        // Opened first: what cannot be had leaves no entry.
        let reader = (upload.open)().map_err(layout_files::failed("read", &self.name))?;
        let name = layout_files::blob_name(&upload.descriptor.digest);
        self.entry(&name, upload.descriptor.size, reader)?;
        Ok(Pushed::Uploaded)
    }

    fn put_records(&self, records: &Records) -> Result<Option<Descriptor>, PlaceError> {
        let documents = layout_files::Documents::of(records, &self.tag);
        for (descriptor, bytes) in &documents.blobs {
            let name = layout_files::blob_name(&descriptor.digest);
            self.entry(&name, descriptor.size, bytes.as_slice())?;
        }
        let index = to_json(&Index::new(vec![documents.entry]));
        self.entry("index.json", index.len() as u64, index.as_slice())?;
        let mark = layout_files::OCI_LAYOUT;
        self.entry("oci-layout", mark.len() as u64, mark)?;
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.write_all(&[0; 1024])
            .and_then(|()| sink.flush())
            .map_err(layout_files::failed("write", &self.name))?;
        let [_, (manifest, _)] = documents.blobs;
        Ok(Some(manifest))
    }
}
