//! Weights in files: safetensors in and out, checkpoints, and what is in them.
//!
//! From the bottom up: [`atomic`] (files that are there completely or not at all), [`safetensors`] (tensors by name), [`checkpoint`] (a folder
//! with everything that training needs to go on), [`inspect`](mod@inspect) (tables of contents).

pub mod atomic;
pub mod checkpoint;
pub mod inspect;
pub mod safetensors;

pub use checkpoint::{Checkpoint, Moments, Parts, State};
pub use inspect::{Summary, inspect};
pub use safetensors::{LoadReport, Reader, load_into, save};
