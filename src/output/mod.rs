//! Outputs: what becomes of an image when the build is done. Given an image, this only moves and wraps it.
//!
//! ```text
//! type=image      documents and names in the local store         type=registry   a repository
//! type=oci        an image layout, as an archive or a directory   type=docker     the same for `docker load`
//! type=tar        the files, as an archive                        type=local      the files, in a directory
//! type=cacheonly  nothing
//! ```
//! [`OutputSpec::parse`] reads what the user wrote, [`export`] does it. Each output has its own documents: options such as
//! `compression` and annotations change digests, so one build can have several.
//!
//! Files and directories are made beside their place and renamed; what fails leaves nothing half-written, except
//! `type=local`, which adds file by file to a directory that may have content, and what goes to standard output.
//!
//! Spec: image-spec v1.1; the archive of `type=docker` is the one that containerd and Docker 25 write.

mod archive;
mod attestation;
mod dates;
mod documents;
mod engine;
mod error;
mod estargz;
mod layers;
mod load;
mod metadata;
mod provenance;
mod push;
mod rootfs;
mod save;
mod sbom;
mod spec;
mod validate;

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Mutex, PoisonError},
};

use crate::{
    oci::{ANNOTATION_CREATED, ConfigFile, Descriptor, DiffId, Digest, Platform},
    progress::{Event, Reporter, Vertex},
    reference::Reference,
    store::Store,
    tree::Tree,
};

pub use archive::{is_written_in_place, open_in_place};
pub use engine::Engine;
pub use error::{BoxError, OutputError};
pub use layers::StoredLayers;
pub use load::{LoadError, LoadedImage, load, load_dir};
pub use provenance::{Invocation, Provenance};
pub use push::{Destination, Pusher};
pub use save::{SavedImage, save};
pub use sbom::Sbom;
pub use spec::{
    Annotation, AnnotationPlace, ArchiveFormat, ArchiveSpec, Dest, FilesOptions, ImageOptions,
    ImageSpec, LayerOptions, LocalMode, LocalSpec, OutputSpec, SpecError, SpecProblem, TarSpec,
};

pub use validate::{Fault, FaultKind, validate};

use archive::{ArchiveError, Contents, Named};
use attestation::Statement;
use documents::Documents;

/// The image of one platform, as a build made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its config document, with its platform; its diffIDs are those of `layers`.
    pub config: ConfigFile,
    /// How many entries its history begins with that are the base image's and keep their times.
    pub base_history: usize,
    /// Its layers, base first.
    pub layers: Vec<ImageLayer>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// Its blob, which may be in the store or elsewhere, see [`Layers::ensure`].
    pub descriptor: Descriptor,
    /// Who made it.
    pub origin: LayerOrigin,
}

/// Who made a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerOrigin {
    /// It belongs to a base image, which stays as it is unless `force-compression` says otherwise.
    Base,
    /// A step of this build.
    Built,
}

/// What a build has to export.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The images, one for each platform, in the order they were asked for; never empty.
    pub images: &'a [Image],
    /// Whether the result is an index even for one platform.
    pub multi_platform: bool,
    /// The names of `-t`, which have precedence over those of an output.
    pub names: &'a [Reference],
    /// `--annotation`.
    pub annotations: &'a [Annotation],
    /// What is attached to images about how they were made; then the result is an index.
    pub provenance: Option<&'a Provenance>,
    /// What each of the images consists of, to be attached, too; empty where nobody asked.
    pub sboms: &'a [Sbom],
    /// `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub epoch: Option<i64>,
    /// The present time, seconds since 1970.
    pub now: i64,
}

impl Request<'_> {
    /// Whether these images are exported in an index.
    fn is_index(&self, images: &[Image]) -> bool {
        let with_files = || images.iter().any(|image| !image.layers.is_empty());
        self.multi_platform || images.len() > 1 || (self.is_attested() && with_files())
    }

    /// Whether something is attached to images.
    fn is_attested(&self) -> bool {
        self.provenance.is_some() || !self.sboms.is_empty()
    }

    /// What is attached to `image`, the one of that number.
    fn statements(&self, number: usize, image: &Image) -> Result<Vec<Statement>, OutputError> {
        let sbom = self.sboms.get(number);
        let lists = sbom.map(|sbom| sbom.statements(Some(image))).transpose()?;
        let lists = lists.into_iter().flatten().map(|(_, statement)| statement);
        let made = self.provenance.iter();
        Ok(lists
            .chain(made.map(|made| made.statement(&image.config.platform)))
            .collect())
    }

    /// What is said about the files of the image of that number, each with a name for a file.
    fn statements_for_files(&self, number: usize) -> Result<Vec<(String, Statement)>, OutputError> {
        let sbom = self.sboms.get(number);
        let lists = sbom.map(|sbom| sbom.statements(None)).transpose()?;
        let mut statements = lists.unwrap_or_default();
        if let Some(made) = self.provenance.filter(|made| !made.inline_only) {
            let platform = &self.images[number].config.platform;
            statements.push((made.file_name.clone(), made.statement(platform)));
        }
        Ok(statements)
    }

    /// The names that an output uses.
    fn names<'a>(&'a self, options: &'a ImageOptions) -> Vec<Reference> {
        let names = if self.names.is_empty() {
            &options.names
        } else {
            self.names
        };
        names
            .iter()
            .map(|name| name.clone().with_default_tag())
            .collect()
    }
}

