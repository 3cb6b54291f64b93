//! Removing what steps leave beside their states, on a thread of its own: nobody needs it gone, and a disk that is told of
//! every directory that goes (`discard`) takes milliseconds for one.

use std::sync::{
    Mutex, PoisonError,
    mpsc::{Sender, channel},
};

use super::Remains;

/// Takes remains and removes them, in order. What is still there when the process ends is removed with its snapshot, as
/// is what cannot be removed.
#[derive(Debug, Default)]
pub struct Leftovers(Mutex<Option<Sender<Remains>>>);

impl Leftovers {
    /// Has something removed soon.
    pub fn take(&self, remains: Remains) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*queue {
            let _gone = sender.send(remains).is_ok();
            return;
        }
        let (sender, receiver) = channel::<Remains>();
        let started = std::thread::Builder::new().spawn(move || {
            for remains in receiver {
                let _best_effort = remains.remove().is_ok();
            }
        });
        // Without a thread they stay.
        if started.is_ok() && sender.send(remains).is_ok() {
            *queue = Some(sender);
        }
    }
}
