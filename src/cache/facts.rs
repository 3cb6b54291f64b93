//! Facts: what was found out about a state, by the state's name.
//!
//! The key of a `COPY --from` covers the content of what is copied, and finding that out needs the layers it comes from.
//! A chainID names their content, so the same question asked of it always has the same answer. Kept as a fact, the answer
//! makes a step's key known from names alone: a build that finds everything in the cache reads no layer, and needs none
//! that is only in a remote cache.

use crate::{
    oci::{ChainId, Digest},
    plan::{CopyOp, CopySource},
    store::{Found, StepFolder, Store, StoreError},
};

use super::KeyBuilder;

/// The longest answer that is taken from a record.
pub(super) const MAX_ANSWER_BYTES: usize = 256;

/// A question about a state. Equal questions have equal answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question(Digest);

impl Question {
    /// What digest the sources of a copy have, if all of them come from the state `origin`.
    pub fn sources(origin: ChainId, op: &CopyOp) -> Option<Self> {
        let paths = op
            .sources
            .iter()
            .map(|source| match source {
                CopySource::Path(path) => Some(path.as_str()),
                CopySource::Url(_) | CopySource::Git(_) | CopySource::Inline { .. } => None,
            })
            .collect::<Option<Vec<_>>>()?;
        let key = KeyBuilder::new("content of sources")
            .input("origin", &origin.0)
            .list("paths", &paths)
            .flag("parents", op.parents)
            .list("exclude", &op.exclude);
        Some(Self(*key.finish().digest()))
    }

    /// What digest the files have that a mount shows of the state `origin`.
    pub fn mounted(origin: ChainId, source: &str) -> Self {
        let key = KeyBuilder::new("content of a mount")
            .input("origin", &origin.0)
            .text("source", source);
        Self(*key.finish().digest())
    }

    /// Which numbers a user and group have in the state `parent`; the answer is `uid:gid`.
    pub fn owner(parent: Option<ChainId>, spec: &str) -> Self {
        let key = match parent {
            Some(parent) => KeyBuilder::new("owner").input("parent", &parent.0),
            None => KeyBuilder::new("owner").no_input("parent"),
        };
        Self(*key.text("spec", spec).finish().digest())
    }

    /// Its name in records.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// The answer that the store has.
    pub fn answer(&self, store: &Store) -> Result<Option<String>, StoreError> {
        Ok(match store.step(StepFolder::Fact, &self.0)? {
            Found::Valid(bytes) => String::from_utf8(bytes)
                .ok()
                .filter(|answer| answer.len() <= MAX_ANSWER_BYTES),
            Found::Absent | Found::Invalid => None,
        })
    }

    /// Keeps the answer.
    pub fn remember(&self, store: &Store, answer: &str) -> Result<(), StoreError> {
        store.put_step(StepFolder::Fact, &self.0, answer.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oci::sha256, plan::CopyVerb};

    fn op(sources: &[CopySource], parents: bool, exclude: &[&str]) -> CopyOp {
        CopyOp {
            sources: sources.to_vec(),
            parents,
            exclude: exclude.iter().map(|text| (*text).to_owned()).collect(),
            ..CopyOp::of_paths(CopyVerb::Copy, &[], "/")
        }
    }

    #[test]
    fn different_questions_have_different_names() {
        let (one, two) = (ChainId(sha256(b"1")), ChainId(sha256(b"2")));
        let path = |text: &str| CopySource::Path(text.to_owned());
        let sources = |origin, paths: &[CopySource], parents, exclude: &[&str]| {
            Question::sources(origin, &op(paths, parents, exclude)).expect("paths only")
        };
        let questions = [
            sources(one, &[path("a")], false, &[]),
            sources(two, &[path("a")], false, &[]),
            sources(one, &[path("b")], false, &[]),
            sources(one, &[path("a"), path("b")], false, &[]),
            sources(one, &[path("a")], true, &[]),
            sources(one, &[path("a")], false, &["b"]),
            Question::mounted(one, "a"),
            Question::owner(Some(one), "a"),
            Question::owner(Some(two), "a"),
            Question::owner(None, "a"),
        ];
        for (i, question) in questions.iter().enumerate() {
            assert!(!questions[i + 1..].contains(question), "question {i}");
        }
        let url = CopySource::Url("https://x/y".to_owned());
        assert_eq!(Question::sources(one, &op(&[url], false, &[])), None);
    }

    #[test]
    fn an_answer_is_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let question = Question::owner(None, "app");
        assert_eq!(question.answer(&store).expect("readable"), None);
        question.remember(&store, "7:8").expect("written");
        assert_eq!(
            question.answer(&store).expect("readable").as_deref(),
            Some("7:8")
        );
    }
}
