//! Image layouts as archives and directories, with Docker's `manifest.json` where wanted.
//!
//! ```text
//! blobs/sha256/HEX   sorted
//! index.json         an entry for each name, or one without
//! manifest.json      type=docker: what `docker load` reads
//! oci-layout
//! ```
//! Archives are canonical: entries in this order, root's, times 0. A file appears under its name when it is complete,
//! but for pipes and devices, which get what is written as it comes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{ArchiveFormat, OutputError, error::At as _};
use crate::{
    layer::archive::{dir_header, file_header, padding},
    oci::{ANNOTATION_CREATED, ANNOTATION_REF_NAME, Descriptor, Index, Manifest, to_json},
    reference::Reference,
    store::{ANNOTATION_IMAGE_NAME, Store},
};

/// An image for an archive.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// Its manifest or index, in the store.
    pub(super) root: Descriptor,
    /// Its names, which may be none.
    pub(super) names: Vec<Reference>,
}

/// What goes into an archive beside blobs.
#[derive(Debug)]
pub(super) struct Contents {
    blobs: Vec<Descriptor>,
    /// The entries of `index.json`.
    entries: Vec<Descriptor>,
    files: Vec<(&'static str, Vec<u8>)>,
}

const INDEX: &str = "index.json";

/// One image of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    /// `null` where there are none, as Go writes it.
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Contents {
    /// The layout that holds these images. `created` is for entries that have no time yet.
    pub(super) fn new(
        store: &Store,
        images: &[Named],
        format: ArchiveFormat,
        created: &str,
    ) -> Result<Self, OutputError> {
        let mut blobs = BTreeMap::new();
        let mut entries = Vec::new();
        let mut docker = Vec::new();
        for image in images {
            for blob in store.reachable(&image.root)? {
                blobs.insert(blob.digest, blob);
            }
            let mut entry = image.root.clone();
            entry
                .annotations
                .entry(ANNOTATION_CREATED.to_owned())
                .or_insert_with(|| created.to_owned());
            if image.names.is_empty() {
                entries.push(entry.clone());
            }
            for name in &image.names {
                let mut entry = entry.clone();
                let tag = name
                    .tag_or_default()
                    .map_or_else(|| name.selector(), ToOwned::to_owned);
                entry
                    .annotations
                    .insert(ANNOTATION_IMAGE_NAME.to_owned(), name.to_string());
                entry
                    .annotations
                    .insert(ANNOTATION_REF_NAME.to_owned(), tag);
                entries.push(entry);
            }
            if format == ArchiveFormat::Docker {
                docker.push(docker_image(store, image)?);
            }
        }
        let mut files = vec![(INDEX, to_json(&Index::new(entries.clone())))];
        if format == ArchiveFormat::Docker {
            files.push(("manifest.json", to_json(&docker)));
        }
        files.push(("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        Ok(Self {
            blobs: blobs.into_values().collect(),
            entries,
            files,
        })
    }

    /// How long the archive is, in bytes.
    pub(super) fn tar_size(&self) -> u64 {
        const BLOCK: u64 = 512;
        let entry = |size: u64| BLOCK + size.next_multiple_of(BLOCK);
        let blobs: u64 = self.blobs.iter().map(|blob| entry(blob.size)).sum();
        let files: u64 = self.files.iter().map(|(_, b)| entry(b.len() as u64)).sum();
        // The two directories before, the two empty blocks after.
        2 * BLOCK + blobs + files + 2 * BLOCK
    }

    /// Writes an archive.
    pub(super) fn write_tar(
        &self,
        store: &Store,
        sink: &mut dyn Write,
    ) -> Result<(), ArchiveError> {
        for dir in ["blobs/", "blobs/sha256/"] {
            sink.write_all(&dir_header(dir))?;
        }
        for blob in &self.blobs {
            let mut file = store.open_blob(&blob.digest)?;
            let name = format!("blobs/sha256/{}", blob.digest.hex());
            sink.write_all(&file_header(&name, blob.size))?;
            copy_exactly(&mut file, sink, blob)?;
            sink.write_all(padding(blob.size))?;
        }
        for (name, bytes) in &self.files {
            let size = bytes.len() as u64;
            sink.write_all(&file_header(name, size))?;
            sink.write_all(bytes)?;
            sink.write_all(padding(size))?;
        }
        sink.write_all(&[0; 1024])?;
        sink.flush()?;
        Ok(())
    }

    /// Writes a directory, which may be there: blobs are added, and images to its index. One without a name is `latest` there,
    /// and one of a name that the index has takes its place, as in BuildKit.
    pub(super) fn write_dir(&self, store: &Store, dir: &Path) -> Result<(), OutputError> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        for blob in &self.blobs {
            let path = blobs.join(blob.digest.hex());
            if fs::metadata(&path).is_ok_and(|found| found.len() == blob.size) {
                continue;
            }
            let mut source = store.open_blob(&blob.digest)?;
            replace(&path, |file| copy_exactly(&mut source, file, blob))?;
        }
        // The index comes last but for the mark, so that what it names is there. Whoever writes another one meanwhile waits.
        let lock = File::open(dir).at("open", dir)?;
        lock.lock().at("lock", dir)?;
        for (name, bytes) in &self.files {
            let merged;
            let bytes = if *name == INDEX {
                merged = to_json(&self.merged(&dir.join(name))?);
                &merged
            } else {
                bytes
            };
            replace(&dir.join(name), |file| Ok(file.write_all(bytes)?))?;
        }
        Ok(())
    }

