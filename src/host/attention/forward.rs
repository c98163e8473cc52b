#![allow(clippy::needless_range_loop)] // tiles in registers: every index is a constant once the loops are unrolled

//! The forward: blocks of queries, an online softmax over blocks of keys.

use std::ops::Range;

use super::blocks::{cut, multiply, multiply_panels, panels, rows};
use super::one_query::one_query;
use super::{KEYS, LANES, Problem, QUERIES};
use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::host::gemm::kernels::Strided;
use crate::host::gemm::{self, Slot, scratch, store_row, widen};
use crate::host::parallel::fold_lanes;
use crate::simd_fn;

/// Scores of one row (a multiple of 16, minus infinity where masked) become exponentials; gives the new maximum and their sum.
#[inline(always)]
pub(super) fn exponentials<R: Real>(row: &mut [R], scale: R, old_max: R) -> (R, R) {
    let mut lanes = [old_max; LANES];
    for x in row.chunks_exact_mut(LANES) {
        for l in 0..LANES {
            x[l] *= scale;
            lanes[l] = lanes[l].max(x[l]);
        }
    }
    let max = fold_lanes(lanes, |a, b| a.max(b));
    let mut lanes = [R::ZERO; LANES];
    for x in row.chunks_exact_mut(LANES) {
        for l in 0..LANES {
            x[l] = (x[l] - max).exp();
            lanes[l] += x[l];
        }
    }
    (max, fold_lanes(lanes, |a, b| a + b))
}

simd_fn! {
    /// The online softmax of a block: `scores` (rows KEYS apart, `count` of them used) become exponentials, `max` and `total` are brought up
    /// to date, and rows of `sums` are rescaled.
    fn softmax<R: Real>(scores: &mut [R], count: usize, scale: R, max: &mut [R], total: &mut [R], sums: &mut [R], d: usize) {
        let padded = count.next_multiple_of(LANES);
        let infinity = R::of(f64::NEG_INFINITY);
        for (((row, max), total), sums) in scores.chunks_exact_mut(KEYS).zip(max).zip(total).zip(sums.chunks_exact_mut(d)) {
            row[count..padded].fill(infinity);
            let (new, sum) = exponentials(&mut row[..padded], scale, *max);
            if new != *max {
                let factor = (*max - new).exp();
                *total *= factor;
                for x in sums {
                    *x *= factor;
                }
                *max = new;
            }
            *total += sum;
        }
    }
}

simd_fn! {
    /// Rows of sums divided by their totals, in place.
    pub(super) fn divide<R: Real>(sums: &mut [R], total: &[R], d: usize) {
        for (sums, &total) in sums.chunks_exact_mut(d).zip(total) {
            let factor = R::ONE / total;
            for x in sums {
                *x *= factor;
            }
        }
    }
}

/// The plain mean of the values of query (b, n, t) over all keys, for a query all of whose keys are masked.
pub(super) fn mean<E: Element>(p: &Problem<'_>, v: &[E], (b, n, t): (usize, usize, usize), to: &mut [E::Acc]) {
    let kv = n / (p.heads / p.kv_heads);
    to.fill(E::Acc::ZERO);
    for start in (0..p.s).step_by(KEYS) {
        let ss = start..p.s.min(start + KEYS);
        let mut weights = [E::Acc::ONE; KEYS];
        p.drop(b, n, t..t + 1, ss.clone(), &mut weights);
        for (s, weight) in ss.zip(weights) {
            let at = p.key(b, s, kv);
            for (to, v) in to.iter_mut().zip(&v[at..at + p.d]) {
                *to += weight * v.to_acc();
            }
        }
    }
    let count = E::Acc::of_usize(p.s.max(1));
    to.iter_mut().for_each(|x| *x /= count);
}

