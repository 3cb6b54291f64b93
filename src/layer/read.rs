//! Reading archives that others made: every lie an archive can tell is an [`ArchiveError`].
//!
//! The header codec is `tar-core`, which knows ustar, PAX, GNU long names, base-256 numbers and both kinds of sparse
//! files. On top of it: names are made relative, numbers are checked, sparse maps have to add up, and whiteouts get their meaning.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use tar_core::{
    PaxExtensions,
    parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser},
};

use super::{
    change::{OPAQUE_NAME, WHITEOUT_PREFIX},
    tar::padding,
    toc::Extent,
};
use crate::tree::{Kind, Metadata, Timestamp};

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The blob could not be read or decompressed.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes at an offset of the tar are no header.
    #[error("no valid tar header at byte {offset}")]
    Header {
        /// Where in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// The archive ends inside an entry.
    #[error("the archive ends at byte {offset}, inside an entry")]
    Truncated {
        /// Length of the uncompressed archive.
        offset: u64,
    },
    /// A name is empty, has a NUL, or leads out of the root with `..`.
    #[error("`{}` is not a path inside the archive's root", path.display())]
    Name {
        /// The name as it stands in the archive.
        path: PathBuf,
    },
    /// A link has no target, or the target of a hard link is no path inside the root.
    #[error("`{}` has no valid link target", path.display())]
    LinkTarget {
        /// The link.
        path: PathBuf,
    },
    /// A number is beyond what Linux has.
    #[error("`{}` has an impossible {field}", path.display())]
    Number {
        /// The entry.
        path: PathBuf,
        /// Which field.
        field: &'static str,
    },
    /// The kind of entry is unknown.
    #[error("`{}` is of unknown type {flag:#04x}", path.display())]
    EntryType {
        /// The entry.
        path: PathBuf,
        /// Its type flag.
        flag: u8,
    },
    /// A whiteout names nothing, or something lies below a whiteout.
    #[error("`{}` is not a valid whiteout", path.display())]
    Whiteout {
        /// The marker.
        path: PathBuf,
    },
    /// The map of a sparse file does not fit its sizes.
    #[error("`{}` has a sparse map that {problem}", path.display())]
    Sparse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The names in the archive need more memory than any image's do.
    #[error("the archive has too many entries: {entries} until byte {offset}")]
    TooMany {
        /// Entries so far.
        entries: usize,
        /// Where in the uncompressed archive.
        offset: u64,
    },
}

/// Whether names beginning with `.wh.` mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whiteouts {
    /// They say what is gone: this is a layer.
    Meant,
    /// They are names: this is any archive.
    Names,
}

/// One entry; its content is still unread.
#[derive(Debug)]
pub(super) struct RawEntry {
    /// Relative, without `.` and `..`.
    pub(super) path: PathBuf,
    pub(super) item: RawItem,
    /// Offset in the tar of the first byte of content.
    pub(super) offset: u64,
    /// Runs of content, when not all of a file is stored.
    pub(super) sparse: Option<Vec<Extent>>,
}

impl RawEntry {
    /// About how many bytes its names and attributes take in memory.
    pub(super) fn footprint(&self) -> usize {
        let item = match &self.item {
            RawItem::Node(metadata) => {
                let target = match &metadata.kind {
                    Kind::Symlink { target } => target.as_os_str().len(),
                    _ => 0,
                };
                let xattrs = metadata.xattrs.iter();
                target
                    + xattrs
                        .map(|(name, value)| 64 + name.len() + value.len())
                        .sum::<usize>()
            }
            RawItem::Link { target, .. } => target.as_os_str().len(),
            RawItem::Remove | RawItem::Opaque => 0,
        };
        let sparse = self
            .sparse
            .as_ref()
            .map_or(0, |map| map.len() * size_of::<Extent>());
        self.path.as_os_str().len() + item + sparse
    }
}

#[derive(Debug)]
pub(super) enum RawItem {
    Node(Metadata),
    /// Another name of `target`, with what the header says of the inode; the kind says nothing.
    Link {
        target: PathBuf,
        metadata: Box<Metadata>,
    },
    Remove,
    Opaque,
}

/// As long as Linux lets a path be.
const MAX_PATH: u32 = 4096;
/// Extended headers of one entry: a full set of xattrs has 64 KiB, twice.
const MAX_EXTENSIONS: u32 = 1 << 20;
/// No header with all its extensions is longer; also bounds the buffer.
const MAX_HEADER: usize = 4 << 20;
/// A file with holes is hashed holes and all; a few bytes of archive must not cost hours.
const MAX_SPARSE: u64 = 64 << 30;

