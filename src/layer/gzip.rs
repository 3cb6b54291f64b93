//! gzip members (RFC 1952), one at a time.

use libdeflater::{CompressionLvl, Compressor};

use super::LayerError;

/// Makes gzip members. Each starts from a fresh state, so equal bytes at an equal level are an equal member.
pub struct Gzip(Compressor);

impl std::fmt::Debug for Gzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip").finish_non_exhaustive()
    }
}

impl Gzip {
    /// With a level from 0, which stores, over 1, the fastest, to 12, the smallest; [`LayerError::Level`] otherwise.
    pub fn new(level: i32) -> Result<Self, LayerError> {
        let (min, max) = (0, 12);
        let out_of_range = LayerError::Level { level, min, max };
        let level = CompressionLvl::new(level).ok().ok_or(out_of_range)?;
        Ok(Self(Compressor::new(level)))
    }

    /// How much room the member of so many bytes may need.
    pub fn bound(&mut self, length: usize) -> usize {
        self.0.gzip_compress_bound(length)
    }

    /// Writes the member at the beginning of `room` and returns its length.
    ///
    /// # Panics
    ///
    /// If `room` is shorter than [`Self::bound`] says.
    pub fn compress(&mut self, bytes: &[u8], room: &mut [u8]) -> usize {
        self.0
            .gzip_compress(bytes, room)
            .expect("there is as much room as the library asked for")
    }
}
