//! Launches of `cuda/deform_attention.cu`; see [`crate::ops::deform_attention`].

use std::ffi::c_void;

use super::gemm::aligned;
use super::params::{
    DEEM_MAX_LEVELS, DeemDeformAttentionFromFixed, DeemDeformAttentionLargest, DeemDeformAttentionLocateBackward,
    DeemDeformAttentionLocateForward, DeemDeformAttentionMmfsForward, DeemDeformAttentionMmfsIgnore,
    DeemDeformAttentionMmfsPoints, DeemDeformAttentionMmfsScatter, DeemDeformAttentionMmfsTables,
    DeemDeformAttentionMmfsTablesSum, DeemDeformAttentionSampleForward, DeemDeformAttentionSamplePoints,
    DeemDeformAttentionSampleScatter, DeemDeformAttentionScale, DeemLevels, DeemMmfs, DeemSample,
};
use super::{Op, Slices, indexwise, input, kernel, output, reduce, small, summing, whole_numbers};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Tensor, View, ViewMut};
use crate::ops::deform_attention::{Mmfs, MmfsGradients, MmfsInputs, Sample, Sizes};

const OP: Op = "deform_attention";
/// Units per block, a warp each.
const WARPS: usize = 4;
/// Most slices of queries that the tables' gradients are summed in.
const TABLE_SLICES: usize = 64;

/// The levels as kernels take them; `ratios` may be empty.
fn levels(levels: &[(usize, usize)], ratios: &[f64]) -> Result<DeemLevels> {
    let count = small(OP, "the number of levels", levels.len())?;
    let (none, zeros) = ([0; DEEM_MAX_LEVELS as usize], [0.0; DEEM_MAX_LEVELS as usize]);
    let mut to = DeemLevels { count, positions: 0, height: none, width: none, start: none, ratio: zeros };
    if levels.len() > to.height.len() {
        let reason = format!("there are {} levels, kernels take up to {}", levels.len(), to.height.len());
        return Err(Error::Domain { op: OP, reason });
    }
    let mut start = 0;
    for (l, &(height, width)) in levels.iter().enumerate() {
        (to.height[l], to.width[l]) = (small(OP, "a height", height)?, small(OP, "a width", width)?);
        to.start[l] = small(OP, "the number of pixels", start)?;
        to.ratio[l] = ratios.get(l).map_or(0.0, |&ratio| ratio as f32);
        start += height * width;
    }
    to.positions = small(OP, "the number of pixels", start)?;
    Ok(to)
}

/// Reference points on the device.
fn points(cx: &Context, reference: &[f64]) -> Result<Tensor<f32>> {
    let narrow: Vec<f32> = reference.iter().map(|&x| x as f32).collect();
    cx.tensor([narrow.len()], &narrow)
}

/// A warp per unit.
fn warps(units: usize) -> Result<Geometry> {
    let geometry = Geometry::linear(OP, units.div_ceil(WARPS), 0)?;
    Ok(Geometry { threads: [32, WARPS as u32, 1], ..geometry })
}

/// Whether kernels read packs of 16 bytes: heads of whole packs, in arrays that begin with one.
fn takes_packs<E>(head_size: usize, addresses: &[*const c_void]) -> bool {
    (head_size * size_of::<E>()).is_multiple_of(16) && aligned(addresses)
}

/// Launches a kernel if there is work: without queries the gradients of values and tables are still to be written.
///
/// # Safety
/// As [`Context::launch`].
unsafe fn launch_some<P: Copy>(
    cx: &Context,
    work: usize,
    kernel: &'static str,
    geometry: Geometry,
    params: &P,
) -> Result<()> {
    // SAFETY: the caller's promise.
    if work > 0 { unsafe { cx.launch(OP, kernel, geometry, params) } } else { Ok(()) }
}

/// Plain arrays of an MMFS call, on the device for as long as its launches are being made.
struct Plain {
    relative: Tensor<f32>,
    places: Tensor<f32>,
    reference: Tensor<f32>,
}

