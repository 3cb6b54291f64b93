//! Writing a layer: changes in, blob out, one pass over every byte.
//!
//! ```text
//! producer ─members, round robin→ packers (n threads) ─in the same order→ caller: diffID, digest, sink
//! ```
//! Channels hold one member each, so memory is bounded by the number of threads and not by the layer. The order of the members
//! is kept by taking them from the packers in the order in which they were handed out.
//!
//! Members are cut at the borders of entries where a hash of the path, weighed with the entry's size, says so: about every
//! 1 MiB, and after an edit the cuts fall where they fell before, so that later members keep their bytes. A file of 1 MiB or
//! more has members of its own, cut inside every 1 MiB.

use std::{
    io::{Read, Write},
    num::NonZeroUsize,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use super::{
    Change, Content, LayerError,
    change::{OPAQUE_NAME, WHITEOUT_PREFIX, canonical},
    compress::{Compression, Packer},
    decode::record,
    tar::{self, Header},
    toc::{FileContent, Member, Toc, TocEntry, TocItem},
};
use crate::{
    oci::{Descriptor, DiffId, Digester},
    tree::{Kind, Metadata},
};

/// A member shorter than this is not cut between small files.
const LEAST: usize = 256 << 10;
/// Mean number of bytes after [`LEAST`] until a cut.
const MEAN: u64 = 768 << 10;
/// A member this long is cut at the next border.
const MOST: usize = 2 << 20;
/// A file of this size has its own members, of this size.
const PIECE: usize = 1 << 20;

/// Extended attributes that a layer keeps.
const KEPT_XATTR: &[u8] = b"security.capability";

/// How to write a layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// How the blob is compressed.
    pub compression: Compression,
    /// The latest modification time that the layer may hold, in seconds since 1970 (`rewrite-timestamp`).
    pub rewrite_timestamp: Option<i64>,
    /// How many threads compress; by default as many as there are processors, at most eight. Does not change the bytes.
    pub threads: Option<NonZeroUsize>,
}

/// A layer that was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Media type, digest and size of the blob.
    pub descriptor: Descriptor,
    /// What is in it.
    pub toc: Toc,
}

/// Writes the layer that makes these changes to `sink`. The bytes depend on the changes as a set, the contents and
/// the options alone. No changes give the empty layer, a tar of 1024 zero bytes.
///
/// After an error `sink` holds a part of a blob that is worth nothing.
pub fn write_layer(
    changes: Vec<Change>,
    mut sink: impl Write,
    options: &WriteOptions,
) -> Result<Written, LayerError> {
    let changes = canonical(changes)?;
    let packers = (0..threads(options))
        .map(|_| Packer::new(options.compression))
        .collect::<Result<Vec<_>, _>>()?;
    thread::scope(|scope| {
        let (queues, packed): (Vec<_>, Vec<_>) = packers
            .into_iter()
            .map(|packer| {
                let (queue, raw) = sync_channel(1);
                let (done, packed) = sync_channel(1);
                scope.spawn(move || pack_all(packer, &raw, &done));
                (queue, packed)
            })
            .unzip();
        let limit = options.rewrite_timestamp;
        let producer = scope.spawn(move || Producer::new(queues, limit).run(changes));
        let collected = collect(packed, &mut sink);
        let produced = producer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where the sink fails, the producer only sees that nobody listens any more.
        let blob = collected?;
        let (entries, tar_size) = produced?;
        let diff_id = DiffId(blob.tar.finish());
        let media_type = options.compression.media_type();
        Ok(Written {
            diff_id,
            descriptor: Descriptor::new(media_type, blob.digest.finish(), blob.size),
            toc: Toc {
                diff_id,
                tar_size,
                blob_size: blob.size,
                encoding: options.compression.encoding(),
                members: blob.members,
                entries,
            },
        })
    })
}

/// How many threads compress.
fn threads(options: &WriteOptions) -> usize {
    if options.compression == Compression::Uncompressed {
        return 1;
    }
    options.threads.map_or_else(
        || thread::available_parallelism().map_or(1, |n| n.get().min(8)),
        NonZeroUsize::get,
    )
}

/// A member on its way: the tar's bytes, and the blob's where they are others.
type Packed = std::io::Result<(Vec<u8>, Option<Vec<u8>>)>;

/// One packer thread: until the producer or the caller is gone.
fn pack_all(mut packer: Packer, raw: &Receiver<Vec<u8>>, done: &SyncSender<Packed>) {
    for raw in raw {
        let packed = packer.pack(&raw).map(|packed| (raw, packed));
        if done.send(packed).is_err() {
            return;
        }
    }
}

/// What the caller's thread has of the blob.
struct Blob {
    tar: Digester,
    digest: Digester,
    size: u64,
    members: Vec<Member>,
}

