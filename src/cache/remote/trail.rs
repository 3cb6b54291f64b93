//! What a build did, step by step, for exporting it. Steps leave their mark as they finish, so a build that fails has
//! something to export too.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::Fact;
use crate::{
    cache::{Key, Question, StepRecord},
    oci::{ChainId, Digest},
    store::CacheMountId,
};

/// A step whose layer is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its key.
    pub key: Digest,
    /// What it was asked to do.
    pub definition: Digest,
    /// The state that it ran on.
    pub parent: Option<ChainId>,
    /// Its layer.
    pub record: StepRecord,
    /// Whether the layer is one of the final image.
    pub in_image: bool,
}

/// The finished steps of a build, whether executed or found.
#[derive(Debug, Default)]
pub struct Trail(Mutex<Marks>);

#[derive(Debug, Default)]
struct Marks {
    steps: BTreeMap<Digest, Finished>,
    facts: BTreeMap<Digest, String>,
    mounts: BTreeMap<String, CacheMountId>,
}

impl Trail {
    /// Notes a finished step.
    pub fn finished(&self, key: &Key, record: &StepRecord, in_image: bool) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = marks.steps.get(key.digest());
        let in_image = in_image || before.is_some_and(|step| step.in_image);
        let step = Finished {
            key: *key.digest(),
            definition: *key.definition(),
            parent: key.parent(),
            record: record.clone(),
            in_image,
        };
        marks.steps.insert(step.key, step);
    }

    /// Notes a fact that the build used.
    pub fn fact(&self, question: Question, answer: &str) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.facts.insert(*question.digest(), answer.to_owned());
    }

    /// Notes a cache mount of a step, whether that is executed or found.
    pub fn mount(&self, mount: &CacheMountId) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.mounts.insert(mount.key(), mount.clone());
    }

    /// The cache mounts so far.
    pub fn mounts(&self) -> Vec<CacheMountId> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.mounts.values().cloned().collect()
    }

    /// The steps so far, by key.
    pub fn steps(&self) -> Vec<Finished> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.steps.values().cloned().collect()
    }

    /// The facts so far.
    pub fn facts(&self) -> Vec<Fact> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = marks.facts.iter();
        facts
            .map(|(question, answer)| Fact {
                question: *question,
                answer: answer.clone(),
            })
            .collect()
    }
}
