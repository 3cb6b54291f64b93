//! Tables of contents: all that a layer's archive says, without its bytes. `form.rs` has their bytes on disk.

mod form;

use std::{
    collections::HashMap,
    io::{BufRead, Read},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

pub(super) use form::Entries;
pub use form::{PackedToc, TocFormError};

use super::{
    ahead::{ReadAhead, read_ahead_hashed},
    compress::Compression,
    decode::Decoder,
    read::{ArchiveError, RawEntry, RawItem, TarReader, Whiteouts},
};
use crate::{
    oci::{DiffId, Digest, DigestState, Digester},
    tree::{Kind, Metadata},
};

/// How a blob wraps its tar. Found by the first bytes, never by a name or media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not at all.
    Plain,
    /// One or more gzip members.
    Gzip,
    /// One or more zstd frames.
    Zstd,
    /// bzip2, which no layer has but archives for `ADD` may.
    Bzip2,
    /// xz, likewise.
    Xz,
}

/// A place in a blob from which decompression can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset in the tar of the first byte that the member yields.
    pub tar_offset: u64,
    /// Offset in the blob of the member's first byte.
    pub blob_offset: u64,
    /// For recognising it, where this program wrote it.
    pub made: Option<Made>,
}

/// What tells whether a member can stand in another blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// A digest of what the member yields: the headers' bytes, and the digests of files and which part of them.
    pub composition: Digest,
    /// CRC-32 of the member's bytes in the blob.
    pub checksum: u32,
}

/// A place before a member where hashing can go on without the bytes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The index of the member.
    pub member: usize,
    /// What the tar's digest comes from.
    pub tar: DigestState,
    /// What the blob's digest comes from.
    pub blob: DigestState,
}

/// A run of bytes of a sparse file that the archive holds; what lies between runs is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Where and what the bytes of a regular file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Digest of the file as a reader of it sees it, holes included. `None` where it was not asked for when the layer was read.
    pub digest: Option<Digest>,
    /// Offset in the tar of its first stored byte.
    pub offset: u64,
    /// The runs that are stored, one after the other from `offset`; `None` when the whole file is.
    pub sparse: Option<Vec<Extent>>,
}

/// One thing an archive says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TocItem {
    /// There is this.
    Node {
        /// Its metadata.
        metadata: Metadata,
        /// Its bytes when it is a regular file.
        content: Option<FileContent>,
    },
    /// The path is one more name of this one.
    Link {
        /// The other name; it may lie in a lower layer.
        target: PathBuf,
    },
    /// The path of lower layers is gone.
    Remove,
    /// What lower layers have in this directory is gone.
    Opaque,
}

impl TocItem {
    /// Where and what its bytes are, if it is a regular file.
    pub fn content(&self) -> Option<&FileContent> {
        match self {
            Self::Node { content, .. } => content.as_ref(),
            Self::Link { .. } | Self::Remove | Self::Opaque => None,
        }
    }

    /// The same, to be changed.
    pub fn content_mut(&mut self) -> Option<&mut FileContent> {
        match self {
            Self::Node { content, .. } => content.as_mut(),
            Self::Link { .. } | Self::Remove | Self::Opaque => None,
        }
    }
}

/// One path of an archive, in the order of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// Relative, without `.` and `..`; empty for the root directory. Components above the last may be symbolic links.
    pub path: PathBuf,
    /// What is said of it. For whiteouts, `path` is the path that is gone, not that of the marker.
    pub item: TocItem,
}

/// The table of contents of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Length of the tar.
    pub tar_size: u64,
    /// Length of the blob.
    pub blob_size: u64,
    /// How the blob wraps the tar.
    pub encoding: Encoding,
    /// The settings by which this version of the program wrote the blob; `None` for all other blobs, also when they equal
    /// what it would have written.
    pub recipe: Option<Compression>,
    /// Where decompression can start, ascending; never empty, the first member yields the first byte.
    pub members: Vec<Member>,
    /// Where hashing can go on, ascending; only for blobs with a `recipe`.
    pub checkpoints: Vec<Checkpoint>,
    /// What the archive says, in its order.
    pub entries: Vec<TocEntry>,
}

