//! What the sources of a copy contain, as one digest: the part of a cache key that only the file system can tell.
//!
//! | covered                                              | not covered                                      |
//! |------------------------------------------------------|--------------------------------------------------|
//! | which paths a wildcard matches, and their names      | times                                            |
//! | type, mode, owner, attributes, target of links       | inode numbers, sizes of directories              |
//! | bytes, and which files are one file                  | where the tree lies on the machine               |
//! |                                                      | what `--exclude`, an ignore file or `--parents` leaves out |
//! |                                                      | metadata of a directory that stands for its contents |
//!
//! Encoding: every field is tagged and length-prefixed, so no two different inputs share bytes.

mod files;

use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use files::file_digests;

use super::{
    CopyError,
    ahead::{Lister, listing},
    source,
    source::Parents,
    source::url_file_name,
};
use crate::{
    context::{Patterns, Verdict},
    oci::{Digest, Digester, sha256},
    plan::{CopyOp, CopySource},
    tree::{self, Kind, Last, Listed, Metadata, Node, Timestamp, Tree},
};

/// One path of a source.
#[derive(Debug, Clone, Copy)]
pub struct ContentEntry<'a> {
    /// The path in the tree of its source, symbolic links above it followed.
    pub path: &'a Path,
    /// Its permissions; 0 for what is written in the Dockerfile.
    pub mode: u32,
    /// A digest of its type, metadata and bytes.
    pub digest: Digest,
    /// The digest of a file's bytes alone; `None` for an empty one, and for the further names of a file.
    pub bytes: Option<Digest>,
}

