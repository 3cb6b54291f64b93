//! The bytes of a table of contents, as the store keeps them.
//!
//! ```text
//! "rbuild toc 3\n"  diffID(32)  tar size  blob size  encoding(1)  recipe
//! n  member × n                             tar offset, blob offset: as differences to those before;
//!                                           0, or 1 composition(32) checksum(4)
//! n  checkpoint × n                         member, states of the tar's and the blob's digest (104 each)
//! n  entry × n                              shared prefix of the path, rest of it, item
//! sha256 of all before (32)
//! ```
//! A file's item has a digest of its content (tag 3), or none where nobody has asked for it yet (tag 11).
//! Numbers are little-endian base 128; texts have their length in front. Anything else than what was written is
//! [`TocFormError::Damaged`], and another version is [`TocFormError::Version`]: both mean that the layer has to be read again.

mod input;

use std::os::unix::ffi::OsStrExt;

use input::Input;

use super::{Encoding, Member, Toc, TocEntry, TocItem};
use crate::{
    layer::Compression,
    oci::{Digest, sha256},
    tree::Kind,
};

const MAGIC: &[u8] = b"rbuild toc 3\n";

/// Counts the versions of the code that makes members: how they are cut, what is stored, the compressor's version. The test of pinned digests
/// says when it has to go up.
const CODEC: u64 = 2;

/// Why bytes are no table of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TocFormError {
    /// They were written by another version of the program, or by something else.
    #[error("the table of contents has another version")]
    Version,
    /// They are not what was written.
    #[error("the table of contents is damaged")]
    Damaged,
}

/// Entries of a table in the bytes of the store: a third of what they take otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::layer) struct Entries {
    bytes: Vec<u8>,
    last: Vec<u8>,
    count: u64,
}

impl Entries {
    /// Adds one; says where the digest of a file's content is kept, should it be known only later.
    pub(in crate::layer) fn push(&mut self, entry: &TocEntry) -> Option<usize> {
        let path = entry.path.as_os_str().as_bytes();
        let shared = self.last.iter().zip(path);
        let shared = shared.take_while(|(a, b)| a == b).count();
        number(&mut self.bytes, shared as u64);
        text(&mut self.bytes, &path[shared..]);
        let place = item(&mut self.bytes, &entry.item);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
        self.count += 1;
        place
    }

    /// How many there are.
    pub(in crate::layer) const fn count(&self) -> u64 {
        self.count
    }

    /// Puts a digest at a place that [`Entries::push`] told.
    pub(in crate::layer) fn set_digest(&mut self, place: usize, digest: &Digest) {
        self.bytes[place..place + 32].copy_from_slice(digest.as_bytes());
    }

    fn iter(&self) -> impl Iterator<Item = TocEntry> {
        let mut input = Input(&self.bytes);
        let mut path = Vec::new();
        (0..self.count).map_while(move |_| input.entry(&mut path))
    }
}

/// The table of contents of a layer that was just written, its entries as the store keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedToc {
    head: Toc,
    entries: Entries,
}

impl PackedToc {
    /// A table with these entries instead of those of `head`.
    pub(in crate::layer) const fn new(head: Toc, entries: Entries) -> Self {
        Self { head, entries }
    }

    /// The table without its entries.
    pub const fn head(&self) -> &Toc {
        &self.head
    }

    /// How many entries there are.
    pub const fn n_entries(&self) -> u64 {
        self.entries.count
    }

    /// The entries.
    pub fn entries(&self) -> impl Iterator<Item = TocEntry> {
        self.entries.iter()
    }

    /// The table as a value.
    pub fn unpack(&self) -> Toc {
        Toc {
            entries: self.entries().collect(),
            ..self.head.clone()
        }
    }

    /// The bytes by which the store keeps the table.
    pub fn into_bytes(self) -> Vec<u8> {
        let room = self.entries.bytes.len()
            + 256 * self.head.checkpoints.len()
            + 48 * self.head.members.len()
            + 256;
        let mut out = Vec::with_capacity(room);
        print_head(&mut out, &self.head);
        finish(out, self.entries)
    }
}

/// Adds the entries and the digest.
fn finish(mut out: Vec<u8>, entries: Entries) -> Vec<u8> {
    number(&mut out, entries.count);
    out.extend_from_slice(&entries.bytes);
    drop(entries);
    let digest = sha256(&out);
    out.extend_from_slice(digest.as_bytes());
    out
}

