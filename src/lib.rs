//! deem: DEEM (arXiv 2405.15232) as a low-level library. The crate documentation is completed with the first model.

pub mod bench;
pub mod blocks;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod device;
pub mod dtype;
pub mod error;
pub mod eval;
pub mod host;
pub mod infer;
pub mod interrupt;
pub mod memory;
pub mod models;
pub mod ops;
pub mod params;
pub mod parity;
pub mod train;
pub mod weights;

pub use device::{Context, Device};
pub use error::{Error, Result};
pub use interrupt::Interrupt;
