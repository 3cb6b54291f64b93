//! The digests of many files, by several threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Bytes, Record};
use crate::{copy::CopyError, oci::Digest};

/// More threads than this do not make one disk faster.
const MAX_THREADS: usize = 8;

/// The digests of the files of records, each with the record's index, ascending.
pub(super) fn file_digests(records: &[Record]) -> Result<Vec<(usize, Digest)>, CopyError> {
    let is_unknown = |record: &&Record| matches!(record.bytes, Bytes::Of(_));
    let n_files = records.iter().filter(is_unknown).count();
    let n_threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
        .min(n_files / 4)
        .max(1);
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let work = || {
        let mut found = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(record) = records.get(i) else { break };
            let Bytes::Of(tree) = &record.bytes else {
                continue;
            };
            match tree.digest(&record.path) {
                Ok(digest) => found.push((i, digest)),
                Err(error) => {
                    stopped.store(true, Ordering::Relaxed);
                    return Err((i, error));
                }
            }
        }
        Ok(found)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let mut outcomes = vec![work()];
        outcomes.extend(others.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }));
        outcomes
    });
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(found) => all.extend(found),
            Err(failure) => failures.push(failure),
        }
    }
    // The first in the order of the walk: of several failures it is the same one mostly, and always one of them.
    if let Some((_, error)) = failures.into_iter().min_by_key(|(i, _)| *i) {
        return Err(error.into());
    }
    all.sort_unstable_by_key(|(i, _)| *i);
    Ok(all)
}
