//! Two-dimensional convolution, channels last: `y[b,i,j,o] = sum_{u,v,c} x[b, i s + u - top, j s + v - left, c] w[o,u,v,c]`, zero outside.
//!
//! Shapes: x `[B,H,W,I]`, w `[O,Kh,Kw,I]`, y `[B,OH,OW,O]` with `OH = (H + top + bottom - Kh) / s + 1`. The epilogue adds a bias `[O]`, a vector per
//! image `[B,O]` (the time embedding of a residual block) and a residual `[B,OH,OW,O]`.
//!
//! [`backward_input`] is the transposed convolution: it overwrites dx. [`backward_weight`] adds to dw, which is kept in `E::Acc`.
//! Variants and measured speeds: [`crate::host::conv2d`].

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::conv2d as host;
use crate::memory::{Shape, View, ViewMut};
use crate::ops::{check, check_shape};

/// Zeros around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pad {
    /// Rows above.
    pub top: usize,
    /// Columns to the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Pad {
    /// `n` on every side.
    pub fn same(n: usize) -> Self {
        Pad { top: n, left: n, bottom: n, right: n }
    }
}

/// Stride and padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Step between outputs, the same along both axes.
    pub stride: usize,
    /// Zeros around the input.
    pub pad: Pad,
}

impl Conv2d {
    /// With this stride and padding.
    pub fn new(stride: usize, pad: Pad) -> Self {
        Conv2d { stride, pad }
    }

    /// Height and width of the output for an input of `(h, w)` under a kernel of `(kh, kw)`; 0 where the kernel does not fit.
    pub fn output_size(&self, (h, w): (usize, usize), (kh, kw): (usize, usize)) -> (usize, usize) {
        let one = |size: usize, kernel: usize| match size.checked_sub(kernel) {
            Some(room) if self.stride > 0 => room / self.stride + 1,
            _ => 0,
        };
        (one(h + self.pad.top + self.pad.bottom, kh), one(w + self.pad.left + self.pad.right, kw))
    }
}

/// What is added to each sum before it is stored.
#[derive(Clone, Copy)]
pub struct ConvEpilogue<'a, E> {
    /// Added to every pixel, `[O]`.
    pub bias: Option<View<'a, E>>,
    /// Added to every pixel of an image, `[B,O]`.
    pub per_image: Option<View<'a, E>>,
    /// Added at the end, `[B,OH,OW,O]`.
    pub residual: Option<View<'a, E>>,
}

impl<E> Default for ConvEpilogue<'_, E> {
    fn default() -> Self {
        ConvEpilogue { bias: None, per_image: None, residual: None }
    }
}

/// Checks that image, weights and output belong together and gives their sizes.
fn geometry(
    op: &'static str,
    what: [&'static str; 2],
    x: Shape,
    w: Shape,
    y: Shape,
    conv: &Conv2d,
) -> Result<host::Geometry> {
    check(op, x.rank() == 4, || format!("`{}` has shape {x}, expected [B,H,W,I]", what[0]))?;
    check(op, w.rank() == 4, || format!("weights have shape {w}, expected [O,Kh,Kw,I]"))?;
    check(op, conv.stride > 0, || "the stride is 0".into())?;
    check(op, w[1] > 0 && w[2] > 0, || format!("weights have shape {w}: the kernel is empty"))?;
    check_shape(op, "weights", w, [w[0], w[1], w[2], x[3]])?;
    let (oh, ow) = conv.output_size((x[1], x[2]), (w[1], w[2]));
    check_shape(op, what[1], y, [x[0], oh, ow, w[0]])?;
    Ok(host::Geometry {
        batch: x[0],
        h: x[1],
        w: x[2],
        i: x[3],
        o: w[0],
        kh: w[1],
        kw: w[2],
        oh,
        ow,
        stride: conv.stride,
        top: conv.pad.top,
        left: conv.pad.left,
    })
}

/// The convolution of `x` with `w`, plus the epilogue's terms, into `y`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::Domain`] if sizes do not fit.
pub fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    w: View<'_, E>,
    y: ViewMut<'_, E>,
    conv: &Conv2d,
    epilogue: &ConvEpilogue<'_, E>,
) -> Result<()> {
    const OP: &str = "conv2d";
    let g = geometry(OP, ["x", "y"], x.shape(), w.shape(), y.shape(), conv)?;
    if let Some(bias) = &epilogue.bias {
        check_shape(OP, "bias", bias.shape(), [g.o])?;
    }
    if let Some(per_image) = &epilogue.per_image {
        check_shape(OP, "per_image", per_image.shape(), [g.batch, g.o])?;
    }
    if let Some(residual) = &epilogue.residual {
        check_shape(OP, "residual", residual.shape(), y.shape())?;
    }
    if y.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::conv2d::forward(cx, &g, x, w, y, epilogue);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::forward(cx, &g, x.data(), w.data(), y.data(), epilogue);
    Ok(())
}

/// Gradient of the input, overwritten: `dx[b,h,w,c] = sum over (u,v,o) with h = i s + u - top, w = j s + v - left of dy[b,i,j,o] w[o,u,v,c]`.
///
/// Read the other way it is a transposed convolution of `dy`.
///
/// # Errors
/// As [`forward`].
pub fn backward_input<E: Element>(
    cx: &Context,
    dy: View<'_, E>,
    w: View<'_, E>,
    dx: ViewMut<'_, E>,
    conv: &Conv2d,
) -> Result<()> {
    const OP: &str = "conv2d backward_input";
    let g = geometry(OP, ["dx", "dy"], dx.shape(), w.shape(), dy.shape(), conv)?;
    if dx.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::conv2d::backward_input(cx, &g, dy, w, dx);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::backward_input(cx, &g, dy.data(), w.data(), dx.data());
    Ok(())
}

/// Gradient of the weights, added: `dw[o,u,v,c] += sum_{b,i,j} dy[b,i,j,o] x[b, i s + u - top, j s + v - left, c]`.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight<E: Element>(
    cx: &Context,
    dy: View<'_, E>,
    x: View<'_, E>,
    dw: ViewMut<'_, E::Acc>,
    conv: &Conv2d,
) -> Result<()> {
    const OP: &str = "conv2d backward_weight";
    let g = geometry(OP, ["x", "dy"], x.shape(), dw.shape(), dy.shape(), conv)?;
    if dw.shape().is_empty() || dy.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::conv2d::backward_weight(cx, &g, dy, x, dw);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::backward_weight(cx, &g, dy.data(), x.data(), dw.data());
    Ok(())
}
