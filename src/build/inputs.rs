//! The files that steps take from contexts, looked for before the first step runs: one that is missing is no surprise at
//! the end of a long build, and all that are missing are told at once.

use std::{collections::BTreeSet, path::Path, path::PathBuf, sync::Arc};

use super::{
    error::{BuildError, FailedStep, StepError},
    request::{ContextSource, NamedSource},
    schedule::Results,
    session::Session,
    stage::{StageResult, Worker},
};
use crate::{
    copy::{self, CopyError, Presence},
    plan::{CopyOp, CopySource, MountKind, Op, Origin, Plan, Stage, Step},
    tree::Tree,
};

/// Fails if a step names a file of a context that is not there.
///
/// A wildcard that matches nothing is an error below a directory that nothing else is taken from, as in BuildKit, to
/// which such a directory is not sent.
pub(super) fn check(session: &Session<'_>, plans: &[Plan]) -> Result<(), BuildError> {
    let mut missing = Vec::new();
    let mut seen = BTreeSet::new();
    let mut taken: Vec<(&Origin, PathBuf)> = Vec::new();
    let mut unmatched = Vec::new();
    let steps = plans
        .iter()
        .flat_map(|plan| &plan.stages)
        .flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)));
    for (stage, step) in steps {
        if !seen.insert((step.span.start, step.label.as_str())) {
            continue;
        }
        match look(session, step, &mut taken) {
            Ok(found) => unmatched.extend(found.into_iter().map(|found| (stage, step, found))),
            Err(error) => missing.push(failed(session, stage, step, error)),
        }
    }
    for (stage, step, (origin, unmatched)) in unmatched {
        let is_sent = taken.iter().any(|(from, path)| {
            *from == origin && (path.starts_with(&unmatched.dir) || unmatched.dir.starts_with(path))
        });
        if !is_sent && is_directory(session, origin) {
            let error = CopyError::NothingMatches {
                source_text: unmatched.source,
                dir: unmatched.dir,
            };
            missing.push(failed(session, stage, step, error.into()));
        }
    }
    missing.sort_by_key(|step| step.span);
    let mut missing = missing.into_iter();
    let Some(mut first) = missing.next() else {
        return Ok(());
    };
    first.others = missing.collect();
    session.fail();
    Err(BuildError::Step(Box::new(first)))
}

type FromContext<'a, T> = Vec<(&'a Origin, T)>;

/// Notes what a step takes from contexts, and returns its wildcards that match nothing.
fn look<'a>(
    session: &Session<'_>,
    step: &'a Step,
    taken: &mut FromContext<'a, PathBuf>,
) -> Result<FromContext<'a, copy::Unmatched>, StepError> {
    match &step.op {
        Op::Copy(op) => {
            let takes_paths = op.sources.iter().any(|s| matches!(s, CopySource::Path(_)));
            let Some(tree) = takes_paths
                .then(|| context_tree(session, &op.from))
                .transpose()?
                .flatten()
            else {
                return Ok(Vec::new());
            };
            let Presence { found, unmatched } = copy::presence(op, &*tree)?;
            taken.extend(found.into_iter().map(|path| (&op.from, path)));
            Ok(unmatched
                .into_iter()
                .map(|unmatched| (&op.from, unmatched))
                .collect())
        }
        Op::Run(op) => {
            for mount in &op.mounts {
                let (from, source) = match &mount.kind {
                    MountKind::Bind { from, source, .. } => (from, source),
                    MountKind::Cache {
                        from: Some(from),
                        source,
                        ..
                    } => (from, source),
                    _ => continue,
                };
                if let Some(tree) = context_tree(session, from)? {
                    let path = copy::mounted_presence(&*tree, Path::new(source))?;
                    taken.push((from, path));
                }
            }
            Ok(Vec::new())
        }
        Op::Workdir(_) | Op::Config => Ok(Vec::new()),
    }
}

/// The tree of a context; `None` for stages and images.
fn context_tree(
    session: &Session<'_>,
    origin: &Origin,
) -> Result<Option<Arc<dyn Tree>>, StepError> {
    Ok(match origin {
        Origin::Context => Some(session.contexts.main(session)?),
        Origin::Named(name) => Some(session.contexts.named(session, name)?),
        Origin::Stage(_) | Origin::Image(_) | Origin::Scratch => None,
    })
}

/// Whether a context is a directory of this machine, of which BuildKit takes only what instructions name.
fn is_directory(session: &Session<'_>, origin: &Origin) -> bool {
    match origin {
        Origin::Context => matches!(session.request.context, ContextSource::Directory { .. }),
        Origin::Named(name) => matches!(
            session.request.named_contexts.get(name),
            Some(NamedSource::Directory { .. })
        ),
        _ => false,
    }
}

fn failed(session: &Session<'_>, stage: &Stage, step: &Step, error: StepError) -> FailedStep {
    session.task(step.label.clone()).failed(&error);
    unreported(stage, step, error)
}

fn unreported(stage: &Stage, step: &Step, source: StepError) -> FailedStep {
    FailedStep {
        label: step.label.clone(),
        span: (!stage.is_scan).then_some(step.span),
        stage: stage.name.clone(),
        source,
        others: Vec::new(),
    }
}

/// Of the steps after one that found its source missing, those for which the same can be told already: their files come
/// from images or from stages that are done.
pub(super) fn also_missing(
    worker: &Worker<'_>,
    results: &Results<StageResult>,
    after: &Step,
    vertex: crate::progress::Vertex,
) -> Vec<FailedStep> {
    let is_at_hand = |op: &CopyOp| match &op.from {
        Origin::Stage(id) => {
            let index = worker.plan.stages.iter().position(|stage| stage.id == *id);
            index.is_some_and(|index| results.is_done(index))
        }
        Origin::Image(_) => true,
        Origin::Context | Origin::Named(_) | Origin::Scratch => false,
    };
    let later = worker
        .stage
        .steps
        .iter()
        .filter(|step| step.span > after.span);
    later
        .filter_map(|step| {
            let Op::Copy(op) = &step.op else { return None };
            if !is_at_hand(op) {
                return None;
            }
            let tree = worker.origin_tree(&op.from, vertex).ok()?;
            let error = copy::presence(op, &*tree).err()?;
            Some(unreported(worker.stage, step, error.into()))
        })
        .collect()
}
