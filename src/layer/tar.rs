//! The canonical archive: one way to write each entry.
//!
//! ustar headers as Go's `archive/tar` writes them in its PAX format, which is what the layers of BuildKit have: user and group
//! names empty, whole seconds, no access and change times, no name prefix. An extended header comes before an
//! entry only when a field needs one (a name that is not ASCII or longer than the field, a number beyond the octal
//! digits, an extended attribute); its records are sorted by key. The archive ends with two zero blocks.
//!
//! Spec: POSIX pax interchange format; image-spec, layer.md.

use std::{borrow::Cow, collections::BTreeMap};

/// Everything in a tar comes in blocks of this size.
pub(super) const BLOCK: usize = 512;
/// Two zero blocks.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// One entry's header, before it is laid out.
#[derive(Debug)]
pub(super) struct Header<'a> {
    /// The path, with a `/` at the end of directories.
    pub(super) name: &'a [u8],
    /// POSIX type flag.
    pub(super) type_flag: u8,
    /// Permission bits with setuid, setgid, sticky.
    pub(super) mode: u32,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Bytes that follow.
    pub(super) size: u64,
    /// Whole seconds since 1970.
    pub(super) mtime: i64,
    /// Target of a link.
    pub(super) link: &'a [u8],
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
    /// Extended attributes by full name.
    pub(super) xattrs: Vec<(&'a [u8], &'a [u8])>,
}

impl Header<'_> {
    /// Appends the header, and an extended header before it where one is needed.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            let mut body = Vec::new();
            for (key, value) in &records {
                push_record(&mut body, key, value);
            }
            let name = extended_name(self.name);
            let mut block = Block::new(&name, b'x');
            block.octal(124, 12, body.len() as u64);
            out.extend_from_slice(&block.finish());
            out.extend_from_slice(&body);
            pad(out, body.len() as u64);
        }
        let mut block = Block::new(self.name, self.type_flag);
        block.octal(100, 8, self.mode.into());
        block.octal(108, 8, self.uid.into());
        block.octal(116, 8, self.gid.into());
        block.octal(124, 12, self.size);
        block.octal(136, 12, u64::try_from(self.mtime).unwrap_or(0));
        block.text(157, 100, self.link);
        block.octal(329, 8, self.device.0.into());
        block.octal(337, 8, self.device.1.into());
        out.extend_from_slice(&block.finish());
    }

    /// The extended header records that the fields of the block cannot hold.
    fn records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut records = BTreeMap::new();
        let mut put = |key: &str, value: Vec<u8>| {
            records.insert(key.as_bytes().to_vec(), value);
        };
        if self.name.len() > 100 || !self.name.is_ascii() {
            put("path", self.name.to_vec());
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            put("linkpath", self.link.to_vec());
        }
        for (key, value, digits) in [
            ("uid", u64::from(self.uid), 7),
            ("gid", self.gid.into(), 7),
            ("size", self.size, 11),
        ] {
            if !fits(value, digits) {
                put(key, value.to_string().into_bytes());
            }
        }
        if !u64::try_from(self.mtime).is_ok_and(|mtime| fits(mtime, 11)) {
            put("mtime", self.mtime.to_string().into_bytes());
        }
        for (name, value) in &self.xattrs {
            records.insert([b"SCHILY.xattr.", *name].concat(), value.to_vec());
        }
        records
    }
}

/// Whether a number has at most so many octal digits.
const fn fits(value: u64, digits: u32) -> bool {
    value < 1 << (3 * digits)
}

/// Whether a device number fits the header.
pub(super) const fn device_fits(number: u32) -> bool {
    fits(number as u64, 7)
}

/// Zeros up to the next block after so many bytes of content.
pub(super) fn pad(out: &mut Vec<u8>, size: u64) {
    out.resize(out.len() + padding(size), 0);
}

