//! The multi-image form; one chunk is one head of one batch entry.

use std::array::from_fn;
use std::ops::Range;

use super::maps::{self, Head};
use super::points::{self, FIELDS, LEVEL, Level, Points, ROWS};
use super::{BLOCK, store, walk};
use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::host::parallel::with_scratch;
use crate::ops::deform_attention::{Mmfs, MmfsGradients, MmfsInputs, Sizes};
use crate::simd_fn;

/// Heads of one entry that follow each other in a job, so that they find in the cache what lies between each other's numbers. There are still enough
/// jobs for several threads.
fn heads_per_job(spec: &Mmfs<'_>, sizes: Sizes) -> usize {
    const JOBS: usize = 16;
    spec.heads.div_ceil(JOBS.div_ceil(sizes.batch.max(1)).min(spec.heads))
}

/// Number of jobs. Jobs on the same heads of different entries follow each other, so that threads seldom write to the same cache line.
fn jobs(spec: &Mmfs<'_>, sizes: Sizes) -> usize {
    sizes.batch * spec.heads.div_ceil(heads_per_job(spec, sizes))
}

/// The call, and one of its heads of one entry.
struct Chunk<'a, E> {
    x: &'a MmfsInputs<'a, E>,
    spec: &'a Mmfs<'a>,
    sizes: Sizes,
    b: usize,
    n: usize,
}

impl<'a, E: Element> Chunk<'a, E> {
    /// The heads of one job.
    fn of(x: &'a MmfsInputs<'a, E>, spec: &'a Mmfs<'a>, sizes: Sizes, job: usize) -> impl Iterator<Item = Self> {
        let each = heads_per_job(spec, sizes);
        let (b, first) = (job % sizes.batch, job / sizes.batch * each);
        (first..(first + each).min(spec.heads)).map(move |n| Chunk { x, spec, sizes, b, n })
    }

    /// Most points of a query.
    fn most(&self) -> usize {
        self.sizes.images * self.spec.levels.len() * self.spec.points
    }

    /// Queries of a block, at most.
    fn block(&self) -> usize {
        BLOCK.min(self.sizes.queries)
    }

    /// Numbers that [`look`] needs: offsets and logits of the queries of a block, and offsets once more.
    fn inputs(&self) -> usize {
        let per_offset = 2 * self.spec.points;
        per_offset + self.block() * (per_offset + self.spec.levels.len() * (self.spec.points + 1))
    }

    /// Blocks of queries.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<E> {
        let queries = self.sizes.queries;
        (0..queries).step_by(BLOCK).map(move |t| t..(t + BLOCK).min(queries))
    }

    /// Where query `t` of this head lies in a tensor `[B, T, N, ..]`.
    fn at(&self, t: usize) -> usize {
        (self.b * self.sizes.queries + t) * self.spec.heads + self.n
    }

    fn head(&self) -> Head<'a> {
        let (size, stride) = (self.sizes.head_size, self.spec.heads * self.sizes.head_size);
        let rows = self.sizes.images * self.sizes.positions;
        let start = self.b * rows * stride + self.n * size;
        let seen = self.sizes.queries * self.sizes.images;
        let relative = &self.spec.relative[self.b * seen..][..seen];
        Head { start, stride, size, images: self.sizes.images, levels: self.spec.levels, relative }
    }

    /// (image, relative index) of the images that query `t` sees.
    #[inline(always)]
    fn seen(&self, t: usize) -> impl Iterator<Item = (usize, usize)> + use<'a, E> {
        let images = self.sizes.images;
        let relative = &self.spec.relative[(self.b * self.sizes.queries + t) * images..][..images];
        relative.iter().enumerate().filter(|(_, r)| **r > 0).map(|(image, &r)| (image, r as usize))
    }

    fn write_levels(&self, to: &mut [E::Acc]) {
        Level::write(to, self.spec.levels, |l| Some(self.spec.ratios[l]));
    }
}

/// Calls `$f` with a divisor G of the number of points as a constant, so many of which are computed side by side, and whether it is that number: then
/// there is no loop over groups, which the compiler would prepare for a length that never comes.
macro_rules! with_group {
    ($points:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $points {
            8 => $f::<E, 8, true>($($arg),*),
            4 => $f::<E, 4, true>($($arg),*),
            p if p % 8 == 0 => $f::<E, 8, false>($($arg),*),
            p if p % 4 == 0 => $f::<E, 4, false>($($arg),*),
            _ => $f::<E, 1, false>($($arg),*),
        }
    };
}

