//! The one GPU of the process: memory, machine and settings, made by `cuInit`.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::config::{Clock, Config};
use super::errors::{Error, Outcome};
use crate::checks::{Finding, Kind};
use crate::memory::{self, Allocation, Memory};

/// Everything that contexts share.
pub struct Gpu {
    /// What the environment asked for.
    pub config: Config,
    /// Device memory.
    pub memory: Memory,
    /// When `cuInit` ran; wall time counts from there.
    started: Instant,
    report: Option<Mutex<File>>,
}

static GPU: OnceLock<Outcome<Gpu>> = OnceLock::new();

/// The GPU.
///
/// # Errors
/// [`Error::NotInitialized`] before `cuInit`, and the reason why `cuInit` failed after that.
pub fn gpu() -> Outcome<&'static Gpu> {
    match GPU.get() {
        None => Err(Error::NotInitialized),
        Some(Ok(gpu)) => Ok(gpu),
        Some(Err(error)) => Err(*error),
    }
}

/// Makes the GPU if there is none yet.
///
/// # Errors
/// [`Error::InvalidValue`] for a variable that cannot be read, [`Error::OutOfMemory`] when the system gives no
/// addresses; the story is on standard error.
pub fn initialise() -> Outcome {
    GPU.get_or_init(|| {
        let config = Config::read(|name| std::env::var(name).ok()).map_err(|problem| {
            eprintln!("vgpu: {problem}");
            Error::InvalidValue
        })?;
        let gpu = Gpu::new(config)?;
        // SAFETY: a plain function that takes and returns nothing; it may be called after `main` has returned.
        unsafe { libc::atexit(at_exit) };
        Ok(gpu)
    })
    .as_ref()
    .map(|_| ())
    .map_err(|error| *error)
}

impl Gpu {
    fn new(config: Config) -> Outcome<Gpu> {
        let memory = Memory::new(config.machine.memory_bytes).map_err(|problem| {
            eprintln!("vgpu: {problem}; VGPU_MEMORY makes it smaller");
            Error::OutOfMemory
        })?;
        let report = match &config.report {
            None => None,
            Some(path) => {
                Some(Mutex::new(File::options().create(true).append(true).open(path).map_err(|problem| {
                    eprintln!("vgpu: VGPU_REPORT is `{}`: {problem}", path.display());
                    Error::InvalidValue
                })?))
            }
        };
        Ok(Gpu { config, memory, started: Instant::now(), report })
    }

    /// Nanoseconds since `cuInit`.
    pub fn wall_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Whether a report is written.
    pub fn reports(&self) -> bool {
        self.report.is_some()
    }

    /// Whether times come from the throughput model.
    pub fn modelled_time(&self) -> bool {
        self.config.clock == Clock::Modelled
    }

    /// Adds a line to the report.
    pub fn write_report(&self, line: &str) {
        if let Some(report) = &self.report {
            let mut file = report.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not change what the program computes.
            let _ = writeln!(file, "{line}");
        }
    }
}

/// Tells what happened on standard error.
pub fn tell(finding: &Finding) {
    eprintln!("{finding}");
}

/// What is still there when the process ends.
extern "C" fn at_exit() {
    let _ = std::panic::catch_unwind(|| {
        let Ok(gpu) = gpu() else { return };
        tell_leaks(gpu, &gpu.memory.live(), "when the process ended");
    });
}

/// Tells of allocations that should have been freed before now, if that is checked: one finding for all of them.
pub fn tell_leaks(gpu: &Gpu, live: &[Allocation], when: &str) {
    const SHOWN: usize = 8;
    let is_leak = |allocation: &&Allocation| !matches!(allocation.kind, memory::Kind::Variable(_));
    let leaked: Vec<&Allocation> = live.iter().filter(is_leak).collect();
    if leaked.is_empty() || !gpu.config.settings.checks.leaks {
        return;
    }
    let bytes: u64 = leaked.iter().map(|allocation| allocation.bytes).sum();
    let named: Vec<String> = leaked.iter().take(SHOWN).map(|allocation| allocation.to_string()).collect();
    let rest = leaked.len().saturating_sub(SHOWN);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let detail = format!("{bytes} bytes were still allocated {when}: {}{more}", named.join(", "));
    tell(&Finding::outside(Kind::Leak, detail));
}
