//! Looks for the beginning of a block in the middle of a stream.
//!
//! Nothing marks it, but of a thousand positions about one has the header of a block with codes of its own that could be one, and of those
//! nearly all that are none are found out while their codes are read. The few others (among them blocks of compressed files that are
//! stored in the stream) decode to nonsense or to an end; in any case nobody else's block ends where they begin.

use super::{Piece, blocks::Blocks};

/// How much of a code four lengths take up, of 128; by the bits of the lengths.
pub(super) struct Finder {
    shares: Box<[u8; 1 << 12]>,
    probe: Blocks,
}

impl Finder {
    pub(super) fn new() -> Self {
        let mut shares = Box::new([0; 1 << 12]);
        for (lengths, share) in shares.iter_mut().enumerate() {
            let sum: usize = (0..4)
                .map(|i| lengths >> (3 * i) & 7)
                .map(|length| if length == 0 { 0 } else { 128 >> length })
                .sum();
            *share = sum.min(255) as u8;
        }
        Self {
            shares,
            probe: Blocks::new(),
        }
    }

    /// The first bit from `from` on, before `to`, at which a block that is not the last one seems to begin.
    pub(super) fn next(&mut self, piece: &Piece, from: usize, to: usize) -> Option<usize> {
        let mut skip = from % 8;
        for byte in from / 8..to.div_ceil(8) {
            let word: [u8; 16] = *piece.bytes[byte..]
                .first_chunk()
                .expect("pieces are padded");
            let word = u128::from_le_bytes(word);
            for shift in skip..8 {
                let header = (word >> shift) as u64;
                if header & 7 == 0b100
                    && header >> 3 & 31 < 30
                    && header >> 8 & 31 < 30
                    && self.is_complete(header, (word >> (shift + 17)) as u64)
                {
                    let bit = byte * 8 + shift;
                    self.probe.seek(piece, bit);
                    if self.probe.begin(piece).is_ok() {
                        return Some(bit);
                    }
                }
            }
            skip = 0;
        }
        None
    }

    /// Whether the code that lengths are written in is one.
    #[inline(always)]
    fn is_complete(&self, header: u64, lengths: u64) -> bool {
        let n = (header >> 13 & 15) + 4;
        let lengths = lengths & ((1 << (3 * n)) - 1);
        let share = |i: u64| u32::from(self.shares[(lengths >> (12 * i) & 0xfff) as usize]);
        share(0) + share(1) + share(2) + share(3) + share(4) == 128
    }
}
