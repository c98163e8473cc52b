#![allow(clippy::needless_range_loop)] // sums in registers: every index is a constant once the loops are unrolled

//! The loops that touch values: one point after the other, all numbers of a row at once.

use std::array::from_fn;
use std::ops::Range;

use crate::dtype::Real;
use crate::host::deform_attention::points::Points;
use crate::simd_fn;

/// Calls `$f` with the numbers that it takes at a time as a constant.
macro_rules! with_width {
    ($width:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $width {
            4 => $f::<A, 4>($($arg),*),
            8 => $f::<A, 8>($($arg),*),
            _ => $f::<A, 16>($($arg),*),
        }
    };
}

/// N numbers of a row from `at` on.
#[inline(always)]
fn part<A: Real, const N: usize>(maps: &[A], at: usize) -> &[A; N] {
    match maps[at..at + N].as_chunks::<N>().0 {
        [part] => part,
        _ => unreachable!("a slice of N numbers is one chunk"),
    }
}

/// Where the four corners of point `k` lie, in numbers.
#[inline(always)]
fn corners<A>(points: &Points<'_, A>, k: usize, width: usize) -> [usize; 4] {
    let (top, bottom) = (points.row[k] as usize * width, points.below[k] as usize * width);
    [top, top + width, bottom, bottom + width]
}

/// The ranges of points of the queries of a block, from where each ends.
#[inline(always)]
fn ranges(ends: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let mut begin = 0;
    ends.iter().map(move |&end| std::mem::replace(&mut begin, end)..end)
}

#[inline(always)]
fn gather_parts<A: Real, const N: usize>(
    maps: &[A],
    width: usize,
    points: &Points<'_, A>,
    ends: &[usize],
    out: &mut [A],
) {
    let width = if N < 16 { N } else { width };
    for (range, out) in ranges(ends).zip(out.chunks_exact_mut(width)) {
        for (block, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            // A chain of additions for each corner: they run beside each other.
            let mut sums = [[A::ZERO; N]; 4];
            for k in range.clone() {
                let corners = corners(points, k, width);
                for c in 0..4 {
                    let (factor, value) = (points.factor[c][k], part::<A, N>(maps, corners[c] + block * N));
                    for i in 0..N {
                        sums[c][i] += factor * value[i];
                    }
                }
            }
            *out = from_fn(|i| (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]));
        }
    }
}

simd_fn! {
    /// For each query `out = sum over points and corners of factor * value`; `ends` says where its points end; rows have `width` numbers.
    pub(super) fn gather<A: Real>(maps: &[A], width: usize, points: &Points<'_, A>, ends: &[usize], out: &mut [A]) {
        with_width!(width, gather_parts(maps, width, points, ends, out))
    }
}

/// Sums of 4, each a number.
#[inline(always)]
fn sum_fours<A: Real>(from: &[A], to: &mut [A]) {
    for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
        *to = (from[0] + from[2]) + (from[1] + from[3]);
    }
}

#[inline(always)]
fn dot_parts<A: Real, const N: usize>(
    maps: &[A],
    width: usize,
    points: &Points<'_, A>,
    ends: &[usize],
    g: &[A],
    products: &mut [A],
    dots: &mut [A],
) {
    let width = if N < 16 { N } else { width };
    for (range, g) in ranges(ends).zip(g.chunks_exact(width)) {
        let g = g.as_chunks::<N>().0;
        // Four numbers of each corner, whose sums across lanes are then made for all points at once.
        for (k, products) in range.clone().zip(products.as_chunks_mut::<16>().0) {
            let corners = corners(points, k, width);
            for (products, corner) in products.as_chunks_mut::<4>().0.iter_mut().zip(corners) {
                let mut sums = [A::ZERO; N];
                for (block, g) in g.iter().enumerate() {
                    let value = part::<A, N>(maps, corner + block * N);
                    for i in 0..N {
                        sums[i] += g[i] * value[i];
                    }
                }
                let mut size = N;
                while size > 4 {
                    size /= 2;
                    for i in 0..size {
                        sums[i] += sums[i + size];
                    }
                }
                *products = from_fn(|i| sums[i]);
            }
        }
        sum_fours(products, &mut dots[4 * range.start..4 * range.end]);
    }
}

simd_fn! {
    /// `dots[point][corner] = g . value` with the `g` of the point's query. `products` is scratch for 16 numbers for each point of a query.
    pub(super) fn dots<A: Real>(maps: &[A], width: usize, points: &Points<'_, A>, ends: &[usize], g: &[A], products: &mut [A], dots: &mut [A]) {
        with_width!(width, dot_parts(maps, width, points, ends, g, products, dots))
    }
}

#[inline(always)]
fn scatter_parts<A: Real, const N: usize>(
    maps: &mut [A],
    width: usize,
    points: &Points<'_, A>,
    ends: &[usize],
    g: &[A],
) {
    let width = if N < 16 { N } else { width };
    for (range, g) in ranges(ends).zip(g.chunks_exact(width)) {
        for (block, g) in g.as_chunks::<N>().0.iter().enumerate() {
            for k in range.clone() {
                let corners = corners(points, k, width);
                for c in 0..4 {
                    let (factor, at) = (points.factor[c][k], corners[c] + block * N);
                    let sums = &mut maps[at..at + N];
                    for i in 0..N {
                        sums[i] += factor * g[i];
                    }
                }
            }
        }
    }
}

simd_fn! {
    /// Adds `factor * g`, with the `g` of the point's query, to the rows of the corners.
    pub(super) fn scatter<A: Real>(maps: &mut [A], width: usize, points: &Points<'_, A>, ends: &[usize], g: &[A]) {
        with_width!(width, scatter_parts(maps, width, points, ends, g))
    }
}
