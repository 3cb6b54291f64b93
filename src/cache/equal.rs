//! Early cut-off: which earlier layer stands in for one that was just made, so that all that builds on it stays cached.
//!
//! Two earlier results are looked at, and the content has to be the same, by the tables of contents of both layers:
//!
//! - The latest of the same instruction on whatever inputs ([`Key::equal_result`]). File times do not count, as they do not in
//!   keys: the same instruction means the same by them.
//! - What the step at this place made last, when the instruction is another one by now, an `ENV` or `ARG` that it sees included
//!   ([`Place::equal_result`]). It may have been changed for the sake of file times (`touch -d`), so those that it set count. A time
//!   is taken to be set unless it lies within the execution: what is written gets the time of writing. Times of `COPY`, `ADD` and
//!   `WORKDIR` never count: no change of theirs makes the step a miss either.

use std::borrow::Cow;

use jiff::Timestamp;

use super::{
    Key, KeyBuilder, Place, StepRecord, content_digest,
    record::{result_of, toc_of},
};
use crate::{
    layer::{Toc, TocItem},
    oci::{DiffId, Digest},
    store::{Store, StoreError},
    tree,
};

/// A layer that was just made.
#[derive(Debug, Clone, Copy)]
pub struct Fresh<'a> {
    /// Its diffID.
    pub diff_id: DiffId,
    /// Its blob.
    pub blob: &'a Digest,
    /// Its table of contents, when the store does not have it yet.
    pub toc: Option<&'a Toc>,
    /// Its content ([`content_digest`]).
    pub content: &'a Digest,
    /// When a process made it, from its start to its end; `None` when its files have their times from elsewhere.
    pub executed: Option<(Timestamp, Timestamp)>,
}

impl Key {
    /// An earlier result of the same instruction, on whatever inputs, with the same content; its blob is in the store.
    pub fn equal_result(
        &self,
        store: &Store,
        content: &Digest,
    ) -> Result<Option<StepRecord>, StoreError> {
        match result_of(store, &key_of_result(self.definition(), content))? {
            Some(record) if record.has_content(store, content)? => Ok(Some(record)),
            _ => Ok(None),
        }
    }
}

impl Place {
    /// What the step at this place made last, if that is equal to what it made now; its blob is in the store.
    pub fn equal_result(
        self,
        store: &Store,
        fresh: Fresh<'_>,
    ) -> Result<Option<StepRecord>, StoreError> {
        let Some(last) = self.last_result(store)? else {
            return Ok(None);
        };
        // Tables of contents may be large; most results differ.
        if last.content != Some(*fresh.content) {
            return Ok(None);
        }
        let Some(before) = toc_of(store, &last)? else {
            return Ok(None);
        };
        if content_digest(&before) != *fresh.content {
            return Ok(None);
        }
        let Some(now) = fresh.executed else {
            return Ok(Some(last));
        };
        let after = match fresh.toc {
            Some(toc) => Some(Cow::Borrowed(toc)),
            None => store
                .layer_record_of(fresh.diff_id, fresh.blob)?
                .and_then(|layer| Toc::from_bytes(&layer.toc).ok())
                .map(Cow::Owned),
        };
        let began = last.began.as_deref().and_then(|text| text.parse().ok());
        let ended = last.created.parse().ok();
        Ok(match (after, began.zip(ended)) {
            (Some(after), Some(then)) if have_same_times(&before, then, &after, now) => Some(last),
            _ => None,
        })
    }
}

impl StepRecord {
    /// Whether its layer has this content, by the store's own table of contents. What the record says of that is not asked.
    pub fn has_content(&self, store: &Store, content: &Digest) -> Result<bool, StoreError> {
        let toc = toc_of(store, self)?;
        Ok(toc.is_some_and(|toc| content_digest(&toc) == *content))
    }
}

/// Where the latest result with this content is kept. The definition belongs to it, because an instruction may be
/// there for the file times alone.
pub(super) fn key_of_result(definition: &Digest, content: &Digest) -> Digest {
    *KeyBuilder::new("equal result")
        .input("definition", definition)
        .input("content", content)
        .finish()
        .digest()
}

/// The kernel gives files the time of its last tick, which may be late on a busy virtual machine. Nobody sets a time so little
/// before the present.
const TICK_NANOS: i128 = 2_000_000_000;

/// Whether the times of two layers of the same content are the same, those of writing during their executions aside.
fn have_same_times(
    before: &Toc,
    then: (Timestamp, Timestamp),
    after: &Toc,
    now: (Timestamp, Timestamp),
) -> bool {
    let is_within = |time: tree::Timestamp, (began, ended): (Timestamp, Timestamp)| {
        let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        (began.as_nanosecond() - TICK_NANOS..=ended.as_nanosecond()).contains(&nanos)
    };
    before.entries.len() == after.entries.len()
        && before.entries.iter().zip(&after.entries).all(|(old, new)| {
            match (&old.item, &new.item) {
                (TocItem::Node { metadata: old, .. }, TocItem::Node { metadata: new, .. }) => {
                    old.mtime == new.mtime
                        || is_within(old.mtime, then) && is_within(new.mtime, now)
                }
                _ => true,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layer::{Change, Content, WriteOptions, write_layer},
        tree::Metadata,
    };

    fn toc(times: &[i64]) -> Toc {
        let changes = times.iter().enumerate().map(|(n, time)| Change::Put {
            path: n.to_string().into(),
            metadata: Metadata::file(1, tree::Timestamp::from_seconds(*time)),
            content: Content::bytes(*b"x"),
        });
        let options = WriteOptions::default();
        let written = write_layer(changes.collect(), std::io::sink(), &options);
        written.expect("it can be written").toc
    }

    #[test]
    fn only_times_that_were_set_count() {
        let window = |began, ended| {
            let at = |second| Timestamp::from_second(second).expect("in range");
            (at(began), at(ended))
        };
        let same = |before: &[i64], after: &[i64]| {
            let (then, now) = (window(100, 110), window(200, 210));
            have_same_times(&toc(before), then, &toc(after), now)
        };
        assert!(same(&[105, 5], &[207, 5]), "written now, and set as before");
        assert!(same(&[100, 110], &[200, 210]), "at the borders");
        assert!(!same(&[105, 5], &[207, 6]), "set to another time");
        assert!(!same(&[105], &[105 + 200]), "set to a time to come");
        assert!(!same(&[5], &[207]), "no longer set");
        assert!(!same(&[105], &[5]), "set for the first time");
    }
}
