//! Launches of `cuda/gate.cu`; see [`crate::ops::gate`].

use super::params::{DeemGateBackwardGate, DeemGateForward};
use super::{add, input, kernel, output, pointwise};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: &str = "gate";

/// y = tanh(gate) x.
pub(crate) fn forward<E: Element>(cx: &Context, gate: View<'_, E>, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let n = x.shape().len();
    let params = DeemGateForward {
        gate: input(cx, OP, "gate", gate)?,
        x: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", &y)?,
        n: n as i64,
    };
    // SAFETY: the kernel's own struct; one gate, both arrays have n elements.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "gate_forward"), pointwise::<E>(OP, n)?, &params) }
}

/// dx = tanh(gate) dy, and what is added to the gradient of the gate.
pub(crate) fn backward<E: Element>(
    cx: &Context,
    gate: View<'_, E>,
    x: View<'_, E>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
    d_gate: Option<ViewMut<'_, E::Acc>>,
) -> Result<()> {
    forward(cx, gate, dy, dx)?;
    let Some(d_gate) = d_gate else { return Ok(()) };
    let partial = add::dot_partial(cx, OP, dy, x)?;
    let params = DeemGateBackwardGate {
        gate: input(cx, OP, "gate", gate)?,
        partial: input(cx, OP, "partial sums", partial.view())?,
        d_gate: output(cx, OP, "d_gate", &d_gate)?,
        n: partial.len() as i64,
    };
    // SAFETY: the kernel's own struct, with as many partial sums as it says.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "gate_backward_gate"), Geometry::linear(OP, 1, 256)?, &params) }
}
