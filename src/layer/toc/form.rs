//! The bytes of a table of contents, as the store keeps them.
//!
//! ```text
//! "rbuild toc 3\n"  diffID(32)  tar size  blob size  encoding(1)  recipe
//! n  member × n                             tar offset, blob offset: as differences to those before;
//!                                           0, or 1 composition(32) checksum(4)
//! n  checkpoint × n                         member, states of the tar's and the blob's digest (104 each)
//! n  entry × n                              shared prefix of the path, rest of it, item
//! sha256 of all before (32)
//! ```
//! Numbers are little-endian base 128; texts have their length in front. Anything else than what was written is
//! [`TocFormError::Damaged`], and another version is [`TocFormError::Version`]: both mean that the layer has to be read again.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::{Checkpoint, Encoding, Extent, FileContent, Made, Member, Toc, TocEntry, TocItem};
use crate::{
    layer::Compression,
    oci::{DiffId, Digest, DigestState, sha256},
    tree::{Kind, Metadata, Timestamp},
};

const MAGIC: &[u8] = b"rbuild toc 3\n";

/// Counts the versions of the code that makes members: how they are cut, what is stored, the compressor's version. The test of pinned digests
/// says when it has to go up.
const CODEC: u64 = 1;

/// Why bytes are no table of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TocFormError {
    /// They were written by another version of the program, or by something else.
    #[error("the table of contents has another version")]
    Version,
    /// They are not what was written.
    #[error("the table of contents is damaged")]
    Damaged,
}

