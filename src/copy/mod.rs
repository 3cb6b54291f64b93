//! `COPY`, `ADD` and `WORKDIR`: what they change, computed without a file system.
//!
//! ```text
//! CopyOp + tree of every source + state it builds on ─changes→ changes for a layer
//!        + tree of every source                      ─content_digest→ what a cache key has to know of the sources
//! WorkdirOp + state it builds on                     ─workdir→ changes for a layer
//! ```
//! Nothing is read but names, metadata, and the beginnings of files that might be archives; bytes stay where they are
//! and the writer of the layer fetches them.
//!
//! The result, laid over the state it builds on, is the file system that BuildKit makes: owners, modes, links,
//! attributes, and modification times. Directories on the way to a change come along with the metadata they have.
//! The rules are in `engine`, those of archives in `unpack`.

mod ahead;
mod digest;
mod engine;
mod error;
mod listed_once;
#[cfg(test)]
pub(crate) mod memory;
mod presence;
mod source;
#[cfg(test)]
mod tests;
mod unpack;
mod upper;
mod users;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{
    digest::{Before, ContentEntry, OnEntry, OnUnread, content_digest, mounted_content},
    error::CopyError,
    listed_once::ListedOnce,
    presence::{Presence, Unmatched, mounted_presence, presence},
    source::url_file_name,
    users::{
        FindUserError, FoundOwner, Owner, UnusableUserFile, find_owner, find_user, owner_below,
        owner_by_number,
    },
};
use self::{
    engine::{Source, Target},
    source::Parents,
    upper::Upper,
};
use crate::{
    context::Patterns,
    layer::{Changes, Content},
    plan::{CopyOp, CopySource, CopyVerb, WorkdirOp},
    tree::{self, EmptyTree, Last, Metadata, Node, Timestamp, Tree, TreeError},
};

/// All that a copy depends on.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "trees have none")]
pub struct CopyRequest<'a> {
    /// The instruction.
    pub op: &'a CopyOp,
    /// For each source of the instruction, in order, the tree it is in: the origin for a path, one that holds a file
    /// of the name [`url_file_name`] for a URL, the checkout (of the subdirectory) for git. That of an inline source
    /// is not looked at.
    pub trees: &'a [Arc<dyn Tree>],
    /// The state that the instruction builds on.
    pub parent: &'a Arc<dyn Tree>,
    /// The time of the build, for what the instruction makes of its own.
    pub now: Timestamp,
    /// A directory for copies of archives that are to be unpacked. They have no names and vanish with the changes.
    pub scratch: &'a Path,
}

/// What a copy changes.
#[derive(Debug)]
pub struct Copied {
    /// The changes, by path.
    pub changes: Changes,
    /// What is odd about the instruction, for the user to know.
    pub warnings: Vec<String>,
}

/// Whether the instruction makes a layer that does not depend on the state below: `--link`, which BuildKit ignores
/// when there is a `--chmod`.
pub fn is_linked(op: &CopyOp) -> bool {
    op.link && op.chmod.is_none()
}

/// The changes that `COPY` or `ADD` makes.
pub fn changes(request: &CopyRequest<'_>) -> Result<Copied, CopyError> {
    let CopyRequest {
        op,
        trees,
        parent,
        now,
        scratch,
    } = *request;
    let mut warnings = Vec::new();
    let owner = match &op.chown {
        None => None,
        Some(spec) => {
            let found = find_owner(spec, &**parent)?;
            warnings.extend(found.unknown.iter().map(|name| {
                format!("--chown={spec}: `{name}` is not in the image's /etc/passwd or /etc/group; 0 is taken")
            }));
            Some(found.owner)
        }
    };
    let dest = clean_dest(&op.dest);
    let target = Target {
        dest: &dest,
        owner,
        chmod: op.chmod.as_ref(),
        exclude: Patterns::from_words(&op.exclude)?,
        now,
    };
    let below: Arc<dyn Tree> = if is_linked(op) {
        Arc::new(EmptyTree)
    } else {
        Arc::clone(parent)
    };
    let mut upper = Upper::new(below, now);
    let empty: Arc<dyn Tree> = Arc::new(EmptyTree);
    for (i, source) in op.sources.iter().enumerate() {
        let tree = trees.get(i).unwrap_or(&empty);
        match source {
            CopySource::Path(text) => copy_path(&mut upper, &target, request, tree, text)?,
            CopySource::Url(url) => {
                let name = url_file_name(url);
                let path = Path::new(&name);
                let unpacks = op.unpack == Some(true);
                if !(unpacks && unpack::unpack(&mut upper, &target, tree, path, scratch)?) {
                    copy_whole(&mut upper, &target, tree, path)?;
                }
            }
            CopySource::Git(_) => copy_whole(&mut upper, &target, tree, Path::new(""))?,
            CopySource::Inline { name, content } => {
                let file: Arc<dyn Tree> = Arc::new(InlineFile {
                    name: name.into(),
                    content: Content::bytes(content.as_bytes()),
                    size: content.len() as u64,
                    mtime: now,
                });
                copy_whole(&mut upper, &target, &file, Path::new(name))?;
            }
        }
    }
    Ok(Copied {
        changes: upper.into_changes()?,
        warnings,
    })
}

