//! Launches of `cuda/cross_entropy.cu`; see [`crate::ops::cross_entropy`].

use super::params::{DeemCrossEntropyBackward, DeemCrossEntropyForward};
use super::{input, kernel, output, reduce, rows, small, whole_numbers};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, View, ViewMut};

const OP: &str = "cross_entropy";

/// Writes lse and returns the sum of the losses, which is taken in f64. The op has checked that a negative target is the ignore index.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    logits: View<'_, E>,
    targets: &[i32],
    lse: ViewMut<'_, E::Acc>,
) -> Result<Scalar> {
    let (r, cols) = (targets.len(), logits.shape().last());
    let targets = whole_numbers(cx, targets)?;
    let mut losses = cx.uninit::<f64>([r])?;
    let params = DeemCrossEntropyForward {
        logits: input(cx, OP, "logits", logits)?,
        targets: input(cx, OP, "targets", targets.view())?,
        lse: output(cx, OP, "lse", &lse)?,
        losses: output(cx, OP, "losses", &losses.view_mut())?,
        rows: r as i64,
        cols: small(OP, "the number of classes", cols)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "cross_entropy_forward"), rows(OP, r, cols)?, &params)? };
    reduce::total(cx, OP, losses.view())
}

/// d_logits = scale (softmax - onehot).
pub(crate) fn backward<E: Element>(
    cx: &Context,
    logits: View<'_, E>,
    targets: &[i32],
    lse: View<'_, E::Acc>,
    scale: f64,
    d_logits: ViewMut<'_, E>,
) -> Result<()> {
    let (r, cols) = (targets.len(), logits.shape().last());
    let targets = whole_numbers(cx, targets)?;
    let params = DeemCrossEntropyBackward {
        logits: input(cx, OP, "logits", logits)?,
        targets: input(cx, OP, "targets", targets.view())?,
        lse: input(cx, OP, "lse", lse)?,
        d_logits: output(cx, OP, "d_logits", &d_logits)?,
        rows: r as i64,
        cols: small(OP, "the number of classes", cols)?,
        scale: scale as f32,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "cross_entropy_backward"), rows(OP, r, cols)?, &params) }
}
