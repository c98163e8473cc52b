//! Deformable attention on the CPU: see [`crate::ops::deform_attention`] for the formulas.
//!
//! Forward shares out (batch, query) pairs; backward shares out heads, each with a private gradient of its values. Both first compute
//! weights, corner rows and coefficients of all points of a (query, head) in vectorised sweeps, then walk the points with the head size as a
//! constant.

use std::cell::RefCell;
use std::ops::Range;

use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::ops::deform_attention::{Mmfs, MmfsGradients, MmfsInputs, Sample, Sizes};
use crate::simd_fn;

/// Numbers about the sampling points of several (query, head) pairs, each field `[K]`: computed in one vectorised sweep, read one by one.
///
/// Corners come in the order (top, left), (top, right), (bottom, left), (bottom, right). A corner outside of the map has `valid` 0 and
/// some index inside, so that nothing downstream branches.
struct Points<'a, A> {
    weight: &'a mut [A],
    x: &'a mut [A],
    y: &'a mut [A],
    /// Size of the point's map.
    wide: &'a mut [A],
    high: &'a mut [A],
    valid: [&'a mut [A]; 4],
    coefficient: [&'a mut [A]; 4],
    /// First row of the point's map.
    first: &'a mut [u32],
    row: [&'a mut [u32]; 4],
}

/// Numbers of type `A` per point that [`Points`] needs.
const FIELDS: usize = 13;
/// Indices per point that [`Points`] needs.
const ROWS: usize = 5;

impl<'a, A: Real> Points<'a, A> {
    fn new(numbers: &'a mut [A], rows: &'a mut [u32], count: usize) -> Self {
        let mut fields = numbers.chunks_exact_mut(count.max(1));
        let mut field = || fields.next().unwrap_or(&mut []);
        let (weight, x, y, wide, high) = (field(), field(), field(), field(), field());
        let valid = [field(), field(), field(), field()];
        let coefficient = [field(), field(), field(), field()];
        let mut rows = rows.chunks_exact_mut(count.max(1));
        let mut row = || rows.next().unwrap_or(&mut []);
        Points { weight, x, y, wide, high, valid, coefficient, first: row(), row: [row(), row(), row(), row()] }
    }
}

simd_fn! {
    /// See [`corners`]. All fields are arguments of their own: only then does the compiler know that they do not overlap, and vectorise.
    fn corner_fields<A: Real>(
        x: &mut [A], y: &mut [A], wide: &[A], high: &[A], first: &[u32],
        v0: &mut [A], v1: &mut [A], v2: &mut [A], v3: &mut [A],
        c0: &mut [A], c1: &mut [A], c2: &mut [A], c3: &mut [A],
        r0: &mut [u32], r1: &mut [u32], r2: &mut [u32], r3: &mut [u32],
        count: usize,
    ) {
        let one = |holds: bool| if holds { A::ONE } else { A::ZERO };
        let (x, y, wide, high, first) = (&mut x[..count], &mut y[..count], &wide[..count], &high[..count], &first[..count]);
        let (v0, v1, v2, v3) = (&mut v0[..count], &mut v1[..count], &mut v2[..count], &mut v3[..count]);
        let (c0, c1, c2, c3) = (&mut c0[..count], &mut c1[..count], &mut c2[..count], &mut c3[..count]);
        let (r0, r1, r2, r3) = (&mut r0[..count], &mut r1[..count], &mut r2[..count], &mut r3[..count]);
        for k in 0..count {
            let (px, py, w, h) = (x[k], y[k], wide[k], high[k]);
            let (x0, y0) = (px.floor(), py.floor());
            let (lw, lh) = (px - x0, py - y0);
            let (hw, hh) = (A::ONE - lw, A::ONE - lh);
            // A corner is in the map if its own line and column are; a sample further out than one pixel has no such corner.
            let (left, right) = (one(x0 >= A::ZERO) * one(x0 < w), one(x0 + A::ONE >= A::ZERO) * one(x0 + A::ONE < w));
            let (top, bottom) = (one(y0 >= A::ZERO) * one(y0 < h), one(y0 + A::ONE >= A::ZERO) * one(y0 + A::ONE < h));
            v0[k] = top * left;
            v1[k] = top * right;
            v2[k] = bottom * left;
            v3[k] = bottom * right;
            c0[k] = top * left * (hh * hw);
            c1[k] = top * right * (hh * lw);
            c2[k] = bottom * left * (lh * hw);
            c3[k] = bottom * right * (lh * lw);
            let column = |at: A| at.max(A::ZERO).min(w - A::ONE);
            let line = |at: A| at.max(A::ZERO).min(h - A::ONE) * w;
            let (start, next) = (line(y0), line(y0 + A::ONE));
            let (here, beside) = (column(x0), column(x0 + A::ONE));
            r0[k] = (start + here).to_index() + first[k];
            r1[k] = (start + beside).to_index() + first[k];
            r2[k] = (next + here).to_index() + first[k];
            r3[k] = (next + beside).to_index() + first[k];
            x[k] = lw;
            y[k] = lh;
        }
    }
}

/// Corners of the first `count` points from their pixel positions. Afterwards `x` and `y` hold the distances from the lower pixel.
fn corners<A: Real>(points: &mut Points<'_, A>, count: usize) {
    let Points { x, y, wide, high, valid, coefficient, first, row, .. } = points;
    let ([v0, v1, v2, v3], [c0, c1, c2, c3], [r0, r1, r2, r3]) = (valid, coefficient, row);
    corner_fields(x, y, wide, high, first, v0, v1, v2, v3, c0, c1, c2, c3, r0, r1, r2, r3, count);
}

/// The rows of one head: `size` elements from `start`, one row every `stride`.
#[derive(Clone, Copy)]
struct HeadRows<'a, E> {
    value: &'a [E],
    start: usize,
    stride: usize,
}

impl<'a, E: Element> HeadRows<'a, E> {
    #[inline(always)]
    fn row(&self, row: u32, size: usize) -> &'a [E] {
        let start = self.start + row as usize * self.stride;
        &self.value[start..start + size]
    }
}