#[inline(always)]
fn widen<E: Element>(to: &mut [E::Acc], from: &[E]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_acc();
    }
}

/// G numbers from `at` on, widened.
#[inline(always)]
fn take<E: Element, const G: usize>(x: &[E], at: usize) -> [E::Acc; G] {
    let x = &x[at..at + G];
    from_fn(|i| x[i].to_acc())
}

/// `x[at..] += y`.
#[inline(always)]
fn add_at<A: Real, const G: usize>(x: &mut [A], at: usize, y: &[A; G]) {
    let x = &mut x[at..at + G];
    let sums: [A; G] = from_fn(|i| x[i] + y[i]);
    x.copy_from_slice(&sums);
}

#[inline(always)]
fn look_sized<E: Element, const G: usize, const ONE: bool>(
    chunk: &Chunk<'_, E>,
    queries: Range<usize>,
    levels: &[E::Acc],
    inputs: &mut [E::Acc],
    points: &mut Points<'_, E::Acc>,
    ends: &mut [usize],
) -> usize {
    let Chunk { x, spec, n, .. } = *chunk;
    let (p, l_all) = (if ONE { G } else { spec.points }, spec.levels.len());
    let groups = p / G;
    let (per_logit, per_offset) = (l_all * (p + 1), p * 2);
    let image_rows = maps::image_rows(spec.levels);
    let (offset, inputs) = inputs.split_at_mut(per_offset);
    let (ox, oy) = offset.split_at_mut(p);
    let (ox, oy) = (ox.as_chunks_mut::<G>().0, oy.as_chunks_mut::<G>().0);
    // Queries lie far apart and come from a far cache: fetched beside each other they cost a fraction of what they cost one by one.
    for (t, inputs) in queries.clone().zip(inputs.chunks_exact_mut(per_offset + per_logit)) {
        let (offsets, logits) = inputs.split_at_mut(per_offset);
        widen(offsets, &x.offsets.data()[chunk.at(t) * per_offset..][..per_offset]);
        widen(logits, &x.logits.data()[chunk.at(t) * per_logit..][..per_logit]);
    }
    let mut k = 0;
    for ((t, end), inputs) in queries.zip(ends).zip(inputs.chunks_exact(per_offset + per_logit)) {
        let (offsets, logits) = inputs.split_at(per_offset);
        let reference = [0, 1].map(|axis| E::Acc::of(spec.reference[t * 2 + axis]));
        for (image, r) in chunk.seen(t) {
            let table = r * spec.heads + n;
            let logit_table = &x.logit_table.data()[table * per_logit..][..per_logit];
            let offset_table = &x.offset_table.data()[table * per_offset..][..per_offset];
            for ((g, ox), oy) in ox.iter_mut().enumerate().zip(&mut *oy) {
                let (a, b) = (&offsets[2 * g * G..][..2 * G], &offset_table[2 * g * G..][..2 * G]);
                *ox = from_fn(|i| a[2 * i] + b[2 * i].to_acc());
                *oy = from_fn(|i| a[2 * i + 1] + b[2 * i + 1].to_acc());
            }
            let start = (image * image_rows) as u32;
            let count = l_all * p;
            let weight = points.weight[k..k + count].as_chunks_mut::<G>().0;
            let (right, down) =
                (points.right[k..k + count].as_chunks_mut::<G>().0, points.down[k..k + count].as_chunks_mut::<G>().0);
            let (row, below) =
                (points.row[k..k + count].as_chunks_mut::<G>().0, points.below[k..k + count].as_chunks_mut::<G>().0);
            for (l, level) in Level::read(levels).enumerate() {
                for g in 0..groups {
                    let (i, logit) = (l * groups + g, l * (p + 1) + g * G);
                    let (a, b) = (take::<_, G>(logits, logit), take::<E, G>(logit_table, logit));
                    weight[i] = from_fn(|i| a[i] + b[i]);
                    let places = points::place(level, start, reference, &ox[g], &oy[g]);
                    (right[i], down[i], row[i], below[i]) = (places.right, places.down, places.row, places.below);
                }
            }
            k += count;
        }
        *end = k;
    }
    k
}

