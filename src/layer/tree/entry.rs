//! A file of an archive that another entry has taken the name of.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::LayerBlob;
use crate::{
    layer::{FileContent, TocItem},
    oci::Digest,
    tree::{Kind, Metadata, Node, Tree, TreeError},
};

/// A tree of one regular file of an archive, which is at every path that is asked for.
#[derive(Debug)]
pub struct EntryFile {
    layer: Arc<LayerBlob>,
    entry: usize,
}

impl EntryFile {
    /// The regular file at this position in the layer's table; `None` if something else is there.
    pub fn new(layer: &Arc<LayerBlob>, entry: usize) -> Option<Self> {
        layer.toc().entries.get(entry)?.item.content()?;
        Some(Self {
            layer: Arc::clone(layer),
            entry,
        })
    }

    fn file(&self) -> io::Result<(&Metadata, &FileContent)> {
        match &self.layer.toc().entries[self.entry].item {
            TocItem::Node {
                metadata,
                content: Some(content),
            } => Ok((metadata, content)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn read<T>(
        &self,
        path: &Path,
        read: impl Fn(&Metadata, &FileContent) -> io::Result<T>,
    ) -> Result<T, TreeError> {
        let result = self
            .file()
            .and_then(|(metadata, content)| read(metadata, content));
        result.map_err(|source| TreeError {
            action: "read",
            path: PathBuf::from(path),
            source,
        })
    }
}

impl Tree for EntryFile {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        self.read(path, |metadata, _| {
            Ok(Some(Node {
                metadata: metadata.clone(),
                inode: None,
            }))
        })
    }

    fn names(&self, _: &Path) -> Result<Vec<OsString>, TreeError> {
        Ok(Vec::new())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn io::Read + Send>, TreeError> {
        self.read(path, |metadata, content| match metadata.kind {
            Kind::File { size } => self.layer.file_content(content, size),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        })
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        self.read(path, |_, content| self.layer.file_digest(content))
    }
}
