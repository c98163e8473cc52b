//! Mean squared error on the host; see [`crate::ops::mse`]. The sum over chunks is taken in f64.

use super::parallel::{rows_per_chunk, run_rows2, with_scratch};
use crate::device::Pool;
use crate::dtype::{Element, Real};

/// Sum of factor (pred - target)^2, in f64; each term into `map`.
pub fn forward<E: Element>(
    pool: &Pool,
    pred: &[E],
    target: &[E],
    factor: Option<&[f32]>,
    map: Option<&mut [E]>,
    c: usize,
) -> f64 {
    let rows = pred.len() / c;
    let map_cols = if map.is_some() { c } else { 0 };
    with_scratch(rows, |sums: &mut [f64]| {
        let map = map.unwrap_or_default();
        run_rows2(pool, rows, rows_per_chunk(c), (sums, 1), (map, map_cols), |part, sums, map| {
            for (i, (r, sum)) in part.zip(sums).enumerate() {
                let f = factor.map_or(E::Acc::ONE, |f| E::Acc::of(f64::from(f[r])));
                let (pred, target) = (&pred[r * c..][..c], &target[r * c..][..c]);
                *sum = 0.0;
                for (k, (&p, &t)) in pred.iter().zip(target).enumerate() {
                    let d = p.to_acc() - t.to_acc();
                    let term = f * (d * d);
                    *sum += term.as_f64();
                    if map_cols > 0 {
                        map[i * c + k] = E::from_acc(term);
                    }
                }
            }
        });
        sums.iter().sum()
    })
}

/// dpred = scale factor (pred - target).
pub fn backward<E: Element>(
    pool: &Pool,
    pred: &[E],
    target: &[E],
    factor: Option<&[f32]>,
    scale: f64,
    dpred: &mut [E],
    c: usize,
) {
    let rows = rows_per_chunk(c);
    pool.run_parts(dpred, rows * c, |chunk, d| {
        for (d, r) in d.chunks_exact_mut(c).zip(chunk * rows..) {
            let f = E::Acc::of(factor.map_or(scale, |f| scale * f64::from(f[r])));
            for ((d, &p), &t) in d.iter_mut().zip(&pred[r * c..][..c]).zip(&target[r * c..][..c]) {
                *d = E::from_acc(f * (p.to_acc() - t.to_acc()));
            }
        }
    });
}
