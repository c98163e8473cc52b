//! Capture: a stream that records a graph instead of working.
//!
//! A capture begins in one stream; others join it by waiting for an event that was recorded in it, and must be joined
//! back before it ends. A call that cannot be recorded makes the capture invalid, which its end then reports.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::ThreadId;

use super::completion::Completion;
use super::event::Event;
use super::graph::{Graph, Task};
use super::operation::Operation;
use super::stream::Stream;
use crate::driver::errors::{Error, Outcome};

/// `CUstreamCaptureMode`: whose unsafe calls make a capture invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Any thread's.
    Global,
    /// Those of the thread that began it.
    ThreadLocal,
    /// Nobody's.
    Relaxed,
}

impl Mode {
    /// From its number.
    ///
    /// # Errors
    /// [`Error::InvalidValue`].
    pub fn from_number(number: u32) -> Outcome<Mode> {
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed].get(number as usize).copied().ok_or(Error::InvalidValue)
    }
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set.
    static THREAD_MODE: Cell<u32> = const { Cell::new(0) };
}

/// What the streams of one capture share.
pub struct Session {
    /// Counts captures from 1.
    pub id: u64,
    /// The graph that grows.
    pub graph: Arc<Graph>,
    /// Whether the program made the graph, and keeps it.
    pub into_given_graph: bool,
    mode: Mode,
    thread: ThreadId,
    invalid: AtomicBool,
    streams: Mutex<Vec<Weak<Stream>>>,
}

/// A stream's part in a capture.
#[derive(Clone)]
pub struct Capture {
    /// The capture.
    pub session: Arc<Session>,
    /// Nodes that the next one comes after.
    pub tail: Vec<u64>,
    /// Whether it began in this stream.
    pub is_origin: bool,
}

/// A place in a capture, kept by an event.
#[derive(Clone)]
pub struct Mark {
    session: Arc<Session>,
    tail: Vec<u64>,
}

/// All captures under way, for the check of unsafe calls.
static SESSIONS: Mutex<Vec<Weak<Session>>> = Mutex::new(Vec::new());

/// Begins a capture in `stream`, into `graph` after `tail` if given.
///
/// # Errors
/// [`Error::IllegalState`] if it captures already, [`Error::CaptureUnsupported`] for the legacy stream.
pub fn begin(stream: &Arc<Stream>, mode: Mode, into: Option<(Arc<Graph>, Vec<u64>)>) -> Outcome {
    static IDS: AtomicU64 = AtomicU64::new(1);
    if stream.role == super::stream::Role::Legacy {
        return Err(Error::CaptureUnsupported);
    }
    let mut own = stream.capture.lock().unwrap_or_else(PoisonError::into_inner);
    if own.is_some() {
        return Err(Error::IllegalState);
    }
    let into_given_graph = into.is_some();
    let (graph, tail) = into.unwrap_or_else(|| (Graph::new(), Vec::new()));
    let session = Arc::new(Session {
        id: IDS.fetch_add(1, Ordering::Relaxed),
        graph,
        into_given_graph,
        mode,
        thread: std::thread::current().id(),
        invalid: AtomicBool::new(false),
        streams: Mutex::new(vec![Arc::downgrade(stream)]),
    });
    let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.retain(|known| known.strong_count() > 0);
    sessions.push(Arc::downgrade(&session));
    *own = Some(Capture { session, tail, is_origin: true });
    Ok(())
}

/// Ends the capture that began in `stream`, and returns it.
///
/// # Errors
/// [`Error::IllegalState`] when it does not capture, [`Error::CaptureUnmatched`] in another stream of the capture,
/// [`Error::CaptureWrongThread`], [`Error::CaptureInvalidated`], and [`Error::CaptureUnjoined`] when work of another
/// stream is not before the end of this one. The capture is over in the last two cases too.
pub fn end(stream: &Arc<Stream>) -> Outcome<Arc<Session>> {
    let capture = of(stream).ok_or(Error::IllegalState)?;
    let session = capture.session;
    if !capture.is_origin {
        return Err(Error::CaptureUnmatched);
    }
    if session.mode != Mode::Relaxed && session.thread != std::thread::current().id() {
        return Err(Error::CaptureWrongThread);
    }
    let streams = std::mem::take(&mut *session.streams.lock().unwrap_or_else(PoisonError::into_inner));
    let mut unjoined = false;
    for other in streams.iter().filter_map(Weak::upgrade) {
        let part = other.capture.lock().unwrap_or_else(PoisonError::into_inner).take();
        let loose = |node: &u64| !capture.tail.iter().any(|&last| session.graph.reaches(*node, last));
        unjoined |= part.is_some_and(|part| part.tail.iter().any(loose));
    }
    if session.invalid.load(Ordering::Relaxed) {
        return Err(Error::CaptureInvalidated);
    }
    if unjoined { Err(Error::CaptureUnjoined) } else { Ok(session) }
}

/// The capture that a stream takes part in.
pub fn of(stream: &Stream) -> Option<Capture> {
    stream.capture.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Session {
    /// Whether a call that cannot be recorded was made.
    pub fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Relaxed)
    }

    /// Makes its end an error.
    pub fn invalidate(&self) {
        self.invalid.store(true, Ordering::Relaxed);
    }
}

