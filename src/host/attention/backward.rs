//! The backward: for each block of keys, all queries that see it.

use std::ops::Range;

use super::blocks::{cut, multiply, multiply_panels, panels, rows};
use super::{KEYS, LANES, Problem, QUERIES, Saved};
use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::host::gemm::kernels::Strided;
use crate::host::gemm::{self, Slot, scratch, store_row};
use crate::host::parallel::fold_lanes;
use crate::simd_fn;

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
