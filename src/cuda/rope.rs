//! Launches of `cuda/rope.cu`; see [`crate::ops::rope`].

use super::params::DeemRopeRotate;
use super::{indexwise, input, kernel, output, small, whole_numbers};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::ViewMut;

const OP: &str = "rope";

/// Rotates the rows of x by the angles of their positions, or back.
pub(crate) fn rotate<E: Element>(
    cx: &Context,
    x: ViewMut<'_, E>,
    positions: &[i32],
    head_size: usize,
    theta: f64,
    inverse: bool,
) -> Result<()> {
    let (rows, cols, half) = (x.shape().rows(), x.shape().last(), head_size / 2);
    let frequency: Vec<f32> = (0..half).map(|k| theta.powf(-((2 * k) as f64) / head_size as f64) as f32).collect();
    let (positions, frequency) = (whole_numbers(cx, positions)?, cx.tensor([half], &frequency)?);
    let params = DeemRopeRotate {
        x: output(cx, OP, "x", &x)?,
        positions: input(cx, OP, "positions", positions.view())?,
        frequency: input(cx, OP, "frequencies", frequency.view())?,
        rows: rows as i64,
        heads: small(OP, "the number of heads", cols / head_size)?,
        half: small(OP, "the head size", half)?,
        inverse: i32::from(inverse),
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "rope_rotate"), indexwise(OP, rows * half)?, &params) }
}
