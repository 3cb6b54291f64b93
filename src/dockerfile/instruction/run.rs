//! What a `RUN` says.

use serde::Serialize;

use super::CommandLine;
use crate::dockerfile::{Spanned, Word};

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// What to run. In shell form with heredocs this is the line alone: see [`Instruction::script`](super::Instruction::script).
    pub command: CommandLine,
    /// The values of `--mount`, for [`Mount::parse`](crate::dockerfile::mount::Mount::parse).
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Option<Spanned<Network>>,
    /// `--security`.
    pub security: Option<Spanned<Security>>,
    /// `--device`, in order.
    pub devices: Vec<Spanned<Device>>,
}

/// What a `RUN` in shell form gives to its shell, heredocs considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script<'a> {
    /// One `-c` argument: the line, with the heredocs put back below it, or the body of a lone heredoc.
    Text(String),
    /// A lone heredoc whose body starts with `#!`: a file `/dev/pipes/NAME`, mode 0755, to be executed itself.
    File {
        /// The heredoc's word.
        name: &'a str,
        /// The file's content.
        content: String,
    },
}

/// `RUN --network`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The build's choice.
    Default,
    /// None but loopback.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Confined.
    Sandbox,
    /// Not confined.
    Insecure,
}

/// `RUN --device`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The device's CDI name; may be empty.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}
