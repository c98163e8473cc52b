//! Launches of `cuda/posterior.cu`; see [`crate::ops::posterior`].

use super::params::{DeemPosteriorBackward, DeemPosteriorForward};
use super::{indexwise, input, kernel, optional_input, output, reduce, small, summing};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, View, ViewMut};

const OP: &str = "posterior";

/// Scaled latents.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    moments: View<'_, E>,
    noise: Option<View<'_, E>>,
    latents: ViewMut<'_, E>,
    scaling: f64,
) -> Result<()> {
    let shape = latents.shape();
    let params = DeemPosteriorForward {
        moments: input(cx, OP, "moments", moments)?,
        noise: optional_input(cx, OP, "noise", noise)?,
        latents: output(cx, OP, "latents", &latents)?,
        rows: shape.rows() as i64,
        z: small(OP, "the number of channels", shape.last())?,
        scaling: scaling as f32,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "posterior_forward"), indexwise(OP, shape.len())?, &params) }
}

/// Gradient of the moments; returns the divergence.
pub(crate) fn backward<E: Element>(
    cx: &Context,
    moments: View<'_, E>,
    noise: View<'_, E>,
    d_latents: View<'_, E>,
    d_moments: ViewMut<'_, E>,
    scaling: f64,
    weight: f64,
) -> Result<Scalar> {
    let shape = d_latents.shape();
    let geometry = summing(OP, shape.len())?;
    let mut partial = cx.uninit::<f64>([geometry.blocks[0] as usize])?;
    let params = DeemPosteriorBackward {
        moments: input(cx, OP, "moments", moments)?,
        noise: input(cx, OP, "noise", noise)?,
        d_latents: input(cx, OP, "d_latents", d_latents)?,
        d_moments: output(cx, OP, "d_moments", &d_moments)?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        rows: shape.rows() as i64,
        z: small(OP, "the number of channels", shape.last())?,
        scaling: scaling as f32,
        weight: weight as f32,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names; every block has a partial sum.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "posterior_backward"), geometry, &params)? };
    reduce::total(cx, OP, partial.view())
}
