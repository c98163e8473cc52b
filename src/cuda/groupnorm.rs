//! Launches of `cuda/groupnorm.cu`; see [`crate::ops::groupnorm`].

use std::ffi::c_void;

use super::params::{
    DeemGroupnormBackwardInput, DeemGroupnormBackwardSums, DeemGroupnormBackwardWeight, DeemGroupnormForward,
    DeemGroupnormMoments, DeemGroupnormSizes, DeemGroupnormStatistics, DeemGroupnormTotals,
};
use super::{Slices, input, kernel, optional_input, optional_output, output, pointwise, reduce, rows, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Tensor, View, ViewMut};

const OP: &str = "groupnorm";

/// Groups of one block of the tile kernels (`Tile` in `cuda/groupnorm.cu`): so many that their channels are whole packs and at most one for each of the 256
/// threads, evenly. None where there is no such number.
fn groups_per_tile(channels: usize, groups: usize, pack: usize) -> Option<usize> {
    let width = channels / groups;
    let most = (256 * pack / width).min(groups);
    if most == 0 || !channels.is_multiple_of(pack) {
        return None;
    }
    let even = groups.div_ceil(groups.div_ceil(most));
    (even..=most).find(|count| (count * width).is_multiple_of(pack))
}

/// Sizes as kernels take them, with slices of the pixels by the sizes alone, and the groups of a block of the tile kernels, if these sizes have some.
fn sizes_of<E>(x: &View<'_, E>, groups: usize) -> Result<(DeemGroupnormSizes, Option<i32>)> {
    let (images, channels) = (x.shape()[0], x.shape().last());
    let pixels = x.shape().len() / (images * channels);
    let pack = 16 / size_of::<E>();
    let tile = groups_per_tile(channels, groups, pack);
    let per_slice = match tile {
        // A thread has up to 32 elements, as packs of one pixel each.
        Some(count) => 256 / (count * (channels / groups) / pack) * (32 / pack),
        // Some 4096 elements, so that the 256 threads have 16 each.
        None => (4096 * groups).div_ceil(channels),
    };
    let per_slice = per_slice.clamp(1, pixels);
    let sizes = DeemGroupnormSizes {
        images: small(OP, "the number of images", images)?,
        pixels: small(OP, "the number of pixels", pixels)?,
        channels: small(OP, "the number of channels", channels)?,
        groups: small(OP, "the number of groups", groups)?,
        slices: small(OP, "the number of slices", pixels.div_ceil(per_slice))?,
        pixels_per_slice: small(OP, "the pixels of a slice", per_slice)?,
    };
    Ok((sizes, tile.map(|count| small(OP, "the groups of a block", count)).transpose()?))
}

impl DeemGroupnormSizes {
    /// Two numbers of each group of a slice.
    fn partial(&self, cx: &Context) -> Result<Tensor<f32>> {
        cx.uninit([self.images as usize, self.slices as usize, self.groups as usize, 2])
    }

    /// A block per slice, groups of a block, and image.
    fn geometry(&self, groups_per_block: i32) -> Geometry {
        let groups = (self.groups as u32).div_ceil(groups_per_block as u32);
        let blocks = [self.slices as u32, groups, self.images.min(65_535) as u32];
        Geometry { blocks, threads: [256, 1, 1], shared_bytes: 0 }
    }

    /// A warp per group of an image.
    fn by_group(&self) -> Result<Geometry> {
        rows(OP, self.images as usize * self.groups as usize, 32)
    }
}

