//! Group normalisation on the host; see [`crate::ops::groupnorm`].

use super::parallel::{JOBS, rows_per_chunk, run, with_scratch};
use crate::device::{Pool, SendPtr};
use crate::dtype::{Element, Real};
use crate::ops::activation::Activation;
use crate::simd_fn;

/// Sizes of the problem.
#[derive(Clone, Copy)]
pub struct Size {
    /// Images.
    pub b: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Channels.
    pub c: usize,
    /// Groups of channels.
    pub groups: usize,
}

impl Size {
    /// Blocks that the pixels of an image are cut into, and pixels per block.
    fn blocks(self) -> (usize, usize) {
        let blocks = JOBS.div_ceil(self.b).min((self.pixels * self.c).div_ceil(4096)).clamp(1, self.pixels);
        let per_block = self.pixels.div_ceil(blocks);
        (self.pixels.div_ceil(per_block), per_block)
    }
}

simd_fn! {
    /// sum[c] += x[p, c] over the pixels of `x`.
    fn add_pixels<E: Element>(x: &[E], sum: &mut [E::Acc]) {
        for x in x.chunks_exact(sum.len()) {
            for (sum, &x) in sum.iter_mut().zip(x) {
                *sum += x.to_acc();
            }
        }
    }
}

simd_fn! {
    /// sum[c] += (x[p, c] - mean[c])^2 over the pixels of `x`.
    fn add_squares<E: Element>(x: &[E], mean: &[E::Acc], sum: &mut [E::Acc]) {
        for x in x.chunks_exact(sum.len()) {
            for ((sum, &x), &mean) in sum.iter_mut().zip(x).zip(mean) {
                let d = x.to_acc() - mean;
                *sum += d * d;
            }
        }
    }
}

/// Adds to (mean, m2) of `n` numbers those of `m` numbers more.
fn combine<A: Real>((mean, m2): (&mut A, &mut A), n: usize, (other_mean, other_m2): (A, A), m: usize) {
    let share = m as f64 / (n + m) as f64;
    let delta = other_mean - *mean;
    *mean += delta * A::of(share);
    *m2 += other_m2 + delta * delta * A::of(share * n as f64);
}

/// (mean, sum of squares of deviations) per group of the pixels of `x` into `out` [G, 2].
fn block_moments<E: Element>(size: Size, x: &[E], out: &mut [E::Acc]) {
    let (c, per_group) = (size.c, size.c / size.groups);
    // 64 KiB of f32: the second reading finds the first in the cache.
    let tile = (16384 / c).max(1) * c;
    with_scratch(2 * c, |scratch: &mut [E::Acc]| {
        let (sum, mean) = scratch.split_at_mut(c);
        let mut before = 0;
        for x in x.chunks(tile) {
            let count = x.len() / size.groups;
            sum.fill(E::Acc::ZERO);
            add_pixels(x, sum);
            for (sum, mean) in sum.chunks_exact(per_group).zip(mean.chunks_exact_mut(per_group)) {
                mean.fill(sum.iter().copied().sum::<E::Acc>() * E::Acc::of(1.0 / count as f64));
            }
            sum.fill(E::Acc::ZERO);
            add_squares(x, mean, sum);
            for ((sum, mean), out) in
                sum.chunks_exact(per_group).zip(mean.chunks_exact(per_group)).zip(out.chunks_exact_mut(2))
            {
                let m2 = sum.iter().copied().sum::<E::Acc>();
                if before == 0 {
                    out.copy_from_slice(&[mean[0], m2]);
                } else {
                    let (first, second) = out.split_at_mut(1);
                    combine((&mut first[0], &mut second[0]), before, (mean[0], m2), count);
                }
            }
            before += count;
        }
    });
}

