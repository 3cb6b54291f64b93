//! Builds: plans a Dockerfile, carries the plan out, puts the image together.
//!
//! ```text
//! BuildRequest ─plan (asks for base images until it has all)→ Plan, one for each platform
//!              ─stages side by side; each step from the cache or executed→ states (stacks of layers)
//!              ─image→ BuildResult: config and manifest of each platform
//! ```
//! Nothing here knows where the result goes (`output`) or how it is shown (`cli`). A build that fails or is
//! interrupted leaves the records of its finished steps, and nothing half done.

mod agent;
mod base;
mod blobs;
mod cache_mounts;
mod container;
mod contexts;
mod copy_step;
mod departures;
mod earlier;
mod error;
mod explain;
mod foreign;
mod ground;
mod image;
mod image_source;
mod inputs;
mod later;
mod made;
mod mounts;
mod next_step;
mod planning;
mod remote;
mod request;
mod reuse;
mod root;
mod run_step;
mod scan;
mod schedule;
mod secrets;
mod session;
mod shared;
mod stage;
mod users;

use std::sync::Arc;

use jiff::Timestamp;

pub use agent::{Agent, AgentError, KeyError};
pub use blobs::{BlobOrigin, Blobs};
pub use container::{Container, ContainerServices, run_container};
pub use departures::Departures;
pub use error::{BuildError, FailedImage, FailedScanner, FailedStep, StepError};
pub use image_source::ImageError;
pub use request::{BuildRequest, ContextSource, NamedSource, NoCache, SecretSource};
pub use scan::Scan;

use crate::{
    cache::remote::RemoteCache,
    dockerfile::lint::Warning,
    explain::Explanation,
    layer::{Compression, FileDigests},
    oci::{ConfigFile, Descriptor, Platform},
    plan::{self, Outline, Plan},
    progress::{Reporter, Vertex},
    registry,
    sandbox::{Cancel, Refusal, Rung, Sandbox},
    snapshot::Snapshots,
    store::Store,
    tree::{self, Tree},
    used::{UsedImage, UsedSource},
};
use blobs::Fetch;
use image::{LayerFacts, Parts, config_file};
use root::Root;
use session::Session;
use stage::StageResult;

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Services<'a> {
    /// Where blobs and records are.
    pub store: &'a Store,
    /// States on disk, for processes.
    pub snapshots: &'a Snapshots,

    /// Caches that other machines can reach.
    pub remote_cache: &'a RemoteCache,
    /// Talks to registries and web servers.
    pub registry: &'a registry::Client,
    /// Runs processes.
    pub sandbox: &'a Sandbox,
    /// In which way, or why it cannot; everything else works.
    pub rung: &'a Result<Rung, Refusal>,
    /// The number of the build's first line of work; those before it are the caller's.
    pub first_vertex: Vertex,
    /// Takes what is to be told.
    pub reporter: &'a dyn Reporter,
    /// Asked for by the user, or by the build itself once something has failed.
    pub cancel: &'a Cancel,
    /// The present time.
    pub clock: fn() -> Timestamp,
    /// The bytes of `/etc/resolv.conf` for processes.
    pub resolv_conf: &'a [u8],
    /// How layers are compressed that steps make.
    pub compression: Compression,
    /// Told of the layers of an image that steps make, while the build goes on.
    pub departures: Option<&'a dyn Departures>,
    /// A directory for what does not outlive the build.
    pub scratch: &'a std::path::Path,
}

impl std::fmt::Debug for Services<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services")
            .field("store", &self.store.root())
            .finish_non_exhaustive()
    }
}

impl Services<'_> {
    /// The present time, as files have it.
    fn file_time(&self) -> tree::Timestamp {
        let now = (self.clock)();
        tree::Timestamp {
            seconds: now.as_second(),
            nanos: u32::try_from(now.subsec_nanosecond()).unwrap_or(0),
        }
    }
}

/// What a build made.
#[derive(Debug)]
pub struct BuildResult {
    /// The image of each platform, in the order of the request.
    pub images: Vec<BuiltImage>,
    /// `SOURCE_DATE_EPOCH`, if the build has one.
    pub epoch: Option<i64>,
    /// The images that were looked up, sorted.
    pub used: Vec<UsedImage>,
    /// What instructions fetched from the web and from repositories, sorted.
    pub fetched: Vec<UsedSource>,
    /// Where layers that are not in the store can be had.
    pub blobs: Arc<Blobs>,
}

