//! Layer bytes on demand. A build knows many layers by their descriptors; this fetches a blob when, and only when,
//! something needs its bytes, and each blob once however many steps ask for it.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Services, image_source::ImageError};
use crate::{
    cache::remote::PlaceError,
    layer::FileDigests,
    oci::{Descriptor, Digest},
    progress::{Event, Reporter, Vertex},
    reference::Reference,
    registry::BlobSink,
    snapshot::Shelf,
    store::{BlobFile, Follower, Store, StoreError, open_regular},
};

/// Where a blob can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobOrigin {
    /// In the repository of this reference.
    Registry(Reference),
    /// In this image layout.
    Layout(PathBuf),
    /// In the local store only.
    Store,
}

/// The blobs that a build may need.
#[derive(Debug, Default)]
pub struct Blobs {
    known: Mutex<HashMap<Digest, Vec<BlobOrigin>>>,
    fetching: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

impl Blobs {
    /// Remembers where a blob can be had.
    pub(super) fn know(&self, blob: &Descriptor, origin: &BlobOrigin) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let origins = known.entry(blob.digest).or_default();
        if !origins.contains(origin) {
            origins.push(origin.clone());
        }
    }

    /// The repositories that have a blob, for mounting it instead of moving it.
    pub fn repositories(&self, blob: &Digest) -> Vec<Reference> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let origins = known.get(blob).map(Vec::as_slice).unwrap_or_default();
        origins
            .iter()
            .filter_map(|origin| match origin {
                BlobOrigin::Registry(reference) => Some(reference.clone()),
                BlobOrigin::Layout(_) | BlobOrigin::Store => None,
            })
            .collect()
    }

    /// The file of a blob in an image layout.
    pub(super) fn path_in_layout(layout: &Path, digest: &Digest) -> PathBuf {
        layout.join("blobs/sha256").join(digest.hex())
    }
}

/// How a part of a build comes by bytes: the blobs it may need, and the line of work that they are needed for.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) services: &'a Services<'a>,
    pub(super) blobs: &'a Blobs,
    pub(super) vertex: Vertex,
    /// Takes the files of layers that are read for the first time, when they will be needed on disk.
    pub(super) staging: Option<&'a Shelf>,
    /// Whether the files of layers that are read for the first time are hashed. They seldom are.
    pub(super) digests: FileDigests,
}

