//! Copying one source into a destination, by the rules of BuildKit.
//!
//! | destination            | source is a file                        | source is a directory                       |
//! |------------------------|-----------------------------------------|---------------------------------------------|
//! | missing, no slash      | becomes the file                        | is made, and filled                         |
//! | missing, slash         | is made, the file goes inside           | is made, and filled                         |
//! | directory              | the file goes inside                    | is filled                                   |
//! | file                   | is replaced                             | error                                       |
//!
//! Symbolic links on the way to the destination, its last name included, are followed inside the root, dangling ones
//! to what they name. Below the destination nothing is followed: a file replaces a link, a directory refuses to.
//!
//! - A directory that has to be made on the way is 0755 and root's, or takes `--chown` and an octal `--chmod`. In a
//!   setgid directory it is setgid and of the same group, as the system makes it.
//! - The destination directory itself keeps its owner and mode and takes the source's modification time.
//! - A directory further down takes all of the source's metadata, whether it is there already or not.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CopyError,
    ahead::{Lister, listing},
    upper::Upper,
    users::Owner,
};
use crate::{
    context::{Patterns, Verdict},
    layer::Content,
    plan::Chmod,
    tree::{self, Kind, Last, Listed, Metadata, Node, Timestamp, Tree},
};

/// Where to copy, and how; the same for all sources of an instruction.
pub(super) struct Target<'a> {
    /// The destination, not cleaned; a `/` or `/.` at the end says that it is a directory.
    pub(super) dest: &'a str,
    /// `--chown`.
    pub(super) owner: Option<Owner>,
    /// `--chmod`.
    pub(super) chmod: Option<&'a Chmod>,
    /// `--exclude`.
    pub(super) exclude: Patterns,
    /// The time of directories that have to be made.
    pub(super) now: Timestamp,
}

/// One source.
pub(super) struct Source<'a> {
    /// The tree it is in.
    pub(super) tree: &'a Arc<dyn Tree>,
    /// Its name in the tree, which is also its name in a destination directory.
    pub(super) path: &'a Path,
    /// Whether symbolic links on the way to it are followed.
    pub(super) follows_links: bool,
    /// Whether a directory stands for what is in it.
    pub(super) takes_contents: bool,
    /// Only these are wanted: `--parents`.
    pub(super) include: Option<&'a Patterns>,
}

/// Makes directories up to `path`, which is resolved.
pub(super) fn make_dirs(
    upper: &mut Upper,
    path: &Path,
    mode: u32,
    owner: Option<Owner>,
    now: Timestamp,
) -> Result<(), CopyError> {
    let mut dirs: Vec<&Path> = path
        .ancestors()
        .filter(|p| !p.as_os_str().is_empty())
        .collect();
    dirs.reverse();
    // The group that a directory made in a setgid directory takes over.
    let mut inherited = upper.get(Path::new(""))?.and_then(|root| setgid(&root));
    for dir in dirs {
        match upper.get(dir)? {
            Some(metadata) if metadata.is_dir() => inherited = setgid(&metadata),
            Some(_) => {
                let path = dir.to_owned();
                return Err(CopyError::ParentIsNoDirectory { path });
            }
            None => {
                let Owner { uid, gid } = owner.unwrap_or(Owner {
                    uid: 0,
                    gid: inherited.unwrap_or(0),
                });
                let metadata = Metadata {
                    mode: mode & 0o777 | if inherited.is_some() { SETGID } else { 0 },
                    uid,
                    gid,
                    ..Metadata::dir(now)
                };
                inherited = setgid(&metadata);
                upper.create(dir, metadata, Content::Empty)?;
            }
        }
    }
    Ok(())
}

const SETGID: u32 = 0o2000;

/// The group of a setgid directory.
fn setgid(dir: &Metadata) -> Option<u32> {
    (dir.mode & SETGID != 0).then_some(dir.gid)
}

/// The part of a destination that has to be a directory, whatever is copied.
fn dir_of(dest: &str) -> &str {
    match dest.rsplit_once('/') {
        Some((dir, name)) if !name.is_empty() && name != "." => dir,
        Some(_) => dest,
        None => "",
    }
}

