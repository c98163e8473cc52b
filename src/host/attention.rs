#![allow(clippy::needless_range_loop)] // tiles in registers: every index is a constant once the loops are unrolled

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

use std::ops::Range;

use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::host::gemm::kernels::{self, Finish, PANEL, Strided};
use crate::host::gemm::{self, Slot, dots_block, scratch, store_row, widen};
use crate::host::parallel::fold_lanes;
use crate::ops::dropout::Dropout;
use crate::simd_fn;

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

/// Numbers where they lie if they are of the accumulation type, or widened into `space` (rows of `d`).
fn rows<E: Element>(data: &[E], count: usize, stride: usize, d: usize, space: &mut [E::Acc]) -> (*const E::Acc, usize) {
    if let Some(data) = gemm::same(data) {
        return (data, stride);
    }
    for (r, space) in space.chunks_exact_mut(d).take(count).enumerate() {
        widen(space, &data[r * stride..r * stride + d]);
    }
    (space.as_ptr(), d)
}

/// Panels of the transposed rows of `data`: panel j, `[d, PANEL]`, at `j * d * PANEL`.
fn panels<E: Element>(data: &[E], count: usize, stride: usize, d: usize, wide: &mut [E::Acc], to: &mut [E::Acc]) {
    let (from, ld) = rows(data, count, stride, d, wide);
    for (j, to) in (0..count).step_by(PANEL).zip(to.chunks_exact_mut(d * PANEL)) {
        // SAFETY: `from` has `count` rows of `d`, and `to` is one panel.
        unsafe { kernels::transpose_panel((count - j).min(PANEL), d, from.add(j * ld), ld, to.as_mut_ptr()) };
    }
}

/// `c[m, n] (+)= a b` with `b` in plain rows, any n.
///
/// # Safety
/// As [`kernels::block`].
#[allow(clippy::too_many_arguments)]
unsafe fn multiply<R: Real>(
    (m, n, k): (usize, usize, usize),
    a: Strided<R>,
    b: *const R,
    ldb: usize,
    c: *mut R,
    ldc: usize,
    add: bool,
) {
    for j in (0..n).step_by(PANEL) {
        // SAFETY: columns j .. of the caller's operands.
        unsafe { kernels::block(m, (n - j).min(PANEL), k, a, b.add(j), ldb, c.add(j), ldc, add, Finish::none()) };
    }
}

/// `c[m, n] = a b` with `b` in panels of `k` rows, `n <= KEYS`, rows of `c` KEYS apart.
///
/// # Safety
/// As [`kernels::block`].
unsafe fn multiply_panels<R: Real>((m, n, k): (usize, usize, usize), a: Strided<R>, b: &[R], c: *mut R) {
    for (j, b) in (0..n).step_by(PANEL).zip(b.chunks_exact(k * PANEL)) {
        // SAFETY: columns j .. of the caller's operands.
        unsafe {
            kernels::block(m, (n - j).min(PANEL), k, a, b.as_ptr(), PANEL, c.add(j), KEYS, false, Finish::none())
        };
    }
}

// ---------------------------------------------------------------- forward

/// Scores of one row (a multiple of 16, minus infinity where masked) become exponentials; gives the new maximum and their sum.
#[inline(always)]
fn exponentials<R: Real>(row: &mut [R], scale: R, old_max: R) -> (R, R) {
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
    fn divide<R: Real>(sums: &mut [R], total: &[R], d: usize) {
        for (sums, &total) in sums.chunks_exact_mut(d).zip(total) {
            let factor = R::ONE / total;
            for x in sums {
                *x *= factor;
            }
        }
    }
}