/// Is told every path, in the order of the sources and then of the walk, with a digest of what is there: for telling which
/// files a miss is due to.
pub type OnEntry<'a> = &'a mut dyn FnMut(&ContentEntry<'_>);

/// Is told once, when the first file is found that has to be read, what comes before it.
pub type OnUnread<'a> = &'a mut dyn FnMut(&Before);

/// What was found of sources before a certain path.
#[derive(Debug, Default)]
pub struct Before {
    /// How many bytes of a tar hold it, at least.
    bytes: u64,
    /// What is newer than all before it, and how many bytes are before it.
    newer: Vec<(Timestamp, u64)>,
}

impl Before {
    /// How many bytes of a tar, at least, hold what comes before the first path that was changed at this time or later.
    pub fn unchanged_since(&self, time: Timestamp) -> u64 {
        let changed = self.newer.iter().find(|(newest, _)| *newest >= time);
        changed.map_or(self.bytes, |(_, before)| *before)
    }

    fn note(&mut self, mtime: Timestamp) {
        if self.newer.last().is_none_or(|(newest, _)| mtime > *newest) {
            self.newer.push((mtime, self.bytes));
        }
    }

    fn add(&mut self, size: u64) {
        const BLOCK: u64 = 512;
        let content = size.saturating_add(BLOCK - 1) / BLOCK * BLOCK;
        self.bytes = self.bytes.saturating_add(BLOCK).saturating_add(content);
    }
}

/// A digest of the content of the sources of `COPY` or `ADD`; `trees` as in [`super::CopyRequest`]. Every file is hashed,
/// on several threads; what a tree remembers, it does not read. A source that is missing is an error, as when copying.
///
/// The owner that `--chown` names is not covered: it comes from the state below, which is part of the key, except for
/// `--link`, where [`super::find_owner`] has to be added to it.
pub fn content_digest(
    op: &CopyOp,
    trees: &[Arc<dyn Tree>],
    on_entry: OnEntry<'_>,
    on_unread: OnUnread<'_>,
) -> Result<Digest, CopyError> {
    let exclude = Patterns::from_words(&op.exclude)?;
    let mut records = Records::new(on_entry);
    records.on_unread = Some(on_unread);
    for (i, source) in op.sources.iter().enumerate() {
        let tree = trees.get(i);
        let mut mark = Encoder::default();
        mark.number("source", i as u64);
        match (source, tree) {
            (CopySource::Path(text), Some(tree)) => {
                let parents = op.parents.then(|| Parents::parse(text)).transpose()?;
                let root = parents.as_ref().map_or(text.as_str(), |p| p.root);
                let include = parents.as_ref().and_then(|p| p.wanted.as_ref());
                for path in source::expand(&**tree, root)? {
                    if let Some(parents) = &parents {
                        parents.check(&**tree, &path)?;
                    }
                    let filter = Filter {
                        include,
                        exclude: &exclude,
                    };
                    walk(tree, &path, true, filter, mark.clone(), &mut records)?;
                }
            }
            (CopySource::Url(_) | CopySource::Git(_), Some(tree)) => {
                let path = match source {
                    CopySource::Url(url) => url_file_name(url).into(),
                    _ => PathBuf::new(),
                };
                let filter = Filter {
                    include: None,
                    exclude: &exclude,
                };
                walk(tree, &path, false, filter, mark, &mut records)?;
            }
            (CopySource::Inline { name, content }, _) => {
                mark.bytes("inline", name.as_bytes());
                mark.bytes("content", content.as_bytes());
                records.push(Record {
                    path: name.into(),
                    mode: 0,
                    size: content.len() as u64,
                    mtime: Timestamp::default(),
                    header: mark,
                    bytes: Bytes::None,
                })?;
            }
            (_, None) => {}
        }
    }
    records.finish()
}

/// The content of what a read-only bind mount shows of a tree: `source` with symbolic links followed, a directory's own
/// metadata included.
pub fn mounted_content(
    tree: &Arc<dyn Tree>,
    source: &str,
    on_entry: OnEntry<'_>,
) -> Result<Digest, CopyError> {
    let mut records = Records::new(on_entry);
    let filter = Filter {
        include: None,
        exclude: &Patterns::default(),
    };
    let path = tree::resolve(&**tree, &tree::clean(Path::new(source)), Last::Follow)?;
    walk(tree, &path, false, filter, Encoder::default(), &mut records)?;
    records.finish()
}

/// One path found, its bytes not read yet.
struct Record {
    path: PathBuf,
    mode: u32,
    /// How many bytes a layer has of it beside the header.
    size: u64,
    mtime: Timestamp,
    header: Encoder,
    bytes: Bytes,
}

/// The bytes that belong to a record.
enum Bytes {
    None,
    /// They have this digest.
    Known(Digest),
    /// They are those of the file at its path in this tree.
    Of(Arc<dyn Tree>),
}

/// What was found so far. The files of some records at a time are hashed, on several threads; after that, a record is a
/// path and a digest.
struct Records<'a> {
    waiting: Vec<Record>,
    all: Digester,
    on_entry: OnEntry<'a>,
    before: Before,
    /// `None` once it was told.
    on_unread: Option<OnUnread<'a>>,
}

/// How many records wait for their files to be hashed.
const BATCH: usize = 2048;

impl<'a> Records<'a> {
    fn new(on_entry: OnEntry<'a>) -> Self {
        Self {
            waiting: Vec::new(),
            all: Digester::new(),
            on_entry,
            before: Before::default(),
            on_unread: None,
        }
    }

