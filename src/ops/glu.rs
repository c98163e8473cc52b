//! Gated linear units: y = act(gate) * value.
//!
//! Shazeer, "GLU variants improve transformer" (arXiv 2002.05202): SwiGLU with SiLU (LLaMA), GEGLU with GELU (Stable Diffusion).
//!
//! Shapes: gate, value, y [.., F]. The packed variants read `value | gate` from one [.., 2F] (the layout of diffusers' GEGLU projection).

use super::activation::Activation;
use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, View, ViewMut};

const OP: &str = "glu";

/// y = act(gate) * value; all [.., F].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn forward<E: Element>(
    cx: &Context,
    kind: Activation,
    gate: View<'_, E>,
    value: View<'_, E>,
    y: ViewMut<'_, E>,
) -> Result<()> {
    check_shape(OP, "value", value.shape(), gate.shape())?;
    check_shape(OP, "y", y.shape(), gate.shape())?;
    if cx.is_cuda() {
        return crate::cuda::glu::forward(cx, kind, gate, value, y);
    }
    if !cx.is_planning() {
        crate::host::glu::forward(cx.pool(), kind, gate.data(), value.data(), y.data());
    }
    Ok(())
}

/// dgate = act'(gate) * value * dy; dvalue = act(gate) * dy; all [.., F].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn backward<E: Element>(
    cx: &Context,
    kind: Activation,
    gate: View<'_, E>,
    value: View<'_, E>,
    dy: View<'_, E>,
    dgate: ViewMut<'_, E>,
    dvalue: ViewMut<'_, E>,
) -> Result<()> {
    check_shape(OP, "value", value.shape(), gate.shape())?;
    check_shape(OP, "dy", dy.shape(), gate.shape())?;
    check_shape(OP, "dgate", dgate.shape(), gate.shape())?;
    check_shape(OP, "dvalue", dvalue.shape(), gate.shape())?;
    if cx.is_cuda() {
        return crate::cuda::glu::backward(cx, kind, gate, value, dy, dgate, dvalue);
    }
    if !cx.is_planning() {
        let (gate, value, dy) = (gate.data(), value.data(), dy.data());
        crate::host::glu::backward(cx.pool(), kind, gate, value, dy, dgate.data(), dvalue.data());
    }
    Ok(())
}

fn packed_width(x: Shape) -> Result<usize> {
    check(OP, x.rank() > 0 && x.last().is_multiple_of(2), || {
        format!("the last axis of `x` {x} must be even: value | gate")
    })?;
    Ok(x.last() / 2)
}

/// y = act(gate) * value from x [.., 2F] = value | gate; y [.., F].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit, [`crate::Error::Domain`] if the last axis of x is odd.
pub fn forward_packed<E: Element>(cx: &Context, kind: Activation, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let f = packed_width(x.shape())?;
    check_shape(OP, "y", y.shape(), x.shape().with_last(f))?;
    if cx.is_cuda() {
        return crate::cuda::glu::forward_packed(cx, kind, x, y);
    }
    if !cx.is_planning() {
        crate::host::glu::forward_packed(cx.pool(), kind, x.data(), y.data(), f);
    }
    Ok(())
}

/// dx [.., 2F] = act(gate) dy | act'(gate) value dy, the gradients of value and gate, from x [.., 2F] and dy [.., F].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit, [`crate::Error::Domain`] if the last axis of x is odd.
pub fn backward_packed<E: Element>(
    cx: &Context,
    kind: Activation,
    x: View<'_, E>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
) -> Result<()> {
    let f = packed_width(x.shape())?;
    check_shape(OP, "dy", dy.shape(), x.shape().with_last(f))?;
    check_shape(OP, "dx", dx.shape(), x.shape())?;
    if cx.is_cuda() {
        return crate::cuda::glu::backward_packed(cx, kind, x, dy, dx);
    }
    if !cx.is_planning() {
        crate::host::glu::backward_packed(cx.pool(), kind, x.data(), dy.data(), dx.data(), f);
    }
    Ok(())
}
