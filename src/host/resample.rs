//! Resampling on the CPU: see [`crate::ops::resample`] for the formulas.

use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::memory::Shape;
use crate::ops::resample::{Resize, Taps, max_pool_size};

fn axis<A: Real>(how: Resize, input: usize, output: usize) -> Vec<Taps<A>> {
    (0..output).map(|i| how.taps(i, input, output)).collect()
}

/// See [`crate::ops::resample::resize`].
pub(crate) fn resize<E: Element>(cx: &Context, x: &[E], xs: Shape, y: &mut [E], ys: Shape, how: Resize) {
    let (h, w, c) = (xs[1], xs[2], xs[3]);
    let (rows, columns) = (axis::<E::Acc>(how, h, ys[1]), axis::<E::Acc>(how, w, ys[2]));
    cx.pool().run_parts(y, ys[2] * c, |row, y| {
        let (b, ty) = (row / ys[1], &rows[row % ys[1]]);
        for (y, tx) in y.chunks_exact_mut(c).zip(&columns) {
            for (ch, y) in y.iter_mut().enumerate() {
                let mut sum = E::Acc::ZERO;
                for (&i, &wy) in ty.at.iter().zip(&ty.weight) {
                    let line = (b * h + i) * w;
                    let mut part = E::Acc::ZERO;
                    for (&j, &wx) in tx.at.iter().zip(&tx.weight) {
                        part += wx * x[(line + j) * c + ch].to_acc();
                    }
                    sum += wy * part;
                }
                *y = E::from_acc(sum);
            }
        }
    });
}

/// See [`crate::ops::resample::resize_backward`].
pub(crate) fn resize_backward<E: Element>(cx: &Context, dy: &[E], ys: Shape, dx: &mut [E], xs: Shape, how: Resize) {
    let (h, w, c) = (xs[1], xs[2], xs[3]);
    let (rows, columns) = (axis::<E::Acc>(how, h, ys[1]), axis::<E::Acc>(how, w, ys[2]));
    // One image a chunk: its targets overlap, so its sum has one owner.
    cx.pool().run_parts(dx, h * w * c, |b, dx| {
        let mut sum = vec![E::Acc::ZERO; dx.len()];
        for (oy, ty) in rows.iter().enumerate() {
            for (ox, tx) in columns.iter().enumerate() {
                let from = &dy[((b * ys[1] + oy) * ys[2] + ox) * c..][..c];
                for (&i, &wy) in ty.at.iter().zip(&ty.weight) {
                    for (&j, &wx) in tx.at.iter().zip(&tx.weight) {
                        let weight = wy * wx;
                        for (sum, d) in sum[(i * w + j) * c..][..c].iter_mut().zip(from) {
                            *sum += weight * d.to_acc();
                        }
                    }
                }
            }
        }
        dx.iter_mut().zip(sum).for_each(|(dx, sum)| *dx = E::from_acc(sum));
    });
}

/// See [`crate::ops::resample::nearest_x2`].
pub(crate) fn nearest_x2<E: Element>(cx: &Context, x: &[E], xs: Shape, y: &mut [E]) {
    let (w, c) = (xs[2], xs[3]);
    cx.pool().run_parts(y, 2 * w * c, |row, y| {
        let from = &x[row / 2 * w * c..][..w * c];
        for (y, x) in y.chunks_exact_mut(2 * c).zip(from.chunks_exact(c)) {
            y[..c].copy_from_slice(x);
            y[c..].copy_from_slice(x);
        }
    });
}

/// See [`crate::ops::resample::nearest_x2_backward`].
pub(crate) fn nearest_x2_backward<E: Element>(cx: &Context, dy: &[E], xs: Shape, dx: &mut [E]) {
    let (w, c) = (xs[2], xs[3]);
    cx.pool().run_parts(dx, w * c, |row, dx| {
        let (upper, lower) = dy[4 * row * w * c..][..4 * w * c].split_at(2 * w * c);
        let pairs = upper.chunks_exact(2 * c).zip(lower.chunks_exact(2 * c));
        for (dx, (u, l)) in dx.chunks_exact_mut(c).zip(pairs) {
            for (ch, dx) in dx.iter_mut().enumerate() {
                *dx = E::from_acc((u[ch].to_acc() + u[ch + c].to_acc()) + (l[ch].to_acc() + l[ch + c].to_acc()));
            }
        }
    });
}

/// Visits every output: `f(output index, input index of the first largest element)`.
fn for_pools<E: Element>(x: &[E], xs: Shape, mut f: impl FnMut(usize, usize)) {
    let (h, w, c) = (xs[1], xs[2], xs[3]);
    let (oh, ow) = (max_pool_size(h), max_pool_size(w));
    for b in 0..xs[0] {
        for oy in 0..oh {
            for ox in 0..ow {
                for ch in 0..c {
                    let mut best: Option<usize> = None;
                    for i in (2 * oy).saturating_sub(1)..(2 * oy + 2).min(h) {
                        for j in (2 * ox).saturating_sub(1)..(2 * ox + 2).min(w) {
                            let at = ((b * h + i) * w + j) * c + ch;
                            if best.is_none_or(|best| x[at] > x[best]) {
                                best = Some(at);
                            }
                        }
                    }
                    if let Some(best) = best {
                        f(((b * oh + oy) * ow + ox) * c + ch, best);
                    }
                }
            }
        }
    }
}

/// See [`crate::ops::resample::max_pool`].
pub(crate) fn max_pool<E: Element>(x: &[E], xs: Shape, y: &mut [E]) {
    for_pools(x, xs, |to, from| y[to] = x[from]);
}

/// See [`crate::ops::resample::max_pool_backward`].
pub(crate) fn max_pool_backward<E: Element>(x: &[E], xs: Shape, dy: &[E], dx: &mut [E]) {
    dx.fill(E::default());
    for_pools(x, xs, |from, to| dx[to] = E::from_acc(dx[to].to_acc() + dy[from].to_acc()));
}