/// Takes members in order, hashes both sides, writes the blob.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the packers stop when the receivers are dropped"
)]
fn collect(packed: Vec<Receiver<Packed>>, sink: &mut impl Write) -> Result<Blob, LayerError> {
    let mut blob = Blob {
        tar: Digester::new(),
        digest: Digester::new(),
        size: 0,
        members: Vec::new(),
    };
    let mut tar_offset = 0;
    for queue in packed.iter().cycle() {
        let Ok(member) = queue.recv() else { break };
        let (raw, packed) = member.map_err(|source| LayerError::Sink { source })?;
        // Bytes that stand for themselves can be read from anywhere.
        if packed.is_some() || blob.members.is_empty() {
            let member = Member {
                tar_offset,
                blob_offset: blob.size,
            };
            record(&mut blob.members, member);
        }
        tar_offset += raw.len() as u64;
        blob.tar.update(&raw);
        let bytes = packed.as_deref().unwrap_or(&raw);
        blob.digest.update(bytes);
        blob.size += bytes.len() as u64;
        sink.write_all(bytes)
            .map_err(|source| LayerError::Sink { source })?;
    }
    sink.flush().map_err(|source| LayerError::Sink { source })?;
    Ok(blob)
}

/// Lays out the tar and cuts it into members.
struct Producer {
    queues: Vec<SyncSender<Vec<u8>>>,
    next: usize,
    member: Vec<u8>,
    /// Bytes of the tar before the present member.
    before: u64,
    mtime_limit: Option<i64>,
    entries: Vec<TocEntry>,
    /// Nobody takes members any more; the caller's thread knows why.
    stopped: bool,
}

impl Producer {
    fn new(queues: Vec<SyncSender<Vec<u8>>>, mtime_limit: Option<i64>) -> Self {
        Self {
            queues,
            next: 0,
            member: Vec::new(),
            before: 0,
            mtime_limit,
            entries: Vec::new(),
            stopped: false,
        }
    }

    fn run(mut self, changes: Vec<Change>) -> Result<(Vec<TocEntry>, u64), LayerError> {
        // Links repeat the header of what they link to, which comes earlier.
        let mut linked = std::collections::HashMap::new();
        for change in &changes {
            if let Change::Link { target, .. } = change {
                linked.insert(target.clone(), None);
            }
        }
        for change in changes {
            if self.stopped {
                break;
            }
            match change {
                Change::Put {
                    path,
                    metadata,
                    content,
                } => {
                    let metadata = self.reduce(&path, metadata)?;
                    if let Some(of_target) = linked.get_mut(&path) {
                        *of_target = Some(metadata.clone());
                    }
                    self.put(&path, metadata, &content)?;
                }
                Change::Link { path, target } => {
                    let metadata = linked.get(&target).cloned().flatten();
                    let metadata = metadata.expect("the canonical order puts a target first");
                    let mut header = header_of(&metadata);
                    (header.name, header.link) = (bytes(&path), bytes(&target));
                    (header.type_flag, header.size) = (b'1', 0);
                    self.entry(&header, &path, |_| Ok(()))?;
                    self.entries.push(TocEntry {
                        path,
                        item: TocItem::Link { target },
                    });
                }
                Change::Remove { path } => {
                    let name = path.file_name().unwrap_or_default().as_bytes();
                    let marker = [WHITEOUT_PREFIX, name].concat();
                    self.whiteout(path.parent().unwrap_or(Path::new("")), &marker)?;
                    self.entries.push(TocEntry {
                        path,
                        item: TocItem::Remove,
                    });
                }
                Change::Opaque { path } => {
                    self.whiteout(&path, OPAQUE_NAME)?;
                    self.entries.push(TocEntry {
                        path,
                        item: TocItem::Opaque,
                    });
                }
            }
        }
        self.member.extend_from_slice(&tar::END);
        self.cut();
        Ok((self.entries, self.before))
    }

    /// The metadata as the layer keeps it: whole seconds, no later than asked, file capabilities alone.
    fn reduce(&self, path: &Path, mut metadata: Metadata) -> Result<Metadata, LayerError> {
        metadata.mtime.nanos = 0;
        if let Some(limit) = self.mtime_limit {
            metadata.mtime.seconds = metadata.mtime.seconds.min(limit);
        }
        metadata.mode &= 0o7777;
        metadata
            .xattrs
            .retain(|name, _| name.as_encoded_bytes() == KEPT_XATTR);
        if let Kind::Char { major, minor } | Kind::Block { major, minor } = metadata.kind
            && !(tar::device_fits(major) && tar::device_fits(minor))
        {
            let path = path.to_owned();
            return Err(LayerError::Device { path, major, minor });
        }
        Ok(metadata)
    }

