//! Lays out the tar of a layer and cuts it into members.
//!
//! Members are cut at the borders of entries where a hash of the path, weighed with the entry's size, says so: about every
//! 1 MiB, and after an edit the cuts fall where they fell before, so that later members keep their bytes. A file of 1 MiB or
//! more has members of its own, cut inside every 1 MiB.

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc::SyncSender},
};

use super::{
    super::{
        Change, Content, LayerError,
        buffer::Buffers,
        change::{Canonical, OPAQUE_NAME, WHITEOUT_PREFIX},
        reuse::Earlier,
        tar::{self, Header},
        toc::{Checkpoint, Entries, FileContent, TocEntry, TocItem},
    },
    Job, Start,
    member::{LargeFile, Part, Parts, append, at_end, read_error},
};
use crate::{
    oci::{Digest, Digester, sha256},
    tree::{Kind, Metadata},
};

/// A member shorter than this is not cut between small files.
pub(super) const LEAST: u64 = 256 << 10;
/// Mean number of bytes after [`LEAST`] until a cut.
const MEAN: u64 = 768 << 10;
/// A member this long is cut at the next border.
const MOST: u64 = 2 << 20;
/// A file of this size has its own members, of this size.
const PIECE: u64 = 1 << 20;

/// Extended attributes that a layer keeps.
const KEPT_XATTR: &[u8] = b"security.capability";

/// Lays out the tar and cuts it into members.
pub(super) struct Layout<'a, P> {
    /// Takes the members in their order; false when nobody wants any more.
    put: P,
    buffers: &'a Buffers,
    parts: Parts,
    /// Bytes of the tar before the present member.
    before: u64,
    mtime_limit: Option<i64>,
    entries: Entries,
    /// Entries of files whose digest is not known yet, and where it will have to be put.
    unknown: Vec<(u64, usize)>,
    /// Nobody takes members any more; the caller's thread knows why.
    stopped: bool,
    start: SyncSender<Start>,
    /// Until the first member that an earlier blob does not have in the same place.
    prefix: Option<Prefix<'a>>,
}

/// What the layout knows in the end.
pub(super) struct LaidOut {
    pub(super) entries: Entries,
    /// Entries of files whose digest was not known, ascending, and where it has to be put.
    pub(super) unknown: Vec<(u64, usize)>,
    pub(super) tar_size: u64,
}

/// Members that are those of an earlier blob, from the first one on.
struct Prefix<'a> {
    earlier: &'a Earlier,
    length: usize,
    /// Where hashing can go on.
    checkpoint: Option<Checkpoint>,
    /// The members after the checkpoint.
    held: Vec<Job>,
}

impl<'a, P: FnMut(Job) -> bool> Layout<'a, P> {
    pub(super) fn new(
        put: P,
        start: SyncSender<Start>,
        mtime_limit: Option<i64>,
        earlier: Option<&'a Earlier>,
        buffers: &'a Buffers,
    ) -> Self {
        Self {
            put,
            buffers,
            parts: Parts::default(),
            before: 0,
            mtime_limit,
            entries: Entries::default(),
            unknown: Vec::new(),
            stopped: false,
            start,
            prefix: earlier.map(|earlier| Prefix {
                earlier,
                length: 0,
                checkpoint: None,
                held: Vec::new(),
            }),
        }
    }

    pub(super) fn run(mut self, changes: Canonical) -> Result<LaidOut, LayerError> {
        if self.prefix.is_none() {
            self.stopped |= self.start.send(Start::default()).is_err();
        }
        // Links repeat the header of what they link to, which comes earlier.
        let linked = changes.linked.iter().cloned();
        let mut linked: HashMap<PathBuf, Option<Metadata>> =
            linked.map(|path| (path, None)).collect();
        for change in changes {
            let change = change?;
            if self.stopped {
                break;
            }
            match change {
                Change::Put {
                    path,
                    metadata,
                    content,
                } => {
                    let metadata = self.reduce(&path, metadata)?;
                    if !metadata.is_dir()
                        && let Some(of_target) = linked.get_mut(&path)
                    {
                        *of_target = Some(metadata.clone());
                    }
                    self.put(&path, metadata, &content)?;
                }
                Change::Link { path, target } => {
                    let Some(Some(metadata)) = linked.get(&target).cloned() else {
                        return Err(LayerError::LinkTarget { path, target });
                    };
                    let mut header = header_of(&metadata);
                    (header.name, header.link) = (bytes(&path), bytes(&target));
                    (header.type_flag, header.size) = (b'1', 0);
                    self.entry(&header, &path, |_| Ok(()))?;
                    self.entries.push(&TocEntry {
                        path,
                        item: TocItem::Link { target },
                    });
                }
                Change::Remove { path } => {
                    let name = path.file_name().unwrap_or_default().as_bytes();
                    let marker = [WHITEOUT_PREFIX, name].concat();
                    self.whiteout(path.parent().unwrap_or(Path::new("")), &marker)?;
                    self.entries.push(&TocEntry {
                        path,
                        item: TocItem::Remove,
                    });
                }
                Change::Opaque { path } => {
                    self.whiteout(&path, OPAQUE_NAME)?;
                    self.entries.push(&TocEntry {
                        path,
                        item: TocItem::Opaque,
                    });
                }
            }
        }
        self.parts.bytes(|out| out.extend_from_slice(&tar::END));
        self.cut()?;
        self.end_prefix()?;
        Ok(LaidOut {
            entries: self.entries,
            unknown: self.unknown,
            tar_size: self.before,
        })
    }

