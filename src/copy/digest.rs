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

use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{CopyError, source, source::Parents, source::url_file_name};
use crate::{
    context::{Patterns, Verdict},
    oci::{Digest, Digester, sha256},
    plan::{CopyOp, CopySource},
    tree::{self, Kind, Last, Metadata, Tree},
};

/// What the sources of an instruction contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceContent {
    /// A digest of all of it.
    pub digest: Digest,
    /// Every path, in the order of the sources and then of the walk, with a digest of what is there: for telling which
    /// files a miss is due to.
    pub entries: Vec<ContentEntry>,
}

/// One path of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentEntry {
    /// The path in the tree of its source, symbolic links above it followed.
    pub path: PathBuf,
    /// Its permissions; 0 for what is written in the Dockerfile.
    pub mode: u32,
    /// A digest of its type, metadata and bytes.
    pub digest: Digest,
    /// The digest of a file's bytes alone; `None` for an empty one, and for the further names of a file.
    pub bytes: Option<Digest>,
}

/// The content of the sources of `COPY` or `ADD`; `trees` as in [`super::CopyRequest`]. Every file is hashed, on several
/// threads; what a tree remembers, it does not read. A source that is missing is an error, as when copying.
///
/// The owner that `--chown` names is not covered: it comes from the state below, which is part of the key, except for
/// `--link`, where [`super::find_owner`] has to be added to it.
pub fn content_digest(op: &CopyOp, trees: &[Arc<dyn Tree>]) -> Result<SourceContent, CopyError> {
    let exclude = Patterns::from_words(&op.exclude)?;
    let mut records = Records::default();
    for (i, source) in op.sources.iter().enumerate() {
        let tree = trees.get(i);
        let mut mark = Encoder::default();
        mark.number("source", i as u64);
        match (source, tree) {
            (CopySource::Path(text), Some(tree)) => {
                let parents = op.parents.then(|| Parents::parse(text)).transpose()?;
                let root = parents.as_ref().map_or(text.as_str(), |p| p.root);
                for path in source::expand(&**tree, root)? {
                    if let Some(parents) = &parents {
                        parents.check(&**tree, &path)?;
                    }
                    let mut walk = Walk {
                        tree,
                        include: parents.as_ref().and_then(|p| p.wanted.as_ref()),
                        exclude: &exclude,
                        first_names: HashMap::new(),
                        records: &mut records,
                    };
                    walk.source(&path, true, mark.clone())?;
                }
            }
            (CopySource::Url(_) | CopySource::Git(_), Some(tree)) => {
                let path = match source {
                    CopySource::Url(url) => url_file_name(url).into(),
                    _ => PathBuf::new(),
                };
                let mut walk = Walk {
                    tree,
                    include: None,
                    exclude: &exclude,
                    first_names: HashMap::new(),
                    records: &mut records,
                };
                walk.source(&path, false, mark)?;
            }
            (CopySource::Inline { name, content }, _) => {
                mark.bytes("inline", name.as_bytes());
                mark.bytes("content", content.as_bytes());
                records.push(Record {
                    path: name.into(),
                    mode: 0,
                    header: mark,
                    file: None,
                })?;
            }
            (_, None) => {}
        }
    }
    records.finish()
}

/// The content of what a read-only bind mount shows of a tree: `source` with symbolic links followed, a directory's own
/// metadata included.
pub fn mounted_content(tree: &Arc<dyn Tree>, source: &str) -> Result<SourceContent, CopyError> {
    let mut records = Records::default();
    let mut walk = Walk {
        tree,
        include: None,
        exclude: &Patterns::default(),
        first_names: HashMap::new(),
        records: &mut records,
    };
    let path = tree::resolve(&**tree, &tree::clean(Path::new(source)), Last::Follow)?;
    walk.source(&path, false, Encoder::default())?;
    records.finish()
}

/// One path found, its bytes not read yet.
struct Record {
    path: PathBuf,
    mode: u32,
    header: Encoder,
    /// The tree of the file at the path, where its bytes belong to the record.
    file: Option<Arc<dyn Tree>>,
}

/// What was found so far. The files of some records at a time are hashed, on several threads; after that, a record is a
/// path and a digest.
#[derive(Default)]
struct Records {
    waiting: Vec<Record>,
    all: Digester,
    entries: Vec<ContentEntry>,
}

/// How many records wait for their files to be hashed.
const BATCH: usize = 4096;

