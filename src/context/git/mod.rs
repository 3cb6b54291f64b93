//! Git repositories as build contexts and sources of `ADD`, fetched by the `git` program.
//!
//! One commit is fetched, not its history, and checked out with its submodules. The program finds a clean environment:
//! no configuration of the user or the system, no prompts; credentials come by values and never appear in its
//! arguments. Files are 0644 or 0755 and directories 0755, whatever the umask.

mod checkout;
mod process;
mod program;
mod source;

pub use self::{
    checkout::{Checkout, GitError, GitSettings, checkout},
    source::{GitSource, GitSourceError},
};
