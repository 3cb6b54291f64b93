//! What `ADD` and `COPY` say.

use serde::Serialize;

use super::Heredoc;
use crate::dockerfile::Word;

/// What `ADD` and `COPY` have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// The sources, in order.
    pub sources: Vec<Source>,
    /// The destination.
    pub dest: Word,
    /// Whether the paths are written as a JSON array.
    pub json: bool,
    /// `--chown`, to be expanded.
    pub chown: Option<Word>,
    /// `--chmod`, to be expanded.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order, never expanded.
    pub exclude: Vec<Word>,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A path, glob, URL or git reference, to be expanded.
    Path(Word),
    /// A file written in the Dockerfile; BuildKit writes these after all others.
    Heredoc(Heredoc),
}

/// `ADD`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Add {
    /// Sources, destination and the flags shared with `COPY`.
    pub transfer: Transfer,
    /// `--checksum`, to be expanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, if given.
    pub unpack: Option<bool>,
}

/// `COPY`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// Sources, destination and the flags shared with `ADD`.
    pub transfer: Transfer,
    /// `--from`; an empty value counts as none.
    pub from: Option<Word>,
    /// `--parents`.
    pub parents: bool,
}