impl Records {
    fn push(&mut self, record: Record) -> Result<(), CopyError> {
        self.waiting.push(record);
        if self.waiting.len() < BATCH {
            return Ok(());
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<(), CopyError> {
        let mut digests = file_digests(&self.waiting)?.into_iter().peekable();
        for (i, mut record) in self.waiting.drain(..).enumerate() {
            let bytes = digests.next_if(|(of, _)| *of == i);
            let bytes = bytes.map(|(_, digest)| digest);
            if let Some(digest) = &bytes {
                record.header.bytes("bytes", digest.to_string().as_bytes());
            }
            let digest = sha256(&record.header.0);
            self.all.update(digest.to_string().as_bytes());
            self.entries.push(ContentEntry {
                path: record.path,
                mode: record.mode,
                digest,
                bytes,
            });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<SourceContent, CopyError> {
        self.settle()?;
        Ok(SourceContent {
            digest: self.all.finish(),
            entries: self.entries,
        })
    }
}

struct Walk<'a> {
    tree: &'a Arc<dyn Tree>,
    include: Option<&'a Patterns>,
    exclude: &'a Patterns,
    first_names: HashMap<u64, PathBuf>,
    records: &'a mut Records,
}

/// A directory on the way down that is recorded only once something below it is.
struct Pending {
    record: Option<Record>,
}

impl Walk<'_> {
    /// Records one match of a source. `contents_only` as `COPY` treats directories.
    fn source(&mut self, path: &Path, contents_only: bool, mark: Encoder) -> Result<(), CopyError> {
        let from = if contents_only {
            tree::resolve(&**self.tree, path, Last::Follow)?
        } else {
            path.to_owned()
        };
        let Some(node) = self.tree.node(&from)? else {
            let named = if self.tree.is_ignored(&from) {
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
                header,
                file: None,
            })?;
        } else {
            self.record(&from, Path::new(""), &node.metadata, node.inode, &header)?;
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
        for name in self.tree.names(from)? {
            let (path, below) = (from.join(&name), below.join(&name));
            let include = match self.include {
                Some(patterns) => patterns.judge(&below, include),
                None => Verdict::root(),
            };
            let exclude = self.exclude.judge(&below, exclude);
            let is_excluded = exclude.is_match();
            if is_excluded && !self.exclude.may_bring_back_below(&below) {
                continue;
            }
            let is_wanted = !is_excluded && (self.include.is_none() || include.is_match());
            let Some(node) = self.tree.node(&path)? else {
                return Err(CopyError::not_found(&**self.tree, &path));
            };
            let is_dir = node.metadata.is_dir();
            if is_wanted {
                for record in pending.iter_mut().filter_map(|dir| dir.record.take()) {
                    self.records.push(record)?;
                }
                let mark = Encoder::default();
                self.record(&path, &below, &node.metadata, node.inode, &mark)?;
            }
            if !is_dir {
                continue;
            }
            let may_want_below =
                is_wanted || is_excluded || self.include.is_none_or(|p| p.may_match_below(&below));
            if may_want_below {
                let record = (!is_wanted).then(|| header_of(&path, &below, &node.metadata));
                pending.push(Pending { record });
                self.dir(&path, &below, &include, &exclude, pending)?;
                pending.pop();
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        path: &Path,
        below: &Path,
        metadata: &Metadata,
        inode: Option<u64>,
        mark: &Encoder,
    ) -> Result<(), CopyError> {
        let mut record = header_of(path, below, metadata);
        record.header = Encoder([&mark.0[..], &record.header.0].concat());
        if let Kind::File { size } = metadata.kind {
            let first = inode.and_then(|inode| self.first_names.get(&inode));
            match (first, inode) {
                (Some(first), _) => {
                    record.header.bytes("same-as", first.as_os_str().as_bytes());
                }
                (None, inode) => {
                    if let Some(inode) = inode {
                        self.first_names.insert(inode, below.to_owned());
                    }
                    if size > 0 {
                        record.file = Some(Arc::clone(self.tree));
                    }
                }
            }
        }
        self.records.push(record)
    }
}

fn header_of(path: &Path, below: &Path, metadata: &Metadata) -> Record {
    let mut header = Encoder::default();
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
        header,
        file: None,
    }
}

/// More threads than this do not make one disk faster.
const MAX_THREADS: usize = 8;

/// The digests of the files of records, each with the record's index, ascending.
fn file_digests(records: &[Record]) -> Result<Vec<(usize, Digest)>, CopyError> {
    let n_files = records.iter().filter(|r| r.file.is_some()).count();
    let n_threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
        .min(n_files / 4)
        .max(1);
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let work = || {
        let mut found = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(record) = records.get(i) else { break };
            let Some(tree) = &record.file else { continue };
            match tree.digest(&record.path) {
                Ok(digest) => found.push((i, digest)),
                Err(error) => {
                    stopped.store(true, Ordering::Relaxed);
                    return Err((i, error));
                }
            }
        }
        Ok(found)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let mut outcomes = vec![work()];
        outcomes.extend(others.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }));
        outcomes
    });
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(found) => all.extend(found),
            Err(failure) => failures.push(failure),
        }
    }
    // The first in the order of the walk: of several failures it is the same one mostly, and always one of them.
    if let Some((_, error)) = failures.into_iter().min_by_key(|(i, _)| *i) {
        return Err(error.into());
    }
    all.sort_unstable_by_key(|(i, _)| *i);
    Ok(all)
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
