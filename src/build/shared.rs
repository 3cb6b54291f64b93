//! What a build takes from remote caches, and what it notes for them.

use std::cell::Cell;

use super::{
    error::StepError,
    image_source::ImageError,
    root::Root,
    session::{Session, Task},
    stage::Worker,
};
use crate::{
    cache::{
        CacheUse, Key, Question, StepRecord,
        remote::{Loaded, Place, PlaceError, Records},
    },
    copy,
    oci::{ChainId, Digest},
    plan::{Base, CopyOp, Origin, Plan, StageId},
};

/// How a step's key takes what remote caches say of states. A key that rests on that may lead to a result, which is the
/// cache's word as well. Nothing is executed and recorded by it: a wrong answer would make a wrong record, for builds too
/// that do not read that cache. Then the key is made once more, of what the states hold.
#[derive(Debug)]
pub(super) struct Claims {
    are_refused: bool,
    was_taken: Cell<bool>,
}

impl Claims {
    pub(super) fn taken() -> Self {
        Self {
            are_refused: false,
            was_taken: Cell::new(false),
        }
    }

    pub(super) fn refused() -> Self {
        Self {
            are_refused: true,
            ..Self::taken()
        }
    }

    /// Whether one was.
    pub(super) fn was_taken(&self) -> bool {
        self.was_taken.get()
    }
}

impl Session<'_> {
    /// What the remote caches have, read the first time that it is asked for; `None` when there are none.
    pub(super) fn imported(&self) -> Option<&Loaded> {
        let imports = &self.services.remote_cache.imports;
        (!imports.is_empty()).then(|| imports.load(|place| self.read_records(place)))
    }

    fn read_records(&self, place: &dyn Place) -> Vec<Records> {
        let task = self.task(format!("importing cache manifest from {}", place.name()));
        match place.records(&self.request.platforms) {
            Ok(records) => {
                task.done();
                records
            }
            Err(error) => {
                task.status(error.to_string());
                task.done();
                // The first build of all finds no cache, which is as it should be.
                if !matches!(error, PlaceError::Absent) && !self.is_over() {
                    self.warn(format!("cache of {} is not used: {error}", place.name()));
                }
                Vec::new()
            }
        }
    }
}

impl Worker<'_> {
    /// The result that a remote cache has for a step.
    pub(super) fn imported(&self, key: &Key) -> Result<Option<StepRecord>, StepError> {
        if self.cache_use() == CacheUse::Off {
            return Ok(None);
        }
        let Some(loaded) = self.session.imported() else {
            return Ok(None);
        };
        let services = self.session.services;
        let imports = &services.remote_cache.imports;
        Ok(imports.find(loaded, key, services.store)?)
    }

    /// An equal result that a remote cache has.
    pub(super) fn imported_equal(
        &self,
        task: &Task<'_>,
        key: &Key,
        content: &Digest,
    ) -> Result<Option<StepRecord>, StepError> {
        let Some(loaded) = self.session.imported() else {
            return Ok(None);
        };
        let services = self.session.services;
        let imports = &services.remote_cache.imports;
        let Some(record) = imports.find_equal(loaded, key, content, services.store)? else {
            return Ok(None);
        };
        // The step was executed, so its result is known; a cache's word does not replace it, only bytes that are equal.
        match self.session.fetch(task.vertex).blob(&record.descriptor) {
            Ok(()) if record.has_content(services.store, content)? => Ok(Some(record)),
            Ok(()) | Err(ImageError::Lost(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes that a step is finished.
    pub(super) fn finished(&self, key: &Key, record: &StepRecord) {
        let in_image = is_in_image(self.plan, self.stage.id);
        let trail = &self.session.services.remote_cache.trail;
        trail.finished(key, record, in_image);
    }

    /// What digest the sources of a copy have, when they are a state's.
    pub(super) fn sources_question(&self, op: &CopyOp) -> Result<Option<Question>, StepError> {
        let chain = self.origin_chain(&op.from)?;
        Ok(chain.and_then(|chain| Question::sources(chain, op)))
    }

    /// What digest the files have that a mount shows, when they are a state's.
    pub(super) fn mounted_question(
        &self,
        from: &Origin,
        source: &str,
    ) -> Result<Option<Question>, StepError> {
        let chain = self.origin_chain(from)?;
        Ok(chain.map(|chain| Question::mounted(chain, source)))
    }

    fn origin_chain(&self, origin: &Origin) -> Result<Option<ChainId>, StepError> {
        Ok(self.origin_root(origin)?.and_then(|root| root.chain()))
    }

    /// The digest of files of a state, if it is known. A state whose layers are all here is looked at instead: that
    /// tells which files there are.
    pub(super) fn known_content(
        &self,
        origin: &Origin,
        question: Option<Question>,
        claims: &Claims,
    ) -> Result<Option<Digest>, StepError> {
        let Some(question) = question else {
            return Ok(None);
        };
        match self.origin_root(origin)? {
            Some(root) if !self.is_here(&root)? => {
                let answer = self.answer(question, claims)?;
                Ok(answer.and_then(|text| text.parse().ok()))
            }
            _ => Ok(None),
        }
    }

    /// The numbers of an owner, if they are known.
    pub(super) fn known_owner(
        &self,
        question: Option<Question>,
        claims: &Claims,
    ) -> Result<Option<copy::Owner>, StepError> {
        let Some(question) = question else {
            return Ok(None);
        };
        let answer = self.answer(question, claims)?;
        Ok(answer.and_then(|text| copy::owner_by_number(&text)))
    }

    fn is_here(&self, root: &Root) -> Result<bool, StepError> {
        let store = self.session.services.store;
        for layer in root.layers() {
            if !store.has(&layer.descriptor)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An answer that is known: found out here, or told by a remote cache, if claims are taken. The latter is not kept.
    fn answer(&self, question: Question, claims: &Claims) -> Result<Option<String>, StepError> {
        if self.cache_use() == CacheUse::Off {
            return Ok(None);
        }
        let services = self.session.services;
        let known = question.answer(services.store)?;
        if let Some(answer) = known {
            services.remote_cache.trail.fact(question, &answer);
            return Ok(Some(answer));
        }
        if claims.are_refused {
            return Ok(None);
        }
        let loaded = self.session.imported();
        let told = loaded.and_then(|loaded| loaded.answer(question));
        Ok(told.map(|answer| {
            claims.was_taken.set(true);
            services.remote_cache.trail.fact(question, answer);
            answer.to_owned()
        }))
    }

    /// Keeps what was found out about the files of an origin while a key was made of them, so that nobody hashes them again.
    pub(super) fn keep_digests(&self, origin: &Origin) -> Result<(), StepError> {
        if let Some(root) = self.origin_root(origin)? {
            root.keep_digests(self.session.services.store)?;
        }
        Ok(())
    }

    /// Keeps an answer, if that was the question.
    pub(super) fn found_out(
        &self,
        question: Option<Question>,
        answer: &str,
    ) -> Result<(), StepError> {
        let Some(question) = question else {
            return Ok(());
        };
        let services = self.session.services;
        question.remember(services.store, answer)?;
        services.remote_cache.trail.fact(question, answer);
        Ok(())
    }
}

/// Whether the layers of a stage are layers of the image.
pub(super) fn is_in_image(plan: &Plan, stage: StageId) -> bool {
    let mut next = Some(plan.target);
    while let Some(id) = next {
        if id == stage {
            return true;
        }
        let found = plan.stages.iter().find(|stage| stage.id == id);
        next = match found.map(|stage| &stage.base) {
            Some(Base::Stage(below)) => Some(*below),
            _ => None,
        };
    }
    false
}
