//! The core op: one image, given locations and weights; and what prepares them.

use std::ops::Range;

use super::maps::{self, Head};
use super::points::{self, FIELDS, LEVEL, Level, Points, ROWS};
use super::{BLOCK, store, walk};
use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::host::parallel::with_scratch;
use crate::ops::deform_attention::{Sample, Sizes};
use crate::simd_fn;

/// The inputs of the core op as slices.
#[derive(Clone, Copy)]
pub(crate) struct SampleInputs<'a, E> {
    /// `[B, S, N*D]`.
    pub value: &'a [E],
    /// `[B, T, N, L, P, 2]`.
    pub location: &'a [E],
    /// `[B, T, N, L, P]`.
    pub weight: &'a [E],
}

/// The call, and which of its heads a chunk works on.
#[derive(Clone, Copy)]
struct Chunk<'a, E> {
    x: SampleInputs<'a, E>,
    spec: &'a Sample<'a>,
    sizes: Sizes,
    b: usize,
    n: usize,
}

impl<'a, E: Element> Chunk<'a, E> {
    fn new(x: SampleInputs<'a, E>, spec: &'a Sample<'a>, sizes: Sizes, chunk: usize) -> Self {
        Chunk { x, spec, sizes, b: chunk % sizes.batch, n: chunk / sizes.batch }
    }

    /// Points of a query.
    fn count(&self) -> usize {
        self.spec.levels.len() * self.spec.points
    }

    /// Where query `t` of this head lies in a tensor `[B, T, N, ..]`.
    fn at(&self, t: usize) -> usize {
        (self.b * self.sizes.queries + t) * self.spec.heads + self.n
    }

    fn head(&self) -> Head<'a> {
        let size = self.sizes.head_size;
        Head {
            start: self.n * size,
            stride: self.spec.heads * size,
            size,
            images: 1,
            first: self.b,
            pictures: None,
            levels: self.spec.levels,
            relative: &[],
        }
    }

    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<E> {
        let queries = self.sizes.queries;
        (0..queries).step_by(BLOCK).map(move |t| t..(t + BLOCK).min(queries))
    }
}

simd_fn! {
    /// Weights and places of the points of some queries; returns their number.
    fn look<E: Element>(chunk: &Chunk<'_, E>, queries: Range<usize>, levels: &[E::Acc], points: &mut Points<'_, E::Acc>, ends: &mut [usize]) -> usize {
        let mut k = 0;
        for (t, end) in queries.zip(ends) {
            let mut from = chunk.at(t) * chunk.count();
            for level in Level::read(levels) {
                for _ in 0..chunk.spec.points {
                    points.weight[k] = chunk.x.weight[from].to_acc();
                    let (x, y) = (chunk.x.location[2 * from].to_acc(), chunk.x.location[2 * from + 1].to_acc());
                    let places = points::place(level, 0, [E::Acc::ZERO; 2], &[x], &[y]);
                    ([points.right[k]], [points.down[k]]) = (places.right, places.down);
                    ([points.row[k]], [points.below[k]]) = (places.row, places.below);
                    (k, from) = (k + 1, from + 1);
                }
            }
            *end = k;
        }
        k
    }
}

/// See [`crate::ops::deform_attention::sample_forward`].
pub(crate) fn sample_forward<E: Element>(
    cx: &Context,
    x: SampleInputs<'_, E>,
    out: &mut [E],
    spec: &Sample<'_>,
    sizes: Sizes,
) {
    let d = sizes.head_size;
    let width = maps::width(d);
    let numbers = maps::image_rows(spec.levels) * width;
    let out = SendPtr(out.as_mut_ptr());
    cx.pool().run(sizes.batch * spec.heads, |chunk| {
        let chunk = Chunk::new(x, spec, sizes, chunk);
        let l = spec.levels.len();
        let all = BLOCK * chunk.count();
        with_scratch(numbers + l * LEVEL + FIELDS * all + BLOCK * width, |space: &mut [E::Acc]| {
            let (values, rest) = space.split_at_mut(numbers);
            let (levels, rest) = rest.split_at_mut(l * LEVEL);
            let (fields, sums) = rest.split_at_mut(FIELDS * all);
            Level::write(levels, spec.levels, |_| None);
            maps::fill(chunk.head(), x.value, values);
            with_scratch(ROWS * all, |indices| {
                let mut points = Points::new(fields, indices, all);
                for queries in chunk.blocks() {
                    let mut ends = [0; BLOCK];
                    let ends = &mut ends[..queries.len()];
                    let count = look(&chunk, queries.clone(), levels, &mut points, ends);
                    points::factors(&mut points, count);
                    walk::gather(values, width, &points, ends, sums);
                    for (t, sum) in queries.zip(sums.chunks_exact(width)) {
                        // SAFETY: every chunk writes the numbers of its own entry and head.
                        unsafe { store(out.get().add(chunk.at(t) * d), &sum[..d]) };
                    }
                }
            });
        });
    });
}

