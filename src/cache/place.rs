//! What the step at a place looked like last time.
//!
//! ```text
//! steps/at/TEXT     the key, inputs and lineage of the step with this text       ─┐ JSON
//! steps/at/NUMBER   the text place of the step that stood at this number         ─┘
//! steps/files/…     the files of an input of the step at a text place, see `files`
//! ```
//! A step is known again by its text, so that one put in between moves nothing; a step whose text has changed is compared
//! with the one that stood at its number. Places name the directory of the context: they tell apart projects of one
//! machine, and are no part of any key. All of it is for explanations, and for finding a layer whose unchanged parts can be
//! taken over: two steps that share a place, or two processes that write one, only spoil that for each other.

use serde::{Deserialize, Serialize};

use super::{Files, Input, Key, StepRecord, files, record::result_of};
use crate::{
    oci::{ChainId, DiffId, Digest, sha256, to_json},
    store::{Found, StepFolder, Store, StoreError},
};

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    text: Digest,
    number: Digest,
}

impl Place {
    /// The place of a step in a stage that `stage` describes: the directory, the Dockerfile, the platform, the stage's
    /// name. The step has this text, of those in the stage with the same text it is the nth, and it has this number.
    pub fn new(stage: &[&str], text: &str, nth: usize, number: usize) -> Self {
        let at = |what: &str, n: usize| {
            let parts = serde_json::json!([stage, what, n]);
            sha256(parts.to_string().as_bytes())
        };
        Self {
            text: at(&format!("text {text}"), nth),
            number: at("number", number),
        }
    }
}

impl Place {
    /// What the step here made last time, whatever its inputs were; its blob is in the store.
    pub fn last_result(self, store: &Store) -> Result<Option<StepRecord>, StoreError> {
        match self.last(store)? {
            Some(last) => result_of(store, &last.key),
            None => Ok(None),
        }
    }

    /// Whether the files that an input of the step here had last time begin with these.
    pub fn had_first(self, store: &Store, input: &str, files: &Files) -> Result<bool, StoreError> {
        let Some(last) = self.last(store)? else {
            return Ok(false);
        };
        let list = last.files(store, input)?;
        Ok(list.is_some_and(|list| files::begin_with(&list, files)))
    }

    fn last(self, store: &Store) -> Result<Option<Last>, StoreError> {
        let mut place = self.text;
        let mut last: Option<Last> = read(store, &place)?;
        if last.is_none()
            && let Some(pointer) = read::<Pointer>(store, &self.number)?
        {
            place = pointer.text;
            last = read(store, &place)?;
        }
        Ok(last.map(|last| Last {
            place: Some(place),
            ..last
        }))
    }
}

/// What a record of a place says, for lists of what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtPlace {
    /// Which step stood there last, and where the lists of the files that it read are.
    Step {
        /// The step's key.
        key: Digest,
        /// The names of the lists. Not each of them is there.
        files: Vec<Digest>,
    },
    /// The place, by its text, of the step that stood at this number.
    Text(Digest),
}

impl AtPlace {
    /// Out of the bytes that the store keeps for `place`; `None` when they are none.
    pub fn read(place: &Digest, bytes: &[u8]) -> Option<Self> {
        if let Ok(Pointer { text }) = serde_json::from_slice(bytes)
            && serde_json::from_slice::<Last>(bytes).is_err()
        {
            return Some(Self::Text(text));
        }
        let last: Last = serde_json::from_slice(bytes).ok()?;
        let inputs = last.inputs.iter();
        Some(Self::Step {
            key: last.key,
            files: inputs
                .map(|input| place_of_files(place, &input.name))
                .collect(),
        })
    }
}

