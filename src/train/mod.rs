//! Training.
pub mod step;
