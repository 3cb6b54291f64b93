//! Reading the form back.

use std::{collections::BTreeMap, ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use super::{
    super::{Checkpoint, Encoding, Extent, FileContent, Made, Member, Toc, TocEntry, TocItem},
    CODEC, MAGIC, TocFormError,
};
use crate::{
    layer::Compression,
    oci::{DiffId, Digest, DigestState, sha256},
    tree::{Kind, Metadata, Timestamp},
};

/// What is still unread. Everything gives `None` where the bytes are not what was written.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    /// What is between the first line and the digest, which has to be right.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, TocFormError> {
        if !bytes.starts_with(MAGIC) {
            return Err(TocFormError::Version);
        }
        let damaged = TocFormError::Damaged;
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or(damaged)?;
        if sha256(body).as_bytes() != digest {
            return Err(damaged);
        }
        body.get(MAGIC.len()..).map(Self).ok_or(damaged)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    /// A number of things of at least one byte each, so never more than there are bytes.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?)
            .ok()
            .filter(|&count| count <= self.0.len())
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        self.take(length)
    }

    fn path(&mut self) -> Option<PathBuf> {
        Some(OsString::from_vec(self.text()?.to_vec()).into())
    }

    fn digest(&mut self) -> Option<Digest> {
        Some(Digest::from_bytes(self.take(32)?.try_into().ok()?))
    }

    /// What stands before the members.
    pub(super) fn preamble(&mut self) -> Option<Toc> {
        let diff_id = DiffId(self.digest()?);
        let (tar_size, blob_size) = (self.number()?, self.number()?);
        let encoding = match self.byte()? {
            0 => Encoding::Plain,
            1 => Encoding::Gzip,
            2 => Encoding::Zstd,
            3 => Encoding::Bzip2,
            4 => Encoding::Xz,
            _ => return None,
        };
        let method = self.byte()?;
        let level = i32::try_from(self.number()?).ok()?;
        let is_ours = self.number()? == CODEC;
        let recipe = match method {
            0 => None,
            1 => Some(Compression::Gzip { level }),
            2 => Some(Compression::Zstd { level }),
            3 => Some(Compression::Uncompressed),
            _ => return None,
        };
        Some(Toc {
            diff_id,
            tar_size,
            blob_size,
            encoding,
            recipe: recipe.filter(|_| is_ours),
            members: Vec::new(),
            checkpoints: Vec::new(),
            entries: Vec::new(),
        })
    }

    /// All but the entries.
    pub(super) fn head(&mut self) -> Option<Toc> {
        let preamble = self.preamble()?;
        let mut members = Vec::new();
        let mut last = Member {
            tar_offset: 0,
            blob_offset: 0,
            made: None,
        };
        for _ in 0..self.count()? {
            last = Member {
                tar_offset: last.tar_offset.checked_add(self.number()?)?,
                blob_offset: last.blob_offset.checked_add(self.number()?)?,
                made: match self.byte()? {
                    0 => None,
                    1 => Some(self.made()?),
                    _ => return None,
                },
            };
            members.push(last);
        }
        if members.first()?.tar_offset != 0 {
            return None;
        }
        let mut checkpoints = Vec::new();
        for _ in 0..self.count()? {
            let member = usize::try_from(self.number()?).ok()?;
            let (tar, blob) = (self.state()?, self.state()?);
            checkpoints.push(Checkpoint { member, tar, blob });
        }
        if !checkpoints
            .iter()
            .all(|checkpoint| checkpoint.member < members.len())
        {
            return None;
        }
        Some(Toc {
            members,
            checkpoints,
            ..preamble
        })
    }

    pub(super) fn entries(&mut self) -> Option<Vec<TocEntry>> {
        let count = self.count()?;
        let mut entries = Vec::with_capacity(count);
        let mut path = Vec::new();
        for _ in 0..count {
            entries.push(self.entry(&mut path)?);
        }
        Some(entries)
    }

    /// One entry; `path` is the path of the one before, and becomes its own.
    pub(super) fn entry(&mut self, path: &mut Vec<u8>) -> Option<TocEntry> {
        let shared = usize::try_from(self.number()?).ok()?;
        if shared > path.len() {
            return None;
        }
        path.truncate(shared);
        path.extend_from_slice(self.text()?);
        Some(TocEntry {
            path: OsString::from_vec(path.clone()).into(),
            item: self.item()?,
        })
    }

    fn made(&mut self) -> Option<Made> {
        Some(Made {
            composition: self.digest()?,
            checksum: u32::from_le_bytes(self.take(4)?.try_into().ok()?),
        })
    }

    fn state(&mut self) -> Option<DigestState> {
        let bytes = self.take(DigestState::LEN)?.try_into().ok()?;
        Some(DigestState::from_bytes(bytes))
    }

    fn item(&mut self) -> Option<TocItem> {
        let tag = self.byte()?;
        let kind = match tag {
            0 => return Some(TocItem::Remove),
            1 => return Some(TocItem::Opaque),
            2 => {
                return Some(TocItem::Link {
                    target: self.path()?,
                });
            }
            3 | 4 | 11 => Kind::File {
                size: self.number()?,
            },
            5 => Kind::Dir,
            6 => Kind::Symlink {
                target: self.path()?,
            },
            7 => Kind::Char {
                major: self.small()?,
                minor: self.small()?,
            },
            8 => Kind::Block {
                major: self.small()?,
                minor: self.small()?,
            },
            9 => Kind::Fifo,
            10 => Kind::Socket,
            _ => return None,
        };
        let content = if matches!(tag, 3 | 11) {
            let digest = match tag {
                3 => Some(self.digest()?),
                _ => None,
            };
            let offset = self.number()?;
            let sparse = match self.count()? {
                0 => None,
                runs => {
                    let mut map = Vec::with_capacity(runs - 1);
                    for _ in 1..runs {
                        map.push(Extent {
                            offset: self.number()?,
                            length: self.number()?,
                        });
                    }
                    Some(map)
                }
            };
            Some(FileContent {
                digest,
                offset,
                sparse,
            })
        } else {
            None
        };
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let zigzag = self.number()?;
        let seconds = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
        let nanos = self.small()?;
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.count()? {
            let name = OsString::from_vec(self.text()?.to_vec());
            xattrs.insert(name, self.text()?.to_vec());
        }
        let metadata = Metadata {
            kind,
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanos },
            xattrs,
        };
        Some(TocItem::Node { metadata, content })
    }
}
