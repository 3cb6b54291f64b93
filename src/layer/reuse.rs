//! Members of an earlier blob that need not be made again.
//!
//! The table of contents of a blob that this program wrote says of each member what it consists of ([`Made`](super::Made)): the bytes of
//! headers and the digests of files. A member that would consist of the same has the same bytes, so those of the earlier blob are
//! taken. So that the blob is the same with and without an earlier one, that has to have been written with the same settings by
//! the same code, see [`Toc::recipe`](super::Toc::recipe).
//!
//! As long as members are those of the earlier blob from the first one on, files are not even read: hashing goes on from the last
//! [`Checkpoint`] before the first other member. What lies behind it has to be read for the diffID, and is not compressed.
//!
//! A blob that was damaged on disk is noticed by the checksum of each member that is taken; what is damaged is made again.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use libdeflater::crc32;

use super::{
    blob::LayerBlob,
    buffer::{Buffer, Buffers},
    compress::Compression,
    toc::{Checkpoint, Member},
};
use crate::oci::{Digest, Digester};

/// Of an earlier blob, how many bytes a new one begins with whose tar is the same for so many bytes at least; and its file. `None`
/// where nothing can be taken over.
pub fn unchanged_start(
    earlier: &LayerBlob,
    same: u64,
    compression: Compression,
) -> Option<(&File, u64)> {
    let toc = earlier.toc();
    if toc.recipe != Some(compression) {
        return None;
    }
    let mut checkpoints = toc.checkpoints.iter().rev();
    let members = checkpoints.find_map(|checkpoint| {
        let member = toc.members.get(checkpoint.member)?;
        (member.tar_offset <= same).then_some(member)
    });
    Some((earlier.file().ok()?, members?.blob_offset))
}

/// An earlier blob and where its members are, by what they consist of.
#[derive(Debug)]
pub(super) struct Earlier {
    blob: Arc<LayerBlob>,
    members: HashMap<Digest, usize>,
}

impl Earlier {
    /// Looks through an earlier blob; `None` when nothing of it can be taken over, whatever the reason.
    pub(super) fn new(blob: &Arc<LayerBlob>, compression: Compression) -> Option<Self> {
        let toc = blob.toc();
        if toc.recipe != Some(compression) || compression == Compression::Uncompressed {
            return None;
        }
        blob.file().ok()?;
        let made = toc.members.iter().enumerate();
        let members = made
            .filter_map(|(index, member)| Some((member.made?.composition, index)))
            .collect();
        Some(Self {
            blob: Arc::clone(blob),
            members,
        })
    }

    /// The bytes of the member that consists of this, if the earlier blob has one.
    pub(super) fn find(&self, composition: &Digest, buffers: &Buffers) -> Option<Buffer> {
        self.bytes(*self.members.get(composition)?, buffers)
    }

    /// The bytes of a member, unless they are damaged.
    fn bytes(&self, index: usize, buffers: &Buffers) -> Option<Buffer> {
        let toc = self.blob.toc();
        let member = toc.members.get(index)?;
        let next = toc.members.get(index + 1);
        let end = next.map_or(toc.blob_size, |next| next.blob_offset);
        let length = end.checked_sub(member.blob_offset)?;
        let file = self.blob.file().ok()?;
        let mut bytes = buffers.take(length);
        let length = usize::try_from(length).ok()?;
        let read = bytes.extend_with(length, |room| {
            file.read_exact_at(room, member.blob_offset)?;
            Ok(length)
        });
        if read.is_ok() && crc32(&bytes) == member.made?.checksum {
            return Some(bytes);
        }
        buffers.put(bytes);
        None
    }

    /// Whether the blob's member at `index` is there and consists of this.
    pub(super) fn has_at(&self, index: usize, composition: &Digest, buffers: &Buffers) -> bool {
        let member = self.blob.toc().members.get(index);
        member
            .and_then(|member| member.made)
            .is_some_and(|made| made.composition == *composition)
            && self
                .bytes(index, buffers)
                .map(|bytes| buffers.put(bytes))
                .is_some()
    }

    /// The checkpoint before the member at `index`, if there is one.
    pub(super) fn checkpoint(&self, index: usize) -> Option<&Checkpoint> {
        let checkpoints = &self.blob.toc().checkpoints;
        let found = checkpoints.binary_search_by_key(&index, |checkpoint| checkpoint.member);
        let found = checkpoints.get(found.ok()?)?;
        let is_usable = [&found.tar, &found.blob]
            .into_iter()
            .all(|state| Digester::resume(state).is_some());
        is_usable.then_some(found)
    }

    /// The members before a checkpoint, and the checkpoints up to it.
    pub(super) fn before(&self, checkpoint: &Checkpoint) -> (Vec<Member>, Vec<Checkpoint>) {
        let toc = self.blob.toc();
        let checkpoints = toc.checkpoints.iter();
        (
            toc.members[..checkpoint.member].to_vec(),
            checkpoints
                .take_while(|other| other.member <= checkpoint.member)
                .copied()
                .collect(),
        )
    }

    /// Where the member at `index` begins.
    pub(super) fn member(&self, index: usize) -> Member {
        self.blob.toc().members[index]
    }

    /// The blob.
    pub(super) fn file(&self) -> io::Result<&File> {
        self.blob.file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layer::{Change, Content, TocItem, WriteOptions, write_layer},
        oci::sha256,
        tree::{Metadata, Timestamp},
    };

    /// 24 MB that cannot be compressed, in 60 files.
    fn changes(edited: Option<usize>) -> Vec<Change> {
        let mut block = sha256(b"seed");
        let files = (0..60).map(|n| {
            let mut bytes = Vec::new();
            while bytes.len() < 400_000 {
                bytes.extend_from_slice(block.as_bytes());
                block = sha256(block.as_bytes());
            }
            if edited == Some(n) {
                bytes[0] ^= 1;
            }
            Change::Put {
                path: format!("f{n:02}").into(),
                metadata: Metadata::file(bytes.len() as u64, Timestamp::from_seconds(1)),
                content: Content::bytes(bytes),
            }
        });
        files.collect()
    }

    #[test]
    fn blobs_of_tars_that_begin_the_same_begin_the_same() {
        let options = WriteOptions::default();
        let mut blob = Vec::new();
        let written = write_layer(changes(None), &mut blob, &options).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &blob).unwrap();
        let toc = written.toc.unpack();
        let headers: Vec<u64> = toc
            .entries
            .iter()
            .map(|entry| match &entry.item {
                TocItem::Node {
                    content: Some(content),
                    ..
                } => content.offset - 512,
                _ => unreachable!("all are files"),
            })
            .collect();
        let earlier = LayerBlob::new(Arc::new(toc), file.path().to_owned(), None);
        let start =
            |same| unchanged_start(&earlier, same, options.compression).map(|(_, length)| length);
        assert_eq!(start(headers[1]), None, "there is no checkpoint so early");
        for edited in [30, 45, 59] {
            let length = start(headers[edited]).expect("there are checkpoints");
            assert!(length > 4 << 20 && length <= headers[edited] + 10_000);
            let mut other = Vec::new();
            write_layer(changes(Some(edited)), &mut other, &options).unwrap();
            let length = usize::try_from(length).unwrap();
            assert!(blob[..length] == other[..length], "{edited} edited");
        }
        let other = Compression::Gzip { level: 9 };
        assert!(unchanged_start(&earlier, u64::MAX, other).is_none());
    }
}
