//! Why steps ran, as values: what `rbuild build --explain` shows of each executed step, and what `rbuild explain`
//! predicts. `cache` finds the reasons, `build` the rest; nothing here reads or prints.
//!
//! The JSON form, [`Explanation`] with `--format json` or `--explain=json`, is stable: fields are added, never taken
//! away or given another meaning; programs pass over kinds and fields they do not know.
//!
//! ```text
//! {"version": 1, "steps": [{
//!     "platform": "linux/amd64", "stage": "build", "step": "[build 2/4] RUN make",
//!     "result": …                       cached     the layer of an earlier execution is used
//!                                       executed   the step ran
//!                                       unchanged  the step ran and made what it had made before: that layer stays
//!                                       failed     the step ran and failed
//!                                       will-run   predicted: no earlier result fits
//!                                       may-run    predicted: depends on what the step `after` makes
//!     "after": "[build 1/4] COPY . .",  with may-run alone
//!     "reason": …                       first      nothing is known of this step at this place
//!                                       changed    see `causes`
//!                                       evicted    the earlier result was removed from the store, `blob` if its layer alone
//!                                       corrupt    the record of the earlier result cannot be read
//!                                       disabled   --no-cache or --no-cache-filter
//!                                       unknown    nothing that is kept for explanations differs
//!                                       absent with cached, and with may-run when nothing of the step itself changed
//!     "causes": [{"kind": …}]           base-moved    image, before, after: digests
//!                                       base-replaced before, after: names with digests
//!                                       earlier-step  step; absent when a step before this one is gone
//!                                       instruction   before, after
//!                                       variable      name, origin (arg, env), before, after; absent is not set
//!                                       files         from, and when they are known: added, removed, modified, omitted
//!                                       setting       name, before, after
//! }]}
//! ```
//! Steps come in the order of platforms, stages and instructions; those that only change the config are left out. Of a
//! modified file `what` says: `bytes`; `mode`, with the field `mode`; `other` (owner, attributes, type, link target, which files
//! are one file).

use serde::Serialize;

use crate::oci::Digest;

/// What is said of all steps of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Of this form.
    pub version: u32,
    /// In order.
    pub steps: Vec<StepExplanation>,
}

impl Explanation {
    /// The version of the form.
    pub const VERSION: u32 = 1;

    /// What is said of these steps.
    pub fn new(steps: Vec<StepExplanation>) -> Self {
        Self {
            version: Self::VERSION,
            steps,
        }
    }
}

/// What is said of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepExplanation {
    /// The platform of the build.
    pub platform: String,
    /// The stage's name; empty when the file has one stage without a name.
    pub stage: String,
    /// What progress calls the step: `[build 2/4] RUN make`.
    pub step: String,
    /// What became of it.
    #[serde(flatten)]
    pub result: StepResult,
    /// Why it was not taken from the cache; `None` if it was, or may be.
    #[serde(flatten)]
    pub reason: Option<MissReason>,
}

/// What became of a step, or will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
#[non_exhaustive]
pub enum StepResult {
    /// The layer of an earlier execution is used.
    Cached,
    /// The step ran.
    Executed,
    /// The step ran and made what it had made before, file times aside: the earlier layer stays.
    Unchanged,
    /// The step ran and failed.
    Failed,
    /// Predicted: no earlier result fits.
    WillRun,
    /// Predicted: whether it runs depends on what an earlier step makes.
    MayRun {
        /// The step.
        after: String,
    },
}

/// Why there is no earlier result to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
#[non_exhaustive]
pub enum MissReason {
    /// No step at this place was executed with this store.
    First,
    /// The step was executed with other inputs.
    Changed {
        /// What differs from the last time.
        causes: Vec<Cause>,
    },
    /// The step was executed with these inputs, but the result was removed from the store.
    Evicted {
        /// The layer's blob, if that alone has gone; `None` when there is no record either.
        #[serde(skip_serializing_if = "Option::is_none")]
        blob: Option<Digest>,
    },
    /// The record of the earlier result cannot be read.
    Corrupt,
    /// Earlier results are not wanted.
    Disabled,
    /// Nothing that is kept for explanations differs from the last time.
    Unknown,
}

/// Something that is not as it was when the step was executed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Cause {
    /// The name of the base image leads to another image.
    BaseMoved {
        /// Its name.
        image: String,
        /// The manifest's digest then.
        before: Digest,
        /// And now.
        after: Digest,
    },
    /// The stage starts from something else.
    BaseReplaced {
        /// What it started from: a name, with a digest for an image.
        before: String,
        /// What it starts from.
        after: String,
    },
    /// An earlier step made another layer; the first such step is named.
    EarlierStep {
        /// What progress calls it; `None` when a step before this one is gone.
        #[serde(skip_serializing_if = "Option::is_none")]
        step: Option<String>,
    },
    /// The instruction says something else.
    Instruction {
        /// What it said.
        before: String,
        /// What it says.
        after: String,
    },
    /// A variable that the process sees has another value.
    Variable {
        /// Its name.
        name: String,
        /// What sets it.
        origin: VariableOrigin,
        /// Its value then; `None` when it was not set.
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// Its value; `None` when it is not set.
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Files that the step reads are not as they were.
    Files {
        /// Where they are: `build context`, `stage build`, a name of an image or context.
        from: String,
        /// Which; `None` when the earlier list was not kept.
        #[serde(flatten)]
        changes: Option<FileChanges>,
    },
    /// Something else: the user, the working directory, the network, a mount's options.
    Setting {
        /// Its name.
        name: String,
        /// What it was; `None` when it is new.
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// What it is; `None` when it is gone.
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
}

/// What sets a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VariableOrigin {
    /// `ARG` and `--build-arg`.
    Arg,
    /// `ENV`, or the base image.
    Env,
}

/// Files that are not as they were, each list in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileChanges {
    /// Paths that are new.
    pub added: Vec<String>,
    /// Paths that are gone.
    pub removed: Vec<String>,
    /// Paths of which something else than the file times has changed.
    pub modified: Vec<ModifiedFile>,
    /// How many more there are: the lists together are bounded.
    pub omitted: u64,
}

impl FileChanges {
    /// How many paths differ, those omitted included.
    pub fn count(&self) -> u64 {
        (self.added.len() + self.removed.len() + self.modified.len()) as u64 + self.omitted
    }
}

/// A file that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModifiedFile {
    /// Its path.
    pub path: String,
    /// What of it.
    pub what: Vec<FilePart>,
    /// The permissions before and after in octal digits, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<[String; 2]>,
}

/// What can change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilePart {
    /// Its bytes.
    Bytes,
    /// Its permissions.
    Mode,
    /// Its owner, its attributes, the target of a link, which files are one file.
    Other,
}
