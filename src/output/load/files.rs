//! The files of an archive or a directory, by names that nobody vouches for.

use std::{
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::LoadError;
use crate::{
    layer::LayerTree,
    tree::{Kind, Last, Tree, TreeError, resolve},
};

/// Where files come from.
#[derive(Debug)]
pub(super) enum Files {
    /// An archive.
    Archive(LayerTree),
    /// A directory of this machine.
    Dir(PathBuf),
}

/// A file's size and its bytes.
type Opened = (u64, Box<dyn Read + Send>);

impl Files {
    /// Opens a regular file; `None` when there is none. Symbolic links are followed inside the archive or directory only.
    pub(super) fn open(&self, path: &str) -> Result<Option<Opened>, LoadError> {
        let opened = match self {
            Self::Archive(tree) => open_in_tree(tree, Path::new(path)),
            Self::Dir(dir) => open_in_dir(dir, Path::new(path)),
        };
        opened.map_err(|source| LoadError::ReadFile {
            path: path.into(),
            source,
        })
    }
}

fn open_in_tree(tree: &LayerTree, path: &Path) -> io::Result<Option<Opened>> {
    let unwrap = |error: TreeError| error.source;
    let path = resolve(tree, path, Last::Follow).map_err(unwrap)?;
    let Some(node) = tree.node(&path).map_err(unwrap)? else {
        return Ok(None);
    };
    let Kind::File { size } = node.metadata.kind else {
        return Ok(None);
    };
    Ok(Some((size, tree.open(&path).map_err(unwrap)?)))
}

fn open_in_dir(dir: &Path, path: &Path) -> io::Result<Option<Opened>> {
    let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if !path.components().all(plain) {
        return Ok(None);
    }
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty())?;
    // A pipe must not make the open wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let file = match opened {
        Ok(fd) => File::from(fd),
        // Sandboxes that do not know the call; there is no `..`, and the directory is the user's own.
        Err(rustix::io::Errno::NOSYS) => match File::open(dir.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        },
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    Ok(Some((metadata.len(), Box::new(file))))
}
