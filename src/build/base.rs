//! What a stage starts from: nothing, an image, another stage, or a context in the place of one.

use std::sync::Arc;

use super::{
    copy_step,
    error::{BuildError, FailedImage},
    image_source::ResolvedImage,
    made::{record_layer, write},
    root::{Root, RootLayer},
    schedule::Results,
    session::Session,
    stage::{StageResult, step_failed, wait},
};
use crate::{
    cache::{BaseState, Lineage},
    oci::Digest,
    plan::{Base, Plan, Stage},
};

/// What is there before the first step.
fn start(root: Arc<Root>, name: &str, digest: Option<Digest>) -> StageResult {
    StageResult {
        root,
        base_history: Arc::default(),
        lineage: Lineage::of(BaseState {
            name: name.to_owned(),
            digest,
        }),
        unsettled: None,
    }
}

/// What a stage starts from.
pub(super) fn base(
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
                    suggestion: None,
                    source: source_error,
                }))
            };
            let image = session.images.get(session, source).map_err(failed)?;
            if let Some(label) = &stage.from_label {
                let digest = image.published_digest();
                let pinned = label.ends_with(&format!("@{digest}"));
                let task = session.task(if pinned {
                    label.clone()
                } else {
                    format!("{label}@{digest}")
                });
                task.cached();
            }
            let root = image_root(session, &image);
            Ok(StageResult {
                base_history: image.config.history.clone().into(),
                ..start(root, &source.name, Some(image.digest))
            })
        }
        Base::Context(name) => {
            let (root, label) = (
                Root::scratch(),
                format!("[context {name}] load from client"),
            );
            let task = session.task(label);
            let written = copy_step::context_layer(session, name).and_then(|changes| {
                let description = format!("local source for {name}");
                let made = write(session, None, changes, description)?;
                record_layer(session.services.store, &made.layer)?;
                Ok(made.layer)
            });
            match written {
                Ok(layer) => {
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
pub(super) fn image_root(session: &Session<'_>, image: &ResolvedImage) -> Arc<Root> {
    let root = image.root.get_or_init(|| {
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
                made: None,
            })
        })
    });
    Arc::clone(root)
}
