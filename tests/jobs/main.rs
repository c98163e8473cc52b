//! What a person asks for: texts, scores, pictures.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny.rs"]
mod tiny;

mod generation;
mod parity;
mod pictures;
