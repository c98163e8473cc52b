#![allow(clippy::needless_range_loop)] // tiles in registers: every index is a constant once the loops are unrolled

//! The forward of a single query, a row of decoding: keys and values are read where they lie.

use super::blocks::cut;
use super::forward::{divide, exponentials, mean};
use super::{LANES, Problem};
use crate::dtype::{Element, Real};
use crate::host::gemm::{Slot, dots_block, scratch, store_row, widen};
use crate::simd_fn;

simd_fn! {
    /// Scores of one query with `scores.len()` keys, `stride` apart.
    fn scores_of<E: Element>(q: &[E::Acc], k: &[E], stride: usize, scores: &mut [E::Acc]) {
        let d = q.len();
        let key = |s: usize| &k[s * stride..s * stride + d];
        let mut s = 0;
        while s + 4 <= scores.len() {
            let sums = dots_block::<E, 1, 4>([q], [key(s), key(s + 1), key(s + 2), key(s + 3)]);
            scores[s..s + 4].copy_from_slice(&sums[0]);
            s += 4;
        }
        for s in s..scores.len() {
            scores[s] = dots_block::<E, 1, 1>([q], [key(s)])[0][0];
        }
    }
}

simd_fn! {
    /// Scores (padded to a multiple of 16) become exponentials; gives their maximum and sum.
    fn softmax_row<R: Real>(row: &mut [R], scale: R) -> (R, R) {
        exponentials(row, scale, R::LOWEST)
    }
}

simd_fn! {
    /// `sums = sum of w[s] v[s]`, rows of v `stride` apart.
    fn weigh<E: Element>(sums: &mut [E::Acc], w: &[E::Acc], v: &[E], stride: usize) {
        const WIDE: usize = 64;
        let whole = sums.len() / WIDE * WIDE;
        let (front, rest) = sums.split_at_mut(whole);
        for (c, sums) in front.chunks_exact_mut(WIDE).enumerate() {
            let mut lanes = [E::Acc::ZERO; WIDE];
            for (s, &w) in w.iter().enumerate() {
                let v = &v[s * stride + c * WIDE..][..WIDE];
                for l in 0..WIDE {
                    lanes[l] += w * v[l].to_acc();
                }
            }
            sums.copy_from_slice(&lanes);
        }
        rest.fill(E::Acc::ZERO);
        for (s, &w) in w.iter().enumerate() {
            for (sum, v) in rest.iter_mut().zip(&v[s * stride + whole..]) {
                *sum += w * v.to_acc();
            }
        }
    }
}

/// The only query of (b, n): a row of decoding. Gives its lse.
pub(super) fn one_query<E: Element>(
    p: &Problem<'_>,
    b: usize,
    n: usize,
    q: &[E],
    k: &[E],
    v: &[E],
    out: &mut [E],
) -> E::Acc {
    let kv = n / (p.heads / p.kv_heads);
    let (count, stride) = (p.limit(0), p.kv_heads * p.d);
    let padded = count.next_multiple_of(LANES);
    scratch::<E::Acc, _>(Slot::Caller, padded + 2 * p.d, |mut space| {
        let (scores, wide, sums) = (cut(&mut space, padded), cut(&mut space, p.d), cut(&mut space, p.d));
        widen(wide, q);
        let infinity = E::Acc::of(f64::NEG_INFINITY);
        let mut lse = E::Acc::LOWEST;
        let mut total = E::Acc::ZERO;
        if count > 0 {
            scores[count..].fill(infinity);
            scores_of(wide, &k[p.key(b, 0, kv)..], stride, &mut scores[..count]);
            scores[..p.start(b, 0).min(count)].fill(infinity);
            if let Some(padding) = p.padding(b) {
                for (x, &open) in scores.iter_mut().zip(padding) {
                    *x = if open == 0 { infinity } else { *x };
                }
            }
            let max;
            (max, total) = softmax_row(scores, E::Acc::of(p.scale));
            lse = max + total.ln();
            if let Some(dropout) = &p.dropout {
                dropout.apply(&mut scores[..count], b * p.heads + n, p.s, 0);
            }
        }
        if total == E::Acc::ZERO {
            mean(p, v, (b, n, 0), sums);
            lse = E::Acc::LOWEST;
        } else {
            weigh(sums, &scores[..count], &v[p.key(b, 0, kv)..], stride);
            divide(sums, &[total], p.d);
        }
        store_row(out, sums);
        lse
    })
}
