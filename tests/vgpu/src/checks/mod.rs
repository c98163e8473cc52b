//! What is checked, and how a finding reads.
//!
//! A check is something that a GPU would let pass or would punish without a word. [`Checks`] says which are on
//! (`VGPU_CHECKS`), a [`Finding`] is one fault with everything that is known about it.

mod finding;
mod flags;

pub use finding::{Finding, Kind, Place, Source, Space};
pub use flags::{Checks, FlagError};
