//! What a person asks for: texts, scores, pictures.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny.rs"]
mod tiny;

#[cfg(feature = "cli")]
mod capi;
#[cfg(feature = "cli")]
mod commands;
mod cuda;
mod generation;
mod parity;
mod pictures;
#[cfg(feature = "cli")]
mod program;
#[cfg(feature = "cli")]
mod resume;
mod stages;
