//! Unpacking what a tree adds to another.

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    At, SnapshotError, Staged, Style,
    place::Placer,
    writers::{SMALL, Small, with_writers},
};
use crate::{
    layer::{Difference, Different, LayerTree, Stored, read_ahead},
    tree::{Kind, Metadata, Tree as _},
};

/// Makes `dir/fs` with all that `above` has otherwise than `below`. Files of its topmost layer that are staged are moved
/// there.
pub(super) fn unpack(
    dir: &Path,
    below: &LayerTree,
    above: &LayerTree,
    style: Style,
    staged: Option<&Staged>,
) -> Result<(), SnapshotError> {
    let top = above.layers().len().saturating_sub(1);
    let staged = |stored: &Stored| {
        let is_whole = stored.layer == top && !stored.sparse;
        staged.filter(|_| is_whole)?.find(stored.offset)
    };
    let fs = dir.join("fs");
    std::fs::create_dir(&fs).at("create", &fs)?;
    let mut placer = Placer::new(&fs, dir.join("owners"), style)?;
    let mut dirs: Vec<(PathBuf, Metadata)> = Vec::new();
    let mut files: Vec<(Stored, PathBuf, Metadata)> = Vec::new();
    let mut links: Vec<(PathBuf, PathBuf, Metadata)> = Vec::new();
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
                        links.push((path, first.clone(), metadata));
                        continue;
                    }
                    first_names.insert(inode, path.clone());
                }
                if let Kind::File { .. } = metadata.kind {
                    if let Some((dir, name, dressed)) = staged(&stored) {
                        placer.adopt((dir, &name), &path, (dressed, &metadata))?;
                        continue;
                    }
                    files.push((stored, path, metadata));
                } else {
                    placer.special(&path, &metadata)?;
                }
            }
        }
    }
    write_files(&mut placer, above, files)?;
    for (path, target, metadata) in links {
        placer.link(&path, &target)?;
        placer.own_name(&path, &metadata)?;
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
        let tar = blob.tar().at("read", path)?;
        // Beside the thread that decompresses and this one, which shares files out.
        let (placed, _tar) = read_ahead(tar, |tar| {
            with_writers(&placer.again()?, |writers| {
                for (stored, path, metadata) in of_layer {
                    if stored.sparse || stored.offset < tar.position() {
                        placer.file(path, metadata, &mut tree.open(path)?)?;
                        continue;
                    }
                    tar.skip_to(stored.offset).at("read", path)?;
                    if size(metadata) > SMALL {
                        placer.file(path, metadata, tar)?;
                        continue;
                    }
                    let mut bytes =
                        Vec::with_capacity(usize::try_from(size(metadata)).unwrap_or(0));
                    tar.take(size(metadata))
                        .read_to_end(&mut bytes)
                        .at("read", path)?;
                    let (path, metadata) = (path.clone(), metadata.clone());
                    let file = Small {
                        path,
                        metadata,
                        bytes,
                    };
                    if !writers.put(file) {
                        break;
                    }
                }
                Ok::<(), SnapshotError>(())
            })?;
            // The checksums of what was written come last.
            std::io::copy(tar, &mut std::io::sink()).map_err(|source| SnapshotError::Layer {
                diff_id: blob.toc().diff_id,
                source,
            })?;
            Ok::<(), SnapshotError>(())
        });
        placed?;
    }
    Ok(())
}

fn size(metadata: &Metadata) -> u64 {
    match metadata.kind {
        Kind::File { size } => size,
        _ => 0,
    }
}
