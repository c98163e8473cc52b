//! Launches of `cuda/timestep_embedding.cu`; see [`crate::ops::timestep_embedding`].

use super::params::DeemTimestepEmbeddingForward;
use super::{indexwise, input, kernel, output, small};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::ViewMut;

const OP: &str = "timestep_embedding";

/// One row of elements per timestep.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    timesteps: &[f64],
    y: ViewMut<'_, E>,
    flip_sin_to_cos: bool,
    freq_shift: f64,
) -> Result<()> {
    let (n, cols) = (y.shape().len(), y.shape().last());
    let half = cols / 2;
    let timesteps: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
    // Exponent and frequency are each rounded to f32, as on the host.
    let exponent = |k: usize| -10000f64.ln() as f32 * k as f32 / (half as f64 - freq_shift) as f32;
    let frequency: Vec<f32> = (0..half).map(|k| f64::from(exponent(k)).exp() as f32).collect();
    let rows = timesteps.len() as i64;
    let (timesteps, frequency) = (cx.tensor([timesteps.len()], &timesteps)?, cx.tensor([half], &frequency)?);
    let params = DeemTimestepEmbeddingForward {
        timesteps: input(cx, OP, "timesteps", timesteps.view())?,
        frequency: input(cx, OP, "frequencies", frequency.view())?,
        y: output(cx, OP, "y", &y)?,
        rows,
        cols: small(OP, "the number of channels", cols)?,
        flip: i32::from(flip_sin_to_cos),
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "timestep_embedding_forward"), indexwise(OP, n)?, &params) }
}
