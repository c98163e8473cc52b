//! `deem bench`: each op timed, and what share of the machine's rates it reaches.

use std::fmt;
use std::time::{Duration, Instant};

use super::Ceilings;
use super::cases::{Call, Case, cases};
use super::counts::{Counts, Report, is_virtual};
use crate::device::Context;
use crate::device::cuda::Event;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

/// Each case is repeated for so long, and at least [`LEAST`] times.
const ENOUGH: Duration = Duration::from_millis(150);
const LEAST: usize = 5;

/// The time of one case.
#[derive(Clone, Debug, serde::Serialize)]
pub struct OpTime {
    /// Op and function.
    pub op: String,
    /// Sizes.
    pub shape: String,
    /// Median of the repeats, microseconds.
    pub median_us: f64,
    /// Fastest repeat, microseconds.
    pub fastest_us: f64,
    /// Repeats.
    pub repeats: usize,
    /// Floating-point operations of a call.
    pub flops: f64,
    /// Bytes that a call must at least move.
    pub bytes: f64,
    /// GFLOP/s at the median.
    pub gflops: f64,
    /// GB/s at the median, counting only bytes that must move.
    pub gbytes: f64,
    /// Which ceiling is the lower one at this many operations per byte: `compute` or `memory`.
    pub bound: &'static str,
    /// Share of that ceiling, per cent. Above 100 where data stays in caches.
    pub percent: f64,
    /// On the virtual GPU, with its report: what it counted. The times are modelled then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

impl OpTime {
    /// From the seconds of each repeat, sorted.
    fn new(op: String, shape: String, case: &Call<'_>, sorted: &[f64], ceilings: &Ceilings) -> Self {
        let median = sorted[sorted.len() / 2];
        let (gflops, gbytes) = (case.flops / median * 1e-9, case.bytes / median * 1e-9);
        let compute = case.flops / ceilings.gflops >= case.bytes / ceilings.gbytes;
        let share = if compute { gflops / ceilings.gflops } else { gbytes / ceilings.gbytes };
        OpTime {
            op,
            shape,
            median_us: median * 1e6,
            fastest_us: sorted[0] * 1e6,
            repeats: sorted.len(),
            flops: case.flops,
            bytes: case.bytes,
            gflops,
            gbytes,
            bound: if compute { "compute" } else { "memory" },
            percent: 100.0 * share,
            counts: None,
        }
    }
}

/// What `deem bench` prints.
#[derive(Clone, Debug, serde::Serialize)]
pub struct OpTimes {
    /// Where it ran: the host and its threads, or the GPU's name.
    pub device: String,
    /// Storage type.
    pub dtype: DType,
    /// What the machine gives.
    pub ceilings: Ceilings,
    /// Whether the device is the virtual GPU: times are those of its model, not measured.
    pub modelled: bool,
    /// Where the kernels of each op came from, on a GPU: machine code or PTX.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<(&'static str, String)>,
    /// One per case.
    pub ops: Vec<OpTime>,
}

impl fmt::Display for OpTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ceilings { gflops, gbytes } = self.ceilings;
        writeln!(f, "{}, {}; ceilings {gflops:.0} GFLOP/s, {gbytes:.1} GB/s", self.device, self.dtype)?;
        if self.modelled {
            writeln!(
                f,
                "the virtual GPU: times are modelled; DRAM is counted, as a multiple of the bytes that must move"
            )?;
        }
        write!(f, "{:32} {:44} {:>10} {:>9} {:>8} {:>7}  {:7}", "op", "shape", "us", "GFLOP/s", "GB/s", "%", "bound")?;
        if self.ops.iter().any(|t| t.counts.is_some()) {
            write!(
                f,
                " {:>8} {:>6} {:>7} {:>9} {:>6}  modelled bound",
                "launches", "DRAM", "sectors", "conflicts", "tensor"
            )?;
        }
        writeln!(f)?;
        for t in &self.ops {
            let rate = if t.flops > 0.0 { format!("{:.1}", t.gflops) } else { "-".into() };
            write!(
                f,
                "{:32} {:44} {:10.1} {rate:>9} {:8.1} {:7.1}  {:7}",
                t.op, t.shape, t.median_us, t.gbytes, t.percent, t.bound
            )?;
            if let Some(c) = &t.counts {
                let (dram, lost, tensor) =
                    (c.dram_bytes / t.bytes, 100.0 * c.bank_conflicts, 100.0 * c.tensor_utilisation);
                write!(f, " {:8} {dram:6.2} {:7.2} {lost:7.1} % {tensor:4.0} %  {}", c.launches, c.sectors, c.bound)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// One call: by the clock of the host, or of the device where there is one.
fn seconds_of(cx: &Context, call: &mut Call<'_>) -> Result<f64> {
    let Some(queue) = cx.queue() else {
        let start = Instant::now();
        (call.run)()?;
        return Ok(start.elapsed().as_secs_f64());
    };
    let start = Event::record(queue)?;
    (call.run)()?;
    Ok(Event::record(queue)?.milliseconds_since(&start)? * 1e-3)
}

/// Times the cases whose name contains `filter`; `told` hears each name before its turn.
///
/// # Errors
/// [`Error::Config`] if no case has such a name; [`Error::OutOfMemory`].
pub fn ops<E: Element>(cx: &Context, filter: &str, mut told: impl FnMut(&str)) -> Result<OpTimes> {
    let mut all = cases::<E>(cx);
    let mut names: Vec<String> = all.iter().map(|case| case.op.clone()).collect();
    all.retain(|case| case.op.contains(filter));
    if all.is_empty() {
        names.sort();
        names.dedup();
        let text = format!("no op's name contains `{filter}`; there are {}", names.join(", "));
        return Err(Error::Config(text));
    }
    let ceilings = Ceilings::of(cx, E::DTYPE);
    let modelled = is_virtual(cx);
    let mut ops = Vec::new();
    for Case { op, shape, make } in all {
        told(&format!("{op} {shape}"));
        let mut call = make()?;
        let (start, mut seconds, mut counts) = (Instant::now(), Vec::new(), None);
        if modelled {
            // The same in every repeat.
            cx.synchronize()?;
            let mut report = Report::of(cx);
            seconds.push(seconds_of(cx, &mut call)?);
            counts = report.as_mut().map(Report::take).transpose()?;
        } else {
            // Once for caches, scratch and the pages of outputs.
            (call.run)()?;
        }
        while !modelled && (seconds.len() < LEAST || start.elapsed() < ENOUGH) {
            seconds.push(seconds_of(cx, &mut call)?);
        }
        seconds.sort_by(f64::total_cmp);
        ops.push(OpTime { counts, ..OpTime::new(op, shape, &call, &seconds, &ceilings) });
    }
    let device = match cx.queue() {
        Some(queue) => format!("{}, {}", cx.device(), queue.gpu().name()),
        None => format!("host, {} threads", cx.pool().threads()),
    };
    let kernels = cx.queue().map(|queue| queue.gpu().kernel_origins()).unwrap_or_default();
    Ok(OpTimes { device, dtype: E::DTYPE, ceilings, modelled, kernels, ops })
}
