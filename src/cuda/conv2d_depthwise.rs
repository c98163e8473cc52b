//! Launches of `cuda/conv2d_depthwise.cu`; see [`crate::ops::conv2d_depthwise`].

use super::gemm::aligned;
use super::params::{DeemConv2dDepthwiseBackwardWeight, DeemConv2dDepthwiseForward};
use super::{indexwise, input, kernel, optional_input, output, reduce, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::conv2d_depthwise::Geometry as Sizes;
use crate::memory::{View, ViewMut};

const OP: &str = "conv2d_depthwise";
/// Pixels of a line that a thread computes, as in the kernel.
const RUN: usize = 4;
/// Channels of a thread of the pack kernels, and taps of a kernel's line that they are made for.
const CHANNELS: usize = 4;
const WIDE: usize = 7;
/// Most slices that a sum over lines is cut into.
const SLICES: usize = 64;

/// Whether the pack kernels are legal.
fn takes_packs(sizes: &Sizes, aligned: bool) -> bool {
    aligned && sizes.kw == WIDE && sizes.c.is_multiple_of(CHANNELS)
}

/// y = bias + x * w; `turned` turns the kernel around, which makes it the gradient of the input.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    sizes: &Sizes,
    x: View<'_, E>,
    w: View<'_, E>,
    bias: Option<View<'_, E>>,
    y: ViewMut<'_, E>,
    turned: bool,
) -> Result<()> {
    let params = DeemConv2dDepthwiseForward {
        x: input(cx, OP, "the image", x)?,
        w: input(cx, OP, "weights", w)?,
        bias: optional_input(cx, OP, "bias", bias)?,
        y: output(cx, OP, "output", &y)?,
        batch: small(OP, "the batch", sizes.batch)?,
        height: small(OP, "the height", sizes.h)?,
        width: small(OP, "the width", sizes.w)?,
        channels: small(OP, "the number of channels", sizes.c)?,
        kernel_height: small(OP, "the kernel's height", sizes.kh)?,
        kernel_width: small(OP, "the kernel's width", sizes.kw)?,
        turned: i32::from(turned),
        padding: 0,
    };
    let runs = sizes.batch * sizes.h * sizes.w.div_ceil(RUN);
    let packs = takes_packs(sizes, aligned(&[params.x, params.w, params.bias, params.y.cast_const()]));
    let (kernel, threads) = if packs {
        (kernel!(E, cx, OP, "conv2d_depthwise_forward_pack"), runs * sizes.c / CHANNELS)
    } else {
        (kernel!(E, cx, OP, "conv2d_depthwise_forward"), runs * sizes.c)
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, indexwise(OP, threads)?, &params) }
}

/// dw += dy * x.
pub(crate) fn backward_weight<E: Element>(
    cx: &Context,
    sizes: &Sizes,
    dy: View<'_, E>,
    x: View<'_, E>,
    dw: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let lines = sizes.batch * sizes.h;
    let lines_per_slice = lines.div_ceil(SLICES);
    let slices = lines.div_ceil(lines_per_slice);
    let mut partial = cx.uninit::<f32>([slices, sizes.kh * sizes.kw * sizes.c])?;
    let params = DeemConv2dDepthwiseBackwardWeight {
        x: input(cx, OP, "the image", x)?,
        dy: input(cx, OP, "dy", dy)?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        lines_per_slice: lines_per_slice as i64,
        batch: small(OP, "the batch", sizes.batch)?,
        height: small(OP, "the height", sizes.h)?,
        width: small(OP, "the width", sizes.w)?,
        channels: small(OP, "the number of channels", sizes.c)?,
        kernel_height: small(OP, "the kernel's height", sizes.kh)?,
        kernel_width: small(OP, "the kernel's width", sizes.kw)?,
    };
    let geometry = Geometry::linear(OP, sizes.c.div_ceil(32), 0)?;
    let geometry = Geometry { blocks: [geometry.blocks[0], slices as u32, 1], threads: [32, 8, 1], shared_bytes: 0 };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "conv2d_depthwise_backward_weight"), geometry, &params)? };
    let len = dw.shape().len();
    reduce::add_slices(cx, OP, partial.view(), &dw.reshape([len]))
}
