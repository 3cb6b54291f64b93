//! Members of an earlier blob that need not be compressed again.
//!
//! A gzip member ends with checksum and length of what it holds. A member of the earlier blob for which both fit is decompressed and
//! compared, several times faster than compressing; only then are its bytes taken. So that the blob is the same with and
//! without an earlier one, that has to have been written with the same settings by the same code, see [`Toc::recipe`](super::Toc::recipe).

use std::{collections::HashMap, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use libdeflater::{Decompressor, crc32};

use super::{blob::LayerBlob, compress::Compression};

/// An earlier blob and where its members are, by checksum and length of what they hold.
pub(super) struct Earlier {
    blob: Arc<LayerBlob>,
    members: HashMap<(u32, u32), Range<u64>>,
}

impl Earlier {
    /// Looks through an earlier blob; `None` when nothing of it can be taken over, whatever the reason.
    pub(super) fn new(blob: &Arc<LayerBlob>, compression: Compression) -> Option<Self> {
        let toc = blob.toc();
        if toc.recipe != Some(compression) || !matches!(compression, Compression::Gzip { .. }) {
            return None;
        }
        let file = blob.file().ok()?;
        let mut members = HashMap::new();
        for (index, member) in toc.members.iter().enumerate() {
            let next = toc.members.get(index + 1);
            let end = next.map_or(toc.blob_size, |next| next.blob_offset);
            let mut trailer = [0; 8];
            file.read_exact_at(&mut trailer, end.checked_sub(8)?).ok()?;
            let [a, b, c, d, length @ ..] = trailer;
            let (crc, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(length));
            // A row of the table may stand for several short members.
            if u64::from(length) == blob.tar_span(index) {
                members.insert((crc, length), member.blob_offset..end);
            }
        }
        Some(Self {
            blob: Arc::clone(blob),
            members,
        })
    }

    /// The member that holds exactly these bytes, if the earlier blob has one.
    pub(super) fn find(&self, raw: &[u8], inflater: &mut Decompressor) -> Option<Vec<u8>> {
        let length = u32::try_from(raw.len()).ok()?;
        let range = self.members.get(&(crc32(raw), length))?;
        let mut packed = vec![0; usize::try_from(range.end - range.start).ok()?];
        let file = self.blob.file().ok()?;
        file.read_exact_at(&mut packed, range.start).ok()?;
        let mut found = vec![0; raw.len()];
        let length = inflater.gzip_decompress(&packed, &mut found).ok()?;
        (length == raw.len() && found == raw).then_some(packed)
    }
}