/// stats [B, G, 2] = (mean, rstd) of x [B, P, C].
pub fn statistics<E: Element>(pool: &Pool, size: Size, x: &[E], stats: &mut [E::Acc], eps: f64) {
    let Size { b, pixels, c, groups } = size;
    let (blocks, per_block) = size.blocks();
    let one = 2 * groups;
    with_scratch(b * blocks * one, |partial: &mut [E::Acc]| {
        let shared = SendPtr(partial.as_mut_ptr());
        run(pool, x.len(), b * blocks, |job| {
            // SAFETY: jobs are disjoint ranges of `partial`, which is borrowed mutably until `run` returns.
            let out = unsafe { std::slice::from_raw_parts_mut(shared.get().add(job * one), one) };
            let (image, start) = (job / blocks, job % blocks * per_block);
            let end = (start + per_block).min(pixels);
            block_moments(size, &x[(image * pixels + start) * c..(image * pixels + end) * c], out);
        });
        for (image, stats) in stats.chunks_exact_mut(one).enumerate() {
            for (g, stats) in stats.chunks_exact_mut(2).enumerate() {
                let part = |block: usize| {
                    let at = (image * blocks + block) * one + 2 * g;
                    (partial[at], partial[at + 1])
                };
                let (mut mean, mut m2) = part(0);
                let per_group = c / groups;
                for block in 1..blocks {
                    let before = block * per_block;
                    let count = per_block.min(pixels - before);
                    combine((&mut mean, &mut m2), before * per_group, part(block), count * per_group);
                }
                let var = m2 / E::Acc::of_usize(pixels * per_group);
                stats[0] = mean;
                stats[1] = E::Acc::ONE / (var + E::Acc::of(eps)).sqrt();
            }
        }
    });
}

/// Spreads the statistics of one image over its channels: mean and rstd, C numbers each.
fn spread<A: Real>(size: Size, stats: &[A], mean: &mut [A], rstd: &mut [A]) {
    let per_group = size.c / size.groups;
    let channels = mean.chunks_exact_mut(per_group).zip(rstd.chunks_exact_mut(per_group));
    for ((mean, rstd), stats) in channels.zip(stats.chunks_exact(2)) {
        mean.fill(stats[0]);
        rstd.fill(stats[1]);
    }
}

simd_fn! {
    fn normalise<E: Element>(x: &[E], mean: &[E::Acc], rstd: &[E::Acc], weight: &[E], bias: &[E], y: &mut [E], silu: bool) {
        let c = mean.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            let channels = y.iter_mut().zip(x).zip(mean).zip(rstd).zip(weight).zip(bias);
            if silu {
                for (((((y, &x), &mean), &rstd), &w), &b) in channels {
                    let z = (x.to_acc() - mean) * rstd * w.to_acc() + b.to_acc();
                    *y = E::from_acc(Activation::Silu.apply(z));
                }
            } else {
                for (((((y, &x), &mean), &rstd), &w), &b) in channels {
                    *y = E::from_acc((x.to_acc() - mean) * rstd * w.to_acc() + b.to_acc());
                }
            }
        }
    }
}

/// y from x and its statistics.
#[allow(clippy::too_many_arguments)]
pub fn forward<E: Element>(
    pool: &Pool,
    size: Size,
    x: &[E],
    weight: &[E],
    bias: &[E],
    stats: &[E::Acc],
    y: &mut [E],
    silu: bool,
) {
    let Size { b, pixels, c, groups } = size;
    let rows = rows_per_chunk(c).min(pixels);
    let blocks = pixels.div_ceil(rows);
    let y = SendPtr(y.as_mut_ptr());
    run(pool, x.len(), b * blocks, |job| {
        let (image, start) = (job / blocks, job % blocks * rows);
        let part = (image * pixels + start) * c..(image * pixels + (start + rows).min(pixels)) * c;
        // SAFETY: jobs are disjoint ranges of `y`, which has the length of `x` and is borrowed mutably until `run` returns.
        let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(part.start), part.len()) };
        with_scratch(2 * c, |scratch: &mut [E::Acc]| {
            let (mean, rstd) = scratch.split_at_mut(c);
            spread(size, &stats[image * 2 * groups..][..2 * groups], mean, rstd);
            normalise(&x[part], mean, rstd, weight, bias, y, silu);
        });
    });
}

