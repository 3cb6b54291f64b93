//! Writing a layer: changes in, blob out, one pass over every byte.
//!
//! ```text
//! producer ─members, round robin→ packers (n threads) ─in the same order→ caller: diffID, digest, sink
//! ```
//! Channels hold one member each, so memory is bounded by the number of threads and not by the layer. The order of the members
//! is kept by taking them from the packers in the order in which they were handed out.
//!
//! Where members are cut is decided in `layout.rs`.

mod layout;

use std::{
    io::Write,
    num::NonZeroUsize,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use libdeflater::Decompressor;

use self::layout::Layout;
use super::{
    Change, LayerBlob, LayerError,
    change::canonical,
    compress::{Compression, Packer},
    decode::record,
    reuse::Earlier,
    toc::{Member, Toc},
};
use crate::oci::{Descriptor, DiffId, Digester};

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
    /// How many bytes of the blob come from an earlier one.
    pub reused: u64,
}

/// Writes the layer that makes these changes to `sink`. The bytes depend on the changes as a set, the contents and
/// the options alone. No changes give the empty layer, a tar of 1024 zero bytes.
///
/// After an error `sink` holds a part of a blob that is worth nothing.
pub fn write_layer(
    changes: Vec<Change>,
    sink: impl Write,
    options: &WriteOptions,
) -> Result<Written, LayerError> {
    write(changes, sink, options, None)
}

/// As [`write_layer`], with the very same result, but members that `earlier` has are taken from there instead of being
/// compressed again: it is the layer that the same step made last time.
pub fn write_layer_after(
    changes: Vec<Change>,
    sink: impl Write,
    options: &WriteOptions,
    earlier: &Arc<LayerBlob>,
) -> Result<Written, LayerError> {
    let earlier = Earlier::new(earlier, options.compression);
    write(changes, sink, options, earlier.as_ref())
}

fn write(
    changes: Vec<Change>,
    mut sink: impl Write,
    options: &WriteOptions,
    earlier: Option<&Earlier>,
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
                scope.spawn(move || pack_all(packer, earlier, &raw, &done));
                (queue, packed)
            })
            .unzip();
        let limit = options.rewrite_timestamp;
        let producer = scope.spawn(move || Layout::new(queues, limit).run(changes));
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
            reused: blob.reused,
            toc: Toc {
                diff_id,
                tar_size,
                blob_size: blob.size,
                encoding: options.compression.encoding(),
                recipe: Some(options.compression),
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

/// A member on its way.
struct OnItsWay {
    /// The tar's bytes.
    raw: Vec<u8>,
    /// The blob's, where they are others.
    packed: Option<Vec<u8>>,
    /// Whether an earlier blob had them.
    is_reused: bool,
}

/// One packer thread: until the producer or the caller is gone.
fn pack_all(
    mut packer: Packer,
    earlier: Option<&Earlier>,
    raw: &Receiver<Vec<u8>>,
    done: &SyncSender<std::io::Result<OnItsWay>>,
) {
    let mut inflater = Decompressor::new();
    for raw in raw {
        let found = earlier.and_then(|earlier| earlier.find(&raw, &mut inflater));
        let is_reused = found.is_some();
        let packed = match found {
            Some(found) => Ok(Some(found)),
            None => packer.pack(&raw),
        };
        let member = packed.map(|packed| OnItsWay {
            raw,
            packed,
            is_reused,
        });
        if done.send(member).is_err() {
            return;
        }
    }
}

/// What the caller's thread has of the blob.
struct Blob {
    tar: Digester,
    digest: Digester,
    size: u64,
    reused: u64,
    members: Vec<Member>,
}

/// Takes members in order, hashes both sides, writes the blob.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the packers stop when the receivers are dropped"
)]
fn collect(
    packed: Vec<Receiver<std::io::Result<OnItsWay>>>,
    sink: &mut impl Write,
) -> Result<Blob, LayerError> {
    let mut blob = Blob {
        tar: Digester::new(),
        digest: Digester::new(),
        size: 0,
        reused: 0,
        members: Vec::new(),
    };
    let mut tar_offset = 0;
    for queue in packed.iter().cycle() {
        let Ok(member) = queue.recv() else { break };
        let OnItsWay {
            raw,
            packed,
            is_reused,
        } = member.map_err(|source| LayerError::Sink { source })?;
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
        if is_reused {
            blob.reused += bytes.len() as u64;
        }
        sink.write_all(bytes)
            .map_err(|source| LayerError::Sink { source })?;
    }
    sink.flush().map_err(|source| LayerError::Sink { source })?;
    Ok(blob)
}

#[cfg(test)]
mod tests;