    /// The index at `path` with the images of this one.
    fn merged(&self, path: &Path) -> Result<Index, OutputError> {
        let mut index = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(io::Error::from)
                .at("read", path)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Index::new(Vec::new()),
            Err(e) => return Err(e).at("read", path),
        };
        for entry in &self.entries {
            let mut entry = entry.clone();
            let annotations = &mut entry.annotations;
            annotations
                .entry(ANNOTATION_REF_NAME.to_owned())
                .or_insert_with(|| "latest".to_owned());
            let names = |of: &Descriptor| {
                [ANNOTATION_REF_NAME, ANNOTATION_IMAGE_NAME]
                    .map(|key| of.annotations.get(key).cloned())
            };
            index
                .manifests
                .retain(|there| names(there) != names(&entry));
            index.manifests.push(entry);
        }
        Ok(index)
    }
}

/// Why an archive could not be written: its reader or the store.
#[derive(Debug)]
pub(super) enum ArchiveError {
    /// The archive could not be written to.
    Sink(io::Error),
    /// A blob could not be read.
    Store(crate::store::StoreError),
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Sink(error)
    }
}

impl From<crate::store::StoreError> for ArchiveError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether a path leads to a pipe or a device, such as `/dev/stdout` or `/dev/null`: nothing takes its place.
pub fn is_written_in_place(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    let is_of_process = path.starts_with("/dev") || path.starts_with("/proc");
    !metadata.is_dir() && (is_of_process || !metadata.is_file())
}

/// Opens what is written in place.
pub fn open_in_place(path: &Path) -> io::Result<File> {
    File::options().append(true).open(path)
}

/// Writes to a pipe or a device, else as [`replace`] does.
pub(super) fn write_or_replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), ArchiveError>,
) -> Result<(), OutputError> {
    if !is_written_in_place(path) {
        return replace(path, write);
    }
    let mut file = open_in_place(path).at("open", path)?;
    told(path, write(&mut file))
}

fn told(path: &Path, written: Result<(), ArchiveError>) -> Result<(), OutputError> {
    match written {
        Ok(()) => Ok(()),
        Err(ArchiveError::Sink(source)) => Err(source).at("write", path),
        Err(ArchiveError::Store(error)) => Err(error.into()),
    }
}

/// Where a path leads that may be a symbolic link: the file is replaced, not the link.
fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(&path).join(target),
            Err(_) => break,
        }
    }
    path
}

/// As many symbolic links the kernel follows.
const MAX_LINKS: usize = 40;

/// Writes a file beside `path`, then gives it its name. Nothing remains after an error.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), ArchiveError>,
) -> Result<(), OutputError> {
    let path = &followed(path);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temp = path.with_file_name(name);
    let mut file = File::create(&temp).at("create", path)?;
    let written =
        told(path, write(&mut file)).and_then(|()| fs::rename(&temp, path).at("write", path));
    if written.is_err() {
        fs::remove_file(&temp).ok();
    }
    written
}

fn docker_image(store: &Store, image: &Named) -> Result<DockerImage, OutputError> {
    if image.root.media_type.is_index() {
        return Err(OutputError::DockerIndex);
    }
    let manifest: Manifest = store.read_json(&image.root)?;
    let path = |blob: &Descriptor| format!("blobs/sha256/{}", blob.digest.hex());
    let tagged = image.names.iter().filter(|name| name.tag().is_some());
    let tags: Vec<String> = tagged
        .map(|name| name.clone().without_digest().familiar())
        .collect();
    Ok(DockerImage {
        config: path(&manifest.config),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: manifest.layers.iter().map(path).collect(),
    })
}

/// Copies a blob, which must be as long as its descriptor says: an archive's header has promised it.
fn copy_exactly(
    source: &mut File,
    sink: &mut dyn Write,
    blob: &Descriptor,
) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; 256 << 10];
    let mut left = blob.size;
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n =
            source
                .read(&mut buffer[..most])
                .map_err(|source| crate::store::StoreError::Io {
                    action: "read",
                    path: Path::new("blobs/sha256").join(blob.digest.hex()),
                    source,
                })?;
        if n == 0 {
            return Err(crate::store::StoreError::Size {
                digest: blob.digest,
                expected: blob.size,
                actual: blob.size - left,
            }
            .into());
        }
        sink.write_all(&buffer[..n])?;
        left -= n as u64;
    }
    Ok(())
}