impl Toc {
    /// The bytes by which the store keeps the table.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(self.diff_id.0.as_bytes());
        number(&mut out, self.tar_size);
        number(&mut out, self.blob_size);
        out.push(match self.encoding {
            Encoding::Plain => 0,
            Encoding::Gzip => 1,
            Encoding::Zstd => 2,
            Encoding::Bzip2 => 3,
            Encoding::Xz => 4,
        });
        let (method, level) = match self.recipe {
            None => (0, 0),
            Some(Compression::Gzip { level }) => (1, level),
            Some(Compression::Zstd { level }) => (2, level),
            Some(Compression::Uncompressed) => (3, 0),
        };
        out.push(method);
        number(&mut out, u64::try_from(level).unwrap_or(0));
        number(&mut out, CODEC);
        number(&mut out, self.members.len() as u64);
        let mut last = Member {
            tar_offset: 0,
            blob_offset: 0,
            made: None,
        };
        for &member in &self.members {
            number(&mut out, member.tar_offset.wrapping_sub(last.tar_offset));
            number(&mut out, member.blob_offset.wrapping_sub(last.blob_offset));
            out.push(member.made.is_some().into());
            if let Some(made) = member.made {
                out.extend_from_slice(made.composition.as_bytes());
                out.extend_from_slice(&made.checksum.to_le_bytes());
            }
            last = member;
        }
        number(&mut out, self.checkpoints.len() as u64);
        for checkpoint in &self.checkpoints {
            number(&mut out, checkpoint.member as u64);
            out.extend_from_slice(checkpoint.tar.as_bytes());
            out.extend_from_slice(checkpoint.blob.as_bytes());
        }
        number(&mut out, self.entries.len() as u64);
        let mut last = Path::new("");
        for entry in &self.entries {
            let (before, now) = (
                last.as_os_str().as_bytes(),
                entry.path.as_os_str().as_bytes(),
            );
            let shared = before.iter().zip(now).take_while(|(a, b)| a == b).count();
            number(&mut out, shared as u64);
            text(&mut out, &now[shared..]);
            item(&mut out, &entry.item);
            last = &entry.path;
        }
        let digest = sha256(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// The table that these bytes stand for.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TocFormError> {
        if !bytes.starts_with(MAGIC) {
            return Err(TocFormError::Version);
        }
        let damaged = TocFormError::Damaged;
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or(damaged)?;
        if sha256(body).as_bytes() != digest {
            return Err(damaged);
        }
        let mut input = Input(body.get(MAGIC.len()..).ok_or(damaged)?);
        let toc = input.toc().ok_or(damaged)?;
        if input.0.is_empty() {
            Ok(toc)
        } else {
            Err(damaged)
        }
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn item(out: &mut Vec<u8>, item: &TocItem) {
    let metadata = match item {
        TocItem::Remove => return out.push(0),
        TocItem::Opaque => return out.push(1),
        TocItem::Link { target } => {
            out.push(2);
            return text(out, target.as_os_str().as_bytes());
        }
        TocItem::Node { metadata, content } => {
            match &metadata.kind {
                Kind::File { size } => {
                    out.push(if content.is_some() { 3 } else { 4 });
                    number(out, *size);
                }
                Kind::Dir => out.push(5),
                Kind::Symlink { target } => {
                    out.push(6);
                    text(out, target.as_os_str().as_bytes());
                }
                Kind::Char { major, minor } => {
                    out.push(7);
                    number(out, (*major).into());
                    number(out, (*minor).into());
                }
                Kind::Block { major, minor } => {
                    out.push(8);
                    number(out, (*major).into());
                    number(out, (*minor).into());
                }
                Kind::Fifo => out.push(9),
                Kind::Socket => out.push(10),
            }
            if let (Kind::File { .. }, Some(content)) = (&metadata.kind, content) {
                out.extend_from_slice(content.digest.as_bytes());
                number(out, content.offset);
                number(
                    out,
                    content
                        .sparse
                        .as_ref()
                        .map_or(0, |map| map.len() as u64 + 1),
                );
                for run in content.sparse.iter().flatten() {
                    number(out, run.offset);
                    number(out, run.length);
                }
            }
            metadata
        }
    };
    number(out, metadata.mode.into());
    number(out, metadata.uid.into());
    number(out, metadata.gid.into());
    let seconds = metadata.mtime.seconds;
    // Zigzag: small numbers of either sign stay short.
    number(
        out,
        (seconds.cast_unsigned() << 1) ^ (seconds >> 63).cast_unsigned(),
    );
    number(out, metadata.mtime.nanos.into());
    number(out, metadata.xattrs.len() as u64);
    for (name, value) in &metadata.xattrs {
        text(out, name.as_bytes());
        text(out, value);
    }
}

/// What is still unread. Everything gives `None` where the bytes are not what was written.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
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

    fn toc(&mut self) -> Option<Toc> {
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
        let count = self.count()?;
        let mut entries = Vec::with_capacity(count);
        let mut path: Vec<u8> = Vec::new();
        for _ in 0..count {
            let shared = usize::try_from(self.number()?).ok()?;
            if shared > path.len() {
                return None;
            }
            path.truncate(shared);
            path.extend_from_slice(self.text()?);
            entries.push(TocEntry {
                path: OsString::from_vec(path.clone()).into(),
                item: self.item()?,
            });
        }
        Some(Toc {
            diff_id,
            tar_size,
            blob_size,
            encoding,
            recipe: recipe.filter(|_| is_ours),
            members,
            checkpoints,
            entries,
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
            3 | 4 => Kind::File {
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
        let content = if tag == 3 {
            let (digest, offset) = (self.digest()?, self.number()?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digester;

    fn sample() -> Toc {
        let node = |kind, content| TocItem::Node {
            metadata: Metadata {
                kind,
                mode: 0o4755,
                uid: u32::MAX,
                gid: 3,
                mtime: Timestamp {
                    seconds: -5,
                    nanos: 999_999_999,
                },
                xattrs: [("user.a\n".into(), vec![0, 255])].into(),
            },
            content,
        };
        let content = FileContent {
            digest: sha256(b""),
            offset: 1 << 40,
            sparse: Some(vec![Extent {
                offset: 4096,
                length: 5,
            }]),
        };
        let entry = |path: &str, item| TocEntry {
            path: path.into(),
            item,
        };
        Toc {
            diff_id: DiffId(sha256(b"tar")),
            tar_size: u64::MAX,
            blob_size: 7,
            encoding: Encoding::Zstd,
            recipe: Some(Compression::Zstd { level: 7 }),
            members: vec![
                Member {
                    tar_offset: 0,
                    blob_offset: 0,
                    made: None,
                },
                Member {
                    tar_offset: 1 << 20,
                    blob_offset: 300,
                    made: Some(Made {
                        composition: sha256(b"parts"),
                        checksum: 7,
                    }),
                },
            ],
            checkpoints: vec![Checkpoint {
                member: 1,
                tar: Digester::new().state(),
                blob: Digester::new().state(),
            }],
            entries: vec![
                entry("", node(Kind::Dir, None)),
                entry("usr/a", node(Kind::File { size: 9 }, Some(content))),
                entry(
                    "usr/ab",
                    TocItem::Link {
                        target: "usr/a".into(),
                    },
                ),
                entry(
                    "usr",
                    node(
                        Kind::Symlink {
                            target: "/x".into(),
                        },
                        None,
                    ),
                ),
                entry("tty", node(Kind::Char { major: 4, minor: 1 }, None)),
                entry(
                    "sda",
                    node(
                        Kind::Block {
                            major: 8,
                            minor: 300,
                        },
                        None,
                    ),
                ),
                entry("fifo", node(Kind::Fifo, None)),
                entry("gone", TocItem::Remove),
                entry("dir", TocItem::Opaque),
            ],
        }
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let toc = sample();
        assert_eq!(Toc::from_bytes(&toc.to_bytes()), Ok(toc));
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let bytes = sample().to_bytes();
        for cut in 0..bytes.len() {
            assert!(Toc::from_bytes(&bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            assert!(Toc::from_bytes(&damaged).is_err());
        }
        assert_eq!(
            Toc::from_bytes(b"rbuild toc 1\n"),
            Err(TocFormError::Version)
        );
    }

    #[test]
    fn nothing_that_a_forger_writes_panics() {
        let body = sample().to_bytes();
        let body = &body[..body.len() - 32];
        for at in MAGIC.len()..body.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut forged = body.to_vec();
                forged[at] = value;
                let digest = sha256(&forged);
                forged.extend_from_slice(digest.as_bytes());
                let _any = Toc::from_bytes(&forged);
            }
        }
    }
}
