//! Launches of `cuda/dropout.cu`; see [`crate::ops::dropout`].

use super::params::DeemDropout;
use super::{indexwise, input, kernel, optional_input, output, small};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops::dropout::Dropout;

const OP: &str = "dropout";

/// y = residual + x keep / (1 - rate).
pub(crate) fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    residual: Option<View<'_, E>>,
    y: ViewMut<'_, E>,
    dropout: &Dropout,
) -> Result<()> {
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    let ((key, tensor), threshold, factor) = dropout.parts();
    let params = DeemDropout {
        x: input(cx, OP, "x", x)?,
        residual: optional_input(cx, OP, "residual", residual)?,
        y: output(cx, OP, "y", &y)?,
        rows: rows as i64,
        cols: small(OP, "the number of columns", cols)?,
        factor: factor as f32,
        key,
        tensor,
        threshold,
        padding: 0,
    };
    // SAFETY: the kernel's own struct; the arrays have these rows and columns.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "dropout"), indexwise(OP, rows * cols.div_ceil(4))?, &params) }
}