impl Plain {
    fn new(cx: &Context, spec: &Mmfs<'_>, sizes: Sizes) -> Result<Self> {
        let place = |i: usize| match spec.pictures {
            Some(pictures) => pictures[i].map_or(Ok(-1), |picture| small(OP, "a picture", picture)),
            None => small(OP, "a picture", i),
        };
        let places = (0..sizes.batch * sizes.images).map(place).collect::<Result<Vec<_>>>()?;
        Ok(Plain {
            relative: whole_numbers(cx, spec.relative)?,
            places: whole_numbers(cx, &places)?,
            reference: points(cx, spec.reference)?,
        })
    }

    fn params<E: Element>(
        &self,
        cx: &Context,
        x: &MmfsInputs<'_, E>,
        spec: &Mmfs<'_>,
        sizes: Sizes,
    ) -> Result<DeemMmfs> {
        small(OP, "the number of pixels of all pictures", x.value.shape().len() / (spec.heads * sizes.head_size))?;
        Ok(DeemMmfs {
            value: input(cx, OP, "value", x.value)?,
            offsets: input(cx, OP, "offsets", x.offsets)?,
            logits: input(cx, OP, "logits", x.logits)?,
            offset_table: input(cx, OP, "offset_table", x.offset_table)?,
            logit_table: input(cx, OP, "logit_table", x.logit_table)?,
            ignore_token: input(cx, OP, "ignore_token", x.ignore_token)?,
            relative: input(cx, OP, "relative", self.relative.view())?,
            places: input(cx, OP, "places", self.places.view())?,
            reference: input(cx, OP, "reference", self.reference.view())?,
            batch: small(OP, "the batch", sizes.batch)?,
            queries: small(OP, "the number of queries", sizes.queries)?,
            images: small(OP, "the number of images", sizes.images)?,
            heads: small(OP, "the number of heads", spec.heads)?,
            size: small(OP, "the head size", sizes.head_size)?,
            points: small(OP, "the number of points", spec.points)?,
            levels: levels(spec.levels, spec.ratios)?,
        })
    }
}

/// See [`crate::ops::deform_attention::mmfs_forward`].
pub(crate) fn mmfs_forward<E: Element>(
    cx: &Context,
    inputs: &MmfsInputs<'_, E>,
    out: ViewMut<'_, E>,
    spec: &Mmfs<'_>,
    sizes: Sizes,
) -> Result<()> {
    let plain = Plain::new(cx, spec, sizes)?;
    let params =
        DeemDeformAttentionMmfsForward { x: plain.params(cx, inputs, spec, sizes)?, out: output(cx, OP, "out", &out)? };
    let units = sizes.batch * sizes.queries * spec.heads;
    let packs = takes_packs::<E>(sizes.head_size, &[params.x.value, params.out.cast_const()]);
    let kernel = kernel!(E, cx, OP, "deform_attention_mmfs_forward", "_pack" if packs);
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names, as the op has checked.
    unsafe { cx.launch(OP, kernel, warps(units)?, &params) }
}

/// Gradients of values as integers: the scale that their sums can be kept at, and zeros to add to.
struct Fixed {
    scale: Tensor<f32>,
    /// Two numbers for each integer of 64 bits.
    sums: Tensor<f32>,
}

impl Fixed {
    /// For `len` sums of which each is at most `terms` times the largest of `first` (times the largest of `second`).
    fn new<E: Element>(
        cx: &Context,
        len: usize,
        terms: f64,
        first: View<'_, E>,
        second: Option<View<'_, E>>,
    ) -> Result<Self> {
        let largest = |x: View<'_, E>| -> Result<(Tensor<f32>, i32)> {
            let geometry = summing(OP, x.shape().len())?;
            let mut of_block = cx.uninit::<f32>([geometry.blocks[0] as usize])?;
            let params = DeemDeformAttentionLargest {
                x: input(cx, OP, "gradient", x)?,
                largest: output(cx, OP, "largest", &of_block.view_mut())?,
                n: x.shape().len() as i64,
            };
            // SAFETY: the kernel's own struct; one number per block.
            unsafe { cx.launch(OP, kernel!(E, cx, OP, "deform_attention_largest"), geometry, &params)? };
            Ok((of_block, geometry.blocks[0] as i32))
        };
        let (first, blocks) = largest(first)?;
        let second = second.map(largest).transpose()?;
        let mut scale = cx.uninit::<f32>([2])?;
        let params = DeemDeformAttentionScale {
            first: input(cx, OP, "first", first.view())?,
            second: super::optional_input(cx, OP, "second", second.as_ref().map(|(x, _)| x.view()))?,
            scale: output(cx, OP, "scale", &scale.view_mut())?,
            terms,
            blocks,
            second_blocks: second.as_ref().map_or(0, |(_, blocks)| *blocks),
        };
        // SAFETY: the kernel's own struct; as many numbers as it says, and room for one of f64.
        unsafe { cx.launch(OP, "deform_attention_scale", Geometry::linear(OP, 1, 32)?, &params)? };
        Ok(Fixed { scale, sums: cx.zeros([2 * len])? })
    }

    /// The sums as numbers.
    fn finish<E: Element>(&self, cx: &Context, to: &ViewMut<'_, E>) -> Result<()> {
        let n = to.shape().len();
        let params = DeemDeformAttentionFromFixed {
            sums: input(cx, OP, "sums", self.sums.view())?,
            scale: input(cx, OP, "scale", self.scale.view())?,
            d_value: output(cx, OP, "gradients.value", to)?,
            n: n as i64,
        };
        // SAFETY: the kernel's own struct; both arrays have n elements.
        unsafe { launch_some(cx, n, kernel!(E, cx, OP, "deform_attention_from_fixed"), indexwise(OP, n)?, &params) }
    }
}