/// See [`crate::ops::deform_attention::sample_backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn sample_backward<E: Element>(
    cx: &Context,
    x: SampleInputs<'_, E>,
    d_out: &[E],
    d_value: &mut [E],
    d_location: &mut [E],
    d_weight: &mut [E],
    spec: &Sample<'_>,
    sizes: Sizes,
) {
    let (d, l, p) = (sizes.head_size, spec.levels.len(), spec.points);
    let width = maps::width(d);
    let numbers = maps::image_rows(spec.levels) * width;
    let to = [d_value, d_location, d_weight].map(|gradient| SendPtr(gradient.as_mut_ptr()));
    cx.pool().run(sizes.batch * spec.heads, |chunk| {
        let chunk = Chunk::new(x, spec, sizes, chunk);
        let all = BLOCK * chunk.count();
        let len = 2 * numbers + l * LEVEL + (FIELDS + 7) * all + 16 * chunk.count() + BLOCK * width;
        with_scratch(len, |space: &mut [E::Acc]| {
            let (values, rest) = space.split_at_mut(numbers);
            let (gradient, rest) = rest.split_at_mut(numbers);
            let (levels, rest) = rest.split_at_mut(l * LEVEL);
            let (fields, rest) = rest.split_at_mut(FIELDS * all);
            let (dots, rest) = rest.split_at_mut(4 * all);
            let (bilinear, rest) = rest.split_at_mut(all);
            let (dx, rest) = rest.split_at_mut(all);
            let (dy, rest) = rest.split_at_mut(all);
            let (products, g) = rest.split_at_mut(16 * chunk.count());
            Level::write(levels, spec.levels, |_| None);
            chunk.head().clear(gradient);
            g.fill(E::Acc::ZERO);
            maps::fill(chunk.head(), x.value, values);
            with_scratch(ROWS * all, |indices| {
                let mut points = Points::new(fields, indices, all);
                for queries in chunk.blocks() {
                    let mut ends = [0; BLOCK];
                    let ends = &mut ends[..queries.len()];
                    let count = look(&chunk, queries.clone(), levels, &mut points, ends);
                    points::factors(&mut points, count);
                    for (t, g) in queries.clone().zip(g.chunks_exact_mut(width)) {
                        let from = &d_out[chunk.at(t) * d..][..d];
                        g.iter_mut().zip(from).for_each(|(g, from)| *g = from.to_acc());
                    }
                    walk::dots(values, width, &points, ends, g, products, dots);
                    walk::scatter(gradient, width, &points, ends, g);
                    points::slopes(points.right, points.down, dots, bilinear, dx, dy, count);
                    for (i, t) in queries.enumerate() {
                        for k in 0..chunk.count() {
                            let (from, at) = (i * chunk.count() + k, chunk.at(t) * chunk.count() + k);
                            let (h, w) = spec.levels[k / p];
                            let weight = points.weight[from];
                            let dx = weight * (dx[from] * E::Acc::of_usize(w));
                            let dy = weight * (dy[from] * E::Acc::of_usize(h));
                            // SAFETY: every chunk writes the numbers of its own entry and head.
                            unsafe {
                                store(to[1].get().add(2 * at), &[dx, dy]);
                                store(to[2].get().add(at), &[bilinear[from]]);
                            }
                        }
                    }
                }
            });
            maps::drain(chunk.head(), gradient, to[0].get());
        });
    });
}

/// See [`crate::ops::deform_attention::locate_forward`].
pub(crate) fn locate_forward<E: Element>(
    offsets: &[E],
    logits: &[E],
    reference: &[f64],
    location: &mut [E],
    weight: &mut [E],
    spec: &Sample<'_>,
) {
    let per_head = spec.levels.len() * spec.points;
    let queries = reference.len() / 2;
    for (k, (to, from)) in location.chunks_exact_mut(2).zip(offsets.chunks_exact(2)).enumerate() {
        let t = k / (spec.heads * per_head) % queries;
        let (h, w) = spec.levels[k % per_head / spec.points];
        for (axis, size) in [w, h].into_iter().enumerate() {
            let shift = from[axis].to_acc() / E::Acc::of_usize(size);
            to[axis] = E::from_acc(E::Acc::of(reference[2 * t + axis]) + shift);
        }
    }
    for (to, from) in weight.chunks_exact_mut(per_head).zip(logits.chunks_exact(per_head)) {
        let largest = from.iter().fold(E::Acc::LOWEST, |m, x| m.max(x.to_acc()));
        let sum = from.iter().fold(E::Acc::ZERO, |s, x| s + (x.to_acc() - largest).exp());
        for (to, from) in to.iter_mut().zip(from) {
            *to = E::from_acc((from.to_acc() - largest).exp() / sum);
        }
    }
}

/// See [`crate::ops::deform_attention::locate_backward`].
pub(crate) fn locate_backward<E: Element>(
    weight: &[E],
    d_location: &[E],
    d_weight: &[E],
    d_offsets: &mut [E],
    d_logits: &mut [E],
    spec: &Sample<'_>,
) {
    let per_head = spec.levels.len() * spec.points;
    for (k, (to, from)) in d_offsets.chunks_exact_mut(2).zip(d_location.chunks_exact(2)).enumerate() {
        let (h, w) = spec.levels[k % per_head / spec.points];
        to[0] = E::from_acc(from[0].to_acc() / E::Acc::of_usize(w));
        to[1] = E::from_acc(from[1].to_acc() / E::Acc::of_usize(h));
    }
    let heads =
        d_logits.chunks_exact_mut(per_head).zip(weight.chunks_exact(per_head).zip(d_weight.chunks_exact(per_head)));
    for (to, (weight, d)) in heads {
        let mean = weight.iter().zip(d).fold(E::Acc::ZERO, |s, (w, d)| s + w.to_acc() * d.to_acc());
        for ((to, w), d) in to.iter_mut().zip(weight).zip(d) {
            *to = E::from_acc(w.to_acc() * (d.to_acc() - mean));
        }
    }
}
