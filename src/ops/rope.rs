//! Rotary position embedding, rotate-half layout, in place.
//!
//! Su et al. (arXiv 2104.09864); LLaMA. Shapes: x [B, T, N*D] with heads of size D; positions B*T. For k < D/2, with
//! angle = position * theta^(-2k/D): (x_k, x_{k+D/2}) <- (x_k cos - x_{k+D/2} sin, x_{k+D/2} cos + x_k sin).
//!
//! For f32 and bf16 the frequencies are rounded to f32 and the angle is a product in f32, as in the official code; for f64 all is f64.

use super::check;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::ViewMut;

/// Rotates x [B, T, N*D] in place by the angles of `positions` (B*T).
///
/// # Errors
/// [`crate::Error::Domain`] if the number of positions is not that of rows, or the head size is odd or does not divide the last axis.
pub fn forward<E: Element>(
    cx: &Context,
    x: ViewMut<'_, E>,
    positions: &[i32],
    head_size: usize,
    theta: f64,
) -> Result<()> {
    rotate(cx, x, positions, head_size, theta, false)
}

/// Rotates the gradient [B, T, N*D] in place by the opposite angles: the transpose of the forward, and its inverse.
///
/// # Errors
/// As [`forward`].
pub fn backward<E: Element>(
    cx: &Context,
    dx: ViewMut<'_, E>,
    positions: &[i32],
    head_size: usize,
    theta: f64,
) -> Result<()> {
    rotate(cx, dx, positions, head_size, theta, true)
}

fn rotate<E: Element>(
    cx: &Context,
    x: ViewMut<'_, E>,
    positions: &[i32],
    head_size: usize,
    theta: f64,
    inverse: bool,
) -> Result<()> {
    const OP: &str = "rope";
    let (shape, cols) = (x.shape(), x.shape().last());
    check(OP, head_size > 0 && head_size.is_multiple_of(2) && cols.is_multiple_of(head_size), || {
        format!("head size {head_size} must be even and divide the last axis of `x` {shape}")
    })?;
    check(OP, positions.len() == shape.rows(), || {
        format!("{} positions for the {} rows of `x` {shape}", positions.len(), shape.rows())
    })?;
    if shape.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::rope::rotate(cx, x, positions, head_size, theta, inverse);
    }
    if cx.is_planning() {
        return Ok(());
    }
    crate::host::rope::rotate(cx.pool(), x.data(), positions, head_size, cols, theta, inverse);
    Ok(())
}
