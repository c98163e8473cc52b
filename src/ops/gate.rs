//! A learned gate in front of a branch: y = tanh(g) x with one number g for all of x.
//!
//! Flamingo (arXiv 2204.14198); MM-Interleaved (arXiv 2401.10208), where g begins at 0. Shapes: gate `[1]` (any shape of one element); x, y, dy, dx
//! alike. The gate stays where it is: no step waits for its value.

use super::{add, check, check_shape};
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: &str = "gate";

fn check_gate<E>(gate: &View<'_, E>) -> Result<()> {
    check(OP, gate.shape().len() == 1, || format!("`gate` has shape {}, expected one element", gate.shape()))
}

/// tanh(g) on the host; 0 in a dry run.
fn value<E: Element>(gate: View<'_, E>) -> f64 {
    gate.data().first().map_or(0.0, |g| g.to_acc().tanh().as_f64())
}

/// y = tanh(gate) x.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::Domain`] if a shape does not fit.
pub fn forward<E: Element>(cx: &Context, gate: View<'_, E>, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_gate(&gate)?;
    check_shape(OP, "y", y.shape(), x.shape())?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::gate::forward(cx, gate, x, y);
    }
    add::scale(cx, value(gate), x, y)
}

/// dx = tanh(gate) dy; d_gate += (1 - tanh(gate)^2) sum of dy x.
///
/// # Errors
/// As [`forward`].
pub fn backward<E: Element>(
    cx: &Context,
    gate: View<'_, E>,
    x: View<'_, E>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
    d_gate: Option<ViewMut<'_, E::Acc>>,
) -> Result<()> {
    check_gate(&gate)?;
    check_shape(OP, "dy", dy.shape(), x.shape())?;
    check_shape(OP, "dx", dx.shape(), x.shape())?;
    if let Some(d_gate) = &d_gate {
        check_shape(OP, "d_gate", d_gate.shape(), gate.shape())?;
    }
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::gate::backward(cx, gate, x, dy, dx, d_gate);
    }
    let opening = value(gate);
    if let Some(d_gate) = d_gate {
        let dot = E::Acc::of(add::dot(cx, dy, x)?.value()?);
        if let Some(d_gate) = d_gate.data().first_mut() {
            *d_gate += dot * E::Acc::of(1.0 - opening * opening);
        }
    }
    add::scale(cx, opening, dy, dx)
}