/// See [`crate::ops::deform_attention::mmfs_backward`].
pub(crate) fn mmfs_backward<E: Element>(
    cx: &Context,
    inputs: &MmfsInputs<'_, E>,
    d_out: View<'_, E>,
    gradients: MmfsGradients<'_, E>,
    spec: &Mmfs<'_>,
    sizes: Sizes,
) -> Result<()> {
    let plain = Plain::new(cx, spec, sizes)?;
    let x = plain.params(cx, inputs, spec, sizes)?;
    let queries = sizes.batch * sizes.queries;
    let units = queries * spec.heads;
    let all = sizes.images * spec.levels.len() * spec.points;
    let d_out_address = input(cx, OP, "d_out", d_out)?;

    let mut of_point = cx.uninit::<f32>([3, units, all])?;
    let mut softmax = cx.uninit::<f32>([units, 3])?;
    let params = DeemDeformAttentionMmfsPoints {
        x,
        d_out: d_out_address,
        d_offsets: output(cx, OP, "gradients.offsets", &gradients.offsets)?,
        d_logits: output(cx, OP, "gradients.logits", &gradients.logits)?,
        of_point: output(cx, OP, "of_point", &of_point.view_mut())?,
        softmax: output(cx, OP, "softmax", &softmax.view_mut())?,
    };
    let packs = takes_packs::<E>(sizes.head_size, &[x.value, d_out_address]);
    let kernel = kernel!(E, cx, OP, "deform_attention_mmfs_points", "_pack" if packs);
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names, as the op has checked.
    unsafe { launch_some(cx, units, kernel, warps(units)?, &params)? };

    // Weights of a query sum to at most 1, so a pixel gets at most the largest gradient from each query.
    let fixed = Fixed::new(cx, inputs.value.shape().len(), sizes.queries as f64, d_out, None)?;
    let params = DeemDeformAttentionMmfsScatter {
        x,
        d_out: d_out_address,
        softmax: input(cx, OP, "softmax", softmax.view())?,
        scale: input(cx, OP, "scale", fixed.scale.view())?,
        sums: fixed.sums.view().address().cast_mut().cast(),
    };
    // SAFETY: as above; the sums are this call's own, and nothing reads them before the launch that follows.
    unsafe { launch_some(cx, units, kernel!(E, cx, OP, "deform_attention_mmfs_scatter"), warps(units)?, &params)? };
    fixed.finish(cx, &gradients.value)?;
    drop(fixed);

    let queries_per_slice = queries.div_ceil(TABLE_SLICES).max(16);
    let slices = queries.div_ceil(queries_per_slice);
    let offset_columns = 2 * spec.points;
    let columns = offset_columns + spec.levels.len() * (spec.points + 1);
    let mut partial = cx.uninit::<f32>([slices, sizes.rows, spec.heads, columns])?;
    let params = DeemDeformAttentionMmfsTables {
        x,
        of_point: input(cx, OP, "of_point", of_point.view())?,
        partial: output(cx, OP, "partial", &partial.view_mut())?,
        queries_per_slice: queries_per_slice as i64,
        rows: small(OP, "the number of rows of a table", sizes.rows)?,
        padding: 0,
    };
    let geometry = Geometry::linear(OP, spec.heads, 0)?;
    let threads = columns.next_multiple_of(32).min(256) as u32;
    let geometry =
        Geometry { blocks: [geometry.blocks[0], slices as u32, 1], threads: [threads, 1, 1], shared_bytes: 0 };
    // SAFETY: as above.
    unsafe { launch_some(cx, slices, "deform_attention_mmfs_tables", geometry, &params)? };
    let n = sizes.rows * spec.heads;
    let params = DeemDeformAttentionMmfsTablesSum {
        partial: input(cx, OP, "partial", partial.view())?,
        d_offset_table: output(cx, OP, "gradients.offset_table", &gradients.offset_table)?,
        d_logit_table: output(cx, OP, "gradients.logit_table", &gradients.logit_table)?,
        n: n as i64,
        slices: slices as i32,
        columns: small(OP, "the number of columns", columns)?,
        offset_columns: offset_columns as i32,
        padding: 0,
    };
    let geometry = indexwise(OP, n * columns)?;
    // SAFETY: as above.
    unsafe { launch_some(cx, n * columns, kernel!(E, cx, OP, "deform_attention_mmfs_tables_sum"), geometry, &params)? };

    if let Some(out) = gradients.ignore_token.filter(|_| queries > 0) {
        let width = spec.heads * sizes.head_size;
        let slices = Slices::of(queries);
        let mut partial = slices.partial(cx, width)?;
        let params = DeemDeformAttentionMmfsIgnore {
            softmax: input(cx, OP, "softmax", softmax.view())?,
            d_out: d_out_address,
            partial: output(cx, OP, "partial", &partial.view_mut())?,
            rows: queries as i64,
            rows_per_slice: slices.rows_per_slice as i64,
            heads: x.heads,
            size: x.size,
        };
        let geometry = slices.geometry(OP, width)?;
        // SAFETY: as above.
        unsafe { cx.launch(OP, kernel!(E, cx, OP, "deform_attention_mmfs_ignore"), geometry, &params)? };
        reduce::add_slices(cx, OP, partial.view(), &out.reshape([width]))?;
    }
    Ok(())
}

