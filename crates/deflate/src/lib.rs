//! DEFLATE (RFC 1951), both ways: compression at its fastest, with the same bytes on every processor, and gzip (RFC 1952) read as fast as
//! one thread can.
//!
//! It is a package of its own because the program is compiled for size, and what sees every byte of a layer is not.

mod deflate;
mod inflate;

pub use deflate::Compressor;
pub use inflate::{Gunzip, Start};
