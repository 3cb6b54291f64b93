//! Blobs: `blobs/sha256/HEX`. A file there has the digest that is its name; it is renamed into place when complete
//! and never written again.

use std::{
    fs::{self, File},
    io::{self, Read, Seek as _, Write},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use super::{
    Store, StoreError,
    error::{At as _, with_path},
    follow::{Follower, HeadStart, Lead},
    open_regular,
    temp::rename,
};
use crate::oci::{Descriptor, Digest, Digester, sha256};

/// The most bytes a manifest, index or config may have; registries refuse more than 4 MiB for a manifest, and
/// configs with inline caches are the largest documents there are.
pub const MAX_DOCUMENT_BYTES: u64 = 32 << 20;

/// A file that is to become a blob. Dropped without [`BlobFile::commit`], nothing remains.
#[derive(Debug)]
pub struct BlobFile<'a> {
    store: &'a Store,
    path: PathBuf,
    file: File,
    size: u64,
    committed: bool,
    lead: Option<Lead>,
}

impl BlobFile<'_> {
    /// How many bytes were written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A reader of what is written, which may be ahead of any check. It fails when the blob is given up.
    pub fn follow(&mut self) -> Result<Follower, StoreError> {
        let (lead, follower) = Lead::new(&self.file, self.size).at("read", &self.path)?;
        self.lead = Some(lead);
        Ok(follower)
    }

    /// Takes over the first `length` bytes of `earlier`; nothing was written before. Where the file system can share them, they
    /// are not even copied.
    pub fn start_as(&mut self, earlier: &File, length: u64) -> io::Result<()> {
        let mut earlier = earlier;
        earlier.rewind()?;
        let copied = io::copy(&mut earlier.take(length), &mut self.file);
        self.size += copied.map_err(with_path("write", &self.path))?;
        if self.size < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Lets those who follow a head start follow this, and says whether they do: when it does not begin as they were told, they
    /// learn that nothing comes.
    pub fn lead_on(&mut self, start: HeadStart) -> io::Result<bool> {
        self.lead = start.arrive(&self.file, self.size)?;
        Ok(self.lead.is_some())
    }

    /// Makes what was written the blob `digest`, which the caller has computed from the very bytes that it wrote.
    pub fn commit(mut self, digest: &Digest) -> Result<(), StoreError> {
        if let Some(lead) = &self.lead {
            lead.complete(self.size, *digest);
        }
        let path = self.store.blob_path(digest);
        // A blob that is there stays: somebody may be reading it. One of another size was torn by a power loss.
        if self.store.blob_size(digest)? != Some(self.size) {
            self.committed = true;
            rename(&self.path, &path)?;
            self.store.grown.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// [`BlobFile::commit`] for bytes that the caller has found to have the digest of a descriptor. Their number is checked.
    pub fn commit_as(self, descriptor: &Descriptor) -> Result<(), StoreError> {
        check_size(descriptor, self.size)?;
        self.commit(&descriptor.digest)
    }
}

/// So many bytes were announced.
fn check_size(descriptor: &Descriptor, actual: u64) -> Result<(), StoreError> {
    if actual == descriptor.size {
        return Ok(());
    }
    Err(StoreError::Size {
        digest: descriptor.digest,
        expected: descriptor.size,
        actual,
    })
}

impl Write for BlobFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self
            .file
            .write(bytes)
            .map_err(with_path("write", &self.path))?;
        self.size += n as u64;
        if let Some(lead) = &self.lead {
            lead.wrote(self.size);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobFile<'_> {
    fn drop(&mut self) {
        if !self.committed {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Takes the bytes of a new blob and finds out its digest. Dropped without [`BlobWriter::commit`], nothing remains.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    file: BlobFile<'a>,
    digester: Digester,
}

impl BlobWriter<'_> {
    /// How many bytes were written.
    pub fn size(&self) -> u64 {
        self.file.size
    }

    /// What was written so far, for reading it before it becomes a blob.
    pub fn written(&self) -> Result<File, StoreError> {
        let path = &self.file.path;
        File::open(path).at("read", path)
    }

    /// Forgets all that was written, for beginning again.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let BlobFile { file, path, .. } = &mut self.file;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .at("write", path)?;
        self.digester = Digester::new();
        self.file.size = 0;
        Ok(())
    }

    /// Makes what was written a blob of the store and says which. With `expected`, other bytes are refused and
    /// thrown away.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let (digest, size) = (self.digester.finish(), self.file.size);
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(StoreError::Corrupt {
                digest: *expected,
                actual: digest,
            });
        }
        self.file.commit(&digest)?;
        Ok((digest, size))
    }

    /// [`BlobWriter::commit`] for bytes that a descriptor announced, which must have its digest and its size.
    pub fn commit_as(self, descriptor: &Descriptor) -> Result<(), StoreError> {
        check_size(descriptor, self.file.size)?;
        self.commit(Some(&descriptor.digest)).map(|_| ())
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.digester.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store {
    /// The file that holds a blob, if the store has it.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether the store has a blob. Who asks is taken to count on it: it is not removed while the store is open here.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.blob_size(digest)?.is_some())
    }

    /// Whether the store has a blob with the size that its descriptor says.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool, StoreError> {
        Ok(self.blob_size(&descriptor.digest)? == Some(descriptor.size))
    }

    /// The size of a blob, `None` when the store does not have it.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let found = self.uses.mark(&self.blob_path(digest))?;
        Ok(found.map(|metadata| metadata.len()))
    }

    /// Whether the store has a blob, which does not count as using it.
    pub(super) fn is_there(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        path.try_exists().at("read", &path)
    }

    /// Whether a blob that was not there before came into the store through this value. Documents do not count.
    pub fn has_grown(&self) -> bool {
        self.grown.load(Ordering::Relaxed)
    }

    /// Begins a new blob.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        Ok(BlobWriter {
            file: self.blob_file()?,
            digester: Digester::new(),
        })
    }

    /// Begins a new blob whose digest the caller computes.
    pub fn blob_file(&self) -> Result<BlobFile<'_>, StoreError> {
        let (path, file) = self.workspace.file()?;
        Ok(BlobFile {
            store: self,
            path,
            file,
            size: 0,
            committed: false,
            lead: None,
        })
    }

    /// Stores bytes that are in memory.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = sha256(bytes);
        let path = self.blob_path(&digest);
        if self.blob_size(&digest)? != Some(bytes.len() as u64) {
            self.workspace.replace(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Stores what a reader gives, which must have the digest and size of `descriptor`. No more than that many
    /// bytes are read. A blob that is there already is not read again.
    pub fn put_blob(&self, descriptor: &Descriptor, reader: impl Read) -> Result<(), StoreError> {
        if self.has(descriptor)? {
            return Ok(());
        }
        let mut writer = self.blob_writer()?;
        // One byte more than announced is enough to know that there are too many.
        let limit = descriptor.size.saturating_add(1);
        io::copy(&mut reader.take(limit), &mut writer)
            .map_err(|error| unwrap(error, descriptor))?;
        writer.commit_as(descriptor)
    }

    /// Opens a blob for reading. Its bytes were verified when they came in.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        self.uses.mark(&self.blob_path(digest))?;
        self.open_file(digest)
    }

    fn open_file(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        match open_regular(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.missing(digest)),
            opened => opened.at("read", &path),
        }
    }

    /// Reads a document: a manifest, index or config. Digest and size are checked.
    pub fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        self.uses.mark(&self.blob_path(&descriptor.digest))?;
        self.peek_blob(descriptor)
    }

    /// [`Store::read_blob`], which does not count as using it.
    pub(super) fn peek_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        let digest = descriptor.digest;
        if descriptor.size > MAX_DOCUMENT_BYTES {
            return Err(StoreError::TooLarge {
                digest,
                size: descriptor.size,
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        let mut bytes = Vec::new();
        self.open_file(&digest)?
            .take(descriptor.size + 1)
            .read_to_end(&mut bytes)
            .at("read", &self.blob_path(&digest))?;
        if bytes.len() as u64 != descriptor.size {
            return Err(StoreError::Size {
                digest,
                expected: descriptor.size,
                actual: bytes.len() as u64,
            });
        }
        let actual = sha256(&bytes);
        if actual != digest {
            return Err(StoreError::Corrupt { digest, actual });
        }
        Ok(bytes)
    }

    /// Writes the blobs' bytes through to the disk. Blobs that are not there are passed over.
    pub(super) fn sync_blobs(&self, digests: &[Digest]) -> Result<(), StoreError> {
        for digest in digests {
            let path = self.blob_path(digest);
            match open_regular(&path) {
                Ok(file) => file.sync_data().at("write", &path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).at("read", &path),
            }
        }
        let dir = self.root.join("blobs/sha256");
        File::open(&dir)
            .and_then(|dir| dir.sync_all())
            .at("write", &dir)
    }

    fn missing(&self, digest: &Digest) -> StoreError {
        StoreError::Missing {
            digest: *digest,
            root: self.root.clone(),
        }
    }
}

/// The [`StoreError`] inside an error of [`BlobWriter`], or one about reading `descriptor`'s bytes.
fn unwrap(error: io::Error, descriptor: &Descriptor) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(error) => error,
        Err(source) => StoreError::Io {
            action: "read",
            path: Path::new("sha256").join(descriptor.digest.hex()),
            source,
        },
    }
}
