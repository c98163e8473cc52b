//! Root-mean-square normalisation over the last axis: y = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps).
//!
//! Zhang and Sennrich (arXiv 1910.07467); LLaMA. Shapes: x, y, dx, dy [.., C] = R rows; weight `[C]`; rstd `[R]`.

use super::check_shape;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: &str = "rmsnorm";

/// y = x rstd weight per row; writes rstd `[R]` for the backward.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    y: ViewMut<'_, E>,
    rstd: ViewMut<'_, E::Acc>,
    eps: f64,
) -> Result<()> {
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    check_shape(OP, "weight", weight.shape(), [cols])?;
    check_shape(OP, "y", y.shape(), x.shape())?;
    check_shape(OP, "rstd", rstd.shape(), [rows])?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::rmsnorm::forward(cx, x, weight, y, rstd, eps);
    }
    if cx.is_planning() {
        return Ok(());
    }
    crate::host::rmsnorm::forward(cx.pool(), x.data(), weight.data(), y.data(), rstd.data(), cols, eps);
    Ok(())
}

/// With n = x rstd and g = weight dy: dx = residual + rstd (g - n mean(g n)); dw += sum of dy n over rows.
/// The residual is the gradient that goes past the norm, 0 if there is none.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    rstd: View<'_, E::Acc>,
    dy: View<'_, E>,
    residual: Option<View<'_, E>>,
    dx: ViewMut<'_, E>,
    dw: Option<ViewMut<'_, E::Acc>>,
) -> Result<()> {
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    check_shape(OP, "weight", weight.shape(), [cols])?;
    check_shape(OP, "rstd", rstd.shape(), [rows])?;
    check_shape(OP, "dy", dy.shape(), x.shape())?;
    check_shape(OP, "dx", dx.shape(), x.shape())?;
    if let Some(residual) = &residual {
        check_shape(OP, "residual", residual.shape(), x.shape())?;
    }
    if let Some(dw) = &dw {
        check_shape(OP, "dw", dw.shape(), [cols])?;
    }
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::rmsnorm::backward(cx, x, weight, rstd, dy, residual, dx, dw);
    }
    if cx.is_planning() {
        return Ok(());
    }
    let dw = dw.map(ViewMut::data);
    let residual = residual.map(|residual| residual.data());
    let (x, weight, rstd, dy) = (x.data(), weight.data(), rstd.data(), dy.data());
    crate::host::rmsnorm::backward(cx.pool(), x, weight, rstd, dy, residual, dx.data(), dw, cols);
    Ok(())
}
