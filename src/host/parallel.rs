//! What the pointwise ops and the row reductions share: chunk sizes, lane sums, scratch, and parallel loops over rows and columns.
//!
//! Sums run in [`LANES`] independent lanes that are added as a fixed tree at the end: the compiler can use any vector width and the bits
//! stay the same. All chunk bounds are functions of the shapes.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use crate::device::{Pool, SendPtr};
use crate::dtype::{Element, Real};

/// Elements per chunk of a pointwise loop: some microseconds of work, more than handing it to another thread costs.
pub const GRAIN: usize = 1 << 14;
/// Independent accumulators of a sum.
pub const LANES: usize = 16;
/// Chunks that a reduction over many rows is cut into, so that several threads have work.
pub const JOBS: usize = 16;

/// Rows of `cols` elements per chunk, about [`GRAIN`] elements in all.
pub fn rows_per_chunk(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

/// Adds the lanes as a tree.
#[inline(always)]
pub fn total<A: Real>(lanes: [A; LANES]) -> A {
    fold_lanes(lanes, |a, b| a + b)
}

/// Sum of `f(x[i])` in lanes.
#[inline(always)]
pub fn sum_of<E: Element, A: Real>(x: &[E], f: impl Fn(E) -> A) -> A {
    let mut lanes = [A::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] += f(x[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    total(lanes)
}

/// Sum of `f(x, dy, w)` over a row, in lanes. One sum at a time: the compiler vectorises two at once badly.
#[inline(always)]
pub fn row_sum<E: Element>(x: &[E], dy: &[E], weight: &[E], f: impl Fn(E::Acc, E::Acc, E::Acc) -> E::Acc) -> E::Acc {
    let mut lanes = [E::Acc::ZERO; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (dys, dy_rest) = dy.as_chunks::<LANES>();
    let (ws, w_rest) = weight.as_chunks::<LANES>();
    for ((x, dy), w) in xs.iter().zip(dys).zip(ws) {
        for i in 0..LANES {
            lanes[i] += f(x[i].to_acc(), dy[i].to_acc(), w[i].to_acc());
        }
    }
    for (((lane, &x), &dy), &w) in lanes.iter_mut().zip(x_rest).zip(dy_rest).zip(w_rest) {
        *lane += f(x.to_acc(), dy.to_acc(), w.to_acc());
    }
    total(lanes)
}

/// `f` over all lanes: the upper half onto the lower one until one is left.
#[inline(always)]
pub fn fold_lanes<A: Real, const N: usize>(mut lanes: [A; N], f: impl Fn(A, A) -> A) -> A {
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Largest `x[i]` in lanes; the most negative infinity for an empty slice. NaN are skipped.
#[inline(always)]
pub fn max_of<E: Element>(x: &[E]) -> E::Acc {
    let lowest = -E::Acc::ONE / E::Acc::ZERO;
    let mut lanes = [lowest; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            let x = x[i].to_acc();
            lanes[i] = if x > lanes[i] { x } else { lanes[i] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = Real::max(x.to_acc(), *lane);
    }
    lanes.iter().fold(lowest, |m, &x| Real::max(x, m))
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` numbers of per-thread scratch, whose contents are whatever the last user left.
///
/// The buffers stay with the thread and grow to the largest size ever asked for, so the steady state allocates nothing. Calls may nest.
pub fn with_scratch<A: bytemuck::Pod, R>(len: usize, f: impl FnOnce(&mut [A]) -> R) -> R {
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    let words = (len * size_of::<A>()).div_ceil(size_of::<u64>());
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    let result = f(&mut bytemuck::cast_slice_mut::<u64, A>(&mut buffer[..words])[..len]);
    SCRATCH.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}

/// Runs the chunks on the pool, or on the spot if `work` (in elements) is less than a thread's share is worth.
pub fn run(pool: &Pool, work: usize, chunks: usize, f: impl Fn(usize) + Sync) {
    if work < GRAIN { (0..chunks).for_each(f) } else { pool.run(chunks, f) }
}

/// Pointwise loop `f(x[part], y[part])`.
pub fn map<E: Sync, F: Send>(pool: &Pool, x: &[E], y: &mut [F], f: impl Fn(&[E], &mut [F]) + Sync) {
    pool.run_parts(y, GRAIN, |chunk, y| f(&x[chunk * GRAIN..][..y.len()], y));
}

/// Pointwise loop `f(a[part], b[part], y[part])`.
pub fn map2<E: Sync, F: Sync, G: Send>(
    pool: &Pool,
    a: &[E],
    b: &[F],
    y: &mut [G],
    f: impl Fn(&[E], &[F], &mut [G]) + Sync,
) {
    pool.run_parts(y, GRAIN, |chunk, y| {
        let part = chunk * GRAIN..chunk * GRAIN + y.len();
        f(&a[part.clone()], &b[part], y)
    });
}

/// Loop over blocks of `rows_per_chunk` rows with two outputs of `a_cols` and `b_cols` columns: `f(rows, a part, b part)`.
pub fn run_rows2<T: Send, U: Send>(
    pool: &Pool,
    rows: usize,
    rows_per_chunk: usize,
    (a, a_cols): (&mut [T], usize),
    (b, b_cols): (&mut [U], usize),
    f: impl Fn(Range<usize>, &mut [T], &mut [U]) + Sync,
) {
    assert!(a.len() >= rows * a_cols && b.len() >= rows * b_cols);
    let (a, b) = (SendPtr(a.as_mut_ptr()), SendPtr(b.as_mut_ptr()));
    pool.run(rows.div_ceil(rows_per_chunk), |chunk| {
        let start = chunk * rows_per_chunk;
        let end = (start + rows_per_chunk).min(rows);
        let count = end - start;
        // SAFETY: chunks are disjoint ranges of rows, in bounds by the assertion, of slices borrowed mutably until `run` returns.
        let a = unsafe { std::slice::from_raw_parts_mut(a.get().add(start * a_cols), count * a_cols) };
        // SAFETY: as above.
        let b = unsafe { std::slice::from_raw_parts_mut(b.get().add(start * b_cols), count * b_cols) };
        f(start..end, a, b);
    });
}

/// Adds column sums over `rows` rows to the two outputs: `add(row range, column range, first, second)` adds the terms of its rows to
/// accumulators of one panel of columns.
///
/// Rows are summed in segments, segments in blocks, blocks in order: a fixed tree, and errors that grow like a tree's.
pub fn column_sums<A: Real>(
    pool: &Pool,
    rows: usize,
    cols: usize,
    outs: [Option<&mut [A]>; 2],
    add: impl Fn(Range<usize>, Range<usize>, &mut [A], &mut [A]) + Sync,
) {
    const PANEL: usize = 512;
    const SEGMENT: usize = 64;
    if rows == 0 || cols == 0 || outs.iter().all(Option::is_none) {
        return;
    }
    let width = PANEL.min(cols);
    let panels = cols.div_ceil(width);
    let blocks = JOBS.div_ceil(panels).min(rows.div_ceil(SEGMENT));
    let block_rows = rows.div_ceil(blocks).next_multiple_of(SEGMENT);
    let blocks = rows.div_ceil(block_rows);
    let jobs = panels * blocks;
    with_scratch(2 * width * jobs, |partial: &mut [A]| {
        let one = 2 * width;
        let shared = SendPtr(partial.as_mut_ptr());
        run(pool, rows * cols, jobs, |job| {
            // SAFETY: jobs are disjoint ranges of `partial`, which is borrowed mutably until `run` returns.
            let part = unsafe { std::slice::from_raw_parts_mut(shared.get().add(job * one), one) };
            let (panel, block) = (job / blocks, job % blocks);
            let columns = panel * width..((panel + 1) * width).min(cols);
            let w = columns.len();
            let end = ((block + 1) * block_rows).min(rows);
            let mut local = [A::ZERO; 2 * PANEL];
            part.fill(A::ZERO);
            for start in (block * block_rows..end).step_by(SEGMENT) {
                let (a, b) = local.split_at_mut(PANEL);
                a[..w].fill(A::ZERO);
                b[..w].fill(A::ZERO);
                add(start..(start + SEGMENT).min(end), columns.clone(), &mut a[..w], &mut b[..w]);
                let (to_a, to_b) = part.split_at_mut(width);
                to_a.iter_mut().zip(&a[..w]).for_each(|(to, &x)| *to += x);
                to_b.iter_mut().zip(&b[..w]).for_each(|(to, &x)| *to += x);
            }
        });
        for (which, out) in outs.into_iter().enumerate() {
            let Some(out) = out else { continue };
            for (panel, out) in out.chunks_mut(width).enumerate() {
                for block in 0..blocks {
                    let part = &partial[(panel * blocks + block) * one + which * width..][..width];
                    out.iter_mut().zip(part).for_each(|(to, &x)| *to += x);
                }
            }
        }
    });
}

/// Some columns of all rows of a matrix, to be written by one chunk.
pub struct Panel<'a, T> {
    base: *mut T,
    rows: usize,
    cols: usize,
    /// The columns.
    pub columns: Range<usize>,
    matrix: PhantomData<&'a mut [T]>,
}

impl<T> Panel<'_, T> {
    /// The columns of this panel in row `r`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows);
        // SAFETY: the row exists; panels of one matrix have disjoint columns, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(r * self.cols + self.columns.start), self.columns.len()) }
    }
}

/// Cuts a matrix of `cols` columns into panels of columns and calls `f` for each: every panel sees all rows in the caller's order, which
/// makes scattered additions deterministic. `touched` is the number of rows that `f` works on.
pub fn column_panels<T: Send>(
    pool: &Pool,
    data: &mut [T],
    cols: usize,
    touched: usize,
    f: impl Fn(Panel<'_, T>) + Sync,
) {
    if cols == 0 || data.is_empty() {
        return;
    }
    let width = cols.div_ceil(JOBS).next_multiple_of(64);
    let rows = data.len() / cols;
    let base = SendPtr(data.as_mut_ptr());
    run(pool, touched * cols, cols.div_ceil(width), |chunk| {
        let columns = chunk * width..((chunk + 1) * width).min(cols);
        f(Panel { base: base.get(), rows, cols, columns, matrix: PhantomData });
    });
}
