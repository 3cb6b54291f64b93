//! gzip, decompressed by two threads.
//!
//! A base's layer is one stream, and decompressing it takes longer than all else that is done with it. The first thread decodes it from
//! its beginning. Pieces of a mebibyte are read ahead, and of every second one a second thread looks for the first block that begins in
//! it (`find.rs`), and decodes from there without the 32 KiB before it: a byte copied from there is a symbol for its place
//! (`helper.rs`). When the first thread comes to the end of a block exactly where such a run begins, it puts the bytes in, takes the
//! run for its own and goes on behind it. If it never does, the place was none, and it decodes all of it itself.
//!
//! So a run is used only where decoding has come to its first bit, and gives what decoding on would give, by the same code.
//! CRC-32 and length of each member are checked as by any reader of gzip.
//!
//! Small members, such as those this program writes, are decoded by one thread. At most six pieces and three runs are in memory.

#![expect(
    clippy::cast_possible_truncation,
    clippy::inline_always,
    reason = "bits are taken from words; the package is compiled for size, this part is not"
)]

mod blocks;
mod find;
mod gunzip;
mod helper;
mod pieces;
mod tables;

pub(super) use gunzip::Gunzip;
use pieces::Piece;

/// Why a stream cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Corrupt,
    Truncated,
}

#[cfg(test)]
mod tests;
