//! Reading archives that others made: every lie an archive can tell is an [`ArchiveError`].
//!
//! The header codec is `tar-core`, which knows ustar, PAX, GNU long names, base-256 numbers and both kinds of sparse
//! files. On top of it: names are made relative, numbers are checked, sparse maps have to add up, and whiteouts get their meaning.

mod entry;

use std::{
    io::{self, BufRead},
    path::PathBuf,
};

use tar_core::parse::{Limits, ParseError, ParseEvent, Parser};

pub(super) use self::entry::{RawEntry, RawItem};
use self::entry::{check_sparse, convert, stored_size};
use super::{tar::padding, toc::Extent};

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

/// As long as Linux lets a path be.
const MAX_PATH: u32 = 4096;
/// Extended headers of one entry: a full set of xattrs has 64 KiB, twice.
const MAX_EXTENSIONS: u32 = 1 << 20;
/// No header with all its extensions is longer; also bounds the buffer.
const MAX_HEADER: usize = 4 << 20;
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

impl<R: BufRead> TarReader<R> {
    pub(super) fn new(input: R, whiteouts: Whiteouts) -> Self {
        let mut parser = Parser::new(Limits {
            max_metadata_size: MAX_EXTENSIONS,
            max_path_len: Some(MAX_PATH),
            ..Limits::default()
        });
        // Times before 1970 have a sign, which the parser takes for an error: all numbers are checked here.
        parser.set_ignore_pax_errors(true);
        parser.set_allow_empty_path(whiteouts == Whiteouts::Names);
        Self {
            input,
            parser,
            buffer: Vec::with_capacity(4 << 10),
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

    /// Hands on the next `length` bytes of the present entry's content, which has to have so many, in pieces that lie where the
    /// input has them.
    pub(super) fn content(
        &mut self,
        mut length: u64,
        to: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ArchiveError> {
        debug_assert!(length <= self.content, "nobody asks for more than there is");
        while length > 0 {
            let passed = self.pass(length, to)?;
            self.content -= passed;
            length -= passed;
        }
        Ok(())
    }

    /// Hands on up to `limit` of the next bytes, which are some.
    fn pass(&mut self, limit: u64, to: &mut dyn FnMut(&[u8])) -> Result<u64, ArchiveError> {
        let buffered = &self.buffer[self.start..];
        let available = if buffered.is_empty() {
            available(&mut self.input)?
        } else {
            buffered
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let bytes = &available[..available.len().min(limit)];
        to(bytes);
        let length = bytes.len();
        if self.start < self.buffer.len() {
            self.start += length;
        } else {
            self.input.consume(length);
        }
        self.offset += length as u64;
        if length == 0 {
            return Err(ArchiveError::Truncated {
                offset: self.offset,
            });
        }
        Ok(length as u64)
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        while self.content > 0 {
            self.content -= self.pass(self.content, &mut |_| {})?;
        }
        while self.padding > 0 {
            self.padding -= match self.pass(self.padding, &mut |_| {}) {
                // The padding of the last entry may be missing along with the end marker.
                Err(ArchiveError::Truncated { .. }) => self.padding,
                passed => passed?,
            };
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
        // Content is left where it is, to be handed on from there.
        while self.buffer.len() < length {
            let bytes = available(&mut self.input)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let more = bytes.len().min(length - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..more]);
            self.input.consume(more);
        }
        Ok(true)
    }
}

/// The next bytes; none at the end. An interrupted read is tried again.
fn available(input: &mut impl BufRead) -> Result<&[u8], ArchiveError> {
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ArchiveError::Read { source }),
        }
    }
    // There they are already; a loop cannot lend what it may have to ask for again.
    input
        .fill_buf()
        .map_err(|source| ArchiveError::Read { source })
}

#[cfg(test)]
mod tests;
