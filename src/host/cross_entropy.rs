//! Cross entropy on the host; see [`crate::ops::cross_entropy`].

use super::parallel::{max_of, rows_per_chunk, run_rows2, sum_of, with_scratch};
use crate::device::Pool;
use crate::dtype::{Element, Real};
use crate::ops::cross_entropy::IGNORE;
use crate::simd_fn;

simd_fn! {
    /// (m, l) with ln sum exp(x) = m + l, m the largest element. Kept apart, so that x - m - l loses nothing when m is large.
    pub(super) fn log_sum_exp<E: Element>(x: &[E]) -> (E::Acc, E::Acc) {
        let max = max_of(x);
        // A row of -inf has no finite maximum to subtract.
        let shift = if max.is_finite() { max } else { E::Acc::ZERO };
        (shift, sum_of(x, |x| (x.to_acc() - shift).exp()).ln())
    }
}

simd_fn! {
    fn gradient<E: Element>(x: &[E], lse: E::Acc, scale: E::Acc, dx: &mut [E]) {
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = E::from_acc((x.to_acc() - lse).exp() * scale);
        }
    }
}

/// Writes lse and returns the sum of the losses, which is taken in f64.
pub fn forward<E: Element>(pool: &Pool, logits: &[E], targets: &[i32], lse: &mut [E::Acc], v: usize) -> f64 {
    let per_chunk = rows_per_chunk(v);
    let rows = targets.len();
    with_scratch(rows, |losses: &mut [f64]| {
        run_rows2(pool, rows, per_chunk, (lse, 1), (losses, 1), |part, lse, losses| {
            for ((r, lse), loss) in part.zip(lse).zip(losses) {
                (*lse, *loss) = (E::Acc::ZERO, 0.0);
                if targets[r] != IGNORE {
                    let row = &logits[r * v..][..v];
                    let (max, ln) = log_sum_exp(row);
                    *lse = max + ln;
                    *loss = (max - row[targets[r] as usize].to_acc() + ln).as_f64();
                }
            }
        });
        losses.iter().sum()
    })
}

/// d_logits = scale (softmax - onehot).
pub fn backward<E: Element>(
    pool: &Pool,
    logits: &[E],
    targets: &[i32],
    lse: &[E::Acc],
    scale: f64,
    d_logits: &mut [E],
    v: usize,
) {
    let rows = rows_per_chunk(v);
    let scale = E::Acc::of(scale);
    pool.run_parts(d_logits, rows * v, |chunk, d| {
        for (d, r) in d.chunks_exact_mut(v).zip(chunk * rows..) {
            if targets[r] == IGNORE {
                d.fill(E::default());
                continue;
            }
            let (row, target) = (&logits[r * v..][..v], targets[r] as usize);
            gradient(row, lse[r], scale, d);
            // From the unrounded probability, so that bf16 rounds once.
            d[target] = E::from_acc(((row[target].to_acc() - lse[r]).exp() - E::Acc::ONE) * scale);
        }
    });
}