    fn put(
        &mut self,
        path: &Path,
        metadata: Metadata,
        content: &Content,
    ) -> Result<(), LayerError> {
        let mut name = bytes(path).to_vec();
        if metadata.is_dir() {
            name.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
        }
        let mut header = header_of(&metadata);
        header.name = &name;
        let size = header.size;
        let is_file = matches!(metadata.kind, Kind::File { .. });
        let digest = self.entry(&header, path, |producer| {
            if !is_file {
                return Ok(None);
            }
            let offset = producer.before + producer.member.len() as u64;
            let digest = producer.content(path, content, size)?;
            Ok(Some(FileContent {
                digest,
                offset,
                sparse: None,
            }))
        })?;
        self.entries.push(TocEntry {
            path: path.to_owned(),
            item: TocItem::Node {
                metadata,
                content: digest,
            },
        });
        Ok(())
    }

    /// An empty file with neither rights nor time.
    fn whiteout(&mut self, dir: &Path, marker: &[u8]) -> Result<(), LayerError> {
        let path = dir.join(std::ffi::OsStr::from_bytes(marker));
        let header = Header {
            name: bytes(&path),
            type_flag: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            link: b"",
            device: (0, 0),
            xattrs: Vec::new(),
        };
        self.entry(&header, &path, |_| Ok(()))
    }

    /// Writes one entry and cuts where a cut is due before, in or after it.
    fn entry<T>(
        &mut self,
        header: &Header<'_>,
        path: &Path,
        content: impl FnOnce(&mut Self) -> Result<T, LayerError>,
    ) -> Result<T, LayerError> {
        if header.size >= PIECE as u64 {
            self.cut();
        }
        header.write(&mut self.member);
        let result = content(self)?;
        tar::pad(&mut self.member, header.size);
        let length = header.size + tar::BLOCK as u64;
        let due = self.member.len() >= LEAST && falls_after(path, length);
        if header.size >= PIECE as u64 || due || self.member.len() >= MOST {
            self.cut();
        }
        Ok(result)
    }

    /// Copies a file into the tar.
    fn content(
        &mut self,
        path: &Path,
        content: &Content,
        size: u64,
    ) -> Result<crate::oci::Digest, LayerError> {
        let read_error = |source| LayerError::Read {
            path: path.to_owned(),
            source,
        };
        let mut digester = Digester::new();
        let mut reader = content.open().map_err(read_error)?;
        let mut left = size;
        while left > 0 && !self.stopped {
            if self.member.len() >= PIECE && size >= PIECE as u64 {
                self.cut();
            }
            let start = self.member.len();
            let room = if size >= PIECE as u64 {
                (PIECE - start) as u64
            } else {
                left
            };
            let wanted = room.min(left);
            let length = (&mut reader)
                .take(wanted)
                .read_to_end(&mut self.member)
                .map_err(read_error)? as u64;
            digester.update(&self.member[start..]);
            left -= length;
            if length < wanted {
                return Err(LayerError::SizeChanged {
                    path: path.to_owned(),
                    expected: size,
                    found: format!("{} found", size - left),
                });
            }
        }
        let mut probe = [0];
        loop {
            if self.stopped {
                return Ok(digester.finish());
            }
            match reader.read(&mut probe) {
                Ok(0) => return Ok(digester.finish()),
                Ok(_) => {
                    return Err(LayerError::SizeChanged {
                        path: path.to_owned(),
                        expected: size,
                        found: "more found".to_owned(),
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
    }

    /// Hands the present member to the next packer.
    fn cut(&mut self) {
        if self.member.is_empty() {
            return;
        }
        let member = std::mem::take(&mut self.member);
        self.before += member.len() as u64;
        let queue = &self.queues[self.next % self.queues.len()];
        self.next += 1;
        self.stopped |= queue.send(member).is_err();
    }
}

/// Whether a member may end after this entry: with a chance of `length / MEAN`, by the path's hash.
fn falls_after(path: &Path, length: u64) -> bool {
    // FNV-1a, then a finaliser: the upper bits of FNV alone hardly differ between short names.
    let mut hash = bytes(path)
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash % MEAN < length
}

/// A header with all that metadata says; the name is still missing.
fn header_of(metadata: &Metadata) -> Header<'_> {
    let (type_flag, size, link, device): (_, _, &[u8], _) = match &metadata.kind {
        Kind::File { size } => (b'0', *size, b"", (0, 0)),
        Kind::Dir => (b'5', 0, b"", (0, 0)),
        Kind::Symlink { target } => (b'2', 0, bytes(target), (0, 0)),
        Kind::Char { major, minor } => (b'3', 0, b"", (*major, *minor)),
        Kind::Block { major, minor } => (b'4', 0, b"", (*major, *minor)),
        // Sockets were left out when the changes were put in order.
        Kind::Fifo | Kind::Socket => (b'6', 0, b"", (0, 0)),
    };
    Header {
        name: b"",
        type_flag,
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        size,
        mtime: metadata.mtime.seconds,
        link,
        device,
        xattrs: metadata
            .xattrs
            .iter()
            .map(|(name, value)| (name.as_encoded_bytes(), &**value))
            .collect(),
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests;
