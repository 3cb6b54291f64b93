//! What the sources of an instruction stand for: paths, wildcards, and the pivot of `--parents`.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::CopyError;
use crate::{
    context::{BadPattern, Glob, Patterns, is_pattern},
    tree::{self, Last, Tree},
};

/// A path source of `--parents`: what is above the pivot, and what is to be kept of it.
#[derive(Debug)]
pub(super) struct Parents<'a> {
    /// Where names start; may be a wildcard.
    pub(super) root: &'a str,
    /// What below it is copied; `None` is everything.
    pub(super) wanted: Option<Patterns>,
    /// The path below the root that has to exist, when there is no wildcard.
    required: Option<PathBuf>,
}

impl<'a> Parents<'a> {
    /// Splits a source at its first `/./`.
    pub(super) fn parse(source: &'a str) -> Result<Self, CopyError> {
        let (root, below) = source.split_once("/./").unwrap_or(("/", source));
        let below = tree::clean(Path::new(below));
        let text = below.to_string_lossy();
        let is_plain = !is_pattern(root.as_bytes()) && !is_pattern(text.as_bytes());
        Ok(Self {
            root,
            wanted: if text.is_empty() {
                None
            } else {
                Some(Patterns::from_words([&text])?)
            },
            required: is_plain.then_some(below),
        })
    }

    /// An error when there is nothing where something has to be. Links below the root are not followed, since copying
    /// does not.
    pub(super) fn check(&self, tree: &dyn Tree, root: &Path) -> Result<(), CopyError> {
        let Some(required) = &self.required else {
            return Ok(());
        };
        let path = tree::resolve(tree, root, Last::Follow)?.join(required);
        if tree.node(&path)?.is_none() {
            return Err(CopyError::not_found(tree, &path));
        }
        Ok(())
    }
}

/// The paths that a source names: itself, or all that its wildcard matches, in order. What a wildcard does not match
/// is no error, but the directory in front of the first wildcard has to exist.
pub(super) fn expand(tree: &dyn Tree, source: &str) -> Result<Vec<PathBuf>, CopyError> {
    let path = tree::clean(Path::new(source));
    let names: Vec<&OsStr> = path.iter().collect();
    let Some(first) = names.iter().position(|name| is_pattern(name.as_bytes())) else {
        return Ok(vec![path]);
    };
    let fixed: PathBuf = names[..first].iter().collect();
    let base = tree::resolve(tree, &fixed, Last::Follow)?;
    match tree.node(&base)? {
        None => return Err(CopyError::not_found(tree, &fixed)),
        Some(node) if !node.metadata.is_dir() => return Ok(Vec::new()),
        Some(_) => {}
    }
    let glob = |names: &[&OsStr]| {
        let pattern: PathBuf = names.iter().collect();
        Glob::parse(pattern.as_os_str().as_bytes())
            .map_err(|BadPattern| CopyError::Wildcard(pattern.display().to_string()))
    };
    let names = &names[first..];
    let whole = glob(names)?;
    // A set may match a slash, and only then is the depth of a match not that of the pattern.
    let is_ragged = names.iter().any(|name| name.as_bytes().contains(&b'['));
    let prefixes = if is_ragged {
        Vec::new()
    } else {
        (1..names.len())
            .map(|n| glob(&names[..n]))
            .collect::<Result<_, _>>()?
    };
    let walk = Walk {
        tree,
        base: &base,
        whole,
        prefixes,
        is_ragged,
    };
    let mut matches = Vec::new();
    walk.below(Path::new(""), 0, &mut matches)?;
    Ok(matches)
}

struct Walk<'a> {
    tree: &'a dyn Tree,
    base: &'a Path,
    whole: Glob,
    /// What a directory has to match for something in it to match, by depth.
    prefixes: Vec<Glob>,
    is_ragged: bool,
}

impl Walk<'_> {
    fn below(&self, dir: &Path, depth: usize, matches: &mut Vec<PathBuf>) -> Result<(), CopyError> {
        for name in self.tree.names(&self.base.join(dir))? {
            let path = dir.join(name);
            let bytes = path.as_os_str().as_bytes();
            let full = self.base.join(&path);
            if self.whole.matches(bytes) {
                matches.push(full);
                continue;
            }
            let may_match_below = self.is_ragged
                || self
                    .prefixes
                    .get(depth)
                    .is_some_and(|prefix| prefix.matches(bytes));
            if may_match_below
                && self
                    .tree
                    .node(&full)?
                    .is_some_and(|node| node.metadata.is_dir())
            {
                self.below(&path, depth + 1, matches)?;
            }
        }
        Ok(())
    }
}

/// The name that a downloaded file has: the last component of the URL's path.
pub fn url_file_name(url: &str) -> String {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .split_once('/')
        .map_or("", |(_, path)| path);
    let path = percent_decode(path);
    let name = Path::new(OsStr::from_bytes(&path))
        .components()
        .next_back()
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .unwrap_or_default();
    if name.is_empty() || name == ".." {
        "__unnamed__".to_owned()
    } else {
        name
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&first, rest)) = bytes.split_first() {
        let escaped = (first == b'%')
            .then(|| rest.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = escaped {
            out.push(byte);
            bytes = &rest[2..];
        } else {
            out.push(first);
            bytes = rest;
        }
    }
    out
}
