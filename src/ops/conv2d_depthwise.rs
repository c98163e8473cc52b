//! Depthwise convolution, channels last: `y[b,i,j,c] = bias[c] + sum_{u,v} x[b, i + u - Kh/2, j + v - Kw/2, c] w[u,v,c]`, zero outside.
//!
//! Shapes: x and y `[B,H,W,C]`, w `[Kh,Kw,C]` with odd sizes, bias `[C]`; stride 1. [`backward_input`] overwrites dx; [`backward_weight`] adds to dw,
//! which is kept in `E::Acc`. (The gradient of the bias is the column sum of dy: `reduce`.)
//! Source: ConvNeXt (arXiv 2201.03545), the 7x7 layer. Variants and measured speeds: [`crate::host::conv2d_depthwise`].

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::conv2d_depthwise as host;
use crate::memory::{Shape, View, ViewMut};
use crate::ops::{check, check_shape};

fn geometry(op: &'static str, x: Shape, w: Shape, y: Shape) -> Result<host::Geometry> {
    check(op, x.rank() == 4, || format!("the image has shape {x}, expected [B,H,W,C]"))?;
    check(op, w.rank() == 3, || format!("weights have shape {w}, expected [Kh,Kw,C]"))?;
    check(op, w[0] % 2 == 1 && w[1] % 2 == 1, || format!("weights have shape {w}, expected an odd kernel"))?;
    check_shape(op, "weights", w, w.with_last(x[3]))?;
    check_shape(op, "output", y, x)?;
    Ok(host::Geometry { batch: x[0], h: x[1], w: x[2], c: x[3], kh: w[0], kw: w[1] })
}

/// The convolution of `x` with `w`, plus `bias`, into `y`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::Domain`] if sizes do not fit.
pub fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    w: View<'_, E>,
    bias: Option<View<'_, E>>,
    y: ViewMut<'_, E>,
) -> Result<()> {
    const OP: &str = "conv2d_depthwise";
    let g = geometry(OP, x.shape(), w.shape(), y.shape())?;
    if let Some(bias) = &bias {
        check_shape(OP, "bias", bias.shape(), [g.c])?;
    }
    if y.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::conv2d_depthwise::forward(cx, &g, x, w, bias, y, false);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::forward(cx, &g, x.data(), w.data(), bias.map(|b| b.data()), y.data());
    Ok(())
}

/// Gradient of the input, overwritten: `dx[b,h,w,c] = sum_{u,v} dy[b, h - u + Kh/2, w - v + Kw/2, c] w[u,v,c]`.
///
/// # Errors
/// As [`forward`].
pub fn backward_input<E: Element>(cx: &Context, dy: View<'_, E>, w: View<'_, E>, dx: ViewMut<'_, E>) -> Result<()> {
    let g = geometry("conv2d_depthwise backward_input", dy.shape(), w.shape(), dx.shape())?;
    if dx.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::conv2d_depthwise::forward(cx, &g, dy, w, None, dx, true);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::backward_input(cx, &g, dy.data(), w.data(), dx.data());
    Ok(())
}

/// Gradient of the weights, added: `dw[u,v,c] += sum_{b,i,j} dy[b,i,j,c] x[b, i + u - Kh/2, j + v - Kw/2, c]`.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight<E: Element>(
    cx: &Context,
    dy: View<'_, E>,
    x: View<'_, E>,
    dw: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let g = geometry("conv2d_depthwise backward_weight", x.shape(), dw.shape(), dy.shape())?;
    if dy.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::conv2d_depthwise::backward_weight(cx, &g, dy, x, dw);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::backward_weight(cx, &g, dy.data(), x.data(), dw.data());
    Ok(())
}