/// See [`crate::ops::attention::forward`].
pub fn forward<E: Element>(
    cx: &Context,
    p: &Problem<'_>,
    q: &[E],
    k: &[E],
    v: &[E],
    out: &mut [E],
    lse: &mut [E::Acc],
) {
    if p.d == 0 {
        return lse.fill(E::Acc::ZERO);
    }
    let (out, lse) = (SendPtr(out.as_mut_ptr()), SendPtr(lse.as_mut_ptr()));
    let work = 2 * p.batch * p.heads * p.t * p.s * p.d;
    if p.t == 1 {
        return gemm::run(cx, p.batch * p.heads, work, |chunk| {
            let (b, n) = (chunk / p.heads, chunk % p.heads);
            let at = p.query(b, 0, n);
            // SAFETY: this query's output and lse are this chunk's alone.
            let (out, lse) =
                unsafe { (std::slice::from_raw_parts_mut(out.get().add(at), p.d), &mut *lse.get().add(chunk)) };
            *lse = one_query(p, b, n, &q[at..at + p.d], k, v, out);
        });
    }
    let blocks = p.t.div_ceil(QUERIES);
    let each = p.t.div_ceil(blocks);
    gemm::run(cx, p.batch * p.heads * blocks, work, |chunk| {
        let (b, n, block) = (chunk / blocks / p.heads, chunk / blocks % p.heads, chunk % blocks);
        let ts = (block * each).min(p.t)..((block + 1) * each).min(p.t);
        // SAFETY: these queries are this chunk's alone.
        unsafe { queries(p, b, n, ts, q, k, v, &out, &lse) };
    });
}

/// Queries `ts` of (b, n).
///
/// # Safety
/// Nobody else writes their outputs.
#[allow(clippy::too_many_arguments)]
unsafe fn queries<E: Element>(
    p: &Problem<'_>,
    b: usize,
    n: usize,
    ts: Range<usize>,
    q: &[E],
    k: &[E],
    v: &[E],
    out: &SendPtr<E>,
    lse: &SendPtr<E::Acc>,
) {
    let (m, d) = (ts.len(), p.d);
    if m == 0 {
        return;
    }
    let kv = n / (p.heads / p.kv_heads);
    let scale = E::Acc::of(p.scale);
    scratch::<E::Acc, _>(Slot::Caller, m * (KEYS + 2 * d + 2) + 3 * KEYS * d, |mut space| {
        let scores = cut(&mut space, m * KEYS);
        let sums = cut(&mut space, m * d);
        let q_wide = cut(&mut space, m * d);
        let k_panels = cut(&mut space, KEYS * d);
        let (k_wide, v_wide) = (cut(&mut space, KEYS * d), cut(&mut space, KEYS * d));
        let (max, total) = (cut(&mut space, m), cut(&mut space, m));
        sums.fill(E::Acc::ZERO);
        max.fill(E::Acc::LOWEST);
        total.fill(E::Acc::ZERO);
        let (q_rows, q_ld) = rows(&q[p.query(b, ts.start, n)..], m, p.heads * d, d, q_wide);
        let q_rows = Strided { data: q_rows, row: q_ld, col: 1 };
        let (end, stride) = (p.limit(ts.end - 1), p.kv_heads * d);
        // Blocks before the documents of all these queries are left out.
        let begin = p.first_start(b, ts.clone()) / KEYS * KEYS;
        for start in (begin..end).step_by(KEYS) {
            let count = KEYS.min(end - start);
            panels(&k[p.key(b, start, kv)..], count, stride, d, k_wide, k_panels);
            // Values are copied even if they could be read in place: rows a power of two apart evict each other.
            for (s, v_wide) in v_wide.chunks_exact_mut(d).take(count).enumerate() {
                widen(v_wide, &v[p.key(b, start + s, kv)..][..d]);
            }
            // SAFETY: the blocks have these sizes.
            unsafe { multiply_panels((m, count, d), q_rows, k_panels, scores.as_mut_ptr()) };
            let ss = start..start + count;
            if p.is_masked(&ts, &ss) {
                p.mask(b, ts.clone(), ss.clone(), scores);
            }
            softmax(scores, count, scale, max, total, sums, d);
            p.drop(b, n, ts.clone(), ss, scores);
            let exps = Strided { data: scores.as_ptr(), row: KEYS, col: 1 };
            // SAFETY: as above.
            unsafe { multiply((m, d, count), exps, v_wide.as_ptr(), d, sums.as_mut_ptr(), d, true) };
        }
        divide(sums, total, d);
        for (r, t) in ts.enumerate() {
            let sums = &mut sums[r * d..(r + 1) * d];
            let masked = total[r] == E::Acc::ZERO;
            if masked {
                mean(p, v, (b, n, t), sums);
            }
            // SAFETY: the caller's promise.
            unsafe {
                store_row(std::slice::from_raw_parts_mut(out.get().add(p.query(b, t, n)), d), sums);
                *lse.get().add((b * p.heads + n) * p.t + t) =
                    if masked { E::Acc::LOWEST } else { max[r] + total[r].ln() };
            }
        }
    });
}