/// The image of one platform.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The platform that was asked for.
    pub platform: Platform,
    /// The config document. No time in it was made to fit [`BuildResult::epoch`].
    pub config: ConfigFile,
    /// How many entries its history begins with that are the base image's, times included.
    pub base_history: usize,
    /// The layers, base first.
    pub layers: Vec<Descriptor>,
    /// How many of them belong to the base image.
    pub base_layers: usize,
    root: Arc<Root>,
    /// The state that the scanner left.
    scan: Option<Arc<Root>>,
}

impl BuildResult {
    /// Puts a layer's blob into the store, unless it is there.
    pub fn ensure_blob(
        &self,
        services: &Services<'_>,
        vertex: Vertex,
        blob: &Descriptor,
    ) -> Result<(), ImageError> {
        Fetch {
            services,
            blobs: &self.blobs,
            vertex,
            staging: None,
            digests: FileDigests::OnDemand,
        }
        .blob(blob)
    }

    /// The file system of one of [`BuildResult::images`].
    pub fn tree(
        &self,
        services: &Services<'_>,
        vertex: Vertex,
        image: &BuiltImage,
    ) -> Result<Arc<dyn Tree>, StepError> {
        Ok(image.root.tree(Fetch {
            services,
            blobs: &self.blobs,
            vertex,
            staging: None,
            digests: FileDigests::OnDemand,
        })?)
    }
}

/// All that there is to say of a build that is over.
#[derive(Debug)]
pub struct Outcome {
    /// What it made, or why it failed.
    pub result: Result<BuildResult, BuildError>,
    /// Findings about the Dockerfile; when it failed, those up to there.
    pub warnings: Vec<Warning>,
    /// The steps that were looked at, also when one of them failed; none unless the request wants explanations.
    pub explanation: Explanation,
}

/// Carries out a build.
pub fn build(request: &BuildRequest, services: &Services<'_>) -> Outcome {
    let session = Session::new(request, services);
    let mut warnings = Vec::new();
    let mut result = run(&session, &mut warnings);
    services.sandbox.rest();
    session.contexts.save();
    if services.cancel.is_canceled() && !session.has_failed() {
        result = Err(BuildError::Interrupted);
    }
    Outcome {
        result,
        warnings,
        explanation: session.explained.take(),
    }
}

/// Tells which steps a build would take from the cache and which it would execute, and why, and executes none. Base
/// images are looked up, and what keys depend on is fetched.
pub fn predict(request: &BuildRequest, services: &Services<'_>) -> Result<Explanation, BuildError> {
    let mut session = Session::new(request, services);
    session.predicts = true;
    let outcome = plans(&session, &mut Vec::new())
        .and_then(|plans| for_each_platform(&plans, |plan| run_stages(&session, plan).map(drop)));
    session.contexts.save();
    if services.cancel.is_canceled() && !session.has_failed() {
        return Err(BuildError::Interrupted);
    }
    outcome?;
    Ok(session.explained.take())
}

/// What there is to say of a Dockerfile without building it.
#[derive(Debug)]
pub struct Checked {
    /// Findings; when there is an error, those up to it.
    pub warnings: Vec<Warning>,
    /// What can be given to the build, or why there is none.
    pub outcome: Result<Outline, BuildError>,
}

/// Plans a build for this machine, for `--check` and `--call`: with the stages that are built or, if `all_stages`,
/// with every one. Nothing is executed; base images are looked up.
pub fn check(request: &BuildRequest, services: &Services<'_>, all_stages: bool) -> Checked {
    let session = Session::new(request, services);
    match planning::load(&session) {
        Ok(file) => planning::analyse(&session, &file, all_stages),
        Err(error) => Checked {
            warnings: Vec::new(),
            outcome: Err(error),
        },
    }
}

