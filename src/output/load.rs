//! Images from archives and directories into the store: what `load` does.
//!
//! Three forms, recognised by their files:
//!
//! ```text
//! index.json + oci-layout   an image layout, also that of Docker 25 and later
//! manifest.json             what `docker save` wrote before, and `skopeo copy docker-archive:` writes
//! repositories              what Docker wrote before 1.10; refused
//! ```
//! Nothing is believed: every digest, size and diffID is computed again, names inside an archive cannot lead out of it, documents
//! have a size limit. Blobs come first, names last and all at once, so a failed load leaves names as they were.

mod files;

use std::{
    fs::{self, File},
    io::{self, Read, Seek as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    ImageLayer, LayerOrigin, OutputError,
    layers::{self, pack_blob},
};
use crate::{
    layer::{Compression, archive::OpenError},
    oci::{
        ANNOTATION_REF_NAME, ConfigFile, Descriptor, DiffId, Digest, Digester, Index, Manifest,
        MediaType, sha256, to_json,
    },
    reference::Reference,
    store::{ANNOTATION_IMAGE_NAME, MAX_DOCUMENT_BYTES, Store, StoreError},
};

use files::Files;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// The names it has now; it may have none.
    pub names: Vec<Reference>,
}

/// Why images could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer is not what its image says.
    #[error(transparent)]
    Layer(#[from] OutputError),
    /// The archive cannot be read.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the archive or directory cannot be read.
    #[error("cannot read `{}`", path.display())]
    ReadFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive is damaged.
    #[error("the archive is damaged")]
    Archive(#[from] OpenError),
    /// The bytes are no archive.
    #[error("the input is neither a tar archive nor a compressed one")]
    NotAnArchive,
    /// There is no image in it.
    #[error("there is no image in it: neither `index.json` nor `manifest.json` is there")]
    NoImage,
    /// It has the form of Docker before 1.10.
    #[error("it has the form of Docker before 1.10, which is not supported")]
    Legacy,
    /// A file that another one names is missing.
    #[error("`{path}` is missing")]
    Missing {
        /// Which.
        path: String,
    },
    /// A document has more bytes than a document may have.
    #[error(
        "`{path}` has {size} bytes, more than the {MAX_DOCUMENT_BYTES} that a document may have"
    )]
    TooLarge {
        /// Which.
        path: String,
        /// Its size.
        size: u64,
    },
    /// A document cannot be understood.
    #[error("`{path}` cannot be understood: {reason}")]
    Malformed {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// A blob has other bytes than its descriptor says.
    #[error("`{path}` is damaged: {reason}")]
    DamagedBlob {
        /// Which.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image has more or fewer layers than its config says.
    #[error(
        "`{path}` does not have as many layers ({layers}) as its config has diffIDs ({diff_ids})"
    )]
    LayerCount {
        /// The manifest.
        path: String,
        /// Its layers.
        layers: usize,
        /// The diffIDs of its config.
        diff_ids: usize,
    },
    /// A layer does not have the content that its image's config says.
    #[error("`{path}` has diffID {actual}, the config says {expected}")]
    DiffId {
        /// The layer.
        path: String,
        /// What the config says.
        expected: DiffId,
        /// What it has.
        actual: DiffId,
    },
    /// An index points to what is no image.
    #[error("{digest} is of type `{media_type}`, which is no image")]
    MediaType {
        /// The blob.
        digest: Digest,
        /// Its type.
        media_type: MediaType,
    },
}

