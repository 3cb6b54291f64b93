//! One stage: its base, then its steps in order, each from the cache or executed.

use std::sync::Arc;

use super::{
    copy_step, earlier,
    error::{BuildError, FailedImage, FailedStep, StepError},
    image::Entry,
    request::NoCache,
    root::{Root, RootLayer},
    run_step,
    schedule::{Abandoned, Results},
    session::{Session, Task},
};
use crate::{
    cache::{
        CacheUse, Key, Lookup, Position, StepRecord, WorkdirInputs, content_digest, workdir_key,
    },
    copy,
    layer::{Change, LayerBlob, WriteOptions, write_layer, write_layer_after},
    oci::{Digest, History},
    plan::{Base, Op, Origin, Plan, Stage, StageId, Step, WorkdirOp},
    progress::Vertex,
    store::LayerRecord,
    tree::Tree,
};

/// What a stage left behind.
#[derive(Debug)]
pub(super) struct StageResult {
    pub(super) root: Arc<Root>,
    pub(super) base_history: Vec<History>,
    pub(super) entries: Vec<Entry>,
}

/// A stage at work.
pub(super) struct Worker<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) plan: &'a Plan,
    pub(super) stage: &'a Stage,
    pub(super) results: &'a Results<StageResult>,
    /// The state so far.
    pub(super) root: Arc<Root>,
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
}

/// Carries out one stage of the plan.
pub(super) fn run(
    session: &Session<'_>,
    plan: &Plan,
    index: usize,
    results: &Results<StageResult>,
) -> Result<StageResult, BuildError> {
    let stage = &plan.stages[index];
    let (root, base_history, mut entries) = base(session, plan, stage, results)?;
    let mut worker = Worker {
        session,
        plan,
        stage,
        results,
        root,
    };
    for step in &stage.steps {
        let layer = match &step.op {
            Op::Config => None,
            _ => Some(worker.step(step)?),
        };
        entries.push(Entry {
            created_by: step.created_by.clone(),
            empty_layer: layer.is_none(),
        });
        if let Some(layer) = layer {
            worker.root = worker.root.push(layer);
        }
    }
    Ok(StageResult {
        root: worker.root,
        base_history,
        entries,
    })
}

type Start = (Arc<Root>, Vec<History>, Vec<Entry>);

