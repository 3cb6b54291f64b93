//! Lists of packages: the scanner's stage is added to plans, and what it wrote is read.

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{BuildResult, BuiltImage, Services, StepError, blobs::Fetch, session::Session};
use crate::{
    build::{BuildError, FailedScanner},
    layer::{FileDigests, LayerBlob, LayerTree, TocItem},
    plan::{NoProgram, Plan, SCAN_RESULTS},
    progress::Vertex,
    tree::{self, Kind, Last, Listed, Tree as _, TreeError},
};

/// A list may have so many bytes, as in BuildKit.
const MAX_LIST_BYTES: u64 = 40 << 20;

/// What a scanner says of an image.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The files that it wrote, by name: in-toto statements, if it does as it should.
    pub lists: Vec<(String, Vec<u8>)>,
    /// Which of [`BuiltImage::layers`] each path of the image comes from: the topmost that has it, also where it is gone.
    pub layers: HashMap<PathBuf, usize>,
}

/// Adds to a plan the stage that lists what its target consists of, if the build wants that.
pub(super) fn add(session: &Session<'_>, plan: &mut Plan) -> Result<(), BuildError> {
    let Some(scanner) = &session.request.scanner else {
        return Ok(());
    };
    let name = format!("resolve image config for docker-image://{}", scanner.image);
    let task = session.task(name);
    let added = session
        .images
        .get(session, &scanner.source())
        .map_err(|source| {
            let image = scanner.image.clone();
            BuildError::Scanner(Box::new(FailedScanner { image, source }))
        })
        .and_then(|image| {
            let added = plan.add_scan(scanner, &image.config.config);
            added.map_err(|NoProgram| BuildError::IdleScanner {
                image: scanner.image.clone(),
            })
        });
    match added {
        Ok(()) => task.done(),
        Err(error) => {
            task.failed(&error);
            return Err(error);
        }
    }
    Ok(())
}

impl BuildResult {
    /// What the scanner says of one of [`BuildResult::images`]; `None` where the build had none.
    pub fn scan(
        &self,
        services: &Services<'_>,
        vertex: Vertex,
        image: &BuiltImage,
    ) -> Result<Option<Scan>, StepError> {
        let Some(scan) = &image.scan else {
            return Ok(None);
        };
        let fetch = Fetch {
            services,
            blobs: &self.blobs,
            vertex,
            staging: None,
            digests: FileDigests::OnDemand,
        };
        let lists = lists(&*scan.tree(fetch)?)?;
        let files = image.root.tree(fetch)?;
        let mut layers = HashMap::new();
        for (n, layer) in files.layers().iter().enumerate() {
            layers.extend(paths(layer).map(|path| (path.to_owned(), n)));
        }
        Ok(Some(Scan { lists, layers }))
    }
}

/// The paths that a layer has, without those that it takes away.
fn paths(layer: &LayerBlob) -> impl Iterator<Item = &Path> {
    let entries = layer.toc().entries.iter();
    let there =
        entries.filter(|entry| matches!(entry.item, TocItem::Node { .. } | TocItem::Link { .. }));
    there.map(|entry| entry.path.as_path())
}

/// The files that the topmost layer has in the directory for lists. What the scanner's image has there is none of them.
fn lists(tree: &LayerTree) -> Result<Vec<(String, Vec<u8>)>, StepError> {
    let dir = tree::resolve(tree, Path::new(SCAN_RESULTS), Last::Follow)?;
    let made: HashSet<&Path> = tree
        .layers()
        .last()
        .into_iter()
        .flat_map(|l| paths(l))
        .collect();
    let mut lists = Vec::new();
    for Listed { name, node, .. } in tree.list(&dir)? {
        let path = dir.join(&name);
        if !made.contains(path.as_path()) {
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        let refuse = |reason| StepError::List {
            name: name.clone(),
            reason,
        };
        match node.metadata.kind {
            Kind::File { size } if size <= MAX_LIST_BYTES => {}
            Kind::File { .. } => return Err(refuse("it has more than 40 MiB")),
            _ => return Err(refuse("it is no regular file")),
        }
        let mut bytes = Vec::new();
        let read = tree.open(&path)?.read_to_end(&mut bytes);
        read.map_err(|source| TreeError {
            action: "read",
            path,
            source,
        })?;
        lists.push((name, bytes));
    }
    Ok(lists)
}
