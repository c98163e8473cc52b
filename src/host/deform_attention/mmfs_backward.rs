//! Gradients of the multi-image form.

use std::array::from_fn;
use std::ops::Range;

use super::mmfs::{Chunk, add_at, cut, jobs, prepare, take, with_group};
use super::points::{self, FIELDS, LEVEL, Level, Points, ROWS};
use super::{BLOCK, maps, store, walk};
use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::host::parallel::with_scratch;
use crate::ops::deform_attention::{Mmfs, MmfsGradients, MmfsInputs, Sizes};
use crate::simd_fn;

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

/// What is known about a block of queries when its gradients are summed.
struct Block<'a, E: Element> {
    d_out: &'a [E],
    /// Where the points of each query end.
    ends: &'a [usize],
    /// Mass of the ignore slots of each query.
    ignored: &'a [E::Acc],
    /// Weights of all points, and gradients of their weights and places.
    weight: &'a [E::Acc],
    d_weight: &'a [E::Acc],
    dx: &'a [E::Acc],
    dy: &'a [E::Acc],
}

fn add<A: Real>(sums: &mut [A], x: &[A]) {
    for (sum, &x) in sums.iter_mut().zip(x) {
        *sum += x;
    }
}

#[inline(always)]
fn sum_block_sized<E: Element, const G: usize, const ONE: bool>(
    chunk: &Chunk<'_, E>,
    queries: Range<usize>,
    levels: &[E::Acc],
    block: &Block<'_, E>,
    tables: &mut Tables<'_, E::Acc>,
    sums: &mut [E::Acc],
    to: &[SendPtr<E>; 3],
) {
    let (p, l_all) = (if ONE { G } else { chunk.spec.points }, chunk.spec.levels.len());
    let d = chunk.sizes.head_size;
    let token = &chunk.x.ignore_token.data()[chunk.n * d..(chunk.n + 1) * d];
    let (offset, logit) = sums.split_at_mut(2 * p);
    let mut begin = 0;
    for ((t, &end), &ignored) in queries.zip(block.ends).zip(block.ignored) {
        let mut d_ignored = E::Acc::ZERO;
        let d_out = &block.d_out[chunk.at(t) * d..][..d];
        for ((sum, g), token) in tables.ignore.iter_mut().zip(d_out).zip(token) {
            d_ignored += g.to_acc() * token.to_acc();
            *sum += ignored * g.to_acc();
        }
        let mean = ignored * d_ignored + points::dot(&block.weight[begin..end], &block.d_weight[begin..end]);
        offset.fill(E::Acc::ZERO);
        logit.fill(E::Acc::ZERO);
        for ((_, r), k) in chunk.seen(t).zip((begin..).step_by((l_all * p).max(1))) {
            for g in (0..p).step_by(G) {
                let (mut x, mut y) = ([E::Acc::ZERO; G], [E::Acc::ZERO; G]);
                for (l, level) in Level::read(levels).enumerate() {
                    let at = l * p + g;
                    let weight = take::<_, G>(block.weight, k + at);
                    let (dx, dy) = (take::<_, G>(block.dx, k + at), take::<_, G>(block.dy, k + at));
                    // d position / d offset = ratio: the map size cancels.
                    x = from_fn(|i| x[i] + level.ratio * weight[i] * dx[i]);
                    y = from_fn(|i| y[i] + level.ratio * weight[i] * dy[i]);
                    let d_weight = take::<_, G>(block.d_weight, k + at);
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
        // SAFETY: `sum_block` was promised this query's numbers.
        unsafe {
            store_pairs(to[1].get().add(chunk.at(t) * 2 * p), offset);
            store_logits(to[2].get().add(chunk.at(t) * l_all * (p + 1)), logit, p);
        }
        begin = end;
    }
}

simd_fn! {
    /// From the gradients of points those of the queries' offsets and logits, which are stored, and of the tables. `sums` is scratch for a query's
    /// `[2, P]` and `[L, P]`. The caller vouches that nobody else accesses what this entry and head have in `to`.
    fn sum_block<E: Element>(chunk: &Chunk<'_, E>, queries: Range<usize>, levels: &[E::Acc], block: &Block<'_, E>, tables: &mut Tables<'_, E::Acc>, sums: &mut [E::Acc], to: &[SendPtr<E>; 3]) {
        with_group!(chunk.spec.points, sum_block_sized(chunk, queries, levels, block, tables, sums, to))
    }
}

/// Rounds `[2, P]` into `[P, 2]` at `to`.
///
/// # Safety
/// `to` must be valid for `from.len()` elements that nobody else accesses.
#[inline(always)]
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
#[inline(always)]
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
        let value = value.data();
        if spec.pictures.is_some() {
            // Pictures that no entry has a place for.
            value.fill(E::default());
        }
        let to = [value, offsets.data(), logits.data()].map(|gradient| SendPtr(gradient.as_mut_ptr()));
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
    let Chunk { x, spec, sizes, .. } = *chunk;
    let (d, l, p) = (sizes.head_size, spec.levels.len(), spec.points);
    let width = maps::width(d);
    let (block, all) = (chunk.block(), chunk.block() * chunk.most());
    let numbers = sizes.images * maps::image_rows(spec.levels) * width;
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
        let sums = cut(&mut space, 2 * p + l * p);
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
                let block = Block { d_out, ends, ignored, weight: points.weight, d_weight, dx, dy };
                sum_block(chunk, queries, levels, &block, &mut tables, sums, to);
            }
        });
        maps::drain(chunk.head(), gradient, to[0].get());
    });
}
