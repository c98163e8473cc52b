//! Launches of `cuda/layernorm.cu`; see [`crate::ops::layernorm`].

use super::params::{DeemLayernormBackwardInput, DeemLayernormBackwardWeight, DeemLayernormForward};
use super::{Slices, by_dtype, input, optional_input, optional_output, output, reduce, rows, small};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Tensor, View, ViewMut};

const OP: &str = "layernorm";

/// Forward over rows: y and the statistics.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: Option<View<'_, E>>,
    bias: Option<View<'_, E>>,
    y: ViewMut<'_, E>,
    stats: ViewMut<'_, E::Acc>,
    eps: f64,
) -> Result<()> {
    let kernel = by_dtype::<E>(cx, OP, "layernorm_forward_f32", "layernorm_forward_bf16")?;
    let (r, c) = (x.shape().rows(), x.shape().last());
    let params = DeemLayernormForward {
        x: input(cx, OP, "x", x)?,
        weight: optional_input(cx, OP, "weight", weight)?,
        bias: optional_input(cx, OP, "bias", bias)?,
        y: output(cx, OP, "y", &y)?,
        stats: output(cx, OP, "stats", &stats)?,
        rows: r as i64,
        cols: small(OP, "the number of columns", c)?,
        eps: eps as f32,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, rows(OP, r, c)?, &params) }
}

/// Backward over rows: dx is overwritten, dw and db are added to.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: Option<View<'_, E>>,
    stats: View<'_, E::Acc>,
    dy: View<'_, E>,
    residual: Option<View<'_, E>>,
    dx: ViewMut<'_, E>,
    dw: Option<ViewMut<'_, E::Acc>>,
    db: Option<ViewMut<'_, E::Acc>>,
) -> Result<()> {
    let kernel = by_dtype::<E>(cx, OP, "layernorm_backward_input_f32", "layernorm_backward_input_bf16")?;
    let (r, c) = (x.shape().rows(), x.shape().last());
    let cols = small(OP, "the number of columns", c)?;
    let (x, stats, dy) = (input(cx, OP, "x", x)?, input(cx, OP, "stats", stats)?, input(cx, OP, "dy", dy)?);
    let params = DeemLayernormBackwardInput {
        x,
        weight: optional_input(cx, OP, "weight", weight)?,
        stats,
        dy,
        residual: optional_input(cx, OP, "residual", residual)?,
        dx: output(cx, OP, "dx", &dx)?,
        rows: r as i64,
        cols,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, rows(OP, r, c)?, &params)? };
    if dw.is_none() && db.is_none() {
        return Ok(());
    }
    let kernel = by_dtype::<E>(cx, OP, "layernorm_backward_weight_f32", "layernorm_backward_weight_bf16")?;
    let slices = Slices::of(r);
    let mut partial_dw = dw.as_ref().map(|_| slices.partial(cx, c)).transpose()?;
    let mut partial_db = db.as_ref().map(|_| slices.partial(cx, c)).transpose()?;
    let params = DeemLayernormBackwardWeight {
        x,
        stats,
        dy,
        partial_dw: optional_output(cx, OP, "partial dw", partial_dw.as_mut().map(Tensor::view_mut).as_ref())?,
        partial_db: optional_output(cx, OP, "partial db", partial_db.as_mut().map(Tensor::view_mut).as_ref())?,
        rows: r as i64,
        rows_per_slice: slices.rows_per_slice as i64,
        cols,
        padding: 0,
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel, slices.geometry(OP, c)?, &params)? };
    for (partial, out) in [(&partial_dw, dw), (&partial_db, db)] {
        if let (Some(partial), Some(out)) = (partial, out) {
            reduce::add_slices(cx, OP, partial.view(), &out)?;
        }
    }
    Ok(())
}
