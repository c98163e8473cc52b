//! What runs the program's work: streams, events, graphs.
//!
//! * [`completion`]: the end of a piece of work.
//! * [`stream`]: work in order, in threads of its own.
//! * [`event`]: a mark in a stream.
//! * [`operation`]: what can be done; [`kernel`]: a launch.
//! * [`graph`]: operations with dependencies; [`capture`]: a stream that records a graph instead of working.

pub mod capture;
pub mod completion;
pub mod event;
pub mod graph;
pub mod kernel;
pub mod operation;
pub mod stream;