    fn push(&mut self, record: Record) -> Result<(), CopyError> {
        if self.on_unread.is_some() {
            self.before.note(record.mtime);
            if matches!(record.bytes, Bytes::Of(_))
                && let Some(on_unread) = self.on_unread.take()
            {
                on_unread(&self.before);
            }
            self.before.add(record.size);
        }
        // Nothing to wait for, as with all files of a context that has not changed.
        if self.waiting.is_empty() && !matches!(record.bytes, Bytes::Of(_)) {
            self.done(record);
            return Ok(());
        }
        self.waiting.push(record);
        if self.waiting.len() < BATCH {
            return Ok(());
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<(), CopyError> {
        for (i, digest) in file_digests(&self.waiting)? {
            self.waiting[i].bytes = Bytes::Known(digest);
        }
        for record in std::mem::take(&mut self.waiting) {
            self.done(record);
        }
        Ok(())
    }

    fn done(&mut self, mut record: Record) {
        let bytes = match record.bytes {
            Bytes::Known(digest) => Some(digest),
            Bytes::None | Bytes::Of(_) => None,
        };
        if let Some(digest) = &bytes {
            record.header.bytes("bytes", &digest.text());
        }
        let digest = sha256(&record.header.0);
        self.all.update(&digest.text());
        (self.on_entry)(&ContentEntry {
            path: &record.path,
            mode: record.mode,
            digest,
            bytes,
        });
    }

    fn finish(mut self) -> Result<Digest, CopyError> {
        self.settle()?;
        Ok(self.all.finish())
    }
}

/// What of a source counts.
#[derive(Clone, Copy)]
struct Filter<'a> {
    include: Option<&'a Patterns>,
    exclude: &'a Patterns,
}

/// Records one match of a source. `contents_only` as `COPY` treats directories.
fn walk(
    tree: &Arc<dyn Tree>,
    path: &Path,
    contents_only: bool,
    filter: Filter<'_>,
    mark: Encoder,
    records: &mut Records<'_>,
) -> Result<(), CopyError> {
    let takes_all = filter.include.is_none() && filter.exclude.is_empty();
    listing(&**tree, takes_all, |lister| {
        let mut walk = Walk {
            tree,
            lister,
            filter,
            first_names: HashMap::new(),
            records,
        };
        walk.source(path, contents_only, mark)
    })
}

struct Walk<'a, 'r, 'scope, 'env> {
    tree: &'a Arc<dyn Tree>,
    lister: &'a Lister<'scope, 'env>,
    filter: Filter<'a>,
    first_names: HashMap<u64, PathBuf>,
    records: &'a mut Records<'r>,
}

/// A directory on the way down that is recorded only once something below it is.
struct Pending {
    record: Option<Record>,
}

impl Walk<'_, '_, '_, '_> {
    fn source(&mut self, path: &Path, contents_only: bool, mark: Encoder) -> Result<(), CopyError> {
        let from = if contents_only {
            tree::resolve(&**self.tree, path, Last::Follow)?
        } else {
            path.to_owned()
        };
        let Some(node) = self.tree.node(&from)? else {
            let named = if self.tree.ignored_by(&from).is_some() {
                &from
            } else {
                path
            };
            return Err(CopyError::not_found(&**self.tree, named));
        };
        let mut header = mark;
        if !node.metadata.is_dir() {
            // The name counts when the destination turns out to be a directory.
            let name = path.file_name().unwrap_or_default();
            header.bytes("name", name.as_bytes());
        }
        if node.metadata.is_dir() && contents_only {
            header.bytes("contents", b"");
            self.records.push(Record {
                path: from.clone(),
                mode: 0,
                size: 0,
                mtime: Timestamp::default(),
                header,
                bytes: Bytes::None,
            })?;
        } else {
            self.record(&from, Path::new(""), &node, None, &header)?;
        }
        if node.metadata.is_dir() {
            let root = (Verdict::root(), Verdict::root());
            self.dir(&from, Path::new(""), &root.0, &root.1, &mut Vec::new())?;
        }
        Ok(())
    }

