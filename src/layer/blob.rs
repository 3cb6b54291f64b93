//! Random access to the bytes of a layer's tar.
//!
//! Three ways, by what the blob is: a plain tar is read in place; a blob of small members (all that this program writes) is
//! decompressed from the member that has the byte, the last few members kept; any other is decompressed once, to an unnamed file
//! in a scratch directory, when something is read from it; a few reads near its beginning, such as those of `/etc/passwd` for a
//! user's name, decompress that beginning instead. Without a scratch directory it is decompressed for each read.
//!
//! The blob was verified when it came, but disks forget. What the checksums of gzip do not cover, since the stream is not read to its
//! end or has none, is compared with the digest of the file where the table of contents has it.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rustix::fs::{Mode, OFlags};

use super::{
    decode::Decoder,
    read::ArchiveError,
    toc::{Encoding, Extent, FileContent, Toc},
};
use crate::oci::{Digest, Digester};

/// Gives the file that holds a blob, fetching it first where it is still elsewhere.
pub trait BlobSource: Send + Sync {
    /// The file, opened for reading at its start.
    fn open(&self) -> io::Result<File>;
}

impl BlobSource for PathBuf {
    fn open(&self) -> io::Result<File> {
        File::open(self)
    }
}

/// A layer: what is in it, and how to come by its bytes.
pub struct LayerBlob {
    toc: Arc<Toc>,
    source: Box<dyn BlobSource>,
    scratch: Option<PathBuf>,
    file: OnceLock<File>,
    /// The tar, once it had to be decompressed as a whole.
    spool: OnceLock<File>,
    /// The digests of all files by their offsets, where the table of contents lacks them and one was asked for.
    digests: OnceLock<HashMap<u64, Digest>>,
    /// Whether somebody was given them.
    was_told: AtomicBool,
    /// Held while `file` or `spool` is being made.
    making: Mutex<()>,
    /// Held while `digests` is.
    hashing: Mutex<()>,
    recent: Mutex<VecDeque<(usize, Arc<[u8]>)>>,
    /// How often the beginning was decompressed for a read.
    peeks: AtomicU32,
}

/// Reads that end before this offset in the tar are not worth a decompressed copy, as long as they are few.
const BEGINNING: u64 = 24 << 20;
/// How many.
const MAX_PEEKS: u32 = 4;

/// Members that yield more than this are not kept in memory.
const MAX_KEPT: u64 = 8 << 20;
/// How many members are kept for each layer.
const KEPT: usize = 4;

impl LayerBlob {
    /// A layer whose blob comes from `source`. `scratch` is a directory for a decompressed copy, should one be needed.
    pub fn new(
        toc: Arc<Toc>,
        source: impl BlobSource + 'static,
        scratch: Option<PathBuf>,
    ) -> Arc<Self> {
        Arc::new(Self {
            toc,
            source: Box::new(source),
            scratch,
            file: OnceLock::new(),
            spool: OnceLock::new(),
            digests: OnceLock::new(),
            was_told: AtomicBool::new(false),
            making: Mutex::new(()),
            hashing: Mutex::new(()),
            recent: Mutex::new(VecDeque::new()),
            peeks: AtomicU32::new(0),
        })
    }

    /// What is in the layer.
    pub fn toc(&self) -> &Arc<Toc> {
        &self.toc
    }

    /// The whole tar, front to back.
    pub fn tar(&self) -> io::Result<Box<dyn Read + Send>> {
        if let Some(spool) = self.spool.get() {
            return Ok(Box::new(at(spool, 0)?));
        }
        Ok(Box::new(Decoder::new(at(self.file()?, 0)?)?))
    }

    /// The bytes of one of the layer's files.
    pub(super) fn file_content(
        self: &Arc<Self>,
        content: &FileContent,
        size: u64,
    ) -> io::Result<Box<dyn Read + Send>> {
        Ok(match &content.sparse {
            None => {
                let bytes = self.range(content.offset, size)?;
                match content.digest {
                    Some(expected) if !self.has_checksums() => Box::new(Verified {
                        bytes,
                        left: size,
                        digester: Digester::new(),
                        expected,
                    }),
                    _ => bytes,
                }
            }
            Some(map) => Box::new(SparseReader {
                blob: Arc::clone(self),
                runs: map.clone().into_iter(),
                stored: content.offset,
                position: 0,
                size,
                hole: 0,
                run: None,
            }),
        })
    }

