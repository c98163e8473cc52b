//! Launches of `cuda/rmsnorm.cu`; see [`crate::ops::rmsnorm`].

use super::params::{DeemRmsnormBackwardInput, DeemRmsnormBackwardWeight, DeemRmsnormForward};
use super::{Slices, input, kernel, optional_input, output, reduce, rows, small};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: &str = "rmsnorm";

/// Forward over rows: y and rstd.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    y: ViewMut<'_, E>,
    rstd: ViewMut<'_, E::Acc>,
    eps: f64,
) -> Result<()> {
    let (r, c) = (x.shape().rows(), x.shape().last());
    let params = DeemRmsnormForward {
        x: input(cx, OP, "x", x)?,
        weight: input(cx, OP, "weight", weight)?,
        y: output(cx, OP, "y", &y)?,
        rstd: output(cx, OP, "rstd", &rstd)?,
        rows: r as i64,
        cols: small(OP, "the number of columns", c)?,
        eps: eps as f32,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "rmsnorm_forward"), rows(OP, r, c)?, &params) }
}

/// Backward over rows: dx is overwritten, dw is added to.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    rstd: View<'_, E::Acc>,
    dy: View<'_, E>,
    residual: Option<View<'_, E>>,
    dx: ViewMut<'_, E>,
    dw: Option<ViewMut<'_, E::Acc>>,
) -> Result<()> {
    let (r, c) = (x.shape().rows(), x.shape().last());
    let cols = small(OP, "the number of columns", c)?;
    let (x, rstd, dy) = (input(cx, OP, "x", x)?, input(cx, OP, "rstd", rstd)?, input(cx, OP, "dy", dy)?);
    let (weight, dx) = (input(cx, OP, "weight", weight)?, output(cx, OP, "dx", &dx)?);
    let residual = optional_input(cx, OP, "residual", residual)?;
    let params = DeemRmsnormBackwardInput { x, weight, rstd, dy, residual, dx, rows: r as i64, cols, padding: 0 };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "rmsnorm_backward_input"), rows(OP, r, c)?, &params)? };
    let Some(dw) = dw else { return Ok(()) };
    let slices = Slices::of(r);
    let mut partial = slices.partial(cx, c)?;
    let params = DeemRmsnormBackwardWeight {
        x,
        rstd,
        dy,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        rows: r as i64,
        rows_per_slice: slices.rows_per_slice as i64,
        cols,
        padding: 0,
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "rmsnorm_backward_weight"), slices.geometry(OP, c)?, &params)? };
    reduce::add_slices(cx, OP, partial.view(), &dw)
}