/// d = silu'(z) dy or dy.
#[inline(always)]
fn through<A: Real>(silu: bool, n: A, w: A, b: A, dy: A) -> A {
    if silu { Activation::Silu.derivative(n * w + b) * dy } else { dy }
}

simd_fn! {
    /// first[c] += d, second[c] += d n over the pixels.
    fn add_gradients<E: Element>(x: &[E], mean: &[E::Acc], rstd: &[E::Acc], weight: &[E], bias: &[E], dy: &[E], first: &mut [E::Acc], second: &mut [E::Acc], silu: bool) {
        let c = mean.len();
        let (mean, rstd, weight, bias) = (&mean[..c], &rstd[..c], &weight[..c], &bias[..c]);
        let (first, second) = (&mut first[..c], &mut second[..c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            if silu {
                for i in 0..c {
                    let n = (x[i].to_acc() - mean[i]) * rstd[i];
                    let d = through(true, n, weight[i].to_acc(), bias[i].to_acc(), dy[i].to_acc());
                    first[i] += d;
                    second[i] += d * n;
                }
            } else {
                for i in 0..c {
                    let d = dy[i].to_acc();
                    first[i] += d;
                    second[i] += d * ((x[i].to_acc() - mean[i]) * rstd[i]);
                }
            }
        }
    }
}

/// dx without a residual; `first` and `second` are the means of g and g n.
#[inline(always)]
fn slope<E: Element>(silu: bool, x: E, dy: E, w: E, b: E, [mean, rstd, first, second]: [E::Acc; 4]) -> E::Acc {
    let (n, w) = ((x.to_acc() - mean) * rstd, w.to_acc());
    rstd * (w * through(silu, n, w, b.to_acc(), dy.to_acc()) - first - n * second)
}

simd_fn! {
    fn input_gradient<E: Element>(x: &[E], mean: &[E::Acc], rstd: &[E::Acc], weight: &[E], bias: &[E], dy: &[E], first: &[E::Acc], second: &[E::Acc], residual: Option<&[E]>, dx: &mut [E], silu: bool) {
        let c = mean.len();
        let (mean, rstd, weight, bias) = (&mean[..c], &rstd[..c], &weight[..c], &bias[..c]);
        let (first, second) = (&first[..c], &second[..c]);
        for (row, ((x, dy), dx)) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)).enumerate() {
            // Functions that are always inlined, and no closures: those stay calls in code for an instruction set.
            match residual.map(|residual| &residual[row * c..][..c]) {
                None if silu => {
                    for i in 0..c {
                        let of_channel = [mean[i], rstd[i], first[i], second[i]];
                        dx[i] = E::from_acc(slope(true, x[i], dy[i], weight[i], bias[i], of_channel));
                    }
                }
                None => {
                    for i in 0..c {
                        let of_channel = [mean[i], rstd[i], first[i], second[i]];
                        dx[i] = E::from_acc(slope(false, x[i], dy[i], weight[i], bias[i], of_channel));
                    }
                }
                Some(residual) if silu => {
                    for i in 0..c {
                        let of_channel = [mean[i], rstd[i], first[i], second[i]];
                        let slope = slope(true, x[i], dy[i], weight[i], bias[i], of_channel);
                        dx[i] = E::from_acc(slope + residual[i].to_acc());
                    }
                }
                Some(residual) => {
                    for i in 0..c {
                        let of_channel = [mean[i], rstd[i], first[i], second[i]];
                        let slope = slope(false, x[i], dy[i], weight[i], bias[i], of_channel);
                        dx[i] = E::from_acc(slope + residual[i].to_acc());
                    }
                }
            }
        }
    }
}