    /// The digest of one of the layer's files. Where the table of contents does not say, all files are hashed, once.
    pub(super) fn file_digest(&self, content: &FileContent) -> io::Result<Digest> {
        if let Some(digest) = content.digest {
            return Ok(digest);
        }
        let _hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        let digests = if let Some(digests) = self.digests.get() {
            digests
        } else {
            let found = self.hash_files()?;
            self.digests.get_or_init(|| found)
        };
        let digest = digests.get(&content.offset).copied();
        digest.ok_or_else(|| damaged("it has other files than its table of contents says"))
    }

    fn hash_files(&self) -> io::Result<HashMap<u64, Digest>> {
        // Who wants to know what files are like is about to read some.
        let is_spooled = self.toc.encoding != Encoding::Plain && !self.has_small_members();
        let spool = if is_spooled { self.spooled()? } else { None };
        let tar = match spool {
            Some(spool) => spool,
            None => self.file()?,
        };
        let toc = Toc::read(at(tar, 0)?).map_err(io::Error::other)?;
        if toc.diff_id != self.toc.diff_id {
            return Err(damaged("its diffID is another one"));
        }
        let known = toc.entries.iter().filter_map(|entry| {
            let content = entry.item.content()?;
            Some((content.offset, content.digest?))
        });
        Ok(known.collect())
    }

    /// The table of contents with the digests that it lacked, if one was asked for since the last call.
    pub fn completed(&self) -> Option<Toc> {
        let digests = self.digests.get()?;
        if self.was_told.swap(true, Ordering::Relaxed) {
            return None;
        }
        let mut toc = Toc::clone(&self.toc);
        for entry in &mut toc.entries {
            if let Some(content) = entry.item.content_mut() {
                content.digest = digests.get(&content.offset).copied();
            }
        }
        Some(toc)
    }

    /// `length` bytes of the tar from `offset`.
    fn range(self: &Arc<Self>, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= self.toc.tar_size);
        let end = end.ok_or_else(|| damaged("a file lies beyond its end"))?;
        if self.toc.encoding == Encoding::Plain {
            return Ok(Box::new(at(self.file()?, offset)?.take(length)));
        }
        if self.has_small_members() {
            return Ok(Box::new(MemberReader {
                blob: Arc::clone(self),
                position: offset,
                end,
                member: None,
            }));
        }
        let is_peek = self.spool.get().is_none()
            && end <= BEGINNING
            && self.peeks.fetch_add(1, Ordering::Relaxed) < MAX_PEEKS;
        if !is_peek && let Some(spool) = self.spooled()? {
            return Ok(Box::new(at(spool, offset)?.take(length)));
        }
        let mut tar = self.tar()?;
        let skipped = io::copy(&mut (&mut tar).take(offset), &mut io::sink())?;
        if skipped < offset {
            return Err(damaged("it is shorter than its table of contents says"));
        }
        Ok(Box::new(tar.take(length)))
    }

    /// Whether all that is read from it now was compared with a checksum.
    fn has_checksums(&self) -> bool {
        self.toc.encoding == Encoding::Gzip
            && (self.spool.get().is_some() || self.has_small_members())
    }

    fn has_small_members(&self) -> bool {
        (0..self.toc.members.len()).all(|index| self.tar_span(index) <= MAX_KEPT)
    }

    /// How many bytes a member yields.
    pub(super) fn tar_span(&self, index: usize) -> u64 {
        let members = &self.toc.members;
        let end = members
            .get(index + 1)
            .map_or(self.toc.tar_size, |next| next.tar_offset);
        end.saturating_sub(members[index].tar_offset)
    }

    /// The blob itself.
    pub(super) fn file(&self) -> io::Result<&File> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = self.source.open()?;
        Ok(self.file.get_or_init(|| file))
    }

    /// The decompressed copy; `None` when there is no place for one.
    fn spooled(&self) -> io::Result<Option<&File>> {
        let Some(scratch) = &self.scratch else {
            return Ok(None);
        };
        let file = self.file()?;
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spool) = self.spool.get() {
            return Ok(Some(spool));
        }
        std::fs::create_dir_all(scratch)?;
        let mut spool = unnamed(scratch)?;
        let length = io::copy(&mut Decoder::new(at(file, 0)?)?, &mut spool)?;
        if length != self.toc.tar_size {
            return Err(damaged("it is not as long as its table of contents says"));
        }
        Ok(Some(self.spool.get_or_init(|| spool)))
    }

    /// All bytes that a member yields.
    fn member(&self, index: usize) -> io::Result<Arc<[u8]>> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = recent().iter().find(|(kept, _)| *kept == index) {
            return Ok(Arc::clone(bytes));
        }
        let span = usize::try_from(self.tar_span(index)).map_err(io::Error::other)?;
        let members = &self.toc.members;
        let start = members[index].blob_offset;
        let end = members.get(index + 1).map(|next| next.blob_offset);
        let blob = at(self.file()?, start)?.take(end.unwrap_or(u64::MAX) - start);
        let mut bytes = vec![0; span];
        let mut member = Decoder::new(blob)?;
        member.read_exact(&mut bytes).map_err(unreadable)?;
        // The checksum is looked at when there is nothing more.
        if member.read(&mut [0]).map_err(unreadable)? > 0 {
            return Err(damaged("a member is longer than the table says"));
        }
        let bytes: Arc<[u8]> = bytes.into();
        let mut recent = recent();
        if recent.len() >= KEPT {
            recent.pop_front();
        }
        recent.push_back((index, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerBlob({})", self.toc.diff_id)
    }
}

