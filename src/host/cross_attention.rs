//! Cross attention over a short condition: the blocks of [`crate::host::attention`], where up to 128 keys are a single block, so that a row of scores
//! is complete before its softmax and nothing is rescaled.

use crate::device::Context;
use crate::dtype::Element;
use crate::host::attention;

/// The sizes of a cross attention.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Problem {
    pub batch: usize,
    pub t: usize,
    pub s: usize,
    pub heads: usize,
    pub d: usize,
    pub scale: f64,
}

/// See [`crate::ops::cross_attention::forward`].
pub fn forward<E: Element>(cx: &Context, p: &Problem, q: &[E], k: &[E], v: &[E], out: &mut [E], lse: &mut [E::Acc]) {
    let general = attention::Problem {
        batch: p.batch,
        t: p.t,
        s: p.s,
        capacity: p.s,
        heads: p.heads,
        kv_heads: p.heads,
        d: p.d,
        scale: p.scale,
        causal: None,
        keys: None,
        first: None,
        dropout: None,
    };
    attention::forward(cx, &general, q, k, v, out, lse);
}
