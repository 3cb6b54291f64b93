//! Archives that are no layers: what `ADD` unpacks.
//!
//! Whether a file is an archive is decided by its content, never by its name: after decompression (gzip, bzip2, xz, zstd or none) it has to
//! begin with a tar entry. A compressed file that holds no tar is just a file. Names beginning with `.wh.` mean nothing here.
//!
//! And the entries of archives that hold blobs: [`file_header`], the bytes, [`padding`]; at the end two blocks of zeros. They
//! are root's and have times of 0, so equal content gives equal archives.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::PathBuf,
    sync::Arc,
};

use tar_core::{EntryType, builder::EntryBuilder};

use super::{
    blob::{BlobSource, LayerBlob},
    decode::Decoder,
    read::{ArchiveError, TarReader, Whiteouts},
    toc::Toc,
    tree::{LayerTree, StackError},
};
use crate::tree::{self, Kind, Tree, TreeError};

/// An archive could not be opened as a tree.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It begins like an archive and then is none.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Its entries cannot lie in one tree.
    #[error(transparent)]
    Stack(#[from] StackError),
}

/// Whether these bytes are an archive that `ADD` unpacks. Reads no more than the first header needs. What is damaged before
/// that is no archive; what has an impossible first entry is one, and [`open`] says why it cannot be unpacked.
pub fn is_archive(bytes: impl Read) -> bool {
    let Ok(decoder) = Decoder::new(bytes) else {
        return false;
    };
    !matches!(
        TarReader::new(BufReader::new(decoder), Whiteouts::Names).next(),
        Ok(None)
            | Err(ArchiveError::Read { .. }
                | ArchiveError::Header { .. }
                | ArchiveError::Truncated { .. })
    )
}

/// Bytes of a compressed file, whatever compressed it; those of any other file as they are.
pub fn decompress(bytes: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(Decoder::new(bytes)?))
}

/// The archive in a file as a tree: all metadata and digests are read now, bytes when asked for. `scratch` is a
/// directory for a decompressed copy. `None` when the file is no archive.
pub fn open(
    file: impl BlobSource + 'static,
    scratch: Option<PathBuf>,
) -> Result<Option<LayerTree>, OpenError> {
    let read = |source| ArchiveError::Read { source };
    if !is_archive(file.open().map_err(read)?) {
        return Ok(None);
    }
    let blob: File = file.open().map_err(read)?;
    let decoder = Decoder::new(blob).map_err(read)?;
    let toc = Toc::read_as(decoder, Whiteouts::Names)?;
    let blob = LayerBlob::new(Arc::new(toc), file, scratch);
    Ok(Some(LayerTree::empty().push(blob)?))
}

/// The time of the file of a tree that changed last, in seconds since 1970; `None` if it has no files.
pub fn newest_file(tree: &dyn Tree) -> Result<Option<i64>, TreeError> {
    let mut newest = None;
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for name in tree.names(&dir)? {
            let path = tree::child(&dir, &name);
            let Some(node) = tree.node(&path)? else {
                continue;
            };
            match node.metadata.kind {
                Kind::Dir => dirs.push(path),
                Kind::File { .. } => newest = newest.max(Some(node.metadata.mtime.seconds)),
                _ => {}
            }
        }
    }
    Ok(newest)
}

/// The header of a directory, whose name ends in `/`.
pub fn dir_header(name: &str) -> Vec<u8> {
    header(name, EntryType::Directory, 0o755, 0)
}

/// The header of a file of `size` bytes. Its name is at most 100 bytes long.
pub fn file_header(name: &str, size: u64) -> Vec<u8> {
    header(name, EntryType::Regular, 0o644, size)
}

fn header(name: &str, kind: EntryType, mode: u32, size: u64) -> Vec<u8> {
    const FITS: &str = "the names are short and GNU headers hold any size";
    let mut builder = EntryBuilder::new_gnu();
    builder.path(name).entry_type(kind);
    builder.mode(mode).expect(FITS);
    builder.uid(0).expect(FITS);
    builder.gid(0).expect(FITS);
    builder.size(size).expect(FITS);
    builder.mtime(0).expect(FITS);
    builder.finish_bytes()
}

/// What fills the last block of a file of `size` bytes.
pub fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; 512] = [0; 512];
    let used = usize::try_from(size % 512).unwrap_or(0);
    &ZEROS[..(512 - used) % 512]
}
