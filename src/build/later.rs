//! What a step leaves to be done while the process of the next one runs: nothing of it is needed before.
//!
//! It is done at the latest when the stage ends, however it ends.

use std::cell::RefCell;

use super::error::StepError;

type Job<'a> = Box<dyn FnOnce() -> Result<(), StepError> + 'a>;

/// The work that is left, in order.
#[derive(Default)]
pub(super) struct Later<'a>(RefCell<Vec<Job<'a>>>);

impl<'a> Later<'a> {
    /// Leaves something.
    pub(super) fn leave(&self, job: impl FnOnce() -> Result<(), StepError> + 'a) {
        self.0.borrow_mut().push(Box::new(job));
    }

    /// Does all that is left; gives the first failure.
    pub(super) fn catch_up(&self) -> Result<(), StepError> {
        let mut outcome = Ok(());
        for job in self.0.take() {
            let done = job();
            outcome = outcome.and(done);
        }
        outcome
    }
}