/// Reads a tar front to back.
pub(super) struct TarReader<R> {
    input: R,
    parser: Parser,
    buffer: Vec<u8>,
    start: usize,
    /// Offset in the tar of `buffer[start]`.
    offset: u64,
    /// Content and padding of the present entry that is still unread.
    content: u64,
    padding: u64,
    whiteouts: Whiteouts,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(input: R, whiteouts: Whiteouts) -> Self {
        let mut parser = Parser::new(Limits {
            max_metadata_size: MAX_EXTENSIONS,
            max_path_len: Some(MAX_PATH),
            ..Limits::default()
        });
        // Times before 1970 have a sign, which the parser takes for an error: all numbers are checked here.
        parser.set_ignore_pax_errors(true);
        Self {
            input,
            parser,
            buffer: Vec::with_capacity(64 << 10),
            start: 0,
            offset: 0,
            content: 0,
            padding: 0,
            whiteouts,
        }
    }

    /// The bytes that the archive came from.
    pub(super) fn into_inner(self) -> R {
        self.input
    }

    /// Offset in the tar of the next unread byte.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, what was unread of the one before skipped; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<RawEntry>, ArchiveError> {
        self.skip_content()?;
        loop {
            let event = self
                .parser
                .parse(&self.buffer[self.start..])
                .map_err(|source| ArchiveError::Header {
                    offset: self.offset,
                    source,
                })?;
            let (consumed, raw, size) = match event {
                ParseEvent::NeedData { min_bytes } => {
                    // Inside a sparse map the parser asks for less than it has seen.
                    let min_bytes = min_bytes.max(self.buffer.len() - self.start + 1);
                    if min_bytes > MAX_HEADER {
                        return Err(ArchiveError::Header {
                            offset: self.offset,
                            source: ParseError::MetadataTooLarge {
                                size: min_bytes as u64,
                                limit: MAX_EXTENSIONS,
                            },
                        });
                    }
                    if self.fill(min_bytes)? {
                        continue;
                    }
                    // Docker accepts archives without the two zero blocks, so what just stops is whole.
                    return if self.buffer[self.start..].iter().all(|&byte| byte == 0) {
                        Ok(None)
                    } else {
                        let offset = self.offset + (self.buffer.len() - self.start) as u64;
                        Err(ArchiveError::Truncated { offset })
                    };
                }
                ParseEvent::GlobalExtensions { consumed, .. } => {
                    self.advance(consumed);
                    continue;
                }
                ParseEvent::End { .. } => return Ok(None),
                ParseEvent::Entry { consumed, entry } => {
                    let raw = convert(&entry, None, self.whiteouts)?;
                    (consumed, raw, stored_size(&entry))
                }
                ParseEvent::SparseEntry {
                    consumed,
                    entry,
                    sparse_map,
                    real_size,
                } => {
                    let extents: Vec<Extent> = sparse_map
                        .iter()
                        .map(|run| Extent {
                            offset: run.offset,
                            length: run.length,
                        })
                        .collect();
                    let size = stored_size(&entry);
                    let extents = check_sparse(&entry, extents, real_size, size)?;
                    let raw = convert(&entry, Some((extents, real_size)), self.whiteouts)?;
                    (consumed, raw, size)
                }
            };
            self.advance(consumed);
            self.content = size;
            self.padding = padding(size) as u64;
            let Some((path, item, sparse)) = raw else {
                self.skip_content()?;
                continue;
            };
            return Ok(Some(RawEntry {
                path,
                item,
                offset: self.offset,
                sparse,
            }));
        }
    }

    /// Reads some of the present entry's content into `out`; 0 at its end.
    pub(super) fn read_content(&mut self, out: &mut [u8]) -> Result<usize, ArchiveError> {
        let wanted = usize::try_from(self.content).map_or(out.len(), |left| left.min(out.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.read_some(&mut out[..wanted])?;
        self.content -= length as u64;
        Ok(length)
    }

    fn read_some(&mut self, out: &mut [u8]) -> Result<usize, ArchiveError> {
        let buffered = &self.buffer[self.start..];
        let length = if buffered.is_empty() {
            read(&mut self.input, out)?
        } else {
            let length = buffered.len().min(out.len());
            out[..length].copy_from_slice(&buffered[..length]);
            self.start += length;
            length
        };
        self.offset += length as u64;
        if length == 0 {
            return Err(ArchiveError::Truncated {
                offset: self.offset,
            });
        }
        Ok(length)
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut sink = [0; 16 << 10];
        while self.content + self.padding > 0 {
            let is_padding = self.content == 0;
            let part = if is_padding {
                &mut self.padding
            } else {
                &mut self.content
            };
            let wanted = usize::try_from(*part).map_or(sink.len(), |left| left.min(sink.len()));
            *part -= wanted as u64;
            let mut done = 0;
            while done < wanted {
                done += match self.read_some(&mut sink[done..wanted]) {
                    // The padding of the last entry may be missing along with the end marker.
                    Err(ArchiveError::Truncated { .. }) if is_padding => break,
                    other => other?,
                };
            }
        }
        Ok(())
    }

    fn advance(&mut self, consumed: usize) {
        self.start += consumed;
        self.offset += consumed as u64;
    }

    /// Makes at least `length` bytes available; `false` when the input ends before.
    fn fill(&mut self, length: usize) -> Result<bool, ArchiveError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        while self.buffer.len() < length {
            let end = self.buffer.len();
            self.buffer.resize(length.next_multiple_of(4096), 0);
            let more = read(&mut self.input, &mut self.buffer[end..]);
            self.buffer
                .truncate(end + more.as_ref().map_or(0, |more| *more));
            if more? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// One read; an interrupted one is tried again.
fn read(input: &mut impl Read, out: &mut [u8]) -> Result<usize, ArchiveError> {
    loop {
        match input.read(out) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|source| ArchiveError::Read { source }),
        }
    }
}

/// How many bytes follow the header. Only files have content; old archives give links the size of their target.
fn stored_size(entry: &ParsedEntry<'_>) -> u64 {
    if matches!(flag(entry), b'1'..=b'6') {
        0
    } else {
        entry.size
    }
}

fn flag(entry: &ParsedEntry<'_>) -> u8 {
    entry.header.as_bytes()[156]
}

type Converted = Option<(PathBuf, RawItem, Option<Vec<Extent>>)>;

/// Gives an entry its meaning; `None` for one that has none.
fn convert(
    entry: &ParsedEntry<'_>,
    sparse: Option<(Vec<Extent>, u64)>,
    whiteouts: Whiteouts,
) -> Result<Converted, ArchiveError> {
    let raw_path = as_path(&entry.path);
    let path = clean(&raw_path).ok_or_else(|| ArchiveError::Name {
        path: raw_path.clone(),
    })?;
    if whiteouts == Whiteouts::Meant {
        match whiteout(&path)? {
            Whiteout::None => {}
            Whiteout::Is(path, item) => return Ok(Some((path, item, None))),
            Whiteout::Bookkeeping => return Ok(None),
        }
    }
    let link = || -> Result<PathBuf, ArchiveError> {
        entry
            .link_target
            .as_deref()
            .filter(|target| !target.contains(&0))
            .map(as_path)
            .ok_or_else(|| ArchiveError::LinkTarget { path: path.clone() })
    };
    let device = || -> Result<(u32, u32), ArchiveError> {
        Ok((entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0)))
    };
    let kind = match flag(entry) {
        // Before POSIX, directories were files with a slash.
        0 if entry.path.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' | b'S' => Kind::File {
            size: sparse.as_ref().map_or(entry.size, |(_, size)| *size),
        },
        b'1' => {
            let target = clean(&link()?).filter(|target| !target.as_os_str().is_empty());
            let target = target.ok_or_else(|| ArchiveError::LinkTarget { path: path.clone() })?;
            let metadata = Box::new(metadata(entry, Kind::File { size: 0 }, &path)?);
            return Ok(Some((path, RawItem::Link { target, metadata }, None)));
        }
        b'2' => Kind::Symlink { target: link()? },
        b'3' => {
            let (major, minor) = device()?;
            Kind::Char { major, minor }
        }
        b'4' => {
            let (major, minor) = device()?;
            Kind::Block { major, minor }
        }
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        flag => return Err(ArchiveError::EntryType { path, flag }),
    };
    if path.as_os_str().is_empty() && kind != Kind::Dir {
        return Err(ArchiveError::Name { path: raw_path });
    }
    let metadata = metadata(entry, kind, &path)?;
    Ok(Some((
        path,
        RawItem::Node(metadata),
        sparse.map(|(map, _)| map),
    )))
}

