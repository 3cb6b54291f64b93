//! What makes a step's layer: an earlier result from the cache, or executing it, and what is recorded of that.

use jiff::Timestamp;

use super::{
    earlier::{self, Earlier},
    error::StepError,
    explain::Keyed,
    made::{Made, record_layer},
    request::NoCache,
    root::RootLayer,
    session::Task,
    stage::{Outcome, Worker},
};
use crate::{
    cache::{CacheUse, Fresh, Key, Lookup, Miss, Place, Sight, StepRecord},
    plan::{Op, Step},
};

impl Worker<'_> {
    /// Takes the layer that the step made earlier, or executes it. Of several processes and threads that want the
    /// same step, one executes it.
    pub(super) fn cached(
        &self,
        step: &Step,
        task: &Task<'_>,
        keyed: &Keyed,
        execute: impl FnOnce() -> Result<Made, StepError>,
    ) -> Result<Outcome, StepError> {
        if self.session.predicts {
            return self.foretold(step, keyed);
        }
        let store = self.session.services.store;
        let key = &keyed.key;
        let cache = self.cache_use();
        let sight = self.sight(step, &keyed.files);
        let taken = |record, is_recorded| self.taken(step, key, &sight, record, is_recorded);
        if let Lookup::Hit(record) = key.lookup(store, cache)? {
            return taken(*record, true).map(Outcome::Cached);
        }
        let mut caught_up = Ok(());
        let mut wait = || {
            // Whoever has the lock may wait for one that this stage still holds.
            caught_up = self.later.catch_up();
            caught_up.is_ok() && !self.session.is_over()
        };
        let turn = store.wait_for_step(key.digest(), &mut wait)?;
        caught_up?;
        let turn = turn.ok_or(StepError::Canceled)?;
        let miss = match key.lookup(store, cache)? {
            Lookup::Hit(record) => {
                return taken(*record, true).map(Outcome::Cached);
            }
            Lookup::Miss(miss) => miss,
        };
        if let Some(record) = self.imported(key)? {
            return taken(record, false).map(Outcome::Cached);
        }
        if keyed.is_claimed {
            return Err(StepError::Unproven);
        }
        self.missed(step, task, keyed, miss)?;
        let began = (self.session.services.clock)();
        let made = execute()?;
        // A process: of other steps, files have their times from elsewhere.
        let began = matches!(step.op, Op::Run(_)).then_some(began);
        // Equal content, file times aside: the earlier layer stays, and with it all that builds on it.
        if cache == CacheUse::On
            && let Some(record) = self.equal_result(task, key, sight.place, &made, began)?
        {
            return taken(record, false).map(Outcome::Unchanged);
        }
        // What is written of it here takes a while for one of many files.
        if let Some(departures) = self.departures().filter(|_| !made.is_told) {
            departures.made(&made.layer.descriptor);
        }
        let record = StepRecord {
            diff_id: made.layer.diff_id,
            descriptor: made.layer.descriptor.clone(),
            created: made.layer.created.to_string(),
            content: Some(made.content),
            began: began.map(|time| time.to_string()),
            label: step.label.clone(),
        };
        self.finished(key, &record);
        if !matches!(step.op, Op::Run(_)) || !keyed.files.is_empty() {
            record_layer(store, &made.layer)?;
            key.record(store, &record)?;
            key.remember(store, &sight)?;
            return Ok(Outcome::Made(made.layer));
        }
        let (key, memory, layer) = (key.clone(), sight.memory(), made.layer.clone());
        self.later.leave(move || {
            record_layer(store, &layer)?;
            key.record(store, &record)?;
            key.remember_later(store, memory)?;
            drop(turn);
            Ok(())
        });
        Ok(Outcome::Made(made.layer))
    }

    /// Whether the step's layer is there, here or in a remote cache, or what can be said of it otherwise.
    fn foretold(&self, step: &Step, keyed: &Keyed) -> Result<Outcome, StepError> {
        let (store, cache) = (self.session.services.store, self.cache_use());
        let depends = self.depends_on(step).filter(|_| cache == CacheUse::On);
        let lookup = match depends {
            Some(_) => Lookup::Miss(Miss::Absent),
            None => keyed.key.lookup(store, cache)?,
        };
        let miss = match lookup {
            Lookup::Hit(record) => return Ok(Outcome::Cached(self.layer_of(step, *record))),
            Lookup::Miss(miss) => miss,
        };
        match self.imported(&keyed.key)? {
            Some(record) if depends.is_none() => Ok(Outcome::Cached(self.layer_of(step, record))),
            _ => Ok(Outcome::Predicted(self.predicted(step, keyed, miss)?)),
        }
    }

    /// Takes the layer of an earlier result, and records that it is the step's: one that was found by its key has a record already.
    fn taken(
        &self,
        step: &Step,
        key: &Key,
        sight: &Sight<'_>,
        mut record: StepRecord,
        is_recorded: bool,
    ) -> Result<RootLayer, StepError> {
        let store = self.session.services.store;
        // Lists call the step what progress calls it now: its number may be another one.
        if !is_recorded || record.label != step.label {
            record.label.clone_from(&step.label);
            key.record(store, &record)?;
        }
        key.remember(store, sight)?;
        self.finished(key, &record);
        Ok(self.layer_of(step, record))
    }

    fn layer_of(&self, step: &Step, record: StepRecord) -> RootLayer {
        let created = record.created.parse();
        RootLayer {
            diff_id: record.diff_id,
            descriptor: record.descriptor,
            created: created.unwrap_or_else(|_| (self.session.services.clock)()),
            description: step.label.clone(),
            made: None,
        }
    }

    /// The layer that the step made last time; `None` also when nothing from earlier is wanted.
    pub(super) fn earlier(&self, step: &Step) -> Option<Earlier> {
        if self.cache_use() == CacheUse::Off {
            return None;
        }
        earlier::layer(self.session, self.sight(step, &[]).place)
    }

    /// An earlier result that is equal to what was made, here or in a remote cache.
    fn equal_result(
        &self,
        task: &Task<'_>,
        key: &Key,
        place: Place,
        made: &Made,
        began: Option<Timestamp>,
    ) -> Result<Option<StepRecord>, StepError> {
        let store = self.session.services.store;
        if let Some(record) = key.equal_result(store, &made.content)? {
            return Ok(Some(record));
        }
        let fresh = Fresh {
            diff_id: made.layer.diff_id,
            blob: &made.layer.descriptor.digest,
            toc: made.layer.made.as_ref().map(|layer| &**layer.toc()),
            content: &made.content,
            executed: began.map(|began| (began, made.layer.created)),
        };
        match place.equal_result(store, fresh)? {
            Some(record) => Ok(Some(record)),
            None => self.imported_equal(task, key, &made.content),
        }
    }

    pub(super) fn cache_use(&self) -> CacheUse {
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
}
