//! Deformable attention on the CPU: see [`crate::ops::deform_attention`] for the formulas.
//!
//! Forward shares out (batch, query) pairs; backward shares out heads, each with a private gradient of its values.

use std::cell::RefCell;

use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::ops::deform_attention::{Mmfs, MmfsGradients, MmfsInputs, Sample, Sizes};

/// The four neighbours of a sampling point inside a map of `h x w`.
struct Corners<A> {
    /// Row index in the map, or none outside.
    at: [Option<usize>; 4],
    /// Bilinear coefficients in the order (top, left), (top, right), (bottom, left), (bottom, right).
    coefficient: [A; 4],
    /// Distance from the lower pixel.
    low: (A, A),
}

/// The corners of pixel position `(x, y)`, or none if no corner lies in the map.
#[inline(always)]
fn corners<A: Real>(h: usize, w: usize, x: A, y: A) -> Option<Corners<A>> {
    let (wide, high) = (A::of_usize(w), A::of_usize(h));
    if !(x > -A::ONE && y > -A::ONE && x < wide && y < high) {
        return None;
    }
    let (x0, y0) = (x.floor(), y.floor());
    let (lw, lh) = (x - x0, y - y0);
    let (hw, hh) = (A::ONE - lw, A::ONE - lh);
    let (x0, y0) = (x0.as_f64() as isize, y0.as_f64() as isize);
    let at = |y: isize, x: isize| {
        (y >= 0 && x >= 0 && (y as usize) < h && (x as usize) < w).then(|| y as usize * w + x as usize)
    };
    Some(Corners {
        at: [at(y0, x0), at(y0, x0 + 1), at(y0 + 1, x0), at(y0 + 1, x0 + 1)],
        coefficient: [hh * hw, hh * lw, lh * hw, lh * lw],
        low: (lw, lh),
    })
}

/// One map of one head: rows of `stride` elements, of which `size` from `start` belong to the head.
#[derive(Clone, Copy)]
struct HeadMap<'a, E> {
    value: &'a [E],
    start: usize,
    stride: usize,
    size: usize,
}

impl<'a, E: Element> HeadMap<'a, E> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [E] {
        let start = self.start + row * self.stride;
        &self.value[start..start + self.size]
    }

    /// `out += weight * bilinear`.
    #[inline(always)]
    fn add_sample(&self, c: &Corners<E::Acc>, weight: E::Acc, out: &mut [E::Acc]) {
        for (at, &coefficient) in c.at.iter().zip(&c.coefficient) {
            if let Some(row) = *at {
                let factor = weight * coefficient;
                for (out, v) in out.iter_mut().zip(self.row(row)) {
                    *out += factor * v.to_acc();
                }
            }
        }
    }

    /// Dot products of `g` with the four corner rows.
    #[inline(always)]
    fn dots(&self, c: &Corners<E::Acc>, g: &[E::Acc]) -> [E::Acc; 4] {
        c.at.map(|at| match at {
            Some(row) => g.iter().zip(self.row(row)).fold(E::Acc::ZERO, |sum, (&g, v)| sum + g * v.to_acc()),
            None => E::Acc::ZERO,
        })
    }
}

/// d(bilinear . g) with respect to the pixel position (x, y), from the four dot products.
#[inline(always)]
fn d_position<A: Real>(c: &Corners<A>, dot: [A; 4]) -> (A, A) {
    let (lw, lh) = c.low;
    let (hw, hh) = (A::ONE - lw, A::ONE - lh);
    (hh * (dot[1] - dot[0]) + lh * (dot[3] - dot[2]), hw * (dot[2] - dot[0]) + lw * (dot[3] - dot[1]))
}

#[inline(always)]
fn blend<A: Real>(c: &Corners<A>, dot: [A; 4]) -> A {
    (0..4).map(|k| c.coefficient[k] * dot[k]).fold(A::ZERO, |a, b| a + b)
}