/// Calls `$f::<N, ..>` with the head size as a constant where it is a usual one, so that the inner loops unroll.
macro_rules! with_head_size {
    ($size:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $size {
            2 => $f::<E, 2>($($arg),*, 2),
            3 => $f::<E, 3>($($arg),*, 3),
            4 => $f::<E, 4>($($arg),*, 4),
            8 => $f::<E, 8>($($arg),*, 8),
            16 => $f::<E, 16>($($arg),*, 16),
            32 => $f::<E, 32>($($arg),*, 32),
            64 => $f::<E, 64>($($arg),*, 64),
            other => $f::<E, 0>($($arg),*, other),
        }
    };
}

/// `out += sum over points of weight * bilinear`.
#[inline(always)]
fn gather_points<E: Element, const N: usize>(
    rows: HeadRows<'_, E>,
    points: &Points<'_, E::Acc>,
    range: Range<usize>,
    out: &mut [E::Acc],
    size: usize,
) {
    let size = if N > 0 { N } else { size };
    let out = &mut out[..size];
    for k in range {
        for c in 0..4 {
            let factor = points.weight[k] * points.coefficient[c][k];
            let row = rows.row(points.row[c][k], size);
            for (out, v) in out.iter_mut().zip(row) {
                *out += factor * v.to_acc();
            }
        }
    }
}

simd_fn! {
    fn gather<E: Element>(rows: HeadRows<'_, E>, points: &Points<'_, E::Acc>, range: Range<usize>, out: &mut [E::Acc]) {
        with_head_size!(out.len(), gather_points(rows, points, range, out))
    }
}

