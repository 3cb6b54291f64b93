//! One stage: its base, then its steps in order, each from the cache or executed.

use std::sync::Arc;

use super::{
    copy_step, earlier,
    error::{BuildError, FailedImage, FailedStep, StepError},
    explain::{Keyed, Prediction},
    image::Entry,
    image_source::ImageError,
    inputs,
    request::NoCache,
    root::{Root, RootLayer},
    run_step,
    schedule::{Abandoned, Results},
    session::{Session, Task},
};
use crate::{
    cache::{
        BaseState, CacheUse, Key, Lineage, Lookup, Miss, Question, StepRecord, WorkdirInputs,
        content_digest, workdir_key,
    },
    copy::{self, CopyError},
    explain::{MissReason, StepResult},
    layer::{Changes, LayerBlob, WriteOptions, write_layer, write_layer_after},
    oci::{Digest, History},
    plan::{Base, MountKind, Op, Origin, Plan, Stage, StageId, Step, WorkdirOp},
    progress::Vertex,
    store::LayerRecord,
    tree::Tree,
};

/// What a stage left behind.
#[derive(Debug, Clone)]
pub(super) struct StageResult {
    pub(super) root: Arc<Root>,
    pub(super) base_history: Vec<History>,
    pub(super) entries: Vec<Entry>,
    /// What made `root`, for explanations.
    pub(super) lineage: Lineage,
    /// The step that will make what is missing in `root`; only in a prediction.
    pub(super) unsettled: Option<String>,
}

/// A stage at work.
pub(super) struct Worker<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) plan: &'a Plan,
    pub(super) stage: &'a Stage,
    pub(super) results: &'a Results<StageResult>,
    /// The state so far.
    pub(super) root: Arc<Root>,
    /// What made it.
    pub(super) lineage: Lineage,
    /// The step that will make what is missing in it; only in a prediction.
    pub(super) unsettled: Option<String>,
}

/// What executing a step made.
pub(super) struct Made {
    pub(super) layer: RootLayer,
    /// A digest of what the layer says, file times left out.
    pub(super) content: Digest,
}

/// How a step ended.
pub(super) enum Outcome {
    Cached(RootLayer),
    Made(RootLayer),
    /// It ran, and made what it had made before: this earlier layer.
    Unchanged(RootLayer),
    /// Nothing was done.
    Predicted(Prediction),
}

/// Carries out one stage of the plan.
pub(super) fn run(
    session: &Session<'_>,
    plan: &Plan,
    index: usize,
    results: &Results<StageResult>,
) -> Result<StageResult, BuildError> {
    let stage = &plan.stages[index];
    let mut result = base(session, plan, stage, results)?;
    let mut worker = Worker {
        session,
        plan,
        stage,
        results,
        root: result.root,
        lineage: result.lineage,
        unsettled: result.unsettled,
    };
    for (number, step) in stage.steps.iter().enumerate() {
        result.entries.push(Entry {
            created_by: step.created_by.clone(),
            empty_layer: matches!(step.op, Op::Config),
        });
        if matches!(step.op, Op::Config) {
            continue;
        }
        match worker.step(number, step)? {
            Some(layer) => {
                worker.lineage.push(&step.label, layer.diff_id);
                worker.root = worker.root.push(layer);
            }
            None => {
                worker.unsettled.get_or_insert_with(|| step.label.clone());
            }
        }
    }
    Ok(StageResult {
        root: worker.root,
        lineage: worker.lineage,
        unsettled: worker.unsettled,
        ..result
    })
}

/// What is there before the first step.
fn start(root: Arc<Root>, name: &str, digest: Option<Digest>) -> StageResult {
    StageResult {
        root,
        base_history: Vec::new(),
        entries: Vec::new(),
        lineage: Lineage::of(BaseState {
            name: name.to_owned(),
            digest,
        }),
        unsettled: None,
    }
}