/// Copies one source.
pub(super) fn copy(
    upper: &mut Upper,
    target: &Target<'_>,
    source: &Source<'_>,
) -> Result<(), CopyError> {
    let resolve = |upper: &Upper, path: &str| tree::resolve(upper, Path::new(path), Last::Follow);
    let dir_mode = Chmod::of_made_parents(target.chmod);
    let made =
        |upper: &mut Upper, path: &Path| make_dirs(upper, path, dir_mode, target.owner, target.now);

    let dir = resolve(upper, dir_of(target.dest))?;
    made(upper, &dir)?;
    let mut dest = resolve(upper, target.dest)?;

    let from = if source.follows_links {
        tree::resolve(&**source.tree, source.path, Last::Follow)?
    } else {
        source.path.to_owned()
    };
    let Some(node) = source.tree.node(&from)? else {
        let named = if source.tree.ignored_by(&from).is_some() {
            &from
        } else {
            source.path
        };
        return Err(CopyError::not_found(&**source.tree, named));
    };
    let existing = upper.get(&dest)?;
    let goes_inside = match (&existing, node.metadata.is_dir()) {
        (None, _) => false,
        (Some(_), true) => !source.takes_contents,
        (Some(there), false) => there.is_dir(),
    };
    if goes_inside {
        dest.extend(source.path.file_name());
    }
    if source.takes_contents && node.metadata.is_dir() && existing.is_none() {
        made(upper, &dest)?;
    } else if let Some(parent) = dest.parent() {
        made(upper, parent)?;
    }

    let takes_all = source.include.is_none() && target.exclude.is_empty();
    listing(&**source.tree, takes_all, |lister| {
        let mut copier = Copier {
            upper,
            target,
            tree: source.tree,
            lister,
            include: source.include,
            links: HashMap::new(),
            dirs: Vec::new(),
        };
        copier.entry(
            &Step {
                from: &from,
                below: Path::new(""),
                to: &dest,
            },
            node,
            &Verdict::root(),
            &Verdict::root(),
        )
    })
}

struct Copier<'a, 'scope, 'env> {
    upper: &'a mut Upper,
    target: &'a Target<'a>,
    tree: &'a Arc<dyn Tree>,
    lister: &'a Lister<'scope, 'env>,
    include: Option<&'a Patterns>,
    /// The first copy of each inode that has several names.
    links: HashMap<u64, PathBuf>,
    /// The directories above the present entry, outermost first.
    dirs: Vec<Dir>,
}

/// A directory on the way down. One that no pattern names is made only when something below it is copied.
struct Dir {
    from: PathBuf,
    to: PathBuf,
    is_done: bool,
}

/// One entry to copy.
struct Step<'a> {
    from: &'a Path,
    /// Relative to the source, as patterns see it; empty for the source itself.
    below: &'a Path,
    to: &'a Path,
}

impl Step<'_> {
    fn is_top(&self) -> bool {
        self.below.as_os_str().is_empty()
    }
}

