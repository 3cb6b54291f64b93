//! Whether what an instruction names is there, told from names alone: no file is read.

use std::path::{Path, PathBuf};

use super::{CopyError, source, source::Parents};
use crate::{
    context::is_pattern,
    plan::{CopyOp, CopySource},
    tree::{self, Last, Tree},
};

/// What the path sources of an instruction come to.
#[derive(Debug, Default)]
pub struct Presence {
    /// Paths that are there: as named, and where symbolic links lead.
    pub found: Vec<PathBuf>,
    /// Wildcards below a directory that match nothing.
    pub unmatched: Vec<Unmatched>,
}

/// A wildcard that matches nothing.
#[derive(Debug)]
pub struct Unmatched {
    /// The source as written.
    pub source: String,
    /// The directory in front of the first wildcard, never the root.
    pub dir: PathBuf,
}

/// Looks for the path sources of `COPY` or `ADD` in the tree they come from. One that is missing is the error that
/// copying would end with.
pub fn presence(op: &CopyOp, tree: &dyn Tree) -> Result<Presence, CopyError> {
    let mut presence = Presence::default();
    for copy_source in &op.sources {
        let CopySource::Path(text) = copy_source else {
            continue;
        };
        let parents = op.parents.then(|| Parents::parse(text)).transpose()?;
        let root = parents.as_ref().map_or(text.as_str(), |p| p.root);
        let paths = source::expand(tree, root)?;
        if let Some(parents) = &parents {
            for path in &paths {
                parents.check(tree, path)?;
            }
        } else if paths.is_empty() {
            presence.unmatched.extend(unmatched(text));
        } else if !is_pattern(text.as_bytes()) {
            for path in &paths {
                presence.found.push(mounted_presence(tree, path)?);
            }
        }
        presence.found.extend(paths);
    }
    Ok(presence)
}

/// Where the source of a bind mount leads.
pub fn mounted_presence(tree: &dyn Tree, source: &Path) -> Result<PathBuf, CopyError> {
    let path = tree::resolve(tree, &tree::clean(source), Last::Follow)?;
    match tree.node(&path)? {
        Some(_) => Ok(path),
        None => Err(CopyError::not_found(tree, &path)),
    }
}

fn unmatched(text: &str) -> Option<Unmatched> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = tree::clean(Path::new(text));
    let dir: PathBuf = path
        .iter()
        .take_while(|name| !is_pattern(name.as_bytes()))
        .collect();
    let is_below = !dir.as_os_str().is_empty();
    is_below.then(|| Unmatched {
        source: text.to_owned(),
        dir,
    })
}
