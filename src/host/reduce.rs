//! Reductions on the host; see [`crate::ops::reduce`].

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering as Memory};

use super::cross_entropy::log_sum_exp;
use super::parallel::{GRAIN, column_sums, max_of, rows_per_chunk, run, sum_of, with_scratch};
use crate::device::{Pool, SendPtr};
use crate::dtype::{Element, Real};
use crate::simd_fn;

simd_fn! {
    fn add_rows<E: Element>(x: &[E], cols: usize, rows: Range<usize>, columns: Range<usize>, out: &mut [E::Acc]) {
        for r in rows {
            for (out, &x) in out.iter_mut().zip(&x[r * cols..][columns.clone()]) {
                *out += x.to_acc();
            }
        }
    }
}

simd_fn! {
    fn sum_chunk<E: Element>(x: &[E]) -> f64 {
        sum_of(x, |x| x.to_acc()).as_f64()
    }
}

simd_fn! {
    fn squares_chunk<A: Real>(x: &[A]) -> f64 {
        sum_of(x, |x| x.as_f64() * x.as_f64())
    }
}

simd_fn! {
    fn finite_chunk<A: Real>(x: &[A]) -> bool {
        let mut bad = 0u32;
        for x in x {
            bad |= u32::from(!x.is_finite());
        }
        bad == 0
    }
}

simd_fn! {
    fn argmax<E: Element>(x: &[E]) -> usize {
        let mut nan = 0u32;
        for x in x {
            let x = x.to_acc();
            #[allow(clippy::eq_op)] // only NaN differs from itself
            {
                nan |= u32::from(x != x);
            }
        }
        let max = max_of(x);
        let wanted = |x: &E| {
            let x = x.to_acc();
            if nan != 0 { x.partial_cmp(&x).is_none() } else { x == max }
        };
        x.iter().position(wanted).unwrap_or(0)
    }
}

simd_fn! {
    fn subtract<E: Element>(x: &[E], lse: (E::Acc, E::Acc), y: &mut [E::Acc]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x.to_acc() - lse.0 - lse.1;
        }
    }
}

simd_fn! {
    fn scaled<E: Element>(x: &[E], scale: E::Acc, y: &mut [E]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(x.to_acc() * scale);
        }
    }
}

/// out `[C]` += sum of rows.
pub fn sum_rows<E: Element>(pool: &Pool, x: &[E], out: &mut [E::Acc], c: usize) {
    column_sums(pool, x.len() / c, c, [Some(out), None], |rows, columns, out, _| add_rows(x, c, rows, columns, out));
}

/// Sum of `f(chunk)` over the chunks of x, in order.
fn sum_chunks<E: Sync>(pool: &Pool, x: &[E], f: impl Fn(&[E]) -> f64 + Sync) -> f64 {
    with_scratch(x.len().div_ceil(GRAIN), |partial: &mut [f64]| {
        pool.run_parts(partial, 1, |chunk, partial| {
            partial[0] = f(&x[chunk * GRAIN..x.len().min((chunk + 1) * GRAIN)]);
        });
        partial.iter().sum()
    })
}

/// Sum of all elements; over chunks in f64.
pub fn sum<E: Element>(pool: &Pool, x: &[E]) -> f64 {
    sum_chunks(pool, x, |x| sum_chunk(x))
}

/// Sum of squares in f64.
pub fn norm_squared<A: Real>(pool: &Pool, x: &[A]) -> f64 {
    sum_chunks(pool, x, |x| squares_chunk(x))
}

/// Whether no element is infinite or NaN.
pub fn all_finite<A: Real>(pool: &Pool, x: &[A]) -> bool {
    let good = AtomicBool::new(true);
    pool.run(x.len().div_ceil(GRAIN), |chunk| {
        if good.load(Memory::Relaxed) && !finite_chunk(&x[chunk * GRAIN..x.len().min((chunk + 1) * GRAIN)]) {
            good.store(false, Memory::Relaxed);
        }
    });
    good.into_inner()
}

/// Column of the largest element of each row.
pub fn argmax_rows<E: Element>(pool: &Pool, x: &[E], found: &mut [usize], c: usize) {
    let rows = rows_per_chunk(c);
    pool.run_parts(found, rows, |chunk, found| {
        for (i, found) in found.iter_mut().enumerate() {
            *found = argmax(&x[(chunk * rows + i) * c..][..c]);
        }
    });
}

/// y = x - ln sum exp(x) per row.
pub fn log_softmax_rows<E: Element>(pool: &Pool, x: &[E], y: &mut [E::Acc], c: usize) {
    let rows = rows_per_chunk(c);
    pool.run_parts(y, rows * c, |chunk, y| {
        let x = &x[chunk * rows * c..][..y.len()];
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            subtract(x, log_sum_exp(x), y);
        }
    });
}

/// The k largest values with their indices.
pub fn top_k<A: Real>(values: &[A], k: usize) -> Vec<(usize, A)> {
    let larger_first = |a: &(usize, A), b: &(usize, A)| {
        let value = b.1.partial_cmp(&a.1).unwrap_or_else(|| {
            let nan = |x: A| x.partial_cmp(&x).is_none();
            nan(b.1).cmp(&nan(a.1))
        });
        if value == Ordering::Equal { a.0.cmp(&b.0) } else { value }
    };
    let mut all: Vec<(usize, A)> = values.iter().copied().enumerate().collect();
    if k < all.len() {
        if k > 0 {
            all.select_nth_unstable_by(k - 1, larger_first);
        }
        all.truncate(k);
    }
    all.sort_unstable_by(larger_first);
    all
}

/// y [B, C] = factor times the sum of x [B, P, C] over P.
pub fn sum_pixels<E: Element>(pool: &Pool, x: &[E], factor: f64, y: &mut [E], p: usize, c: usize) {
    let factor = E::Acc::of(factor);
    const WIDTH: usize = 128;
    let panels = c.div_ceil(WIDTH);
    let images = y.len() / c;
    let y = SendPtr(y.as_mut_ptr());
    run(pool, x.len(), images * panels, |job| {
        let (image, panel) = (job / panels, job % panels);
        let columns = panel * WIDTH..((panel + 1) * WIDTH).min(c);
        let w = columns.len();
        // SAFETY: jobs are disjoint ranges of `y`, which is borrowed mutably until `run` returns.
        let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(image * c + columns.start), w) };
        let (mut sum, mut segment) = ([E::Acc::ZERO; WIDTH], [E::Acc::ZERO; WIDTH]);
        for start in (0..p).step_by(64) {
            segment[..w].fill(E::Acc::ZERO);
            let rows = image * p + start..image * p + (start + 64).min(p);
            add_rows(x, c, rows, columns.clone(), &mut segment[..w]);
            sum.iter_mut().zip(&segment[..w]).for_each(|(to, &x)| *to += x);
        }
        y.iter_mut().zip(&sum).for_each(|(y, &sum)| *y = E::from_acc(sum * factor));
    });
}

/// dx [B, P, C] = dy [B, C] / P.
pub fn mean_pixels_backward<E: Element>(pool: &Pool, dy: &[E], dx: &mut [E], p: usize, c: usize) {
    let inverse = E::Acc::of(1.0 / p as f64);
    let rows = rows_per_chunk(c);
    pool.run_parts(dx, rows * c, |chunk, dx| {
        for (dx, r) in dx.chunks_exact_mut(c).zip(chunk * rows..) {
            scaled(&dy[r / p * c..][..c], inverse, dx);
        }
    });
}
