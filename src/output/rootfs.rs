//! The files of an image: `type=tar` and `type=local`. Needs no privilege: an archive says who owns a file, and a directory's
//! files belong to whoever runs this.
//!
//! A build for several platforms has a directory for each, `linux_amd64`, unless `platform-split=false`; then they share one, and no
//! two may have a file of the same name.

mod local;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Dest, Image, LocalSpec, OutputError, Request, Services, TarSpec,
    archive::{self, ArchiveError},
};
use crate::{
    layer::{Change, Compression, Content, LayerError, WriteOptions, write_layer},
    oci::Platform,
    tree::{Kind, Metadata, Timestamp, Tree, TreeError},
};

/// Writes the files as an archive.
pub(super) fn export_tar(
    spec: &TarSpec,
    request: &Request<'_>,
    services: &Services<'_>,
    stdout: &mut dyn Write,
) -> Result<(), OutputError> {
    let epoch = spec.epoch.or(request.epoch);
    let mut entries = BTreeMap::new();
    let placed = placed(request, spec.platform_split);
    check_apart(&placed, services)?;
    for (prefix, image) in placed {
        let tree = tree(image, services)?;
        let mut collector = Collector {
            tree: &tree,
            prefix: &prefix,
            mtime: epoch.map(Timestamp::from_seconds),
            first_names: BTreeMap::new(),
            entries: &mut entries,
        };
        if !prefix.as_os_str().is_empty() {
            let made = Timestamp::from_seconds(epoch.unwrap_or(request.now));
            let dir = Change::dir(prefix.clone(), Metadata::dir(made));
            collector.entries.insert(prefix.clone(), dir);
        }
        collector.collect(Path::new("")).map_err(tree_error)?;
    }
    let changes: Vec<Change> = entries.into_values().collect();
    match &spec.dest {
        Dest::Path(path) => {
            let mut failure = None;
            let replaced = archive::replace(path, |file| {
                write(changes, file).map_err(|error| match error {
                    LayerError::Sink { source } => ArchiveError::Sink(source),
                    other => {
                        failure = Some(tree_error(other));
                        ArchiveError::Sink(std::io::ErrorKind::Other.into())
                    }
                })
            });
            match failure {
                Some(failure) => Err(failure),
                None => replaced,
            }
        }
        Dest::Stdout => write(changes, stdout).map_err(|error| match error {
            LayerError::Sink { source } => OutputError::Stdout { source },
            other => tree_error(other),
        }),
    }
}

fn write(changes: Vec<Change>, sink: &mut dyn Write) -> Result<(), LayerError> {
    let options = WriteOptions {
        compression: Compression::Uncompressed,
        ..WriteOptions::default()
    };
    write_layer(changes, sink, &options).map(|_| ())
}

/// Writes the files into a directory.
pub(super) fn export_local(
    spec: &LocalSpec,
    request: &Request<'_>,
    services: &Services<'_>,
) -> Result<(), OutputError> {
    let placed = placed(request, spec.platform_split);
    check_apart(&placed, services)?;
    local::create(&spec.dest)?;
    let split = placed
        .iter()
        .any(|(prefix, _)| !prefix.as_os_str().is_empty());
    let mut kept = local::Kept::default();
    for (i, (prefix, image)) in placed.iter().enumerate() {
        let tree = tree(image, services)?;
        let target = spec.dest.join(prefix);
        let options = local::Options {
            mode: spec.mode,
            mtime: spec.epoch.or(request.epoch).map(Timestamp::from_seconds),
            // What an earlier platform left is not to be deleted by a later one.
            only_add: !split && i > 0,
        };
        let skipped = local::write(tree.as_ref(), &target, options)?;
        for path in skipped {
            services.status(format!(
                "`{}` is left out: making a device needs privileges",
                path.display()
            ));
        }
        kept.add(prefix);
    }
    if split && spec.mode == super::LocalMode::Delete {
        kept.delete_others(&spec.dest)?;
    }
    Ok(())
}

/// The images with the directories they go to; an empty path is the root.
fn placed<'a>(request: &Request<'a>, split: Option<bool>) -> Vec<(PathBuf, &'a Image)> {
    let split = split.unwrap_or(request.multi_platform || request.images.len() > 1);
    request
        .images
        .iter()
        .map(|image| {
            let prefix = if split {
                PathBuf::from(directory_name(&image.config.platform))
            } else {
                PathBuf::new()
            };
            (prefix, image)
        })
        .collect()
}

/// Makes sure that no image writes over what another one has put in the same place.
fn check_apart(placed: &[(PathBuf, &Image)], services: &Services<'_>) -> Result<(), OutputError> {
    let shared = placed.len() > 1 && placed.iter().all(|(at, _)| at.as_os_str().is_empty());
    let mut owners = BTreeMap::new();
    for (_, image) in placed.iter().filter(|_| shared) {
        let tree = tree(image, services)?;
        let mut todo = vec![PathBuf::new()];
        while let Some(dir) = todo.pop() {
            for name in tree.names(&dir).map_err(tree_error)? {
                let path = dir.join(name);
                let node = tree.node(&path).map_err(tree_error)?;
                if node.is_some_and(|node| node.metadata.is_dir()) {
                    todo.push(path);
                    continue;
                }
                match owners.entry(path) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(&image.config.platform);
                    }
                    Entry::Occupied(owner) => {
                        return Err(OutputError::Overwritten {
                            path: owner.key().clone(),
                            first: owner.get().to_string(),
                            second: image.config.platform.to_string(),
                        });
                    }
                }
            }
        }
    }
    Ok(())
}

/// `linux/arm/v7` as the name of a directory.
fn directory_name(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

fn tree(image: &Image, services: &Services<'_>) -> Result<Arc<dyn Tree>, OutputError> {
    services
        .layers
        .tree(image)
        .map_err(|source| OutputError::Tree { source })
}

fn tree_error(error: impl std::error::Error + Send + Sync + 'static) -> OutputError {
    OutputError::Tree {
        source: Box::new(error),
    }
}

/// Lists a tree as the changes that make it.
struct Collector<'a> {
    tree: &'a Arc<dyn Tree>,
    prefix: &'a Path,
    mtime: Option<Timestamp>,
    /// The first name of each inode with several.
    first_names: BTreeMap<u64, PathBuf>,
    entries: &'a mut BTreeMap<PathBuf, Change>,
}

impl Collector<'_> {
    fn collect(&mut self, dir: &Path) -> Result<(), TreeError> {
        for name in self.tree.names(dir)? {
            let path = dir.join(name);
            let Some(node) = self.tree.node(&path)? else {
                continue;
            };
            let target = self.prefix.join(&path);
            let mut metadata = node.metadata;
            if let Some(mtime) = self.mtime {
                metadata.mtime = mtime;
            }
            let is_dir = metadata.is_dir();
            let first = node
                .inode
                .filter(|_| !is_dir)
                .map(|inode| {
                    self.first_names
                        .entry(inode)
                        .or_insert_with(|| target.clone())
                        .clone()
                })
                .filter(|first| *first != target);
            let content = match metadata.kind {
                Kind::File { size: 1.. } => Content::Tree {
                    tree: Arc::clone(self.tree),
                    path: path.clone(),
                },
                _ => Content::Empty,
            };
            let change = match first {
                Some(first) => Change::Link {
                    path: target.clone(),
                    target: first,
                },
                None => Change::Put {
                    path: target.clone(),
                    metadata,
                    content,
                },
            };
            self.entries.insert(target, change);
            if is_dir {
                self.collect(&path)?;
            }
        }
        Ok(())
    }
}