/// Whether the tile kernels may run, and the groups of a block: they take arrays that begin with packs; the plain kernels take one group, in the same slices.
fn groups_per_block(tile: Option<i32>, addresses: &[*const c_void]) -> (bool, i32) {
    match tile.filter(|_| addresses.iter().all(|address| address.addr() % 16 == 0)) {
        Some(groups) => (true, groups),
        None => (false, 1),
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
    let (sizes, tile) = sizes_of(&x, groups)?;
    let n = x.shape().len();
    let (x, y, stats) = (input(cx, OP, "x", x)?, output(cx, OP, "y", &y)?, output(cx, OP, "stats", &stats)?);
    let (weight, bias) = (input(cx, OP, "weight", weight)?, input(cx, OP, "bias", bias)?);
    let (tile, groups_per_block) = groups_per_block(tile, &[x, y.cast_const(), weight, bias, stats.cast_const()]);
    let mut partial = sizes.partial(cx)?;
    let partial = output(cx, OP, "moments", &partial.view_mut())?;
    let params = DeemGroupnormMoments { x, partial, sizes, groups_per_block, padding: 0 };
    let moments = kernel!(E, cx, OP, "groupnorm_moments", "_tile" if tile);
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, moments, sizes.geometry(groups_per_block), &params)? };
    let params = DeemGroupnormStatistics { partial, stats, sizes, eps: eps as f32, padding: 0 };
    // SAFETY: as above.
    unsafe { cx.launch(OP, "groupnorm_statistics_f32", sizes.by_group()?, &params)? };
    let params =
        DeemGroupnormForward { x, weight, bias, stats, y, n: n as i64, sizes, groups_per_block, silu: i32::from(silu) };
    let (kernel, geometry) = if tile {
        (kernel!(E, cx, OP, "groupnorm_forward_tile"), sizes.geometry(groups_per_block))
    } else {
        (kernel!(E, cx, OP, "groupnorm_forward"), pointwise::<E>(OP, n)?)
    };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel, geometry, &params) }
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
    residual: Option<View<'_, E>>,
    dx: ViewMut<'_, E>,
    dw: Option<ViewMut<'_, E::Acc>>,
    db: Option<ViewMut<'_, E::Acc>>,
    groups: usize,
    silu: bool,
) -> Result<()> {
    let (sizes, tile) = sizes_of(&x, groups)?;
    let (rows, c, silu) = (x.shape().len() / x.shape().last(), x.shape().last(), i32::from(silu));
    let (x, dy, stats) = (input(cx, OP, "x", x)?, input(cx, OP, "dy", dy)?, input(cx, OP, "stats", stats)?);
    let (weight, bias) = (input(cx, OP, "weight", weight)?, input(cx, OP, "bias", bias)?);
    let (residual, dx) = (optional_input(cx, OP, "residual", residual)?, output(cx, OP, "dx", &dx)?);
    let (tile, groups_per_block) = groups_per_block(tile, &[x, dy, residual, dx.cast_const(), weight, bias, stats]);
    let mut partial = sizes.partial(cx)?;
    let partial = output(cx, OP, "partial sums", &partial.view_mut())?;
    let params = DeemGroupnormBackwardSums { x, weight, bias, stats, dy, partial, sizes, groups_per_block, silu };
    let sums = kernel!(E, cx, OP, "groupnorm_backward_sums", "_tile" if tile);
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, sums, sizes.geometry(groups_per_block), &params)? };
    let mut totals = cx.uninit::<f32>([sizes.images as usize, sizes.groups as usize, 2])?;
    let totals = output(cx, OP, "means", &totals.view_mut())?;
    let factor = 1.0 / (sizes.pixels as f32 * (sizes.channels / sizes.groups) as f32);
    let params = DeemGroupnormTotals { partial, totals, sizes, factor, padding: 0 };
    // SAFETY: as above.
    unsafe { cx.launch(OP, "groupnorm_totals_f32", sizes.by_group()?, &params)? };
    let params =
        DeemGroupnormBackwardInput { x, weight, bias, stats, dy, totals, residual, dx, sizes, groups_per_block, silu };
    let gradient = kernel!(E, cx, OP, "groupnorm_backward_input", "_tile" if tile);
    // SAFETY: as above.
    unsafe { cx.launch(OP, gradient, sizes.geometry(groups_per_block), &params)? };
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
        sizes,
        silu,
        padding: 0,
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

#[cfg(test)]
mod tests {
    use super::groups_per_tile;

    #[test]
    fn tiles_are_whole_packs_and_even() {
        // A UNet's widths: all channels in one tile, or in tiles of equal size.
        assert_eq!(groups_per_tile(320, 32, 4), Some(32));
        assert_eq!(groups_per_tile(320, 32, 8), Some(32));
        assert_eq!(groups_per_tile(1280, 32, 4), Some(16));
        assert_eq!(groups_per_tile(2560, 32, 8), Some(16));
        // Three channels a group: packs want groups by four.
        assert_eq!(groups_per_tile(96, 32, 4), Some(32));
        assert_eq!(groups_per_tile(4 * 3, 4, 8), None);
        // Odd numbers of channels, and groups wider than a block.
        assert_eq!(groups_per_tile(15, 5, 4), None);
        assert_eq!(groups_per_tile(4096, 2, 4), None);
    }
}