/// How many zeros follow content of this size.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).expect("a remainder of 512 fits");
    (BLOCK - over) % BLOCK
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() != rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The name of an extended header itself: `DIR/PaxHeaders.0/FILE`, cut to what the field holds.
fn extended_name(name: &[u8]) -> Vec<u8> {
    let trimmed = name.strip_suffix(b"/").unwrap_or(name);
    let (dir, file) = match name.iter().rposition(|&byte| byte == b'/') {
        // Only a directory ends with `/`, and then the whole of it is the directory part.
        Some(_) if trimmed.len() < name.len() => (trimmed, &b""[..]),
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (&b""[..], name),
    };
    let mut full = Vec::with_capacity(name.len() + 16);
    for part in [dir, b"PaxHeaders.0", file] {
        if !part.is_empty() {
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(part);
        }
    }
    full.retain(u8::is_ascii);
    full.truncate(100);
    while full.last() == Some(&b'/') {
        full.pop();
    }
    full
}

/// A header block being filled.
struct Block([u8; BLOCK]);

impl Block {
    fn new(name: &[u8], type_flag: u8) -> Self {
        let mut block = Self([0; BLOCK]);
        block.text(0, 100, name);
        for (offset, length) in [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12)] {
            block.octal(offset, length, 0);
        }
        block.0[156] = type_flag;
        block.0[257..265].copy_from_slice(b"ustar\x0000");
        block.octal(329, 8, 0);
        block.octal(337, 8, 0);
        block
    }

    /// ASCII bytes, cut to the field. Where the cut falls on a `/`, what is left must not end with it: old readers would
    /// take the entry for a directory.
    fn text(&mut self, offset: usize, length: usize, text: &[u8]) {
        let ascii: Cow<'_, [u8]> = if text.is_ascii() {
            text.into()
        } else {
            text.iter().copied().filter(u8::is_ascii).collect()
        };
        let mut cut = &ascii[..ascii.len().min(length)];
        if ascii.len() > length {
            while let Some(shorter) = cut.strip_suffix(b"/") {
                cut = shorter;
            }
        }
        self.0[offset..offset + cut.len()].copy_from_slice(cut);
    }

    /// Octal digits and a NUL; a number that does not fit is written as 0 and stands in the extended header.
    fn octal(&mut self, offset: usize, length: usize, value: u64) {
        let digits = u32::try_from(length - 1).expect("fields are short");
        let mut value = if fits(value, digits) { value } else { 0 };
        let field = &mut self.0[offset..offset + length];
        field[length - 1] = 0;
        // By hand: a header has nine of them.
        for digit in field[..length - 1].iter_mut().rev() {
            *digit = b'0' | (value & 7) as u8;
            value >>= 3;
        }
    }

    /// Fills in the sum of all bytes.
    fn finish(mut self) -> [u8; BLOCK] {
        // Eight bytes at a time, in four sums: 64 times two bytes fit into each.
        const LANES: u64 = 0x00ff_00ff_00ff_00ff;
        self.0[148..156].fill(b' ');
        let (eights, _) = self.0.as_chunks::<8>();
        let sums = eights.iter().fold(0, |sums, eight| {
            let eight = u64::from_le_bytes(*eight);
            sums + (eight & LANES) + (eight >> 8 & LANES)
        });
        let sum = [0, 16, 32, 48].map(|lane| sums >> lane & 0xffff);
        self.octal(148, 7, sum.iter().sum());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lengths_count_their_own_digits() {
        let record = |value: usize| {
            let mut out = Vec::new();
            push_record(&mut out, b"path", &vec![b'a'; value]);
            out
        };
        for length in [1, 3, 4, 90, 91, 92, 93, 989, 990, 991, 992] {
            let bytes = record(length);
            let digits = bytes.iter().position(|&b| b == b' ').unwrap();
            let stated: usize = std::str::from_utf8(&bytes[..digits])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(stated, bytes.len(), "value of {length} bytes");
        }
    }

    #[test]
    fn extended_headers_are_named_after_their_entry() {
        assert_eq!(extended_name(b"a/b"), b"a/PaxHeaders.0/b");
        assert_eq!(extended_name(b"a/b/"), b"a/b/PaxHeaders.0");
        assert_eq!(extended_name("ä".as_bytes()), b"PaxHeaders.0");
        assert_eq!(extended_name(&[b'x'; 200]).len(), 100);
    }
}
