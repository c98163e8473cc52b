//! Findings.

/// What a launch checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Every check at once.
    pub on: bool,
}

/// One thing that a kernel did wrong.
#[derive(Debug, Clone)]
pub struct Finding {}
