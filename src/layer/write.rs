//! Writing a layer: changes in, blob out, one pass over every byte.
//!
//! ```text
//! layout ─members→ packers (n threads): read, compress ─in the order of the layout→ caller: diffID, digest, sink
//! ```
//! A packer takes the next member when it is done with one. With each member goes a channel for the result, and the caller takes the
//! results in the order in which the layout has made these. It makes no more than two for each packer ahead, so memory is bounded
//! by the number of threads and not by the layer.
//!
//! Where members are cut is decided in `layout.rs`.

mod layout;
mod member;

use std::{
    fs::File,
    io::{self, Write},
    num::NonZeroUsize,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use libdeflater::crc32;

use self::{
    layout::{LEAST, LaidOut, Layout},
    member::Parts,
};
use super::{
    Change, Changes, LayerBlob, LayerError,
    buffer::{Buffer, Buffers},
    change::Canonical,
    compress::{Compression, Packer},
    decode::record,
    reuse::Earlier,
    tar,
    toc::{Checkpoint, Made, Member, PackedToc, Toc},
};
use crate::{
    oci::{Descriptor, DiffId, Digest, Digester},
    tree::Kind,
};

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

/// Where the bytes of a layer's blob go.
pub trait BlobSink: Write {
    /// Takes over the first `length` bytes of an earlier blob, before any others are written.
    fn start_as(&mut self, earlier: &File, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        let mut position = 0;
        while position < length {
            let wanted = usize::try_from(length - position)
                .map_or(buffer.len(), |left| left.min(buffer.len()));
            earlier.read_exact_at(&mut buffer[..wanted], position)?;
            self.write_all(&buffer[..wanted])?;
            position += wanted as u64;
        }
        Ok(())
    }
}

impl BlobSink for Vec<u8> {}
impl BlobSink for io::Sink {}

impl<S: BlobSink> BlobSink for &mut S {
    fn start_as(&mut self, earlier: &File, length: u64) -> io::Result<()> {
        (**self).start_as(earlier, length)
    }
}

/// Any writer as a sink.
struct Plain<W>(W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> BlobSink for Plain<W> {}

/// A layer that was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Media type, digest and size of the blob.
    pub descriptor: Descriptor,
    /// What is in it.
    pub toc: PackedToc,
    /// How many bytes of the blob come from an earlier one.
    pub reused: u64,
}

/// Writes the layer that makes these changes to `sink`. The bytes depend on the changes as a set, the contents and
/// the options alone. No changes give the empty layer, a tar of 1024 zero bytes.
///
/// After an error `sink` holds a part of a blob that is worth nothing.
pub fn write_layer(
    changes: impl Into<Changes>,
    sink: impl Write,
    options: &WriteOptions,
) -> Result<Written, LayerError> {
    write(changes.into(), Plain(sink), options, None)
}

/// As [`write_layer`], with the very same result, but members that `earlier` has are taken from there instead of being
/// compressed again, and not even read as long as all before them are its members, too: it is the layer that the same
/// step made last time.
pub fn write_layer_after(
    changes: impl Into<Changes>,
    sink: impl BlobSink,
    options: &WriteOptions,
    earlier: &Arc<LayerBlob>,
) -> Result<Written, LayerError> {
    let earlier = Earlier::new(earlier, options.compression);
    write(changes.into(), sink, options, earlier.as_ref())
}

fn write(
    changes: Changes,
    mut sink: impl BlobSink,
    options: &WriteOptions,
    earlier: Option<&Earlier>,
) -> Result<Written, LayerError> {
    let mut changes = Canonical::of(changes)?;
    if are_small(&mut changes)? {
        return write_small(changes, &mut sink, options, earlier);
    }
    let packers = (0..threads(options))
        .map(|_| Packer::new(options.compression))
        .collect::<Result<Vec<_>, _>>()?;
    let buffers = &Buffers::default();
    let (queue, jobs) = sync_channel(packers.len());
    let (promises, promised) = sync_channel(2 * packers.len());
    thread::scope(|scope| {
        let jobs = Arc::new(Mutex::new(jobs));
        for packer in packers {
            let jobs = Arc::clone(&jobs);
            scope.spawn(move || pack_all(packer, (earlier, buffers), &jobs));
        }
        // The layout has to know when there is no packer any more.
        drop(jobs);
        let put = move |job| {
            let (done, result) = sync_channel(1);
            promises.send(result).is_ok() && queue.send((job, done)).is_ok()
        };
        let limit = options.rewrite_timestamp;
        let (start, started) = sync_channel(1);
        let layout =
            scope.spawn(move || Layout::new(put, start, limit, earlier, buffers).run(changes));
        let results = promised.iter();
        let members = results.map_while(|result: Receiver<Packed>| result.recv().ok());
        let collected = collect(members, &started, (earlier, buffers), &mut sink);
        // One that waits for somebody to listen has to know that nobody does.
        drop((promised, started));
        let laid_out = layout
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where the sink fails, the layout only sees that nobody listens any more.
        let blob = collected?;
        Ok(put_together(blob, laid_out?, options))
    })
}

/// A layer with less to pack than this has nothing for a second thread to do.
const SMALL: u64 = LEAST;

/// Reads changes as far as they are small; whether that were all.
fn are_small(changes: &mut Canonical) -> Result<bool, LayerError> {
    let size = |change: &Change| match change {
        Change::Put { metadata, .. } => match metadata.kind {
            Kind::File { size } => size,
            _ => 0,
        },
        _ => 0,
    };
    let block = tar::BLOCK as u64;
    let length = |change: &Change| size(change).saturating_add(3 * block);
    let mut sum = 0_u64;
    changes.read_ahead(|change| {
        sum = sum.saturating_add(length(change));
        sum < SMALL
    })
}

/// [`write`] on the calling thread alone.
fn write_small(
    changes: Canonical,
    sink: &mut impl BlobSink,
    options: &WriteOptions,
    earlier: Option<&Earlier>,
) -> Result<Written, LayerError> {
    let mut packer = Packer::new(options.compression)?;
    let mut jobs = Vec::new();
    let (start, started) = sync_channel(1);
    let buffers = &Buffers::default();
    let limit = options.rewrite_timestamp;
    let put = |job| {
        jobs.push(job);
        true
    };
    let laid_out = Layout::new(put, start, limit, earlier, buffers).run(changes)?;
    let members = jobs
        .into_iter()
        .map(|job| pack(&mut packer, (earlier, buffers), job));
    let blob = collect(members, &started, (earlier, buffers), sink)?;
    Ok(put_together(blob, laid_out, options))
}

fn put_together(blob: Blob, laid_out: LaidOut, options: &WriteOptions) -> Written {
    let LaidOut {
        mut entries,
        unknown,
        tar_size,
    } = laid_out;
    for (entry, digest) in blob.digests {
        let at = unknown.binary_search_by_key(&entry, |(entry, _)| *entry);
        let at = at.expect("only digests that were not known are told");
        entries.set_digest(unknown[at].1, &digest);
    }
    let diff_id = DiffId(blob.tar.finish());
    let media_type = options.compression.media_type();
    let head = Toc {
        diff_id,
        tar_size,
        blob_size: blob.size,
        encoding: options.compression.encoding(),
        recipe: Some(options.compression),
        members: blob.members,
        checkpoints: blob.checkpoints,
        entries: Vec::new(),
    };
    Written {
        diff_id,
        descriptor: Descriptor::new(media_type, blob.digest.finish(), blob.size),
        reused: blob.reused,
        toc: PackedToc::new(head, entries),
    }
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

/// A member that is to be packed.
#[derive(Debug)]
struct Job {
    parts: Parts,
    /// What it consists of, where that is known yet.
    composition: Option<Digest>,
}

/// Where the blob begins to be made of jobs.
#[derive(Debug, Default)]
struct Start {
    /// All before this is as in the earlier blob.
    checkpoint: Option<Checkpoint>,
}

/// A member on its way.
struct OnItsWay {
    /// The tar's bytes.
    raw: Buffer,
    /// The blob's, where they are others.
    packed: Option<Buffer>,
    /// What it consists of, where that is known.
    composition: Option<Digest>,
    /// Digests of files that were not known, with the entries they belong to.
    digests: Vec<(u64, Digest)>,
    /// Whether an earlier blob had them.
    is_reused: bool,
}

/// What a packer makes of a member.
type Packed = Result<OnItsWay, LayerError>;
/// Members to pack, each with where the result goes.
type Jobs = Mutex<Receiver<(Job, SyncSender<Packed>)>>;

/// One packer thread: until the layout or the caller is gone.
fn pack_all(mut packer: Packer, from: (Option<&Earlier>, &Buffers), jobs: &Jobs) {
    let next = || {
        let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.recv().ok()
    };
    while let Some((job, done)) = next() {
        if done.send(pack(&mut packer, from, job)).is_err() {
            return;
        }
    }
}

fn pack(packer: &mut Packer, (earlier, buffers): (Option<&Earlier>, &Buffers), job: Job) -> Packed {
    let filled = job.parts.fill(job.composition, buffers)?;
    let found = earlier
        .zip(filled.composition)
        .and_then(|(earlier, composition)| earlier.find(&composition, buffers));
    let is_reused = found.is_some();
    let packed = match found {
        Some(found) => Some(found),
        None => packer
            .pack(&filled.raw, buffers)
            .map_err(|source| LayerError::Sink { source })?,
    };
    Ok(OnItsWay {
        raw: filled.raw,
        packed,
        composition: filled.composition,
        digests: filled.digests,
        is_reused,
    })
}

/// What the caller's thread has of the blob.
struct Blob {
    tar: Digester,
    digest: Digester,
    tar_size: u64,
    size: u64,
    reused: u64,
    members: Vec<Member>,
    checkpoints: Vec<Checkpoint>,
    digests: Vec<(u64, Digest)>,
}

/// How many bytes of the tar lie between two checkpoints, at least.
const CHECKPOINT_SPACING: u64 = 8 << 20;

impl Blob {
    /// Nothing, or all before a checkpoint of an earlier blob.
    fn begin(
        start: &Start,
        earlier: Option<&Earlier>,
        sink: &mut impl BlobSink,
    ) -> Result<Self, LayerError> {
        let mut blob = Self {
            tar: Digester::new(),
            digest: Digester::new(),
            tar_size: 0,
            size: 0,
            reused: 0,
            members: Vec::new(),
            checkpoints: Vec::new(),
            digests: Vec::new(),
        };
        if let (Some(checkpoint), Some(earlier)) = (&start.checkpoint, earlier) {
            let next = earlier.member(checkpoint.member);
            let file = earlier.file();
            file.and_then(|file| sink.start_as(file, next.blob_offset))
                .map_err(|source| LayerError::Sink { source })?;
            let resumed = |state| Digester::resume(state).expect("checkpoints are usable");
            (blob.tar, blob.digest) = (resumed(&checkpoint.tar), resumed(&checkpoint.blob));
            (blob.tar_size, blob.size) = (next.tar_offset, next.blob_offset);
            blob.reused = blob.size;
            (blob.members, blob.checkpoints) = earlier.before(checkpoint);
        }
        Ok(blob)
    }

    /// Notes the member that begins here.
    fn note(&mut self, made: Option<Made>) {
        let member = Member {
            tar_offset: self.tar_size,
            blob_offset: self.size,
            made,
        };
        if !record(&mut self.members, member) {
            // A row that stands for several members is none that could be taken over.
            if let Some(last) = self.members.last_mut() {
                last.made = None;
            }
            return;
        }
        let index = self.members.len() - 1;
        let last = self.checkpoints.last();
        let since = last.map_or(0, |last| self.members[last.member].tar_offset);
        let is_known = last.is_some_and(|last| last.member == index);
        if !is_known && self.tar_size >= since + CHECKPOINT_SPACING {
            self.checkpoints.push(Checkpoint {
                member: index,
                tar: self.tar.state(),
                blob: self.digest.state(),
            });
        }
    }
}

/// Takes members in order, hashes both sides, writes the blob.
fn collect(
    members: impl Iterator<Item = Result<OnItsWay, LayerError>>,
    start: &Receiver<Start>,
    (earlier, buffers): (Option<&Earlier>, &Buffers),
    sink: &mut impl BlobSink,
) -> Result<Blob, LayerError> {
    let start = start.recv().unwrap_or_default();
    let mut blob = Blob::begin(&start, earlier, sink)?;
    for member in members {
        let member = member?;
        let bytes = member.packed.as_deref().unwrap_or(&member.raw);
        // Bytes that stand for themselves can be read from anywhere.
        if member.packed.is_some() {
            blob.note(member.composition.map(|composition| Made {
                composition,
                checksum: crc32(bytes),
            }));
        } else if blob.members.is_empty() {
            blob.note(None);
        }
        blob.digests.extend(member.digests);
        blob.tar.update(&member.raw);
        blob.tar_size += member.raw.len() as u64;
        blob.digest.update(bytes);
        blob.size += bytes.len() as u64;
        if member.is_reused {
            blob.reused += bytes.len() as u64;
        }
        sink.write_all(bytes)
            .map_err(|source| LayerError::Sink { source })?;
        buffers.put(member.raw);
        if let Some(packed) = member.packed {
            buffers.put(packed);
        }
    }
    sink.flush().map_err(|source| LayerError::Sink { source })?;
    Ok(blob)
}

#[cfg(test)]
mod tests;