impl Copier<'_, '_, '_> {
    /// Copies an entry, of which the tree says `node`.
    fn entry(
        &mut self,
        step: &Step<'_>,
        mut node: Node,
        parent_include: &Verdict,
        parent_exclude: &Verdict,
    ) -> Result<(), CopyError> {
        let (mut is_wanted, mut is_excluded) = (true, false);
        let (mut include, mut exclude) = (Verdict::root(), Verdict::root());
        if !step.is_top() {
            if let Some(patterns) = self.include {
                include = patterns.judge(step.below, parent_include);
                is_wanted = include.is_match();
            }
            exclude = self.target.exclude.judge(step.below, parent_exclude);
            if exclude.is_match() {
                (is_wanted, is_excluded) = (false, true);
                if !self.target.exclude.may_bring_back_below(step.below) {
                    return Ok(());
                }
            }
        }
        if step.from.as_os_str().is_empty() {
            // The root of most trees has no time of its own: that of a context is no part of what is sent to BuildKit, and
            // layers need not mention theirs.
            node.metadata.mtime = self.tree.root_time().unwrap_or(self.target.now);
        }
        if node.metadata.is_dir() {
            return self.dir(
                step,
                &node.metadata,
                is_wanted,
                is_excluded,
                &include,
                &exclude,
            );
        }
        if !is_wanted {
            return Ok(());
        }
        self.make_pending_dirs(!step.is_top())?;
        match self.upper.get(step.to)? {
            Some(there) if there.is_dir() => {
                let path = step.to.to_owned();
                return Err(CopyError::DestinationIsDirectory { path });
            }
            Some(_) => self.upper.remove(step.to)?,
            None => {}
        }
        if matches!(node.metadata.kind, Kind::File { .. })
            && let Some(inode) = node.inode
        {
            if let Some(first) = self.links.get(&inode) {
                self.upper.link(first, step.to)?;
                return Ok(());
            }
            self.links.insert(inode, step.to.to_owned());
        }
        let content = match node.metadata.kind {
            Kind::File { size: 0 } => Content::Empty,
            Kind::File { .. } => Content::Tree {
                tree: Arc::clone(self.tree),
                path: step.from.to_owned(),
            },
            _ => Content::Empty,
        };
        let metadata = self.metadata(node.metadata);
        self.upper.create(step.to, metadata, content)?;
        Ok(())
    }

    fn dir(
        &mut self,
        step: &Step<'_>,
        metadata: &Metadata,
        is_wanted: bool,
        is_excluded: bool,
        include: &Verdict,
        exclude: &Verdict,
    ) -> Result<(), CopyError> {
        let overwrites = !step.is_top();
        let mut is_new = false;
        if is_wanted {
            self.make_pending_dirs(overwrites)?;
            is_new = self.make_dir(step.to, metadata, overwrites)?;
        }
        self.dirs.push(Dir {
            from: step.from.to_owned(),
            to: step.to.to_owned(),
            is_done: is_wanted,
        });
        let may_want_below = is_wanted
            || is_excluded
            || self
                .include
                .is_none_or(|patterns| patterns.may_match_below(step.below));
        if may_want_below {
            for Listed { name, node, .. } in self.lister.list(step.from)? {
                self.entry(
                    &Step {
                        from: &tree::child(step.from, &name),
                        below: &tree::child(step.below, &name),
                        to: &tree::child(step.to, &name),
                    },
                    node,
                    include,
                    exclude,
                )?;
            }
        }
        self.dirs.pop();
        if is_wanted && (overwrites || is_new) {
            self.take_metadata(step.to, metadata)?;
        } else if !overwrites {
            let mtime = metadata.mtime;
            self.upper.edit(step.to, |there| there.mtime = mtime)?;
        }
        Ok(())
    }

    /// Makes the directories above an entry that is to be copied, as far as no pattern named them.
    fn make_pending_dirs(&mut self, overwrites: bool) -> Result<(), CopyError> {
        let Some(first) = self.dirs.iter().position(|dir| !dir.is_done) else {
            return Ok(());
        };
        for i in first..self.dirs.len() {
            if self.dirs[i].is_done {
                continue;
            }
            let Dir { from, to, .. } = &self.dirs[i];
            let (from, to) = (from.clone(), to.clone());
            let Some(node) = self.tree.node(&from)? else {
                return Err(CopyError::not_found(&**self.tree, &from));
            };
            if self.make_dir(&to, &node.metadata, overwrites)? {
                self.take_metadata(&to, &node.metadata)?;
            }
            self.dirs[i].is_done = true;
        }
        Ok(())
    }

    /// Makes a directory, or takes the one that is there; true when it is new.
    fn make_dir(
        &mut self,
        to: &Path,
        metadata: &Metadata,
        overwrites: bool,
    ) -> Result<bool, CopyError> {
        match self.upper.get(to)? {
            None => {
                let made = Metadata {
                    mode: metadata.mode,
                    ..Metadata::dir(self.target.now)
                };
                self.upper.create(to, made, Content::Empty)?;
                Ok(true)
            }
            Some(there) if !there.is_dir() => {
                let path = to.to_owned();
                Err(CopyError::DestinationIsNoDirectory { path })
            }
            Some(_) => {
                if overwrites {
                    let mode = metadata.mode;
                    self.upper.edit(to, |there| there.mode = mode)?;
                }
                Ok(false)
            }
        }
    }

    /// Gives a directory the metadata of its source; attributes that only it has, it keeps.
    fn take_metadata(&mut self, to: &Path, from: &Metadata) -> Result<(), CopyError> {
        let new = self.metadata(from.clone());
        self.upper.edit(to, |there| {
            let mut xattrs = std::mem::take(&mut there.xattrs);
            xattrs.extend(new.xattrs.clone());
            *there = Metadata { xattrs, ..new };
        })?;
        Ok(())
    }

    /// The metadata of a copy.
    fn metadata(&self, mut metadata: Metadata) -> Metadata {
        if metadata.kind == Kind::Socket {
            // Layers cannot hold one; BuildKit leaves an empty file in its place.
            metadata.kind = Kind::File { size: 0 };
        }
        if let Some(Owner { uid, gid }) = self.target.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        if let Some(chmod) = self.target.chmod
            && !matches!(metadata.kind, Kind::Symlink { .. })
        {
            metadata.mode = chmod.apply(metadata.mode, metadata.is_dir());
        }
        metadata
    }
}
