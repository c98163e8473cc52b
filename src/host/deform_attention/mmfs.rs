//! The multi-image form; one chunk is one head of one batch entry.

use std::array::from_fn;
use std::ops::Range;

use super::maps::{self, Head};
use super::points::{self, FIELDS, LEVEL, Level, Points, ROWS};
use super::{BLOCK, store, walk};
use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::host::parallel::with_scratch;
use crate::ops::deform_attention::{Mmfs, MmfsInputs, Sizes};
use crate::simd_fn;

/// Heads of one entry that follow each other in a job, so that they find in the cache what lies between each other's numbers. There are still enough
/// jobs for several threads.
fn heads_per_job(spec: &Mmfs<'_>, sizes: Sizes) -> usize {
    const JOBS: usize = 16;
    spec.heads.div_ceil(JOBS.div_ceil(sizes.batch.max(1)).min(spec.heads))
}

/// Number of jobs. Jobs on the same heads of different entries follow each other, so that threads seldom write to the same cache line.
pub(super) fn jobs(spec: &Mmfs<'_>, sizes: Sizes) -> usize {
    sizes.batch * spec.heads.div_ceil(heads_per_job(spec, sizes))
}

/// The call, and one of its heads of one entry.
pub(super) struct Chunk<'a, E> {
    pub x: &'a MmfsInputs<'a, E>,
    pub spec: &'a Mmfs<'a>,
    pub sizes: Sizes,
    pub b: usize,
    pub n: usize,
}

impl<'a, E: Element> Chunk<'a, E> {
    /// The heads of one job.
    pub(super) fn of(
        x: &'a MmfsInputs<'a, E>,
        spec: &'a Mmfs<'a>,
        sizes: Sizes,
        job: usize,
    ) -> impl Iterator<Item = Self> {
        let each = heads_per_job(spec, sizes);
        let (b, first) = (job % sizes.batch, job / sizes.batch * each);
        (first..(first + each).min(spec.heads)).map(move |n| Chunk { x, spec, sizes, b, n })
    }

    /// Most points of a query.
    pub(super) fn most(&self) -> usize {
        self.sizes.images * self.spec.levels.len() * self.spec.points
    }

    /// Queries of a block, at most.
    pub(super) fn block(&self) -> usize {
        BLOCK.min(self.sizes.queries)
    }

    /// Numbers that [`look`] needs: offsets and logits of the queries of a block, and offsets once more.
    pub(super) fn inputs(&self) -> usize {
        let per_offset = 2 * self.spec.points;
        per_offset + self.block() * (per_offset + self.spec.levels.len() * (self.spec.points + 1))
    }

    /// Blocks of queries.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<E> {
        let queries = self.sizes.queries;
        (0..queries).step_by(BLOCK).map(move |t| t..(t + BLOCK).min(queries))
    }

    /// Where query `t` of this head lies in a tensor `[B, T, N, ..]`.
    pub(super) fn at(&self, t: usize) -> usize {
        (self.b * self.sizes.queries + t) * self.spec.heads + self.n
    }

    pub(super) fn head(&self) -> Head<'a> {
        let (size, images) = (self.sizes.head_size, self.sizes.images);
        let seen = self.sizes.queries * images;
        Head {
            start: self.n * size,
            stride: self.spec.heads * size,
            size,
            images,
            first: self.b * images,
            pictures: self.spec.pictures.map(|pictures| &pictures[self.b * images..][..images]),
            levels: self.spec.levels,
            relative: &self.spec.relative[self.b * seen..][..seen],
        }
    }

    /// (image, relative index) of the images that query `t` sees.
    #[inline(always)]
    pub(super) fn seen(&self, t: usize) -> impl Iterator<Item = (usize, usize)> + use<'a, E> {
        let images = self.sizes.images;
        let relative = &self.spec.relative[(self.b * self.sizes.queries + t) * images..][..images];
        relative.iter().enumerate().filter(|(_, r)| **r > 0).map(|(image, &r)| (image, r as usize))
    }

    pub(super) fn write_levels(&self, to: &mut [E::Acc]) {
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
pub(super) use with_group;

#[inline(always)]
fn widen<E: Element>(to: &mut [E::Acc], from: &[E]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_acc();
    }
}

/// G numbers from `at` on, widened.
#[inline(always)]
pub(super) fn take<E: Element, const G: usize>(x: &[E], at: usize) -> [E::Acc; G] {
    let x = &x[at..at + G];
    from_fn(|i| x[i].to_acc())
}

/// `x[at..] += y`.
#[inline(always)]
pub(super) fn add_at<A: Real, const G: usize>(x: &mut [A], at: usize, y: &[A; G]) {
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
pub(super) fn prepare<E: Element>(
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
            let mut padded = image * maps::image_rows(chunk.spec.levels);
            let Some(mut first) = head.first_row(image) else {
                unreachable!("the op checked that seen images are there")
            };
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
pub(super) fn cut<'a, A>(space: &mut &'a mut [A], len: usize) -> &'a mut [A] {
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