/// The plan of each platform. Findings about the Dockerfile are added to `warnings`, each once.
fn plans(session: &Session<'_>, warnings: &mut Vec<Warning>) -> Result<Vec<Plan>, BuildError> {
    let file = planning::load(session)?;
    let mut plans = Vec::new();
    for platform in &session.request.platforms {
        let mut found = Vec::new();
        let plan = planning::plan(session, &file, platform, &mut found);
        for warning in found {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        let mut plan = plan?;
        scan::add(session, &mut plan)?;
        plans.push(plan);
    }
    // Every platform's plan says the same of them.
    for unused in plans.first().iter().flat_map(|plan| &plan.unused_args) {
        session.warn(match &unused.hint {
            Some(hint) => format!("{} ({hint})", unused.message),
            None => unused.message.clone(),
        });
    }
    Ok(plans)
}

fn run(session: &Session<'_>, warnings: &mut Vec<Warning>) -> Result<BuildResult, BuildError> {
    let plans = plans(session, warnings)?;
    inputs::check(session, &plans)?;
    let images = loop {
        match for_each_platform(&plans, |plan| build_platform(session, plan)) {
            // What is done is in the cache by now, and what was lost is in none any longer.
            Err(_) if session.take_lost() && !session.is_over() => {
                session.services.remote_cache.imports.begin_again();
                session.explained.take();
            }
            outcome => break outcome?,
        }
    };
    let epoch = plans.iter().find_map(|plan| plan.source_date_epoch);
    Ok(BuildResult {
        images,
        epoch,
        used: session.images.used(),
        fetched: session.remotes.used(),
        blobs: Arc::clone(&session.blobs),
    })
}

/// How many platforms are built at the same time.
const MAX_PLATFORMS: usize = 16;

/// Does something with all plans at the same time.
fn for_each_platform<T: Send>(
    plans: &[Plan],
    work: impl Fn(&Plan) -> Result<T, BuildError> + Sync,
) -> Result<Vec<T>, BuildError> {
    let outcomes = schedule::side_by_side(plans.len(), MAX_PLATFORMS, |n| work(&plans[n]));
    first_cause(outcomes)
}

/// All results, or the error that made the others give up.
fn first_cause<T>(outcomes: Vec<Result<T, BuildError>>) -> Result<Vec<T>, BuildError> {
    let mut values = Vec::new();
    let mut interrupted = None;
    for outcome in outcomes {
        match outcome {
            Ok(value) => values.push(value),
            Err(error @ (BuildError::Interrupted | BuildError::Lost { .. })) => {
                interrupted = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    interrupted.map_or(Ok(values), Err)
}

/// Carries out all stages of a plan.
fn run_stages(session: &Session<'_>, plan: &Plan) -> Result<Vec<Arc<StageResult>>, BuildError> {
    let outcomes = schedule::run_all(plan.stages.len(), |index, results| {
        let outcome = stage::run(session, plan, index, results);
        // A stage that waits for one with a lost layer gives up too, but the build goes on.
        if outcome.is_err() && !session.has_lost() {
            session.fail();
        }
        outcome
    });
    first_cause(outcomes)
}

fn build_platform(session: &Session<'_>, plan: &Plan) -> Result<BuiltImage, BuildError> {
    let results = run_stages(session, plan)?;
    let target = plan.stages.iter().position(|stage| stage.id == plan.target);
    let target = target.expect("a plan holds its target");
    let mut image = put_together(session, plan, target, &results[target]);
    let scan = plan.stages.iter().position(|stage| stage.is_scan);
    image.scan = scan.map(|at| Arc::clone(&results[at].root));
    Ok(image)
}

fn put_together(
    session: &Session<'_>,
    plan: &Plan,
    target: usize,
    result: &StageResult,
) -> BuiltImage {
    let stage = &plan.stages[target];
    let layers = result.root.layers();
    let config = stage.config.clone();
    let mut config = config.expect("a plan tells the config of its target");
    let entries = entries(plan, stage);
    let own = entries.iter().filter(|entry| !entry.empty_layer).count();
    config.labels.extend(session.request.labels.clone());
    let base = &result.base_history;
    let base_history = base.iter().position(|entry| entry.created.is_none());
    let base_history = base_history.unwrap_or(base.len());
    let config = config_file(Parts {
        platform: stage.image_platform.clone(),
        config,
        author: stage.author.clone(),
        base_history: result.base_history.to_vec(),
        entries,
        layers: layers
            .iter()
            .map(|layer| LayerFacts {
                diff_id: layer.diff_id,
                created: layer.created,
                description: layer.description.clone(),
            })
            .collect(),
    });
    BuiltImage {
        platform: plan.platform.clone(),
        config,
        base_history,
        base_layers: layers.len().saturating_sub(own),
        layers: layers.into_iter().map(|layer| layer.descriptor).collect(),
        root: Arc::clone(&result.root),
        scan: None,
    }
}

/// What the steps of a stage, and of those that it starts from, are in an image's history. Each stage keeping its own list
/// would take memory with the square of the length of a chain.
fn entries(plan: &Plan, stage: &plan::Stage) -> Vec<image::Entry> {
    let below = |stage: &&plan::Stage| match &stage.base {
        plan::Base::Stage(id) => plan.stages.iter().find(|stage| stage.id == *id),
        _ => None,
    };
    let mut stages: Vec<&plan::Stage> = std::iter::successors(Some(stage), below).collect();
    stages.reverse();
    let steps = stages.into_iter().flat_map(|stage| &stage.steps);
    steps
        .map(|step| image::Entry {
            created_by: step.created_by.clone(),
            empty_layer: matches!(step.op, plan::Op::Config),
        })
        .collect()
}