    /// The metadata as the layer keeps it: whole seconds, no later than asked, file capabilities alone.
    fn reduce(&self, path: &Path, mut metadata: Metadata) -> Result<Metadata, LayerError> {
        metadata.mtime.nanos = 0;
        if let Some(limit) = self.mtime_limit {
            metadata.mtime.seconds = metadata.mtime.seconds.min(limit);
        }
        metadata.mode &= 0o7777;
        metadata
            .xattrs
            .retain(|name, _| name.as_encoded_bytes() == KEPT_XATTR);
        if let Kind::Char { major, minor } | Kind::Block { major, minor } = metadata.kind
            && !(tar::device_fits(major) && tar::device_fits(minor))
        {
            let path = path.to_owned();
            return Err(LayerError::Device { path, major, minor });
        }
        Ok(metadata)
    }

    fn put(
        &mut self,
        path: &Path,
        metadata: Metadata,
        content: &Content,
    ) -> Result<(), LayerError> {
        let mut name = bytes(path).to_vec();
        if metadata.is_dir() {
            name.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
        }
        let mut header = header_of(&metadata);
        header.name = &name;
        let size = header.size;
        let is_file = matches!(metadata.kind, Kind::File { .. });
        let (digest, offset) = self.entry(&header, path, |layout| {
            let offset = layout.before + layout.parts.length();
            let digest = if is_file {
                layout.content(path, content, size)?
            } else {
                None
            };
            Ok((digest, offset))
        })?;
        let number = self.entries.count();
        let place = self.entries.push(&TocEntry {
            path: path.to_owned(),
            item: TocItem::Node {
                metadata,
                content: is_file.then(|| FileContent {
                    digest: Some(digest.unwrap_or_else(|| sha256(b""))),
                    offset,
                    sparse: None,
                }),
            },
        });
        if digest.is_none() {
            self.unknown.extend(place.map(|place| (number, place)));
        }
        Ok(())
    }

    /// An empty file with neither rights nor time.
    fn whiteout(&mut self, dir: &Path, marker: &[u8]) -> Result<(), LayerError> {
        let path = dir.join(OsStr::from_bytes(marker));
        let header = Header {
            name: bytes(&path),
            type_flag: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            link: b"",
            device: (0, 0),
            xattrs: Vec::new(),
        };
        self.entry(&header, &path, |_| Ok(()))
    }

    /// Writes one entry and cuts where a cut is due before, in or after it.
    fn entry<T>(
        &mut self,
        header: &Header<'_>,
        path: &Path,
        content: impl FnOnce(&mut Self) -> Result<T, LayerError>,
    ) -> Result<T, LayerError> {
        if header.size >= PIECE {
            self.cut()?;
        }
        self.parts.bytes(|out| header.write(out));
        let result = content(self)?;
        if tar::padding(header.size) > 0 {
            self.parts.bytes(|out| tar::pad(out, header.size));
        }
        let length = header.size + tar::BLOCK as u64;
        let due = self.parts.length() >= LEAST && falls_after(path, length);
        if header.size >= PIECE || due || self.parts.length() >= MOST {
            self.cut()?;
        }
        Ok(result)
    }

