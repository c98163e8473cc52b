//! `deem bench`: each op timed, and what share of the machine's rates it reaches.

use std::fmt;
use std::time::{Duration, Instant};

use super::Ceilings;
use super::cases::{Call, Case, cases};
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
    /// One per case.
    pub ops: Vec<OpTime>,
}

impl fmt::Display for OpTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ceilings { gflops, gbytes } = self.ceilings;
        writeln!(f, "{}, {}; ceilings {gflops:.0} GFLOP/s, {gbytes:.1} GB/s", self.device, self.dtype)?;
        writeln!(f, "{:32} {:44} {:>10} {:>9} {:>8} {:>7}  bound", "op", "shape", "us", "GFLOP/s", "GB/s", "%")?;
        for t in &self.ops {
            let rate = if t.flops > 0.0 { format!("{:.1}", t.gflops) } else { "-".into() };
            writeln!(
                f,
                "{:32} {:44} {:10.1} {rate:>9} {:8.1} {:7.1}  {}",
                t.op, t.shape, t.median_us, t.gbytes, t.percent, t.bound
            )?;
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
    let mut ops = Vec::new();
    for Case { op, shape, make } in all {
        told(&format!("{op} {shape}"));
        let mut call = make()?;
        // Once for caches, scratch and the pages of outputs.
        (call.run)()?;
        let (start, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < LEAST || start.elapsed() < ENOUGH {
            seconds.push(seconds_of(cx, &mut call)?);
        }
        seconds.sort_by(f64::total_cmp);
        ops.push(OpTime::new(op, shape, &call, &seconds, &ceilings));
    }
    let device = match cx.queue() {
        Some(queue) => format!("{}, {}", cx.device(), queue.gpu().name()),
        None => format!("host, {} threads", cx.pool().threads()),
    };
    Ok(OpTimes { device, dtype: E::DTYPE, ceilings, ops })
}
