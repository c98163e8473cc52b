//! AdamW with decoupled weight decay; all parameter groups in one launch.
//!
//! Loshchilov and Hutter (arXiv 1711.05101). For step k from 1 and g = scale * gradient, in this order:
//! p *= 1 - lr wd; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + eps).
//!
//! Shapes: params, master, grads, m, v are flat and of one length; groups are ranges of it that do not overlap; elements in no group stay.
//! Coefficients are computed in f64 and rounded once. Storage narrower than its accumulation type keeps a master copy of the parameters.

use super::check;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, View, ViewMut};

const OP: &str = "adamw";

/// A range of the parameters with its own learning rate and weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// First element.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
    /// Learning rate of this step.
    pub lr: f64,
    /// Weight decay (multiplied with the learning rate).
    pub weight_decay: f64,
}

/// What all groups share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// What gradients are multiplied with on their way into the moments.
#[derive(Clone, Copy)]
pub struct GradScale<'a> {
    /// First this: one over the number of parts of a batch, or of a loss scale.
    pub factor: f64,
    /// Then what brings their norm down to this, if it is larger; 0 for any norm.
    pub largest: f64,
    /// Squared norm of the gradients, before all of it. If that is not finite the step changes nothing.
    pub norm_squared: Option<&'a Scalar>,
}

impl GradScale<'_> {
    /// This factor alone.
    pub fn by(factor: f64) -> Self {
        GradScale { factor, largest: 0.0, norm_squared: None }
    }

    /// The product of all factors for a squared norm of the gradients; none if the norm is not finite.
    pub(crate) fn product(&self, norm_squared: f64) -> Option<f64> {
        let norm = norm_squared.sqrt() * self.factor;
        let clipped = self.largest > 0.0 && norm > self.largest;
        let limit = if clipped { self.largest / (norm + 1e-6) } else { 1.0 };
        norm.is_finite().then_some(self.factor * limit)
    }
}

/// One step of AdamW on all groups.
///
/// `master` holds the parameters in the accumulation type and is updated first; `params` is its rounding. Pass `None` when the two types are
/// one. `grads` are multiplied by `scale` on the way; on a device it is found there, so that no step waits for the norm.
///
/// # Errors
/// [`crate::Error::Domain`] for unequal lengths, groups outside of the parameters or overlapping, step 0, or a missing master.
#[allow(clippy::too_many_arguments)]
pub fn step<E: Element>(
    cx: &Context,
    params: ViewMut<'_, E>,
    master: Option<ViewMut<'_, E::Acc>>,
    grads: View<'_, E::Acc>,
    m: ViewMut<'_, E::Acc>,
    v: ViewMut<'_, E::Acc>,
    groups: &[Group],
    hyper: &AdamW,
    step: u64,
    scale: GradScale<'_>,
) -> Result<()> {
    let n = params.shape().len();
    check(OP, step > 0, || "steps count from 1".into())?;
    check(OP, master.is_some() || E::DTYPE == <E::Acc as Element>::DTYPE, || {
        format!("parameters in {} need a master copy in {}", E::DTYPE, <E::Acc as Element>::DTYPE)
    })?;
    let kept = master.as_ref().map_or(n, |x| x.shape().len());
    let lengths = [("master", kept), ("grads", grads.shape().len()), ("m", m.shape().len()), ("v", v.shape().len())];
    for (what, found) in lengths {
        check(OP, found == n, || format!("`{what}` has {found} elements, `params` {n}"))?;
    }
    for (i, group) in groups.iter().enumerate() {
        let inside = group.start.checked_add(group.len).is_some_and(|end| end <= n);
        check(OP, inside, || format!("group {i} is {} elements from {} of {n}", group.len, group.start))?;
    }
    // Ranges in rising order, the usual case, need one comparison each.
    let rising = groups.windows(2).all(|pair| pair[0].start + pair[0].len <= pair[1].start);
    if !rising {
        for (i, a) in groups.iter().enumerate() {
            for (j, b) in groups.iter().enumerate().skip(i + 1) {
                let apart = a.len == 0 || b.len == 0 || a.start + a.len <= b.start || b.start + b.len <= a.start;
                check(OP, apart, || format!("groups {i} and {j} overlap"))?;
            }
        }
    }
    if cx.is_cuda() {
        return crate::cuda::adamw::step(cx, params, master, grads, m, v, groups, hyper, step, scale);
    }
    let norm_squared = scale.norm_squared.map_or(Ok(0.0), Scalar::value)?;
    if let (Some(scale), false) = (scale.product(norm_squared), cx.is_planning()) {
        let (params, master, m, v) = (params.data(), master.map(ViewMut::data), m.data(), v.data());
        crate::host::adamw::step(cx.pool(), params, master, grads.data(), m, v, groups, hyper, step, scale);
    }
    Ok(())
}
