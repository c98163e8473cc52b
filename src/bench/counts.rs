//! What the virtual GPU of `tests/vgpu` counts during a call: it has no time of its own worth measuring, but knows every byte.

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::Value;

use crate::device::Context;
use crate::error::{Error, Result};

/// The variable that names the virtual GPU's report: a line of JSON per launch.
pub const REPORT: &str = "VGPU_REPORT";

/// Sums over the launches of a call; the time and what bounds it are a model's of the described GPU.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counts {
    /// Kernels that were launched.
    pub launches: usize,
    /// Bytes between the L2 cache and the memory.
    pub dram_bytes: f64,
    /// Sectors of 32 bytes that warps asked for, as a multiple of what would do if every byte was used. 0 where the checks of memory are off.
    pub sectors: f64,
    /// Share of the cycles of shared memory that bank conflicts add.
    pub bank_conflicts: f64,
    /// Share of the time in which the tensor cores work.
    pub tensor_utilisation: f64,
    /// What bounds the launch that takes longest.
    pub bound: String,
}

/// The report as it grows.
pub(super) struct Report {
    path: PathBuf,
    read: u64,
}

/// Whether the context is on the virtual GPU, whose name says so.
pub fn is_virtual(cx: &Context) -> bool {
    cx.queue().is_some_and(|queue| queue.gpu().name().ends_with("(vgpu)"))
}

impl Report {
    /// That of the virtual GPU, if the context is on it and it writes one.
    pub fn of(cx: &Context) -> Option<Report> {
        let path: OsString = is_virtual(cx).then(|| std::env::var_os(REPORT)).flatten()?;
        let path = PathBuf::from(path);
        let read = std::fs::metadata(&path).map_or(0, |file| file.len());
        Some(Report { path, read })
    }

    /// What was launched since the last time; the context has been waited for.
    pub fn take(&mut self) -> Result<Counts> {
        let io = |source| Error::io(&self.path, source);
        let mut file = std::fs::File::open(&self.path).map_err(io)?;
        file.seek(SeekFrom::Start(self.read)).map_err(io)?;
        let mut text = String::new();
        self.read += file.read_to_string(&mut text).map_err(io)? as u64;
        let (mut counts, mut longest) = (Counts::default(), -1.0);
        let (mut sectors, mut ideal, mut cycles, mut lost, mut time, mut tensor) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        for line in text.lines() {
            let launch: Value = serde_json::from_str(line)
                .map_err(|e| Error::format(&self.path, format!("not a line of the virtual GPU: {e}")))?;
            let number = |key: &str| launch[key].as_f64().unwrap_or(0.0);
            counts.launches += 1;
            counts.dram_bytes += number("dram_bytes");
            sectors += number("load_sectors") + number("store_sectors");
            ideal += number("load_sectors_ideal") + number("store_sectors_ideal");
            cycles += number("shared_cycles");
            lost += number("bank_conflict_cycles");
            time += number("time_us");
            tensor += number("time_us") * number("tensor_utilisation");
            if number("time_us") > longest {
                longest = number("time_us");
                counts.bound = launch["bound"].as_str().unwrap_or_default().into();
            }
        }
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        counts.sectors = share(sectors, ideal);
        counts.bank_conflicts = share(lost, cycles);
        counts.tensor_utilisation = share(tensor, time);
        Ok(counts)
    }
}
