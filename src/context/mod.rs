//! Build contexts: where `COPY`, `ADD` and bind mounts find their files.
//!
//! - [`LocalTree`]: a directory of this machine, read in place and only where asked, less what an ignore file leaves
//!   out; a [`StatCache`] spares reading what has not changed.
//! - [`mod@git`]: repositories.
//! - [`Patterns`], [`Glob`]: the two languages of patterns, that of ignore files and that of wildcards.

mod error;
pub mod git;
mod glob;
mod ignore;
mod local;
#[cfg(test)]
mod local_tests;
mod stat_cache;

pub use self::{
    error::ContextError,
    glob::{BadPattern, Glob, is_pattern},
    ignore::{PatternError, Patterns, Rule, Verdict},
    local::{FoundDockerfile, IgnoreFile, LocalTree, read_dockerfile},
    stat_cache::StatCache,
};