/// Takes the contents of the regular files of a layer, except sparse ones, while its table of contents is read.
///
/// The bytes are verified by nobody yet, and one that fails has to remember that itself: reading goes on.
pub trait FileSink {
    /// The file whose bytes begin at this offset of the tar has this metadata. An inode can get another owner, mode and
    /// time by headers further on.
    fn begin(&mut self, offset: u64, metadata: &Metadata, size: u64);
    /// Its next bytes.
    fn write(&mut self, bytes: &[u8]);
    /// It is complete.
    fn end(&mut self);
}

/// Whether a table of contents has the digests of files from the start. They cost as much as hashing the layer once more, and of
/// most layers that a build begins with nobody wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileDigests {
    /// They are computed while the layer is read.
    #[default]
    Now,
    /// [`FileContent::digest`] is `None`; who wants one reads the file.
    OnDemand,
}

/// What is done with files while a table is read.
struct Contents<'a> {
    digests: FileDigests,
    files: Option<&'a mut dyn FileSink>,
}

impl Toc {
    /// Reads a layer's blob once, whatever wraps it, and notes all that it says. Digest and size of the blob are for the
    /// caller's reader to check; [`Toc::diff_id`] and [`Toc::blob_size`] are what was read here.
    pub fn read(blob: impl Read + Send) -> Result<Self, ArchiveError> {
        Self::read_into(blob, FileDigests::Now, None)
    }

    /// As [`Toc::read`], with or without the digests of files; `files` is given the contents of regular files on the way.
    pub fn read_into(
        blob: impl Read + Send,
        digests: FileDigests,
        files: Option<&mut dyn FileSink>,
    ) -> Result<Self, ArchiveError> {
        let decoder = Decoder::new(blob).map_err(|source| ArchiveError::Read { source })?;
        Self::decode(decoder, Whiteouts::Meant, Contents { digests, files })
    }

    /// Whether it has the digests of all files.
    pub fn has_digests(&self) -> bool {
        let mut files = self.entries.iter().filter_map(|entry| entry.item.content());
        files.all(|file| file.digest.is_some())
    }

    /// The table without digests of files, for comparing it with one that has none.
    #[must_use]
    pub fn without_digests(mut self) -> Self {
        for entry in &mut self.entries {
            if let Some(content) = entry.item.content_mut() {
                content.digest = None;
            }
        }
        self
    }

    /// As [`Toc::read`], with the archive's bytes already being decompressed.
    pub(super) fn read_as<R: Read + Send>(
        decoder: Decoder<R>,
        whiteouts: Whiteouts,
    ) -> Result<Self, ArchiveError> {
        let contents = Contents {
            digests: FileDigests::Now,
            files: None,
        };
        Self::decode(decoder, whiteouts, contents)
    }

    fn decode<R: Read + Send>(
        decoder: Decoder<R>,
        whiteouts: Whiteouts,
        mut contents: Contents<'_>,
    ) -> Result<Self, ArchiveError> {
        let encoding = decoder.encoding();
        let (entries, decoder, tar) =
            read_ahead_hashed(decoder, |tar| entries_of(tar, whiteouts, &mut contents));
        let (members, blob_size) = decoder.into_members();
        Ok(Self {
            diff_id: DiffId(tar.digest),
            tar_size: tar.length,
            blob_size,
            encoding,
            recipe: None,
            members,
            checkpoints: Vec::new(),
            entries: entries?,
        })
    }
}

/// What a tar says. It is read to its end, as padding after the last entry belongs to its digest too.
fn entries_of(
    tar: &mut ReadAhead,
    whiteouts: Whiteouts,
    contents: &mut Contents<'_>,
) -> Result<Vec<TocEntry>, ArchiveError> {
    let mut reader = TarReader::new(tar, whiteouts);
    let mut entries = Vec::new();
    let mut links = Vec::new();
    let mut footprint = 0;
    while let Some(entry) = reader.next()? {
        footprint += size_of::<TocEntry>() + entry.footprint();
        if footprint > MAX_FOOTPRINT {
            return Err(ArchiveError::TooMany {
                entries: entries.len(),
                offset: reader.offset(),
            });
        }
        if let RawItem::Link { metadata, .. } = &entry.item {
            links.push((entries.len(), metadata.clone()));
        }
        entries.push(toc_entry(entry, &mut reader, contents)?);
    }
    apply_link_headers(&mut entries, links);
    let rest = reader.into_inner();
    rest.skip_to(u64::MAX)
        .map_err(|source| ArchiveError::Read { source })?;
    Ok(entries)
}

