//! Layer normalisation on the host; see [`crate::ops::layernorm`]. Missing weight and bias are empty slices.

use std::ops::Range;

use super::parallel::{column_sums, row_sum, rows_per_chunk, run_rows2, sum_of};
use crate::device::Pool;
use crate::dtype::{Element, Real};
use crate::simd_fn;

simd_fn! {
    fn forward_rows<E: Element>(x: &[E], weight: &[E], bias: &[E], y: &mut [E], stats: &mut [E::Acc], cols: usize, eps: f64) {
        let inverse = E::Acc::of(1.0 / cols as f64);
        let eps = E::Acc::of(eps);
        for ((x, y), stats) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(stats.chunks_exact_mut(2)) {
            let mean = sum_of(x, |x| x.to_acc()) * inverse;
            let var = sum_of(x, |x| {
                let d = x.to_acc() - mean;
                d * d
            }) * inverse;
            let rstd = E::Acc::ONE / (var + eps).sqrt();
            stats[0] = mean;
            stats[1] = rstd;
            match (weight.is_empty(), bias.is_empty()) {
                (true, true) => {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = E::from_acc((x.to_acc() - mean) * rstd);
                    }
                }
                (false, true) => {
                    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                        *y = E::from_acc((x.to_acc() - mean) * rstd * w.to_acc());
                    }
                }
                (true, false) => {
                    for ((y, &x), &b) in y.iter_mut().zip(x).zip(bias) {
                        *y = E::from_acc((x.to_acc() - mean) * rstd + b.to_acc());
                    }
                }
                (false, false) => {
                    for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                        *y = E::from_acc((x.to_acc() - mean) * rstd * w.to_acc() + b.to_acc());
                    }
                }
            }
        }
    }
}

simd_fn! {
    fn backward_rows<E: Element>(x: &[E], weight: &[E], stats: &[E::Acc], dy: &[E], residual: Option<&[E]>, dx: &mut [E], cols: usize) {
        let inverse = E::Acc::of(1.0 / cols as f64);
        let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)).zip(stats.chunks_exact(2));
        for (row, (((x, dy), dx), stats)) in rows.enumerate() {
            let residual = residual.map(|residual| &residual[row * cols..][..cols]);
            let (mean, rstd) = (stats[0], stats[1]);
            if weight.is_empty() {
                let first = sum_of(dy, |dy| dy.to_acc()) * inverse;
                let second = row_sum(x, dy, dy, |x, dy, _| dy * ((x - mean) * rstd)) * inverse;
                if let Some(residual) = residual {
                    for (((dx, &x), &dy), &beside) in dx.iter_mut().zip(x).zip(dy).zip(residual) {
                        let n = (x.to_acc() - mean) * rstd;
                        *dx = E::from_acc(rstd * (dy.to_acc() - first - n * second) + beside.to_acc());
                    }
                } else {
                    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                        let n = (x.to_acc() - mean) * rstd;
                        *dx = E::from_acc(rstd * (dy.to_acc() - first - n * second));
                    }
                }
            } else {
                let first = row_sum(x, dy, weight, |_, dy, w| dy * w) * inverse;
                let second = row_sum(x, dy, weight, |x, dy, w| dy * w * ((x - mean) * rstd)) * inverse;
                if let Some(residual) = residual {
                    for ((((dx, &x), &dy), &w), &beside) in dx.iter_mut().zip(x).zip(dy).zip(weight).zip(residual) {
                        let n = (x.to_acc() - mean) * rstd;
                        *dx = E::from_acc(rstd * (dy.to_acc() * w.to_acc() - first - n * second) + beside.to_acc());
                    }
                } else {
                    for (((dx, &x), &dy), &w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                        let n = (x.to_acc() - mean) * rstd;
                        *dx = E::from_acc(rstd * (dy.to_acc() * w.to_acc() - first - n * second));
                    }
                }
            }
        }
    }
}

simd_fn! {
    fn parameter_columns<E: Element>(x: &[E], stats: &[E::Acc], dy: &[E], cols: usize, rows: Range<usize>, columns: Range<usize>, dw: &mut [E::Acc], db: &mut [E::Acc]) {
        for r in rows {
            let (mean, rstd) = (stats[2 * r], stats[2 * r + 1]);
            let x = &x[r * cols..][columns.clone()];
            let dy = &dy[r * cols..][columns.clone()];
            for (((dw, db), &x), &dy) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(dy) {
                let d = dy.to_acc();
                *dw += d * ((x.to_acc() - mean) * rstd);
                *db += d;
            }
        }
    }
}

/// Forward over rows of `cols` channels.
#[allow(clippy::too_many_arguments)]
pub fn forward<E: Element>(
    pool: &Pool,
    x: &[E],
    weight: &[E],
    bias: &[E],
    y: &mut [E],
    stats: &mut [E::Acc],
    cols: usize,
    eps: f64,
) {
    run_rows2(pool, x.len() / cols, rows_per_chunk(cols), (y, cols), (stats, 2), |rows, y, stats| {
        forward_rows(&x[rows.start * cols..rows.end * cols], weight, bias, y, stats, cols, eps);
    });
}

/// Backward over rows of `cols` channels: dx is overwritten, dw and db are added to.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    pool: &Pool,
    x: &[E],
    weight: &[E],
    stats: &[E::Acc],
    dy: &[E],
    residual: Option<&[E]>,
    dx: &mut [E],
    dw: Option<&mut [E::Acc]>,
    db: Option<&mut [E::Acc]>,
    cols: usize,
) {
    let rows = rows_per_chunk(cols);
    pool.run_parts(dx, rows * cols, |chunk, dx| {
        let part = chunk * rows * cols..chunk * rows * cols + dx.len();
        let stats = &stats[2 * chunk * rows..][..2 * dx.len() / cols];
        let residual = residual.map(|residual| &residual[part.clone()]);
        backward_rows(&x[part.clone()], weight, stats, &dy[part], residual, dx, cols);
    });
    column_sums(pool, x.len() / cols, cols, [dw, db], |rows, columns, dw, db| {
        parameter_columns(x, stats, dy, cols, rows, columns, dw, db);
    });
}