/// dx is overwritten, dw and db are added to.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    pool: &Pool,
    size: Size,
    x: &[E],
    weight: &[E],
    bias: &[E],
    stats: &[E::Acc],
    dy: &[E],
    residual: Option<&[E]>,
    dx: &mut [E],
    mut dw: Option<&mut [E::Acc]>,
    mut db: Option<&mut [E::Acc]>,
    silu: bool,
) {
    let Size { b, pixels, c, groups } = size;
    let (blocks, per_block) = size.blocks();
    let per_group = c / groups;
    let stats_of = |image: usize| &stats[image * 2 * groups..][..2 * groups];
    // Sums per image, block and channel: first (d), second (d n).
    with_scratch(b * blocks * 2 * c, |sums: &mut [E::Acc]| {
        let shared = SendPtr(sums.as_mut_ptr());
        run(pool, x.len(), b * blocks, |job| {
            // SAFETY: jobs are disjoint ranges of `sums`, which is borrowed mutably until `run` returns.
            let sums = unsafe { std::slice::from_raw_parts_mut(shared.get().add(job * 2 * c), 2 * c) };
            let (image, start) = (job / blocks, job % blocks * per_block);
            let end = (start + per_block).min(pixels);
            with_scratch(4 * c, |scratch: &mut [E::Acc]| {
                let (mean, rest) = scratch.split_at_mut(c);
                let (rstd, local) = rest.split_at_mut(c);
                spread(size, stats_of(image), mean, rstd);
                sums.fill(E::Acc::ZERO);
                // Segments of 64 pixels keep the chains of additions short.
                for at in (start..end).step_by(64) {
                    let part = (image * pixels + at) * c..(image * pixels + (at + 64).min(end)) * c;
                    local.fill(E::Acc::ZERO);
                    let (first, second) = local.split_at_mut(c);
                    add_gradients(&x[part.clone()], mean, rstd, weight, bias, &dy[part], first, second, silu);
                    sums.iter_mut().zip(&*local).for_each(|(to, &x)| *to += x);
                }
            });
        });
        // The blocks of an image into its first block; then dw and db; then the means over groups, spread over the channels.
        for sums in sums.chunks_exact_mut(blocks * 2 * c) {
            let (sums, others) = sums.split_at_mut(2 * c);
            for other in others.chunks_exact(2 * c) {
                sums.iter_mut().zip(other).for_each(|(to, &x)| *to += x);
            }
            let (first, second) = sums.split_at_mut(c);
            if let Some(db) = db.as_deref_mut() {
                db.iter_mut().zip(&*first).for_each(|(to, &x)| *to += x);
            }
            if let Some(dw) = dw.as_deref_mut() {
                dw.iter_mut().zip(&*second).for_each(|(to, &x)| *to += x);
            }
            let inverse = E::Acc::of(1.0 / (pixels * per_group) as f64);
            for half in [first, second] {
                for (half, w) in half.chunks_exact_mut(per_group).zip(weight.chunks_exact(per_group)) {
                    let sum: E::Acc = half.iter().zip(w).map(|(&x, w)| x * w.to_acc()).sum();
                    half.fill(sum * inverse);
                }
            }
        }
        let sums = &*sums;
        let rows = rows_per_chunk(c).min(pixels);
        let tiles = pixels.div_ceil(rows);
        let dx = SendPtr(dx.as_mut_ptr());
        run(pool, x.len(), b * tiles, |job| {
            let (image, start) = (job / tiles, job % tiles * rows);
            let part = (image * pixels + start) * c..(image * pixels + (start + rows).min(pixels)) * c;
            // SAFETY: jobs are disjoint ranges of `dx`, which has the length of `x` and is borrowed mutably until `run` returns.
            let dx = unsafe { std::slice::from_raw_parts_mut(dx.get().add(part.start), part.len()) };
            let (first, second) = sums[image * blocks * 2 * c..][..2 * c].split_at(c);
            with_scratch(2 * c, |scratch: &mut [E::Acc]| {
                let (mean, rstd) = scratch.split_at_mut(c);
                spread(size, stats_of(image), mean, rstd);
                let residual = residual.map(|residual| &residual[part.clone()]);
                let (x, dy) = (&x[part.clone()], &dy[part]);
                input_gradient(x, mean, rstd, weight, bias, dy, first, second, residual, dx, silu);
            });
        });
    });
}
