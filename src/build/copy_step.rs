//! `COPY` and `ADD`: find the sources, then hand them to `copy`, which works without a file system.
//!
//! What the sources hold is known first, then whether there is a layer of it, then it is made. Where nothing was ever
//! recorded, as on a fresh machine, there can be none: then the layer is made first, and files are read once for both.

use std::{
    cell::{OnceCell, RefCell},
    path::Path,
    sync::Arc,
};

use super::{
    error::StepError,
    explain::{Keyed, note, origin_name},
    made::{self, Made, write_after},
    session::{Session, Task},
    shared::Claims,
    stage::{Outcome, Worker},
};
use crate::{
    cache::{CacheUse, CopyInputs, FileList, Files, copy_key},
    copy::{self, Before, ContentEntry, CopyRequest, ListedOnce},
    layer::Changes,
    plan::{CopyOp, CopySource, CopyVerb, Op, Origin, Step},
    tree::{EmptyTree, Tree},
};

/// What the files are called among the inputs of the step.
const CONTENT: &str = "content";

/// Takes the layer from the cache or makes it.
pub(super) fn run(
    worker: &Worker<'_>,
    task: &Task<'_>,
    step: &Step,
    op: &CopyOp,
    claims: &Claims,
) -> Result<Outcome, StepError> {
    let session = worker.session;
    let question = worker.sources_question(op)?;
    let (mut trees, mut listed, mut once, mut made) = (None, None, None, None);
    let earlier = OnceCell::new();
    let earlier = || earlier.get_or_init(|| worker.earlier(step)).as_ref();
    let mut head_start = None;
    let content = if let Some(content) = worker.known_content(&op.from, question, claims)? {
        content
    } else {
        let mut found = source_trees(worker, task, &step.label, op)?;
        once = list_once(op, &mut found);
        if let Some(once) = &once
            && comes_first(worker, op)
        {
            made = Some(make_first(worker, task, step, op, &found)?);
            once.give_again();
        }
        let files = RefCell::new(Files::default());
        let mut on_entry = |entry: &ContentEntry<'_>| note(&mut files.borrow_mut())(entry);
        let mut on_unread = |before: &Before| {
            if let Some(departures) = worker.departures().filter(|_| !session.predicts)
                && let Some(earlier) = earlier()
                // Nothing leaves that the context does not have any more.
                && had_first(worker, step, &files.borrow())
            {
                let compression = session.services.compression;
                head_start = earlier.head_start(departures, before, compression);
            }
        };
        let digest = copy::content_digest(op, &found, &mut on_entry, &mut on_unread)?;
        let files = files.into_inner();
        worker.keep_digests(&op.from)?;
        worker.found_out(question, &digest.to_string())?;
        (trees, listed) = (Some(found), Some(files));
        digest
    };
    let is_linked = copy::is_linked(op);
    let owner = match &op.chown {
        Some(spec) => Some(worker.owner(task, spec, is_linked, claims)?),
        None => None,
    };
    let owner = owner.map(|owner| (owner.uid, owner.gid));
    let key = copy_key(&CopyInputs {
        parent: if is_linked { None } else { worker.root.chain() },
        op,
        content,
        owner,
    });
    let files = listed.map(|files| FileList {
        input: CONTENT.to_owned(),
        from: origin_name(worker.plan, &op.from),
        files,
    });
    let keyed = Keyed {
        key,
        files: files.into_iter().collect(),
        is_claimed: claims.was_taken(),
    };
    worker.cached(step, task, &keyed, || {
        if let Some(made) = made {
            return Ok(made);
        }
        let trees = match trees {
            Some(trees) => trees,
            None => source_trees(worker, task, &step.label, op)?,
        };
        if let Some(once) = &once {
            once.give_again();
        }
        let before = made::Before {
            earlier: earlier().map(|earlier| &earlier.layer),
            head_start: head_start.take(),
        };
        make(worker, task, step, op, &trees, before)
    })
}

/// Makes the layer.
fn make(
    worker: &Worker<'_>,
    task: &Task<'_>,
    step: &Step,
    op: &CopyOp,
    trees: &[Arc<dyn Tree>],
    before: made::Before<'_>,
) -> Result<Made, StepError> {
    let session = worker.session;
    let parent: Arc<dyn Tree> = worker.tree(task.vertex)?;
    // Needed until the layer is written.
    let scratch = session.services.store.temp_dir()?;
    let copied = copy::changes(&CopyRequest {
        op,
        trees,
        parent: &parent,
        now: session.services.file_time(),
        scratch: scratch.path(),
    })?;
    for warning in copied.warnings {
        session.warn(format!("{}: {warning}", step.label));
    }
    let label = step.label.clone();
    write_after(session, worker.departures(), copied.changes, label, before)
}

