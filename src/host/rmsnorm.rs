//! Root-mean-square normalisation on the host; see [`crate::ops::rmsnorm`].

use std::ops::Range;

use super::parallel::{column_sums, row_sum, rows_per_chunk, run_rows2, sum_of};
use crate::device::Pool;
use crate::dtype::{Element, Real};
use crate::simd_fn;

simd_fn! {
    fn forward_rows<E: Element>(x: &[E], weight: &[E], y: &mut [E], rstd: &mut [E::Acc], cols: usize, eps: f64) {
        let inverse = E::Acc::of(1.0 / cols as f64);
        let eps = E::Acc::of(eps);
        for ((x, y), rstd) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(rstd) {
            let squares = sum_of(x, |x| {
                let x = x.to_acc();
                x * x
            });
            let r = E::Acc::ONE / (squares * inverse + eps).sqrt();
            *rstd = r;
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = E::from_acc(x.to_acc() * r * w.to_acc());
            }
        }
    }
}

// With a residual and without in two functions: the compiler vectorises the sum of a row badly where two loops follow it.
simd_fn! {
    fn backward_rows<E: Element>(x: &[E], weight: &[E], rstd: &[E::Acc], dy: &[E], dx: &mut [E], cols: usize) {
        let inverse = E::Acc::of(1.0 / cols as f64);
        let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)).zip(rstd);
        for (((x, dy), dx), &r) in rows {
            let mean = row_sum(x, dy, weight, |x, dy, w| dy * w * (x * r)) * inverse;
            for (((dx, &x), &dy), &w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                *dx = E::from_acc(r * (dy.to_acc() * w.to_acc() - x.to_acc() * r * mean));
            }
        }
    }
}

simd_fn! {
    fn backward_rows_add<E: Element>(x: &[E], weight: &[E], rstd: &[E::Acc], dy: &[E], residual: &[E], dx: &mut [E], cols: usize) {
        let inverse = E::Acc::of(1.0 / cols as f64);
        let inputs = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(residual.chunks_exact(cols));
        for ((((x, dy), residual), dx), &r) in inputs.zip(dx.chunks_exact_mut(cols)).zip(rstd) {
            let mean = row_sum(x, dy, weight, |x, dy, w| dy * w * (x * r)) * inverse;
            for ((((dx, &x), &dy), &w), &beside) in dx.iter_mut().zip(x).zip(dy).zip(weight).zip(residual) {
                *dx = E::from_acc(r * (dy.to_acc() * w.to_acc() - x.to_acc() * r * mean) + beside.to_acc());
            }
        }
    }
}

simd_fn! {
    fn parameter_columns<E: Element>(x: &[E], rstd: &[E::Acc], dy: &[E], cols: usize, rows: Range<usize>, columns: Range<usize>, dw: &mut [E::Acc]) {
        for r in rows {
            let scale = rstd[r];
            let x = &x[r * cols..][columns.clone()];
            let dy = &dy[r * cols..][columns.clone()];
            for ((dw, &x), &dy) in dw.iter_mut().zip(x).zip(dy) {
                *dw += dy.to_acc() * (x.to_acc() * scale);
            }
        }
    }
}

/// Forward over rows of `cols` channels.
pub fn forward<E: Element>(
    pool: &Pool,
    x: &[E],
    weight: &[E],
    y: &mut [E],
    rstd: &mut [E::Acc],
    cols: usize,
    eps: f64,
) {
    run_rows2(pool, x.len() / cols, rows_per_chunk(cols), (y, cols), (rstd, 1), |rows, y, rstd| {
        forward_rows(&x[rows.start * cols..rows.end * cols], weight, y, rstd, cols, eps);
    });
}

/// Backward over rows of `cols` channels: dx is overwritten, dw is added to.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    pool: &Pool,
    x: &[E],
    weight: &[E],
    rstd: &[E::Acc],
    dy: &[E],
    residual: Option<&[E]>,
    dx: &mut [E],
    dw: Option<&mut [E::Acc]>,
    cols: usize,
) {
    let rows = rows_per_chunk(cols);
    pool.run_parts(dx, rows * cols, |chunk, dx| {
        let part = chunk * rows * cols..chunk * rows * cols + dx.len();
        let rstd = &rstd[chunk * rows..][..dx.len() / cols];
        let (x, dy) = (&x[part.clone()], &dy[part.clone()]);
        match residual {
            Some(residual) => backward_rows_add(x, weight, rstd, dy, &residual[part], dx, cols),
            None => backward_rows(x, weight, rstd, dy, dx, cols),
        }
    });
    column_sums(pool, x.len() / cols, cols, [dw, None], |rows, columns, dw, _| {
        parameter_columns(x, rstd, dy, cols, rows, columns, dw);
    });
}
