//! What is told of steps for explanations, and predicting a build.
//!
//! A prediction goes through the stages as a build does and computes the same keys, so it fetches what these take:
//! documents of base images, sources of `ADD`, a base's layers when an owner is given by name. It executes nothing, and where a
//! step would run it stops knowing the state: later steps that build on it or copy from it may run, those that do not are
//! predicted as ever. It changes nothing in the store but what it fetches.

use super::{
    error::StepError,
    session::{Session, Task},
    stage::Worker,
};
use crate::{
    cache::{FileEntry, FileList, Key, Miss, Place, Sight},
    copy::SourceContent,
    explain::{Explanation, MissReason, StepExplanation, StepResult},
    plan::{Op, Origin, Plan, Step},
};

/// A key, and the files behind the digests in it.
pub(super) struct Keyed {
    pub(super) key: Key,
    pub(super) files: Vec<FileList>,
    /// Whether the key rests on the word of a remote cache.
    pub(super) is_claimed: bool,
}

/// The files of an input, for explanations.
pub(super) fn file_list(input: &str, from: String, content: SourceContent) -> FileList {
    let entries = content.entries.into_iter().map(|entry| FileEntry {
        path: entry.path,
        mode: entry.mode,
        digest: entry.digest,
        bytes: entry.bytes,
    });
    FileList {
        input: input.to_owned(),
        from,
        entries: entries.collect(),
    }
}

/// Where files come from, in words.
pub(super) fn origin_name(plan: &Plan, origin: &Origin) -> String {
    match origin {
        Origin::Context => "build context".to_owned(),
        Origin::Named(name) => format!("context {name}"),
        Origin::Scratch => "scratch".to_owned(),
        Origin::Image(source) => source.name.clone(),
        Origin::Stage(id) => {
            let stage = plan.stages.iter().find(|stage| stage.id == *id);
            format!("stage {}", stage.map_or("", |stage| stage.name.as_str()))
        }
    }
}

/// What was told of the steps of a build, each at its platform, stage and step.
#[derive(Default)]
pub(super) struct Explained {
    steps: std::sync::Mutex<Vec<([usize; 3], StepExplanation)>>,
}

impl Explained {
    fn add(&self, at: [usize; 3], step: StepExplanation) {
        let mut steps = self
            .steps
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        steps.push((at, step));
    }

    /// All of it, in order.
    pub(super) fn take(&self) -> Explanation {
        let mut steps = std::mem::take(
            &mut *self
                .steps
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        steps.sort_by_key(|(at, _)| *at);
        Explanation::new(steps.into_iter().map(|(_, step)| step).collect())
    }
}

impl Worker<'_> {
    /// What there is to know of a step beside its key.
    pub(super) fn sight<'s>(&'s self, step: &'s Step, files: &'s [FileList]) -> Sight<'s> {
        let platform = self.plan.platform.to_string();
        let request = self.session.request;
        let context = request.context.path().unwrap_or_default();
        let stage = [
            context,
            &request.dockerfile_name,
            &platform,
            &self.stage.name,
        ];
        let before = self
            .stage
            .steps
            .iter()
            .take_while(|other| !std::ptr::eq(*other, step));
        let nth = before.filter(|other| other.text == step.text).count();
        let number = step.number.map_or(0, |(number, _)| number);
        Sight {
            place: Place::new(&stage, &step.text, nth, number),
            text: &step.text,
            lineage: &self.lineage,
            files,
        }
    }

    /// Tells why a step is executed.
    pub(super) fn missed(
        &self,
        step: &Step,
        task: &Task<'_>,
        keyed: &Keyed,
        miss: Miss,
    ) -> Result<(), StepError> {
        if !self.session.explains() {
            return Ok(());
        }
        let sight = self.sight(step, &keyed.files);
        let reason = keyed
            .key
            .reason(self.session.services.store, &sight, miss)?;
        task.missed(reason);
        Ok(())
    }

    /// What will become of a step whose key was not found.
    pub(super) fn predicted(
        &self,
        step: &Step,
        keyed: &Keyed,
        miss: Miss,
    ) -> Result<Prediction, StepError> {
        let store = self.session.services.store;
        let sight = self.sight(step, &keyed.files);
        let Some(after) = self.depends_on(step) else {
            let reason = keyed.key.reason(store, &sight, miss)?;
            return Ok((StepResult::WillRun, Some(reason)));
        };
        if miss == Miss::Disabled {
            return Ok((StepResult::WillRun, Some(MissReason::Disabled)));
        }
        Ok(match keyed.key.own_causes(store, &sight)? {
            None => (StepResult::WillRun, Some(MissReason::First)),
            Some(causes) => {
                let changed = (!causes.is_empty()).then_some(MissReason::Changed { causes });
                (StepResult::MayRun { after }, changed)
            }
        })
    }

    /// The step on whose result it depends what this one builds on; only in a prediction.
    pub(super) fn depends_on(&self, step: &Step) -> Option<String> {
        let is_linked = matches!(&step.op, Op::Copy(op) if crate::copy::is_linked(op));
        self.unsettled.clone().filter(|_| !is_linked)
    }

    /// Keeps what is told of a step.
    pub(super) fn explain(
        &self,
        index: usize,
        step: &Step,
        result: StepResult,
        reason: Option<MissReason>,
    ) {
        if !self.session.explains() {
            return;
        }
        let platform = self
            .session
            .request
            .platforms
            .iter()
            .position(|platform| *platform == self.plan.platform);
        let explanation = StepExplanation {
            platform: self.plan.platform.to_string(),
            stage: self.stage.name.clone(),
            step: step.label.clone(),
            result,
            reason,
        };
        let at = [platform.unwrap_or(0), self.stage.id.0, index];
        self.session.explained.add(at, explanation);
    }
}

/// What will become of a step, and why it is not taken from the cache.
pub(super) type Prediction = (StepResult, Option<MissReason>);

impl Session<'_> {
    /// Whether somebody wants to know why steps run.
    pub(super) fn explains(&self) -> bool {
        self.predicts || self.request.explain
    }
}
