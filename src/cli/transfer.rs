//! Whole images between the store and registries: `push` and `pull`, several blobs at a time.
//!
//! A name appears last: in a registry when all that the image consists of is there, in the store when every blob is.

use std::{
    io::{self, Read, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use rbuild::{
    oci::{Descriptor, Index, MediaType, Platform, to_json},
    progress::{Event, Reporter, Vertex},
    reference::Reference,
    registry::{self, BlobSink, Client, Pushed, Upload},
    store::{BlobFile, Store, StoreError},
};

use super::progress::Renderer;

/// How many blobs are moved at a time; browsers use six connections to a host, BuildKit four.
const AT_A_TIME: usize = 4;

/// How many bytes go by between two events about a transfer.
const TELL_EVERY: u64 = 256 << 10;

/// Why an image was not moved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What moves images.
pub(crate) struct Transfer<'a> {
    pub(crate) store: &'a Store,
    pub(crate) registry: &'a Client,
    pub(crate) reporter: &'a Arc<Renderer>,
}

impl Transfer<'_> {
    /// Fetches the image of one platform and names it. Gives its manifest.
    pub(crate) fn pull(
        &self,
        vertex: Vertex,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Descriptor, TransferError> {
        let platforms = std::slice::from_ref(platform);
        let (descriptor, _) = self.pull_all(vertex, reference, platforms)?;
        Ok(descriptor)
    }

    /// Fetches the images of some platforms, and names them: a manifest where it is one for all, or else an index of
    /// these alone. Gives what has the name, and the manifest of each platform.
    pub(crate) fn pull_all(
        &self,
        vertex: Vertex,
        reference: &Reference,
        platforms: &[Platform],
    ) -> Result<(Descriptor, Vec<Descriptor>), TransferError> {
        self.task(vertex, format!("pull {}", reference.familiar()), || {
            let mut images = Vec::new();
            for platform in platforms {
                images.push(self.pull_one(vertex, reference, platform)?);
            }
            let mut distinct: Vec<Descriptor> = Vec::new();
            for image in &images {
                if distinct.iter().all(|other| other.digest != image.digest) {
                    distinct.push(image.clone());
                }
            }
            let named = if let [only] = distinct.as_slice() {
                only.clone()
            } else {
                let bytes = to_json(&Index::new(distinct));
                let descriptor = Descriptor::of(MediaType::OCI_INDEX, &bytes);
                self.put(&descriptor, &bytes)?;
                descriptor
            };
            let name = match reference.tag() {
                Some(_) => reference.clone().without_digest(),
                None => reference.clone(),
            };
            self.store.set_tags(&[name], &named)?;
            Ok((named, images))
        })
    }

    /// Fetches the image of one platform. Gives its manifest.
    fn pull_one(
        &self,
        vertex: Vertex,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Descriptor, TransferError> {
        let image = self.registry.image(reference, platform)?;
        let from = reference
            .clone()
            .with_digest(image.document.descriptor.digest);
        let layers: Vec<&Descriptor> = image
            .manifest
            .layers
            .iter()
            .filter(|layer| layer.urls.is_empty())
            .collect();
        each(&layers, |layer| self.pull_blob(vertex, &from, layer))?;
        self.put(&image.manifest.config, &image.config_bytes)?;
        self.put(&image.document.descriptor, &image.document.bytes)?;
        let mut descriptor = image.document.descriptor.clone();
        descriptor.platform = Some(image.config.platform.clone());
        Ok(descriptor)
    }

    fn put(&self, descriptor: &Descriptor, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.store.put_blob(descriptor, &mut bytes)
    }

    fn pull_blob(
        &self,
        vertex: Vertex,
        from: &Reference,
        blob: &Descriptor,
    ) -> Result<(), TransferError> {
        let meter = Meter::new(Arc::clone(self.reporter), vertex, blob);
        if self.store.has(blob)? {
            meter.moved(blob.size);
            return Ok(());
        }
        let mut sink = StoreSink {
            store: self.store,
            file: self.store.blob_file()?,
            meter,
        };
        // This verifies the digest, so it is not computed once more by the store.
        self.registry.blob(from, blob, &mut sink)?;
        Ok(sink.file.commit_as(blob)?)
    }

    /// Sends an image of the store, with all its platforms, to the repository that its name says.
    pub(crate) fn push(
        &self,
        vertex: Vertex,
        image: &Descriptor,
        reference: &Reference,
    ) -> Result<(), TransferError> {
        self.task(vertex, format!("push {}", reference.familiar()), || {
            let is_document =
                |d: &Descriptor| d.media_type.is_manifest() || d.media_type.is_index();
            let (documents, blobs): (Vec<_>, Vec<_>) = self
                .store
                .reachable(image)?
                .into_iter()
                .partition(|d| is_document(d));
            let blobs: Vec<&Descriptor> = blobs.iter().collect();
            each(&blobs, |blob| self.push_blob(vertex, reference, blob, None))?;
            // What an index names has to be there before the index, and an image before what is said about it. The root
            // was listed first.
            let (manifests, indexes): (Vec<_>, Vec<_>) = documents
                .iter()
                .partition(|document| document.media_type.is_manifest());
            for document in manifests.into_iter().chain(indexes.into_iter().rev()) {
                let bytes = self.store.read_blob(document)?;
                let is_root = document.digest == image.digest;
                let name = if is_root && reference.tag().is_some() {
                    reference.clone().without_digest()
                } else {
                    reference.clone().with_digest(document.digest)
                };
                self.push_document(vertex, &name, &document.media_type, &bytes)?;
            }
            Ok(())
        })
    }

    /// Sends a list of images with all that belongs to it.
    pub(crate) fn push_joined(
        &self,
        vertex: Vertex,
        joined: &Joined,
        reference: &Reference,
    ) -> Result<(), TransferError> {
        self.task(vertex, format!("push {}", reference.familiar()), || {
            each(&joined.blobs, |part| {
                self.push_blob(vertex, reference, &part.descriptor, part.source.as_ref())
            })?;
            for (n, (descriptor, bytes)) in (1..).zip(&joined.documents) {
                let name = if n == joined.documents.len() {
                    reference.clone()
                } else {
                    reference.clone().with_digest(descriptor.digest)
                };
                self.push_document(vertex, &name, &descriptor.media_type, bytes)?;
            }
            Ok(())
        })
    }

    fn push_document(
        &self,
        vertex: Vertex,
        name: &Reference,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<(), TransferError> {
        self.registry.push_manifest(name, media_type, bytes)?;
        self.reporter.event(Event::Status {
            vertex,
            text: format!("pushing manifest for {name} done"),
        });
        Ok(())
    }

    /// Sends a blob of the store. One that is not there is fetched from `source`, unless the registry can take it
    /// from there itself.
    fn push_blob(
        &self,
        vertex: Vertex,
        to: &Reference,
        blob: &Descriptor,
        source: Option<&Reference>,
    ) -> Result<(), TransferError> {
        let open = || -> io::Result<Box<dyn Read + Send>> {
            if let Some(source) = source {
                self.pull_blob(vertex, source, blob)
                    .map_err(io::Error::other)?;
            }
            let file = self
                .store
                .open_blob(&blob.digest)
                .map_err(io::Error::other)?;
            Ok(Box::new(file))
        };
        let meter = Meter::new(Arc::clone(self.reporter), vertex, blob);
        let told = meter.clone();
        let upload = Upload {
            descriptor: blob,
            open: &open,
            mount_from: source.map_or(&[], std::slice::from_ref),
            is_new: false,
            progress: Some(Arc::new(move |sent| told.moved(sent))),
        };
        match self.registry.push_blob(to, &upload)? {
            Pushed::Existed => meter.status("exists already"),
            Pushed::Mounted { from } => meter.status(&format!("mounted from {from}")),
            Pushed::Uploaded => meter.moved(blob.size),
        }
        Ok(())
    }

    /// Does something as one line of progress.
    fn task<T>(
        &self,
        vertex: Vertex,
        name: String,
        work: impl FnOnce() -> Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        let begun = Instant::now();
        self.reporter.event(Event::Started { vertex, name });
        let result = work();
        self.reporter.event(match &result {
            Ok(_) => Event::Done {
                vertex,
                elapsed: begun.elapsed(),
            },
            Err(error) => Event::Failed {
                vertex,
                message: error.to_string(),
            },
        });
        result
    }
}

/// A blob of images that are joined.
pub(crate) struct Part {
    pub(crate) descriptor: Descriptor,
    /// Where it can be had when the store does not have it.
    pub(crate) source: Option<Reference>,
}

/// A list of images that is pushed.
pub(crate) struct Joined {
    /// Layers and configs, each once.
    pub(crate) blobs: Vec<Part>,
    /// The manifests, then the index.
    pub(crate) documents: Vec<(Descriptor, Vec<u8>)>,
}

/// Calls `work` for each item, on a few threads; after a failure no more are begun, and the first failure is given.
pub(crate) fn each<T: Sync, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(items.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    if let Err(error) = work(item) {
                        failed.store(true, Ordering::Relaxed);
                        failure
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Tells of one blob's transfer, now and then.
#[derive(Clone)]
pub(crate) struct Meter {
    reporter: Arc<Renderer>,
    vertex: Vertex,
    item: String,
    total: u64,
    told: Arc<AtomicU64>,
}

impl Meter {
    pub(crate) fn new(reporter: Arc<Renderer>, vertex: Vertex, blob: &Descriptor) -> Self {
        Self {
            reporter,
            vertex,
            item: blob.digest.to_string(),
            total: blob.size,
            told: Arc::default(),
        }
    }

    /// So many bytes have been moved so far.
    pub(crate) fn moved(&self, current: u64) {
        let told = self.told.load(Ordering::Relaxed);
        if current < self.total && current < told.saturating_add(TELL_EVERY) {
            return;
        }
        self.told.store(current, Ordering::Relaxed);
        self.reporter.event(Event::Transfer {
            vertex: self.vertex,
            item: self.item.clone(),
            current,
            total: Some(self.total),
        });
    }

    /// Something else is to be said of the blob.
    pub(crate) fn status(&self, what: &str) {
        self.reporter.event(Event::Status {
            vertex: self.vertex,
            text: format!("{} {what}", self.item),
        });
    }
}

/// Takes a blob into the store.
struct StoreSink<'a> {
    store: &'a Store,
    file: BlobFile<'a>,
    meter: Meter,
}

impl BlobSink for StoreSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.meter.moved(self.file.size());
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.file = self.store.blob_file().map_err(io::Error::other)?;
        Ok(())
    }
}
