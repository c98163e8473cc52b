//! Launches of `cuda/groupnorm.cu`; see [`crate::ops::groupnorm`].

use super::params::{
    DeemGroupnormBackwardInput, DeemGroupnormBackwardSums, DeemGroupnormBackwardWeight, DeemGroupnormForward,
    DeemGroupnormMoments, DeemGroupnormStatistics,
};
use super::{Slices, indexwise, input, kernel, optional_output, output, pointwise, reduce, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Tensor, View, ViewMut};

const OP: &str = "groupnorm";

/// Sizes as kernels take them, and how the pixels are cut into slices: by the sizes alone.
#[derive(Clone, Copy)]
struct Sizes {
    images: i32,
    pixels: i32,
    channels: i32,
    groups: i32,
    slices: i32,
    pixels_per_slice: i32,
}

impl Sizes {
    fn of<E>(x: &View<'_, E>, groups: usize) -> Result<Self> {
        let (images, channels) = (x.shape()[0], x.shape().last());
        let pixels = x.shape().len() / (images * channels);
        // Each slice of a group has some 4096 elements, so that its block's 256 threads have 16 each.
        let per_slice = (4096 * groups).div_ceil(channels).clamp(1, pixels).max(pixels.div_ceil(4096));
        Ok(Sizes {
            images: small(OP, "the number of images", images)?,
            pixels: small(OP, "the number of pixels", pixels)?,
            channels: small(OP, "the number of channels", channels)?,
            groups: small(OP, "the number of groups", groups)?,
            slices: small(OP, "the number of slices", pixels.div_ceil(per_slice))?,
            pixels_per_slice: small(OP, "the pixels of a slice", per_slice)?,
        })
    }

    fn partial(&self, cx: &Context) -> Result<Tensor<f32>> {
        cx.uninit([self.images as usize, self.slices as usize, self.groups as usize, 2])
    }

    /// A block per group, slice and image.
    fn geometry(&self) -> Geometry {
        let blocks = [self.groups as u32, self.slices as u32, self.images.min(65_535) as u32];
        Geometry { blocks, threads: [256, 1, 1], shared_bytes: 0 }
    }
}

/// y and the statistics.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    bias: View<'_, E>,
    y: ViewMut<'_, E>,
    stats: ViewMut<'_, E::Acc>,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<()> {
    let sizes = Sizes::of(&x, groups)?;
    let Sizes { images, pixels, channels, groups, slices, pixels_per_slice } = sizes;
    let n = x.shape().len();
    let x = input(cx, OP, "x", x)?;
    let mut partial = sizes.partial(cx)?;
    let partial = output(cx, OP, "moments", &partial.view_mut())?;
    let params = DeemGroupnormMoments { x, partial, images, pixels, channels, groups, slices, pixels_per_slice };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "groupnorm_moments"), sizes.geometry(), &params)? };
    let stats = output(cx, OP, "stats", &stats)?;
    let params = DeemGroupnormStatistics {
        partial,
        stats,
        images,
        pixels,
        channels,
        groups,
        slices,
        pixels_per_slice,
        eps: eps as f32,
        padding: 0,
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, "groupnorm_statistics_f32", indexwise(OP, images as usize * groups as usize)?, &params)? };
    let params = DeemGroupnormForward {
        x,
        weight: input(cx, OP, "weight", weight)?,
        bias: input(cx, OP, "bias", bias)?,
        stats,
        y: output(cx, OP, "y", &y)?,
        n: n as i64,
        pixels,
        channels,
        groups,
        silu: i32::from(silu),
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "groupnorm_forward"), pointwise::<E>(OP, n)?, &params) }
}

/// dx is overwritten, dw and db are added to.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    bias: View<'_, E>,
    stats: View<'_, E::Acc>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
    dw: Option<ViewMut<'_, E::Acc>>,
    db: Option<ViewMut<'_, E::Acc>>,
    groups: usize,
    silu: bool,
) -> Result<()> {
    let sizes = Sizes::of(&x, groups)?;
    let Sizes { images, pixels, channels, groups, slices, pixels_per_slice } = sizes;
    let (rows, c, silu) = (x.shape().len() / x.shape().last(), x.shape().last(), i32::from(silu));
    let (x, dy, stats) = (input(cx, OP, "x", x)?, input(cx, OP, "dy", dy)?, input(cx, OP, "stats", stats)?);
    let (weight, bias) = (input(cx, OP, "weight", weight)?, input(cx, OP, "bias", bias)?);
    let mut partial = sizes.partial(cx)?;
    let partial = output(cx, OP, "partial sums", &partial.view_mut())?;
    let params = DeemGroupnormBackwardSums {
        x,
        weight,
        bias,
        stats,
        dy,
        partial,
        images,
        pixels,
        channels,
        groups,
        slices,
        pixels_per_slice,
        silu,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "groupnorm_backward_sums"), sizes.geometry(), &params)? };
    let params = DeemGroupnormBackwardInput {
        x,
        weight,
        bias,
        stats,
        dy,
        partial,
        dx: output(cx, OP, "dx", &dx)?,
        images,
        pixels,
        channels,
        groups,
        slices,
        pixels_per_slice,
        silu,
        padding: 0,
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "groupnorm_backward_input"), sizes.geometry(), &params)? };
    if dw.is_none() && db.is_none() {
        return Ok(());
    }
    let of_rows = Slices::of(rows);
    let mut partial_dw = dw.as_ref().map(|_| of_rows.partial(cx, c)).transpose()?;
    let mut partial_db = db.as_ref().map(|_| of_rows.partial(cx, c)).transpose()?;
    let params = DeemGroupnormBackwardWeight {
        x,
        weight,
        bias,
        stats,
        dy,
        partial_dw: optional_output(cx, OP, "partial dw", partial_dw.as_mut().map(Tensor::view_mut).as_ref())?,
        partial_db: optional_output(cx, OP, "partial db", partial_db.as_mut().map(Tensor::view_mut).as_ref())?,
        rows: rows as i64,
        rows_per_slice: of_rows.rows_per_slice as i64,
        pixels,
        channels,
        groups,
        silu,
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "groupnorm_backward_weight"), of_rows.geometry(OP, c)?, &params)? };
    for (partial, out) in [(partial_dw, dw), (partial_db, db)] {
        if let (Some(partial), Some(out)) = (partial, out) {
            reduce::add_slices(cx, OP, partial.view(), &out)?;
        }
    }
    Ok(())
}
