//! `deem bench`: timings that a person can repeat. Every op at sizes of the full model ([`ops`]), as a share of what the machine gives ([`Ceilings`]); one
//! optimiser step on a recorded batch ([`step`]). `cargo bench --bench ops` runs the same [`cases`] under criterion.

pub mod cases;
mod ceilings;
mod counts;
mod ops;
#[cfg(feature = "cli")]
mod roofline;
mod step;

pub use ceilings::Ceilings;
pub use counts::{Counts, REPORT, is_virtual};
pub use ops::{OpTime, OpTimes, ops};
#[cfg(feature = "cli")]
pub use roofline::draw;
pub use step::{StepTimes, step};
