//! Compression at its fastest, with the same bytes on every processor.
//!
//! Compressors spend most of their time on branches that no processor foresees: is there a match here, how long is it, which code
//! comes next. Here nearly all of it is done without asking:
//!
//! ```text
//! bytes ─search→ a map: for each place, the token that would begin there      (search.rs, wide.rs)
//!       ─parse→  tokens: the walk over the map, and how often each is used    (parse.rs)
//!       ─encode→ a block: codes by their use, and the tokens in them          (code.rs, block.rs)
//! ```
//! - The search asks for *each* place, also inside matches, whether the eight bytes there are those of the last place with the same hash.
//!   Sixteen places are one step: all of them look into the table before any of them is put there. That makes it a computation without
//!   branches, which AVX-512 does sixteen at a time (`wide.rs`), and which has the same result one at a time.
//! - A place where the next one has the longer match becomes a literal, again for all places at once.
//! - The walk has one branch that matters, where a match is longer than the eight bytes that are known. Two walks go
//!   side by side, from the beginning and from the middle of a piece, since one waits for memory most of the time.
//! - Blocks are short, because what is in a layer changes from file to file.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::inline_always,
    clippy::needless_bitwise_bool,
    reason = "bits are put into words, and nothing may become a branch"
)]

mod block;
mod code;
mod parse;
mod search;
mod token;
#[cfg(target_arch = "x86_64")]
mod wide;

use block::Writer;
use parse::Tokens;
use search::Search;

/// How many bytes are searched at a time.
const PIECE: usize = 16 << 10;
/// So many pieces are a block, which has codes of its own.
const PIECES: usize = 2;
/// How far the places of a table reach: a distance has to fit into 24 bits.
const REACH: usize = 8 << 20;

/// Makes streams. Each starts from a fresh state: equal bytes are an equal stream, on every processor.
pub struct Compressor {
    search: Search,
    tokens: Tokens,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Compressor {
    /// A compressor, of some 330 KiB.
    pub fn new() -> Self {
        Self::with(Search::new())
    }

    fn with(search: Search) -> Self {
        let tokens = Tokens::new();
        Self { search, tokens }
    }

    /// How much room the stream of so many bytes may need.
    pub const fn bound(length: usize) -> usize {
        // A block that does not shrink is stored, behind five bytes; words are written as a whole.
        length + (length / (PIECE * PIECES) + 1) * 5 + size_of::<u64>()
    }

    /// Writes the stream at the beginning of `room` and returns its length.
    ///
    /// # Panics
    ///
    /// If `room` is shorter than [`Self::bound`] says.
    pub fn compress(&mut self, bytes: &[u8], room: &mut [u8]) -> usize {
        assert!(
            room.len() >= Self::bound(bytes.len()),
            "there is too little room"
        );
        let mut writer = Writer::new(room);
        let mut reaches = bytes.chunks(REACH).peekable();
        if reaches.peek().is_none() {
            writer.store(&[], true);
        }
        while let Some(reach) = reaches.next() {
            self.search.forget();
            let mut start = 0;
            while start < reach.len() {
                let end = self.tokens.take_block(reach, start, &mut self.search);
                let is_last = end == reach.len() && reaches.peek().is_none();
                block::write(&self.tokens, &reach[start..end], is_last, &mut writer);
                start = end;
            }
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests;
