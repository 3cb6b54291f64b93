//! Layers in the form that an output asks for: `compression`, `force-compression`, `rewrite-timestamp`.
//!
//! Compressing anew keeps the tar, and so the diffID. A layer that this program wrote becomes the very blob that a build makes
//! which compresses it so from the start. Rewriting times makes another tar; only layers that this program wrote are rewritten,
//! and those are canonical, so nothing else changes. What a conversion made is remembered like a step's result.

use std::{
    fs::File,
    io::{self, Read, Write},
    sync::Arc,
};

use super::{Image, ImageLayer, LayerOptions, LayerOrigin, Layers, OutputError, Services, estargz};
use crate::{
    cache::{CacheUse, KeyBuilder, Lookup, StepRecord},
    layer::{
        Change, Compression, Content, Gzip, LayerBlob, LayerError, LayerTree, Toc, TocItem,
        WriteOptions, archive::decompress, write_layer,
    },
    oci::{Descriptor, DiffId, Digester, MediaType},
    store::{BlobWriter, LayerRecord, Store, StoreError},
    tree::Tree,
};

use super::BoxError;

/// Layers that are all in the store, for images that were built before.
#[derive(Debug, Clone, Copy)]
pub struct StoredLayers<'a>(
    /// The store.
    pub &'a Store,
);

impl Layers for StoredLayers<'_> {
    fn ensure(&self, blob: &Descriptor) -> Result<(), BoxError> {
        if self.0.has(blob)? {
            return Ok(());
        }
        self.0.open_blob(&blob.digest)?;
        Err(Box::new(StoreError::Size {
            digest: blob.digest,
            expected: blob.size,
            actual: self.0.blob_size(&blob.digest)?.unwrap_or(0),
        }))
    }

    fn tree(&self, image: &Image) -> Result<Arc<dyn Tree>, BoxError> {
        let layers = image
            .layers
            .iter()
            .map(|layer| {
                self.ensure(&layer.descriptor)?;
                Ok(open(self.0, layer)?)
            })
            .collect::<Result<Vec<_>, BoxError>>()?;
        Ok(Arc::new(LayerTree::of(layers)?))
    }
}

/// A layer whose blob is in the store. Its table of contents is made, and remembered, if there is none.
pub(super) fn open(store: &Store, layer: &ImageLayer) -> Result<Arc<LayerBlob>, OutputError> {
    let digest = layer.descriptor.digest;
    let known = store
        .layer_record_of(layer.diff_id, &digest)?
        .and_then(|record| Toc::from_bytes(&record.toc).ok());
    let toc = match known {
        Some(toc) => toc,
        None => read_toc(store, layer)?,
    };
    let scratch = store.scratch_dir().to_owned();
    Ok(LayerBlob::new(
        Arc::new(toc),
        store.blob_path(&digest),
        Some(scratch),
    ))
}

/// Reads a layer once, and remembers what is in it.
fn read_toc(store: &Store, layer: &ImageLayer) -> Result<Toc, OutputError> {
    let digest = layer.descriptor.digest;
    let toc = Toc::read(store.open_blob(&digest)?).map_err(|error| OutputError::Layer {
        digest,
        source: Box::new(error),
    })?;
    if toc.diff_id != layer.diff_id {
        return Err(OutputError::DiffId {
            digest,
            expected: layer.diff_id,
            actual: toc.diff_id,
        });
    }
    store.put_layer(&LayerRecord {
        diff_id: toc.diff_id,
        descriptor: layer.descriptor.clone(),
        toc: toc.to_bytes(),
    })?;
    Ok(toc)
}

/// The annotation of a layer whose times were changed: the latest that one can be.
const REWRITTEN: &str = "buildkit/rewritten-timestamp";

/// The image with its layers, and its config, as the options ask.
pub(super) fn convert(
    image: &Image,
    options: LayerOptions,
    oci_media_types: bool,
    epoch: Option<i64>,
    services: &Services<'_>,
) -> Result<Image, OutputError> {
    let mut converted = image.clone();
    let limit = epoch.filter(|_| options.rewrite_timestamp);
    for (i, layer) in converted.layers.iter_mut().enumerate() {
        let limit = limit.filter(|_| layer.origin == LayerOrigin::Built);
        let as_estargz = options.estargz
            && (layer.origin == LayerOrigin::Built || options.force)
            && (limit.is_some() || !is_estargz(layer));
        let compression = if as_estargz {
            None
        } else {
            wanted(services.store, layer, options, oci_media_types)
        };
        if as_estargz && limit.is_none() {
            let diff_id = converted.config.rootfs.diff_ids.get_mut(i);
            to_estargz(layer, diff_id, options.compression, services)?;
            continue;
        }
        if compression.is_none() && limit.is_none() {
            continue;
        }
        // A layer whose times alone change keeps its kind of compression.
        let compression = compression.unwrap_or_else(|| compression_of(services.store, layer));
        services.ensure(&layer.descriptor)?;
        let record = remembered(services.store, layer, compression, limit)?;
        layer.diff_id = record.diff_id;
        layer.descriptor = record.descriptor;
        let diff_id = converted.config.rootfs.diff_ids.get_mut(i);
        if as_estargz {
            to_estargz(layer, diff_id, options.compression, services)?;
        } else if let Some(diff_id) = diff_id {
            *diff_id = record.diff_id;
        }
        if let Some(limit) = limit.filter(|_| oci_media_types) {
            // As BuildKit tells it of such layers.
            layer
                .descriptor
                .annotations
                .insert(REWRITTEN.to_owned(), limit.to_string());
        }
    }
    Ok(converted)
}