/// The plain mean of the values of query (b, n, t) over all keys, for a query all of whose keys are masked.
fn mean<E: Element>(p: &Problem<'_>, v: &[E], (b, n, t): (usize, usize, usize), to: &mut [E::Acc]) {
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

/// Cuts the next `len` numbers off the front of `space`.
fn cut<'a, R>(space: &mut &'a mut [R], len: usize) -> &'a mut [R] {
    let (front, rest) = std::mem::take(space).split_at_mut(len);
    *space = rest;
    front
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
fn one_query<E: Element>(p: &Problem<'_>, b: usize, n: usize, q: &[E], k: &[E], v: &[E], out: &mut [E]) -> E::Acc {
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

// ---------------------------------------------------------------- backward

simd_fn! {
    /// From scores and `dO V^T` of a block to probabilities (in `probs`) and score gradients (in `grads`): `P = exp(scale S - lse)`,
    /// `dS = scale P (dP - delta)`. Rows are KEYS apart.
    fn gradients<R: Real>(probs: &mut [R], grads: &mut [R], count: usize, scale: R, lse: &[R], delta: &[R]) {
        for (((p, g), &lse), &delta) in probs.chunks_exact_mut(KEYS).zip(grads.chunks_exact_mut(KEYS)).zip(lse).zip(delta) {
            for (p, g) in p[..count].iter_mut().zip(&mut g[..count]) {
                *p = (scale * *p - lse).exp();
                *g = scale * *p * (*g - delta);
            }
        }
    }
}

simd_fn! {
    /// Dot product, in 16 lanes.
    fn dot<E: Element>(a: &[E], b: &[E]) -> E::Acc {
        let mut lanes = [E::Acc::ZERO; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += a.to_acc() * b.to_acc();
            }
        }
        fold_lanes(lanes, |a, b| a + b)
    }
}

/// See [`crate::ops::attention::backward`].
pub fn backward<E: Element>(cx: &Context, p: &Problem<'_>, x: &Saved<'_, E>, dq: &mut [E], dk: &mut [E], dv: &mut [E]) {
    if p.d == 0 {
        return;
    }
    if p.s < p.capacity {
        dk.fill(E::default());
        dv.fill(E::default());
    }
    let (dq, dk, dv) = (SendPtr(dq.as_mut_ptr()), SendPtr(dk.as_mut_ptr()), SendPtr(dv.as_mut_ptr()));
    let work = 5 * p.batch * p.heads * p.t * p.s * p.d;
    gemm::run(cx, p.batch * p.kv_heads, work, |chunk| {
        // SAFETY: the heads of this chunk are written by nobody else.
        unsafe { key_head(p, chunk / p.kv_heads, chunk % p.kv_heads, x, &dq, &dk, &dv) };
    });
}

