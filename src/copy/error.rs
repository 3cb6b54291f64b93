//! Why a copy cannot be done, in the words of BuildKit where it has some, and what may have been meant.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::{
    context::{BadPattern, PatternError},
    copy::users::{ReadError, UnusableUserFile},
    layer::archive::OpenError,
    source::suggest,
    tree::{IgnoreLine, MAX_DEPTH, MAX_NAME, MAX_PATH, Tree, TreeError},
};

/// A copy that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A source is not there.
    #[error("{}: not found{}", quoted(path), ignored_note(ignored.as_ref()))]
    NotFound {
        /// The source as the tree names it, or where its symbolic links lead.
        path: PathBuf,
        /// The line of the ignore file that took it out.
        ignored: Option<IgnoreLine>,
        /// A name nearby that does exist.
        suggestion: Option<PathBuf>,
    },
    /// A directory is to be merged into something that is none.
    #[error("cannot copy to non-directory: {}", rooted(path))]
    DestinationIsNoDirectory {
        /// The destination.
        path: PathBuf,
    },
    /// A file is to take the place of a directory.
    #[error("cannot replace to directory {} with file", rooted(path))]
    DestinationIsDirectory {
        /// The destination.
        path: PathBuf,
    },
    /// A parent of the destination is no directory.
    #[error("mkdir {}: not a directory", rooted(path))]
    ParentIsNoDirectory {
        /// What stands in the way.
        path: PathBuf,
    },
    /// No file system takes the name.
    #[error(
        "file name too long: {}, {length} bytes; file systems take {MAX_NAME}",
        clipped(path)
    )]
    NameTooLong {
        /// The path that ends in it.
        path: PathBuf,
        /// Bytes of the name.
        length: usize,
    },
    /// Linux takes no such path.
    #[error("path too long: {}, {} bytes; Linux takes {MAX_PATH}", clipped(path), path.as_os_str().len() + 1)]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// There are more directories inside each other than a layer may have.
    #[error("path too deep: {}, {} names; layers take {MAX_DEPTH}", clipped(path), path.iter().count())]
    PathTooDeep {
        /// The path.
        path: PathBuf,
    },
    /// A wildcard below a directory that no instruction takes anything from matches nothing.
    #[error(
        "{source_text}: nothing matches, and nothing else is taken from {}",
        quoted(dir)
    )]
    NothingMatches {
        /// The source as written.
        source_text: String,
        /// The directory in front of the wildcard.
        dir: PathBuf,
    },
    /// A wildcard source is wrong.
    #[error("{BadPattern}: {0:?}")]
    Wildcard(String),
    /// `--exclude` or the pattern of `--parents` is wrong.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A name is to be looked up where nothing is.
    #[error("cannot look up the user `{user}`: the instruction builds on nothing")]
    NoUsers {
        /// `user` or `user:group`, as written.
        user: String,
    },
    /// A file of users is none.
    #[error(transparent)]
    UserFile(#[from] UnusableUserFile),
    /// Something could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// An archive could not be read.
    #[error("cannot unpack {}", quoted(path))]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// An archive says something that cannot be done.
    #[error("cannot unpack {}: entry `{}` {reason}", quoted(path), entry.display())]
    ArchiveEntry {
        /// The archive.
        path: PathBuf,
        /// Its entry.
        entry: PathBuf,
        /// Why not.
        reason: &'static str,
    },
}

impl CopyError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound {
                ignored: Some(line),
                ..
            } => {
                let file = line.file.as_deref().map(OsStr::to_string_lossy);
                Some(format!(
                    "line {} of {}, `{}`, leaves it out of the build context",
                    line.number,
                    file.as_deref().unwrap_or("the ignore file"),
                    line.pattern
                ))
            }
            Self::NotFound {
                suggestion: Some(near),
                ..
            } => Some(format!("did you mean {}?", rooted(near))),
            Self::NoUsers { .. } => {
                Some("FROM scratch and --link have no /etc/passwd; give numbers instead".to_owned())
            }
            Self::Wildcard(text) if text.starts_with('[') => Some(
                "`[` begins a set of characters; sources and destination are a list only where all of it is valid JSON"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// A source that is not there, with what the tree knows about it.
    pub(super) fn not_found(tree: &dyn Tree, path: &Path) -> Self {
        let suggestion = nearest(tree, path);
        Self::NotFound {
            ignored: tree.ignored_by(path),
            path: path.to_owned(),
            suggestion,
        }
    }
}

impl From<ReadError> for CopyError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Tree(error) => Self::Tree(error),
            ReadError::Unusable(error) => Self::UserFile(error),
        }
    }
}

/// A path that exists and is like one that does not: its first missing name replaced by a near one.
fn nearest(tree: &dyn Tree, path: &Path) -> Option<PathBuf> {
    let missing = path
        .ancestors()
        .filter(|p| !p.as_os_str().is_empty())
        .take_while(|p| !matches!(tree.node(p), Ok(Some(_))))
        .last()?;
    let dir = missing.parent()?;
    let names = tree.names(dir).ok()?;
    let names: Vec<&str> = names.iter().filter_map(|n| n.to_str()).collect();
    let near = suggest(missing.file_name()?.to_str()?, names)?;
    let rest = path.strip_prefix(missing).ok()?;
    let whole = dir.join(near).join(rest);
    let whole: PathBuf = whole.components().collect();
    matches!(tree.node(&whole), Ok(Some(_))).then_some(whole)
}

fn ignored_note(ignored: Option<&IgnoreLine>) -> &'static str {
    if ignored.is_some() {
        " (left out by an ignore file)"
    } else {
        ""
    }
}

/// A path as one inside an image.
fn rooted(path: &Path) -> String {
    format!("/{}", path.display())
}

/// The beginning of a path that may be of any length.
fn clipped(path: &Path) -> String {
    const KEPT: usize = 60;
    let whole = rooted(path);
    match whole.char_indices().nth(KEPT) {
        Some((end, _)) => format!("\"{}…\"", &whole[..end]),
        None => format!("\"{whole}\""),
    }
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", rooted(path))
}
