//! `ADD` of an archive: what its entries make of the destination.
//!
//! - What is an archive is told by content, see [`crate::layer::archive`]; anything else is copied as it is.
//! - The destination is a directory, made if need be, and the root of the archive's world: links among the parents of an
//!   entry, those that were there before included, are followed inside it. One that leads to nothing there is an error.
//! - Entries count in their order. Each replaces what has its name, but a directory merges with a directory.
//! - Parents that the archive does not mention are 0755 and root's. `--chown` goes for all that it mentions, `--chmod`
//!   for nothing.

use std::{
    fs::File,
    io::{self, Seek as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    CopyError,
    engine::{Target, make_dirs},
    upper::Upper,
    users::Owner,
};
use crate::{
    layer::{BlobSource, Content, EntryFile, LayerBlob, LayerTree, TocEntry, TocItem, archive},
    tree::{self, Kind, Last, Metadata, Node, Timestamp, Tree, TreeError},
};

/// Unpacks `path` of a tree if it is an archive; tells whether it was one.
pub(super) fn unpack(
    upper: &mut Upper,
    target: &Target<'_>,
    tree: &Arc<dyn Tree>,
    path: &Path,
    scratch: &Path,
) -> Result<bool, CopyError> {
    let from = tree::resolve(&**tree, path, Last::Follow)?;
    let is_file = tree
        .node(&from)?
        .is_some_and(|node| matches!(node.metadata.kind, Kind::File { .. }));
    if !is_file || !archive::is_archive(tree.open(&from)?) {
        return Ok(false);
    }
    let failed = |source| CopyError::Archive {
        path: path.to_owned(),
        source,
    };
    let spool = Spool::of(&**tree, &from, scratch)?;
    let Some(archive) = archive::open(spool, Some(scratch.to_owned())).map_err(failed)? else {
        return Ok(false);
    };
    let root = tree::resolve(upper, Path::new(target.dest), Last::Follow)?;
    make_dirs(upper, &root, 0o755, target.owner, target.now)?;
    let mut unpacker = Unpacker {
        upper,
        root,
        owner: target.owner,
        now: target.now,
        archive: Arc::new(archive),
        name: path,
        dir_times: Vec::new(),
    };
    for layer in unpacker.archive.layers().to_vec() {
        for (index, entry) in layer.toc().entries.iter().enumerate() {
            unpacker.entry(&layer, index, entry)?;
        }
    }
    // Last, as filling a directory changes its time.
    for (dir, mtime) in unpacker.dir_times {
        unpacker.upper.edit(&dir, |there| there.mtime = mtime)?;
    }
    Ok(true)
}

struct Unpacker<'a> {
    upper: &'a mut Upper,
    /// The destination.
    root: PathBuf,
    owner: Option<Owner>,
    now: Timestamp,
    archive: Arc<LayerTree>,
    /// The archive, for messages.
    name: &'a Path,
    dir_times: Vec<(PathBuf, Timestamp)>,
}

