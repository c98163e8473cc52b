//! Launches of `cuda/mse.cu`; see [`crate::ops::mse`].

use super::params::{DeemMseBackward, DeemMseForward};
use super::{input, kernel, optional_input, optional_output, output, pointwise, reduce, summing};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Tensor, View, ViewMut};

const OP: &str = "mse";

/// Sum of factor (pred - target)^2, in f64; each term into `map`.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    pred: View<'_, E>,
    target: View<'_, E>,
    factor: Option<&[f32]>,
    map: Option<ViewMut<'_, E>>,
) -> Result<Scalar> {
    let (n, cols) = (pred.shape().len(), pred.shape().last());
    let factor = factor.map(|factor| cx.tensor([factor.len()], factor)).transpose()?;
    let geometry = summing(OP, n)?;
    let mut partial = cx.uninit::<f64>([geometry.blocks[0] as usize])?;
    let params = DeemMseForward {
        pred: input(cx, OP, "pred", pred)?,
        target: input(cx, OP, "target", target)?,
        factor: optional_input(cx, OP, "factor", factor.as_ref().map(Tensor::view))?,
        map: optional_output(cx, OP, "loss_map", map.as_ref())?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        n: n as i64,
        cols: cols as i64,
    };
    // SAFETY: the kernel's own struct; every block has a partial sum.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "mse_forward"), geometry, &params)? };
    reduce::total(cx, OP, partial.view())
}

/// dpred = scale factor (pred - target).
pub(crate) fn backward<E: Element>(
    cx: &Context,
    pred: View<'_, E>,
    target: View<'_, E>,
    factor: Option<&[f32]>,
    scale: f64,
    dpred: ViewMut<'_, E>,
) -> Result<()> {
    let (n, cols) = (pred.shape().len(), pred.shape().last());
    let factor = factor.map(|factor| cx.tensor([factor.len()], factor)).transpose()?;
    let params = DeemMseBackward {
        pred: input(cx, OP, "pred", pred)?,
        target: input(cx, OP, "target", target)?,
        factor: optional_input(cx, OP, "factor", factor.as_ref().map(Tensor::view))?,
        dpred: output(cx, OP, "dpred", &dpred)?,
        n: n as i64,
        cols: cols as i64,
        scale: scale as f32,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "mse_backward"), pointwise::<E>(OP, n)?, &params) }
}