fn sample_params<E: Element>(
    cx: &Context,
    value: View<'_, E>,
    location: View<'_, E>,
    weight: View<'_, E>,
    spec: &Sample<'_>,
    sizes: Sizes,
) -> Result<DeemSample> {
    small(OP, "the number of pixels of all pictures", value.shape().len() / (spec.heads * sizes.head_size))?;
    Ok(DeemSample {
        value: input(cx, OP, "value", value)?,
        location: input(cx, OP, "location", location)?,
        weight: input(cx, OP, "weight", weight)?,
        batch: small(OP, "the batch", sizes.batch)?,
        queries: small(OP, "the number of queries", sizes.queries)?,
        heads: small(OP, "the number of heads", spec.heads)?,
        size: small(OP, "the head size", sizes.head_size)?,
        points: small(OP, "the number of points", spec.points)?,
        padding: 0,
        levels: levels(spec.levels, &[])?,
    })
}

/// See [`crate::ops::deform_attention::sample_forward`].
pub(crate) fn sample_forward<E: Element>(
    cx: &Context,
    value: View<'_, E>,
    location: View<'_, E>,
    weight: View<'_, E>,
    out: ViewMut<'_, E>,
    spec: &Sample<'_>,
    sizes: Sizes,
) -> Result<()> {
    let params = DeemDeformAttentionSampleForward {
        x: sample_params(cx, value, location, weight, spec, sizes)?,
        out: output(cx, OP, "out", &out)?,
    };
    let units = sizes.batch * sizes.queries * spec.heads;
    let packs = takes_packs::<E>(sizes.head_size, &[params.x.value, params.out.cast_const()]);
    let kernel = kernel!(E, cx, OP, "deform_attention_sample_forward", "_pack" if packs);
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names, as the op has checked.
    unsafe { cx.launch(OP, kernel, warps(units)?, &params) }
}

