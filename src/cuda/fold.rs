//! Launches of `cuda/fold.cu`; see [`crate::ops::fold`].

use super::params::{DeemFoldBackwardNorm, DeemFoldBackwardWeight, DeemFoldForward};
use super::{Slices, input, kernel, optional_output, output, reduce, rows, small};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Tensor, View, ViewMut};
use crate::ops::fold::{Gradients, Layers};

const OP: &str = "fold";

/// Weight and bias of the folded layer.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    x: Layers<'_, E>,
    weight: ViewMut<'_, E>,
    bias: ViewMut<'_, E>,
) -> Result<()> {
    let (o, c) = (x.weight.shape()[0], x.weight.shape()[1]);
    let params = DeemFoldForward {
        gamma: input(cx, OP, "gamma", x.gamma)?,
        beta: input(cx, OP, "beta", x.beta)?,
        weight: input(cx, OP, "weight", x.weight)?,
        bias: input(cx, OP, "bias", x.bias)?,
        to_weight: output(cx, OP, "folded weight", &weight)?,
        to_bias: output(cx, OP, "folded bias", &bias)?,
        rows: o as i64,
        cols: small(OP, "the number of columns", c)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "fold_forward"), rows(OP, o, c)?, &params) }
}

/// Adds the gradients of gamma, beta, weight and bias.
pub(crate) fn backward<E: Element>(
    cx: &Context,
    x: Layers<'_, E>,
    d_weight: View<'_, E::Acc>,
    d_bias: View<'_, E::Acc>,
    to: Gradients<'_, E::Acc>,
) -> Result<()> {
    let (o, c) = (x.weight.shape()[0], x.weight.shape()[1]);
    let cols = small(OP, "the number of columns", c)?;
    let (d_weight, d_bias) = (input(cx, OP, "d_weight", d_weight)?, input(cx, OP, "d_bias", d_bias)?);
    let params = DeemFoldBackwardWeight {
        gamma: input(cx, OP, "gamma", x.gamma)?,
        beta: input(cx, OP, "beta", x.beta)?,
        d_weight,
        d_bias,
        to_weight: optional_output(cx, OP, "gradient of weight", to.weight.as_ref())?,
        to_bias: optional_output(cx, OP, "gradient of bias", to.bias.as_ref())?,
        rows: o as i64,
        cols,
        padding: 0,
    };
    if to.weight.is_some() || to.bias.is_some() {
        // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
        unsafe { cx.launch(OP, kernel!(E, cx, OP, "fold_backward_weight"), rows(OP, o, c)?, &params)? };
    }
    if to.gamma.is_none() && to.beta.is_none() {
        return Ok(());
    }
    let slices = Slices::of(o);
    let mut gamma = to.gamma.as_ref().map(|_| slices.partial(cx, c)).transpose()?;
    let mut beta = to.beta.as_ref().map(|_| slices.partial(cx, c)).transpose()?;
    let params = DeemFoldBackwardNorm {
        weight: input(cx, OP, "weight", x.weight)?,
        d_weight,
        d_bias,
        partial_gamma: optional_output(cx, OP, "partial gamma", gamma.as_mut().map(Tensor::view_mut).as_ref())?,
        partial_beta: optional_output(cx, OP, "partial beta", beta.as_mut().map(Tensor::view_mut).as_ref())?,
        rows: o as i64,
        rows_per_slice: slices.rows_per_slice as i64,
        cols,
        padding: 0,
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "fold_backward_norm"), slices.geometry(OP, c)?, &params)? };
    for (partial, to) in [(gamma, to.gamma), (beta, to.beta)] {
        if let (Some(partial), Some(to)) = (partial, to) {
            reduce::add_slices(cx, OP, partial.view(), &to)?;
        }
    }
    Ok(())
}
