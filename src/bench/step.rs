//! `deem bench step`: the time of one optimiser step on a recorded batch.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use crate::blocks::Pass;
use crate::device::{Context, Graphs};
use crate::dtype::Element;
use crate::error::Result;
use crate::models::deem::Mode;
use crate::ops::adamw::{AdamW, Group};
use crate::params::Grads;
use crate::parity::{self, Fixture, Loaded};
use crate::train::step::{self, Optimizer};

/// The times of one optimiser step, repeated.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepTimes {
    /// Milliseconds of each repeat, in order.
    pub times_ms: Vec<f64>,
    /// Loss of the first step: shows that work was done.
    pub loss: f64,
    /// Most bytes of activations in use at once.
    pub activation_bytes: usize,
    /// Bytes of parameters, gradients and moments.
    pub state_bytes: usize,
}

impl StepTimes {
    /// Median of the times.
    pub fn median_ms(&self) -> f64 {
        let mut sorted = self.times_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }
}

impl fmt::Display for StepTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
        let ends = self.times_ms.iter().fold((f64::INFINITY, 0f64), |(a, b), &t| (a.min(t), b.max(t)));
        writeln!(f, "{} steps, fastest {:.1} ms, slowest {:.1} ms", self.times_ms.len(), ends.0, ends.1)?;
        let (activations, state) = (mib(self.activation_bytes), mib(self.state_bytes));
        writeln!(
            f,
            "activations {activations:.1} MiB, parameters and their state {state:.1} MiB, loss {:.6}",
            self.loss
        )?;
        write!(f, "{:.1} ms", self.median_ms())
    }
}

/// Times one optimiser step (forward, backward, clip, AdamW) with storage type `E` on the batch of a recorded directory. The first step, which
/// reserves memory, is not counted.
///
/// # Errors
/// As [`parity::load`].
pub fn step<E: Element>(cx: &Context, dir: &Path, repeats: usize) -> Result<StepTimes> {
    let fixture = Fixture::open(dir)?;
    let Loaded { model, params } = parity::load::<E>(&fixture)?;
    let (inputs, _) = parity::inputs(&fixture, &model.config)?;
    let draws = parity::draws(&fixture, &model.config, inputs.num_images(), "draw")?;
    drop(fixture);
    let groups = [Group { start: 0, len: params.trainable().len(), lr: 1e-4, weight_decay: 0.05 }];
    let hyper = AdamW { beta1: 0.9, beta2: 0.995, eps: 1e-6 };
    let mut optimizer = Optimizer::new(&params, hyper, 1.0).on(cx)?;
    let mut params = params.on(cx)?;
    let mut grads = Grads::on(params.table(), cx)?;
    let mut graphs = Graphs::new();
    let (mut times_ms, mut loss) = (Vec::new(), None);
    for _ in 0..=repeats {
        let start = Instant::now();
        let _range = cx.range("training step");
        let found = graphs.run(cx, || {
            grads.clear()?;
            let pass = Pass::new(cx, &params);
            let out = model.forward(&pass, &inputs, &draws, Mode::Train)?;
            model.backward(&pass, &mut grads, out.saved)?;
            drop(out.hidden);
            let norm = optimizer.update(cx, &mut params, &grads, &groups, 1.0, 1)?;
            Ok([out.losses.total, norm])
        })?;
        let found = cx.values(&found)?;
        step::norm(found[1])?;
        loss = loss.or(Some(found[0]));
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.remove(0);
    let state_bytes = optimizer.state_bytes(&params).iter().sum();
    let activation_bytes = cx.arena().stats().peak_bytes;
    Ok(StepTimes { times_ms, loss: loss.unwrap_or(0.0), activation_bytes, state_bytes })
}
