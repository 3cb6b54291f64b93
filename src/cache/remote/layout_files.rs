//! The files of a cache that is an OCI image layout, wherever they lie: in a directory, in an archive.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{PlaceError, Records, RecordsError, Selection, records::MAX_DOCUMENT_BYTES};
use crate::{
    oci::{ANNOTATION_REF_NAME, Descriptor, Digest, Index, Manifest, MediaType, sha256, to_json},
    registry::BlobSink,
};

/// What the file `oci-layout` says.
pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// How much of a blob is read at once.
const PIECE_BYTES: usize = 128 << 10;

/// Where the files are.
pub(super) trait Files {
    /// What messages call a file.
    fn path(&self, name: &str) -> PathBuf;

    /// Opens a regular file.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read>>;
}

/// Which cache of several in a layout is meant.
#[derive(Debug)]
pub(super) struct Pick {
    pub(super) tag: String,
    /// Instead of the tag.
    pub(super) digest: Option<Digest>,
}

impl Pick {
    pub(super) fn is(&self, entry: &Descriptor) -> bool {
        match &self.digest {
            Some(digest) => entry.digest == *digest,
            None => entry.annotations.get(ANNOTATION_REF_NAME) == Some(&self.tag),
        }
    }
}

/// The name of a blob's file.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(super) fn index(files: &dyn Files) -> Result<Index, PlaceError> {
    let bytes = read(files, "index.json")?;
    Ok(serde_json::from_slice(&bytes).map_err(RecordsError::from)?)
}

/// A document with the digest that it shall have.
pub(super) fn document(files: &dyn Files, descriptor: &Descriptor) -> Result<Vec<u8>, PlaceError> {
    let bytes = read(files, &blob_name(&descriptor.digest))?;
    let actual = sha256(&bytes);
    if actual != descriptor.digest {
        return Err(PlaceError::Damaged {
            expected: descriptor.digest,
            reason: format!("it has digest {actual}"),
        });
    }
    Ok(bytes)
}

pub(super) fn records(files: &dyn Files, pick: &Pick) -> Result<Selection, PlaceError> {
    let index = match index(files) {
        Err(error) if is_absent(&error) => return Err(PlaceError::Absent),
        other => other?,
    };
    let entry = index.manifests.iter().find(|entry| pick.is(entry));
    let entry = entry.ok_or(PlaceError::Absent)?;
    let manifest: Manifest =
        serde_json::from_slice(&document(files, entry)?).map_err(RecordsError::from)?;
    let config = document(files, &manifest.config)?;
    Ok(vec![Records::from_image(&manifest, &config)?])
}

/// Copies a blob.
pub(super) fn blob(
    files: &dyn Files,
    blob: &Descriptor,
    sink: &mut dyn BlobSink,
) -> Result<(), PlaceError> {
    let name = blob_name(&blob.digest);
    let path = files.path(&name);
    let mut file = files.open(&name).map_err(failed("read", &path))?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let n = file.read(&mut piece).map_err(failed("read", &path))?;
        if n == 0 {
            return Ok(());
        }
        sink.write(&piece[..n]).map_err(failed("copy", &path))?;
    }
}

/// Records as the documents of a layout.
pub(super) struct Documents {
    /// Config and manifest.
    pub(super) blobs: [(Descriptor, Vec<u8>); 2],
    /// What the index says of the manifest.
    pub(super) entry: Descriptor,
}

impl Documents {
    pub(super) fn of(records: &Records, tag: &str) -> Self {
        let config = records.to_config();
        let layers = records.layers.iter().map(|layer| layer.blob.clone());
        let config_descriptor = Descriptor::of(MediaType::OCI_CONFIG, &config);
        let manifest = to_json(&Manifest::new(config_descriptor.clone(), layers.collect()));
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
        let mut entry = descriptor.clone();
        entry
            .annotations
            .insert(ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
        Self {
            blobs: [(config_descriptor, config), (descriptor, manifest)],
            entry,
        }
    }
}

/// Whether a file is not there.
pub(super) fn is_absent(error: &PlaceError) -> bool {
    matches!(error, PlaceError::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn read(files: &dyn Files, name: &str) -> Result<Vec<u8>, PlaceError> {
    let path = files.path(name);
    let mut bytes = Vec::new();
    files
        .open(name)
        .and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes))
        .map_err(failed("read", &path))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(failed("read", &path)(io::Error::other(format!(
            "it has more than {MAX_DOCUMENT_BYTES} bytes"
        ))));
    }
    Ok(bytes)
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::File {
        action,
        path,
        source,
    }
}