    fn dir(
        &mut self,
        from: &Path,
        below: &Path,
        include: &Verdict,
        exclude: &Verdict,
        pending: &mut Vec<Pending>,
    ) -> Result<(), CopyError> {
        let Filter {
            include: wanted,
            exclude: unwanted,
        } = self.filter;
        for Listed { name, node, digest } in self.lister.list(from)? {
            let (path, below) = (tree::child(from, &name), tree::child(below, &name));
            let include = match wanted {
                Some(patterns) => patterns.judge(&below, include),
                None => Verdict::root(),
            };
            let exclude = unwanted.judge(&below, exclude);
            let is_excluded = exclude.is_match();
            if is_excluded && !unwanted.may_bring_back_below(&below) {
                continue;
            }
            let is_wanted = !is_excluded && (wanted.is_none() || include.is_match());
            let is_dir = node.metadata.is_dir();
            if is_wanted {
                for record in pending.iter_mut().filter_map(|dir| dir.record.take()) {
                    self.records.push(record)?;
                }
                self.record(&path, &below, &node, digest, &Encoder::default())?;
            }
            if !is_dir {
                continue;
            }
            let may_want_below =
                is_wanted || is_excluded || wanted.is_none_or(|p| p.may_match_below(&below));
            if may_want_below {
                let record = (!is_wanted).then(|| header_of(&path, &below, &node.metadata));
                pending.push(Pending { record });
                self.dir(&path, &below, &include, &exclude, pending)?;
                pending.pop();
            }
        }
        Ok(())
    }

    /// Records a path. `digest` is that of a file's bytes, where it is known.
    fn record(
        &mut self,
        path: &Path,
        below: &Path,
        node: &Node,
        digest: Option<Digest>,
        mark: &Encoder,
    ) -> Result<(), CopyError> {
        let mut record = header_of(path, below, &node.metadata);
        if !mark.0.is_empty() {
            record.header = Encoder([&mark.0[..], &record.header.0].concat());
        }
        if let Kind::File { size } = node.metadata.kind {
            let first = node.inode.and_then(|inode| self.first_names.get(&inode));
            if let Some(first) = first {
                record.header.bytes("same-as", first.as_os_str().as_bytes());
            } else {
                if let Some(inode) = node.inode {
                    self.first_names.insert(inode, below.to_owned());
                }
                record.size = size;
                record.bytes = match digest {
                    _ if size == 0 => Bytes::None,
                    Some(digest) => Bytes::Known(digest),
                    None => Bytes::Of(Arc::clone(self.tree)),
                };
            }
        }
        self.records.push(record)
    }
}

fn header_of(path: &Path, below: &Path, metadata: &Metadata) -> Record {
    let mut header = Encoder(Vec::with_capacity(256));
    header.bytes("path", below.as_os_str().as_bytes());
    match &metadata.kind {
        Kind::File { size } => header.number("file", *size),
        Kind::Dir => header.bytes("dir", b""),
        Kind::Symlink { target } => header.bytes("symlink", target.as_os_str().as_bytes()),
        Kind::Char { major, minor } => {
            header.number("char", u64::from(*major) << 32 | u64::from(*minor));
        }
        Kind::Block { major, minor } => {
            header.number("block", u64::from(*major) << 32 | u64::from(*minor));
        }
        Kind::Fifo => header.bytes("fifo", b""),
        Kind::Socket => header.bytes("socket", b""),
    }
    if !matches!(metadata.kind, Kind::Symlink { .. }) {
        header.number("mode", metadata.mode.into());
    }
    header.number("uid", metadata.uid.into());
    header.number("gid", metadata.gid.into());
    for (name, value) in &metadata.xattrs {
        header.bytes("attribute", name.as_bytes());
        header.bytes("value", value);
    }
    Record {
        path: path.to_owned(),
        mode: metadata.mode,
        size: 0,
        mtime: metadata.mtime,
        header,
        bytes: Bytes::None,
    }
}

/// Tagged, length-prefixed fields.
#[derive(Debug, Clone, Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn bytes(&mut self, tag: &str, value: &[u8]) {
        for part in [tag.as_bytes(), value] {
            self.0.extend_from_slice(&(part.len() as u64).to_le_bytes());
            self.0.extend_from_slice(part);
        }
    }

    fn number(&mut self, tag: &str, value: u64) {
        self.bytes(tag, &value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
