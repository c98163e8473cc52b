//! Convolution: plain loops.

use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::ops::conv2d::ConvEpilogue;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Geometry {
    pub batch: usize,
    pub h: usize,
    pub w: usize,
    pub i: usize,
    pub o: usize,
    pub kh: usize,
    pub kw: usize,
    pub oh: usize,
    pub ow: usize,
    pub stride: usize,
    pub top: usize,
    pub left: usize,
}

/// See [`crate::ops::conv2d::forward`].
pub fn forward<E: Element>(cx: &Context, g: &Geometry, x: &[E], w: &[E], y: &mut [E], epilogue: &ConvEpilogue<'_, E>) {
    cx.pool().run_parts(y, g.o, |pixel, y| {
        let (b, i, j) = (pixel / (g.oh * g.ow), pixel / g.ow % g.oh, pixel % g.ow);
        for (o, y) in y.iter_mut().enumerate() {
            let mut sum = E::Acc::ZERO;
            for u in 0..g.kh {
                let h = (i * g.stride + u).wrapping_sub(g.top);
                for v in 0..g.kw {
                    let ww = (j * g.stride + v).wrapping_sub(g.left);
                    if h < g.h && ww < g.w {
                        let x = &x[((b * g.h + h) * g.w + ww) * g.i..][..g.i];
                        let w = &w[((o * g.kh + u) * g.kw + v) * g.i..][..g.i];
                        sum += x.iter().zip(w).map(|(x, w)| x.to_acc() * w.to_acc()).sum();
                    }
                }
            }
            if let Some(bias) = &epilogue.bias {
                sum += bias.data()[o].to_acc();
            }
            if let Some(per_image) = &epilogue.per_image {
                sum += per_image.data()[b * g.o + o].to_acc();
            }
            if let Some(residual) = &epilogue.residual {
                sum += residual.data()[pixel * g.o + o].to_acc();
            }
            *y = E::from_acc(sum);
        }
    });
}

/// See [`crate::ops::conv2d::backward_input`].
pub fn backward_input<E: Element>(cx: &Context, g: &Geometry, dy: &[E], w: &[E], dx: &mut [E]) {
    cx.pool().run_parts(dx, g.i, |pixel, dx| {
        let (b, h, ww) = (pixel / (g.h * g.w), pixel / g.w % g.h, pixel % g.w);
        for (c, dx) in dx.iter_mut().enumerate() {
            let mut sum = E::Acc::ZERO;
            for u in 0..g.kh {
                let i = (h + g.top).wrapping_sub(u);
                if i > h + g.top || i % g.stride != 0 || i / g.stride >= g.oh {
                    continue;
                }
                for v in 0..g.kw {
                    let j = (ww + g.left).wrapping_sub(v);
                    if j > ww + g.left || j % g.stride != 0 || j / g.stride >= g.ow {
                        continue;
                    }
                    let dy = &dy[((b * g.oh + i / g.stride) * g.ow + j / g.stride) * g.o..][..g.o];
                    for (o, dy) in dy.iter().enumerate() {
                        sum += dy.to_acc() * w[((o * g.kh + u) * g.kw + v) * g.i + c].to_acc();
                    }
                }
            }
            *dx = E::from_acc(sum);
        }
    });
}

/// See [`crate::ops::conv2d::backward_weight`].
pub fn backward_weight<E: Element>(cx: &Context, g: &Geometry, dy: &[E], x: &[E], dw: &mut [E::Acc]) {
    cx.pool().run_parts(dw, g.i, |row, dw| {
        let (o, u, v) = (row / (g.kh * g.kw), row / g.kw % g.kh, row % g.kw);
        for b in 0..g.batch {
            for i in 0..g.oh {
                let h = (i * g.stride + u).wrapping_sub(g.top);
                for j in 0..g.ow {
                    let ww = (j * g.stride + v).wrapping_sub(g.left);
                    if h < g.h && ww < g.w {
                        let dy = dy[((b * g.oh + i) * g.ow + j) * g.o + o].to_acc();
                        let x = &x[((b * g.h + h) * g.w + ww) * g.i..][..g.i];
                        dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += dy * x.to_acc());
                    }
                }
            }
        }
    });
}
