#![allow(clippy::needless_range_loop)] // sums in registers: every index is a constant once the loops are unrolled

//! Products of few rows: dot products with the rows of the second operand, each of which is read once, in its own order.

use super::kernels::PANEL;
use super::operands::{PackedB, widen};
use super::output::Sink;
use super::{Slot, run, scratch};
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::simd_fn;

const LANES: usize = 16;

/// The order in which the lanes of a dot product are added: halves onto halves.
#[inline(always)]
fn fold<R: Real>(mut lanes: [R; LANES]) -> R {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Up to 16 numbers, widened, zeros behind them.
#[inline(always)]
fn load<E: Element>(x: &[E]) -> [E::Acc; LANES] {
    let mut lanes = [E::Acc::ZERO; LANES];
    for (lane, x) in lanes.iter_mut().zip(x) {
        *lane = x.to_acc();
    }
    lanes
}

/// Dot products of M rows of `a` with N rows of `b`, each in 16 interleaved lanes.
#[inline(always)]
pub(crate) fn dots_block<E: Element, const M: usize, const N: usize>(
    a: [&[E::Acc]; M],
    b: [&[E]; N],
) -> [[E::Acc; N]; M] {
    let k = b[0].len();
    let mut lanes = [[[E::Acc::ZERO; LANES]; N]; M];
    let whole = k / LANES * LANES;
    for p in (0..whole).step_by(LANES) {
        let x = a.map(|a| load::<E::Acc>(&a[p..p + LANES]));
        for j in 0..N {
            let y = load::<E>(&b[j][p..p + LANES]);
            for i in 0..M {
                for l in 0..LANES {
                    lanes[i][j][l] += x[i][l] * y[l];
                }
            }
        }
    }
    if whole < k {
        // The rest, filled up with zeros: every index stays a constant, so the sums stay in registers.
        let x = a.map(|a| load::<E::Acc>(&a[whole..]));
        for j in 0..N {
            let y = load::<E>(&b[j][whole..]);
            for i in 0..M {
                for l in 0..LANES {
                    lanes[i][j][l] += x[i][l] * y[l];
                }
            }
        }
    }
    lanes.map(|row| row.map(fold))
}

simd_fn! {
    /// `sums[i, j] = sum_k a[i, k] b[j, k]` for `n` rows of `b`; sums have the row stride `n`.
    fn dots<E: Element>(a: &[E::Acc], b: &[E], k: usize, n: usize, sums: &mut [E::Acc]) {
        let m = sums.len() / n;
        let (row_a, row_b) = (|i: usize| &a[i * k..(i + 1) * k], |j: usize| &b[j * k..(j + 1) * k]);
        let mut j = 0;
        while j < n {
            let many = n - j >= 4;
            let mut i = 0;
            while i < m {
                if many && m - i >= 2 {
                    let s = dots_block::<E, 2, 4>([row_a(i), row_a(i + 1)], [row_b(j), row_b(j + 1), row_b(j + 2), row_b(j + 3)]);
                    sums[i * n + j..][..4].copy_from_slice(&s[0]);
                    sums[(i + 1) * n + j..][..4].copy_from_slice(&s[1]);
                    i += 2;
                } else if many {
                    let s = dots_block::<E, 1, 4>([row_a(i)], [row_b(j), row_b(j + 1), row_b(j + 2), row_b(j + 3)]);
                    sums[i * n + j..][..4].copy_from_slice(&s[0]);
                    i += 1;
                } else {
                    sums[i * n + j] = dots_block::<E, 1, 1>([row_a(i)], [row_b(j)])[0][0];
                    i += 1;
                }
            }
            j += if many { 4 } else { 1 };
        }
    }
}

simd_fn! {
    /// The same sums from a panel of `b`: lane l of the dot products is a vector over 16 columns here.
    fn dots_panel<R: Real>(a: &[R], panel: &[R], n: usize, sums: &mut [R]) {
        for half in (0..n).step_by(LANES) {
            let mut lanes = [[R::ZERO; LANES]; LANES];
            for (a, rows) in a.chunks(LANES).zip(panel.chunks(LANES * PANEL)) {
                for ((lane, &x), row) in lanes.iter_mut().zip(a).zip(rows.chunks_exact(PANEL)) {
                    let row = &row[half..half + LANES];
                    for q in 0..LANES {
                        lane[q] += x * row[q];
                    }
                }
            }
            let mut size = LANES / 2;
            while size > 0 {
                for l in 0..size {
                    for q in 0..LANES {
                        lanes[l][q] += lanes[l + size][q];
                    }
                }
                size /= 2;
            }
            let count = LANES.min(n - half);
            sums[half..half + count].copy_from_slice(&lanes[0][..count]);
        }
    }
}

/// A product of few rows, whose second operand is `b` (N rows of K) or panels.
pub(super) fn few_rows<E: Element>(
    cx: &Context,
    (m, n, k): (usize, usize, usize),
    a: &[E],
    b: Result<&[E], &PackedB<E>>,
    sink: &impl Sink<E::Acc>,
) {
    let each = ((64 << 10) / (m * k).max(1)).next_multiple_of(PANEL).min(n.next_multiple_of(PANEL));
    scratch::<E::Acc, _>(Slot::Shared, m * k, |wide| {
        widen(wide, &a[..m * k]);
        let wide = &*wide;
        run(cx, n.div_ceil(each), m * n * k, |chunk| {
            let cols = chunk * each..n.min((chunk + 1) * each);
            scratch::<E::Acc, _>(Slot::Sums, m * cols.len(), |sums| {
                match b {
                    Ok(b) => dots(wide, &b[cols.start * k..cols.end * k], k, cols.len(), sums),
                    Err(packed) => {
                        let panels = packed.panels();
                        for i in 0..m {
                            for j in cols.clone().step_by(PANEL) {
                                let count = PANEL.min(cols.end - j);
                                let panel = &panels[j / PANEL * k * PANEL..][..k * PANEL];
                                let at = i * cols.len() + j - cols.start;
                                dots_panel(&wide[i * k..(i + 1) * k], panel, count, &mut sums[at..at + count]);
                            }
                        }
                    }
                }
                // SAFETY: these columns are this chunk's alone.
                unsafe { sink.store(0..m, cols.clone(), sums.as_mut_ptr(), cols.len()) };
            });
        });
    });
}
