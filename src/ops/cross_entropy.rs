//! Cross entropy of class scores, fused with softmax: loss = sum over rows of (lse - logit of the target), lse = ln sum exp(logits).
//!
//! Shapes: logits, d_logits [R, V]; targets R, each a class or [`IGNORE`]; lse `[R]`. No table of probabilities is kept: the backward
//! recomputes them from logits and lse. Ignored rows cost nothing: their logits are not read, their lse and gradient are 0.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Shape, View, ViewMut};

/// The target of rows that take no part (the ignore index of PyTorch).
pub const IGNORE: i32 = -100;

const OP: &str = "cross_entropy";

/// Sum of the losses of rows with a target, and the number of such rows.
#[derive(Clone, Default)]
pub struct CrossEntropy {
    /// Sum of the losses.
    pub sum: Scalar,
    /// Number of rows with a target.
    pub count: usize,
}

impl CrossEntropy {
    /// Mean loss of the rows with a target; 0 if there is none.
    pub fn mean(self) -> Scalar {
        self.sum * (1.0 / self.count.max(1) as f64)
    }
}

fn sizes(logits: Shape, targets: &[i32]) -> Result<usize> {
    let v = logits.last();
    check_shape(OP, "logits", logits, [targets.len(), v])?;
    match targets.iter().enumerate().find(|(_, t)| **t != IGNORE && (**t < 0 || **t as usize >= v)) {
        None => Ok(v),
        Some((r, t)) => {
            check(OP, false, || format!("target {t} of row {r} is neither {IGNORE} nor one of the {v} classes"))?;
            Ok(v)
        }
    }
}

/// Loss of logits [R, V] against targets (R); writes lse `[R]` for the backward (0 for ignored rows). Planning returns zeros.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit, [`crate::Error::Domain`] naming the target if one is out of range.
pub fn forward<E: Element>(
    cx: &Context,
    logits: View<'_, E>,
    targets: &[i32],
    lse: ViewMut<'_, E::Acc>,
) -> Result<CrossEntropy> {
    let v = sizes(logits.shape(), targets)?;
    check_shape(OP, "lse", lse.shape(), [targets.len()])?;
    if logits.shape().is_empty() {
        return Ok(CrossEntropy::default());
    }
    let count = targets.iter().filter(|t| **t != IGNORE).count();
    if cx.is_cuda() {
        return Ok(CrossEntropy { sum: crate::cuda::cross_entropy::forward(cx, logits, targets, lse)?, count });
    }
    if cx.is_planning() {
        return Ok(CrossEntropy::default());
    }
    let sum = crate::host::cross_entropy::forward(cx.pool(), logits.data(), targets, lse.data(), v);
    Ok(CrossEntropy { sum: Scalar::of(sum), count })
}

/// d_logits [R, V] = scale (softmax(logits) - onehot(target)); 0 in ignored rows. For the mean loss, scale is its gradient / count.
///
/// # Errors
/// As [`forward`].
pub fn backward<E: Element>(
    cx: &Context,
    logits: View<'_, E>,
    targets: &[i32],
    lse: View<'_, E::Acc>,
    scale: f64,
    d_logits: ViewMut<'_, E>,
) -> Result<()> {
    let v = sizes(logits.shape(), targets)?;
    check_shape(OP, "lse", lse.shape(), [targets.len()])?;
    check_shape(OP, "d_logits", d_logits.shape(), logits.shape())?;
    if logits.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::cross_entropy::backward(cx, logits, targets, lse, scale, d_logits);
    }
    if !cx.is_planning() {
        let (logits, lse) = (logits.data(), lse.data());
        crate::host::cross_entropy::backward(cx.pool(), logits, targets, lse, scale, d_logits.data(), v);
    }
    Ok(())
}