/// What became of work that was given to a stream.
pub enum Submitted {
    /// It will be done.
    Running(Arc<Completion>),
    /// It was recorded as the node with that number.
    Recorded,
}

/// Adds a task to the graph if `stream` captures; `None` if it does not.
///
/// # Errors
/// [`Error::CaptureInvalidated`].
pub fn record(stream: &Stream, task: impl FnOnce() -> Task) -> Outcome<Option<u64>> {
    let mut own = stream.capture.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(capture) = own.as_mut() else { return Ok(None) };
    if capture.session.is_invalid() {
        return Err(Error::CaptureInvalidated);
    }
    let number = capture.session.graph.add(task(), &capture.tail)?;
    capture.tail = vec![number];
    Ok(Some(number))
}

/// Gives work to a stream: to be recorded if it captures, else to be done.
///
/// # Errors
/// Those of [`record`] and [`Stream::submit`].
pub fn submit(stream: &Arc<Stream>, operation: Operation) -> Outcome<Submitted> {
    if record(stream, || Task::Operation(operation.clone()))?.is_some() {
        return Ok(Submitted::Recorded);
    }
    refuse_implicit(stream)?;
    stream.submit(operation, None).map(Submitted::Running)
}

/// Work in the legacy stream would have to wait for blocking streams that capture.
///
/// # Errors
/// [`Error::CaptureImplicit`], and those captures become invalid.
pub fn refuse_implicit(stream: &Stream) -> Outcome {
    if stream.role != super::stream::Role::Legacy {
        return Ok(());
    }
    let context = stream.context()?;
    let streams = context.streams();
    let captures: Vec<Capture> =
        streams.iter().filter(|other| other.is_blocking()).filter_map(|other| of(other)).collect();
    captures.iter().for_each(|capture| capture.session.invalidate());
    if captures.is_empty() { Ok(()) } else { Err(Error::CaptureImplicit) }
}

/// A call that cannot be recorded, on a stream that may capture.
///
/// # Errors
/// [`Error::CaptureUnsupported`], and the capture becomes invalid.
pub fn refuse(stream: &Stream) -> Outcome {
    match of(stream) {
        None => Ok(()),
        Some(capture) => {
            capture.session.invalidate();
            Err(Error::CaptureUnsupported)
        }
    }
}

/// A call that is unsafe while others capture: it may wait for the device.
///
/// # Errors
/// [`Error::CaptureUnsupported`], and those captures become invalid.
pub fn refuse_unsafe() -> Outcome {
    let own_mode = THREAD_MODE.get();
    let thread = std::thread::current().id();
    let sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut refused = false;
    for session in sessions.iter().filter_map(Weak::upgrade) {
        let under_way = !session.streams.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let minded = match session.mode {
            Mode::Global => own_mode == 0 || (own_mode == 1 && session.thread == thread),
            Mode::ThreadLocal => own_mode != 2 && session.thread == thread,
            Mode::Relaxed => false,
        };
        if under_way && minded {
            session.invalidate();
            refused = true;
        }
    }
    if refused { Err(Error::CaptureUnsupported) } else { Ok(()) }
}

/// Sets the thread's mode and returns the one before.
///
/// # Errors
/// [`Error::InvalidValue`] for a number that is no mode.
pub fn exchange_thread_mode(number: u32) -> Outcome<u32> {
    Mode::from_number(number)?;
    Ok(THREAD_MODE.replace(number))
}

/// Records an event in a stream, capturing or not.
///
/// # Errors
/// Those of [`Stream::submit`].
pub fn record_event(stream: &Arc<Stream>, event: &Event) -> Outcome {
    if let Some(capture) = of(stream) {
        event.record_in_capture(Mark { session: capture.session, tail: capture.tail });
        return Ok(());
    }
    refuse_implicit(stream)?;
    event.record(stream.submit(Operation::Nothing, None)?);
    Ok(())
}

/// Lets a stream wait for an event. A stream that waits for a mark in a capture joins the capture.
///
/// # Errors
/// [`Error::CaptureMerge`] for a mark of another capture, [`Error::CaptureIsolation`] for an event outside of the
/// stream's capture.
pub fn wait_for_event(stream: &Arc<Stream>, event: &Event) -> Outcome {
    let mut own = stream.capture.lock().unwrap_or_else(PoisonError::into_inner);
    match (own.as_mut(), event.mark()) {
        (Some(capture), Some(mark)) if capture.session.id != mark.session.id => {
            capture.session.invalidate();
            mark.session.invalidate();
            Err(Error::CaptureMerge)
        }
        (Some(capture), Some(mark)) => {
            let new = mark.tail.into_iter().filter(|node| !capture.tail.contains(node)).collect::<Vec<u64>>();
            capture.tail.extend(new);
            Ok(())
        }
        (Some(capture), None) => match event.completion()? {
            None => Ok(()),
            Some(_) => {
                capture.session.invalidate();
                Err(Error::CaptureIsolation)
            }
        },
        (None, Some(mark)) => {
            if stream.role == super::stream::Role::Legacy {
                return Err(Error::CaptureImplicit);
            }
            mark.session.streams.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(stream));
            *own = Some(Capture { session: mark.session, tail: mark.tail, is_origin: false });
            Ok(())
        }
        (None, None) => {
            drop(own);
            if let Some(completion) = event.completion()? {
                stream.submit(Operation::Nothing, Some(completion))?;
            }
            Ok(())
        }
    }
}
