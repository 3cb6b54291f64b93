//! One member on its way from the layout to the packers: what it consists of, and its bytes.
//!
//! The layout knows where members end before it has read a single file, so files below the size of a member are read by
//! the packers, on all threads. Larger ones are read front to back by the layout, which is their one reader.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::super::{
    Content, LayerError,
    buffer::{Buffer, Buffers},
    tar::BLOCK,
};
use crate::oci::{Digest, Digester};

/// What a member consists of, one after the other.
#[derive(Debug)]
pub(super) enum Part {
    /// Headers and what fills up blocks.
    Bytes(Vec<u8>),
    /// A whole file.
    File {
        path: PathBuf,
        content: Content,
        size: u64,
        /// Its place among the entries of the table.
        entry: u64,
        digest: Option<Digest>,
    },
    /// A part of a large file whose digest is known.
    Piece {
        file: Arc<LargeFile>,
        start: u64,
        length: u64,
    },
    /// A part of a large file that has been read already, for its digest.
    Read(Buffer),
}

/// What is to be packed.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: Vec<Part>,
    length: u64,
}

/// A member's bytes, and what was learnt by reading them.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) raw: Buffer,
    /// Digests that were not known, with the entries that they are of.
    pub(super) digests: Vec<(u64, Digest)>,
    /// `None` where a large file's digest is known only at its end.
    pub(super) composition: Option<Digest>,
}

impl Parts {
    pub(super) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many bytes it yields.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Appends bytes that `write` adds to a buffer.
    pub(super) fn bytes(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.parts.last(), Some(Part::Bytes(_))) {
            // What fills up the last block of a file, and the header of the next.
            self.parts.push(Part::Bytes(Vec::with_capacity(2 * BLOCK)));
        }
        if let Some(Part::Bytes(bytes)) = self.parts.last_mut() {
            let before = bytes.len();
            write(bytes);
            self.length += (bytes.len() - before) as u64;
        }
    }

    pub(super) fn push(&mut self, part: Part) {
        self.length += match &part {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Read(bytes) => bytes.len() as u64,
            Part::File { size, .. } => *size,
            Part::Piece { length, .. } => *length,
        };
        self.parts.push(part);
    }

    /// What tells it from all members with other bytes, where that is known without reading.
    pub(super) fn composition(&self) -> Option<Digest> {
        let mut composition = Composition::default();
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => composition.bytes(bytes),
                Part::File { size, digest, .. } => composition.file(&(*digest)?, 0, *size),
                Part::Piece {
                    file,
                    start,
                    length,
                } => composition.file(&file.digest, *start, *length),
                Part::Read(_) => return None,
            }
        }
        Some(composition.0.finish())
    }

    /// Reads the pieces of large files, which only one thread may do.
    pub(super) fn read_pieces(&mut self, buffers: &Buffers) -> Result<(), LayerError> {
        for part in &mut self.parts {
            if let Part::Piece {
                file,
                start,
                length,
            } = part
            {
                let mut bytes = buffers.take(*length);
                file.read(*start, *length, &mut bytes)?;
                *part = Part::Read(bytes);
            }
        }
        Ok(())
    }

    /// Reads the files. `composition` is what it is known to be.
    pub(super) fn fill(
        mut self,
        known: Option<Digest>,
        buffers: &Buffers,
    ) -> Result<Filled, LayerError> {
        // What lies inside a large file is there already.
        if matches!(*self.parts, [Part::Read(_)])
            && let Some(Part::Read(raw)) = self.parts.pop()
        {
            return Ok(Filled {
                raw,
                digests: Vec::new(),
                composition: known,
            });
        }
        let mut raw = buffers.take(self.length);
        let mut digests = Vec::new();
        let mut composition = known.is_none().then(Composition::default);
        for part in self.parts {
            match part {
                Part::Bytes(bytes) => {
                    if let Some(composition) = &mut composition {
                        composition.bytes(&bytes);
                    }
                    raw.extend(&bytes);
                }
                Part::Read(bytes) => {
                    composition = None;
                    raw.extend(&bytes);
                    buffers.put(bytes);
                }
                Part::Piece {
                    file,
                    start,
                    length,
                } => file.read(start, length, &mut raw)?,
                Part::File {
                    path,
                    content,
                    size,
                    entry,
                    digest,
                } => {
                    let before = raw.len();
                    let failed = |source| read_error(&path, source);
                    let mut reader = content.open().map_err(failed)?;
                    append(&mut reader, size, &mut raw)
                        .map_err(failed)?
                        .check(&path, 0, size)?;
                    at_end(&mut reader, &path, size)?;
                    let digest = digest.unwrap_or_else(|| {
                        let told = content.known_digest();
                        let digest = told.unwrap_or_else(|| crate::oci::sha256(&raw[before..]));
                        digests.push((entry, digest));
                        digest
                    });
                    if let Some(composition) = &mut composition {
                        composition.file(&digest, 0, size);
                    }
                }
            }
        }
        let composition = known.or_else(|| Some(composition?.0.finish()));
        Ok(Filled {
            raw,
            digests,
            composition,
        })
    }
}

