//! One stage: its base, then its steps in order, each from the cache or executed.

use std::{cell::RefCell, sync::Arc};

use super::{
    base::{base, image_root},
    blobs::Fetch,
    copy_step,
    error::{BuildError, FailedStep, StepError},
    explain::{Keyed, Prediction},
    ground::Room,
    image_source::ImageError,
    inputs,
    later::Later,
    root::{Root, RootLayer},
    run_step,
    schedule::{Abandoned, Results},
    session::{Session, Task},
    shared::Claims,
};
use crate::{
    cache::{CacheUse, Lineage, Question, WorkdirInputs, workdir_key},
    copy::{self, CopyError},
    explain::{MissReason, StepResult},
    layer::FileDigests,
    oci::History,
    plan::{MountKind, Op, Origin, Plan, Stage, StageId, Step, WorkdirOp},
    progress::Vertex,
    sandbox::Rung,
    tree::Tree,
};

/// What a stage left behind.
#[derive(Debug, Clone)]
pub(super) struct StageResult {
    pub(super) root: Arc<Root>,
    pub(super) base_history: Arc<[History]>,
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
    /// What the steps so far have left to be done.
    pub(super) later: Later<'a>,
    /// Directories for the next process.
    pub(super) room: RefCell<Room>,
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
    let result = base(session, plan, stage, results)?;
    let mut worker = Worker {
        session,
        plan,
        stage,
        results,
        root: result.root,
        lineage: result.lineage,
        unsettled: result.unsettled,
        later: Later::default(),
        room: RefCell::new(Room::None),
    };
    let outcome = worker.steps();
    let caught_up = worker.later.catch_up();
    outcome?;
    caught_up.map_err(|error| step_failed(stage, stage.span, &stage.name, error))?;
    Ok(StageResult {
        root: worker.root,
        lineage: worker.lineage,
        unsettled: worker.unsettled,
        ..result
    })
}

/// What another stage left behind, once it is over.
pub(super) fn wait(
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

pub(super) fn step_failed(
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
        span: (!stage.is_scan).then_some(span),
        stage: stage.name.clone(),
        source,
        others: Vec::new(),
    }
}

/// The stages that a step takes files from.
fn origins(op: &Op) -> Vec<StageId> {
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
    let stage = |origin: &Origin| match origin {
        Origin::Stage(id) => Some(*id),
        _ => None,
    };
    origins.into_iter().filter_map(stage).collect()
}

impl Worker<'_> {
    fn steps(&mut self) -> Result<(), BuildError> {
        for (number, step) in self.stage.steps.iter().enumerate() {
            if matches!(step.op, Op::Config) {
                continue;
            }
            match self.step(number, step)? {
                Some(layer) => {
                    self.lineage.push(&step.label, layer.diff_id);
                    self.root = self.root.push(layer);
                }
                None => {
                    self.unsettled.get_or_insert_with(|| step.label.clone());
                }
            }
        }
        Ok(())
    }

    /// The step's layer; `None` when that would take executing it in a prediction.
    fn step(&self, index: usize, step: &Step) -> Result<Option<RootLayer>, BuildError> {
        if self.session.is_over() {
            return Err(BuildError::Interrupted);
        }
        let awaited = origins(&step.op);
        // Another stage may wait for the lock of a step that this one has still to record.
        if !matches!(step.op, Op::Run(_)) || !awaited.is_empty() {
            self.catch_up(step)?;
        }
        // A step begins, for users, when it can.
        for id in awaited {
            wait(self.plan, self.results, id)?;
        }
        let task = self.session.task(step.label.clone());
        let attempt = |claims: Claims| match &step.op {
            Op::Run(op) => run_step::run(self, &task, step, op, &claims),
            Op::Copy(op) => copy_step::run(self, &task, step, op, &claims),
            Op::Workdir(op) => self.workdir(&task, step, op, &claims),
            Op::Config => unreachable!("steps of the config have no layer"),
        };
        let outcome = match attempt(Claims::taken()) {
            Err(StepError::Unproven) => attempt(Claims::refused()),
            outcome => outcome,
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
        if matches!(outcome, Ok(Outcome::Cached(_))) {
            self.catch_up(step)?;
        }
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

    /// Does what earlier steps have left to be done.
    fn catch_up(&self, step: &Step) -> Result<(), BuildError> {
        let caught_up = self.later.catch_up();
        caught_up.map_err(|error| step_failed(self.stage, step.span, &step.label, error))
    }

    fn workdir(
        &self,
        task: &Task<'_>,
        step: &Step,
        op: &WorkdirOp,
        claims: &Claims,
    ) -> Result<Outcome, StepError> {
        let owner = match op.user.as_str() {
            "" => copy::Owner::default(),
            user => self.owner(task, user, false, claims)?,
        };
        let inputs = WorkdirInputs {
            parent: self.root.chain(),
            op,
            owner: (owner.uid, owner.gid),
        };
        let keyed = Keyed {
            key: workdir_key(&inputs),
            files: Vec::new(),
            is_claimed: claims.was_taken(),
        };
        self.cached(step, task, &keyed, || {
            let tree: Arc<dyn Tree> = self.tree(task.vertex)?;
            let changes = copy::workdir(op, &tree, self.session.services.file_time())?;
            self.write(changes, step.label.clone())
        })
    }

    /// The owner that `user[:group]` means in the state so far, or, to a step that is linked, in none.
    pub(super) fn owner(
        &self,
        task: &Task<'_>,
        user: &str,
        is_linked: bool,
        claims: &Claims,
    ) -> Result<copy::Owner, StepError> {
        let is_something = !is_linked && (self.root.chain().is_some() || self.unsettled.is_some());
        let question = Question::owner(self.root.chain(), user);
        let is_question =
            is_something && self.unsettled.is_none() && copy::owner_by_number(user).is_none();
        let question = is_question.then_some(question);
        if let Some(owner) = self.known_owner(question, claims)? {
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

    /// The same, for a process: what is fetched for it goes to disk at once.
    pub(super) fn tree_to_unpack(
        &self,
        vertex: Vertex,
        rung: Rung,
    ) -> Result<Arc<crate::layer::LayerTree>, StepError> {
        let is_overlay = matches!(rung, Rung::Native | Rung::Userns);
        self.root.tree(Fetch {
            staging: is_overlay.then_some(&self.session.left.shelf),
            ..self.session.fetch(vertex)
        })
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
                // The key of the step is made of them.
                Ok(root.tree(Fetch {
                    digests: FileDigests::Now,
                    ..self.session.fetch(vertex)
                })?)
            }
        }
    }
}