/// For each point: `d_weight = bilinear . g`, `x` and `y` become `d(bilinear . g) / d(x, y)`, and `weight * coefficient * g` is added to the
/// corners' rows of the private gradient `[rows, N]`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn differentiate_points<E: Element, const N: usize>(
    rows: HeadRows<'_, E>,
    points: &mut Points<'_, E::Acc>,
    range: Range<usize>,
    g: &[E::Acc],
    d_weight: &mut [E::Acc],
    gradient: &mut [E::Acc],
    size: usize,
) {
    let size = if N > 0 { N } else { size };
    let g = &g[..size];
    for k in range {
        let mut dot = [E::Acc::ZERO; 4];
        let mut blend = E::Acc::ZERO;
        for (c, dot) in dot.iter_mut().enumerate() {
            let at = points.row[c][k];
            let sum = g.iter().zip(rows.row(at, size)).fold(E::Acc::ZERO, |sum, (&g, v)| sum + g * v.to_acc());
            *dot = sum * points.valid[c][k];
            let coefficient = points.coefficient[c][k];
            blend += coefficient * sum;
            let factor = points.weight[k] * coefficient;
            let start = at as usize * size;
            for (d, &g) in gradient[start..start + size].iter_mut().zip(g) {
                *d += factor * g;
            }
        }
        d_weight[k] = blend;
        let (lw, lh) = (points.x[k], points.y[k]);
        let (hw, hh) = (E::Acc::ONE - lw, E::Acc::ONE - lh);
        points.x[k] = hh * (dot[1] - dot[0]) + lh * (dot[3] - dot[2]);
        points.y[k] = hw * (dot[2] - dot[0]) + lw * (dot[3] - dot[1]);
    }
}

simd_fn! {
    fn differentiate<E: Element>(rows: HeadRows<'_, E>, points: &mut Points<'_, E::Acc>, range: Range<usize>, g: &[E::Acc], d_weight: &mut [E::Acc], gradient: &mut [E::Acc]) {
        with_head_size!(g.len(), differentiate_points(rows, points, range, g, d_weight, gradient))
    }
}

simd_fn! {
    /// Turns logits into softmax weights next to `slots` more logits of value `ignore`; returns the mass of those.
    fn softmax<A: Real>(weight: &mut [A], ignore: A, slots: A) -> A {
        let largest = weight.iter().fold(ignore, |m, &x| m.max(x));
        for w in weight.iter_mut() {
            *w = (*w - largest).exp();
        }
        let ignored = slots * (ignore - largest).exp();
        let scale = A::ONE / (weight.iter().fold(A::ZERO, |s, &w| s + w) + ignored);
        weight.iter_mut().for_each(|w| *w *= scale);
        ignored * scale
    }
}

