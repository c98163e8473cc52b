//! Gathers and scatters of rows on the host; see [`crate::ops::embedding`].

use super::parallel::{column_panels, column_sums, rows_per_chunk};
use crate::device::Pool;
use crate::dtype::Element;
use crate::simd_fn;

simd_fn! {
    fn add_to_acc<E: Element>(x: &[E], y: &mut [E::Acc]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x.to_acc();
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

/// `y[i] = src[row(i)]`.
pub fn gather<E: Element>(pool: &Pool, src: &[E], row: impl Fn(usize) -> usize + Sync, y: &mut [E], c: usize) {
    let rows = rows_per_chunk(c);
    pool.run_parts(y, rows * c, |chunk, y| {
        for (i, y) in y.chunks_exact_mut(c).enumerate() {
            y.copy_from_slice(&src[row(chunk * rows + i) * c..][..c]);
        }
    });
}

/// `d_table[row(i)] += dy[i]`, in the order of i.
pub fn scatter_add<E: Element>(
    pool: &Pool,
    dy: &[E],
    row: impl Fn(usize) -> usize + Sync,
    d_table: &mut [E::Acc],
    c: usize,
) {
    column_panels(pool, d_table, c, dy.len() / c, |mut panel| {
        for (i, dy) in dy.chunks_exact(c).enumerate() {
            let columns = panel.columns.clone();
            add_to_acc(&dy[columns], panel.row(row(i)));
        }
    });
}

/// `dst[rows[i]] = src[i]`, in the order of i.
pub fn scatter<E: Element>(pool: &Pool, src: &[E], rows: &[usize], dst: &mut [E], c: usize) {
    column_panels(pool, dst, c, rows.len(), |mut panel| {
        for (src, &row) in src.chunks_exact(c).zip(rows) {
            let columns = panel.columns.clone();
            panel.row(row).copy_from_slice(&src[columns]);
        }
    });
}

/// `dst[rows[i]] += src[i]`, in the order of i.
pub fn scatter_add_rows<E: Element>(pool: &Pool, src: &[E], rows: &[usize], dst: &mut [E], c: usize) {
    column_panels(pool, dst, c, rows.len(), |mut panel| {
        for (src, &row) in src.chunks_exact(c).zip(rows) {
            let columns = panel.columns.clone();
            add_to(&src[columns], panel.row(row));
        }
    });
}

/// `dst[rows[i]] += value`.
pub fn add_row<E: Element>(pool: &Pool, value: &[E], rows: &[usize], dst: &mut [E], c: usize) {
    column_panels(pool, dst, c, rows.len(), |mut panel| {
        for &row in rows {
            let columns = panel.columns.clone();
            add_to(&value[columns], panel.row(row));
        }
    });
}

/// `out += sum of src[rows[i]]`.
pub fn sum_rows_at<E: Element>(pool: &Pool, src: &[E], rows: &[usize], out: &mut [E::Acc], c: usize) {
    column_sums(pool, rows.len(), c, [Some(out), None], |range, columns, out, _| {
        for &row in &rows[range] {
            add_to_acc(&src[row * c..][columns.clone()], out);
        }
    });
}
