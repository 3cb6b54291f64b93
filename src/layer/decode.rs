//! Decompression by what the bytes are.

use std::io::{self, BufRead, BufReader, Read};

use rbuild_deflate::Gunzip;

use super::toc::{Encoding, Member};

/// Members closer together than this are recorded as one: a hostile blob may have one for every twenty bytes.
pub(super) const MEMBER_SPACING: u64 = 16 << 10;

/// Adds a member to a table unless the last one is near; whether it did.
pub(super) fn record(members: &mut Vec<Member>, member: Member) -> bool {
    let far = members
        .last()
        .is_none_or(|last| member.tar_offset - last.tar_offset >= MEMBER_SPACING);
    if far {
        members.push(member);
    }
    far
}

/// Yields the bytes inside a blob, whatever wraps them, and notes where its members begin.
pub(super) struct Decoder<R> {
    state: State<R>,
    encoding: Encoding,
    yielded: u64,
    members: Vec<Member>,
}

enum State<R> {
    Plain(Counted<R>),
    /// All members.
    Gzip(Box<Gunzip<Counted<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Counted<R>>>),
    Bzip2(bzip2::bufread::MultiBzDecoder<Counted<R>>),
    Xz(liblzma::bufread::XzDecoder<Counted<R>>),
    /// All members were read, or one could not be opened.
    Ended(u64),
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = b"\xfd7zXZ\0";

impl Encoding {
    /// How a blob that begins so wraps its tar; six bytes are enough to tell.
    pub fn of_start(start: &[u8]) -> Self {
        if start.starts_with(GZIP) {
            Self::Gzip
        } else if start.starts_with(ZSTD) || is_skippable_frame(start) {
            Self::Zstd
        } else if start.starts_with(BZIP2) {
            Self::Bzip2
        } else if start.starts_with(XZ) {
            Self::Xz
        } else {
            Self::Plain
        }
    }
}

/// `0x184D2A5?`, little-endian: user data between zstd frames.
fn is_skippable_frame(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(blob: R) -> io::Result<Self> {
        let mut input = Counted::new(blob);
        let encoding = Encoding::of_start(input.peek(6)?);
        let state = match encoding {
            Encoding::Plain => State::Plain(input),
            Encoding::Gzip => State::Gzip(Box::new(Gunzip::new(input, MEMBER_SPACING))),
            Encoding::Zstd => State::Zstd(frame(input)?),
            Encoding::Bzip2 => State::Bzip2(bzip2::bufread::MultiBzDecoder::new(input)),
            Encoding::Xz => State::Xz(liblzma::bufread::XzDecoder::new_multi_decoder(input)),
        };
        Ok(Self {
            state,
            encoding,
            yielded: 0,
            members: vec![Member {
                tar_offset: 0,
                blob_offset: 0,
                made: None,
            }],
        })
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Where the members begin that were met so far, and how many bytes of the blob were read.
    pub(super) fn into_members(self) -> (Vec<Member>, u64) {
        if let State::Gzip(decoder) = self.state {
            let (starts, read) = decoder.into_starts();
            let members = starts.into_iter().map(|start| Member {
                tar_offset: start.yielded,
                blob_offset: start.read,
                made: None,
            });
            return (members.collect(), read);
        }
        let read = match &self.state {
            State::Plain(input) => input.taken,
            State::Gzip(_) => unreachable!("it was taken apart"),
            State::Zstd(decoder) => decoder.get_ref().taken,
            State::Bzip2(decoder) => decoder.get_ref().taken,
            State::Xz(decoder) => decoder.get_ref().taken,
            State::Ended(read) => *read,
        };
        (self.members, read)
    }

    /// Opens the member after the one that just ended. `false` when the blob ends here.
    fn next_member(&mut self) -> io::Result<bool> {
        let mut input = match std::mem::replace(&mut self.state, State::Ended(0)) {
            State::Zstd(decoder) => decoder.finish(),
            // All others go on by themselves.
            other => {
                self.state = other;
                return Ok(false);
            }
        };
        let start = input.peek(4)?;
        if self.encoding != Encoding::of_start(start) {
            // Tapes and block devices leave zeros behind.
            let only_zeros = input.drain_zeros()?;
            self.state = State::Ended(input.taken);
            return if only_zeros {
                Ok(false)
            } else {
                let message = "there are other bytes after the compressed data";
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            };
        }
        record(
            &mut self.members,
            Member {
                tar_offset: self.yielded,
                blob_offset: input.taken,
                made: None,
            },
        );
        self.state = State::Zstd(frame(input)?);
        Ok(true)
    }
}

fn frame<R: Read>(
    input: Counted<R>,
) -> io::Result<Box<zstd::stream::read::Decoder<'static, Counted<R>>>> {
    zstd::stream::read::Decoder::with_buffer(input).map(|decoder| Box::new(decoder.single_frame()))
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let length = match &mut self.state {
                State::Plain(input) => input.read(out),
                State::Gzip(decoder) => decoder.read(out),
                State::Zstd(decoder) => decoder.read(out),
                State::Bzip2(decoder) => decoder.read(out),
                State::Xz(decoder) => decoder.read(out),
                State::Ended(_) => Ok(0),
            }?;
            self.yielded += length as u64;
            if length > 0 || !self.next_member()? {
                return Ok(length);
            }
        }
    }
}