fn is_estargz(layer: &ImageLayer) -> bool {
    let annotations = &layer.descriptor.annotations;
    annotations.contains_key(estargz::ANNOTATION_TOC)
}

/// Makes a layer eStargz, unless that was done before; the annotations on its descriptor come with that.
fn to_estargz(
    layer: &mut ImageLayer,
    diff_id: Option<&mut DiffId>,
    compression: Option<Compression>,
    services: &Services<'_>,
) -> Result<(), OutputError> {
    let level = match compression {
        Some(Compression::Gzip { level }) => level,
        _ => ESTARGZ_LEVEL,
    };
    let store = services.store;
    services.ensure(&layer.descriptor)?;
    let digest = layer.descriptor.digest;
    let key = KeyBuilder::new("estargz layer")
        .input("blob", &digest)
        .text("level", &level.to_string())
        .finish();
    let record = if let Lookup::Hit(record) = key.lookup(store, CacheUse::On)? {
        *record
    } else {
        let (diff_id, descriptor) = estargz::convert(store, layer, level)?;
        let record = StepRecord {
            diff_id,
            descriptor,
            created: super::rfc3339(0),
            content: None,
            began: None,
            label: "layer for an output".to_owned(),
        };
        key.record(store, &record)?;
        record
    };
    layer.diff_id = record.diff_id;
    layer.descriptor = record.descriptor;
    if let Some(diff_id) = diff_id {
        *diff_id = record.diff_id;
    }
    Ok(())
}

/// How a layer is to be compressed; `None` when it stays as it is.
fn wanted(
    store: &Store,
    layer: &ImageLayer,
    options: LayerOptions,
    oci_media_types: bool,
) -> Option<Compression> {
    let has = compression_of(store, layer);
    // Force without a kind means gzip, as in BuildKit. That an earlier build wrote a layer for other outputs is not to be
    // seen in the image.
    let is_to_be = options.force
        || match layer.origin {
            LayerOrigin::Built => options.compression.is_some() || recipe(store, layer).is_some(),
            LayerOrigin::Base => false,
        };
    let wanted = options.compression.unwrap_or_default();
    match has {
        _ if is_to_be => (has != wanted).then_some(wanted),
        // Docker has no name for zstd.
        Compression::Zstd { .. } if !oci_media_types => Some(Compression::default()),
        _ => None,
    }
}

/// How a layer's blob is compressed, as far as that is known.
fn compression_of(store: &Store, layer: &ImageLayer) -> Compression {
    let media_type = &layer.descriptor.media_type;
    recipe(store, layer).unwrap_or_else(|| kind_of(media_type))
}

/// How this program wrote a layer; `None` for others, and for those that are elsewhere.
fn recipe(store: &Store, layer: &ImageLayer) -> Option<Compression> {
    let start = store.toc_start(layer.diff_id, &layer.descriptor.digest)?;
    Toc::recipe_in(&start)
}

/// The kind of compression that a media type says, at its usual level.
fn kind_of(media_type: &MediaType) -> Compression {
    let media_type = media_type.to_oci();
    if media_type == MediaType::OCI_LAYER_ZSTD {
        Compression::Zstd { level: 3 }
    } else if media_type == MediaType::OCI_LAYER {
        Compression::Uncompressed
    } else {
        Compression::default()
    }
}

/// Converts a layer, unless that was done before.
fn remembered(
    store: &Store,
    layer: &ImageLayer,
    compression: Compression,
    limit: Option<i64>,
) -> Result<StepRecord, OutputError> {
    let digest = layer.descriptor.digest;
    let key = KeyBuilder::new("layer in another form")
        .input("blob", &digest)
        .text("compression", &format!("{compression:?}"))
        .optional("latest time", limit.map(|n| n.to_string()).as_deref())
        .finish();
    if let Lookup::Hit(record) = key.lookup(store, CacheUse::On)? {
        return Ok(*record);
    }
    let (diff_id, descriptor) = if limit.is_some() || recipe(store, layer).is_some() {
        rewrite(store, layer, compression, limit)?
    } else {
        (layer.diff_id, recompress(store, layer, compression)?)
    };
    let record = StepRecord {
        diff_id,
        descriptor,
        created: super::rfc3339(limit.unwrap_or(0)),
        content: None,
        began: None,
        label: "layer for an output".to_owned(),
    };
    key.record(store, &record)?;
    Ok(record)
}