/// What a state was made by: a base, then steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    pub(super) base: BaseState,
    pub(super) steps: Vec<(String, DiffId)>,
    /// What steps made, cut to what tells them apart: the states after each of them, whatever the base.
    marks: Vec<String>,
    /// The last of these states.
    chain: Option<ChainId>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseState {
    /// Its name: `docker.io/library/alpine:3.20`, `scratch`.
    pub name: String,
    /// The manifest of an image, or else the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Lineage {
    /// A base without steps.
    pub fn of(base: BaseState) -> Self {
        Self {
            base,
            steps: Vec::new(),
            marks: Vec::new(),
            chain: None,
        }
    }

    /// Adds the step that progress calls `label`, and the layer that it made.
    pub fn push(&mut self, label: &str, layer: DiffId) {
        self.steps.push((label.to_owned(), layer));
        let state = ChainId::after(self.chain, layer);
        self.marks.push(state.0.hex()[..16].to_owned());
        self.chain = Some(state);
    }

    /// As it is kept.
    pub(super) fn last(&self) -> LastLineage {
        let n_steps = self.marks.len();
        let marks = kept(n_steps).map(|n| self.marks[n].clone());
        LastLineage {
            base: self.base.clone(),
            steps: marks.collect(),
            n_steps: (n_steps > NEAR).then_some(n_steps),
        }
    }

    /// The mark of the step with this index.
    pub(super) fn mark(&self, n: usize) -> Option<&str> {
        self.marks.get(n).map(String::as_str)
    }
}

/// So many of the last steps of a lineage are all kept; of those before, each step with an index that this divides, and
/// further back each that its square does: each step keeps a lineage, and what they keep must not grow by the square of
/// their number.
const NEAR: usize = 64;

/// The indexes of the marks that are kept of so many steps, in order.
fn kept(n_steps: usize) -> impl Iterator<Item = usize> {
    let near = n_steps.saturating_sub(NEAR);
    let further = n_steps
        .saturating_sub(NEAR * NEAR)
        .next_multiple_of(NEAR)
        .min(near);
    let furthest = (0..further).step_by(NEAR * NEAR);
    furthest
        .chain((further..near).step_by(NEAR))
        .chain(near..n_steps)
}

/// A lineage as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastLineage {
    pub(super) base: BaseState,
    /// The marks that are kept.
    steps: Vec<String>,
    /// How many steps there are, where not all have their mark here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n_steps: Option<usize>,
}

/// Where a lineage parts from one that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// At the step with this index, which may be there no more.
    At(usize),
    /// At a step after the first so many and up to the one with this index.
    Within(usize, usize),
}

impl LastLineage {
    /// Where `now`, on the same base, parts from this; `None` where it does not.
    pub(super) fn parting(&self, now: &Lineage) -> Option<Parting> {
        let indexes: Vec<usize> = match self.n_steps {
            Some(n_steps) => kept(n_steps).collect(),
            None => (0..self.steps.len()).collect(),
        };
        let mut n_equal = 0;
        for (n, mark) in indexes.into_iter().zip(&self.steps) {
            // A mark stands for all that led to it.
            if now.mark(n) == Some(mark) {
                n_equal = n + 1;
                continue;
            }
            return Some(if n == n_equal {
                Parting::At(n)
            } else {
                Parting::Within(n_equal, n)
            });
        }
        let n_steps = self.n_steps.unwrap_or(self.steps.len());
        (now.marks.len() > n_steps).then_some(Parting::At(n_steps))
    }
}

/// A list of the files of an input of a step.
#[derive(Debug, Clone)]
pub struct FileList {
    /// The name of the input in the key: `content`, `mount 1 content`.
    pub input: String,
    /// Where the files are, in words.
    pub from: String,
    /// The files.
    pub files: Files,
}

/// What there is to know of a step beside its key, for explanations.
#[derive(Debug, Clone)]
pub struct Sight<'a> {
    /// Where it stands.
    pub place: Place,
    /// Its text as progress shows it: `RUN make`.
    pub text: &'a str,
    /// What it builds on.
    pub lineage: &'a Lineage,
    /// The files that it reads.
    pub files: &'a [FileList],
}

/// What a step at a place had last time.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Last {
    pub(super) key: Digest,
    pub(super) text: String,
    pub(super) inputs: Vec<Input>,
    pub(super) lineage: LastLineage,
    /// Under which place its files are.
    #[serde(skip)]
    pub(super) place: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
struct Pointer {
    text: Digest,
}

impl Sight<'_> {
    /// What is to be remembered of a step that reads no files, for later.
    pub fn memory(&self) -> Memory {
        Memory {
            place: self.place,
            text: self.text.to_owned(),
            lineage: self.lineage.last(),
        }
    }

    /// Remembers the step as it is, unless that is what is remembered.
    pub(super) fn remember(&self, store: &Store, key: &Key) -> Result<(), StoreError> {
        self.memory().keep(store, key, self.files)
    }

    /// What stood here last time.
    pub(super) fn last(&self, store: &Store) -> Result<Option<Last>, StoreError> {
        self.place.last(store)
    }
}

