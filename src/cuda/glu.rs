//! Launches of `cuda/glu.cu`; see [`crate::ops::glu`].

use super::activation::number;
use super::params::{DeemGluBackward, DeemGluForward};
use super::{input, kernel, output, pointwise};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops::activation::Activation;

const OP: &str = "glu";

/// y = act(gate) value.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    kind: Activation,
    gate: View<'_, E>,
    value: View<'_, E>,
    y: ViewMut<'_, E>,
) -> Result<()> {
    let (n, cols) = (y.shape().len(), y.shape().last());
    let params = DeemGluForward {
        gate: input(cx, OP, "gate", gate)?,
        value: input(cx, OP, "value", value)?,
        y: output(cx, OP, "y", &y)?,
        n: n as i64,
        cols: cols as i64,
        stride: cols as i64,
        kind: number(kind),
        padding: 0,
    };
    // SAFETY: the kernel's own struct; the arrays have n elements.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "glu_forward"), pointwise::<E>(OP, n)?, &params) }
}

/// Gradients of gate and value.
pub(crate) fn backward<E: Element>(
    cx: &Context,
    kind: Activation,
    gate: View<'_, E>,
    value: View<'_, E>,
    dy: View<'_, E>,
    dgate: ViewMut<'_, E>,
    dvalue: ViewMut<'_, E>,
) -> Result<()> {
    let (n, cols) = (dy.shape().len(), dy.shape().last());
    let params = DeemGluBackward {
        gate: input(cx, OP, "gate", gate)?,
        value: input(cx, OP, "value", value)?,
        dy: input(cx, OP, "dy", dy)?,
        dgate: output(cx, OP, "dgate", &dgate)?,
        dvalue: output(cx, OP, "dvalue", &dvalue)?,
        n: n as i64,
        cols: cols as i64,
        stride: cols as i64,
        kind: number(kind),
        padding: 0,
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "glu_backward"), pointwise::<E>(OP, n)?, &params) }
}

/// y [.., F] from x [.., 2F] = value | gate.
pub(crate) fn forward_packed<E: Element>(
    cx: &Context,
    kind: Activation,
    x: View<'_, E>,
    y: ViewMut<'_, E>,
) -> Result<()> {
    let (n, cols) = (y.shape().len(), y.shape().last());
    if n == 0 {
        return Ok(());
    }
    // From the first gate on there are all elements but the first values.
    let gates = x.part(cols, [x.shape().len() - cols]);
    let params = DeemGluForward {
        gate: input(cx, OP, "x", gates)?,
        value: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", &y)?,
        n: n as i64,
        cols: cols as i64,
        stride: 2 * cols as i64,
        kind: number(kind),
        padding: 0,
    };
    // SAFETY: the kernel's own struct; rows of x hold the values and, cols further, the gates.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "glu_forward"), pointwise::<E>(OP, n)?, &params) }
}

/// dx [.., 2F] = dvalue | dgate.
pub(crate) fn backward_packed<E: Element>(
    cx: &Context,
    kind: Activation,
    x: View<'_, E>,
    dy: View<'_, E>,
    mut dx: ViewMut<'_, E>,
) -> Result<()> {
    let (n, cols) = (dy.shape().len(), dy.shape().last());
    if n == 0 {
        return Ok(());
    }
    let rest = x.shape().len() - cols;
    let params = DeemGluBackward {
        gate: input(cx, OP, "x", x.part(cols, [rest]))?,
        value: input(cx, OP, "x", x)?,
        dy: input(cx, OP, "dy", dy)?,
        dgate: output(cx, OP, "dx", &dx.reborrow().part(cols, [rest]))?,
        dvalue: output(cx, OP, "dx", &dx)?,
        n: n as i64,
        cols: cols as i64,
        stride: 2 * cols as i64,
        kind: number(kind),
        padding: 0,
    };
    // SAFETY: as in the forward.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "glu_backward"), pointwise::<E>(OP, n)?, &params) }
}
