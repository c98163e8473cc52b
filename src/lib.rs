//! deem: DEEM (arXiv 2405.15232) as a low-level library. The crate documentation is completed with the first model.
pub mod data;
pub mod error;
pub mod eval;
pub use error::{Error, Result};