/// All gradients of key head (b, kv) and of the query heads that share it.
///
/// # Safety
/// Nobody else writes them.
unsafe fn key_head<E: Element>(
    p: &Problem<'_>,
    b: usize,
    kv: usize,
    x: &Saved<'_, E>,
    dq: &SendPtr<E>,
    dk: &SendPtr<E>,
    dv: &SendPtr<E>,
) {
    let (d, group, scale) = (p.d, p.heads / p.kv_heads, E::Acc::of(p.scale));
    let heads = kv * group..(kv + 1) * group;
    let blocks = p.t.div_ceil(QUERIES).max(1);
    let m_most = p.t.div_ceil(blocks);
    let (q_stride, k_stride) = (p.heads * d, p.kv_heads * d);
    let len = group * p.t * (d + 1) + 2 * m_most * (KEYS + d) + 6 * KEYS * d;
    scratch::<E::Acc, _>(Slot::Caller, len, |mut space| {
        let (dq_sums, delta) = (cut(&mut space, group * p.t * d), cut(&mut space, group * p.t));
        let (probs, grads) = (cut(&mut space, m_most * KEYS), cut(&mut space, m_most * KEYS));
        let (q_wide, o_wide) = (cut(&mut space, m_most * d), cut(&mut space, m_most * d));
        let (k_panels, v_panels) = (cut(&mut space, KEYS * d), cut(&mut space, KEYS * d));
        let (k_wide, v_wide) = (cut(&mut space, KEYS * d), cut(&mut space, KEYS * d));
        let (dk_sums, dv_sums) = (cut(&mut space, KEYS * d), cut(&mut space, KEYS * d));
        dq_sums.fill(E::Acc::ZERO);
        for (delta, (n, t)) in delta.iter_mut().zip(heads.clone().flat_map(|n| (0..p.t).map(move |t| (n, t)))) {
            let at = p.query(b, t, n);
            *delta = dot(&x.d_out[at..at + d], &x.out[at..at + d]);
        }
        for start in (0..p.s).step_by(KEYS) {
            let count = KEYS.min(p.s - start);
            let (k, v) = (&x.k[p.key(b, start, kv)..], &x.v[p.key(b, start, kv)..]);
            panels(k, count, k_stride, d, k_wide, k_panels);
            panels(v, count, k_stride, d, v_wide, v_panels);
            let (k_rows, k_ld) = rows(k, count, k_stride, d, k_wide);
            dk_sums.fill(E::Acc::ZERO);
            dv_sums.fill(E::Acc::ZERO);
            for n in heads.clone() {
                for block in 0..blocks {
                    let ts = (block * m_most).min(p.t)..((block + 1) * m_most).min(p.t);
                    if ts.is_empty() {
                        continue;
                    }
                    let m = ts.len();
                    let lse = &x.lse[(b * p.heads + n) * p.t..][ts.clone()];
                    let ss = start..start + count;
                    let masked = (p.keys.is_some() || p.first.is_some()) && lse.contains(&E::Acc::LOWEST);
                    let unseen = p.limit(ts.end - 1) <= ss.start || p.first_start(b, ts.clone()) >= ss.end;
                    if unseen && !masked {
                        continue;
                    }
                    let first = (n - heads.start) * p.t + ts.start;
                    let delta = &delta[first..first + m];
                    let at = p.query(b, ts.start, n);
                    let (q, q_ld) = rows(&x.q[at..], m, q_stride, d, q_wide);
                    let (d_out, o_ld) = rows(&x.d_out[at..], m, q_stride, d, o_wide);
                    let plain = |data, row| Strided { data, row, col: 1 };
                    // SAFETY: the blocks have these sizes.
                    unsafe {
                        multiply_panels((m, count, d), plain(q, q_ld), k_panels, probs.as_mut_ptr());
                        multiply_panels((m, count, d), plain(d_out, o_ld), v_panels, grads.as_mut_ptr());
                    }
                    p.drop(b, n, ts.clone(), ss.clone(), grads);
                    if p.is_masked(&ts, &ss) {
                        p.mask(b, ts.clone(), ss.clone(), probs);
                    }
                    if masked {
                        all_masked(p, b, ts.clone(), ss.clone(), lse, delta, probs, grads);
                    } else {
                        gradients(&mut probs[..m * KEYS], grads, count, scale, lse, delta);
                    }
                    p.drop(b, n, ts, ss, probs);
                    // The only key has weight 1 whatever its score is.
                    if p.s == 1 {
                        grads.fill(E::Acc::ZERO);
                    }
                    let turned = |data: &[E::Acc]| Strided { data: data.as_ptr(), row: 1, col: KEYS };
                    // SAFETY: as above.
                    unsafe {
                        multiply((count, d, m), turned(probs), d_out, o_ld, dv_sums.as_mut_ptr(), d, true);
                        multiply((count, d, m), turned(grads), q, q_ld, dk_sums.as_mut_ptr(), d, true);
                        let to = dq_sums[first * d..].as_mut_ptr();
                        multiply((m, d, count), plain(grads.as_ptr(), KEYS), k_rows, k_ld, to, d, true);
                    }
                }
            }
            for s in 0..count {
                let at = p.key(b, start + s, kv);
                // SAFETY: the caller's promise.
                unsafe {
                    store_row(std::slice::from_raw_parts_mut(dk.get().add(at), d), &dk_sums[s * d..(s + 1) * d]);
                    store_row(std::slice::from_raw_parts_mut(dv.get().add(at), d), &dv_sums[s * d..(s + 1) * d]);
                }
            }
        }
        for (sums, (n, t)) in dq_sums.chunks_exact(d).zip(heads.flat_map(|n| (0..p.t).map(move |t| (n, t)))) {
            // SAFETY: the caller's promise.
            unsafe { store_row(std::slice::from_raw_parts_mut(dq.get().add(p.query(b, t, n)), d), sums) };
        }
    });
}

/// [`gradients`] for a block in which some row has no key to see: there P = 1/S, and each mask that hides a key halves, both together
/// take away, its score gradient.
#[allow(clippy::too_many_arguments)]
fn all_masked<R: Real>(
    p: &Problem<'_>,
    b: usize,
    ts: Range<usize>,
    ss: Range<usize>,
    lse: &[R],
    delta: &[R],
    probs: &mut [R],
    grads: &mut [R],
) {
    let scale = R::of(p.scale);
    for (r, t) in ts.enumerate() {
        let (probs, grads) = (&mut probs[r * KEYS..(r + 1) * KEYS], &mut grads[r * KEYS..(r + 1) * KEYS]);
        if lse[r] != R::LOWEST {
            gradients(probs, grads, ss.len(), scale, &lse[r..=r], &delta[r..=r]);
            continue;
        }
        for (c, s) in ss.clone().enumerate() {
            let padded = p.padding(b).is_some_and(|keys| keys[s] == 0);
            let both = padded && (s >= p.limit(t) || s < p.start(b, t));
            probs[c] = R::ONE / R::of_usize(p.s);
            grads[c] = if both { R::ZERO } else { R::of(0.5) * scale * probs[c] * (grads[c] - delta[r]) };
        }
    }
}