fn metadata(entry: &ParsedEntry<'_>, kind: Kind, path: &Path) -> Result<Metadata, ArchiveError> {
    let number = |field| ArchiveError::Number {
        path: path.to_owned(),
        field,
    };
    let mut mtime = Timestamp::from_seconds(entry.mtime.cast_signed());
    for record in entry.pax.into_iter().flat_map(PaxExtensions::new) {
        // A broken record was an error of the parser already.
        let Ok(record) = record else { break };
        let text = str::from_utf8(record.value_bytes()).ok();
        match record.key_bytes() {
            b"mtime" => {
                mtime = text
                    .and_then(parse_time)
                    .ok_or_else(|| number("modification time"))?;
            }
            b"uid" if text.is_none_or(|text| text.parse::<u64>().is_err()) => {
                return Err(number("owner"));
            }
            b"gid" if text.is_none_or(|text| text.parse::<u64>().is_err()) => {
                return Err(number("group"));
            }
            b"size" if text.is_none_or(|text| text.parse::<u64>().is_err()) => {
                return Err(number("size"));
            }
            _ => {}
        }
    }
    Ok(Metadata {
        kind,
        mode: entry.mode & 0o7777,
        uid: u32::try_from(entry.uid)
            .ok()
            .ok_or_else(|| number("owner"))?,
        gid: u32::try_from(entry.gid)
            .ok()
            .ok_or_else(|| number("group"))?,
        mtime,
        xattrs: entry
            .xattrs
            .iter()
            .filter(|(name, _)| !name.is_empty() && !name.contains(&0))
            .map(|(name, value)| (OsString::from_vec(name.to_vec()), value.to_vec()))
            .collect(),
    })
}