/// Where the bytes and files of layers come from.
pub trait Layers: Sync {
    /// Sees to it that a layer's blob is in the store.
    fn ensure(&self, blob: &Descriptor) -> Result<(), BoxError>;

    /// The file system that the layers add up to.
    fn tree(&self, image: &Image) -> Result<std::sync::Arc<dyn Tree>, BoxError>;
}

/// What [`export`] works with.
#[derive(Clone, Copy)]
pub struct Services<'a> {
    /// The store, in which documents and converted layers are put.
    pub store: &'a Store,
    /// Where layers come from.
    pub layers: &'a dyn Layers,
    /// Who pushes; `None` when no output does.
    pub pusher: Option<&'a dyn Pusher>,
    /// The Docker engine, for images that are loaded into one.
    pub engine: Option<Engine<'a>>,
    /// Who is told.
    pub reporter: &'a dyn Reporter,
    /// As what; begun and ended by the caller.
    pub vertex: Vertex,
}

impl std::fmt::Debug for Services<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services")
            .field("store", &self.store.root())
            .field("vertex", &self.vertex)
            .finish_non_exhaustive()
    }
}

impl Services<'_> {
    fn status(&self, text: impl Into<String>) {
        self.reporter.event(Event::Status {
            vertex: self.vertex,
            text: text.into(),
        });
    }

    fn ensure(&self, blob: &Descriptor) -> Result<(), OutputError> {
        self.layers
            .ensure(blob)
            .map_err(|source| OutputError::Fetch {
                digest: blob.digest,
                source,
            })
    }
}

/// What an output made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// The manifest or index; `None` for outputs that have no image.
    pub descriptor: Option<Descriptor>,
    /// The config of an image for one platform: the image ID.
    pub config: Option<Digest>,
    /// The names it got.
    pub names: Vec<Reference>,
    /// What was attached about how the images were made, for each platform.
    pub provenance: Vec<(Platform, serde_json::Value)>,
}

/// Makes one output. `stdout` is written to if [`OutputSpec::uses_stdout`].
pub fn export(
    spec: &OutputSpec,
    request: &Request<'_>,
    services: &Services<'_>,
    stdout: &mut dyn Write,
) -> Result<Exported, OutputError> {
    match spec {
        OutputSpec::CacheOnly => Ok(Exported::default()),
        OutputSpec::Local(spec) => {
            rootfs::export_local(spec, request, services)?;
            Ok(Exported::default())
        }
        OutputSpec::Tar(spec) => {
            rootfs::export_tar(spec, request, services, stdout)?;
            Ok(Exported::default())
        }
        OutputSpec::Image(spec) => export_image(spec, request, services),
        OutputSpec::Archive(spec) => export_archive(spec, request, services, stdout),
    }
}

fn export_image(
    spec: &ImageSpec,
    request: &Request<'_>,
    services: &Services<'_>,
) -> Result<Exported, OutputError> {
    let names = request.names(&spec.image);
    if spec.push && names.is_empty() {
        return Err(OutputError::NoName);
    }
    let mut request = *request;
    if spec.image.inline_attestations == Some(false) {
        request.provenance = request
            .provenance
            .filter(|provenance| !provenance.inline_only);
    }
    let request = &request;
    let (images, documents) = prepare(&spec.image, request, services)?;
    if spec.store {
        // A name in the store promises that the image can be used offline.
        ensure_all(&images, services)?;
        let names = stored_names(spec, &names, documents.root.digest);
        services.store.set_tags(&names, &documents.root)?;
        for name in &names {
            services.status(format!("naming to {name} done"));
        }
    }
    if spec.push {
        push::push(services, &documents, &names, spec.by_digest, spec.insecure)?;
    }
    Ok(exported(request, &documents, names))
}

/// What the store calls an image.
fn stored_names(spec: &ImageSpec, names: &[Reference], digest: Digest) -> Vec<Reference> {
    let mut stored = names.to_vec();
    if spec.canonical {
        stored.extend(names.iter().map(|name| name.at_digest(digest)));
    }
    if let (true, Some(prefix)) = (names.is_empty(), &spec.dangling) {
        stored.push(prefix.at_digest(digest));
    }
    stored
}

