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

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use super::{Checkpoint, Encoding, Extent, FileContent, Made, Member, Toc, TocEntry, TocItem};
use crate::{
    layer::Compression,
    oci::{DiffId, Digest, DigestState, sha256},
    tree::{Kind, Metadata, Timestamp},
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

/// What is still unread. Everything gives `None` where the bytes are not what was written.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// What is between the first line and the digest, which has to be right.
    fn open(bytes: &'a [u8]) -> Result<Self, TocFormError> {
        if !bytes.starts_with(MAGIC) {
            return Err(TocFormError::Version);
        }
        let damaged = TocFormError::Damaged;
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or(damaged)?;
        if sha256(body).as_bytes() != digest {
            return Err(damaged);
        }
        body.get(MAGIC.len()..).map(Self).ok_or(damaged)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    /// A number of things of at least one byte each, so never more than there are bytes.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?)
            .ok()
            .filter(|&count| count <= self.0.len())
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        self.take(length)
    }

    fn path(&mut self) -> Option<PathBuf> {
        Some(OsString::from_vec(self.text()?.to_vec()).into())
    }

    fn digest(&mut self) -> Option<Digest> {
        Some(Digest::from_bytes(self.take(32)?.try_into().ok()?))
    }

    /// What stands before the members.
    fn preamble(&mut self) -> Option<Toc> {
        let diff_id = DiffId(self.digest()?);
        let (tar_size, blob_size) = (self.number()?, self.number()?);
        let encoding = match self.byte()? {
            0 => Encoding::Plain,
            1 => Encoding::Gzip,
            2 => Encoding::Zstd,
            3 => Encoding::Bzip2,
            4 => Encoding::Xz,
            _ => return None,
        };
        let method = self.byte()?;
        let level = i32::try_from(self.number()?).ok()?;
        let is_ours = self.number()? == CODEC;
        let recipe = match method {
            0 => None,
            1 => Some(Compression::Gzip { level }),
            2 => Some(Compression::Zstd { level }),
            3 => Some(Compression::Uncompressed),
            _ => return None,
        };
        Some(Toc {
            diff_id,
            tar_size,
            blob_size,
            encoding,
            recipe: recipe.filter(|_| is_ours),
            members: Vec::new(),
            checkpoints: Vec::new(),
            entries: Vec::new(),
        })
    }

    /// All but the entries.
    fn head(&mut self) -> Option<Toc> {
        let preamble = self.preamble()?;
        let mut members = Vec::new();
        let mut last = Member {
            tar_offset: 0,
            blob_offset: 0,
            made: None,
        };
        for _ in 0..self.count()? {
            last = Member {
                tar_offset: last.tar_offset.checked_add(self.number()?)?,
                blob_offset: last.blob_offset.checked_add(self.number()?)?,
                made: match self.byte()? {
                    0 => None,
                    1 => Some(self.made()?),
                    _ => return None,
                },
            };
            members.push(last);
        }
        if members.first()?.tar_offset != 0 {
            return None;
        }
        let mut checkpoints = Vec::new();
        for _ in 0..self.count()? {
            let member = usize::try_from(self.number()?).ok()?;
            let (tar, blob) = (self.state()?, self.state()?);
            checkpoints.push(Checkpoint { member, tar, blob });
        }
        if !checkpoints
            .iter()
            .all(|checkpoint| checkpoint.member < members.len())
        {
            return None;
        }
        Some(Toc {
            members,
            checkpoints,
            ..preamble
        })
    }

    fn entries(&mut self) -> Option<Vec<TocEntry>> {
        let count = self.count()?;
        let mut entries = Vec::with_capacity(count);
        let mut path = Vec::new();
        for _ in 0..count {
            entries.push(self.entry(&mut path)?);
        }
        Some(entries)
    }

    /// One entry; `path` is the path of the one before, and becomes its own.
    fn entry(&mut self, path: &mut Vec<u8>) -> Option<TocEntry> {
        let shared = usize::try_from(self.number()?).ok()?;
        if shared > path.len() {
            return None;
        }
        path.truncate(shared);
        path.extend_from_slice(self.text()?);
        Some(TocEntry {
            path: OsString::from_vec(path.clone()).into(),
            item: self.item()?,
        })
    }

    fn made(&mut self) -> Option<Made> {
        Some(Made {
            composition: self.digest()?,
            checksum: u32::from_le_bytes(self.take(4)?.try_into().ok()?),
        })
    }

    fn state(&mut self) -> Option<DigestState> {
        let bytes = self.take(DigestState::LEN)?.try_into().ok()?;
        Some(DigestState::from_bytes(bytes))
    }

    fn item(&mut self) -> Option<TocItem> {
        let tag = self.byte()?;
        let kind = match tag {
            0 => return Some(TocItem::Remove),
            1 => return Some(TocItem::Opaque),
            2 => {
                return Some(TocItem::Link {
                    target: self.path()?,
                });
            }
            3 | 4 | 11 => Kind::File {
                size: self.number()?,
            },
            5 => Kind::Dir,
            6 => Kind::Symlink {
                target: self.path()?,
            },
            7 => Kind::Char {
                major: self.small()?,
                minor: self.small()?,
            },
            8 => Kind::Block {
                major: self.small()?,
                minor: self.small()?,
            },
            9 => Kind::Fifo,
            10 => Kind::Socket,
            _ => return None,
        };
        let content = if matches!(tag, 3 | 11) {
            let digest = match tag {
                3 => Some(self.digest()?),
                _ => None,
            };
            let offset = self.number()?;
            let sparse = match self.count()? {
                0 => None,
                runs => {
                    let mut map = Vec::with_capacity(runs - 1);
                    for _ in 1..runs {
                        map.push(Extent {
                            offset: self.number()?,
                            length: self.number()?,
                        });
                    }
                    Some(map)
                }
            };
            Some(FileContent {
                digest,
                offset,
                sparse,
            })
        } else {
            None
        };
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let zigzag = self.number()?;
        let seconds = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
        let nanos = self.small()?;
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.count()? {
            let name = OsString::from_vec(self.text()?.to_vec());
            xattrs.insert(name, self.text()?.to_vec());
        }
        let metadata = Metadata {
            kind,
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanos },
            xattrs,
        };
        Some(TocItem::Node { metadata, content })
    }
}

#[cfg(test)]
mod tests;