simd_fn! {
    /// Logits (as weights) and places of the points of some queries, `[visible images, L, P]` of each; `ends` says where those of each query end.
    /// Returns how many there are. `inputs` is scratch of [`Chunk::inputs`] numbers.
    fn look<E: Element>(chunk: &Chunk<'_, E>, queries: Range<usize>, levels: &[E::Acc], inputs: &mut [E::Acc], points: &mut Points<'_, E::Acc>, ends: &mut [usize]) -> usize {
        with_group!(chunk.spec.points, look_sized(chunk, queries, levels, inputs, points, ends))
    }
}

/// Everything about the points of some queries but what their values are: [`look`], softmax, factors. Returns their number.
fn prepare<E: Element>(
    chunk: &Chunk<'_, E>,
    queries: Range<usize>,
    levels: &[E::Acc],
    inputs: &mut [E::Acc],
    points: &mut Points<'_, E::Acc>,
    ends: &mut [usize],
    ignored: &mut [E::Acc],
) -> usize {
    let count = look(chunk, queries, levels, inputs, points, ends);
    let slots = E::Acc::of_usize(chunk.sizes.images * chunk.spec.levels.len());
    points::softmax(&mut points.weight[..count], ends, -slots.ln(), slots, ignored);
    points::factors(points, count);
    count
}

/// Copies the corners of all points next to each other, four rows a point, and makes the points refer to those: cheaper than whole maps
/// for few queries.
fn copy_corners<E: Element>(
    chunk: &Chunk<'_, E>,
    queries: Range<usize>,
    points: &mut Points<'_, E::Acc>,
    width: usize,
    patches: &mut [E::Acc],
) {
    let (head, value) = (chunk.head(), chunk.x.value.data());
    let mut patches = patches.chunks_exact_mut(width);
    let mut k = 0;
    for t in queries {
        for (image, _) in chunk.seen(t) {
            let (mut padded, mut first) = (image * maps::image_rows(chunk.spec.levels), image * chunk.sizes.positions);
            for &(h, w) in chunk.spec.levels {
                for _ in 0..chunk.spec.points {
                    let at = points.row[k] as usize - padded;
                    let (upper, left) = (at / (w + 2), at % (w + 2));
                    for corner in 0..4 {
                        // Counted from two pixels outside of the map.
                        let (y, x) = (upper + corner / 2, left + corner % 2);
                        let Some(patch) = patches.next() else { unreachable!("four rows for every point") };
                        patch.fill(E::Acc::ZERO);
                        if (2..h + 2).contains(&y) && (2..w + 2).contains(&x) {
                            let row = first + (y - 2) * w + x - 2;
                            let from = &value[head.start + row * head.stride..][..head.size];
                            patch.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_acc());
                        }
                    }
                    (points.row[k], points.below[k]) = (4 * k as u32, 4 * k as u32 + 2);
                    k += 1;
                }
                padded += maps::map_rows((h, w));
                first += h * w;
            }
        }
    }
}

/// Cuts the next `len` numbers off the front of `space`.
fn cut<'a, A>(space: &mut &'a mut [A], len: usize) -> &'a mut [A] {
    let (front, rest) = std::mem::take(space).split_at_mut(len);
    *space = rest;
    front
}

/// See [`crate::ops::deform_attention::mmfs_forward`].
pub(crate) fn mmfs_forward<E: Element>(
    cx: &Context,
    x: &MmfsInputs<'_, E>,
    out: &mut [E],
    spec: &Mmfs<'_>,
    sizes: Sizes,
) {
    let out = SendPtr(out.as_mut_ptr());
    cx.pool().run(jobs(spec, sizes), |job| {
        for chunk in Chunk::of(x, spec, sizes, job) {
            // SAFETY: every chunk writes the numbers of its own entry and head.
            unsafe { head_forward(&chunk, &out) };
        }
    });
}