fn damaged(problem: &str) -> io::Error {
    let problem = format!("the layer is damaged: {problem}");
    unreadable(io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// The error of a decoder, told from those of files by what is in it.
fn unreadable(source: io::Error) -> io::Error {
    io::Error::new(source.kind(), ArchiveError::Read { source })
}

/// A reader with a position of its own.
fn at(file: &File, position: u64) -> io::Result<At> {
    let file = file.try_clone()?;
    Ok(At { file, position })
}

struct At {
    file: File,
    position: u64,
}

impl Read for At {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(out, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

/// A file without a name, gone when it is closed.
fn unnamed(dir: &PathBuf) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Not every file system has O_TMPFILE; overlayfs learned it in Linux 6.1.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let path = dir.join(format!("spool-{}-{:p}", std::process::id(), dir));
            let mut file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            std::fs::remove_file(&path)?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

/// The bytes of a file, the last of which do not come if they do not have its digest.
struct Verified<R> {
    bytes: R,
    left: u64,
    digester: Digester,
    expected: Digest,
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.read(out)?;
        self.digester.update(&out[..length]);
        self.left -= length as u64;
        if length > 0 && self.left == 0 && self.digester.clone().finish() != self.expected {
            return Err(damaged("a file does not have its digest"));
        }
        Ok(length)
    }
}

/// Reads across members.
struct MemberReader {
    blob: Arc<LayerBlob>,
    position: u64,
    end: u64,
    member: Option<(u64, Arc<[u8]>)>,
}

impl Read for MemberReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.end || out.is_empty() {
            return Ok(0);
        }
        let (start, bytes) = match &self.member {
            Some((start, bytes)) if self.position < start + bytes.len() as u64 => (*start, bytes),
            _ => {
                let members = &self.blob.toc.members;
                let after = members.partition_point(|member| member.tar_offset <= self.position);
                let index = after
                    .checked_sub(1)
                    .ok_or_else(|| damaged("it has no first member"))?;
                let start = members[index].tar_offset;
                let bytes = self.blob.member(index)?;
                let (start, bytes) = self.member.insert((start, bytes));
                (*start, &*bytes)
            }
        };
        let skip = usize::try_from(self.position - start).map_err(io::Error::other)?;
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let available = bytes.get(skip..).unwrap_or_default();
        let length = available.len().min(out.len()).min(left);
        if length == 0 {
            return Err(damaged("a member is shorter than the table says"));
        }
        out[..length].copy_from_slice(&available[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

/// Reads a sparse file: holes as zeros.
struct SparseReader {
    blob: Arc<LayerBlob>,
    runs: std::vec::IntoIter<Extent>,
    /// Where in the tar the next run is stored.
    stored: u64,
    /// Where in the file the part after the present hole and run begins.
    position: u64,
    size: u64,
    hole: u64,
    run: Option<Box<dyn Read + Send>>,
}

impl Read for SparseReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.hole > 0 {
                let length =
                    usize::try_from(self.hole).map_or(out.len(), |left| left.min(out.len()));
                out[..length].fill(0);
                self.hole -= length as u64;
                return Ok(length);
            }
            if let Some(run) = &mut self.run {
                let length = run.read(out)?;
                if length > 0 {
                    return Ok(length);
                }
                self.run = None;
            }
            if let Some(run) = self.runs.next() {
                self.hole = run.offset.saturating_sub(self.position);
                self.position = run.offset + run.length;
                self.run = Some(self.blob.range(self.stored, run.length)?);
                self.stored += run.length;
            } else if self.position < self.size {
                self.hole = self.size - self.position;
                self.position = self.size;
            } else {
                return Ok(0);
            }
        }
    }
}
