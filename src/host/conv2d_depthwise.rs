//! Depthwise convolution: plain loops.

use crate::device::Context;
use crate::dtype::{Element, Real};

/// The sizes of a depthwise convolution.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Geometry {
    pub batch: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub kh: usize,
    pub kw: usize,
}

fn correlate<E: Element>(cx: &Context, g: &Geometry, x: &[E], w: &[E], bias: Option<&[E]>, y: &mut [E], flip: bool) {
    cx.pool().run_parts(y, g.c, |pixel, y| {
        let (b, i, j) = (pixel / (g.h * g.w), pixel / g.w % g.h, pixel % g.w);
        for (c, y) in y.iter_mut().enumerate() {
            let mut sum = bias.map_or(E::Acc::ZERO, |b| b[c].to_acc());
            for u in 0..g.kh {
                let h = (i + u).wrapping_sub(g.kh / 2);
                for v in 0..g.kw {
                    let ww = (j + v).wrapping_sub(g.kw / 2);
                    if h < g.h && ww < g.w {
                        let tap = u * g.kw + v;
                        let tap = if flip { g.kh * g.kw - 1 - tap } else { tap };
                        sum += x[((b * g.h + h) * g.w + ww) * g.c + c].to_acc() * w[tap * g.c + c].to_acc();
                    }
                }
            }
            *y = E::from_acc(sum);
        }
    });
}

/// See [`crate::ops::conv2d_depthwise::forward`].
pub fn forward<E: Element>(cx: &Context, g: &Geometry, x: &[E], w: &[E], bias: Option<&[E]>, y: &mut [E]) {
    correlate(cx, g, x, w, bias, y, false);
}

/// See [`crate::ops::conv2d_depthwise::backward_input`].
pub fn backward_input<E: Element>(cx: &Context, g: &Geometry, dy: &[E], w: &[E], dx: &mut [E]) {
    correlate(cx, g, dy, w, None, dx, true);
}

/// See [`crate::ops::conv2d_depthwise::backward_weight`].
pub fn backward_weight<E: Element>(cx: &Context, g: &Geometry, dy: &[E], x: &[E], dw: &mut [E::Acc]) {
    cx.pool().run_parts(dw, g.c, |tap, dw| {
        let (u, v) = (tap / g.kw, tap % g.kw);
        for b in 0..g.batch {
            for i in 0..g.h {
                let h = (i + u).wrapping_sub(g.kh / 2);
                for j in 0..g.w {
                    let ww = (j + v).wrapping_sub(g.kw / 2);
                    if h < g.h && ww < g.w {
                        let dy = &dy[((b * g.h + i) * g.w + j) * g.c..][..g.c];
                        let x = &x[((b * g.h + h) * g.w + ww) * g.c..][..g.c];
                        for ((dw, dy), x) in dw.iter_mut().zip(dy).zip(x) {
                            *dw += dy.to_acc() * x.to_acc();
                        }
                    }
                }
            }
        }
    });
}
