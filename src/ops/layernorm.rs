//! Layer normalisation over the last axis: y = (x - mean) rstd weight + bias, rstd = 1 / sqrt(var + eps).
//!
//! Ba, Kiros and Hinton (arXiv 1607.06450). Shapes: x, y, dx, dy [.., C] = R rows; weight, bias `[C]`; stats [R, 2] = (mean, rstd).
//! Statistics are two passes over the row in the accumulation type: the variance is a sum of squares of deviations, never a
//! difference of moments. Variants: with or without weight and bias; one code path for rows from 1 to any number of channels.

use super::check_shape;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: &str = "layernorm";

/// y = (x - mean) rstd weight + bias per row; writes the statistics [R, 2] that the backward reads.
///
/// A missing weight is 1, a missing bias 0.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
#[allow(clippy::too_many_arguments)]
pub fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: Option<View<'_, E>>,
    bias: Option<View<'_, E>>,
    y: ViewMut<'_, E>,
    stats: ViewMut<'_, E::Acc>,
    eps: f64,
) -> Result<()> {
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    if let Some(w) = &weight {
        check_shape(OP, "weight", w.shape(), [cols])?;
    }
    if let Some(b) = &bias {
        check_shape(OP, "bias", b.shape(), [cols])?;
    }
    check_shape(OP, "y", y.shape(), x.shape())?;
    check_shape(OP, "stats", stats.shape(), [rows, 2])?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::layernorm::forward(cx, x, weight, bias, y, stats, eps);
    }
    if cx.is_planning() {
        return Ok(());
    }
    let weight = weight.map_or(&[][..], |w| w.data());
    let bias = bias.map_or(&[][..], |b| b.data());
    crate::host::layernorm::forward(cx.pool(), x.data(), weight, bias, y.data(), stats.data(), cols, eps);
    Ok(())
}

/// With n = (x - mean) rstd and g = weight dy: dx = residual + rstd (g - mean(g) - n mean(g n)); dw += sum of dy n over rows; db += sum of dy.
/// The residual is the gradient that goes past the norm, 0 if there is none.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
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
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    if let Some(w) = &weight {
        check_shape(OP, "weight", w.shape(), [cols])?;
    }
    check_shape(OP, "stats", stats.shape(), [rows, 2])?;
    check_shape(OP, "dy", dy.shape(), x.shape())?;
    check_shape(OP, "dx", dx.shape(), x.shape())?;
    if let Some(residual) = &residual {
        check_shape(OP, "residual", residual.shape(), x.shape())?;
    }
    if let Some(dw) = &dw {
        check_shape(OP, "dw", dw.shape(), [cols])?;
    }
    if let Some(db) = &db {
        check_shape(OP, "db", db.shape(), [cols])?;
    }
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::layernorm::backward(cx, x, weight, stats, dy, residual, dx, dw, db);
    }
    if cx.is_planning() {
        return Ok(());
    }
    let weight = weight.map_or(&[][..], |w| w.data());
    let (dw, db) = (dw.map(ViewMut::data), db.map(ViewMut::data));
    let residual = residual.map(|residual| residual.data());
    let (x, stats, dy) = (x.data(), stats.data(), dy.data());
    crate::host::layernorm::backward(cx.pool(), x, weight, stats, dy, residual, dx.data(), dw, db, cols);
    Ok(())
}
