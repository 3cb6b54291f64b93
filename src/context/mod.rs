//! Build contexts: where `COPY`, `ADD` and bind mounts find their files.
//!
//! - A [`LocalTree`] is a directory of this machine, read in place and only where asked, less what an ignore file leaves
//!   out; a [`StatCache`] spares reading what has not changed.
//! - A context or source that is an archive is a [`crate::layer::LayerTree`], see [`crate::layer::archive`].
//! - A [`SingleFile`] is one file of the web.
//! - Repositories are fetched by [`mod@git`].
//! - [`Patterns`] and [`Glob`] are the two languages of patterns, that of ignore files and that of wildcards.

mod error;
mod found;
pub mod git;
mod glob;
mod ignore;
mod local;
mod redacted;
mod single_file;
mod stat_cache;

pub use self::{
    error::ContextError,
    found::{FoundDockerfile, IgnoreFile, MAX_TEXT_BYTES, read_dockerfile, read_text},
    glob::{BadPattern, Glob, is_pattern},
    ignore::{PatternError, Patterns, Rule, Verdict},
    local::LocalTree,
    redacted::without_users,
    single_file::SingleFile,
    stat_cache::StatCache,
};
