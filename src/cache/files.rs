//! Lists of the files that a step read, kept for telling which of them have changed.
//!
//! ```text
//! zstd of:  "rbuild files 1\n"  n  entry × n
//! entry     bytes shared with the path before, length of the rest, rest, mode (numbers: little-endian base 128),
//!           first 8 bytes of the digest of everything, first 8 bytes of the digest of the file's bytes or zeros
//! ```
//! In memory a list is the same entries, not packed: it is made on the way to a hit, too, and there are contexts of many files.
//!
//! A list is kept by the place of the step and the name of the input, so a later one replaces it; it is written only when
//! the input has changed, never on the way to a hit of an unchanged step. Digests are cut: two that are equal by chance
//! spoil an explanation, no build. One that cannot be read counts as not kept.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::Read as _,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use crate::{
    explain::{FileChanges, FilePart, ModifiedFile},
    oci::Digest,
};

const MAGIC: &[u8] = b"rbuild files 1\n";

/// Of an input of more files than this no list is kept; they are about 4 MB then.
const MAX_FILES: usize = 200_000;

/// A list is not believed to be longer than this when it is unpacked.
const MAX_BYTES: u64 = 256 << 20;

/// How many paths an explanation holds.
const MAX_SHOWN: usize = 200;

/// One path of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileEntry<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Its permissions.
    pub mode: u32,
    /// A digest of all of it but times.
    pub digest: Digest,
    /// The digest of a file's bytes.
    pub bytes: Option<Digest>,
}

/// The files of an input, in the order in which they were put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    entries: Vec<u8>,
    last: Vec<u8>,
    count: usize,
}

impl Files {
    /// Puts one more. Of too many, none is kept.
    pub fn push(&mut self, entry: &FileEntry<'_>) {
        self.count += 1;
        if self.count > MAX_FILES {
            self.entries = Vec::new();
            return;
        }
        let path = entry.path.as_os_str().as_bytes();
        let shared = self.last.iter().zip(path);
        let shared = shared.take_while(|(a, b)| a == b).count();
        let out = &mut self.entries;
        number(out, shared as u64);
        number(out, (path.len() - shared) as u64);
        out.extend_from_slice(&path[shared..]);
        let Facts {
            mode,
            digest,
            bytes,
        } = facts(entry);
        number(out, mode.into());
        out.extend_from_slice(&digest);
        out.extend_from_slice(&bytes);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

type Short = [u8; 8];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    mode: u32,
    digest: Short,
    bytes: Short,
}

fn short(digest: &Digest) -> Short {
    let mut short = Short::default();
    short.copy_from_slice(&digest.as_bytes()[..8]);
    short
}

fn facts(entry: &FileEntry<'_>) -> Facts {
    Facts {
        mode: entry.mode,
        digest: short(&entry.digest),
        bytes: entry.bytes.as_ref().map(short).unwrap_or_default(),
    }
}

/// The bytes of a list; `None` when there are too many files.
pub(super) fn print(files: &Files) -> Option<Vec<u8>> {
    if files.count > MAX_FILES {
        return None;
    }
    let mut out = MAGIC.to_vec();
    number(&mut out, files.count as u64);
    out.extend_from_slice(&files.entries);
    zstd::bulk::compress(&out, 1).ok()
}

/// What differs between a list that was printed and the present files; `None` when it is no list, or there are too many
/// files.
pub(super) fn compare(before: &[u8], after: &Files) -> Option<FileChanges> {
    let before = parse(before)?;
    if after.count > MAX_FILES {
        return None;
    }
    let after = entries(&after.entries, after.count as u64)?;
    let mut changes = FileChanges::default();
    let mut room = MAX_SHOWN;
    let mut take = |changes: &mut FileChanges| {
        let fits = room > 0;
        if fits {
            room -= 1;
        } else {
            changes.omitted += 1;
        }
        fits
    };
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    for (path, now) in &after {
        match before.get(path) {
            None if take(&mut changes) => changes.added.push(shown(path)),
            Some(then) if then != now && take(&mut changes) => {
                changes.modified.push(modified(shown(path), *then, *now));
            }
            _ => {}
        }
    }
    for path in before.keys() {
        if !after.contains_key(path) && take(&mut changes) {
            changes.removed.push(shown(path));
        }
    }
    Some(changes)
}

fn modified(path: String, before: Facts, after: Facts) -> ModifiedFile {
    let mut what = Vec::new();
    if before.bytes != after.bytes {
        what.push(FilePart::Bytes);
    }
    let mode = (before.mode != after.mode)
        .then(|| [before.mode, after.mode].map(|mode| format!("{mode:04o}")));
    if mode.is_some() {
        what.push(FilePart::Mode);
    }
    if what.is_empty() {
        what.push(FilePart::Other);
    }
    ModifiedFile { path, what, mode }
}

/// Whether the files of a list that was printed begin with these.
pub(super) fn begin_with(before: &[u8], files: &Files) -> bool {
    let Some(bytes) = unpack(before).filter(|_| files.count <= MAX_FILES) else {
        return false;
    };
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        return false;
    };
    // An entry depends on those before it alone.
    read_number(&mut rest).is_some_and(|count| count >= files.count as u64)
        && rest.starts_with(&files.entries)
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(packed)
        .ok()?
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

fn parse(packed: &[u8]) -> Option<BTreeMap<PathBuf, Facts>> {
    let bytes = unpack(packed)?;
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let count = read_number(&mut rest)?;
    entries(rest, count)
}

fn entries(mut rest: &[u8], count: u64) -> Option<BTreeMap<PathBuf, Facts>> {
    let mut entries = BTreeMap::new();
    let mut path = Vec::new();
    for _ in 0..count {
        let shared = usize::try_from(read_number(&mut rest)?).ok()?;
        let length = usize::try_from(read_number(&mut rest)?).ok()?;
        if shared > path.len() {
            return None;
        }
        path.truncate(shared);
        path.extend_from_slice(rest.split_off(..length)?);
        let mode = u32::try_from(read_number(&mut rest)?).ok()?;
        let facts = Facts {
            mode,
            digest: *rest.split_off(..8)?.first_chunk()?,
            bytes: *rest.split_off(..8)?.first_chunk()?,
        };
        entries.insert(PathBuf::from(OsString::from_vec(path.clone())), facts);
    }
    rest.is_empty().then_some(entries)
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn read_number(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *input.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::sha256;

    fn entry<'a>(path: &'a str, mode: u32, text: &str) -> FileEntry<'a> {
        FileEntry {
            path: Path::new(path),
            mode,
            digest: sha256(format!("{mode} {text}").as_bytes()),
            bytes: Some(sha256(text.as_bytes())),
        }
    }

