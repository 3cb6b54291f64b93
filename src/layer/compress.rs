//! Compression of one member of a blob.

use std::io;

use super::{
    LayerError,
    buffer::{Buffer, Buffers},
    gzip::Gzip,
    toc::Encoding,
};
use crate::oci::MediaType;

/// How the tar of a layer becomes a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// gzip, level 0 to 12.
    Gzip {
        /// 1 is fastest, 12 smallest; 0 stores.
        level: i32,
    },
    /// zstd, level 1 to 22.
    Zstd {
        /// 1 is fastest, 22 smallest.
        level: i32,
    },
    /// None: the blob is the tar.
    Uncompressed,
}

impl Default for Compression {
    /// gzip at the fastest level: blobs are some 7 to 10 % larger than those of BuildKit, of source code 20 %. The next level makes
    /// them as large as BuildKit's, and a build that mostly compresses takes half as long again: more than sending those bytes takes on
    /// any network that is faster than 10 MB/s.
    fn default() -> Self {
        Self::Gzip { level: 1 }
    }
}

impl Compression {
    /// The OCI media type of such a layer.
    pub const fn media_type(self) -> MediaType {
        match self {
            Self::Gzip { .. } => MediaType::OCI_LAYER_GZIP,
            Self::Zstd { .. } => MediaType::OCI_LAYER_ZSTD,
            Self::Uncompressed => MediaType::OCI_LAYER,
        }
    }

    pub(super) const fn encoding(self) -> Encoding {
        match self {
            Self::Gzip { .. } => Encoding::Gzip,
            Self::Zstd { .. } => Encoding::Zstd,
            Self::Uncompressed => Encoding::Plain,
        }
    }
}

/// A member of less than this is not worth the look whether it can be compressed.
const SAMPLED_FROM: usize = 128 << 10;
/// How much of a member is tried.
const SAMPLE: usize = 16 << 10;
/// A sample whose gzip member is longer than this hardly shrinks: a sixty-fourth, beside the member's header and trailer.
const INCOMPRESSIBLE: usize = SAMPLE / 64 * 63 + 18;

/// Turns members into their compressed form. The same bytes give the same bytes: every member starts from a fresh state.
pub(super) struct Packer {
    method: Method,
    /// Where members are made: nobody knows before how long one will be.
    room: Vec<u8>,
}

enum Method {
    Gzip {
        gzip: Gzip,
        /// For samples, where `gzip` is not at the fastest level itself.
        quick: Option<Gzip>,
        store: Gzip,
    },
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Plain,
}

impl Packer {
    pub(super) fn new(compression: Compression) -> Result<Self, LayerError> {
        let method = match compression {
            Compression::Gzip { level } => Method::Gzip {
                gzip: Gzip::new(level)?,
                quick: (level != 1).then(|| Gzip::new(1)).transpose()?,
                store: Gzip::new(0)?,
            },
            Compression::Zstd { level } => {
                if !(1..=22).contains(&level) {
                    return Err(LayerError::Level {
                        level,
                        min: 1,
                        max: 22,
                    });
                }
                let compressor = zstd::bulk::Compressor::new(level)
                    .map_err(|source| LayerError::Sink { source })?;
                Method::Zstd(Box::new(compressor))
            }
            Compression::Uncompressed => Method::Plain,
        };
        let room = Vec::new();
        Ok(Self { method, room })
    }

    /// The member that stands for these bytes; `None` when it is the bytes themselves.
    pub(super) fn pack(&mut self, raw: &[u8], buffers: &Buffers) -> io::Result<Option<Buffer>> {
        let room = &mut self.room;
        let length = match &mut self.method {
            Method::Plain => return Ok(None),
            Method::Zstd(compressor) => {
                let room = at_least(room, zstd::zstd_safe::compress_bound(raw.len()));
                compressor.compress_to_buffer(raw, room)?
            }
            Method::Gzip { gzip, quick, store } => {
                let chosen = if incompressible(raw, quick.as_mut().unwrap_or(gzip)) {
                    store
                } else {
                    gzip
                };
                let room = at_least(room, chosen.bound(raw.len()));
                chosen.compress(raw, room)
            }
        };
        let mut packed = buffers.take(length as u64);
        packed.extend(&room[..length]);
        Ok(Some(packed))
    }
}

fn at_least(room: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if room.len() < length {
        // Only what is written to will be memory.
        *room = vec![0; length];
    }
    room
}

/// Whether three samples of the member hardly shrink: images, archives and compressed programs are then stored, at a
/// tenth of the time. A function of the bytes alone.
fn incompressible(raw: &[u8], quick: &mut Gzip) -> bool {
    if raw.len() < SAMPLED_FROM {
        return false;
    }
    let mut packed = vec![0; quick.bound(SAMPLE)];
    [1, 2, 3].into_iter().all(|quarter| {
        let start = (raw.len() - SAMPLE) / 4 * quarter;
        quick.compress(&raw[start..start + SAMPLE], &mut packed) > INCOMPRESSIBLE
    })
}