/// Whether the layer is made before it is known what the sources hold: no cache can have one, and no other step of this build makes the same.
fn comes_first(worker: &Worker<'_>, op: &CopyOp) -> bool {
    let session = worker.session;
    let has_no_cache = session.is_first || worker.cache_use() == CacheUse::Off;
    let steps = || worker.plan.stages.iter().flat_map(|stage| &stage.steps);
    let same = |step: &&Step| matches!(&step.op, Op::Copy(other) if **other == *op);
    has_no_cache
        && !session.predicts
        && op.verb == CopyVerb::Copy
        && session.request.platforms.len() == 1
        && steps().filter(same).count() == 1
}

/// Makes the layer before it is known what the sources hold. What is wrong with them is told as ever.
fn make_first(
    worker: &Worker<'_>,
    task: &Task<'_>,
    step: &Step,
    op: &CopyOp,
    trees: &[Arc<dyn Tree>],
) -> Result<Made, StepError> {
    let mut made = make(worker, task, step, op, trees, made::Before::default());
    if let Ok(made) = &mut made {
        // The key takes a while for many files.
        if let Some(departures) = worker.departures() {
            departures.made(&made.layer.descriptor);
            made.is_told = true;
        }
    } else {
        let trees = source_trees(worker, task, &step.label, op)?;
        copy::content_digest(op, &trees, &mut |_| {}, &mut |_| {})?;
    }
    made
}

/// Whether the files that the step had last time begin with these.
fn had_first(worker: &Worker<'_>, step: &Step, files: &Files) -> bool {
    let store = worker.session.services.store;
    let place = worker.sight(step, &[]).place;
    place.had_first(store, CONTENT, files).unwrap_or(false)
}

/// Has a tree that is walked twice, for the key and for the layer, listed once. Only those of this machine take long to list.
fn list_once(op: &CopyOp, trees: &mut [Arc<dyn Tree>]) -> Option<Arc<ListedOnce>> {
    if !matches!(op.from, Origin::Context | Origin::Named(_)) {
        return None;
    }
    let is_path = |source: &CopySource| matches!(source, CopySource::Path(_));
    let first = op.sources.iter().position(is_path)?;
    let once = Arc::new(ListedOnce::new(Arc::clone(&trees[first])));
    // All paths are in one tree.
    for (source, tree) in op.sources.iter().zip(trees) {
        if is_path(source) {
            *tree = Arc::clone(&once) as Arc<dyn Tree>;
        }
    }
    Some(once)
}

/// The tree of each source, downloads included.
fn source_trees(
    worker: &Worker<'_>,
    task: &Task<'_>,
    label: &str,
    op: &CopyOp,
) -> Result<Vec<Arc<dyn Tree>>, StepError> {
    let mut origin: Option<Arc<dyn Tree>> = None;
    op.sources
        .iter()
        .map(|source| match source {
            CopySource::Path(_) => {
                let tree = match &origin {
                    Some(tree) => Arc::clone(tree),
                    None => worker.origin_tree(&op.from, task.vertex)?,
                };
                origin = Some(Arc::clone(&tree));
                Ok(tree)
            }
            CopySource::Url(_) | CopySource::Git(_) => {
                let checksum = op.checksum.as_deref();
                let session = worker.session;
                // A line of its own, as in BuildKit: the step itself may be cached.
                let download = session.task(label);
                let keep = op.keep_git_dir;
                match session
                    .remotes
                    .get(session, &download, source, checksum, keep)
                {
                    Ok(fetched) => {
                        download.done();
                        Ok(fetched.tree)
                    }
                    Err(error) => {
                        download.failed(&error);
                        Err(error)
                    }
                }
            }
            CopySource::Inline { .. } => Ok(Arc::new(EmptyTree) as Arc<dyn Tree>),
        })
        .collect()
}

/// All files of a named context, for a stage that starts from it.
pub(super) fn context_layer(session: &Session<'_>, name: &str) -> Result<Changes, StepError> {
    let tree = session.contexts.named(session, name)?;
    files_of(session, tree, "/", "/")
}

/// The changes that put `source` of a tree at `dest` of an empty root, as `COPY` would.
pub(super) fn files_of(
    session: &Session<'_>,
    tree: Arc<dyn Tree>,
    source: &str,
    dest: &str,
) -> Result<Changes, StepError> {
    let op = CopyOp::of_paths(CopyVerb::Copy, &[source], dest);
    let parent: Arc<dyn Tree> = Arc::new(EmptyTree);
    let now = session.services.file_time();
    let copied = copy::changes(&CopyRequest {
        op: &op,
        trees: &[tree],
        parent: &parent,
        now,
        // `COPY` unpacks nothing.
        scratch: Path::new(""),
    })?;
    Ok(copied.changes)
}
