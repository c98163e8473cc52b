//! Asynchronous copies between issue and wait.

/// Copies of a warp that are not visible yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {}

impl Pending {
    /// Forgets all.
    pub fn clear(&mut self) {}
}