/// As much memory as the names of an archive may take; the largest images have a hundredth of it.
const MAX_FOOTPRINT: usize = 1 << 30;

/// Hands an entry's content to whoever wants it.
fn toc_entry<R: BufRead>(
    entry: RawEntry,
    reader: &mut TarReader<R>,
    contents: &mut Contents<'_>,
) -> Result<TocEntry, ArchiveError> {
    let path = entry.path;
    let item = match entry.item {
        RawItem::Remove => TocItem::Remove,
        RawItem::Opaque => TocItem::Opaque,
        RawItem::Link { target, .. } => TocItem::Link { target },
        RawItem::Node(metadata) => {
            let content = if let Kind::File { size } = metadata.kind {
                let mut digester = match contents.digests {
                    FileDigests::Now => Some(Digester::new()),
                    FileDigests::OnDemand => None,
                };
                match (&entry.sparse, &mut contents.files) {
                    (Some(runs), _) => {
                        if let Some(digester) = &mut digester {
                            hash_sparse(digester, runs, size, reader)?;
                        }
                    }
                    (None, Some(files)) => {
                        files.begin(entry.offset, &metadata, size);
                        reader.content(size, &mut |bytes| {
                            files.write(bytes);
                            hash(&mut digester, bytes);
                        })?;
                        files.end();
                    }
                    // What nobody reads is passed over with the next header.
                    (None, None) if digester.is_none() => {}
                    (None, None) => {
                        reader.content(size, &mut |bytes| hash(&mut digester, bytes))?;
                    }
                }
                Some(FileContent {
                    digest: digester.map(Digester::finish),
                    offset: entry.offset,
                    sparse: entry.sparse,
                })
            } else {
                None
            };
            TocItem::Node { metadata, content }
        }
    };
    Ok(TocEntry { path, item })
}

/// Gives inodes what the headers of their further names say, as an extraction does: it links, then sets owner, mode
/// and time by either name.
fn apply_link_headers(entries: &mut [TocEntry], links: Vec<(usize, Box<Metadata>)>) {
    if links.is_empty() {
        return;
    }
    // Most files have one name, so those that have more are looked for among all.
    let mut nodes: HashMap<&[u8], Option<usize>> = HashMap::new();
    for (i, _) in &links {
        if let TocItem::Link { target } = &entries[*i].item {
            nodes.insert(target.as_os_str().as_bytes(), None);
        }
    }
    for (i, entry) in entries.iter().enumerate() {
        if matches!(&entry.item, TocItem::Node { metadata, .. } if !metadata.is_dir())
            && let Some(node) = nodes.get_mut(entry.path.as_os_str().as_bytes())
        {
            *node = Some(i);
        }
    }
    let mut found = Vec::new();
    for (i, header) in links {
        if let TocItem::Link { target } = &entries[i].item
            && let Some(&Some(node)) = nodes.get(target.as_os_str().as_bytes())
            && node < i
        {
            found.push((node, header));
        }
    }
    for (node, header) in found {
        if let TocItem::Node { metadata, .. } = &mut entries[node].item {
            metadata.uid = header.uid;
            metadata.gid = header.gid;
            // A symbolic link has no mode or time of its own that a link to it could change.
            if !matches!(metadata.kind, Kind::Symlink { .. }) {
                metadata.mode = header.mode;
                metadata.mtime = header.mtime;
            }
        }
    }
}

fn hash(digester: &mut Option<Digester>, bytes: &[u8]) {
    if let Some(digester) = digester {
        digester.update(bytes);
    }
}

/// Hashes a file of which only some runs are stored.
fn hash_sparse<R: BufRead>(
    digester: &mut Digester,
    runs: &[Extent],
    size: u64,
    reader: &mut TarReader<R>,
) -> Result<(), ArchiveError> {
    let mut position = 0;
    for run in runs {
        zeros(digester, run.offset - position);
        reader.content(run.length, &mut |bytes| digester.update(bytes))?;
        position = run.offset + run.length;
    }
    zeros(digester, size - position);
    Ok(())
}

/// Hashes a hole.
fn zeros(digester: &mut Digester, mut length: u64) {
    static ZEROS: [u8; 32 << 10] = [0; 32 << 10];
    while length > 0 {
        let part = usize::try_from(length).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        digester.update(&ZEROS[..part]);
        length -= part as u64;
    }
}