/// See [`crate::ops::deform_attention::sample_backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn sample_backward<E: Element>(
    cx: &Context,
    value: View<'_, E>,
    location: View<'_, E>,
    weight: View<'_, E>,
    d_out: View<'_, E>,
    d_value: ViewMut<'_, E>,
    d_location: ViewMut<'_, E>,
    d_weight: ViewMut<'_, E>,
    spec: &Sample<'_>,
    sizes: Sizes,
) -> Result<()> {
    let x = sample_params(cx, value, location, weight, spec, sizes)?;
    let units = sizes.batch * sizes.queries * spec.heads;
    let d_out_address = input(cx, OP, "d_out", d_out)?;
    let params = DeemDeformAttentionSamplePoints {
        x,
        d_out: d_out_address,
        d_location: output(cx, OP, "d_location", &d_location)?,
        d_weight: output(cx, OP, "d_weight", &d_weight)?,
    };
    let packs = takes_packs::<E>(sizes.head_size, &[x.value, d_out_address]);
    let kernel = kernel!(E, cx, OP, "deform_attention_sample_points", "_pack" if packs);
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names, as the op has checked.
    unsafe { launch_some(cx, units, kernel, warps(units)?, &params)? };
    let terms = sizes.queries * spec.levels.len() * spec.points;
    let fixed = Fixed::new(cx, value.shape().len(), terms as f64, d_out, Some(weight))?;
    let params = DeemDeformAttentionSampleScatter {
        x,
        d_out: d_out_address,
        scale: input(cx, OP, "scale", fixed.scale.view())?,
        sums: fixed.sums.view().address().cast_mut().cast(),
    };
    // SAFETY: as above; the sums are this call's own, and nothing reads them before the launch that follows.
    unsafe { launch_some(cx, units, kernel!(E, cx, OP, "deform_attention_sample_scatter"), warps(units)?, &params)? };
    fixed.finish(cx, &d_value)
}

/// See [`crate::ops::deform_attention::locate_forward`].
pub(crate) fn locate_forward<E: Element>(
    cx: &Context,
    offsets: View<'_, E>,
    logits: View<'_, E>,
    reference: &[f64],
    location: ViewMut<'_, E>,
    weight: ViewMut<'_, E>,
    spec: &Sample<'_>,
) -> Result<()> {
    let units = logits.shape().len() / (spec.levels.len() * spec.points);
    let on_device = points(cx, reference)?;
    let params = DeemDeformAttentionLocateForward {
        offsets: input(cx, OP, "offsets", offsets)?,
        logits: input(cx, OP, "logits", logits)?,
        reference: input(cx, OP, "reference", on_device.view())?,
        location: output(cx, OP, "location", &location)?,
        weight: output(cx, OP, "weight", &weight)?,
        units: units as i64,
        queries: small(OP, "the number of queries", reference.len() / 2)?,
        heads: small(OP, "the number of heads", spec.heads)?,
        points: small(OP, "the number of points", spec.points)?,
        padding: 0,
        levels: levels(spec.levels, &[])?,
    };
    let geometry = indexwise(OP, units)?;
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names, as the op has checked.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "deform_attention_locate_forward"), geometry, &params) }
}

/// See [`crate::ops::deform_attention::locate_backward`].
pub(crate) fn locate_backward<E: Element>(
    cx: &Context,
    weight: View<'_, E>,
    d_location: View<'_, E>,
    d_weight: View<'_, E>,
    d_offsets: ViewMut<'_, E>,
    d_logits: ViewMut<'_, E>,
    spec: &Sample<'_>,
) -> Result<()> {
    let units = weight.shape().len() / (spec.levels.len() * spec.points);
    let params = DeemDeformAttentionLocateBackward {
        weight: input(cx, OP, "weight", weight)?,
        d_location: input(cx, OP, "d_location", d_location)?,
        d_weight: input(cx, OP, "d_weight", d_weight)?,
        d_offsets: output(cx, OP, "d_offsets", &d_offsets)?,
        d_logits: output(cx, OP, "d_logits", &d_logits)?,
        units: units as i64,
        points: small(OP, "the number of points", spec.points)?,
        padding: 0,
        levels: levels(spec.levels, &[])?,
    };
    let geometry = indexwise(OP, units)?;
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names, as the op has checked.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "deform_attention_locate_backward"), geometry, &params) }
}
