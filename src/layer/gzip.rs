//! gzip members (RFC 1952), one at a time.

use libdeflater::{CompressionLvl, Compressor, Crc};
use rbuild_deflate as deflate;

use super::LayerError;

/// Before the stream: no name, no time, the fastest method, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
/// Behind it: CRC-32 and length.
const TRAILER: usize = 8;

/// Makes gzip members. Each starts from a fresh state, so equal bytes at an equal level are an equal member.
pub struct Gzip(Method);

enum Method {
    /// Level 1.
    Fastest(Box<deflate::Compressor>),
    Other(Compressor),
}

impl std::fmt::Debug for Gzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip").finish_non_exhaustive()
    }
}

impl Gzip {
    /// With a level from 0, which stores, over 1, the fastest, to 12, the smallest; [`LayerError::Level`] otherwise.
    pub fn new(level: i32) -> Result<Self, LayerError> {
        if level == 1 {
            return Ok(Self(Method::Fastest(Box::default())));
        }
        let (min, max) = (0, 12);
        let out_of_range = LayerError::Level { level, min, max };
        let level = CompressionLvl::new(level).ok().ok_or(out_of_range)?;
        Ok(Self(Method::Other(Compressor::new(level))))
    }

    /// How much room the member of so many bytes may need.
    pub fn bound(&mut self, length: usize) -> usize {
        match &mut self.0 {
            Method::Fastest(_) => HEADER.len() + deflate::Compressor::bound(length) + TRAILER,
            Method::Other(compressor) => compressor.gzip_compress_bound(length),
        }
    }

    /// Writes the member at the beginning of `room` and returns its length.
    ///
    /// # Panics
    ///
    /// If `room` is shorter than [`Self::bound`] says.
    pub fn compress(&mut self, bytes: &[u8], room: &mut [u8]) -> usize {
        match &mut self.0 {
            Method::Fastest(compressor) => {
                room[..HEADER.len()].copy_from_slice(&HEADER);
                let end = HEADER.len() + compressor.compress(bytes, &mut room[HEADER.len()..]);
                let mut crc = Crc::new();
                crc.update(bytes);
                let trailer = &mut room[end..end + TRAILER];
                trailer[..4].copy_from_slice(&crc.sum().to_le_bytes());
                // The length is modulo 2³².
                trailer[4..].copy_from_slice(&bytes.len().to_le_bytes()[..4]);
                end + TRAILER
            }
            Method::Other(compressor) => compressor
                .gzip_compress(bytes, room)
                .expect("there is as much room as the library asked for"),
        }
    }
}
