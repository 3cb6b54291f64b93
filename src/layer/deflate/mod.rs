//! DEFLATE (RFC 1951) at the fastest level.
//!
//! Most of the time of a cold build is compression, and its fastest level decides how long that is. This one takes two thirds of the
//! time of libdeflate's, for streams that are one percent larger. It does less: one candidate for a match, taken as soon as it is found,
//! and few of the places inside a match are remembered. Small blocks make up for it, since what a layer holds changes every few
//! kilobytes.
//!
//! ```text
//! input ─copied→ window ─Finder→ sequences: literals, then a match      and how often each symbol occurs
//!                                sequences ─code lengths→ the shortest of a dynamic, a fixed and a stored block
//! ```
//!
//! Everything starts afresh with each stream, and nothing depends on the processor: equal bytes give an equal stream.

#![expect(
    clippy::cast_possible_truncation,
    clippy::inline_always,
    reason = "bits are taken from words; the package is compiled for size, this part is not"
)]

mod bits;
mod block;
mod huffman;
mod matches;

use bits::Bits;
use block::Writer;
use matches::{BLOCK, Block, Finder};

/// Compresses streams, one after the other.
pub(super) struct Deflater {
    finder: Finder,
    block: Block,
    writer: Writer,
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self {
            finder: Finder::new(),
            block: Block::new(),
            writer: Writer::new(),
        }
    }

    /// How much room a stream of so many bytes may need.
    pub(super) const fn bound(length: usize) -> usize {
        length + (length / (BLOCK - matches::GROUP) + 1) * block::STORED_MORE + bits::SLACK
    }

    /// Writes the stream for `input` at the beginning of `room`, which has to be as long as [`Self::bound`] says, and returns its length.
    pub(super) fn deflate(&mut self, input: &[u8], room: &mut [u8]) -> usize {
        let mut out = Bits::new(room);
        self.finder.begin();
        let mut start = 0;
        loop {
            let end = self.finder.block(input, &mut self.block);
            let is_last = end == input.len();
            self.writer
                .write(&input[start..end], &self.block, is_last, &mut out);
            start = end;
            if is_last {
                return out.finish();
            }
        }
    }
}

#[cfg(test)]
mod tests;