/// Decimal seconds with an optional sign and fraction.
fn parse_time(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.get(..9).unwrap_or(fraction);
    let nanos: u32 = format!("{digits:0<9}").parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(Timestamp {
            seconds: seconds.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Some(Timestamp { seconds, nanos })
}

/// Checks that the stored runs are in order, inside the file, and as long together as what is stored. Empty runs, by which
/// archivers mark the end of a file, are left out.
fn check_sparse(
    entry: &ParsedEntry<'_>,
    map: Vec<Extent>,
    real_size: u64,
    stored: u64,
) -> Result<Vec<Extent>, ArchiveError> {
    let lie = |problem| ArchiveError::Sparse {
        path: as_path(&entry.path),
        problem,
    };
    if real_size > MAX_SPARSE {
        return Err(lie("makes it larger than 64 GiB"));
    }
    let (mut end, mut sum) = (0_u64, 0_u64);
    for run in &map {
        if run.offset < end {
            return Err(lie("goes backwards"));
        }
        end = run
            .offset
            .checked_add(run.length)
            .filter(|&end| end <= real_size)
            .ok_or_else(|| lie("goes beyond its end"))?;
        sum += run.length;
    }
    if sum != stored {
        return Err(lie("does not add up to what is stored"));
    }
    Ok(map.into_iter().filter(|run| run.length > 0).collect())
}

fn as_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// A name as a path below the root: absolute ones begin there, `..` is undone as long as it stays inside.
fn clean(path: &Path) -> Option<PathBuf> {
    if path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
        return None;
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(clean)
}

enum Whiteout {
    /// The name is an ordinary one.
    None,
    Is(PathBuf, RawItem),
    /// Left behind by AUFS; means nothing to anybody else.
    Bookkeeping,
}

/// What a name says by its `.wh.`.
fn whiteout(path: &Path) -> Result<Whiteout, ArchiveError> {
    let marked = |name: &std::ffi::OsStr| name.as_bytes().starts_with(WHITEOUT_PREFIX);
    let error = || ArchiveError::Whiteout {
        path: path.to_owned(),
    };
    let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
        return Ok(Whiteout::None);
    };
    for above in parent {
        if above.as_bytes().starts_with(b".wh..wh.") {
            return Ok(Whiteout::Bookkeeping);
        }
        if marked(above) {
            return Err(error());
        }
    }
    let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX) else {
        return Ok(Whiteout::None);
    };
    if name.as_bytes() == OPAQUE_NAME {
        return Ok(Whiteout::Is(parent.to_owned(), RawItem::Opaque));
    }
    if hidden.starts_with(WHITEOUT_PREFIX) {
        return Ok(Whiteout::Bookkeeping);
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(error());
    }
    let path = parent.join(std::ffi::OsStr::from_bytes(hidden));
    Ok(Whiteout::Is(path, RawItem::Remove))
}

#[cfg(test)]
mod tests;
