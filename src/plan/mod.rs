//! The plan: what a build will do, with every builder-side `$` expanded.
//!
//! ```text
//! Dockerfile + Options ─plan─→ NeedsImages   configs of base images that reachable stages name: come again with them
//!                          ├─→ NeedsEpoch    SOURCE_DATE_EPOCH names a source instead of a moment: come again with it
//!                          └─→ Plan          stages of steps, each with all it needs
//! ```
//! Pure: the same input gives the same plan, and [`Plan`] prints itself (`rbuild plan`). Text that a
//! shell will read (`RUN`, shell-form `CMD`) keeps its `$`. What only the file system at that point of the build
//! can tell stays a name: users, globs, destination links.
//!
//! Stages that the target does not need are left out, and so are the errors in them that take work to find; the
//! errors that BuildKit finds in every stage are found in every stage.

mod args;
mod bases;
mod chmod;
mod copy;
mod env;
mod epoch;
mod expansion;
mod history;
mod inherit;
mod label;
mod lower;
mod op;
mod options;
mod paths;
mod planner;
mod ports;
mod print;
mod remote;
mod report;
mod run;
mod scan;
mod signal;
mod stages;
mod state;

use serde::Serialize;

use crate::{
    oci::{Config, Platform},
    source::{Diagnostic, Span},
};

pub use crate::dockerfile::{Device, Network, mount::Sharing};
pub use args::sounds_secret;
pub use chmod::{Chmod, ChmodError};
pub use op::{
    CopyOp, CopySource, CopyVerb, Mount, MountKind, Op, Origin, RunOp, Script, WorkdirOp,
};
pub use options::{NamedContext, Options};
pub use planner::{Analysis, analyse, plan};
pub use report::{
    Line, LineRange, Location, Outline, OutlineArg, OutlineNeed, SourceText, Target, Targets,
    targets,
};
pub use scan::{NoProgram, SCAN_RESULTS, ScanExtras, Scanner};

/// The position of a stage in the Dockerfile, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StageId(pub usize);

/// What planning gives.
#[derive(Debug, Clone)]
pub enum Planned {
    /// The plan.
    Plan(Box<Plan>),
    /// The configs of these images are missing, each with the line that names it. Triggers of base images may bring
    /// new ones, so this may come more than once.
    NeedsImages(Vec<(ImageSource, Span)>),
    /// `SOURCE_DATE_EPOCH` names a source: [`Options::epoch`] has to say what time that stands for.
    NeedsEpoch(EpochSource, Span),
}

/// What a `SOURCE_DATE_EPOCH` that is no number names. Its time is that of the commit for a git repository, the
/// `Last-Modified` of a file from the web or else the newest file in it when it is an archive, and none otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EpochSource {
    /// `context`: the build context.
    Context,
    /// The key of a named context.
    Named(String),
    /// A stage of `FROM scratch` and one remote `ADD`: what it adds, with its `--checksum`.
    Remote {
        /// A [`CopySource::Url`] or [`CopySource::Git`].
        source: CopySource,
        /// `--checksum`, expanded.
        checksum: Option<String>,
    },
}

/// What a build for one platform will do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The platform of the build: `--platform`, else that of this machine.
    pub platform: Platform,
    /// The reachable stages, each after all that it depends on.
    pub stages: Vec<Stage>,
    /// The stage that is the result.
    pub target: StageId,
    /// The images that reachable stages name anywhere, each once, with the first line that names it.
    pub images: Vec<(ImageSource, Span)>,
    /// The moment that `SOURCE_DATE_EPOCH` stands for, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// The host name that processes see, when one was asked for.
    pub hostname: Option<String>,
    /// Findings that do not stop the build.
    #[serde(skip)]
    pub warnings: Vec<Diagnostic>,
    /// Findings about build arguments that no `ARG` declares.
    #[serde(skip)]
    pub unused_args: Vec<Diagnostic>,
    /// What a list of packages takes in besides the target.
    #[serde(skip)]
    pub extras: ScanExtras,
}

/// One stage.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// Its position in the Dockerfile.
    pub id: StageId,
    /// `AS name`, in lower case; what `--no-cache-filter` goes by.
    pub alias: Option<String>,
    /// Its name as progress shows it: `AS name`, else `stage-N`; empty when the file has no other stage.
    pub name: String,
    /// The platform its steps run on: that of `FROM --platform`, of the stage it starts from, or of the build.
    pub platform: Platform,
    /// What it starts from.
    pub base: Base,
    /// The whole name of the base in progress, without a digest: `[build 1/4] FROM docker.io/library/alpine:3.20`;
    /// `None` when progress shows no such line (another stage, `scratch`, a named context).
    pub from_label: Option<String>,
    /// Where the `FROM` line is.
    pub span: Span,
    /// What it does, in order.
    pub steps: Vec<Step>,
    /// The run-time config when all steps are done: that of the target, and with [`Options::all_configs`] of all stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// The platform that the config states when this stage is the result.
    pub image_platform: Platform,
    /// `MAINTAINER`, or the base's author.
    pub author: Option<String>,
    /// Whether no line of the Dockerfile asks for it: it lists what the target consists of, see [`Plan::add_scan`].
    #[serde(skip)]
    pub is_scan: bool,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image; one of [`Plan::images`].
    Image(ImageSource),
    /// An earlier stage.
    Stage(StageId),
    /// A named context that is a directory, by its key; the stage starts from its files.
    Context(String),
}

/// An image that a build needs: a reference and the platform wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ImageSource {
    /// The reference, expanded and in full: `docker.io/library/alpine:3.20`. For a named context its key in
    /// [`Options::contexts`].
    pub name: String,
    /// Whether a named context stands in for the reference.
    pub named: bool,
    /// The platform to pick.
    pub platform: Platform,
}

/// One instruction that leaves a trace in the image.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Its number within the stage as progress shows it (`2` of `[build 2/4]`); `None` for instructions that progress
    /// does not show, those that only change the config.
    pub number: Option<(usize, usize)>,
    /// Where it stands; for an `ONBUILD` trigger of an image, the `FROM` line.
    pub span: Span,
    /// What progress shows after the brackets: `RUN make`, with `ONBUILD ` in front of triggers.
    pub text: String,
    /// The whole name in progress: `[build 2/4] RUN make`, with the platform in front of the stage in a build for
    /// several, as `[linux/arm64 build 2/4]` or `[linux/amd64->arm64 build 2/4]`. Equals `text` when not numbered.
    pub label: String,
    /// What the image's history says (`created_by`).
    pub created_by: String,
    /// What to do.
    pub op: Op,
}