fn export_archive(
    spec: &ArchiveSpec,
    request: &Request<'_>,
    services: &Services<'_>,
    stdout: &mut dyn Write,
) -> Result<Exported, OutputError> {
    let mut request = *request;
    if spec.format == ArchiveFormat::Docker {
        // What `docker load` reads has no place for it.
        request.provenance = None;
        request.sboms = &[];
        if request.is_index(request.images) {
            return Err(OutputError::DockerIndex);
        }
    } else if spec.image.inline_attestations != Some(true) {
        request.provenance = request
            .provenance
            .filter(|provenance| !provenance.inline_only);
    }
    let request = &request;
    let names = request.names(&spec.image);
    let (images, documents) = prepare(&spec.image, request, services)?;
    ensure_all(&images, services)?;
    let created = rfc3339(spec.image.epoch.or(request.epoch).unwrap_or(request.now));
    let named = Named {
        root: documents.root.clone(),
        names: names.clone(),
    };
    let store = services.store;
    let contents = Contents::new(store, &[named], spec.format, &created)?;
    match (&spec.dest, services.engine) {
        (Some(dest), _) => write_archive(&contents, store, dest, spec.tar, stdout)?,
        (None, Some(engine)) => engine::load(&contents, store, engine)?,
        (None, None) => return Err(OutputError::NoEngineNamed),
    }
    services.status("sending tarball done");
    let mut exported = exported(request, &documents, names);
    // As the archive's own index has it, and as BuildKit tells it.
    if let Some(descriptor) = &mut exported.descriptor {
        let annotations = &mut descriptor.annotations;
        annotations
            .entry(ANNOTATION_CREATED.to_owned())
            .or_insert(created);
    }
    Ok(exported)
}

fn write_archive(
    contents: &Contents,
    store: &Store,
    dest: &Dest,
    tar: bool,
    stdout: &mut dyn Write,
) -> Result<(), OutputError> {
    match dest {
        Dest::Path(dir) if !tar => contents.write_dir(store, dir),
        Dest::Path(path) => archive::write_or_replace(path, |file| {
            contents.write_tar(store, &mut std::io::BufWriter::new(file))
        }),
        Dest::Stdout => contents
            .write_tar(store, stdout)
            .map_err(|error| match error {
                ArchiveError::Sink(source) => OutputError::Stdout { source },
                ArchiveError::Store(error) => error.into(),
            }),
    }
}

/// Brings the images into the form that the options ask for, and writes their documents.
fn prepare(
    options: &ImageOptions,
    request: &Request<'_>,
    services: &Services<'_>,
) -> Result<(Vec<Image>, Documents), OutputError> {
    services.status("exporting layers");
    if request.is_attested() && !options.oci_media_types {
        return Err(OutputError::NoAttestations);
    }
    let epoch = options.epoch.or(request.epoch);
    if options.layers.rewrite_timestamp && epoch.is_none() {
        services.reporter.event(Event::Warning {
            text: "rewrite-timestamp is specified, but no source-date-epoch was found".to_owned(),
        });
    }
    let images = request
        .images
        .iter()
        .map(|image| {
            let mut image = layers::convert(
                image,
                options.layers,
                options.oci_media_types,
                epoch,
                services,
            )?;
            // What the build dates by its own is not later than that.
            if let Some(latest) = epoch.min(request.epoch.or(epoch)) {
                dates::clamp(&mut image.config, image.base_history, latest);
            }
            Ok(image)
        })
        .collect::<Result<Vec<_>, OutputError>>()?;
    services.status("exporting layers done");
    let documents = documents::write(services.store, request, &images, options)?;
    for manifest in documents.images() {
        services.status(format!(
            "exporting manifest {} done",
            manifest.descriptor.digest
        ));
        services.status(format!("exporting config {} done", manifest.config.digest));
    }
    for attestation in documents.attestations() {
        services.status(format!(
            "exporting attestation manifest {} done",
            attestation.descriptor.digest
        ));
    }
    if documents.root.media_type.is_index() {
        services.status(format!(
            "exporting manifest list {} done",
            documents.root.digest
        ));
    }
    Ok((images, documents))
}

/// How many layers are fetched at a time.
const FETCHES: usize = 4;

fn ensure_all(images: &[Image], services: &Services<'_>) -> Result<(), OutputError> {
    let mut seen = BTreeSet::new();
    let blobs: Vec<&Descriptor> = images
        .iter()
        .flat_map(|image| &image.layers)
        .map(|layer| &layer.descriptor)
        .filter(|blob| seen.insert(blob.digest))
        .collect();
    let queue = Mutex::new(blobs.into_iter());
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next()
    };
    std::thread::scope(|scope| {
        let fetchers: Vec<_> = (0..FETCHES)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(blob) = next() {
                        services.ensure(blob)?;
                    }
                    Ok(())
                })
            })
            .collect();
        fetchers.into_iter().try_for_each(|fetcher| {
            fetcher
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn exported(request: &Request<'_>, documents: &Documents, names: Vec<Reference>) -> Exported {
    let config = match documents.images() {
        [only] if !documents.root.media_type.is_index() => Some(only.config.digest),
        _ => None,
    };
    Exported {
        descriptor: Some(documents.root.clone()),
        config,
        names,
        provenance: request
            .provenance
            .iter()
            .flat_map(|provenance| {
                let images = request.images.iter();
                let images = images.filter(|image| !image.layers.is_empty());
                let platforms = images.map(|image| &image.config.platform);
                platforms.map(|platform| (platform.clone(), provenance.predicate(platform)))
            })
            .collect(),
    }
}

/// A moment on the second, as documents have it.
fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}