/// Adds `weight * coefficient * g` to the rows of a private gradient `[rows, size]`.
#[inline(always)]
fn scatter<A: Real>(c: &Corners<A>, weight: A, g: &[A], gradient: &mut [A], first_row: usize) {
    for (at, &coefficient) in c.at.iter().zip(&c.coefficient) {
        if let Some(row) = *at {
            let start = (first_row + row) * g.len();
            let factor = weight * coefficient;
            for (d, &g) in gradient[start..start + g.len()].iter_mut().zip(g) {
                *d += factor * g;
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` zeroed numbers that live as long as the thread.
fn with_scratch<A: Real, R>(len: usize, f: impl FnOnce(&mut [A]) -> R) -> R {
    SCRATCH.with_borrow_mut(|bytes| {
        let need = (len + 1) * size_of::<A>();
        if bytes.len() < need {
            bytes.resize(need, 0);
        }
        let skip = bytes.as_ptr().align_offset(align_of::<A>());
        let numbers: &mut [A] = bytemuck::cast_slice_mut(&mut bytes[skip..skip + len * size_of::<A>()]);
        numbers.fill(A::ZERO);
        f(numbers)
    })
}

/// What one query and head sees: its softmax weights and pixel positions, in a caller's buffer.
struct Glance<'a, E: Element> {
    x: &'a MmfsInputs<'a, E>,
    spec: &'a Mmfs<'a>,
    sizes: Sizes,
    b: usize,
    t: usize,
    n: usize,
}

impl<E: Element> Glance<'_, E> {
    fn relative(&self) -> &[i32] {
        let start = (self.b * self.sizes.queries + self.t) * self.sizes.images;
        &self.spec.relative[start..start + self.sizes.images]
    }

    /// Softmax weights of the points `[I, L, P]` into `weight` (0 for invisible images); returns the mass of all ignore slots.
    #[inline(always)]
    fn weights(&self, weight: &mut [E::Acc]) -> E::Acc {
        let (l, p) = (self.spec.levels.len(), self.spec.points);
        let per_query = self.spec.heads * l * (p + 1);
        let head = self.n * l * (p + 1);
        let query = (self.b * self.sizes.queries + self.t) * per_query + head;
        let logits = &self.x.logits.data()[query..query + l * (p + 1)];
        let slots = E::Acc::of_usize(self.sizes.images * l);
        let ignore = -slots.ln();
        let mut largest = ignore;
        for (image, &r) in self.relative().iter().enumerate() {
            if r == 0 {
                continue;
            }
            let start = r as usize * per_query + head;
            let table = &self.x.logit_table.data()[start..start + l * (p + 1)];
            for level in 0..l {
                for point in 0..p {
                    let logit = logits[level * (p + 1) + point].to_acc() + table[level * (p + 1) + point].to_acc();
                    weight[(image * l + level) * p + point] = logit;
                    largest = largest.max(logit);
                }
            }
        }
        let mut sum = slots * (ignore - largest).exp();
        let ignored = sum;
        for (image, &r) in self.relative().iter().enumerate() {
            let part = &mut weight[image * l * p..(image + 1) * l * p];
            if r == 0 {
                part.fill(E::Acc::ZERO);
                continue;
            }
            for w in part {
                *w = (*w - largest).exp();
                sum += *w;
            }
        }
        let scale = E::Acc::ONE / sum;
        weight.iter_mut().for_each(|w| *w *= scale);
        ignored * scale
    }

    /// Pixel position of point `p` on `level` for relative index `r`.
    #[inline(always)]
    fn position(&self, r: i32, level: usize, point: usize) -> (E::Acc, E::Acc) {
        let per_query = self.spec.heads * self.spec.points * 2;
        let at = (self.n * self.spec.points + point) * 2;
        let query = (self.b * self.sizes.queries + self.t) * per_query + at;
        let table = r as usize * per_query + at;
        let (h, w) = self.spec.levels[level];
        let ratio = E::Acc::of(self.spec.ratios[level]);
        let axis = |k: usize, size: usize| {
            let size = E::Acc::of_usize(size);
            let offset = self.x.offsets.data()[query + k].to_acc() + self.x.offset_table.data()[table + k].to_acc();
            let location = E::Acc::of(self.spec.reference[self.t * 2 + k]) + offset * ratio / size;
            location * size - E::Acc::of(0.5)
        };
        (axis(0, w), axis(1, h))
    }

    /// Visits every point with a weight: `f(index in weight, level, first row of the map, relative index, corners)`.
    #[inline(always)]
    fn for_points(&self, mut f: impl FnMut(usize, usize, usize, i32, Option<Corners<E::Acc>>)) {
        let (l, p) = (self.spec.levels.len(), self.spec.points);
        for (image, &r) in self.relative().iter().enumerate() {
            if r == 0 {
                continue;
            }
            let mut first = image * self.sizes.positions;
            for (level, &(h, w)) in self.spec.levels.iter().enumerate() {
                for point in 0..p {
                    let (x, y) = self.position(r, level, point);
                    f((image * l + level) * p + point, level, first, r, corners(h, w, x, y));
                }
                first += h * w;
            }
        }
    }

    /// The head's values from map row `first` on.
    #[inline(always)]
    fn map(&self, first: usize) -> HeadMap<'_, E> {
        let (size, stride) = (self.sizes.head_size, self.spec.heads * self.sizes.head_size);
        let start = (self.b * self.sizes.images * self.sizes.positions + first) * stride + self.n * size;
        HeadMap { value: self.x.value.data(), start, stride, size }
    }
}

/// See [`crate::ops::deform_attention::mmfs_forward`].
pub(crate) fn mmfs_forward<E: Element>(
    cx: &Context,
    x: &MmfsInputs<'_, E>,
    out: &mut [E],
    spec: &Mmfs<'_>,
    sizes: Sizes,
) {
    let (heads, d) = (spec.heads, sizes.head_size);
    let slots = sizes.images * spec.levels.len() * spec.points;
    let ignore_token = x.ignore_token.data();
    // Eight queries a chunk: enough work to be worth handing out, few enough to share evenly.
    cx.pool().run_parts(out, 8 * heads * d, |chunk, out| {
        with_scratch::<E::Acc, _>(slots + d, |scratch| {
            let (weight, sum) = scratch.split_at_mut(slots);
            for (i, out) in out.chunks_exact_mut(heads * d).enumerate() {
                let query = chunk * 8 + i;
                for (n, out) in out.chunks_exact_mut(d).enumerate() {
                    let glance = Glance { x, spec, sizes, b: query / sizes.queries, t: query % sizes.queries, n };
                    let ignored = glance.weights(weight);
                    for (sum, token) in sum.iter_mut().zip(&ignore_token[n * d..]) {
                        *sum = ignored * token.to_acc();
                    }
                    glance.for_points(|k, _, first, _, corners| {
                        if let Some(c) = corners {
                            glance.map(first).add_sample(&c, weight[k], sum);
                        }
                    });
                    for (out, &sum) in out.iter_mut().zip(&*sum) {
                        *out = E::from_acc(sum);
                    }
                }
            }
        });
    });
}

/// See [`crate::ops::deform_attention::mmfs_backward`].
pub(crate) fn mmfs_backward<E: Element>(
    cx: &Context,
    x: &MmfsInputs<'_, E>,
    d_out: &[E],
    gradients: MmfsGradients<'_, E>,
    spec: &Mmfs<'_>,
    sizes: Sizes,
) {
    let (heads, d, l, p) = (spec.heads, sizes.head_size, spec.levels.len(), spec.points);
    let (slots, value_rows) = (sizes.images * l * p, sizes.images * sizes.positions);
    let (per_offset, per_logit) = (p * 2, l * (p + 1));
    let d_value = SendPtr(gradients.value.data().as_mut_ptr());
    let d_offsets = SendPtr(gradients.offsets.data().as_mut_ptr());
    let d_logits = SendPtr(gradients.logits.data().as_mut_ptr());
    let d_offset_table = SendPtr(gradients.offset_table.data().as_mut_ptr());
    let d_logit_table = SendPtr(gradients.logit_table.data().as_mut_ptr());
    let d_ignore = gradients.ignore_token.map(|g| SendPtr(g.data().as_mut_ptr()));
    let ignore_token = x.ignore_token.data();
    cx.pool().run(heads, |n| {
        let table_len = sizes.rows * (per_offset + per_logit);
        let scratch_len = value_rows * d + table_len + per_offset + per_logit + 2 * slots + 2 * d;
        with_scratch::<E::Acc, _>(scratch_len, |scratch| {
            let (value_gradient, rest) = scratch.split_at_mut(value_rows * d);
            let (offset_table, rest) = rest.split_at_mut(sizes.rows * per_offset);
            let (logit_table, rest) = rest.split_at_mut(sizes.rows * per_logit);
            let (offsets, rest) = rest.split_at_mut(per_offset);
            let (logits, rest) = rest.split_at_mut(per_logit);
            let (weight, rest) = rest.split_at_mut(slots);
            let (d_weight, rest) = rest.split_at_mut(slots);
            let (g, ignore_gradient) = rest.split_at_mut(d);
            for b in 0..sizes.batch {
                value_gradient.fill(E::Acc::ZERO);
                for t in 0..sizes.queries {
                    let glance = Glance { x, spec, sizes, b, t, n };
                    let query = b * sizes.queries + t;
                    for (g, d_out) in g.iter_mut().zip(&d_out[(query * heads + n) * d..]) {
                        *g = d_out.to_acc();
                    }
                    let ignored = glance.weights(weight);
                    let token = &ignore_token[n * d..(n + 1) * d];
                    let d_ignored = g.iter().zip(token).fold(E::Acc::ZERO, |sum, (&g, t)| sum + g * t.to_acc());
                    for (sum, &g) in ignore_gradient.iter_mut().zip(&*g) {
                        *sum += ignored * g;
                    }
                    offsets.fill(E::Acc::ZERO);
                    logits.fill(E::Acc::ZERO);
                    let mut mean = ignored * d_ignored;
                    glance.for_points(|k, level, first, r, corners| {
                        d_weight[k] = E::Acc::ZERO;
                        let Some(c) = corners else { return };
                        let dot = glance.map(first).dots(&c, g);
                        d_weight[k] = blend(&c, dot);
                        mean += weight[k] * d_weight[k];
                        scatter(&c, weight[k], g, value_gradient, first);
                        // d position / d offset = ratio: the map size cancels.
                        let scale = weight[k] * E::Acc::of(spec.ratios[level]);
                        let (dx, dy) = d_position(&c, dot);
                        let (point, row) = (k % p, r as usize * per_offset);
                        for (axis, d) in [dx, dy].into_iter().enumerate() {
                            offsets[point * 2 + axis] += scale * d;
                            offset_table[row + point * 2 + axis] += scale * d;
                        }
                    });
                    for (image, &r) in glance.relative().iter().enumerate().filter(|(_, r)| **r > 0) {
                        for level in 0..l {
                            for point in 0..p {
                                let k = (image * l + level) * p + point;
                                let d = weight[k] * (d_weight[k] - mean);
                                logits[level * (p + 1) + point] += d;
                                logit_table[r as usize * per_logit + level * (p + 1) + point] += d;
                            }
                        }
                    }
                    // SAFETY: every chunk writes the entries of its own head n, which no other chunk touches.
                    unsafe {
                        store(d_offsets.get().add((query * heads + n) * per_offset), offsets);
                        store(d_logits.get().add((query * heads + n) * per_logit), logits);
                    }
                }
                for (row, gradient) in value_gradient.chunks_exact(d).enumerate() {
                    // SAFETY: as above.
                    unsafe { store(d_value.get().add(((b * value_rows + row) * heads + n) * d), gradient) };
                }
            }
            for row in 0..sizes.rows {
                let (o, q) = (&offset_table[row * per_offset..], &logit_table[row * per_logit..]);
                // SAFETY: as above.
                unsafe {
                    store(d_offset_table.get().add((row * heads + n) * per_offset), &o[..per_offset]);
                    store(d_logit_table.get().add((row * heads + n) * per_logit), &q[..per_logit]);
                }
            }
            if let Some(d_ignore) = &d_ignore {
                for (i, &sum) in ignore_gradient.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { *d_ignore.get().add(n * d + i) += sum };
                }
            }
        });
    });
}

/// Rounds `from` into the elements at `to`.
///
/// # Safety
/// `to` must be valid for `from.len()` elements that nobody else accesses.
unsafe fn store<E: Element>(to: *mut E, from: &[E::Acc]) {
    for (i, &x) in from.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.add(i).write(E::from_acc(x)) };
    }
}

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

/// Visits the points of (query, head): `f(index of the point in weight, first row of the map, (H, W), corners)`.
#[inline(always)]
fn for_sample_points<E: Element>(
    location: &[E],
    spec: &Sample<'_>,
    query: usize,
    n: usize,
    mut f: impl FnMut(usize, usize, (usize, usize), Option<Corners<E::Acc>>),
) {
    let (l, p) = (spec.levels.len(), spec.points);
    let half = E::Acc::of(0.5);
    let mut first = 0;
    for (level, &(h, w)) in spec.levels.iter().enumerate() {
        for point in 0..p {
            let k = ((query * spec.heads + n) * l + level) * p + point;
            let x = location[2 * k].to_acc() * E::Acc::of_usize(w) - half;
            let y = location[2 * k + 1].to_acc() * E::Acc::of_usize(h) - half;
            f(k, first, (h, w), corners(h, w, x, y));
        }
        first += h * w;
    }
}

/// See [`crate::ops::deform_attention::sample_forward`].
pub(crate) fn sample_forward<E: Element>(
    cx: &Context,
    value: &[E],
    location: &[E],
    weight: &[E],
    out: &mut [E],
    spec: &Sample<'_>,
    sizes: Sizes,
) {
    let (heads, d) = (spec.heads, sizes.head_size);
    cx.pool().run_parts(out, 8 * heads * d, |chunk, out| {
        with_scratch::<E::Acc, _>(d, |sum| {
            for (i, out) in out.chunks_exact_mut(heads * d).enumerate() {
                let query = chunk * 8 + i;
                let base = (query / sizes.queries) * sizes.positions * heads * d;
                for (n, out) in out.chunks_exact_mut(d).enumerate() {
                    sum.fill(E::Acc::ZERO);
                    for_sample_points(location, spec, query, n, |k, first, _, corners| {
                        if let Some(c) = corners {
                            let start = base + (first * heads + n) * d;
                            let map = HeadMap { value, start, stride: heads * d, size: d };
                            map.add_sample(&c, weight[k].to_acc(), sum);
                        }
                    });
                    for (out, &sum) in out.iter_mut().zip(&*sum) {
                        *out = E::from_acc(sum);
                    }
                }
            }
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
    let (heads, d) = (spec.heads, sizes.head_size);
    let d_value = SendPtr(d_value.as_mut_ptr());
    let d_location = SendPtr(d_location.as_mut_ptr());
    let d_weight = SendPtr(d_weight.as_mut_ptr());
    cx.pool().run(sizes.batch * heads, |chunk| {
        let (b, n) = (chunk / heads, chunk % heads);
        with_scratch::<E::Acc, _>(sizes.positions * d + d, |scratch| {
            let (value_gradient, g) = scratch.split_at_mut(sizes.positions * d);
            for t in 0..sizes.queries {
                let query = b * sizes.queries + t;
                for (g, d_out) in g.iter_mut().zip(&d_out[(query * heads + n) * d..]) {
                    *g = d_out.to_acc();
                }
                for_sample_points(x.location, spec, query, n, |k, first, (h, w), corners| {
                    let weight = x.weight[k].to_acc();
                    let (dw, dx, dy) = match corners {
                        None => (E::Acc::ZERO, E::Acc::ZERO, E::Acc::ZERO),
                        Some(c) => {
                            let start = (b * sizes.positions + first) * heads * d + n * d;
                            let dot = HeadMap { value: x.value, start, stride: heads * d, size: d }.dots(&c, g);
                            scatter(&c, weight, g, value_gradient, first);
                            let (dx, dy) = d_position(&c, dot);
                            (blend(&c, dot), weight * dx * E::Acc::of_usize(w), weight * dy * E::Acc::of_usize(h))
                        }
                    };
                    // SAFETY: a chunk owns the points of its batch entry and head.
                    unsafe {
                        d_weight.get().add(k).write(E::from_acc(dw));
                        d_location.get().add(2 * k).write(E::from_acc(dx));
                        d_location.get().add(2 * k + 1).write(E::from_acc(dy));
                    }
                });
            }
            for (row, gradient) in value_gradient.chunks_exact(d).enumerate() {
                // SAFETY: a chunk owns the values of its batch entry and head.
                unsafe { store(d_value.get().add(((b * sizes.positions + row) * heads + n) * d), gradient) };
            }
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
