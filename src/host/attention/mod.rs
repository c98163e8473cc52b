//! Attention on the processor: blocks of queries against blocks of `KEYS` keys, through the micro-kernels of [`crate::host::gemm`].
//!
//! | function | a chunk is | per block of keys |
//! |---|---|---|
//! | forward, one query | (image, head) | dot products with the keys where they lie, softmax, weighted sum of values |
//! | forward | (image, head, up to `QUERIES` queries) | `S = Q K^T`, online softmax in place, `O += P V` |
//! | backward | (image, key head) | for each block of queries: `P` from `Q K^T` and lse, `dV += P^T dO`, `dP = dO V^T`, `dK += dS^T Q`, `dQ += dS K` |
//!
//! Up to `KEYS` keys (the UNet's condition) there is one block, and nothing is rescaled. Sums are in `E::Acc`; a chunk's scratch is a few blocks, and in
//! the backward the gradient of its queries. Chunks never share an output, so bits do not depend on threads.
//!
//! Measured as in [`crate::host::gemm`], GFLOP/s of the products (batch x T x S x heads x D):
//!
//! | | 32x64x64x4x32 | 4x1024x77x4x40 | 1x2048x2048x4x64 | same, causal | same, bf16 |
//! |---|---|---|---|---|---|
//! | forward | 59 | 51 | 92 | 85 | 93 |
//! | backward | 83 | 77 | 85 | 74 | 128 |
//!
//! Decoding, 8x1x512x8x64: 0.9 ms for 17 MB of keys and values, the speed of memory.

mod backward;
mod blocks;
mod forward;
mod one_query;

pub use backward::backward;
pub use forward::forward;

use std::ops::Range;

use crate::dtype::{Element, Real};
use crate::ops::dropout::Dropout;

/// Keys in a block.
const KEYS: usize = 128;
/// Queries in a block, at most.
const QUERIES: usize = 112;
/// Width of the loops over rows; rows of blocks are padded to it.
const LANES: usize = 16;

/// The sizes and masks of an attention.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Problem<'a> {
    pub batch: usize,
    pub t: usize,
    pub s: usize,
    pub capacity: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub d: usize,
    pub scale: f64,
    pub causal: Option<usize>,
    pub keys: Option<&'a [u8]>,
    pub first: Option<&'a [u32]>,
    pub dropout: Option<Dropout>,
}

/// What the backward reads.
#[allow(missing_docs)]
pub struct Saved<'a, E: Element> {
    pub q: &'a [E],
    pub k: &'a [E],
    pub v: &'a [E],
    pub out: &'a [E],
    pub lse: &'a [E::Acc],
    pub d_out: &'a [E],
}

impl Problem<'_> {
    /// The key mask of image `b`.
    fn padding(&self, b: usize) -> Option<&[u8]> {
        self.keys.map(|keys| &keys[b * self.s..(b + 1) * self.s])
    }

    /// How many keys lie before the causal line of query `t`.
    fn limit(&self, t: usize) -> usize {
        self.causal.map_or(self.s, |o| self.s.min(t.saturating_add(o).saturating_add(1)))
    }

    /// The first key that query (b, t) may see.
    fn start(&self, b: usize, t: usize) -> usize {
        self.first.map_or(0, |first| first[b * self.t + t] as usize)
    }

    /// The first key that any of the queries `ts` may see.
    fn first_start(&self, b: usize, ts: Range<usize>) -> usize {
        self.first.map_or(0, |_| ts.map(|t| self.start(b, t)).min().unwrap_or(0))
    }

    /// Whether scores of queries `ts` with keys `ss` have a mask.
    fn is_masked(&self, ts: &Range<usize>, ss: &Range<usize>) -> bool {
        self.keys.is_some() || self.first.is_some() || self.limit(ts.start) < ss.end
    }

    /// Drops probabilities, or their gradients, of queries `ts` of (b, n) with keys `ss`; rows are KEYS apart.
    fn drop<R: Real>(&self, b: usize, n: usize, ts: Range<usize>, ss: Range<usize>, probs: &mut [R]) {
        if let Some(dropout) = &self.dropout {
            for (t, row) in ts.zip(probs.chunks_exact_mut(KEYS)) {
                let row_of_mask = (b * self.heads + n) * self.t + t;
                dropout.apply(&mut row[..ss.len()], row_of_mask, self.s, ss.start);
            }
        }
    }

    /// Where the numbers of query (b, t, n) begin.
    fn query(&self, b: usize, t: usize, n: usize) -> usize {
        ((b * self.t + t) * self.heads + n) * self.d
    }

    /// Where the numbers of key (b, s, n) begin.
    fn key(&self, b: usize, s: usize, n: usize) -> usize {
        ((b * self.capacity + s) * self.kv_heads + n) * self.d
    }

    /// Sets the scores of masked keys to minus infinity; rows are queries `ts`, columns keys `ss`.
    fn mask<R: Real>(&self, b: usize, ts: Range<usize>, ss: Range<usize>, scores: &mut [R]) {
        let infinity = R::of(f64::NEG_INFINITY);
        for (t, row) in ts.zip(scores.chunks_exact_mut(KEYS)) {
            let seen = self.limit(t).clamp(ss.start, ss.end) - ss.start;
            row[seen..ss.len()].fill(infinity);
            row[..self.start(b, t).clamp(ss.start, ss.end) - ss.start].fill(infinity);
            if let Some(padding) = self.padding(b) {
                for (x, &open) in row.iter_mut().zip(&padding[ss.clone()]) {
                    *x = if open == 0 { infinity } else { *x };
                }
            }
        }
    }
}