/// What a stage starts from.
fn base(
    session: &Session<'_>,
    plan: &Plan,
    stage: &Stage,
    results: &Results<StageResult>,
) -> Result<Start, BuildError> {
    match &stage.base {
        Base::Scratch => Ok((Root::scratch(), Vec::new(), Vec::new())),
        Base::Stage(id) => {
            let result = wait(plan, results, *id)?;
            Ok((
                Arc::clone(&result.root),
                result.base_history.clone(),
                result.entries.clone(),
            ))
        }
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
            Ok((
                image_root(session, &image),
                image.config.history.clone(),
                Vec::new(),
            ))
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
                    Ok((root.push(layer), Vec::new(), Vec::new()))
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
    BuildError::Step(Box::new(FailedStep {
        label: label.to_owned(),
        span,
        stage: stage.name.clone(),
        source,
    }))
}

impl Worker<'_> {
    fn step(&mut self, step: &Step) -> Result<RootLayer, BuildError> {
        if self.session.is_over() {
            return Err(BuildError::Interrupted);
        }
        let task = self.session.task(step.label.clone());
        let outcome = match &step.op {
            Op::Run(op) => run_step::run(self, &task, step, op),
            Op::Copy(op) => copy_step::run(self, &task, step, op),
            Op::Workdir(op) => self.workdir(&task, step, op),
            Op::Config => unreachable!("steps of the config have no layer"),
        };
        match outcome {
            Ok(Outcome::Cached(layer)) => {
                task.cached();
                Ok(layer)
            }
            Ok(Outcome::Made(layer)) => {
                task.done();
                Ok(layer)
            }
            Err(StepError::Canceled) => Err(BuildError::Interrupted),
            Err(error) => {
                task.failed(&error);
                self.session.fail();
                Err(step_failed(self.stage, step.span, &step.label, error))
            }
        }
    }

    fn workdir(&self, task: &Task<'_>, step: &Step, op: &WorkdirOp) -> Result<Outcome, StepError> {
        let owner = match op.user.as_str() {
            "" => copy::Owner::default(),
            user => match copy::owner_by_number(user) {
                Some(owner) => owner,
                None => copy::find_owner(user, &*self.tree(task.vertex)?)?.owner,
            },
        };
        let inputs = WorkdirInputs {
            parent: self.root.chain(),
            op,
            owner: (owner.uid, owner.gid),
        };
        self.cached(step, &workdir_key(&inputs), || {
            let tree: Arc<dyn Tree> = self.tree(task.vertex)?;
            let changes = copy::workdir(op, &tree, self.session.services.file_time())?;
            write(self.session, changes, step.label.clone())
        })
    }

    /// The tree of the state so far.
    pub(super) fn tree(&self, vertex: Vertex) -> Result<Arc<crate::layer::LayerTree>, StepError> {
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
        key: &Key,
        execute: impl FnOnce() -> Result<Made, StepError>,
    ) -> Result<Outcome, StepError> {
        let store = self.session.services.store;
        let position = self.position(step);
        let cache = self.cache_use();
        let hit = |record: StepRecord| {
            Outcome::Cached(RootLayer {
                diff_id: record.diff_id,
                descriptor: record.descriptor,
                created: record
                    .created
                    .parse()
                    .unwrap_or_else(|_| (self.session.services.clock)()),
                description: step.label.clone(),
            })
        };
        if let Lookup::Hit(record) = key.lookup(store, position, cache)? {
            return Ok(hit(*record));
        }
        let mut wait = || !self.session.is_over();
        let _turn = store
            .wait_for_step(key.digest(), &mut wait)?
            .ok_or(StepError::Canceled)?;
        if let Lookup::Hit(record) = key.lookup(store, position, cache)? {
            return Ok(hit(*record));
        }
        let made = execute()?;
        // Equal content, file times aside: the earlier layer stays, and with it all that builds on it.
        if cache == CacheUse::On
            && let Some(record) = key.equal_result(store, &made.content)?
        {
            key.record(store, position, &record)?;
            let (Outcome::Cached(layer) | Outcome::Made(layer)) = hit(record);
            return Ok(Outcome::Made(layer));
        }
        let record = StepRecord {
            diff_id: made.layer.diff_id,
            descriptor: made.layer.descriptor.clone(),
            created: made.layer.created.to_string(),
            content: Some(made.content),
            label: step.label.clone(),
        };
        key.record(store, position, &record)?;
        Ok(Outcome::Made(made.layer))
    }

    /// The layer that the step made last time; `None` also when nothing from earlier is wanted.
    pub(super) fn earlier(&self, step: &Step) -> Option<Arc<LayerBlob>> {
        if self.cache_use() == CacheUse::Off {
            return None;
        }
        earlier::layer(self.session, self.position(step))
    }

    fn cache_use(&self) -> CacheUse {
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

    fn position(&self, step: &Step) -> Position {
        let number = step.number.map_or(0, |(number, _)| number).to_string();
        let platform = self.plan.platform.to_string();
        Position::new(&[
            &self.session.request.dockerfile_name,
            &platform,
            &self.stage.name,
            &number,
        ])
    }
}

/// Writes changes as a layer into the store, with its table of contents.
pub(super) fn write(
    session: &Session<'_>,
    changes: Vec<Change>,
    description: String,
) -> Result<Made, StepError> {
    write_after(session, changes, description, None)
}

/// As [`write`], taking over what `earlier` has of the layer.
pub(super) fn write_after(
    session: &Session<'_>,
    changes: Vec<Change>,
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
    store.put_layer(&LayerRecord {
        diff_id: written.diff_id,
        descriptor: written.descriptor.clone(),
        toc: written.toc.to_bytes(),
    })?;
    Ok(Made {
        content: content_digest(&written.toc),
        layer: RootLayer {
            diff_id: written.diff_id,
            descriptor: written.descriptor,
            created: (session.services.clock)(),
            description,
        },
    })
}