impl Unpacker<'_> {
    fn entry(
        &mut self,
        layer: &Arc<LayerBlob>,
        index: usize,
        entry: &TocEntry,
    ) -> Result<(), CopyError> {
        // An entry for the root itself says nothing about the destination.
        if entry.path.as_os_str().is_empty() {
            return Ok(());
        }
        let to = self.place(&entry.path, true)?;
        let existing = self.upper.get(&to)?;
        match &entry.item {
            TocItem::Node { metadata, .. } => {
                let merges = metadata.is_dir() && existing.as_ref().is_some_and(Metadata::is_dir);
                if existing.is_some() && !merges {
                    self.upper.remove(&to)?;
                }
                let content = self.content(layer, index, entry)?;
                self.node(&to, metadata, content, merges)
            }
            TocItem::Link { target } => {
                let from = self.place(target, false)?;
                let is_file = from != to
                    && self
                        .upper
                        .get(&from)?
                        .is_some_and(|metadata| !metadata.is_dir());
                if !is_file {
                    return Err(CopyError::ArchiveEntry {
                        path: self.name.to_owned(),
                        entry: entry.path.clone(),
                        reason: "is a hard link to what is no file",
                    });
                }
                if existing.is_some() {
                    self.upper.remove(&to)?;
                }
                self.upper.link(&from, &to)?;
                Ok(())
            }
            // Names that would be whiteouts in a layer are names here.
            TocItem::Remove | TocItem::Opaque => Ok(()),
        }
    }

    fn node(
        &mut self,
        to: &Path,
        metadata: &Metadata,
        content: Content,
        merges: bool,
    ) -> Result<(), CopyError> {
        let mut metadata = metadata.clone();
        if let Some(Owner { uid, gid }) = self.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        metadata.mtime = metadata.mtime.max(Timestamp::default());
        if matches!(metadata.kind, Kind::Symlink { .. }) {
            // Links have no mode of their own on Linux, whatever an archive says.
            metadata.mode = 0o777;
        }
        if metadata.is_dir() {
            self.dir_times.push((to.to_owned(), metadata.mtime));
        }
        if merges {
            self.upper.edit(to, |there| {
                let mut xattrs = std::mem::take(&mut there.xattrs);
                xattrs.extend(metadata.xattrs.clone());
                *there = Metadata { xattrs, ..metadata };
            })?;
            return Ok(());
        }
        self.upper.create(to, metadata, content)?;
        Ok(())
    }

    /// The bytes of an entry: by its name, which takes less memory, unless a later entry has the name.
    fn content(
        &self,
        layer: &Arc<LayerBlob>,
        index: usize,
        entry: &TocEntry,
    ) -> Result<Content, CopyError> {
        let TocItem::Node {
            metadata:
                Metadata {
                    kind: Kind::File { size: 1.. },
                    ..
                },
            content: Some(content),
        } = &entry.item
        else {
            return Ok(Content::Empty);
        };
        let path = tree::resolve(&*self.archive, &entry.path, Last::Keep)?;
        let tree: Arc<dyn Tree> = if self.archive.shows(&path, content) {
            Arc::clone(&self.archive) as Arc<dyn Tree>
        } else {
            match EntryFile::new(layer, index) {
                Some(file) => Arc::new(file),
                None => return Ok(Content::Empty),
            }
        };
        Ok(Content::Tree { tree, path })
    }

    /// Where a path of the archive is: links among its parents followed with the destination as root, and the parents
    /// made if asked.
    fn place(&mut self, path: &Path, makes_parents: bool) -> Result<PathBuf, CopyError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let view = Rooted {
            upper: self.upper,
            root: &self.root,
        };
        let resolved = tree::resolve(&view, parent, Last::Follow)?;
        if makes_parents && view.node(&resolved)?.is_none() && leads_nowhere(&view, parent)? {
            return Err(CopyError::ArchiveEntry {
                path: self.name.to_owned(),
                entry: path.to_owned(),
                reason: "is below a symbolic link to what is not in the destination",
            });
        }
        let parent = self.root.join(resolved);
        if makes_parents {
            make_dirs(self.upper, &parent, 0o755, Some(Owner::default()), self.now)?;
        }
        Ok(match path.file_name() {
            Some(name) => parent.join(name),
            None => parent,
        })
    }
}

/// Whether a dangling link is on the way to `path`.
fn leads_nowhere(tree: &dyn Tree, path: &Path) -> Result<bool, TreeError> {
    for part in path.ancestors() {
        let link = tree::resolve(tree, part, Last::Keep)?;
        let is_link = tree
            .node(&link)?
            .is_some_and(|node| matches!(node.metadata.kind, Kind::Symlink { .. }));
        if is_link {
            let end = tree::resolve(tree, part, Last::Follow)?;
            return Ok(tree.node(&end)?.is_none());
        }
    }
    Ok(false)
}

/// The tree as a process sees it that has `root` as its `/`.
struct Rooted<'a> {
    upper: &'a Upper,
    root: &'a Path,
}

impl Tree for Rooted<'_> {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        self.upper.node(&self.root.join(path))
    }

    fn names(&self, path: &Path) -> Result<Vec<std::ffi::OsString>, TreeError> {
        self.upper.names(&self.root.join(path))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        self.upper.open(&self.root.join(path))
    }

    fn digest(&self, path: &Path) -> Result<crate::oci::Digest, TreeError> {
        self.upper.digest(&self.root.join(path))
    }
}

/// A copy of a file of a tree that can be read from anywhere in it. It has no name; closing removes it.
struct Spool(File);

impl Spool {
    fn of(tree: &dyn Tree, path: &Path, scratch: &Path) -> Result<Self, CopyError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| TreeError {
                action: "write",
                path,
                source,
            }
        };
        let (mut file, name) = loop {
            let n = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = scratch.join(format!("archive-{}-{n}", std::process::id()));
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&name);
            match file {
                Ok(file) => break (file, name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(at(&name)(error).into()),
            }
        };
        std::fs::remove_file(&name).map_err(at(&name))?;
        let mut reader = tree.open(path)?;
        io::copy(&mut reader, &mut file).map_err(at(&name))?;
        Ok(Self(file))
    }
}

impl BlobSource for Spool {
    fn open(&self) -> io::Result<File> {
        // The position is shared by all clones, and only the first reading, front to back, goes by it.
        let mut file = self.0.try_clone()?;
        file.rewind()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
