//! The end of a piece of work: whether it came, and when.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A moment on both clocks, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// On the described GPU's clock: the sum of the modelled times of all that had to run before.
    pub modelled: u64,
    /// Since `cuInit`.
    pub wall: u64,
}

/// Something that work after it can wait for. Set once.
#[derive(Default)]
pub struct Completion {
    ended: Mutex<Option<Moment>>,
    changed: Condvar,
}

impl Completion {
    /// A piece of work that is to come.
    pub fn pending() -> Arc<Completion> {
        Arc::new(Completion::default())
    }

    /// A piece of work that ended long ago.
    pub fn past() -> Arc<Completion> {
        Arc::new(Completion { ended: Mutex::new(Some(Moment::default())), changed: Condvar::new() })
    }

    /// When it ended, if it has.
    pub fn ended(&self) -> Option<Moment> {
        *self.lock()
    }

    /// Waits for the end.
    pub fn wait(&self) -> Moment {
        let mut ended = self.lock();
        loop {
            match *ended {
                Some(moment) => return moment,
                None => ended = self.changed.wait(ended).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Says that it has ended.
    pub fn finish(&self, moment: Moment) {
        *self.lock() = Some(moment);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Moment>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