impl Fetch<'_> {
    /// Puts a blob into the store, unless it is there. Its digest and size are verified on the way.
    pub(super) fn blob(self, blob: &Descriptor) -> Result<(), ImageError> {
        self.blob_followed(blob, &mut |_| {})
    }

    /// The same; where the blob comes from a registry, `follow` is given a reader of its bytes as they come.
    pub(super) fn blob_followed(
        self,
        blob: &Descriptor,
        follow: &mut dyn FnMut(Follower),
    ) -> Result<(), ImageError> {
        let Services { store, .. } = *self.services;
        if store.has(blob)? {
            return self.check(blob);
        }
        let turn = {
            let mut fetching = self
                .blobs
                .fetching
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetching.entry(blob.digest).or_default())
        };
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if store.has(blob)? {
            return self.check(blob);
        }
        let origins = {
            let known = self
                .blobs
                .known
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            known.get(&blob.digest).cloned().unwrap_or_default()
        };
        let imports = &self.services.remote_cache.imports;
        if imports.gave(&blob.digest) {
            match self.import(blob) {
                // What a cache says of a base's layer does not keep the build from its base.
                Err(ImageError::Lost(_)) if !origins.is_empty() => {}
                outcome => return outcome,
            }
        }
        let mut failure = None;
        for origin in origins {
            let outcome = match &origin {
                BlobOrigin::Registry(reference) => self.pull(reference, blob, follow),
                BlobOrigin::Layout(layout) => copy_from_layout(store, layout, blob),
                BlobOrigin::Store => continue,
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) => failure = Some(error),
            }
        }
        if imports.has_just_lost(&blob.digest) {
            return Err(ImageError::Lost(blob.digest));
        }
        Err(match failure {
            Some(error) => error,
            None => store.open_blob(&blob.digest).map(drop).err().map_or_else(
                || ImageError::Malformed {
                    name: blob.digest.to_string(),
                    what: "blob",
                    reason: "its size in the store is not the one announced".to_owned(),
                },
                ImageError::Store,
            ),
        })
    }

    /// Makes sure that a blob of the store holds what a remote cache promised, if one did.
    fn check(self, blob: &Descriptor) -> Result<(), ImageError> {
        let imports = &self.services.remote_cache.imports;
        if imports.has_lost(&blob.digest) || imports.is_kept(self.services.store, blob)? {
            return Ok(());
        }
        imports.lose(&blob.digest);
        Err(ImageError::Lost(blob.digest))
    }

    /// Fetches a layer that a remote cache promised.
    fn import(self, blob: &Descriptor) -> Result<(), ImageError> {
        let Services {
            store,
            reporter,
            remote_cache,
            cancel,
            ..
        } = *self.services;
        let mut last = 0;
        let mut told = |current: u64| {
            if current >= last + TELL_EVERY || current == blob.size {
                last = current;
                reporter.event(Event::Transfer {
                    vertex: self.vertex,
                    item: blob.digest.to_string(),
                    current,
                    total: Some(blob.size),
                });
            }
        };
        let error = match remote_cache.imports.fetch(store, blob, &mut told) {
            Ok(()) => return Ok(()),
            Err(PlaceError::Store(error)) => return Err(error.into()),
            Err(PlaceError::Registry(error)) if cancel.is_canceled() => return Err(error.into()),
            Err(error) => error,
        };
        // Of a record without bytes nothing else was to be expected.
        if !matches!(error, PlaceError::Lost(_)) {
            let text = format!("a layer of the cache is not used: {error}");
            reporter.event(Event::Warning { text });
        }
        remote_cache.imports.lose(&blob.digest);
        Err(ImageError::Lost(blob.digest))
    }

    fn pull(
        self,
        reference: &Reference,
        blob: &Descriptor,
        follow: &mut dyn FnMut(Follower),
    ) -> Result<(), ImageError> {
        let Services {
            store,
            registry,
            reporter,
            ..
        } = *self.services;
        let mut file = store.blob_file()?;
        follow(file.follow()?);
        let mut sink = StoreSink {
            store,
            file,
            reporter,
            vertex: self.vertex,
            blob,
            told: 0,
        };
        // This verifies the digest, so it is not computed once more by the store.
        registry.blob(reference, blob, &mut sink)?;
        Ok(sink.file.commit_as(blob)?)
    }
}

fn copy_from_layout(store: &Store, layout: &Path, blob: &Descriptor) -> Result<(), ImageError> {
    let path = Blobs::path_in_layout(layout, &blob.digest);
    match open_regular(&path) {
        Ok(mut file) => store
            .put_blob(blob, &mut file)
            .map_err(|error| match error {
                StoreError::Corrupt { .. } | StoreError::Size { .. } => ImageError::DamagedBlob {
                    path,
                    reason: error.to_string(),
                },
                error => error.into(),
            }),
        Err(source) => Err(ImageError::Layout { path, source }),
    }
}

/// How many bytes go by between two remarks on a transfer.
const TELL_EVERY: u64 = 256 << 10;

/// Takes a blob from a registry into the store.
struct StoreSink<'a> {
    store: &'a Store,
    file: BlobFile<'a>,
    reporter: &'a dyn Reporter,
    vertex: Vertex,
    blob: &'a Descriptor,
    /// How many bytes were last told of.
    told: u64,
}

impl BlobSink for StoreSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let current = self.file.size();
        if current >= self.told + TELL_EVERY || current == self.blob.size {
            self.told = current;
            let (item, total) = (self.blob.digest.to_string(), Some(self.blob.size));
            self.reporter.event(Event::Transfer {
                vertex: self.vertex,
                item,
                current,
                total,
            });
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.file = self.store.blob_file().map_err(io::Error::other)?;
        self.told = 0;
        Ok(())
    }
}
