//! Launches of `cuda/diffusion.cu`; see [`crate::ops::diffusion`].

use super::params::{DeemDiffusionGuide, DeemDiffusionMix, DeemDiffusionStep};
use super::{indexwise, input, kernel, optional_input, output, pointwise};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops::diffusion::Step;

const OP: &str = "diffusion";

/// out = a z + b noise, with (a, b) of each image.
pub(crate) fn mix<E: Element>(
    cx: &Context,
    z: View<'_, E>,
    noise: View<'_, E>,
    factors: &[(f64, f64)],
    out: ViewMut<'_, E>,
) -> Result<()> {
    let n = z.shape().len();
    let table: Vec<f32> = factors.iter().flat_map(|&(a, b)| [a as f32, b as f32]).collect();
    let table = cx.tensor::<f32>([factors.len(), 2], &table)?;
    let params = DeemDiffusionMix {
        z: input(cx, OP, "z", z)?,
        noise: input(cx, OP, "noise", noise)?,
        factors: input(cx, OP, "factors", table.view())?,
        out: output(cx, OP, "output", &out)?,
        n: n as i64,
        per_image: (n / factors.len()) as i64,
    };
    // SAFETY: the kernel's own struct; three arrays of n elements, and two factors per image.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "diffusion_mix"), pointwise::<E>(OP, n)?, &params) }
}

/// See [`crate::ops::diffusion::guide`].
pub(crate) fn guide<E: Element>(
    cx: &Context,
    prediction: View<'_, E>,
    scale: f64,
    guided: ViewMut<'_, E>,
) -> Result<()> {
    let n = guided.shape().len();
    let params = DeemDiffusionGuide {
        prediction: input(cx, OP, "prediction", prediction)?,
        guided: output(cx, OP, "guided", &guided)?,
        n: n as i64,
        scale: scale as f32,
        padding: 0,
    };
    // SAFETY: the kernel's own struct; 2 n elements in, n out.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "diffusion_guide"), pointwise::<E>(OP, n)?, &params) }
}

/// See [`crate::ops::diffusion::step_forward`].
pub(crate) fn step<E: Element>(
    cx: &Context,
    step: &Step,
    prediction: View<'_, E>,
    guidance: Option<f64>,
    noise: Option<View<'_, E>>,
    x: ViewMut<'_, E>,
    x0: ViewMut<'_, E>,
) -> Result<()> {
    let n = x.shape().len();
    let params = DeemDiffusionStep {
        prediction: input(cx, OP, "prediction", prediction)?,
        noise: optional_input(cx, OP, "noise", noise.filter(|_| step.noise != 0.0))?,
        x: output(cx, OP, "x", &x)?,
        x0: output(cx, OP, "x0", &x0)?,
        n: n as i64,
        guided: i32::from(guidance.is_some()),
        guidance: guidance.unwrap_or(1.0) as f32,
        from_x: step.from_x as f32,
        from_prediction: step.from_prediction as f32,
        x_factor: step.x_factor as f32,
        x0_factor: step.x0_factor as f32,
        previous: step.previous as f32,
        noise_factor: step.noise as f32,
    };
    // SAFETY: the kernel's own struct; n elements each, twice as many predictions if they are guided.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "diffusion_step"), indexwise(OP, n)?, &params) }
}