/// The output of one head of one entry.
///
/// # Safety
/// Nobody else accesses it.
unsafe fn head_forward<E: Element>(chunk: &Chunk<'_, E>, out: &SendPtr<E>) {
    let Chunk { x, spec, sizes, n, .. } = *chunk;
    let d = sizes.head_size;
    let width = maps::width(d);
    let (block, all) = (chunk.block(), chunk.block() * chunk.most());
    let few = sizes.queries * spec.levels.len() * spec.points * 4 < sizes.positions;
    let rows = if few { all * 4 } else { sizes.images * maps::image_rows(spec.levels) };
    let constants = spec.levels.len() * LEVEL;
    let token = &x.ignore_token.data()[n * d..(n + 1) * d];
    let len = rows * width + constants + FIELDS * all + block * (1 + width) + chunk.inputs();
    with_scratch(len, |mut space: &mut [E::Acc]| {
        let values = cut(&mut space, rows * width);
        let levels = cut(&mut space, constants);
        let fields = cut(&mut space, FIELDS * all);
        let ignored = cut(&mut space, block);
        let sums = cut(&mut space, block * width);
        let inputs = cut(&mut space, chunk.inputs());
        chunk.write_levels(levels);
        if !few {
            maps::fill(chunk.head(), x.value.data(), values);
        }
        with_scratch(ROWS * all, |indices| {
            let mut points = Points::new(fields, indices, all);
            for queries in chunk.blocks() {
                let mut ends = [0; BLOCK];
                let (ends, ignored) = (&mut ends[..queries.len()], &mut ignored[..queries.len()]);
                prepare(chunk, queries.clone(), levels, inputs, &mut points, ends, ignored);
                if few {
                    copy_corners(chunk, queries.clone(), &mut points, width, values);
                }
                walk::gather(values, width, &points, ends, sums);
                for ((t, sum), &ignored) in queries.zip(sums.chunks_exact_mut(width)).zip(&*ignored) {
                    for (sum, token) in sum.iter_mut().zip(token) {
                        *sum += ignored * token.to_acc();
                    }
                    // SAFETY: the caller's promise.
                    unsafe { store(out.get().add(chunk.at(t) * d), &sum[..d]) };
                }
            }
        });
    });
}

/// Gradients of one entry and head that are summed over its queries; those of x and y stand in blocks of P each.
struct Tables<'a, A> {
    /// `[R, 2, P]`.
    offset: &'a mut [A],
    /// `[R, L, P]`.
    logit: &'a mut [A],
    /// `[D]`.
    ignore: &'a mut [A],
}

impl<'a, A> Tables<'a, A> {
    /// Numbers of the tables of one head.
    fn len(spec: &Mmfs<'_>, sizes: Sizes) -> usize {
        sizes.rows * spec.points * (2 + spec.levels.len()) + sizes.head_size
    }

    fn new(numbers: &'a mut [A], spec: &Mmfs<'_>, sizes: Sizes) -> Self {
        let (offset, rest) = numbers.split_at_mut(sizes.rows * spec.points * 2);
        let (logit, rest) = rest.split_at_mut(sizes.rows * spec.points * spec.levels.len());
        Tables { offset, logit, ignore: &mut rest[..sizes.head_size] }
    }
}

/// What the gradients of a query's points are, each field `[K]`.
struct Slopes<'a, A> {
    weight: &'a [A],
    d_weight: &'a [A],
    dx: &'a [A],
    dy: &'a [A],
}

fn add<A: Real>(sums: &mut [A], x: &[A]) {
    for (sum, &x) in sums.iter_mut().zip(x) {
        *sum += x;
    }
}

#[inline(always)]
fn sum_query_sized<E: Element, const G: usize, const ONE: bool>(
    chunk: &Chunk<'_, E>,
    t: usize,
    levels: &[E::Acc],
    slopes: &Slopes<'_, E::Acc>,
    mean: E::Acc,
    tables: &mut Tables<'_, E::Acc>,
    offset: &mut [E::Acc],
    logit: &mut [E::Acc],
) {
    let (p, l_all) = (if ONE { G } else { chunk.spec.points }, chunk.spec.levels.len());
    offset[..2 * p].fill(E::Acc::ZERO);
    logit.fill(E::Acc::ZERO);
    for ((_, r), k) in chunk.seen(t).zip((0..).step_by(l_all * p)) {
        for g in (0..p).step_by(G) {
            let (mut x, mut y) = ([E::Acc::ZERO; G], [E::Acc::ZERO; G]);
            for (l, level) in Level::read(levels).enumerate() {
                let at = l * p + g;
                let weight = take::<_, G>(slopes.weight, k + at);
                let (dx, dy) = (take::<_, G>(slopes.dx, k + at), take::<_, G>(slopes.dy, k + at));
                // d position / d offset = ratio: the map size cancels.
                x = from_fn(|i| x[i] + level.ratio * weight[i] * dx[i]);
                y = from_fn(|i| y[i] + level.ratio * weight[i] * dy[i]);
                let d_weight = take::<_, G>(slopes.d_weight, k + at);
                let d: [E::Acc; G] = from_fn(|i| weight[i] * (d_weight[i] - mean));
                add_at(logit, at, &d);
                add_at(tables.logit, r * l_all * p + at, &d);
            }
            add_at(offset, g, &x);
            add_at(offset, p + g, &y);
            add_at(tables.offset, 2 * r * p + g, &x);
            add_at(tables.offset, (2 * r + 1) * p + g, &y);
        }
    }
}

