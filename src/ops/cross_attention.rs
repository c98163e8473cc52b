//! Cross attention over a short condition: `out = softmax(scale q k^T) v` per head, with neither mask nor cache.
//!
//! Shapes: q and out `[B,T,N*D]`, k and v `[B,S,N*D]`, lse `[B,N,T]`. Source: the UNet of latent diffusion (arXiv 2112.10752), whose 9 to 77
//! condition tokens are read by up to 4096 pixels. A row of S scores is complete before its softmax, so nothing is rescaled;
//! beyond [`SHORT`] keys the work is given to [`crate::ops::attention`]. Variants and measured speeds: [`crate::host::cross_attention`].

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::cross_attention as host;
use crate::memory::{Shape, View, ViewMut};
use crate::ops::attention::{self, Attention};
use crate::ops::{check, check_shape};

/// The largest number of keys that the short path takes.
pub const SHORT: usize = 128;

/// The options of a cross attention.
#[derive(Clone, Copy, Debug)]
pub struct CrossAttention {
    /// Heads N.
    pub heads: usize,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f64,
}

impl CrossAttention {
    fn general(&self) -> Attention<'static> {
        Attention::full(self.heads, self.scale)
    }
}

fn problem(op: &'static str, q: Shape, k: Shape, v: Shape, lse: Shape, spec: &CrossAttention) -> Result<host::Problem> {
    check(op, q.rank() == 3, || format!("`q` has shape {q}, expected [B,T,N*D]"))?;
    check(op, k.rank() == 3, || format!("`k` has shape {k}, expected [B,S,N*D]"))?;
    check(op, spec.heads > 0 && q[2].is_multiple_of(spec.heads), || {
        format!("`q` has shape {q}, which {} heads do not divide", spec.heads)
    })?;
    check_shape(op, "k", k, [q[0], k[1], q[2]])?;
    check_shape(op, "v", v, k)?;
    check_shape(op, "lse", lse, [q[0], spec.heads, q[1]])?;
    Ok(host::Problem { batch: q[0], t: q[1], s: k[1], heads: spec.heads, d: q[2] / spec.heads, scale: spec.scale })
}

/// Attention of `q` over `k` and `v` into `out`, and the logarithms of the sums into `lse`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::Domain`] if sizes do not fit.
pub fn forward<E: Element>(
    cx: &Context,
    q: View<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: ViewMut<'_, E>,
    lse: ViewMut<'_, E::Acc>,
    spec: &CrossAttention,
) -> Result<()> {
    const OP: &str = "cross_attention";
    let problem = problem(OP, q.shape(), k.shape(), v.shape(), lse.shape(), spec)?;
    check_shape(OP, "out", out.shape(), q.shape())?;
    let is_short = problem.s <= SHORT && problem.s > 0;
    let kernel = match cx.is_cuda() && is_short {
        true => crate::cuda::cross_attention::kernel(cx, &problem, q, k, v, &out),
        false => None,
    };
    if !is_short || (cx.is_cuda() && kernel.is_none()) {
        return attention::forward(cx, q, k, v, out, lse, &spec.general());
    }
    if lse.shape().is_empty() {
        return Ok(());
    }
    if let Some(kernel) = kernel {
        return crate::cuda::cross_attention::forward(cx, kernel, &problem, q, k, v, out, lse);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::forward(cx, &problem, q.data(), k.data(), v.data(), out.data(), lse.data());
    Ok(())
}

/// Gradients of q, k and v, overwritten.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    cx: &Context,
    q: View<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: View<'_, E>,
    lse: View<'_, E::Acc>,
    d_out: View<'_, E>,
    dq: ViewMut<'_, E>,
    dk: ViewMut<'_, E>,
    dv: ViewMut<'_, E>,
    spec: &CrossAttention,
) -> Result<()> {
    problem("cross_attention backward", q.shape(), k.shape(), v.shape(), lse.shape(), spec)?;
    attention::backward(cx, q, k, v, out, lse, d_out, dq, dk, dv, &spec.general())
}
