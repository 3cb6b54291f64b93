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

use std::{collections::HashMap, io, os::unix::fs::FileExt as _, sync::Arc};

use libdeflater::crc32;

use super::{
    blob::LayerBlob,
    compress::Compression,
    toc::{Checkpoint, Member},
};
use crate::oci::{Digest, Digester};

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
    pub(super) fn find(&self, composition: &Digest) -> Option<Vec<u8>> {
        self.bytes(*self.members.get(composition)?)
    }

    /// The bytes of a member, unless they are damaged.
    fn bytes(&self, index: usize) -> Option<Vec<u8>> {
        let toc = self.blob.toc();
        let member = toc.members.get(index)?;
        let next = toc.members.get(index + 1);
        let end = next.map_or(toc.blob_size, |next| next.blob_offset);
        let length = end.checked_sub(member.blob_offset)?;
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let file = self.blob.file().ok()?;
        file.read_exact_at(&mut bytes, member.blob_offset).ok()?;
        (crc32(&bytes) == member.made?.checksum).then_some(bytes)
    }

    /// Whether the blob's member at `index` is there and consists of this.
    pub(super) fn has_at(&self, index: usize, composition: &Digest) -> bool {
        let member = self.blob.toc().members.get(index);
        member
            .and_then(|member| member.made)
            .is_some_and(|made| made.composition == *composition)
            && self.bytes(index).is_some()
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

    /// Copies the first bytes of the blob.
    pub(super) fn copy_start(&self, length: u64, sink: &mut impl io::Write) -> io::Result<()> {
        let file = self.blob.file()?;
        let mut buffer = vec![0; 256 << 10];
        let mut position = 0;
        while position < length {
            let wanted = usize::try_from(length - position)
                .map_or(buffer.len(), |left| left.min(buffer.len()));
            file.read_exact_at(&mut buffer[..wanted], position)?;
            sink.write_all(&buffer[..wanted])?;
            position += wanted as u64;
        }
        Ok(())
    }
}
