//! Pointwise sums and scalings: a + b, y += x, y += alpha x, alpha x, gamma x (layer scale), v + x, and rows masked by a factor.
//!
//! Layer scale: Touvron et al. (arXiv 2103.17239). Shapes are said at each function; C is the last axis, R the product of the others.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::add as host;
use crate::memory::{Scalar, View, ViewMut};

const OP: &str = "add";

/// y = a + b, all of one shape.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn forward<E: Element>(cx: &Context, a: View<'_, E>, b: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "b", b.shape(), a.shape())?;
    check_shape(OP, "y", y.shape(), a.shape())?;
    if cx.is_cuda() {
        return crate::cuda::add::forward(cx, a, b, y);
    }
    if !cx.is_planning() {
        host::add(cx.pool(), a.data(), b.data(), y.data());
    }
    Ok(())
}

/// y [B, ..] = x [B, ..] + v [..], the same v for every B (position tables): v has as many elements as one entry of x.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit.
pub fn forward_broadcast<E: Element>(cx: &Context, x: View<'_, E>, v: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "y", y.shape(), x.shape())?;
    let (batch, len) = (x.shape()[0], v.shape().len());
    check(OP, x.shape().len() == batch * len, || format!("`v` {} for each entry of `x` {}", v.shape(), x.shape()))?;
    add_channels(cx, v.reshape([len]), x.reshape([batch, len]), y.reshape([batch, len]))
}

/// The sum of a b over all elements, of one shape; products and sum in f64, in the order of the elements.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn dot<E: Element>(cx: &Context, a: View<'_, E>, b: View<'_, E>) -> Result<Scalar> {
    check_shape(OP, "b", b.shape(), a.shape())?;
    if cx.is_cuda() {
        return crate::cuda::add::dot(cx, a, b);
    }
    if cx.is_planning() {
        return Ok(Scalar::of(0.0));
    }
    Ok(Scalar::of(a.data().iter().zip(b.data()).map(|(a, b)| a.to_f64() * b.to_f64()).sum()))
}

/// y += x, of one shape.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn add_assign<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "y", y.shape(), x.shape())?;
    if cx.is_cuda() {
        return crate::cuda::add::axpy(cx, 1.0, x, y);
    }
    if !cx.is_planning() {
        host::add_assign(cx.pool(), x.data(), y.data());
    }
    Ok(())
}

/// y += alpha x, of one shape.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn axpy<E: Element>(cx: &Context, alpha: f64, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "y", y.shape(), x.shape())?;
    if cx.is_cuda() {
        return crate::cuda::add::axpy(cx, alpha, x, y);
    }
    if !cx.is_planning() {
        host::axpy(cx.pool(), alpha, x.data(), y.data());
    }
    Ok(())
}

/// y = alpha x, of one shape.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn scale<E: Element>(cx: &Context, alpha: f64, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "y", y.shape(), x.shape())?;
    if cx.is_cuda() {
        return crate::cuda::add::scale(cx, alpha, x, y);
    }
    if !cx.is_planning() {
        host::scale(cx.pool(), alpha, x.data(), y.data());
    }
    Ok(())
}

/// y [.., C] = gamma `[C]` * x [.., C].
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn scale_channels<E: Element>(cx: &Context, gamma: View<'_, E>, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "gamma", gamma.shape(), [x.shape().last()])?;
    check_shape(OP, "y", y.shape(), x.shape())?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::add::channels(cx, true, gamma, x, y);
    }
    if !cx.is_planning() {
        host::scale_channels(cx.pool(), gamma.data(), x.data(), y.data());
    }
    Ok(())
}

/// dx = gamma * dy; dgamma += sum of x dy over rows.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn scale_channels_backward<E: Element>(
    cx: &Context,
    gamma: View<'_, E>,
    x: View<'_, E>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
    dgamma: Option<ViewMut<'_, E::Acc>>,
) -> Result<()> {
    let c = x.shape().last();
    check_shape(OP, "gamma", gamma.shape(), [c])?;
    check_shape(OP, "dy", dy.shape(), x.shape())?;
    check_shape(OP, "dx", dx.shape(), x.shape())?;
    if let Some(dgamma) = &dgamma {
        check_shape(OP, "dgamma", dgamma.shape(), [c])?;
    }
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        crate::cuda::add::channels(cx, true, gamma, dy, dx)?;
        return dgamma.map_or(Ok(()), |dgamma| crate::cuda::add::gamma_gradient(cx, x, dy, dgamma));
    }
    if !cx.is_planning() {
        host::scale_channels(cx.pool(), gamma.data(), dy.data(), dx.data());
        host::gamma_gradient(cx.pool(), x.data(), dy.data(), dgamma.map(ViewMut::data), c);
    }
    Ok(())
}

/// y [.., C] = v `[C]` + x [.., C]; the gradient of v is [`super::reduce::sum_rows`].
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn add_channels<E: Element>(cx: &Context, v: View<'_, E>, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "v", v.shape(), [x.shape().last()])?;
    check_shape(OP, "y", y.shape(), x.shape())?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::add::channels(cx, false, v, x, y);
    }
    if !cx.is_planning() {
        host::add_channels(cx.pool(), v.data(), x.data(), y.data());
    }
    Ok(())
}

/// y [R, C] = keep (R) * x [R, C]: drop path, masks. Its gradient is itself.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ, [`crate::Error::Domain`] for a wrong number of factors.
pub fn mask_rows<E: Element>(cx: &Context, keep: &[f32], x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape(OP, "y", y.shape(), x.shape())?;
    check(OP, keep.len() == x.shape().rows(), || format!("{} factors for the rows of `x` {}", keep.len(), x.shape()))?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::add::mask_rows(cx, keep, x, y);
    }
    if !cx.is_planning() {
        host::mask_rows(cx.pool(), keep, x.data(), y.data());
    }
    Ok(())
}
