//! Unpacking what a tree adds to another.

use std::{
    collections::HashMap,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use super::{At, SnapshotError, Style, place::Placer};
use crate::{
    layer::{Difference, Different, LayerTree, Stored},
    tree::{Kind, Metadata, Tree as _},
};

/// Makes `dir/fs` with all that `above` has otherwise than `below`.
pub(super) fn unpack(
    dir: &Path,
    below: &LayerTree,
    above: &LayerTree,
    style: Style,
) -> Result<(), SnapshotError> {
    let fs = dir.join("fs");
    std::fs::create_dir(&fs).at("create", &fs)?;
    let mut placer = Placer::new(&fs, dir.join("owners"), style)?;
    let mut dirs: Vec<(PathBuf, Metadata)> = Vec::new();
    let mut files: Vec<(Stored, PathBuf, Metadata)> = Vec::new();
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut first_names: HashMap<u64, PathBuf> = HashMap::new();
    for Difference { path, what } in above.differences(below) {
        match what {
            Different::Gone => placer.whiteout(&path)?,
            Different::Dir { metadata, .. } => {
                if !path.as_os_str().is_empty() {
                    placer.dir(&path)?;
                    dirs.push((path, metadata));
                }
            }
            Different::Leaf {
                metadata,
                inode,
                stored,
            } => {
                if let Some(inode) = inode {
                    if let Some(first) = first_names.get(&inode) {
                        links.push((path, first.clone()));
                        continue;
                    }
                    first_names.insert(inode, path.clone());
                }
                if let Kind::File { .. } = metadata.kind {
                    files.push((stored, path, metadata));
                } else {
                    placer.special(&path, &metadata)?;
                }
            }
        }
    }
    write_files(&mut placer, above, files)?;
    for (path, target) in links {
        placer.link(&path, &target)?;
    }
    // Children change their directory's time, so they come first.
    for (path, metadata) in dirs.iter().rev() {
        placer.finish_dir(path, metadata)?;
    }
    if let Some(root) = above.node(Path::new(""))? {
        placer.finish_dir(Path::new(""), &root.metadata)?;
    }
    Ok(())
}

/// Writes files in the order in which the layers have them, so that each layer is decompressed once.
fn write_files(
    placer: &mut Placer,
    tree: &LayerTree,
    mut files: Vec<(Stored, PathBuf, Metadata)>,
) -> Result<(), SnapshotError> {
    files.sort_by_key(|(stored, ..)| *stored);
    for of_layer in files.chunk_by(|a, b| a.0.layer == b.0.layer) {
        let Some((Stored { layer, .. }, path, _)) = of_layer.first() else {
            continue;
        };
        let blob = &tree.layers()[*layer];
        let wanted: u64 = of_layer.iter().map(|(_, _, metadata)| size(metadata)).sum();
        if of_layer.len() < 3 || wanted * 8 < blob.toc().tar_size {
            // A few names of a large layer, as when a file below gets one more name.
            for (_, path, metadata) in of_layer {
                placer.file(path, metadata, &mut tree.open(path)?)?;
            }
            continue;
        }
        let mut tar = blob.tar().at("read", path)?;
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(8);
            scope.spawn(move || pump(&mut tar, &sender));
            let mut tar = Piped::new(receiver);
            for (stored, path, metadata) in of_layer {
                if stored.sparse || stored.offset < tar.position {
                    placer.file(path, metadata, &mut tree.open(path)?)?;
                } else {
                    tar.skip_to(stored.offset).at("read", path)?;
                    placer.file(path, metadata, &mut tar)?;
                }
            }
            Ok::<(), SnapshotError>(())
        })?;
    }
    Ok(())
}

fn size(metadata: &Metadata) -> u64 {
    match metadata.kind {
        Kind::File { size } => size,
        _ => 0,
    }
}

/// Decompresses ahead, until the other side has seen enough.
fn pump(tar: &mut dyn Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    const CHUNK: usize = 256 << 10;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = tar.take(CHUNK as u64).read_to_end(&mut chunk);
        let ended = chunk.is_empty() || read.is_err();
        if sender.send(read.map(|_| chunk)).is_err() || ended {
            return;
        }
    }
}

/// Reads what another thread decompresses.
struct Piped {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    used: usize,
    position: u64,
}

impl Piped {
    const fn new(chunks: Receiver<io::Result<Vec<u8>>>) -> Self {
        Self {
            chunks,
            chunk: Vec::new(),
            used: 0,
            position: 0,
        }
    }

    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        let missing = offset.saturating_sub(self.position);
        io::copy(&mut self.take(missing), &mut io::sink())?;
        Ok(())
    }
}

impl Read for Piped {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.chunk.len() {
            // The sender ends with an empty chunk or an error; after that there is nothing.
            self.chunk = self.chunks.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            self.used = 0;
        }
        let available = &self.chunk[self.used..];
        let length = available.len().min(out.len());
        out[..length].copy_from_slice(&available[..length]);
        self.used += length;
        self.position += length as u64;
        Ok(length)
    }
}