    /// Puts a file into the tar. `None` where its digest will be known when a packer has read the file.
    fn content(
        &mut self,
        path: &Path,
        content: &Content,
        size: u64,
    ) -> Result<Option<Digest>, LayerError> {
        let digest = content.known_digest();
        if size < PIECE {
            if size > 0 || !matches!(content, Content::Empty) {
                self.parts.push(Part::File {
                    path: path.to_owned(),
                    content: content.clone(),
                    size,
                    entry: self.entries.count(),
                    digest,
                });
            }
            return Ok(digest);
        }
        if let Some(digest) = digest {
            let file = Arc::new(LargeFile {
                path: path.to_owned(),
                content: content.clone(),
                size,
                digest,
                reader: Mutex::new(None),
            });
            self.pieces(size, |layout, start, length| {
                layout.parts.push(Part::Piece {
                    file: Arc::clone(&file),
                    start,
                    length,
                });
                Ok(())
            })?;
            return Ok(Some(digest));
        }
        let mut digester = (!content.tells_when_read()).then(Digester::new);
        let mut reader = content.open().map_err(|source| read_error(path, source))?;
        self.pieces(size, |layout, start, length| {
            let mut bytes = layout.buffers.take(length);
            append(&mut reader, length, &mut bytes)
                .map_err(|source| read_error(path, source))?
                .check(path, start, size)?;
            if let Some(digester) = &mut digester {
                digester.update(&bytes);
            }
            layout.parts.push(Part::Read(bytes));
            Ok(())
        })?;
        if self.stopped {
            return Ok(None);
        }
        at_end(&mut reader, path, size)?;
        let told = digester.map_or_else(|| content.known_digest(), |it| Some(it.finish()));
        Ok(Some(told.expect("the tree tells it when the file is read")))
    }

    /// Cuts inside a large file.
    fn pieces(
        &mut self,
        size: u64,
        mut put: impl FnMut(&mut Self, u64, u64) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let mut left = size;
        while left > 0 && !self.stopped {
            if self.parts.length() >= PIECE {
                self.cut()?;
            }
            let room = PIECE.saturating_sub(self.parts.length());
            // No piece is followed by a crumb.
            let length = if left < room + LEAST { left } else { room };
            put(self, size - left, length)?;
            left -= length;
        }
        Ok(())
    }

    /// Hands on the present member, unless an earlier blob has it in the same place.
    fn cut(&mut self) -> Result<(), LayerError> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        self.before += parts.length();
        let composition = parts.composition();
        let job = Job { parts, composition };
        if let Some(prefix) = &mut self.prefix
            && composition.is_some_and(|it| prefix.earlier.has_at(prefix.length, &it, self.buffers))
        {
            prefix.length += 1;
            prefix.held.push(job);
            if let Some(checkpoint) = prefix.earlier.checkpoint(prefix.length) {
                prefix.checkpoint = Some(*checkpoint);
                prefix.held.clear();
            }
            return Ok(());
        }
        self.end_prefix()?;
        self.send(job)
    }

    /// From here on, every member is made or read.
    fn end_prefix(&mut self) -> Result<(), LayerError> {
        let Some(prefix) = self.prefix.take() else {
            return Ok(());
        };
        let start = Start {
            checkpoint: prefix.checkpoint,
        };
        self.stopped |= self.start.send(start).is_err();
        prefix.held.into_iter().try_for_each(|job| self.send(job))
    }

    fn send(&mut self, mut job: Job) -> Result<(), LayerError> {
        if self.stopped {
            return Ok(());
        }
        job.parts.read_pieces(self.buffers)?;
        self.stopped |= !(self.put)(job);
        Ok(())
    }
}

/// Whether a member may end after this entry: with a chance of `length / MEAN`, by the path's hash.
fn falls_after(path: &Path, length: u64) -> bool {
    // FNV-1a, then a finaliser: the upper bits of FNV alone hardly differ between short names.
    let mut hash = bytes(path)
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash % MEAN < length
}

/// A header with all that metadata says; the name is still missing.
fn header_of(metadata: &Metadata) -> Header<'_> {
    let (type_flag, size, link, device): (_, _, &[u8], _) = match &metadata.kind {
        Kind::File { size } => (b'0', *size, b"", (0, 0)),
        Kind::Dir => (b'5', 0, b"", (0, 0)),
        Kind::Symlink { target } => (b'2', 0, bytes(target), (0, 0)),
        Kind::Char { major, minor } => (b'3', 0, b"", (*major, *minor)),
        Kind::Block { major, minor } => (b'4', 0, b"", (*major, *minor)),
        // Sockets were left out when the changes were put in order.
        Kind::Fifo | Kind::Socket => (b'6', 0, b"", (0, 0)),
    };
    Header {
        name: b"",
        type_flag,
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        size,
        mtime: metadata.mtime.seconds,
        link,
        device,
        xattrs: metadata
            .xattrs
            .iter()
            .map(|(name, value)| (name.as_encoded_bytes(), &**value))
            .collect(),
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
