//! Attention: `out = softmax(scale q k^T + mask) v` per head, with grouped queries, causal and key-padding masks and a key-value cache.
//!
//! Shapes: q and out `[B,T,N*D]`, k and v `[B,S,Nkv*D]`, lse `[B,N,T]`; query head n reads key head `n / (N / Nkv)`.
//! Source: FlashAttention-2 (arXiv 2307.08691): no T x S matrix; the logarithm of each row's sum of exponentials is saved, and the backward
//! recomputes the probabilities from it.
//!
//! **Masks** follow the official code, which adds the lowest finite number to a masked score. Hence
//! * a masked key beside an unmasked one has probability exactly 0, and blocks of keys that lie wholly behind the causal line are skipped;
//! * a query *all* of whose keys are masked gets the plain mean of v over all S keys, later ones included. Its lse is the lowest finite number,
//!   which is how the backward knows it. There p = 1/S, and the score gradient is what `torch.max(scores + mask, finfo.min)` passes on: half of ds
//!   where one of the two masks applies (the arguments of the maximum are equal), none where both do (the sum is -infinity).
//!
//! With no keys at all (S = 0) the output is 0.
//!
//! **Documents.** With `first` a query sees no key before its own first one: rows of several documents. Such keys count as behind the causal line.
//!
//! **Dropout** multiplies the probabilities, after their softmax, by keep / (1 - rate); rows of its mask are (b, n, t), columns s. The lse is that of all
//! keys.
//!
//! Variants and measured speeds: [`crate::host::attention`].

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::attention as host;
use crate::memory::{Shape, View, ViewMut};
use crate::ops::dropout::Dropout;
use crate::ops::rope::Rotary;
use crate::ops::{check, check_shape};

/// The options of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Query heads N.
    pub heads: usize,
    /// Key and value heads Nkv, a divisor of N.
    pub kv_heads: usize,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f64,
    /// `Some(o)`: query t sees keys `0 ..= t + o`.
    pub causal: Option<usize>,
    /// `[B,S]`, 0 = masked.
    pub keys: Option<&'a [u8]>,
    /// Use only the first so many of the keys in k and v, whose second axis is then a capacity.
    pub key_count: Option<usize>,
    /// `[B,T]`: the first key that each query sees.
    pub first: Option<&'a [u32]>,
    /// Drops probabilities.
    pub dropout: Option<Dropout>,
}

impl Attention<'_> {
    /// Every query sees every key; `heads` query heads and as many key heads.
    pub fn full(heads: usize, scale: f64) -> Self {
        let (causal, keys, key_count, first, dropout) = (None, None, None, None, None);
        Attention { heads, kv_heads: heads, scale, causal, keys, key_count, first, dropout }
    }
}

fn problem<'a>(
    op: &'static str,
    q: Shape,
    k: Shape,
    v: Shape,
    lse: Shape,
    spec: &Attention<'a>,
) -> Result<host::Problem<'a>> {
    check(op, q.rank() == 3, || format!("`q` has shape {q}, expected [B,T,N*D]"))?;
    check(op, k.rank() == 3, || format!("`k` has shape {k}, expected [B,S,Nkv*D]"))?;
    let (n, kv) = (spec.heads, spec.kv_heads);
    check(op, n > 0 && kv > 0 && n % kv == 0, || format!("{n} query heads cannot share {kv} key heads"))?;
    check(op, q[2].is_multiple_of(n), || format!("`q` has shape {q}, which {n} heads do not divide"))?;
    let d = q[2] / n;
    check_shape(op, "k", k, [q[0], k[1], kv * d])?;
    check_shape(op, "v", v, k)?;
    check_shape(op, "lse", lse, [q[0], n, q[1]])?;
    let s = spec.key_count.unwrap_or(k[1]);
    check(op, s <= k[1], || format!("key_count {s} exceeds the capacity {}", k[1]))?;
    if let Some(keys) = spec.keys {
        check(op, keys.len() == q[0] * s, || {
            format!("the key mask has {} entries, expected {} = {} x {s}", keys.len(), q[0] * s, q[0])
        })?;
    }
    if let Some(first) = spec.first {
        check(op, first.len() == q[0] * q[1], || {
            format!("`first` has {} entries, expected {} = {} x {}", first.len(), q[0] * q[1], q[0], q[1])
        })?;
    }
    Ok(host::Problem {
        batch: q[0],
        t: q[1],
        s,
        capacity: k[1],
        heads: n,
        kv_heads: kv,
        d,
        scale: spec.scale,
        causal: spec.causal,
        keys: spec.keys,
        first: spec.first,
        dropout: spec.dropout,
    })
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
    spec: &Attention<'_>,
) -> Result<()> {
    const OP: &str = "attention";
    let problem = problem(OP, q.shape(), k.shape(), v.shape(), lse.shape(), spec)?;
    check_shape(OP, "out", out.shape(), q.shape())?;
    if lse.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::attention::forward(cx, &problem, q, k, v, out, lse);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::forward(cx, &problem, q.data(), k.data(), v.data(), out.data(), lse.data());
    Ok(())
}

/// As [`forward`] for queries that `rotary` is yet to rotate; the keys are rotated. A device rotates few queries as they are loaded, which saves a launch and two
/// passes over them. The bits are those of [`Rotary::forward`] and [`forward`]; what `q` holds afterwards is not specified.
///
/// # Errors
/// As [`forward`] and [`Rotary::forward`].
#[allow(clippy::too_many_arguments)]
pub fn forward_rotated<E: Element>(
    cx: &Context,
    rotary: &Rotary,
    mut q: ViewMut<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: ViewMut<'_, E>,
    lse: ViewMut<'_, E::Acc>,
    spec: &Attention<'_>,
) -> Result<()> {
    const OP: &str = "attention";
    let problem = problem(OP, q.shape(), k.shape(), v.shape(), lse.shape(), spec)?;
    check_shape(OP, "out", out.shape(), q.shape())?;
    rotary.check(q.shape(), problem.d)?;
    match rotary.on_device(cx)? {
        Some(angles) if !lse.shape().is_empty() => {
            crate::cuda::attention::forward_rotated(cx, &problem, angles, q, k, v, out, lse)
        }
        _ => {
            rotary.forward(cx, q.reborrow())?;
            forward(cx, q.as_view(), k, v, out, lse, spec)
        }
    }
}

/// Gradients of q, k and v, overwritten. With a cache, the gradients of the unused capacity are 0.
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
    spec: &Attention<'_>,
) -> Result<()> {
    const OP: &str = "attention backward";
    let problem = problem(OP, q.shape(), k.shape(), v.shape(), lse.shape(), spec)?;
    check_shape(OP, "out", out.shape(), q.shape())?;
    check_shape(OP, "d_out", d_out.shape(), q.shape())?;
    check_shape(OP, "dq", dq.shape(), q.shape())?;
    check_shape(OP, "dk", dk.shape(), k.shape())?;
    check_shape(OP, "dv", dv.shape(), v.shape())?;
    if q.shape().is_empty() && k.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::attention::backward(cx, &problem, q, k, v, out, lse, d_out, dq, dk, dv);
    }
    if cx.is_planning() {
        return Ok(());
    }
    let inputs =
        host::Saved { q: q.data(), k: k.data(), v: v.data(), out: out.data(), lse: lse.data(), d_out: d_out.data() };
    host::backward(cx, &problem, &inputs, dq.data(), dk.data(), dv.data());
    Ok(())
}