thread_local! {
    static SCRATCH: RefCell<(Vec<u8>, Vec<u32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Lends `len` zeroed numbers and `rows` indices that live as long as the thread.
fn with_scratch<A: Real, R>(len: usize, rows: usize, f: impl FnOnce(&mut [A], &mut [u32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|(bytes, indices)| {
        let need = (len + 8) * size_of::<A>();
        if bytes.len() < need {
            bytes.resize(need, 0);
        }
        if indices.len() < rows {
            indices.resize(rows, 0);
        }
        let skip = bytes.as_ptr().align_offset(align_of::<A>());
        let numbers: &mut [A] = bytemuck::cast_slice_mut(&mut bytes[skip..skip + len * size_of::<A>()]);
        numbers.fill(A::ZERO);
        f(numbers, &mut indices[..rows])
    })
}

/// What one query and head sees.
struct Glance<'a, E: Element> {
    x: &'a MmfsInputs<'a, E>,
    spec: &'a Mmfs<'a>,
    sizes: Sizes,
    b: usize,
    t: usize,
    n: usize,
}

impl<'a, E: Element> Glance<'a, E> {
    fn relative(&self) -> &'a [i32] {
        let start = (self.b * self.sizes.queries + self.t) * self.sizes.images;
        &self.spec.relative[start..start + self.sizes.images]
    }

    /// Appends softmax weights, positions and maps of the points of all visible images, `[visible images, L, P]`, from point `start` on; returns where
    /// they end and the mass of the ignore slots.
    #[inline(always)]
    fn look(&self, points: &mut Points<'_, E::Acc>, start: usize) -> (usize, E::Acc) {
        let (l, p, heads) = (self.spec.levels.len(), self.spec.points, self.spec.heads);
        let query = self.b * self.sizes.queries + self.t;
        let (per_logit, per_offset) = (l * (p + 1), p * 2);
        let logits = &self.x.logits.data()[(query * heads + self.n) * per_logit..][..per_logit];
        let offsets = &self.x.offsets.data()[(query * heads + self.n) * per_offset..][..per_offset];
        let reference = [0, 1].map(|axis| E::Acc::of(self.spec.reference[self.t * 2 + axis]));
        let half = E::Acc::of(0.5);
        let mut k = start;
        for (image, &r) in self.relative().iter().enumerate().filter(|(_, r)| **r > 0) {
            let row = r as usize * heads + self.n;
            let logit_row = &self.x.logit_table.data()[row * per_logit..][..per_logit];
            let offset_row = &self.x.offset_table.data()[row * per_offset..][..per_offset];
            let mut first = image * self.sizes.positions;
            for (level, &(h, w)) in self.spec.levels.iter().enumerate() {
                let ratio = E::Acc::of(self.spec.ratios[level]);
                let (wide, high) = (E::Acc::of_usize(w), E::Acc::of_usize(h));
                let (scale_x, scale_y) = (ratio / wide, ratio / high);
                points.wide[k..k + p].fill(wide);
                points.high[k..k + p].fill(high);
                points.first[k..k + p].fill(first as u32);
                let logit = logits[level * (p + 1)..].iter().zip(&logit_row[level * (p + 1)..]);
                for (weight, (a, b)) in points.weight[k..k + p].iter_mut().zip(logit) {
                    *weight = a.to_acc() + b.to_acc();
                }
                let offset = offsets.chunks_exact(2).zip(offset_row.chunks_exact(2));
                let position = points.x[k..k + p].iter_mut().zip(&mut points.y[k..k + p]);
                for ((x, y), (a, b)) in position.zip(offset) {
                    *x = (reference[0] + (a[0].to_acc() + b[0].to_acc()) * scale_x) * wide - half;
                    *y = (reference[1] + (a[1].to_acc() + b[1].to_acc()) * scale_y) * high - half;
                }
                k += p;
                first += h * w;
            }
        }
        let slots = E::Acc::of_usize(self.sizes.images * l);
        (k, softmax(&mut points.weight[start..k], -slots.ln(), slots))
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
    let most = sizes.images * spec.levels.len() * spec.points;
    let ignore_token = x.ignore_token.data();
    let rows_per_entry = sizes.images * sizes.positions;
    // Eight queries a chunk: enough work to be worth handing out, few enough to share evenly.
    cx.pool().run_parts(out, 8 * heads * d, |chunk, out| {
        let all = heads * most;
        with_scratch::<E::Acc, _>(all * FIELDS + heads + d, all * ROWS, |scratch, rows| {
            let (ignored, rest) = scratch.split_at_mut(heads);
            let (sum, rest) = rest.split_at_mut(d);
            let mut points = Points::new(rest, rows, all);
            for (i, out) in out.chunks_exact_mut(heads * d).enumerate() {
                let query = chunk * 8 + i;
                let (b, t) = (query / sizes.queries, query % sizes.queries);
                let mut end = 0;
                for (n, ignored) in ignored.iter_mut().enumerate() {
                    (end, *ignored) = Glance { x, spec, sizes, b, t, n }.look(&mut points, end);
                }
                corners(&mut points, end);
                let count = end / heads;
                for (n, out) in out.chunks_exact_mut(d).enumerate() {
                    for (sum, token) in sum.iter_mut().zip(&ignore_token[n * d..]) {
                        *sum = ignored[n] * token.to_acc();
                    }
                    let start = b * rows_per_entry * heads * d + n * d;
                    let rows = HeadRows { value: x.value.data(), start, stride: heads * d };
                    gather(rows, &points, n * count..(n + 1) * count, sum);
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
    let (most, value_rows) = (sizes.images * l * p, sizes.images * sizes.positions);
    let (per_offset, per_logit) = (p * 2, l * (p + 1));
    /// Queries whose points are prepared in one sweep.
    const BLOCK: usize = 16;
    let d_value = SendPtr(gradients.value.data().as_mut_ptr());
    let d_offsets = SendPtr(gradients.offsets.data().as_mut_ptr());
    let d_logits = SendPtr(gradients.logits.data().as_mut_ptr());
    let d_offset_table = SendPtr(gradients.offset_table.data().as_mut_ptr());
    let d_logit_table = SendPtr(gradients.logit_table.data().as_mut_ptr());
    let d_ignore = gradients.ignore_token.map(|g| SendPtr(g.data().as_mut_ptr()));
    let ignore_token = x.ignore_token.data();
    cx.pool().run(heads, |n| {
        let table_len = sizes.rows * (per_offset + per_logit);
        let all = BLOCK * most;
        let len = value_rows * d + table_len + per_offset + per_logit + (1 + FIELDS) * all + 2 * d;
        with_scratch::<E::Acc, _>(len, ROWS * all, |scratch, rows| {
            let (value_gradient, rest) = scratch.split_at_mut(value_rows * d);
            let (offset_table, rest) = rest.split_at_mut(sizes.rows * per_offset);
            let (logit_table, rest) = rest.split_at_mut(sizes.rows * per_logit);
            let (offsets, rest) = rest.split_at_mut(per_offset);
            let (logits, rest) = rest.split_at_mut(per_logit);
            let (d_weight, rest) = rest.split_at_mut(all);
            let (g, rest) = rest.split_at_mut(d);
            let (ignore_gradient, rest) = rest.split_at_mut(d);
            let mut points = Points::new(rest, rows, all);
            for b in 0..sizes.batch {
                value_gradient.fill(E::Acc::ZERO);
                let start = b * value_rows * heads * d + n * d;
                let rows = HeadRows { value: x.value.data(), start, stride: heads * d };
                // Points of the queries of a block: (end, ignored mass) of each.
                let mut seen = [(0, E::Acc::ZERO); BLOCK];
                for t in 0..sizes.queries {
                    let place = t % BLOCK;
                    if place == 0 {
                        let mut end = 0;
                        for (seen, t) in seen.iter_mut().zip(t..sizes.queries) {
                            *seen = Glance { x, spec, sizes, b, t, n }.look(&mut points, end);
                            end = seen.0;
                        }
                        corners(&mut points, end);
                    }
                    let begin = if place == 0 { 0 } else { seen[place - 1].0 };
                    let (end, ignored) = seen[place];
                    let glance = Glance { x, spec, sizes, b, t, n };
                    let query = b * sizes.queries + t;
                    for (g, d_out) in g.iter_mut().zip(&d_out[(query * heads + n) * d..]) {
                        *g = d_out.to_acc();
                    }
                    let token = &ignore_token[n * d..(n + 1) * d];
                    let d_ignored = g.iter().zip(token).fold(E::Acc::ZERO, |sum, (&g, t)| sum + g * t.to_acc());
                    for (sum, &g) in ignore_gradient.iter_mut().zip(&*g) {
                        *sum += ignored * g;
                    }
                    differentiate(rows, &mut points, begin..end, g, d_weight, value_gradient);
                    let pairs = points.weight[begin..end].iter().zip(&d_weight[begin..end]);
                    let mean = pairs.fold(ignored * d_ignored, |sum, (&w, &d)| sum + w * d);
                    offsets.fill(E::Acc::ZERO);
                    logits.fill(E::Acc::ZERO);
                    let mut k = begin;
                    for &r in glance.relative().iter().filter(|r| **r > 0) {
                        let offset_row = &mut offset_table[r as usize * per_offset..][..per_offset];
                        let logit_row = &mut logit_table[r as usize * per_logit..][..per_logit];
                        for level in 0..l {
                            // d position / d offset = ratio: the map size cancels.
                            let ratio = E::Acc::of(spec.ratios[level]);
                            for point in 0..p {
                                let scale = points.weight[k] * ratio;
                                for (axis, d) in [points.x[k], points.y[k]].into_iter().enumerate() {
                                    offsets[point * 2 + axis] += scale * d;
                                    offset_row[point * 2 + axis] += scale * d;
                                }
                                let d = points.weight[k] * (d_weight[k] - mean);
                                logits[level * (p + 1) + point] += d;
                                logit_row[level * (p + 1) + point] += d;
                                k += 1;
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

impl<E: Element> SampleInputs<'_, E> {
    /// Weights and corners of all points of a query and head.
    fn look(&self, spec: &Sample<'_>, query: usize, n: usize, points: &mut Points<'_, E::Acc>) {
        let (l, p) = (spec.levels.len(), spec.points);
        let half = E::Acc::of(0.5);
        let start = (query * spec.heads + n) * l * p;
        let (mut k, mut first) = (0, 0);
        for &(h, w) in spec.levels {
            for _ in 0..p {
                points.weight[k] = self.weight[start + k].to_acc();
                points.wide[k] = E::Acc::of_usize(w);
                points.high[k] = E::Acc::of_usize(h);
                points.first[k] = first as u32;
                points.x[k] = self.location[2 * (start + k)].to_acc() * E::Acc::of_usize(w) - half;
                points.y[k] = self.location[2 * (start + k) + 1].to_acc() * E::Acc::of_usize(h) - half;
                k += 1;
            }
            first += h * w;
        }
        corners(points, k);
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
    let (heads, d, count) = (spec.heads, sizes.head_size, spec.levels.len() * spec.points);
    cx.pool().run_parts(out, 8 * heads * d, |chunk, out| {
        with_scratch::<E::Acc, _>(count * FIELDS + d, ROWS * count, |scratch, rows| {
            let (sum, rest) = scratch.split_at_mut(d);
            let mut points = Points::new(rest, rows, count);
            for (i, out) in out.chunks_exact_mut(heads * d).enumerate() {
                let query = chunk * 8 + i;
                let base = (query / sizes.queries) * sizes.positions * heads * d;
                for (n, out) in out.chunks_exact_mut(d).enumerate() {
                    x.look(spec, query, n, &mut points);
                    sum.fill(E::Acc::ZERO);
                    let rows = HeadRows { value: x.value, start: base + n * d, stride: heads * d };
                    gather(rows, &points, 0..count, sum);
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
    let (heads, d, l, p) = (spec.heads, sizes.head_size, spec.levels.len(), spec.points);
    let count = l * p;
    let d_value = SendPtr(d_value.as_mut_ptr());
    let d_location = SendPtr(d_location.as_mut_ptr());
    let d_weight = SendPtr(d_weight.as_mut_ptr());
    cx.pool().run(sizes.batch * heads, |chunk| {
        let (b, n) = (chunk / heads, chunk % heads);
        let len = sizes.positions * d + d + count * (FIELDS + 1);
        with_scratch::<E::Acc, _>(len, ROWS * count, |scratch, rows| {
            let (value_gradient, rest) = scratch.split_at_mut(sizes.positions * d);
            let (g, rest) = rest.split_at_mut(d);
            let (weight_gradient, rest) = rest.split_at_mut(count);
            let mut points = Points::new(rest, rows, count);
            let start = b * sizes.positions * heads * d + n * d;
            let rows = HeadRows { value: x.value, start, stride: heads * d };
            for t in 0..sizes.queries {
                let query = b * sizes.queries + t;
                for (g, d_out) in g.iter_mut().zip(&d_out[(query * heads + n) * d..]) {
                    *g = d_out.to_acc();
                }
                x.look(spec, query, n, &mut points);
                differentiate(rows, &mut points, 0..count, g, weight_gradient, value_gradient);
                for (k, &gradient) in weight_gradient.iter().enumerate() {
                    let (h, w) = spec.levels[k / p];
                    let at = (query * heads + n) * count + k;
                    let (dx, dy) = (points.x[k] * E::Acc::of_usize(w), points.y[k] * E::Acc::of_usize(h));
                    // SAFETY: a chunk owns the points of its batch entry and head.
                    unsafe {
                        d_weight.get().add(at).write(E::from_acc(gradient));
                        d_location.get().add(2 * at).write(E::from_acc(points.weight[k] * dx));
                        d_location.get().add(2 * at + 1).write(E::from_acc(points.weight[k] * dy));
                    }
                }
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