/// A digest over what a member consists of. Bytes and files are told apart by tags and lengths.
#[derive(Default)]
struct Composition(Digester);

impl Composition {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(b"bytes");
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn file(&mut self, digest: &Digest, start: u64, length: u64) {
        self.0.update(b"file ");
        self.0.update(digest.as_bytes());
        self.0.update(&start.to_le_bytes());
        self.0.update(&length.to_le_bytes());
    }
}

/// A file of which every member holds a part. It is opened when the first part is read.
#[derive(Debug)]
pub(super) struct LargeFile {
    pub(super) path: PathBuf,
    pub(super) content: Content,
    pub(super) size: u64,
    pub(super) digest: Digest,
    pub(super) reader: Mutex<Option<OpenFile>>,
}

/// A reader and where it is.
pub(super) struct OpenFile {
    reader: Box<dyn Read + Send>,
    position: u64,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenFile({})", self.position)
    }
}

impl LargeFile {
    /// Appends a part. Parts are read in their order, earlier ones may be left out.
    fn read(&self, start: u64, length: u64, out: &mut Buffer) -> Result<(), LayerError> {
        let failed = |source| read_error(&self.path, source);
        let mut open = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = match open.take() {
            Some(file) if file.position <= start => file,
            _ => OpenFile {
                reader: self.content.open().map_err(failed)?,
                position: 0,
            },
        };
        let skipped = io::copy(
            &mut (&mut file.reader).take(start - file.position),
            &mut io::sink(),
        );
        file.position += skipped.map_err(failed)?;
        append(&mut file.reader, length, out)
            .map_err(failed)?
            .check(&self.path, file.position, self.size)?;
        file.position += length;
        if file.position == self.size {
            at_end(&mut file.reader, &self.path, self.size)?;
        } else {
            *open = Some(file);
        }
        Ok(())
    }
}

/// How many bytes were found where some were expected.
pub(super) struct Appended {
    found: u64,
    wanted: u64,
}

impl Appended {
    /// An error if the file of `size` bytes ended too early; the reading began at `start`.
    pub(super) fn check(&self, path: &Path, start: u64, size: u64) -> Result<(), LayerError> {
        if self.found == self.wanted {
            return Ok(());
        }
        Err(LayerError::SizeChanged {
            path: path.to_owned(),
            expected: size,
            found: format!("{} found", start + self.found),
        })
    }
}

/// Appends as many bytes, or all there are.
pub(super) fn append(reader: &mut dyn Read, wanted: u64, out: &mut Buffer) -> io::Result<Appended> {
    let length = usize::try_from(wanted).map_err(io::Error::other)?;
    let found = out.extend_with(length, |room| {
        let mut filled = 0;
        while filled < length {
            match reader.read(&mut room[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    })?;
    Ok(Appended {
        found: found as u64,
        wanted,
    })
}

/// An error if the file goes on.
pub(super) fn at_end(reader: &mut dyn Read, path: &Path, size: u64) -> Result<(), LayerError> {
    let mut probe = [0];
    loop {
        match reader.read(&mut probe) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                return Err(LayerError::SizeChanged {
                    path: path.to_owned(),
                    expected: size,
                    found: "more found".to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(path, error)),
        }
    }
}

pub(super) fn read_error(path: &Path, source: io::Error) -> LayerError {
    LayerError::Read {
        path: path.to_owned(),
        source,
    }
}
