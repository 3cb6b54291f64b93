//! A file of the web as a tree of its own.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::{
    oci::Digest,
    tree::{Metadata, Node, Timestamp, Tree, TreeError},
};

/// A tree of one downloaded file.
#[derive(Debug, Clone)]
pub struct SingleFile {
    /// Its name.
    pub name: PathBuf,
    /// Where it lies.
    pub file: PathBuf,
    /// What it is in the tree.
    pub metadata: Metadata,
    /// Its content's.
    pub digest: Digest,
}

impl Tree for SingleFile {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let metadata = if path == self.name {
            self.metadata.clone()
        } else if path.as_os_str().is_empty() {
            Metadata::dir(Timestamp::default())
        } else {
            return Ok(None);
        };
        Ok(Some(Node {
            metadata,
            inode: None,
        }))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let is_root = path.as_os_str().is_empty();
        Ok(is_root
            .then(|| self.name.clone().into_os_string())
            .into_iter()
            .collect())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        let failed = |source| TreeError {
            action: "read",
            path: path.to_owned(),
            source,
        };
        if path != self.name {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        Ok(Box::new(File::open(&self.file).map_err(failed)?))
    }

    fn digest(&self, _: &Path) -> Result<Digest, TreeError> {
        Ok(self.digest)
    }
}

impl SingleFile {
    /// A file of the web: 0600, root's, with the server's time of last change or 1970.
    pub fn fetched(
        name: &str,
        file: PathBuf,
        size: u64,
        digest: Digest,
        modified: Option<i64>,
    ) -> Self {
        let mut metadata = Metadata::file(size, Timestamp::from_seconds(modified.unwrap_or(0)));
        metadata.mode = 0o600;
        Self {
            name: PathBuf::from(name),
            file,
            metadata,
            digest,
        }
    }
}