/// Loads all images of an archive, compressed or not, and gives them the names they have in it.
pub fn load(mut reader: impl Read, store: &Store) -> Result<Vec<LoadedImage>, LoadError> {
    // The index may be at the end, so the archive has to be on disk.
    let dir = store.temp_dir()?;
    let path = dir.path().join("archive.tar");
    let read = |source| LoadError::Read { source };
    let mut file = File::create_new(&path).map_err(|source| StoreError::Io {
        action: "create",
        path: path.clone(),
        source,
    })?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        io::Write::write_all(&mut file, &buffer[..n]).map_err(|source| StoreError::Io {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    file.rewind().map_err(read)?;
    drop(file);
    let scratch = dir.path().to_owned();
    let tree = crate::layer::archive::open(path, Some(scratch))?.ok_or(LoadError::NotAnArchive)?;
    load_files(&Files::Archive(tree), store)
}

/// Loads all images of an image layout, or of an unpacked archive, in a directory.
pub fn load_dir(dir: &Path, store: &Store) -> Result<Vec<LoadedImage>, LoadError> {
    // A directory that cannot be looked into is not one without images.
    fs::read_dir(dir).map_err(|source| LoadError::ReadFile {
        path: dir.to_owned(),
        source,
    })?;
    load_files(&Files::Dir(dir.to_owned()), store)
}

fn load_files(files: &Files, store: &Store) -> Result<Vec<LoadedImage>, LoadError> {
    let loader = Loader { files, store };
    let docker: Option<Vec<DockerImage>> = loader.json("manifest.json")?;
    let images = if let Some(index) = loader.json::<Index>("index.json")? {
        loader.layout(&index, docker.as_deref().unwrap_or_default())?
    } else if let Some(docker) = docker {
        docker
            .iter()
            .map(|image| loader.docker_image(image))
            .collect::<Result<_, _>>()?
    } else if files.open("repositories")?.is_some() {
        return Err(LoadError::Legacy);
    } else {
        return Err(LoadError::NoImage);
    };
    for image in &images {
        store.set_tags(&image.names, &image.descriptor)?;
    }
    Ok(images)
}

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl DockerImage {
    fn names(&self) -> Vec<Reference> {
        self.repo_tags
            .iter()
            .flatten()
            .filter_map(|name| Reference::parse(name).ok())
            .map(Reference::with_default_tag)
            .collect()
    }
}

/// As deep as indexes may lie in one another.
const MAX_DEPTH: usize = 4;

struct Loader<'a> {
    files: &'a Files,
    store: &'a Store,
}

impl Loader<'_> {
    fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>, LoadError> {
        let Some(bytes) = self.document(path)? else {
            return Ok(None);
        };
        parse(path, &bytes).map(Some)
    }

    fn document(&self, path: &str) -> Result<Option<Vec<u8>>, LoadError> {
        let Some((size, mut reader)) = self.files.open(path)? else {
            return Ok(None);
        };
        if size > MAX_DOCUMENT_BYTES {
            let path = path.to_owned();
            return Err(LoadError::TooLarge { path, size });
        }
        let mut bytes = Vec::new();
        (&mut reader)
            .take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| LoadError::ReadFile {
                path: path.into(),
                source,
            })?;
        Ok(Some(bytes))
    }

    /// The images of an image layout, each once with all its names.
    fn layout(&self, index: &Index, docker: &[DockerImage]) -> Result<Vec<LoadedImage>, LoadError> {
        let mut images: Vec<LoadedImage> = Vec::new();
        for entry in &index.manifests {
            let mut descriptor = entry.clone();
            let full = descriptor.annotations.remove(ANNOTATION_IMAGE_NAME);
            let short = descriptor.annotations.remove(ANNOTATION_REF_NAME);
            // A lone word is a tag of something that is not said.
            let short = short.filter(|name| name.contains([':', '/']));
            let mut names: Vec<Reference> = full
                .or(short)
                .and_then(|name| Reference::parse(&name).ok())
                .map(Reference::with_default_tag)
                .into_iter()
                .collect();
            if !self.image(&descriptor, 0)? {
                let path = blob_path(&descriptor.digest);
                return Err(LoadError::Missing { path });
            }
            if names.is_empty() && descriptor.media_type.is_manifest() {
                let manifest: Manifest = self.store.read_json(&descriptor)?;
                let config = blob_path(&manifest.config.digest);
                names.extend(
                    docker
                        .iter()
                        .filter(|image| image.config == config)
                        .flat_map(DockerImage::names),
                );
            }
            match images
                .iter_mut()
                .find(|image| image.descriptor.digest == descriptor.digest)
            {
                Some(image) => image.names.extend(names),
                None => images.push(LoadedImage { descriptor, names }),
            }
        }
        Ok(images)
    }

    /// Takes in an image with all that belongs to it. `false` when it is not there at all.
    fn image(&self, descriptor: &Descriptor, depth: usize) -> Result<bool, LoadError> {
        if depth >= MAX_DEPTH
            || !(descriptor.media_type.is_index() || descriptor.media_type.is_manifest())
        {
            return Err(LoadError::MediaType {
                digest: descriptor.digest,
                media_type: descriptor.media_type.clone(),
            });
        }
        if !self.blob(descriptor)? {
            return Ok(false);
        }
        let path = blob_path(&descriptor.digest);
        let bytes = self.store.read_blob(descriptor)?;
        if descriptor.media_type.is_index() {
            let index: Index = parse(&path, &bytes)?;
            let mut found = index.manifests.is_empty();
            for manifest in &index.manifests {
                // An archive of an image for several platforms may hold but some of them.
                found |= self.image(manifest, depth + 1)?;
            }
            if !found {
                let path = blob_path(&index.manifests[0].digest);
                return Err(LoadError::Missing { path });
            }
            return Ok(true);
        }
        let manifest: Manifest = parse(&path, &bytes)?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if !self.blob(blob)? {
                let path = blob_path(&blob.digest);
                return Err(LoadError::Missing { path });
            }
        }
        if manifest.config.media_type.to_oci() == MediaType::OCI_CONFIG {
            let config = self.store.read_blob(&manifest.config)?;
            let config: ConfigFile = parse(&blob_path(&manifest.config.digest), &config)?;
            self.check_layers(&path, &manifest, &config)?;
        }
        Ok(true)
    }

    /// Checks the diffIDs, and notes what is in the layers on the way.
    fn check_layers(
        &self,
        path: &str,
        manifest: &Manifest,
        config: &ConfigFile,
    ) -> Result<(), LoadError> {
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        let are_layers = |layer: &Descriptor| layer.media_type.as_str().contains(".tar");
        if !manifest.layers.iter().all(are_layers) {
            // What is attached to an image, such as an attestation, has a config but no file system.
            return Ok(());
        }
        if layers != diff_ids {
            return Err(LoadError::LayerCount {
                path: path.to_owned(),
                layers,
                diff_ids,
            });
        }
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            layers::open(
                self.store,
                &ImageLayer {
                    diff_id: *diff_id,
                    descriptor: descriptor.clone(),
                    origin: LayerOrigin::Base,
                },
            )?;
        }
        Ok(())
    }

    /// Takes in a blob by its digest. `false` when it is neither in the input nor in the store.
    fn blob(&self, descriptor: &Descriptor) -> Result<bool, LoadError> {
        if self.store.has(descriptor)? {
            return Ok(true);
        }
        let Some((_, reader)) = self.files.open(&blob_path(&descriptor.digest))? else {
            return Ok(false);
        };
        self.store
            .put_blob(descriptor, reader)
            .map_err(|error| match error {
                StoreError::Corrupt { .. } | StoreError::Size { .. } => LoadError::DamagedBlob {
                    path: blob_path(&descriptor.digest),
                    reason: error.to_string(),
                },
                error => error.into(),
            })?;
        Ok(true)
    }

    /// An image of `docker save`: its layers get compressed, its config stays byte for byte.
    fn docker_image(&self, image: &DockerImage) -> Result<LoadedImage, LoadError> {
        let missing = |path: &str| LoadError::Missing {
            path: path.to_owned(),
        };
        let config_bytes = self
            .document(&image.config)?
            .ok_or_else(|| missing(&image.config))?;
        let config: ConfigFile = parse(&image.config, &config_bytes)?;
        let paths = image.layers.as_deref().unwrap_or_default();
        if paths.len() != config.rootfs.diff_ids.len() {
            return Err(LoadError::LayerCount {
                path: image.config.clone(),
                layers: paths.len(),
                diff_ids: config.rootfs.diff_ids.len(),
            });
        }
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(&config.rootfs.diff_ids) {
            layers.push(self.docker_layer(path, *diff_id)?);
        }
        self.store.put_bytes(&config_bytes)?;
        let config = Descriptor::new(
            MediaType::OCI_CONFIG,
            sha256(&config_bytes),
            config_bytes.len() as u64,
        );
        let manifest = to_json(&Manifest::new(config, layers));
        self.store.put_bytes(&manifest)?;
        Ok(LoadedImage {
            descriptor: Descriptor::of(MediaType::OCI_MANIFEST, &manifest),
            names: image.names(),
        })
    }

    fn docker_layer(&self, path: &str, diff_id: DiffId) -> Result<Descriptor, LoadError> {
        if let Some(record) = self.store.layer_record(diff_id)?
            && self.store.has(&record.descriptor)?
        {
            return Ok(record.descriptor);
        }
        let (_, reader) = self.files.open(path)?.ok_or_else(|| LoadError::Missing {
            path: path.to_owned(),
        })?;
        let read_error = |source| LoadError::ReadFile {
            path: path.into(),
            source,
        };
        let mut tar = crate::layer::archive::decompress(reader).map_err(read_error)?;
        let mut digester = Digester::new();
        let mut writer = self.store.blob_writer()?;
        let compression = Compression::default();
        pack_blob(&mut tar, &mut digester, &mut writer, compression).map_err(|error| {
            match error.downcast::<StoreError>() {
                Ok(error) => error.into(),
                Err(source) => read_error(source),
            }
        })?;
        let actual = DiffId(digester.finish());
        if actual != diff_id {
            return Err(LoadError::DiffId {
                path: path.to_owned(),
                expected: diff_id,
                actual,
            });
        }
        let (digest, size) = writer.commit(None)?;
        let descriptor = Descriptor::new(compression.media_type(), digest, size);
        layers::open(
            self.store,
            &ImageLayer {
                diff_id,
                descriptor: descriptor.clone(),
                origin: LayerOrigin::Base,
            },
        )?;
        Ok(descriptor)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn parse<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|error| LoadError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