simd_fn! {
    /// From the gradients of its points those of query `t`: of x, y in `offset` (`[2, P]`), of logits in `logit` (`[L, P]`).
    fn sum_query<E: Element>(chunk: &Chunk<'_, E>, t: usize, levels: &[E::Acc], slopes: &Slopes<'_, E::Acc>, mean: E::Acc, tables: &mut Tables<'_, E::Acc>, offset: &mut [E::Acc], logit: &mut [E::Acc]) {
        with_group!(chunk.spec.points, sum_query_sized(chunk, t, levels, slopes, mean, tables, offset, logit))
    }
}

/// Rounds `[2, P]` into `[P, 2]` at `to`.
///
/// # Safety
/// `to` must be valid for `from.len()` elements that nobody else accesses.
unsafe fn store_pairs<E: Element>(to: *mut E, from: &[E::Acc]) {
    let (x, y) = from.split_at(from.len() / 2);
    for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { store(to.add(2 * i), &[x, y]) };
    }
}

/// Rounds `[L, P]` into `[L, P + 1]` at `to`; the ignore logit of each level has no effect and so no gradient.
///
/// # Safety
/// `to` must be valid for `from.len() / p * (p + 1)` elements that nobody else accesses.
unsafe fn store_logits<E: Element>(to: *mut E, from: &[E::Acc], p: usize) {
    for (l, from) in from.chunks_exact(p).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            store(to.add(l * (p + 1)), from);
            store(to.add(l * (p + 1) + p), &[E::Acc::ZERO]);
        }
    }
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
    let one = Tables::<E::Acc>::len(spec, sizes);
    with_scratch(sizes.batch * spec.heads * one, |partial: &mut [E::Acc]| {
        let MmfsGradients { value, offsets, logits, offset_table, logit_table, ignore_token } = gradients;
        let to = [value, offsets, logits].map(|gradient| SendPtr(gradient.data().as_mut_ptr()));
        let shared = SendPtr(partial.as_mut_ptr());
        cx.pool().run(jobs(spec, sizes), |job| {
            for chunk in Chunk::of(x, spec, sizes, job) {
                let part = (chunk.b * spec.heads + chunk.n) * one;
                // SAFETY: heads have disjoint parts of `partial`, which is borrowed until `run` returns.
                let tables = unsafe { std::slice::from_raw_parts_mut(shared.get().add(part), one) };
                tables.fill(E::Acc::ZERO);
                // SAFETY: every chunk writes the numbers of its own entry and head.
                unsafe { head_backward(&chunk, d_out, Tables::new(tables, spec, sizes), &to) };
            }
        });
        // Sums over the entries, in order; the first one collects them.
        let (sums, rest) = partial.split_at_mut(spec.heads * one);
        for entry in rest.chunks_exact(spec.heads * one) {
            add(sums, entry);
        }
        if sizes.batch == 0 {
            sums.fill(E::Acc::ZERO);
        }
        let (offset_table, logit_table) = (offset_table.data(), logit_table.data());
        let mut ignore_token = ignore_token.map(|gradient| gradient.data());
        let (p, l) = (spec.points, spec.levels.len());
        for (n, sums) in sums.chunks_exact_mut(one).enumerate() {
            let tables = Tables::new(sums, spec, sizes);
            for r in 0..sizes.rows {
                let at = r * spec.heads + n;
                let (offset, logit) =
                    (&mut offset_table[at * p * 2..][..p * 2], &mut logit_table[at * l * (p + 1)..][..l * (p + 1)]);
                // SAFETY: both are as long as the functions write.
                unsafe {
                    store_pairs(offset.as_mut_ptr(), &tables.offset[r * p * 2..][..p * 2]);
                    store_logits(logit.as_mut_ptr(), &tables.logit[r * p * l..][..p * l], p);
                }
            }
            if let Some(gradient) = &mut ignore_token {
                add(&mut gradient[n * sizes.head_size..][..sizes.head_size], tables.ignore);
            }
        }
    });
}

