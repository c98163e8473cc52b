//! Device memory.

/// Device memory.
#[derive(Debug)]
pub struct Memory {}
