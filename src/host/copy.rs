//! Moving data on the host; see [`crate::ops::copy`].

use super::parallel::{GRAIN, LANES, map, rows_per_chunk, run, run_rows2};
use crate::device::{Pool, SendPtr};
use crate::dtype::{Element, Real};
use crate::simd_fn;

simd_fn! {
    fn narrow<E: Element>(x: &[E::Acc], y: &mut [E]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(x);
        }
    }
}

simd_fn! {
    fn widen<E: Element>(x: &[E], y: &mut [E::Acc]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x.to_acc();
        }
    }
}

simd_fn! {
    fn add_to<E: Element>(x: &[E], y: &mut [E]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(y.to_acc() + x.to_acc());
        }
    }
}

/// y = x in another storage type.
pub fn cast<E: Element, F: Element>(pool: &Pool, x: &[E], y: &mut [F]) {
    map(pool, x, y, cast_chunk);
}

fn cast_chunk<E: Element, F: Element>(x: &[E], y: &mut [F]) {
    if E::DTYPE == F::DTYPE {
        y.copy_from_slice(bytemuck::cast_slice(x));
    } else if E::DTYPE == <F::Acc as Element>::DTYPE {
        narrow(bytemuck::cast_slice::<E, F::Acc>(x), y);
    } else if F::DTYPE == <E::Acc as Element>::DTYPE {
        widen(x, bytemuck::cast_slice_mut::<F, E::Acc>(y));
    } else {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = F::from_f64(x.to_f64()));
    }
}

/// y = a | b by rows.
pub fn concat_last<E: Element>(pool: &Pool, a: &[E], b: &[E], y: &mut [E], ca: usize, cb: usize) {
    let c = ca + cb;
    let rows = rows_per_chunk(c);
    pool.run_parts(y, rows * c, |chunk, y| {
        for (y, r) in y.chunks_exact_mut(c).zip(chunk * rows..) {
            y[..ca].copy_from_slice(&a[r * ca..][..ca]);
            y[ca..].copy_from_slice(&b[r * cb..][..cb]);
        }
    });
}

/// a | b = x by rows.
pub fn split_last<E: Element>(pool: &Pool, x: &[E], a: &mut [E], b: &mut [E], ca: usize, cb: usize) {
    let c = ca + cb;
    run_rows2(pool, x.len() / c, rows_per_chunk(c), (a, ca), (b, cb), |rows, a, b| {
        for (i, x) in x[rows.start * c..rows.end * c].chunks_exact(c).enumerate() {
            a[i * ca..][..ca].copy_from_slice(&x[..ca]);
            b[i * cb..][..cb].copy_from_slice(&x[ca..]);
        }
    });
}

/// For every batch entry: `y[entry * y_stride + y_start ..][..len] = x[entry * x_stride + x_start ..][..len]`.
#[allow(clippy::too_many_arguments)]
pub fn copy_rows<E: Element>(
    pool: &Pool,
    x: &[E],
    x_stride: usize,
    x_start: usize,
    y: &mut [E],
    y_stride: usize,
    y_start: usize,
    len: usize,
) {
    in_pieces(pool, y, y_stride, y_start, len, |entry, piece, y| {
        y.copy_from_slice(&x[entry * x_stride + x_start + piece..][..y.len()]);
    });
}

/// For every batch entry: `y[entry * y_stride + y_start ..][..x_stride] += x[entry * x_stride ..][..x_stride]`.
pub fn add_rows<E: Element>(pool: &Pool, x: &[E], x_stride: usize, y: &mut [E], y_stride: usize, y_start: usize) {
    in_pieces(pool, y, y_stride, y_start, x_stride, |entry, piece, y| {
        add_to(&x[entry * x_stride + piece..][..y.len()], y);
    });
}

/// Cuts y[entry * stride + start ..][..len] of every entry into pieces of at most [`GRAIN`]: `f(entry, offset of the piece, piece)`.
fn in_pieces<E: Element>(
    pool: &Pool,
    y: &mut [E],
    stride: usize,
    start: usize,
    len: usize,
    f: impl Fn(usize, usize, &mut [E]) + Sync,
) {
    if len == 0 || y.is_empty() {
        return;
    }
    let (entries, pieces) = (y.len() / stride, len.div_ceil(GRAIN));
    assert!(start + len <= stride && entries * stride == y.len());
    // Many small entries share a chunk.
    let together = (GRAIN / len).max(1);
    let y = SendPtr(y.as_mut_ptr());
    run(pool, entries * len, entries.div_ceil(together) * pieces, |job| {
        let (group, piece) = (job / pieces, job % pieces * GRAIN);
        let count = GRAIN.min(len - piece);
        for entry in group * together..((group + 1) * together).min(entries) {
            // SAFETY: pieces are disjoint, inside of their entry and so of `y` by the assertion; `y` is borrowed mutably until `run` returns.
            let part = unsafe { std::slice::from_raw_parts_mut(y.get().add(entry * stride + start + piece), count) };
            f(entry, piece, part);
        }
    });
}

simd_fn! {
    fn sum_entries<E: Element>(dy: &[E], n: usize, at: usize, dx: &mut [E]) {
        let mut start = 0;
        for dx in dx.chunks_mut(LANES * 8) {
            let mut sum = [E::Acc::ZERO; LANES * 8];
            let w = dx.len();
            for entry in dy.chunks_exact(n) {
                for (sum, &x) in sum[..w].iter_mut().zip(&entry[at + start..][..w]) {
                    *sum += x.to_acc();
                }
            }
            for (dx, &sum) in dx.iter_mut().zip(&sum) {
                *dx = E::from_acc(sum);
            }
            start += w;
        }
    }
}

/// dx = sum of the entries of dy.
pub fn sum_batch<E: Element>(pool: &Pool, dy: &[E], dx: &mut [E]) {
    let n = dx.len();
    let width = (GRAIN / (dy.len() / n).max(1)).max(512);
    pool.run_parts(dx, width, |chunk, dx| sum_entries(dy, n, chunk * width, dx));
}

/// For every matrix [rows, cols] of x: its transpose into y, in tiles that stay in the cache.
pub fn transpose<E: Element, F: Element>(pool: &Pool, x: &[E], y: &mut [F], rows: usize, cols: usize) {
    const TILE: usize = 32;
    let (one, bands) = (rows * cols, cols.div_ceil(TILE));
    let y = SendPtr(y.as_mut_ptr());
    let same = E::DTYPE == F::DTYPE;
    run(pool, x.len(), x.len() / one * bands, |job| {
        let (image, band) = (job / bands, job % bands);
        let x = &x[image * one..][..one];
        let columns = band * TILE..((band + 1) * TILE).min(cols);
        // SAFETY: a band of columns of x is a range of rows of y; bands are disjoint, in bounds because y has the length of x, and y is
        // borrowed mutably until `run` returns.
        let y = unsafe {
            std::slice::from_raw_parts_mut(y.get().add(image * one + columns.start * rows), columns.len() * rows)
        };
        for start in (0..rows).step_by(TILE) {
            let end = (start + TILE).min(rows);
            for (i, c) in columns.clone().enumerate() {
                for (y, r) in y[i * rows + start..i * rows + end].iter_mut().zip(start..) {
                    let v = x[r * cols + c];
                    *y = if same { bytemuck::cast(v) } else { F::from_f64(v.to_f64()) };
                }
            }
        }
    });
}
