//! Numbers about sampling points, and the sweeps over them.

use std::array::from_fn;

use crate::dtype::Real;
use crate::host::deform_attention::maps;
use crate::host::parallel::fold_lanes;
use crate::simd_fn;

/// Numbers about the points of a block of queries, each field `[K]`; the points of a query are `[visible images, L, P]`.
///
/// Corners come in the order (top, left), (top, right), (bottom, left), (bottom, right).
pub(super) struct Points<'a, A> {
    /// Softmax weight.
    pub weight: &'a mut [A],
    /// Distance from the left corners.
    pub right: &'a mut [A],
    /// Distance from the upper corners.
    pub down: &'a mut [A],
    /// Weight times bilinear coefficient of each corner.
    pub factor: [&'a mut [A]; 4],
    /// Padded row of the upper left corner; the right one follows it.
    pub row: &'a mut [u32],
    /// Padded row of the lower left corner.
    pub below: &'a mut [u32],
}

/// Numbers per point that [`Points`] needs.
pub(super) const FIELDS: usize = 7;
/// Indices per point that [`Points`] needs.
pub(super) const ROWS: usize = 2;

impl<'a, A: Real> Points<'a, A> {
    /// Room for `count` points in `FIELDS * count` numbers and `ROWS * count` indices.
    pub fn new(numbers: &'a mut [A], rows: &'a mut [u32], count: usize) -> Self {
        let mut fields = numbers.chunks_exact_mut(count.max(1));
        let mut field = || fields.next().unwrap_or(&mut []);
        let (weight, right, down) = (field(), field(), field());
        let factor = [field(), field(), field(), field()];
        let (row, below) = rows.split_at_mut(count);
        Points { weight, right, down, factor, row, below: &mut below[..count] }
    }
}

/// What the points of one level share, as whole numbers and factors of type `A`.
#[derive(Clone, Copy)]
pub(super) struct Level<A> {
    /// W and H.
    size: [A; 2],
    /// What an offset is multiplied with to become a part of the map, along x and y.
    scale: [A; 2],
    /// Multiplier of an offset in pixels.
    pub ratio: A,
    /// Rows of a padded line.
    line: A,
    /// First padded row of the level in its image.
    start: A,
}

/// Numbers that a [`Level`] takes in scratch.
pub(super) const LEVEL: usize = 7;

impl<A: Real> Level<A> {
    /// Writes the levels of an image to `[L, LEVEL]` numbers; an offset counts `ratio(l)` pixels, or the whole map if that is `None`.
    pub fn write(to: &mut [A], levels: &[(usize, usize)], ratio: impl Fn(usize) -> Option<f64>) {
        let mut start = 0;
        for (l, (to, &(h, w))) in to.chunks_exact_mut(LEVEL).zip(levels).enumerate() {
            let (wide, high) = (A::of_usize(w), A::of_usize(h));
            let (ratio, scale) = match ratio(l).map(A::of) {
                Some(ratio) => (ratio, [ratio / wide, ratio / high]),
                None => (A::ONE, [A::ONE; 2]),
            };
            to.copy_from_slice(&[wide, high, scale[0], scale[1], ratio, A::of_usize(w + 2), A::of_usize(start)]);
            start += maps::map_rows((h, w));
        }
    }

    /// The levels that [`Level::write`] wrote.
    pub fn read(from: &[A]) -> impl Iterator<Item = Self> {
        from.as_chunks::<LEVEL>().0.iter().map(|&[wide, high, x, y, ratio, line, start]| Level {
            size: [wide, high],
            scale: [x, y],
            ratio,
            line,
            start,
        })
    }
}

/// Where points of one level are, all in one group.
pub(super) struct Places<A, const G: usize> {
    pub right: [A; G],
    pub down: [A; G],
    pub row: [u32; G],
    pub below: [u32; G],
}

/// Places points of one level: `reference + offset * scale` in parts of the map.
#[inline(always)]
pub(super) fn place<A: Real, const G: usize>(
    level: Level<A>,
    image_start: u32,
    reference: [A; 2],
    x: &[A; G],
    y: &[A; G],
) -> Places<A, G> {
    let (half, two) = (A::of(0.5), A::of(2.0));
    let [wide, high] = level.size;
    let start = level.start.to_index() + image_start;
    let line = level.line.to_index();
    let x: [A; G] = from_fn(|k| (reference[0] + x[k] * level.scale[0]) * wide - half);
    let y: [A; G] = from_fn(|k| (reference[1] + y[k] * level.scale[1]) * high - half);
    let (left, upper) = (x.map(A::floor), y.map(A::floor));
    // Beyond two pixels outside there is nothing but zeros.
    let column: [A; G] = from_fn(|k| left[k].max(-two).min(wide) + two);
    let row: [A; G] = from_fn(|k| upper[k].max(-two).min(high) + two);
    let row: [u32; G] = from_fn(|k| (row[k] * level.line + column[k]).to_index() + start);
    Places {
        right: from_fn(|k| x[k] - left[k]),
        down: from_fn(|k| y[k] - upper[k]),
        row,
        below: from_fn(|k| row[k] + line),
    }
}