/// Writes a layer of ours once more, with no time later than `limit` if there is one.
fn rewrite(
    store: &Store,
    layer: &ImageLayer,
    compression: Compression,
    limit: Option<i64>,
) -> Result<(DiffId, Descriptor), OutputError> {
    let digest = layer.descriptor.digest;
    let blob = open(store, layer)?;
    let toc = Arc::clone(blob.toc());
    let tree: Arc<dyn Tree> =
        Arc::new(LayerTree::of([blob]).map_err(|error| OutputError::Layer {
            digest,
            source: Box::new(error),
        })?);
    let changes = toc
        .entries
        .iter()
        .map(|entry| {
            let path = entry.path.clone();
            match &entry.item {
                TocItem::Node { metadata, content } => Change::Put {
                    metadata: metadata.clone(),
                    content: match content {
                        Some(_) => Content::Tree {
                            tree: Arc::clone(&tree),
                            path: path.clone(),
                        },
                        None => Content::Empty,
                    },
                    path,
                },
                TocItem::Link { target } => Change::Link {
                    path,
                    target: target.clone(),
                },
                TocItem::Remove => Change::Remove { path },
                TocItem::Opaque => Change::Opaque { path },
            }
        })
        .collect::<Vec<_>>();
    let mut writer = store.blob_writer()?;
    let options = WriteOptions {
        compression,
        rewrite_timestamp: limit,
        ..WriteOptions::default()
    };
    let written =
        write_layer(changes, &mut writer, &options).map_err(|error| failed(layer, error))?;
    writer.commit_as(&written.descriptor)?;
    store.put_layer(&LayerRecord {
        diff_id: written.diff_id,
        descriptor: written.descriptor.clone(),
        toc: written.toc.into_bytes(),
    })?;
    Ok((written.diff_id, written.descriptor))
}

/// A failed conversion; a full disk is the store's failure.
fn failed(layer: &ImageLayer, error: LayerError) -> OutputError {
    match error {
        LayerError::Sink { source } => sink_error(layer, source),
        source => OutputError::Convert {
            digest: layer.descriptor.digest,
            source,
        },
    }
}

pub(super) fn sink_error(layer: &ImageLayer, source: io::Error) -> OutputError {
    match source.downcast::<StoreError>() {
        Ok(error) => error.into(),
        Err(source) => OutputError::Layer {
            digest: layer.descriptor.digest,
            source: Box::new(source),
        },
    }
}

/// The gzip level of eStargz where none is asked for.
const ESTARGZ_LEVEL: i32 = 4;

/// How much of a tar goes into one gzip member. Members are independent, so that a reader can begin at any.
const MEMBER_BYTES: usize = 1 << 20;

/// Compresses a layer's tar anew, byte for byte the same tar.
fn recompress(
    store: &Store,
    layer: &ImageLayer,
    compression: Compression,
) -> Result<Descriptor, OutputError> {
    let digest = layer.descriptor.digest;
    let file: File = store.open_blob(&digest)?;
    let read_error = |error: io::Error| OutputError::Layer {
        digest,
        source: Box::new(error),
    };
    let mut tar = decompress(file).map_err(read_error)?;
    let mut digester = Digester::new();
    let mut writer = store.blob_writer()?;
    pack_blob(&mut tar, &mut digester, &mut writer, compression)
        .map_err(|error| sink_error(layer, error))?;
    let actual = DiffId(digester.finish());
    if actual != layer.diff_id {
        return Err(OutputError::DiffId {
            digest,
            expected: layer.diff_id,
            actual,
        });
    }
    let (digest, size) = writer.commit(None)?;
    Ok(Descriptor::new(compression.media_type(), digest, size))
}

/// Compresses a tar into a blob; `digester` sees the tar.
pub(super) fn pack_blob(
    tar: &mut dyn Read,
    digester: &mut Digester,
    writer: &mut BlobWriter<'_>,
    compression: Compression,
) -> io::Result<()> {
    let mut tar = Hashed {
        inner: tar,
        digester,
    };
    match compression {
        Compression::Uncompressed => {
            io::copy(&mut tar, writer)?;
        }
        Compression::Zstd { level } => {
            let mut encoder = zstd::stream::write::Encoder::new(writer, level)?;
            io::copy(&mut tar, &mut encoder)?;
            encoder.finish()?;
        }
        Compression::Gzip { level } => {
            let mut gzip = Gzip::new(level).map_err(io::Error::other)?;
            let mut member = Vec::with_capacity(MEMBER_BYTES);
            let mut packed = vec![0; gzip.bound(MEMBER_BYTES)];
            loop {
                member.clear();
                (&mut tar)
                    .take(MEMBER_BYTES as u64)
                    .read_to_end(&mut member)?;
                // An empty tar still needs a member to be gzip at all.
                if member.is_empty() && writer.size() > 0 {
                    return Ok(());
                }
                let n = gzip.compress(&member, &mut packed);
                writer.write_all(&packed[..n])?;
            }
        }
    }
    Ok(())
}

/// Hashes what is read through it.
struct Hashed<'a> {
    inner: &'a mut dyn Read,
    digester: &'a mut Digester,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.digester.update(&buffer[..n]);
        Ok(n)
    }
}