/// All gradients of one head of one entry; `to` are those of values, offsets and logits.
///
/// # Safety
/// Nobody else accesses the numbers of this entry and head in them.
unsafe fn head_backward<E: Element>(
    chunk: &Chunk<'_, E>,
    d_out: &[E],
    mut tables: Tables<'_, E::Acc>,
    to: &[SendPtr<E>; 3],
) {
    let Chunk { x, spec, sizes, n, .. } = *chunk;
    let (d, l, p) = (sizes.head_size, spec.levels.len(), spec.points);
    let width = maps::width(d);
    let (block, all) = (chunk.block(), chunk.block() * chunk.most());
    let numbers = sizes.images * maps::image_rows(spec.levels) * width;
    let token = &x.ignore_token.data()[n * d..(n + 1) * d];
    let len = 2 * numbers
        + l * LEVEL
        + (FIELDS + 7) * all
        + 16 * chunk.most()
        + block * (1 + width)
        + 2 * p
        + l * p
        + chunk.inputs();
    with_scratch(len, |mut space: &mut [E::Acc]| {
        let (values, gradient) = (cut(&mut space, numbers), cut(&mut space, numbers));
        let levels = cut(&mut space, l * LEVEL);
        let fields = cut(&mut space, FIELDS * all);
        let [d_weight, dx, dy] = [(); 3].map(|()| cut(&mut space, all));
        let dots = cut(&mut space, 4 * all);
        let products = cut(&mut space, 16 * chunk.most());
        let ignored = cut(&mut space, block);
        let offset = cut(&mut space, 2 * p);
        let logit = cut(&mut space, l * p);
        let inputs = cut(&mut space, chunk.inputs());
        let g = cut(&mut space, block * width);
        chunk.write_levels(levels);
        chunk.head().clear(gradient);
        g.fill(E::Acc::ZERO);
        maps::fill(chunk.head(), x.value.data(), values);
        with_scratch(ROWS * all, |indices| {
            let mut points = Points::new(fields, indices, all);
            for queries in chunk.blocks() {
                let mut ends = [0; BLOCK];
                let (ends, ignored) = (&mut ends[..queries.len()], &mut ignored[..queries.len()]);
                let count = prepare(chunk, queries.clone(), levels, inputs, &mut points, ends, ignored);
                for (t, g) in queries.clone().zip(g.chunks_exact_mut(width)) {
                    let from = &d_out[chunk.at(t) * d..][..d];
                    g.iter_mut().zip(from).for_each(|(g, from)| *g = from.to_acc());
                }
                walk::dots(values, width, &points, ends, g, products, dots);
                walk::scatter(gradient, width, &points, ends, g);
                points::slopes(points.right, points.down, dots, d_weight, dx, dy, count);
                let mut begin = 0;
                for ((t, &end), &ignored) in queries.zip(&*ends).zip(&*ignored) {
                    let mut d_ignored = E::Acc::ZERO;
                    let from = &d_out[chunk.at(t) * d..][..d];
                    for ((sum, from), token) in tables.ignore.iter_mut().zip(from).zip(token) {
                        d_ignored += from.to_acc() * token.to_acc();
                        *sum += ignored * from.to_acc();
                    }
                    let slopes = Slopes {
                        weight: &points.weight[begin..end],
                        d_weight: &d_weight[begin..end],
                        dx: &dx[begin..end],
                        dy: &dy[begin..end],
                    };
                    let mean = ignored * d_ignored + points::dot(slopes.weight, slopes.d_weight);
                    sum_query(chunk, t, levels, &slopes, mean, &mut tables, offset, logit);
                    // SAFETY: the caller's promise.
                    unsafe {
                        store_pairs(to[1].get().add(chunk.at(t) * 2 * p), &offset[..2 * p]);
                        store_logits(to[2].get().add(chunk.at(t) * l * (p + 1)), logit, p);
                    }
                    begin = end;
                }
            }
        });
        maps::drain(chunk.head(), gradient, to[0].get());
    });
}
