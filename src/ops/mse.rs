//! Mean squared error with a factor per pixel: loss = 1/n sum of factor (pred - target)^2 over all n elements.
//!
//! Shapes: pred, target, loss_map, dpred [I, .., C]; factor one number per pixel (I times all middle axes), 1 if missing. The masked and the
//! weighted losses of DEEM are choices of the factor.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Shape, View, ViewMut};

const OP: &str = "mse";

fn check_factor(shape: Shape, factor: Option<&[f32]>) -> Result<()> {
    let (found, rows) = (factor.map_or(shape.rows(), <[f32]>::len), shape.rows());
    check(OP, found == rows, || format!("{found} factors for the {rows} pixels of `pred` {shape}"))
}

/// Mean over all elements of factor (pred - target)^2 (0 for none); `loss_map`, of the shape of pred, gets each term if wanted.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit, [`crate::Error::Domain`] for a wrong number of factors.
pub fn forward<E: Element>(
    cx: &Context,
    pred: View<'_, E>,
    target: View<'_, E>,
    factor: Option<&[f32]>,
    loss_map: Option<ViewMut<'_, E>>,
) -> Result<Scalar> {
    check_shape(OP, "target", target.shape(), pred.shape())?;
    if let Some(map) = &loss_map {
        check_shape(OP, "loss_map", map.shape(), pred.shape())?;
    }
    check_factor(pred.shape(), factor)?;
    if pred.shape().is_empty() {
        return Ok(Scalar::of(0.0));
    }
    if cx.is_cuda() {
        return Ok(crate::cuda::mse::forward(cx, pred, target, factor, loss_map)? * (1.0 / pred.shape().len() as f64));
    }
    if cx.is_planning() {
        return Ok(Scalar::of(0.0));
    }
    let (c, map) = (pred.shape().last(), loss_map.map(ViewMut::data));
    let sum = crate::host::mse::forward(cx.pool(), pred.data(), target.data(), factor, map, c);
    Ok(Scalar::of(sum / pred.shape().len() as f64))
}

/// dpred = scale 2 factor (pred - target) / n.
///
/// # Errors
/// As [`forward`].
pub fn backward<E: Element>(
    cx: &Context,
    pred: View<'_, E>,
    target: View<'_, E>,
    factor: Option<&[f32]>,
    scale: f64,
    dpred: ViewMut<'_, E>,
) -> Result<()> {
    check_shape(OP, "target", target.shape(), pred.shape())?;
    check_shape(OP, "dpred", dpred.shape(), pred.shape())?;
    check_factor(pred.shape(), factor)?;
    if pred.shape().is_empty() {
        return Ok(());
    }
    let (c, scale) = (pred.shape().last(), 2.0 * scale / pred.shape().len() as f64);
    if cx.is_cuda() {
        return crate::cuda::mse::backward(cx, pred, target, factor, scale, dpred);
    }
    if cx.is_planning() {
        return Ok(());
    }
    crate::host::mse::backward(cx.pool(), pred.data(), target.data(), factor, scale, dpred.data(), c);
    Ok(())
}