/// Copies a path source, which may be a wildcard.
fn copy_path(
    upper: &mut Upper,
    target: &Target<'_>,
    request: &CopyRequest<'_>,
    tree: &Arc<dyn Tree>,
    text: &str,
) -> Result<(), CopyError> {
    let op = request.op;
    let unpacks = op.verb == CopyVerb::Add && op.unpack != Some(false);
    let parents = op.parents.then(|| Parents::parse(text)).transpose()?;
    let root = parents.as_ref().map_or(text, |parents| parents.root);
    for path in source::expand(&**tree, root)? {
        if let Some(parents) = &parents {
            parents.check(&**tree, &path)?;
        }
        if unpacks && unpack::unpack(upper, target, tree, &path, request.scratch)? {
            continue;
        }
        engine::copy(
            upper,
            target,
            &Source {
                tree,
                path: &path,
                follows_links: true,
                takes_contents: true,
                include: parents.as_ref().and_then(|p| p.wanted.as_ref()),
            },
        )?;
    }
    Ok(())
}

/// Copies what was fetched or written for this instruction alone.
fn copy_whole(
    upper: &mut Upper,
    target: &Target<'_>,
    tree: &Arc<dyn Tree>,
    path: &Path,
) -> Result<(), CopyError> {
    let source = Source {
        tree,
        path,
        follows_links: false,
        takes_contents: false,
        include: None,
    };
    engine::copy(upper, target, &source)
}

/// The changes that `WORKDIR` makes: none when the directory is there.
pub fn workdir(
    op: &WorkdirOp,
    parent: &Arc<dyn Tree>,
    now: Timestamp,
) -> Result<Changes, CopyError> {
    let owner = match op.user.as_str() {
        "" => None,
        user => Some(find_owner(user, &**parent)?.owner),
    };
    let mut upper = Upper::new(Arc::clone(parent), now);
    let path = tree::clean(Path::new(&op.path));
    let dir = tree::resolve(&upper, &path, Last::Follow)?;
    let time = op.time.map_or(now, Timestamp::from_seconds);
    engine::make_dirs(&mut upper, &dir, 0o755, owner, time)?;
    Ok(upper.into_changes()?)
}

/// A destination without `.` and `..`, its `/` or `/.` at the end kept.
fn clean_dest(dest: &str) -> String {
    let path = tree::clean(Path::new(dest));
    let mut clean = format!("/{}", path.display());
    if clean != "/" && (dest.ends_with('/') || dest.ends_with("/.")) {
        clean.push('/');
    }
    clean
}

/// A file written in the Dockerfile, as a tree.
struct InlineFile {
    name: PathBuf,
    content: Content,
    size: u64,
    mtime: Timestamp,
}

impl Tree for InlineFile {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        Ok((path == self.name).then(|| Node {
            metadata: Metadata::file(self.size, self.mtime),
            inode: None,
        }))
    }

    fn names(&self, _: &Path) -> Result<Vec<std::ffi::OsString>, TreeError> {
        Ok(vec![self.name.clone().into()])
    }

    fn open(&self, path: &Path) -> Result<Box<dyn std::io::Read + Send>, TreeError> {
        self.content.open().map_err(|source| TreeError {
            action: "read",
            path: path.to_owned(),
            source,
        })
    }

    fn digest(&self, path: &Path) -> Result<crate::oci::Digest, TreeError> {
        let mut digester = crate::oci::Digester::new();
        std::io::copy(&mut self.open(path)?, &mut digester).map_err(|source| TreeError {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(digester.finish())
    }
}