/// A buffered reader that knows how many bytes were taken from it.
struct Counted<R> {
    inner: BufReader<R>,
    /// Bytes that were looked at before the first read.
    peeked: Vec<u8>,
    taken: u64,
}

impl<R: Read> Counted<R> {
    fn new(inner: R) -> Self {
        Self {
            inner: BufReader::with_capacity(128 << 10, inner),
            peeked: Vec::new(),
            taken: 0,
        }
    }

    /// Up to `length` of the next bytes, which stay unread; fewer only at the end.
    fn peek(&mut self, length: usize) -> io::Result<&[u8]> {
        let missing = length.saturating_sub(self.peeked.len()) as u64;
        (&mut self.inner)
            .take(missing)
            .read_to_end(&mut self.peeked)?;
        Ok(&self.peeked)
    }

    /// Reads to the end; whether there were only zeros.
    fn drain_zeros(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.fill_buf()?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            let length = bytes.len();
            self.consume(length);
        }
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.peeked.is_empty() {
            self.inner.fill_buf()
        } else {
            Ok(&self.peeked)
        }
    }

    fn consume(&mut self, length: usize) {
        self.taken += length as u64;
        if self.peeked.is_empty() {
            self.inner.consume(length);
        } else {
            self.peeked.drain(..length);
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // Long reads pass the buffer by.
        let length = if self.peeked.is_empty() {
            self.inner.read(out)?
        } else {
            let length = self.peeked.len().min(out.len());
            out[..length].copy_from_slice(&self.peeked[..length]);
            self.peeked.drain(..length);
            length
        };
        self.taken += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Decoder::new(blob)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn every_wrapping_is_recognised_by_its_bytes() {
        let text = b"some text".repeat(1000);
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&text).unwrap();
        let zstd = zstd::encode_all(&*text, 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], &*zstd].concat();
        for blob in [
            text.clone(),
            gzip(&text),
            zstd,
            skippable,
            bzip2.finish().unwrap(),
            xz.finish().unwrap(),
        ] {
            assert!(decode(&blob).unwrap() == text);
        }
        assert_eq!(decode(b"").unwrap(), b"");
        assert_eq!(decode(b"\x1f").unwrap(), b"\x1f");
    }

    #[test]
    fn members_are_joined_and_recorded() {
        let part = vec![7; 300_000];
        let blob = [gzip(&part), gzip(&part), gzip(b"end"), vec![0; 700]].concat();
        let mut decoder = Decoder::new(&*blob).unwrap();
        let mut bytes = Vec::new();
        decoder.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 600_003);
        let (members, read) = decoder.into_members();
        let offsets: Vec<u64> = members.iter().map(|member| member.tar_offset).collect();
        assert_eq!(offsets, [0, 300_000, 600_000]);
        assert_eq!(read, blob.len() as u64);
        for member in members {
            let start = usize::try_from(member.blob_offset).unwrap();
            let tail = decode(&blob[start..]).unwrap();
            assert_eq!(tail.len() as u64, 600_003 - member.tar_offset);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let blob = gzip(&vec![7; 300_000]);
        assert!(decode(&blob[..blob.len() - 3]).is_err());
        let mut flipped = blob.clone();
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(decode(&flipped).is_err());
        assert!(decode(&[&*blob, b"junk"].concat()).is_err());
    }
}
