//! gzip, decompressed as fast as one thread can.
//!
//! A base's layer is one long stream, and decompressing it takes longer than all else that is done with it. Input and output are in
//! two buffers of fixed length, so that the loop over symbols (`blocks.rs`) looks twice for each match whether it has come to an end,
//! and nowhere else; tables (`tables.rs`) tell at once all that is done with a symbol. `gunzip.rs` has what is around blocks:
//! headers and ends of members.
//!
//! CRC-32 and length of each member are checked as by any reader of gzip.

#![expect(
    clippy::cast_possible_truncation,
    clippy::inline_always,
    reason = "bits are taken from words"
)]

mod blocks;
mod gunzip;
mod input;
mod tables;

pub use gunzip::{Gunzip, Start};

/// Why a stream cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Corrupt,
    Truncated,
}

#[cfg(test)]
mod tests;
