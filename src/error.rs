//! The one error type of the library. Every message names the thing, what was expected, what was found, and,
//! where there is one, the remedy.

use std::path::PathBuf;

/// Everything that can go wrong in the library. The command-line program turns any of these into exit code 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument of an op or block has a shape that the op's contract does not allow.
    #[error("{op}: `{what}` has shape {found}, expected {expected}")]
    Shape { op: &'static str, what: &'static str, expected: String, found: String },

    /// An argument has a value outside the legal domain that the op or function documents.
    #[error("{op}: {reason}")]
    Domain { op: &'static str, reason: String },

    /// A tensor that a model needs is not in the file it was looked for in.
    #[error("tensor `{name}` is missing from {path} (expected shape {expected})")]
    MissingTensor { name: String, path: PathBuf, expected: String },

    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },

    /// A file was read, but its content is not what it should be.
    #[error("{path}: {reason}")]
    Format { path: PathBuf, reason: String },

    /// A configuration key or value is unknown or contradicts another.
    #[error("config: {0}")]
    Config(String),

    /// The requested device cannot be used.
    #[error("device {device}: {reason}")]
    Device { device: String, reason: String },

    /// Memory ran out.
    #[error(
        "out of memory: {wanted} bytes wanted for {what}, arena holds {reserved} bytes of which {in_use} are in use"
    )]
    OutOfMemory { what: &'static str, wanted: usize, reserved: usize, in_use: usize },

    /// A training stage does not fit into memory.
    #[error(
        "{source}. Stage `{stage}` needs {plan}. Less: --set run.keep=input, --set run.dtype=bf16, or --set stages.{stage}.batch=N with a smaller N \
         (and a larger accumulate)"
    )]
    PlanTooLarge { stage: String, plan: String, source: Box<Error> },

    /// The work was stopped from outside (Ctrl-C) after its state had been saved.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// An [`Error::Format`] for `path`.
    pub fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Error::Format { path: path.into(), reason: reason.into() }
    }
}
