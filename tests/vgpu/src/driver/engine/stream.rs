//! Streams: work in order, off the caller's thread.
//!
//! Each piece of work has a [`Completion`] and a list of those that must come before it. A stream adds its own last
//! work to the list; the legacy default stream and the blocking streams add each other's. Since only earlier work is
//! ever waited for, no cycle can arise.
//!
//! A stream with work has a worker thread, which ends when there has been none for a while. Work that cannot take
//! time (an event) and has nothing to wait for is done at once by the caller.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::capture::Capture;
use super::completion::{Completion, Moment};
use super::operation::Operation;
use crate::driver::context::Context;
use crate::driver::errors::{Error, Outcome};
use crate::driver::objects::object;

/// How long an idle worker stays.
const LINGER: Duration = Duration::from_millis(200);

/// Which of the streams it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The default stream that waits for all blocking streams, and they for it.
    Legacy,
    /// A thread's own default stream.
    PerThread,
    /// Made by the program.
    Created,
}

/// A stream.
pub struct Stream {
    /// Where its work runs.
    pub context: Weak<Context>,
    /// Which it is.
    pub role: Role,
    /// `CU_STREAM_NON_BLOCKING` is the lowest bit.
    pub flags: u32,
    /// Kept and told; the order in which host threads run is the system's.
    pub priority: i32,
    /// Counts streams from 1.
    pub id: u64,
    /// What is being recorded instead of run.
    pub capture: Mutex<Option<Capture>>,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

object!(Stream, 2, Error::InvalidHandle);

struct Queue {
    waiting: VecDeque<Work>,
    last: Arc<Completion>,
    worker: bool,
}

struct Work {
    operation: Operation,
    after: Vec<Arc<Completion>>,
    done: Arc<Completion>,
}

impl Stream {
    /// A stream of `context`.
    pub fn new(context: Weak<Context>, role: Role, flags: u32, priority: i32) -> Arc<Stream> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static IDS: AtomicU64 = AtomicU64::new(1);
        let queue = Queue { waiting: VecDeque::new(), last: Completion::past(), worker: false };
        Arc::new(Stream {
            context,
            role,
            flags,
            priority,
            id: IDS.fetch_add(1, Ordering::Relaxed),
            capture: Mutex::new(None),
            queue: Mutex::new(queue),
            arrived: Condvar::new(),
        })
    }

    /// Its context.
    ///
    /// # Errors
    /// [`Error::ContextIsDestroyed`].
    pub fn context(&self) -> Outcome<Arc<Context>> {
        self.context.upgrade().ok_or(Error::ContextIsDestroyed)
    }

    /// Whether it and the legacy stream wait for each other.
    pub fn is_blocking(&self) -> bool {
        self.role != Role::Legacy && self.flags & 1 == 0
    }

    /// The end of the work that was submitted last.
    pub fn last(&self) -> Arc<Completion> {
        self.lock().last.clone()
    }

    /// Adds work, to be done after all that is in the stream and after `also`. Returns its end.
    ///
    /// # Errors
    /// [`Error::ContextIsDestroyed`].
    pub fn submit(self: &Arc<Stream>, operation: Operation, also: Option<Arc<Completion>>) -> Outcome<Arc<Completion>> {
        let context = self.context()?;
        let order = context.submission_order();
        let after = self.predecessors(&context, also);
        let done = Completion::pending();
        let at_once = operation.is_instant() && after.iter().all(|completion| completion.ended().is_some());
        let work = Work { operation, after, done: done.clone() };
        let mut queue = self.lock();
        queue.last = done.clone();
        if at_once {
            drop(queue);
            work.run(&context)?;
            return Ok(done);
        }
        queue.waiting.push_back(work);
        let start = !std::mem::replace(&mut queue.worker, true);
        drop(queue);
        drop(order);
        if start {
            let stream = self.clone();
            std::thread::Builder::new().name("vgpu-stream".into()).spawn(move || stream.serve()).map_err(|_| {
                self.lock().worker = false;
                Error::OperatingSystem
            })?;
        } else {
            self.arrived.notify_one();
        }
        Ok(done)
    }

    /// Does work in the caller's thread, after all that is in the stream.
    ///
    /// # Errors
    /// What the work met.
    pub fn run(self: &Arc<Stream>, operation: Operation) -> Outcome {
        let context = self.context()?;
        let order = context.submission_order();
        let after = self.predecessors(&context, None);
        let done = Completion::pending();
        self.lock().last = done.clone();
        drop(order);
        Work { operation, after, done }.run(&context)?;
        context.check()
    }

    /// Waits until the stream is empty.
    pub fn synchronise(&self) {
        self.last().wait();
    }

    fn predecessors(&self, context: &Context, also: Option<Arc<Completion>>) -> Vec<Arc<Completion>> {
        let mut after = vec![self.last()];
        after.extend(also);
        match self.role {
            Role::Legacy => {
                after.extend(context.streams().iter().filter(|other| other.is_blocking()).map(|other| other.last()))
            }
            _ if self.is_blocking() => after.push(context.legacy_stream().last()),
            _ => {}
        }
        after
    }

    /// The worker: does what arrives, in order.
    fn serve(self: Arc<Stream>) {
        loop {
            let mut queue = self.lock();
            if queue.waiting.is_empty() {
                queue =
                    self.arrived.wait_timeout(queue, LINGER).map_or_else(|poison| poison.into_inner().0, |pair| pair.0);
            }
            let Some(work) = queue.waiting.pop_front() else {
                queue.worker = false;
                return;
            };
            drop(queue);
            match self.context() {
                // The context keeps what went wrong and tells it to the next caller.
                Ok(context) => {
                    if let Err(error) = work.run(&context) {
                        // Nobody is left to whom a lesser error could be returned.
                        context.lose(if error.is_sticky() { error } else { Error::IllegalAddress });
                    }
                }
                Err(_) => work.done.finish(Moment::default()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Waits for what comes before, does the work unless the context is lost, and says that it is done.
    fn run(self, context: &Arc<Context>) -> Outcome {
        let mut start = Moment::default();
        for earlier in &self.after {
            start.modelled = start.modelled.max(earlier.wait().modelled);
        }
        let Work { operation, done, .. } = self;
        let call = std::panic::AssertUnwindSafe(|| match context.check() {
            Ok(()) => operation.execute(context),
            // Whoever waits for a callback must not wait for ever.
            Err(error) => operation.abandon(error),
        });
        let result = std::panic::catch_unwind(call).unwrap_or_else(|_| {
            eprintln!("vgpu: internal error while work ran");
            Err(Error::Unknown)
        });
        if let Err(error) = result
            && error.is_sticky()
        {
            context.lose(error);
        }
        let modelled = start.modelled + result.unwrap_or(0);
        done.finish(Moment { modelled, wall: context.gpu.wall_ns() });
        result.map(|_| ())
    }
}