/// Accumulators of the reductions below.
const LANES: usize = 8;

#[inline(always)]
fn reduce<A: Real>(x: &[A], first: A, f: impl Fn(A, A) -> A) -> A {
    let mut lanes = [first; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for l in 0..LANES {
            lanes[l] = f(lanes[l], x[l]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, x);
    }
    fold_lanes(lanes, f)
}

/// `sum of a b`, in lanes.
#[inline(always)]
pub(super) fn dot<A: Real>(a: &[A], b: &[A]) -> A {
    let mut lanes = [A::ZERO; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    reduce(&lanes, A::ZERO, |a, b| a + b)
}

simd_fn! {
    /// Turns logits into softmax weights next to `slots` more logits of value `ignore`. `ends` says where each query's points end; its mass of the
    /// ignore slots goes to `ignored`.
    pub(super) fn softmax<A: Real>(weight: &mut [A], ends: &[usize], ignore: A, slots: A, ignored: &mut [A]) {
        let mut begin = 0;
        for (&end, ignored) in ends.iter().zip(&mut *ignored) {
            let weight = &mut weight[begin..end];
            let largest = reduce(weight, ignore, |a, b| a.max(b));
            weight.iter_mut().for_each(|w| *w -= largest);
            *ignored = ignore - largest;
            begin = end;
        }
        // One sweep over all queries: exponentials are what costs.
        weight[..begin].iter_mut().for_each(|w| *w = w.exp());
        ignored.iter_mut().for_each(|x| *x = slots * x.exp());
        let mut begin = 0;
        for (&end, ignored) in ends.iter().zip(ignored) {
            let weight = &mut weight[begin..end];
            let scale = A::ONE / (reduce(weight, A::ZERO, |a, b| a + b) + *ignored);
            weight.iter_mut().for_each(|w| *w *= scale);
            *ignored *= scale;
            begin = end;
        }
    }
}

simd_fn! {
    /// All fields are arguments of their own: only then does the compiler know that they do not overlap, and vectorise.
    fn factor_fields<A: Real>(weight: &[A], right: &[A], down: &[A], f0: &mut [A], f1: &mut [A], f2: &mut [A], f3: &mut [A], count: usize) {
        let (weight, right, down) = (&weight[..count], &right[..count], &down[..count]);
        let (f0, f1, f2, f3) = (&mut f0[..count], &mut f1[..count], &mut f2[..count], &mut f3[..count]);
        for k in 0..count {
            let (lw, lh) = (right[k], down[k]);
            let (hw, hh) = (A::ONE - lw, A::ONE - lh);
            f0[k] = weight[k] * (hh * hw);
            f1[k] = weight[k] * (hh * lw);
            f2[k] = weight[k] * (lh * hw);
            f3[k] = weight[k] * (lh * lw);
        }
    }
}

/// Factors of the first `count` points from their weights and distances.
pub(super) fn factors<A: Real>(points: &mut Points<'_, A>, count: usize) {
    let Points { weight, right, down, factor: [f0, f1, f2, f3], .. } = points;
    factor_fields(weight, right, down, f0, f1, f2, f3, count);
}

simd_fn! {
    /// From the dot products of a cotangent with the values of the corners, `dots[point][corner]`: in `bilinear` the sample of them, which is the
    /// gradient of the weight; in `dx` and `dy` the derivatives of that sample.
    pub(super) fn slopes<A: Real>(right: &[A], down: &[A], dots: &[A], bilinear: &mut [A], dx: &mut [A], dy: &mut [A], count: usize) {
        let (right, down) = (&right[..count], &down[..count]);
        let (bilinear, dx, dy) = (&mut bilinear[..count], &mut dx[..count], &mut dy[..count]);
        let dots = &dots.as_chunks::<4>().0[..count];
        for k in 0..count {
            let (lw, lh) = (right[k], down[k]);
            let (hw, hh) = (A::ONE - lw, A::ONE - lh);
            let [a, b, c, d] = dots[k];
            bilinear[k] = hh * (hw * a + lw * b) + lh * (hw * c + lw * d);
            dx[k] = hh * (b - a) + lh * (d - c);
            dy[k] = hw * (c - a) + lw * (d - b);
        }
    }
}
