//! Runs stages side by side, each as soon as what it needs is there.
//!
//! A stage has a thread to itself: stages mostly wait, for processes, the network or each other, and the
//! parts that keep a processor busy have their own fixed set of threads. A stage starts at once and waits only
//! where it reads from another one, so `COPY --from` late in a stage does not hold up its beginning. Stages come
//! in an order in which each depends on earlier ones alone (the plan's invariant), hence no two wait for each other.
//!
//! Threads are limited in number, and there may be fewer than wanted: what they do is taken in order, so whatever one waits
//! for is being done or has been, and the caller's own thread is enough.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// More stages than files have, but for generated ones; containers may be allowed a few hundred threads.
const MAX_THREADS: usize = 64;

/// What a stage left behind, for those that build on it.
#[derive(Debug)]
struct Slot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
enum State<T> {
    Pending,
    Done(Arc<T>),
    Failed,
}

/// The stage that was waited for will never be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abandoned;

/// The results of all stages, by their position in the plan.
#[derive(Debug)]
pub(super) struct Results<T> {
    slots: Vec<Slot<T>>,
}

impl<T> Results<T> {
    /// Waits until a stage is done.
    pub(super) fn wait(&self, index: usize) -> Result<Arc<T>, Abandoned> {
        let slot = &self.slots[index];
        let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                State::Pending => {
                    state = slot
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                State::Done(value) => return Ok(Arc::clone(value)),
                State::Failed => return Err(Abandoned),
            }
        }
    }

    /// Whether a stage has a result.
    pub(super) fn is_done(&self, index: usize) -> bool {
        let state = &self.slots[index].state;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*state, State::Done(_))
    }

    fn set(&self, index: usize, value: State<T>) {
        let slot = &self.slots[index];
        *slot.state.lock().unwrap_or_else(PoisonError::into_inner) = value;
        slot.changed.notify_all();
    }
}

/// Marks a stage as failed when its thread ends without a result, also by a panic.
struct Guard<'a, T> {
    results: &'a Results<T>,
    index: usize,
    value: Option<Arc<T>>,
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        let state = self.value.take().map_or(State::Failed, State::Done);
        self.results.set(self.index, state);
    }
}

/// Runs `stage(index, results)` for all indexes below `count`, in parallel, and returns the outcome of each.
/// A stage that fails makes those that wait for it see [`Abandoned`]; stopping the others is the caller's
/// business.
pub(super) fn run_all<T: Send + Sync, E: Send>(
    count: usize,
    stage: impl Fn(usize, &Results<T>) -> Result<T, E> + Sync,
) -> Vec<Result<Arc<T>, E>> {
    let slot = |_| Slot {
        state: Mutex::new(State::Pending),
        changed: Condvar::new(),
    };
    let results = Results {
        slots: (0..count).map(slot).collect(),
    };
    side_by_side(count, MAX_THREADS, |index| {
        let mut guard = Guard {
            results: &results,
            index,
            value: None,
        };
        let value = Arc::new(stage(index, &results)?);
        guard.value = Some(Arc::clone(&value));
        Ok(value)
    })
}

/// Calls `work` for all indexes below `count`, beginning in this order, on up to so many threads, and returns the outcome of
/// each. Where the system gives no more threads, those that there are do all.
pub(super) fn side_by_side<T: Send>(
    count: usize,
    max_threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            done.push((index, work(index)));
        }
    };
    let mut outcomes = thread::scope(|scope| {
        let others: Vec<_> = (1..count.min(max_threads))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, take).ok())
            .collect();
        let mut outcomes = take();
        for other in others {
            let done = other.join();
            outcomes.extend(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        outcomes
    });
    outcomes.sort_unstable_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_waits_for_the_one_it_reads_from() {
        let outcome = run_all(3, |index, results| match index {
            0 => {
                std::thread::sleep(std::time::Duration::from_millis(20));
                Ok::<_, Abandoned>(1)
            }
            _ => Ok(*results.wait(index - 1)? + 1),
        });
        assert_eq!(
            outcome
                .into_iter()
                .map(|r| *r.expect("no stage fails"))
                .collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }

    #[test]
    fn a_failure_reaches_those_that_wait_and_nobody_else() {
        let outcome = run_all(3, |index, results| match index {
            0 => Err("broken"),
            1 => results
                .wait(0)
                .map(|value: Arc<i32>| *value)
                .map_err(|Abandoned| "abandoned"),
            _ => Ok(7),
        });
        assert_eq!(outcome[0].as_ref().err(), Some(&"broken"));
        assert_eq!(outcome[1].as_ref().err(), Some(&"abandoned"));
        assert_eq!(outcome[2].as_deref().ok(), Some(&7));
    }

    #[test]
    fn more_stages_than_threads_are_all_done_with_those_that_depend_on_one_another() {
        let count = 3 * MAX_THREADS;
        let outcome = run_all(count, |index, results| match index {
            0 => Ok::<_, Abandoned>(0),
            // Each third waits for the one before, the others for the first.
            _ if index % 3 == 0 => Ok(*results.wait(index - 1)? + 1),
            _ => Ok(*results.wait(0)? + 1),
        });
        assert_eq!(outcome.len(), count);
        for (index, value) in outcome.into_iter().enumerate() {
            let wanted = if index == 0 {
                0
            } else {
                1 + usize::from(index % 3 == 0)
            };
            assert_eq!(value.as_deref(), Ok(&wanted), "{index}");
        }
    }

    #[test]
    fn one_thread_is_enough() {
        let outcomes = side_by_side(5, 1, |index| (index, thread::current().id()));
        let own = thread::current().id();
        let wanted: Vec<_> = (0..5).map(|index| (index, own)).collect();
        assert_eq!(outcomes, wanted);
    }
}
