//! eStargz: a layer that is a gzip'd tar like any other, and can be read file by file.
//!
//! ```text
//! member…            .no.prefetch.landmark, then the layer's tar; each 4 MiB of a file begin a member of their own
//! member             stargz.index.json: the table of contents, and the end of the tar
//! footer             an empty member whose extra field says where the table begins
//! ```
//! The tar is the layer's own but for the two entries that are added, so the diffID is another one.
//!
//! Spec: stargz-snapshotter, docs/estargz.md.

use std::{
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use tar_core::{EntryType, builder::EntryBuilder};

use super::{ImageLayer, OutputError, layers};
use crate::{
    layer::{FileContent, Gzip, Toc, TocItem, archive::decompress},
    oci::{Descriptor, DiffId, Digest, Digester, MediaType, sha256},
    store::{BlobWriter, Store},
    tree::{Kind, Metadata},
};

/// The annotation of a layer that says what its table of contents has to be.
pub(super) const ANNOTATION_TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
const ANNOTATION_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// How much of a file a reader fetches at a time.
const CHUNK: usize = 4 << 20;
const BLOCK: usize = 512;
/// Nothing is to be fetched before it is asked for.
const LANDMARK: &str = ".no.prefetch.landmark";
const LANDMARK_CONTENT: [u8; 1] = [0xf];
const TOC_NAME: &str = "stargz.index.json";

#[derive(Serialize)]
struct Contents {
    version: u32,
    entries: Vec<Entry>,
}

/// One path, or a further chunk of a file, in the words of the spec.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    xattrs: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Writes a layer of the store as eStargz.
pub(super) fn convert(
    store: &Store,
    layer: &ImageLayer,
    level: i32,
) -> Result<(DiffId, Descriptor), OutputError> {
    let digest = layer.descriptor.digest;
    let read_error = |error: io::Error| OutputError::Layer {
        digest,
        source: Box::new(error),
    };
    let gzip = Gzip::new(level).map_err(|source| OutputError::Convert { digest, source })?;
    let blob = layers::open(store, layer)?;
    let toc = Arc::clone(blob.toc());
    let mut tar = Tar {
        inner: Box::new(decompress(store.open_blob(&digest)?).map_err(read_error)?),
        digester: Digester::new(),
        at: 0,
    };
    let mut members = Members {
        sink: store.blob_writer()?,
        gzip,
        member: Vec::new(),
        digester: Digester::new(),
        tar_size: 0,
    };
    let toc_digest =
        write(&toc, &mut tar, &mut members).map_err(|error| layers::sink_error(layer, error))?;
    let actual = DiffId(tar.digester.finish());
    if actual != layer.diff_id {
        return Err(OutputError::DiffId {
            digest,
            expected: layer.diff_id,
            actual,
        });
    }
    let diff_id = DiffId(members.digester.finish());
    let (digest, size) = members.sink.commit(None)?;
    let mut descriptor = Descriptor::new(MediaType::OCI_LAYER_GZIP, digest, size);
    let annotations = [
        (ANNOTATION_TOC, toc_digest.to_string()),
        (ANNOTATION_SIZE, members.tar_size.to_string()),
    ];
    descriptor
        .annotations
        .extend(annotations.map(|(key, value)| (key.to_owned(), value)));
    Ok((diff_id, descriptor))
}

/// Writes all of the blob; gives the digest of its table of contents.
fn write(toc: &Toc, tar: &mut Tar<'_>, members: &mut Members<'_>) -> io::Result<Digest> {
    let mut entries = vec![landmark(members)?];
    for entry in &toc.entries {
        let (mut first, content) = described(&entry.path, &entry.item);
        let Some((content, size)) = content.filter(|(_, size)| *size > 0) else {
            if content.is_some() {
                first.digest = Some(sha256(b""));
            }
            entries.push(first);
            continue;
        };
        if content.sparse.is_some() {
            let what = format!("`{}` is a sparse file", entry.path.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        tar.copy_until(content.offset, members)?;
        // Its first entry has the digest of the whole file.
        let whole = entries.len();
        let mut digester = content.digest.is_none().then(Digester::new);
        let mut done = 0;
        while done < size {
            let length = (size - done).min(CHUNK as u64);
            first.offset = members.cut()?;
            first.chunk_offset = done;
            if length == CHUNK as u64 {
                first.chunk_size = length;
            }
            let from = members.member.len();
            tar.copy_until(content.offset + done + length, members)?;
            let chunk = &members.member[from..];
            first.chunk_digest = Some(sha256(chunk));
            if let Some(digester) = &mut digester {
                digester.update(chunk);
            }
            done += length;
            let next = Entry {
                name: first.name.clone(),
                kind: "chunk",
                ..Entry::default()
            };
            entries.push(std::mem::replace(&mut first, next));
        }
        if let Some(digester) = digester {
            entries[whole].digest = Some(digester.finish());
        }
    }
    tar.copy_entries(members)?;
    let toc_offset = members.cut()?;
    let contents = Contents {
        version: 1,
        entries,
    };
    let json = serde_json::to_vec(&contents)?;
    members.add(&header(TOC_NAME, json.len()))?;
    members.add(&json)?;
    members.add(&vec![0; json.len().next_multiple_of(BLOCK) - json.len()])?;
    members.add(&[0; 2 * BLOCK])?;
    members.cut()?;
    members.sink.write_all(&footer(toc_offset))?;
    Ok(sha256(&json))
}

fn landmark(members: &mut Members<'_>) -> io::Result<Entry> {
    members.add(&header(LANDMARK, LANDMARK_CONTENT.len()))?;
    let offset = members.cut()?;
    members.add(&LANDMARK_CONTENT)?;
    members.add(&[0; BLOCK - LANDMARK_CONTENT.len()])?;
    let digest = Some(sha256(&LANDMARK_CONTENT));
    Ok(Entry {
        name: LANDMARK.to_owned(),
        kind: "reg",
        size: LANDMARK_CONTENT.len() as u64,
        mode: 0o644,
        offset,
        digest,
        chunk_digest: digest,
        ..Entry::default()
    })
}

/// What the table says of a path, and the bytes if it is a file.
fn described<'a>(path: &Path, item: &'a TocItem) -> (Entry, Option<(&'a FileContent, u64)>) {
    let empty_file = |path: PathBuf| Entry {
        name: name(&path),
        kind: "reg",
        digest: Some(sha256(b"")),
        ..Entry::default()
    };
    match item {
        TocItem::Node { metadata, content } => {
            let mut entry = of_node(path, metadata);
            let size = entry.size;
            if let Some(content) = content {
                entry.digest = content.digest;
            }
            (entry, content.as_ref().map(|content| (content, size)))
        }
        TocItem::Link { target } => {
            let entry = Entry {
                name: name(path),
                kind: "hardlink",
                link_name: name(target),
                ..Entry::default()
            };
            (entry, None)
        }
        TocItem::Remove => {
            let mut marker = std::ffi::OsString::from(".wh.");
            marker.push(path.file_name().unwrap_or_default());
            (empty_file(path.with_file_name(marker)), None)
        }
        TocItem::Opaque => (empty_file(path.join(".wh..wh..opq")), None),
    }
}

fn of_node(path: &Path, metadata: &Metadata) -> Entry {
    let mut entry = Entry {
        name: name(path),
        modified: super::rfc3339(metadata.mtime.seconds),
        mode: u64::from(metadata.mode),
        uid: u64::from(metadata.uid),
        gid: u64::from(metadata.gid),
        xattrs: metadata
            .xattrs
            .iter()
            .map(|(key, value)| {
                let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
                (key, STANDARD.encode(value))
            })
            .collect(),
        ..Entry::default()
    };
    let device = |entry: &mut Entry, major: u32, minor: u32| {
        entry.dev_major = u64::from(major);
        entry.dev_minor = u64::from(minor);
    };
    match &metadata.kind {
        Kind::File { size } => {
            entry.kind = "reg";
            entry.size = *size;
        }
        Kind::Dir => {
            entry.kind = "dir";
            entry.name.push('/');
        }
        Kind::Symlink { target } => {
            entry.kind = "symlink";
            entry.link_name = name(target);
        }
        Kind::Char { major, minor } => {
            entry.kind = "char";
            device(&mut entry, *major, *minor);
        }
        Kind::Block { major, minor } => {
            entry.kind = "block";
            device(&mut entry, *major, *minor);
        }
        Kind::Fifo | Kind::Socket => entry.kind = "fifo",
    }
    entry
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn header(name: &str, size: usize) -> Vec<u8> {
    const FITS: &str = "the names are short and GNU headers hold any size";
    let mut builder = EntryBuilder::new_gnu();
    builder.path(name).entry_type(EntryType::Regular);
    builder.mode(0o644).expect(FITS);
    builder.uid(0).expect(FITS);
    builder.gid(0).expect(FITS);
    builder.size(size as u64).expect(FITS);
    builder.mtime(0).expect(FITS);
    builder.finish_bytes()
}

/// An empty gzip member whose extra field has the offset of the table.
fn footer(toc_offset: u64) -> Vec<u8> {
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    footer.extend([26, 0, b'S', b'G', 22, 0]);
    footer.extend(format!("{toc_offset:016x}STARGZ").into_bytes());
    // A last stored block of no bytes; checksum and length of nothing.
    footer.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    footer
}

/// The layer's tar, hashed as it is read.
struct Tar<'a> {
    inner: Box<dyn Read + 'a>,
    digester: Digester,
    at: u64,
}

impl Tar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.digester.update(&buffer[..n]);
        self.at += n as u64;
        Ok(n)
    }

    /// Copies what comes before an offset.
    fn copy_until(&mut self, offset: u64, members: &mut Members<'_>) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while self.at < offset {
            let left = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
            let most = left.min(buffer.len());
            let n = self.read(&mut buffer[..most])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            members.add(&buffer[..n])?;
        }
        Ok(())
    }

    /// Copies the entries that are left, not the zeros at the end, and reads to the end.
    fn copy_entries(&mut self, members: &mut Members<'_>) -> io::Result<()> {
        self.copy_until(self.at.next_multiple_of(BLOCK as u64), members)?;
        let mut over = false;
        let mut block = [0; BLOCK];
        loop {
            let mut filled = 0;
            while filled < BLOCK {
                match self.read(&mut block[filled..])? {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                return Ok(());
            }
            over |= block[..filled].iter().all(|byte| *byte == 0);
            if !over {
                members.add(&block[..filled])?;
            }
        }
    }
}

/// The blob that is written, member by member.
struct Members<'a> {
    sink: BlobWriter<'a>,
    gzip: Gzip,
    /// What the next member yields.
    member: Vec<u8>,
    digester: Digester,
    tar_size: u64,
}

impl Members<'_> {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digester.update(bytes);
        self.tar_size += bytes.len() as u64;
        self.member.extend_from_slice(bytes);
        // Never inside of a chunk, which is shorter.
        if self.member.len() >= 2 * CHUNK {
            self.cut()?;
        }
        Ok(())
    }

    /// Ends the member; gives the offset in the blob of the next one.
    fn cut(&mut self) -> io::Result<u64> {
        if !self.member.is_empty() {
            let mut packed = vec![0; self.gzip.bound(self.member.len())];
            let n = self.gzip.compress(&self.member, &mut packed);
            self.sink.write_all(&packed[..n])?;
            self.member.clear();
        }
        Ok(self.sink.size())
    }
}
