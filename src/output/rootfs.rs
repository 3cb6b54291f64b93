//! The files of an image: `type=tar` and `type=local`. Needs no privilege: an archive says who owns a file, and a directory's
//! files belong to whoever runs this.
//!
//! A build for several platforms has a directory for each, `linux_amd64`, unless `platform-split=false`; then they share one, and no
//! two may have a file of the same name.
//!
//! What is said about an image is a file beside its own ones (`attested.rs`).

mod attested;
mod local;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::attested::Attested;
use super::{
    Dest, FilesOptions, LocalSpec, OutputError, Request, Services, TarSpec,
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
    let epoch = spec.files.epoch.or(request.epoch);
    let mut entries = BTreeMap::new();
    for Placed { prefix, tree, .. } in placed(request, &spec.files, services)? {
        let mut collector = Collector {
            tree: &tree,
            prefix: &prefix,
            mtime: epoch.map(Timestamp::from_seconds),
            first_names: BTreeMap::new(),
            entries: &mut entries,
        };
        if !prefix.as_os_str().is_empty() {
            let dir = Change::dir(prefix.clone(), Metadata::dir(time_of_places(epoch)));
            collector.entries.insert(prefix.clone(), dir);
        }
        collector.collect(Path::new("")).map_err(tree_error)?;
    }
    let changes: Vec<Change> = entries.into_values().collect();
    match &spec.dest {
        Dest::Path(path) => {
            let mut failure = None;
            let replaced = archive::write_or_replace(path, |file| {
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

/// The time of the directories of platforms: without an epoch it is not the present one, so that the same files make the same output.
fn time_of_places(epoch: Option<i64>) -> Timestamp {
    Timestamp::from_seconds(epoch.unwrap_or_default())
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
    let epoch = spec.files.epoch.or(request.epoch);
    let placed = placed(request, &spec.files, services)?;
    let made = local::create(&spec.dest)?;
    let written = fill_local(spec, &placed, epoch, services);
    if written.is_err() {
        local::remove_empty(&made);
    }
    written
}

fn fill_local(
    spec: &LocalSpec,
    placed: &[Placed<'_>],
    epoch: Option<i64>,
    services: &Services<'_>,
) -> Result<(), OutputError> {
    let split = placed
        .iter()
        .any(|placed| !placed.prefix.as_os_str().is_empty());
    let mut kept = local::Kept::default();
    for (i, Placed { prefix, tree, .. }) in placed.iter().enumerate() {
        let target = spec.dest.join(prefix);
        let options = local::Options {
            mode: spec.mode,
            mtime: epoch.map(Timestamp::from_seconds),
            // What an earlier platform left is not to be deleted by a later one.
            only_add: !split && i > 0,
        };
        let skipped = local::write(tree.as_ref(), &target, options)?;
        if !prefix.as_os_str().is_empty() {
            local::date(&target, time_of_places(epoch))?;
        }
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

/// The files of an image, and where they go.
struct Placed<'a> {
    platform: &'a Platform,
    /// Its directory; an empty path is the root.
    prefix: PathBuf,
    /// Its files, with what is said about them.
    tree: Arc<dyn Tree>,
}

/// The images, each in its place, where none writes over another.
fn placed<'a>(
    request: &Request<'a>,
    options: &FilesOptions,
    services: &Services<'_>,
) -> Result<Vec<Placed<'a>>, OutputError> {
    let is_several = request.multi_platform || request.images.len() > 1;
    let split = options.platform_split.unwrap_or(is_several);
    let epoch = options.epoch.or(request.epoch);
    let made = Timestamp::from_seconds(epoch.unwrap_or(request.now));
    let images = request.images.iter().enumerate();
    let placed: Vec<_> = images
        .map(|(n, image)| {
            let platform = &image.config.platform;
            let directory = directory_name(platform);
            let shared = (is_several && !split).then_some(directory.as_str());
            let statements = request.statements_for_files(n)?;
            let named: Vec<_> = statements
                .into_iter()
                .map(|(name, statement)| {
                    let name = attested::file_name(&options.attestation_prefix, &name, shared);
                    (name, statement)
                })
                .collect();
            let tree = services
                .layers
                .tree(image)
                .map_err(|source| OutputError::Tree { source })?;
            Ok(Placed {
                platform,
                tree: Attested::beside(tree, &named, made)?,
                prefix: PathBuf::from(if split { &directory } else { "" }),
            })
        })
        .collect::<Result<_, OutputError>>()?;
    check_apart(&placed)?;
    Ok(placed)
}

/// Makes sure that no image writes over what another one has put in the same place.
fn check_apart(placed: &[Placed<'_>]) -> Result<(), OutputError> {
    let is_root = |placed: &Placed<'_>| placed.prefix.as_os_str().is_empty();
    let shared = placed.len() > 1 && placed.iter().all(is_root);
    let mut owners = BTreeMap::new();
    for Placed { platform, tree, .. } in placed.iter().filter(|_| shared) {
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
                        vacant.insert(*platform);
                    }
                    Entry::Occupied(owner) => {
                        return Err(OutputError::Overwritten {
                            path: owner.key().clone(),
                            first: owner.get().to_string(),
                            second: platform.to_string(),
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