/// What a stage starts from.
fn base(
    session: &Session<'_>,
    plan: &Plan,
    stage: &Stage,
    results: &Results<StageResult>,
) -> Result<StageResult, BuildError> {
    match &stage.base {
        Base::Scratch => Ok(start(Root::scratch(), "scratch", None)),
        Base::Stage(id) => Ok(StageResult::clone(&*wait(plan, results, *id)?)),
        Base::Image(source) => {
            let failed = |source_error| {
                BuildError::Image(Box::new(FailedImage {
                    name: source.name.clone(),
                    span: stage.span,
                    source: source_error,
                }))
            };
            let image = session.images.get(session, source).map_err(failed)?;
            if let Some(label) = &stage.from_label {
                let task = session.task(format!("{label}@{}", image.digest));
                task.cached();
            }
            let root = image_root(session, &image);
            Ok(StageResult {
                base_history: image.config.history.clone(),
                ..start(root, &source.name, Some(image.digest))
            })
        }
        Base::Context(name) => {
            let (root, label) = (
                Root::scratch(),
                format!("[context {name}] load from client"),
            );
            let task = session.task(label.clone());
            let made = copy_step::context_layer(session, task.vertex, name);
            match made {
                Ok(changes) => {
                    let layer = write(session, changes, label)
                        .map_err(|error| step_failed(stage, stage.span, &stage.name, error))?
                        .layer;
                    task.done();
                    let digest = layer.diff_id.0;
                    Ok(start(root.push(layer), name, Some(digest)))
                }
                Err(error) => {
                    task.failed(&error);
                    session.fail();
                    Err(step_failed(stage, stage.span, &stage.name, error))
                }
            }
        }
    }
}

/// The state that an image's layers make.
pub(super) fn image_root(
    session: &Session<'_>,
    image: &super::image_source::ResolvedImage,
) -> Arc<Root> {
    let created = image
        .config
        .created
        .as_deref()
        .and_then(|text| text.parse().ok());
    let created = created.unwrap_or_else(session.services.clock);
    let layers = image
        .config
        .rootfs
        .diff_ids
        .iter()
        .zip(&image.manifest.layers);
    layers.fold(Root::scratch(), |root, (diff_id, descriptor)| {
        root.push(RootLayer {
            diff_id: *diff_id,
            descriptor: descriptor.clone(),
            created,
            description: format!("pulled from {}", image.name),
        })
    })
}

fn wait(
    plan: &Plan,
    results: &Results<StageResult>,
    id: StageId,
) -> Result<Arc<StageResult>, BuildError> {
    let index = plan.stages.iter().position(|stage| stage.id == id);
    let index = index.expect("a plan holds every stage that its stages depend on");
    results
        .wait(index)
        .map_err(|Abandoned| BuildError::Interrupted)
}

fn step_failed(
    stage: &Stage,
    span: crate::source::Span,
    label: &str,
    source: StepError,
) -> BuildError {
    BuildError::Step(Box::new(failed_step(stage, span, label, source)))
}

fn failed_step(
    stage: &Stage,
    span: crate::source::Span,
    label: &str,
    source: StepError,
) -> FailedStep {
    FailedStep {
        label: label.to_owned(),
        span,
        stage: stage.name.clone(),
        source,
        others: Vec::new(),
    }
}

