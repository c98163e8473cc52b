//! Events: marks in streams.

use std::sync::{Arc, Mutex, PoisonError};

use super::capture::Mark;
use super::completion::{Completion, Moment};
use crate::driver::errors::Error;
use crate::driver::objects::object;

/// An event.
pub struct Event {
    /// The context it was made in.
    pub context: u64,
    /// `CU_EVENT_DISABLE_TIMING` is the bit of value 2.
    pub flags: u32,
    state: Mutex<State>,
}

object!(Event, 3, Error::InvalidHandle);

#[derive(Clone, Default)]
enum State {
    /// Never recorded: counts as complete.
    #[default]
    New,
    /// Recorded in a stream.
    Recorded(Arc<Completion>),
    /// Recorded in a stream that was capturing.
    Captured(Mark),
}

impl Event {
    /// An event that was never recorded.
    pub fn new(context: u64, flags: u32) -> Arc<Event> {
        Arc::new(Event { context, flags, state: Mutex::default() })
    }

    /// Whether it keeps times.
    pub fn keeps_time(&self) -> bool {
        self.flags & 2 == 0
    }

    /// Marks the end of `completion`.
    pub fn record(&self, completion: Arc<Completion>) {
        self.set(State::Recorded(completion));
    }

    /// Marks a moment that is now.
    pub fn record_now(&self, moment: Moment) {
        let completion = Completion::pending();
        completion.finish(moment);
        self.record(completion);
    }

    /// Marks a place in a graph that is being captured.
    pub fn record_in_capture(&self, mark: Mark) {
        self.set(State::Captured(mark));
    }

    /// The end that it marks; `None` if it was never recorded.
    ///
    /// # Errors
    /// [`Error::CapturedEvent`] if it was recorded in a capture.
    pub fn completion(&self) -> Result<Option<Arc<Completion>>, Error> {
        match self.get() {
            State::New => Ok(None),
            State::Recorded(completion) => Ok(Some(completion)),
            State::Captured(_) => Err(Error::CapturedEvent),
        }
    }

    /// The place in a capture that it marks, if it does.
    pub fn mark(&self) -> Option<Mark> {
        match self.get() {
            State::Captured(mark) => Some(mark),
            _ => None,
        }
    }

    fn get(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}
