//! Ctrl-C: the first asks a job to save and stop, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that a job polls between its steps. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// A flag that nothing but [`Interrupt::set`] sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag that Ctrl-C (on Unix also SIGTERM and SIGHUP) sets. The second one ends the process with exit code 130.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] if the process has a handler already.
    #[cfg(feature = "cli")]
    pub fn on_ctrl_c() -> crate::Result<Self> {
        let interrupt = Self::new();
        let flag = interrupt.clone();
        let handler = move || {
            if flag.set() {
                std::process::exit(130);
            }
        };
        ctrlc::set_handler(handler)
            .map_err(|e| crate::Error::Domain { op: "interrupt", reason: format!("Ctrl-C cannot be caught: {e}") })?;
        Ok(interrupt)
    }

    /// Asks the job to stop; tells whether it had been asked before.
    pub fn set(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Whether the job has been asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_flag() {
        let a = Interrupt::new();
        let b = a.clone();
        assert!(!b.is_set());
        assert!(!a.set() && b.is_set() && b.set());
    }
}