impl Worker<'_> {
    /// The step's layer; `None` when that would take executing it in a prediction.
    fn step(&self, index: usize, step: &Step) -> Result<Option<RootLayer>, BuildError> {
        if self.session.is_over() {
            return Err(BuildError::Interrupted);
        }
        self.await_stages(&step.op)?;
        let task = self.session.task(step.label.clone());
        let outcome = match &step.op {
            Op::Run(op) => run_step::run(self, &task, step, op),
            Op::Copy(op) => copy_step::run(self, &task, step, op),
            Op::Workdir(op) => self.workdir(&task, step, op),
            Op::Config => unreachable!("steps of the config have no layer"),
        };
        let outcome = match outcome {
            Err(StepError::Unsettled(_)) if self.cache_use() == CacheUse::Off => {
                let reason = Some(MissReason::Disabled);
                Ok(Outcome::Predicted((StepResult::WillRun, reason)))
            }
            Err(StepError::Unsettled(after)) => {
                Ok(Outcome::Predicted((StepResult::MayRun { after }, None)))
            }
            outcome => outcome,
        };
        let told = |result| self.explain(index, step, result, task.reason());
        match outcome {
            Ok(Outcome::Cached(layer)) => {
                told(StepResult::Cached);
                task.cached();
                Ok(Some(layer))
            }
            Ok(Outcome::Made(layer)) => {
                told(StepResult::Executed);
                task.done();
                Ok(Some(layer))
            }
            Ok(Outcome::Unchanged(layer)) => {
                told(StepResult::Unchanged);
                if self.session.explains() {
                    task.unchanged();
                }
                task.done();
                Ok(Some(layer))
            }
            Ok(Outcome::Predicted((result, reason))) => {
                self.explain(index, step, result, reason);
                task.done();
                Ok(None)
            }
            Err(StepError::Canceled) => Err(BuildError::Interrupted),
            Err(StepError::Image(ImageError::Lost(blob))) => {
                task.status(format!("{blob} is not in the cache; its step is executed"));
                self.session.lose();
                Err(BuildError::Lost { blob })
            }
            Err(error) => {
                let others = match error {
                    StepError::Copy(CopyError::NotFound { .. }) => {
                        inputs::also_missing(self, self.results, step, task.vertex)
                    }
                    _ => Vec::new(),
                };
                told(StepResult::Failed);
                task.failed(&error);
                self.session.fail();
                Err(BuildError::Step(Box::new(FailedStep {
                    others,
                    ..failed_step(self.stage, step.span, &step.label, error)
                })))
            }
        }
    }

    /// Waits for the stages that a step takes files from: a step begins, for users, when it can.
    fn await_stages(&self, op: &Op) -> Result<(), BuildError> {
        let mut origins = Vec::new();
        match op {
            Op::Copy(copy) => origins.push(&copy.from),
            Op::Run(run) => {
                for mount in &run.mounts {
                    match &mount.kind {
                        MountKind::Bind { from, .. } => origins.push(from),
                        MountKind::Cache { from, .. } => origins.extend(from),
                        _ => {}
                    }
                }
            }
            Op::Workdir(_) | Op::Config => {}
        }
        for origin in origins {
            if let Origin::Stage(id) = origin {
                wait(self.plan, self.results, *id)?;
            }
        }
        Ok(())
    }

    fn workdir(&self, task: &Task<'_>, step: &Step, op: &WorkdirOp) -> Result<Outcome, StepError> {
        let owner = match op.user.as_str() {
            "" => copy::Owner::default(),
            user => self.owner(task, user, false)?,
        };
        let inputs = WorkdirInputs {
            parent: self.root.chain(),
            op,
            owner: (owner.uid, owner.gid),
        };
        let keyed = Keyed {
            key: workdir_key(&inputs),
            files: Vec::new(),
        };
        self.cached(step, task, &keyed, || {
            let tree: Arc<dyn Tree> = self.tree(task.vertex)?;
            let changes = copy::workdir(op, &tree, self.session.services.file_time())?;
            write(self.session, changes, step.label.clone())
        })
    }

    /// The owner that `user[:group]` means in the state so far, or, to a step that is linked, in none.
    pub(super) fn owner(
        &self,
        task: &Task<'_>,
        user: &str,
        is_linked: bool,
    ) -> Result<copy::Owner, StepError> {
        let is_something = !is_linked && (self.root.chain().is_some() || self.unsettled.is_some());
        let question = Question::owner(self.root.chain(), user);
        let is_question =
            is_something && self.unsettled.is_none() && copy::owner_by_number(user).is_none();
        let question = is_question.then_some(question);
        if let Some(owner) = self.known_owner(question)? {
            return Ok(owner);
        }
        let owner = copy::owner_below(user, is_something.then_some(|| self.tree(task.vertex)))?;
        self.found_out(question, &format!("{}:{}", owner.uid, owner.gid))?;
        Ok(owner)
    }

    /// The tree of the state so far.
    pub(super) fn tree(&self, vertex: Vertex) -> Result<Arc<crate::layer::LayerTree>, StepError> {
        if let Some(after) = &self.unsettled {
            return Err(StepError::Unsettled(after.clone()));
        }
        self.root.tree(self.session.fetch(vertex))
    }

    /// The state that files come from; `None` for contexts, which are no states.
    pub(super) fn origin_root(&self, origin: &Origin) -> Result<Option<Arc<Root>>, StepError> {
        Ok(match origin {
            Origin::Context | Origin::Named(_) => None,
            Origin::Scratch => Some(Root::scratch()),
            Origin::Stage(id) => {
                let result = wait(self.plan, self.results, *id)
                    .map_err(|_other_stage_failed| StepError::Canceled)?;
                if let Some(after) = &result.unsettled {
                    return Err(StepError::Unsettled(after.clone()));
                }
                Some(Arc::clone(&result.root))
            }
            Origin::Image(source) => {
                let image = self.session.images.get(self.session, source)?;
                Some(image_root(self.session, &image))
            }
        })
    }

    /// The tree that files come from.
    pub(super) fn origin_tree(
        &self,
        origin: &Origin,
        vertex: Vertex,
    ) -> Result<Arc<dyn Tree>, StepError> {
        match origin {
            Origin::Context => Ok(self.session.contexts.main(self.session)?),
            Origin::Named(name) => Ok(self.session.contexts.named(self.session, name)?),
            Origin::Stage(_) | Origin::Image(_) | Origin::Scratch => {
                let root = self.origin_root(origin)?.unwrap_or_else(Root::scratch);
                Ok(root.tree(self.session.fetch(vertex))?)
            }
        }
    }

    /// Takes the layer that the step made earlier, or executes it. Of several processes and threads that want the
    /// same step, one executes it.
    pub(super) fn cached(
        &self,
        step: &Step,
        task: &Task<'_>,
        keyed: &Keyed,
        execute: impl FnOnce() -> Result<Made, StepError>,
    ) -> Result<Outcome, StepError> {
        let store = self.session.services.store;
        let key = &keyed.key;
        let cache = self.cache_use();
        let layer = |record: StepRecord| RootLayer {
            diff_id: record.diff_id,
            descriptor: record.descriptor,
            created: record
                .created
                .parse()
                .unwrap_or_else(|_| (self.session.services.clock)()),
            description: step.label.clone(),
        };
        if self.session.predicts {
            let depends = self.depends_on(step).filter(|_| cache == CacheUse::On);
            let lookup = match depends {
                Some(_) => Lookup::Miss(Miss::Absent),
                None => key.lookup(store, cache)?,
            };
            return match lookup {
                Lookup::Hit(record) => Ok(Outcome::Cached(layer(*record))),
                Lookup::Miss(miss) => match self.imported(key)? {
                    Some(record) if depends.is_none() => Ok(Outcome::Cached(layer(record))),
                    _ => Ok(Outcome::Predicted(self.predicted(step, keyed, miss)?)),
                },
            };
        }
        let sight = self.sight(step, &keyed.files);
        if let Lookup::Hit(mut record) = key.lookup(store, cache)? {
            // Lists call the step what progress calls it now: its number may be another one.
            if record.label != step.label {
                record.label.clone_from(&step.label);
                key.record(store, &record)?;
            }
            key.remember(store, &sight)?;
            self.finished(key, &record);
            return Ok(Outcome::Cached(layer(*record)));
        }
        let mut wait = || !self.session.is_over();
        let _turn = store
            .wait_for_step(key.digest(), &mut wait)?
            .ok_or(StepError::Canceled)?;
        match key.lookup(store, cache)? {
            Lookup::Hit(record) => {
                key.remember(store, &sight)?;
                self.finished(key, &record);
                return Ok(Outcome::Cached(layer(*record)));
            }
            Lookup::Miss(miss) => {
                if let Some(mut record) = self.imported(key)? {
                    record.label.clone_from(&step.label);
                    key.record(store, &record)?;
                    key.remember(store, &sight)?;
                    self.finished(key, &record);
                    return Ok(Outcome::Cached(layer(record)));
                }
                self.missed(step, task, keyed, miss)?;
            }
        }
        let made = execute()?;
        // Equal content, file times aside: the earlier layer stays, and with it all that builds on it.
        if cache == CacheUse::On
            && let Some(record) = self.equal_result(key, &made.content)?
        {
            key.record(store, &record)?;
            key.remember(store, &sight)?;
            self.finished(key, &record);
            return Ok(Outcome::Unchanged(layer(record)));
        }
        let record = StepRecord {
            diff_id: made.layer.diff_id,
            descriptor: made.layer.descriptor.clone(),
            created: made.layer.created.to_string(),
            content: Some(made.content),
            label: step.label.clone(),
        };
        key.record(store, &record)?;
        key.remember(store, &sight)?;
        self.finished(key, &record);
        Ok(Outcome::Made(made.layer))
    }

    /// The layer that the step made last time; `None` also when nothing from earlier is wanted.
    pub(super) fn earlier(&self, step: &Step) -> Option<Arc<LayerBlob>> {
        if self.cache_use() == CacheUse::Off {
            return None;
        }
        earlier::layer(self.session, self.sight(step, &[]).place)
    }

    /// An earlier result of the same instruction with the same content, here or in a remote cache.
    fn equal_result(&self, key: &Key, content: &Digest) -> Result<Option<StepRecord>, StepError> {
        match key.equal_result(self.session.services.store, content)? {
            Some(record) => Ok(Some(record)),
            None => self.imported_equal(key, content),
        }
    }

    pub(super) fn cache_use(&self) -> CacheUse {
        let is_off = match &self.session.request.no_cache {
            NoCache::Never => false,
            NoCache::Always => true,
            NoCache::Stages(names) => names.iter().any(|name| {
                self.stage
                    .alias
                    .as_deref()
                    .unwrap_or(&self.stage.name)
                    .eq_ignore_ascii_case(name)
            }),
        };
        if is_off { CacheUse::Off } else { CacheUse::On }
    }
}

/// Writes changes as a layer into the store, with its table of contents.
pub(super) fn write(
    session: &Session<'_>,
    changes: impl Into<Changes>,
    description: String,
) -> Result<Made, StepError> {
    write_after(session, changes, description, None)
}

/// As [`write`], taking over what `earlier` has of the layer.
pub(super) fn write_after(
    session: &Session<'_>,
    changes: impl Into<Changes>,
    description: String,
    earlier: Option<&Arc<LayerBlob>>,
) -> Result<Made, StepError> {
    let store = session.services.store;
    let mut blob = store.blob_file()?;
    let options = WriteOptions::default();
    let written = match earlier {
        Some(earlier) => write_layer_after(changes, &mut blob, &options, earlier)?,
        None => write_layer(changes, &mut blob, &options)?,
    };
    blob.commit(&written.descriptor.digest)?;
    let content = content_digest(written.toc.entries());
    store.put_layer(&LayerRecord {
        diff_id: written.diff_id,
        descriptor: written.descriptor.clone(),
        toc: written.toc.into_bytes(),
    })?;
    Ok(Made {
        content,
        layer: RootLayer {
            diff_id: written.diff_id,
            descriptor: written.descriptor,
            created: (session.services.clock)(),
            description,
        },
    })
}