/// What is to be remembered of a step.
#[derive(Debug)]
pub struct Memory {
    place: Place,
    text: String,
    lineage: LastLineage,
}

impl Memory {
    /// Remembers it, unless that is what is remembered.
    pub(super) fn keep(
        self,
        store: &Store,
        key: &Key,
        files: &[FileList],
    ) -> Result<(), StoreError> {
        let Place { text, number } = self.place;
        let pointer: Option<Pointer> = read(store, &number)?;
        if pointer.is_none_or(|pointer| pointer.text != text) {
            store.put_step(StepFolder::Position, &number, &to_json(&Pointer { text }))?;
        }
        let last: Option<Last> = read(store, &text)?;
        if last.is_some_and(|last| last.key == *key.digest()) {
            return Ok(());
        }
        for list in files {
            let at = place_of_files(&text, &list.input);
            if let Some(bytes) = files::print(&list.files) {
                store.put_step(StepFolder::Files, &at, &bytes)?;
            } else {
                store.put_step(StepFolder::Files, &at, b"")?;
            }
        }
        let last = Last {
            key: *key.digest(),
            text: self.text,
            inputs: key.inputs().to_vec(),
            lineage: self.lineage,
            place: None,
        };
        store.put_step(StepFolder::Position, &text, &to_json(&last))
    }
}

impl Last {
    /// The list that was kept of an input's files.
    pub(super) fn files(&self, store: &Store, input: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(place) = &self.place else {
            return Ok(None);
        };
        Ok(
            match store.step(StepFolder::Files, &place_of_files(place, input))? {
                Found::Valid(bytes) => Some(bytes),
                Found::Absent | Found::Invalid => None,
            },
        )
    }
}

fn place_of_files(place: &Digest, input: &str) -> Digest {
    sha256(format!("{place} {input}").as_bytes())
}

fn read<T: serde::de::DeserializeOwned>(
    store: &Store,
    at: &Digest,
) -> Result<Option<T>, StoreError> {
    Ok(match store.step(StepFolder::Position, at)? {
        Found::Valid(bytes) => serde_json::from_slice(&bytes).ok(),
        Found::Absent | Found::Invalid => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lineage of so many steps, of which those from `changed` on are other ones.
    fn lineage(n_steps: usize, changed: usize) -> Lineage {
        let mut lineage = Lineage::of(BaseState {
            name: "scratch".to_owned(),
            digest: None,
        });
        for n in 0..n_steps {
            let text = format!("{n} {}", n >= changed);
            lineage.push(&text, DiffId(sha256(text.as_bytes())));
        }
        lineage
    }

    #[test]
    fn what_is_kept_of_a_long_lineage_is_short_and_tells_where_another_parts_from_it() {
        for n_steps in [0, 1, 63, 64, 65, 200, 5000, 20_000] {
            let before = lineage(n_steps, usize::MAX);
            let last = before.last();
            assert!(last.steps.len() <= 2 * NEAR + 1 + n_steps / (NEAR * NEAR));
            assert_eq!(last.steps.len(), kept(n_steps).count());
            assert!(kept(n_steps).is_sorted_by(|a, b| a < b), "{n_steps}");
            assert_eq!(last.parting(&before), None, "{n_steps}");
            let longer = lineage(n_steps + 1, usize::MAX);
            assert_eq!(last.parting(&longer), Some(Parting::At(n_steps)));
            let changes = [0, 1, 30, 64, 100, 150, 4095, 4999, 10_000, 19_990];
            for changed in changes.into_iter().filter(|n| *n < n_steps) {
                let parting = last.parting(&lineage(n_steps, changed));
                let is_told = match parting {
                    Some(Parting::At(n)) => n == changed,
                    Some(Parting::Within(first, last)) => (first..=last).contains(&changed),
                    None => false,
                };
                assert!(is_told, "{changed} of {n_steps}: {parting:?}");
                let is_near = changed + NEAR >= n_steps;
                assert!(
                    !is_near || parting == Some(Parting::At(changed)),
                    "{parting:?}"
                );
            }
        }
    }
}