fn print_head(out: &mut Vec<u8>, toc: &Toc) {
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(toc.diff_id.0.as_bytes());
    number(out, toc.tar_size);
    number(out, toc.blob_size);
    out.push(match toc.encoding {
        Encoding::Plain => 0,
        Encoding::Gzip => 1,
        Encoding::Zstd => 2,
        Encoding::Bzip2 => 3,
        Encoding::Xz => 4,
    });
    let (method, level) = match toc.recipe {
        None => (0, 0),
        Some(Compression::Gzip { level }) => (1, level),
        Some(Compression::Zstd { level }) => (2, level),
        Some(Compression::Uncompressed) => (3, 0),
    };
    out.push(method);
    number(out, u64::try_from(level).unwrap_or(0));
    number(out, CODEC);
    number(out, toc.members.len() as u64);
    let mut last = Member {
        tar_offset: 0,
        blob_offset: 0,
        made: None,
    };
    for &member in &toc.members {
        number(out, member.tar_offset.wrapping_sub(last.tar_offset));
        number(out, member.blob_offset.wrapping_sub(last.blob_offset));
        out.push(member.made.is_some().into());
        if let Some(made) = member.made {
            out.extend_from_slice(made.composition.as_bytes());
            out.extend_from_slice(&made.checksum.to_le_bytes());
        }
        last = member;
    }
    number(out, toc.checkpoints.len() as u64);
    for checkpoint in &toc.checkpoints {
        number(out, checkpoint.member as u64);
        out.extend_from_slice(checkpoint.tar.as_bytes());
        out.extend_from_slice(checkpoint.blob.as_bytes());
    }
}

impl Toc {
    /// The bytes by which the store keeps the table.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries = Entries::default();
        for entry in &self.entries {
            entries.push(entry);
        }
        let mut out = Vec::new();
        print_head(&mut out, self);
        finish(out, entries)
    }

    /// The table that these bytes stand for.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TocFormError> {
        let mut input = Input::open(bytes)?;
        let mut toc = input.head().ok_or(TocFormError::Damaged)?;
        toc.entries = input.entries().ok_or(TocFormError::Damaged)?;
        if input.0.is_empty() {
            Ok(toc)
        } else {
            Err(TocFormError::Damaged)
        }
    }

    /// The settings by which this version of the program wrote the blob ([`Toc::recipe`]), from the first hundred bytes of
    /// what [`Toc::to_bytes`] gave.
    pub fn recipe_in(start: &[u8]) -> Option<Compression> {
        let mut input = Input(start.strip_prefix(MAGIC)?);
        input.preamble()?.recipe
    }

    /// The table that these bytes stand for, without its entries.
    pub fn head_of(bytes: &[u8]) -> Result<Self, TocFormError> {
        Input::open(bytes)?.head().ok_or(TocFormError::Damaged)
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Says where the digest of a file's content is.
fn item(out: &mut Vec<u8>, item: &TocItem) -> Option<usize> {
    let mut place = None;
    let metadata = match item {
        TocItem::Remove => {
            out.push(0);
            return None;
        }
        TocItem::Opaque => {
            out.push(1);
            return None;
        }
        TocItem::Link { target } => {
            out.push(2);
            text(out, target.as_os_str().as_bytes());
            return None;
        }
        TocItem::Node { metadata, content } => {
            match &metadata.kind {
                Kind::File { size } => {
                    out.push(match content {
                        Some(content) if content.digest.is_some() => 3,
                        Some(_) => 11,
                        None => 4,
                    });
                    number(out, *size);
                }
                Kind::Dir => out.push(5),
                Kind::Symlink { target } => {
                    out.push(6);
                    text(out, target.as_os_str().as_bytes());
                }
                Kind::Char { major, minor } => {
                    out.push(7);
                    number(out, (*major).into());
                    number(out, (*minor).into());
                }
                Kind::Block { major, minor } => {
                    out.push(8);
                    number(out, (*major).into());
                    number(out, (*minor).into());
                }
                Kind::Fifo => out.push(9),
                Kind::Socket => out.push(10),
            }
            if let (Kind::File { .. }, Some(content)) = (&metadata.kind, content) {
                if let Some(digest) = &content.digest {
                    place = Some(out.len());
                    out.extend_from_slice(digest.as_bytes());
                }
                number(out, content.offset);
                number(
                    out,
                    content
                        .sparse
                        .as_ref()
                        .map_or(0, |map| map.len() as u64 + 1),
                );
                for run in content.sparse.iter().flatten() {
                    number(out, run.offset);
                    number(out, run.length);
                }
            }
            metadata
        }
    };
    number(out, metadata.mode.into());
    number(out, metadata.uid.into());
    number(out, metadata.gid.into());
    let seconds = metadata.mtime.seconds;
    // Zigzag: small numbers of either sign stay short.
    number(
        out,
        (seconds.cast_unsigned() << 1) ^ (seconds >> 63).cast_unsigned(),
    );
    number(out, metadata.mtime.nanos.into());
    number(out, metadata.xattrs.len() as u64);
    for (name, value) in &metadata.xattrs {
        text(out, name.as_bytes());
        text(out, value);
    }
    place
}

#[cfg(test)]
mod tests;