    fn files(entries: &[FileEntry<'_>]) -> Files {
        let mut files = Files::default();
        for entry in entries {
            files.push(entry);
        }
        files
    }

    #[test]
    fn each_kind_of_change_is_told() {
        let before = [
            entry("a", 0o644, "1"),
            entry("d/gone", 0o644, "1"),
            entry("d/mode", 0o644, "1"),
            entry("d/owner", 0o644, "1"),
            entry("d/text", 0o644, "1"),
        ];
        let mut after = vec![
            entry("a", 0o644, "1"),
            entry("d/mode", 0o755, "1"),
            entry("d/new", 0o644, "1"),
            entry("d/owner", 0o644, "1"),
            entry("d/text", 0o600, "2"),
        ];
        after[3].digest = sha256(b"of another owner");
        let (before, after) = (files(&before), files(&after));
        let changes = compare(&print(&before).unwrap(), &after).unwrap();
        let modified = |path: &str, what: &[FilePart], mode: Option<[&str; 2]>| ModifiedFile {
            path: path.into(),
            what: what.to_vec(),
            mode: mode.map(|modes| modes.map(ToOwned::to_owned)),
        };
        assert_eq!(
            changes,
            FileChanges {
                added: vec!["d/new".into()],
                removed: vec!["d/gone".into()],
                modified: vec![
                    modified("d/mode", &[FilePart::Mode], Some(["0644", "0755"])),
                    modified("d/owner", &[FilePart::Other], None),
                    modified(
                        "d/text",
                        &[FilePart::Bytes, FilePart::Mode],
                        Some(["0644", "0600"])
                    ),
                ],
                omitted: 0,
            }
        );
        let same = compare(&print(&before).unwrap(), &before).unwrap();
        assert_eq!(same, FileChanges::default());
    }

    #[test]
    fn a_list_begins_with_its_first_files_as_they_are() {
        let all = [
            entry("a", 0o644, "1"),
            entry("d/b", 0o644, "1"),
            entry("d/c", 0o644, "1"),
        ];
        let printed = print(&files(&all)).unwrap();
        for n in 0..=3 {
            assert!(begin_with(&printed, &files(&all[..n])));
        }
        for other in [
            entry("d/b", 0o600, "1"),
            entry("d/b", 0o644, "2"),
            entry("d/bb", 0o644, "1"),
            entry("d/c", 0o644, "1"),
        ] {
            assert!(!begin_with(&printed, &files(&[all[0], other])));
        }
        let more = [&all[..], &[entry("e", 0o644, "1")]].concat();
        assert!(!begin_with(&printed, &files(&more)));
        assert!(!begin_with(b"", &Files::default()));
        let too_many = files(&vec![entry("a", 0, ""); MAX_FILES + 1]);
        assert!(!begin_with(&printed, &too_many));
    }

    #[test]
    fn lists_are_bounded() {
        let names: Vec<_> = (0..300).map(|n| format!("{n:04}")).collect();
        let many: Vec<_> = names.iter().map(|name| entry(name, 0o644, "")).collect();
        let none = Files::default();
        let changes = compare(&print(&none).unwrap(), &files(&many)).unwrap();
        assert_eq!((changes.added.len(), changes.omitted), (MAX_SHOWN, 100));
        assert_eq!(changes.count(), 300);
        let too_many = files(&vec![entry("a", 0, ""); MAX_FILES + 1]);
        assert_eq!(print(&too_many), None);
        assert_eq!(compare(&print(&none).unwrap(), &too_many), None);
    }

    #[test]
    fn damaged_lists_are_none() {
        let (one, none) = (entry("a/b", 0o644, "1"), Files::default());
        let good = print(&files(&[one, entry("a/c", 0o644, "1")])).unwrap();
        for length in 0..good.len() {
            assert_eq!(compare(&good[..length], &none), None, "cut at {length}");
        }
        for bytes in [&b"nonsense"[..], b"rbuild files 1\n\xff\xff\xff\xff\x01"] {
            let packed = zstd::bulk::compress(bytes, 1).unwrap();
            assert_eq!(compare(&packed, &none), None);
        }
    }
}
