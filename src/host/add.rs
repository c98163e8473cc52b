//! Pointwise sums and scalings on the host; see [`crate::ops::add`].

use std::ops::Range;

use super::parallel::{column_sums, map, map2, rows_per_chunk};
use crate::device::Pool;
use crate::dtype::{Element, Real};
use crate::simd_fn;

simd_fn! {
    fn add_chunk<E: Element>(a: &[E], b: &[E], y: &mut [E]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = E::from_acc(a.to_acc() + b.to_acc());
        }
    }
}

simd_fn! {
    fn add_assign_chunk<E: Element>(x: &[E], y: &mut [E]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(y.to_acc() + x.to_acc());
        }
    }
}

simd_fn! {
    fn axpy_chunk<E: Element>(alpha: E::Acc, x: &[E], y: &mut [E]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(y.to_acc() + alpha * x.to_acc());
        }
    }
}

simd_fn! {
    fn scale_chunk<E: Element>(alpha: E::Acc, x: &[E], y: &mut [E]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(alpha * x.to_acc());
        }
    }
}

simd_fn! {
    fn scale_rows<E: Element>(gamma: &[E], x: &[E], y: &mut [E]) {
        for (x, y) in x.chunks_exact(gamma.len()).zip(y.chunks_exact_mut(gamma.len())) {
            for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
                *y = E::from_acc(gamma.to_acc() * x.to_acc());
            }
        }
    }
}

simd_fn! {
    fn add_to_rows<E: Element>(v: &[E], x: &[E], y: &mut [E]) {
        for (x, y) in x.chunks_exact(v.len()).zip(y.chunks_exact_mut(v.len())) {
            for ((y, &x), &v) in y.iter_mut().zip(x).zip(v) {
                *y = E::from_acc(v.to_acc() + x.to_acc());
            }
        }
    }
}

simd_fn! {
    fn gamma_columns<E: Element>(x: &[E], dy: &[E], cols: usize, rows: Range<usize>, columns: Range<usize>, dgamma: &mut [E::Acc]) {
        for r in rows {
            let (x, dy) = (&x[r * cols..][columns.clone()], &dy[r * cols..][columns.clone()]);
            for ((dgamma, &x), &dy) in dgamma.iter_mut().zip(x).zip(dy) {
                *dgamma += x.to_acc() * dy.to_acc();
            }
        }
    }
}

/// y = a + b.
pub fn add<E: Element>(pool: &Pool, a: &[E], b: &[E], y: &mut [E]) {
    map2(pool, a, b, y, |a, b, y| add_chunk(a, b, y));
}

/// y += x.
pub fn add_assign<E: Element>(pool: &Pool, x: &[E], y: &mut [E]) {
    map(pool, x, y, |x, y| add_assign_chunk(x, y));
}

/// y += alpha x.
pub fn axpy<E: Element>(pool: &Pool, alpha: f64, x: &[E], y: &mut [E]) {
    map(pool, x, y, |x, y| axpy_chunk(E::Acc::of(alpha), x, y));
}

/// y = alpha x.
pub fn scale<E: Element>(pool: &Pool, alpha: f64, x: &[E], y: &mut [E]) {
    map(pool, x, y, |x, y| scale_chunk(E::Acc::of(alpha), x, y));
}

/// y = gamma x by rows.
pub fn scale_channels<E: Element>(pool: &Pool, gamma: &[E], x: &[E], y: &mut [E]) {
    let part = rows_per_chunk(gamma.len()) * gamma.len();
    pool.run_parts(y, part, |chunk, y| scale_rows(gamma, &x[chunk * part..][..y.len()], y));
}

/// dgamma += sum of x dy over rows.
pub fn gamma_gradient<E: Element>(pool: &Pool, x: &[E], dy: &[E], dgamma: Option<&mut [E::Acc]>, cols: usize) {
    column_sums(pool, x.len() / cols, cols, [dgamma, None], |rows, columns, dgamma, _| {
        gamma_columns(x, dy, cols, rows, columns, dgamma);
    });
}

/// y = v + x by rows.
pub fn add_channels<E: Element>(pool: &Pool, v: &[E], x: &[E], y: &mut [E]) {
    let part = rows_per_chunk(v.len()) * v.len();
    pool.run_parts(y, part, |chunk, y| add_to_rows(v, &x[chunk * part..][..y.len()], y));
}

/// y = keep x, one factor per row.
pub fn mask_rows<E: Element>(pool: &Pool, keep: &[f32], x: &[E], y: &mut [E]) {
    let c = x.len() / keep.len();
    let rows = rows_per_chunk(c);
    pool.run_parts(y, rows * c, |chunk, y| {
        for (y, r) in y.chunks_exact_mut(c).zip(chunk * rows..) {
            scale_chunk(E::Acc::of(f64::from(keep[r])), &x[r * c..][..c], y);
        }
    });
}
