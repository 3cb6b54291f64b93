//! Build contexts: where `COPY`, `ADD` and bind mounts find their files.
//!
//! - [`LocalTree`]: a directory of this machine, read in place and only where asked, less what an ignore file leaves out.

mod glob;
mod ignore;

pub use self::{
    glob::{BadPattern, Glob, is_pattern},
    ignore::{PatternError, Patterns, Rule, Verdict},
};
