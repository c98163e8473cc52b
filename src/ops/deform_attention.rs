//! Deformable attention: each query reads a few bilinearly sampled points of feature maps.
//!
//! Zhu et al., "Deformable DETR" (arXiv 2010.04159), and the multi-image multi-scale form (MMFS) of MM-Interleaved
//! (arXiv 2401.10208), which is what DEEM uses in its language model and in its UNet.
//!
//! ```text
//! sample:  out[b,t,n,:] = sum_{l,p} weight[b,t,n,l,p] * bilinear(value_l[b,:,n,:], X, Y)
//!          X = x W_l - 1/2,  Y = y H_l - 1/2;  a corner outside of its map counts as zero
//! mmfs:    for image i, level l, point p of query t and head n, with r = relative[b,t,i]:
//!          (x, y)  = reference[t] + (offset[b,t,n,p] + offset_table[r,n,p]) ratio_l / (W_l, H_l)
//!          logit   = logit[b,t,n,l,p] + logit_table[r,n,l,p]           for visible images (r > 0), absent for others
//!          ignore  = -ln(I L), one slot for every image and level, visible or not
//!          out     = sum softmax * bilinear + (softmax mass of the ignore slots) * ignore_token
//! ```
//!
//! Shapes: value `[B, S, N*D]` with S = (images) x (sum of H_l W_l), image-major, levels large to small; offsets `[B, T, N*P*2]` (x, y);
//! logits `[B, T, N*L*(P+1)]`, whose last entry of each level is overwritten by the ignore logit and has no effect.
//!
//! The tables hold what the linear layers make of the relative-index embedding, so the layers run once per query and not once per
//! query and image: `lin(q + e_r) = lin(q) + lin'(e_r)`, exact but for rounding.
//!
//! Backward is deterministic: one chunk owns one head of one entry, so no two chunks add to the same number, and sums over entries are made in
//! order. `d_value` is gathered in a per-head scratch in the accumulation type. Nothing is saved by forward; weights are computed again.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::deform_attention as host;
use crate::memory::{Shape, View, ViewMut};

/// Sizes and constants of one [`mmfs_forward`] call.
#[derive(Clone, Copy)]
pub struct Mmfs<'a> {
    /// Number of heads N.
    pub heads: usize,
    /// Points per head, image and level: P.
    pub points: usize,
    /// `(H, W)` of each level, in the order in which `value` holds them.
    pub levels: &'a [(usize, usize)],
    /// Offset multiplier of each level.
    pub ratios: &'a [f64],
    /// Relative index of each image for each query `[B, T, I]`: 1 for the most recent visible image, 2 for the one before, 0 if invisible.
    pub relative: &'a [i32],
    /// Where the pictures of `value` are if it holds only those that are there, `[P, S / I, N*D]`: for each image `[B, I]` its own entry of the first
    /// axis, or none if no query sees it.
    pub pictures: Option<&'a [Option<usize>]>,
    /// Where a query looks when its offset is zero: `[T, 2]` as (x, y) in `[0, 1]`.
    pub reference: &'a [f64],
}

/// The tensors that an MMFS call reads.
#[derive(Clone, Copy)]
pub struct MmfsInputs<'a, E> {
    /// `[B, S, N*D]`, or packed: see [`Mmfs::pictures`].
    pub value: View<'a, E>,
    /// `[B, T, N*P*2]`.
    pub offsets: View<'a, E>,
    /// `[B, T, N*L*(P+1)]`.
    pub logits: View<'a, E>,
    /// `[R, N*P*2]`.
    pub offset_table: View<'a, E>,
    /// `[R, N*L*(P+1)]`.
    pub logit_table: View<'a, E>,
    /// `[N*D]`, any shape.
    pub ignore_token: View<'a, E>,
}

/// The gradients that [`mmfs_backward`] computes.
pub struct MmfsGradients<'a, E: Element> {
    /// As the values, overwritten.
    pub value: ViewMut<'a, E>,
    /// `[B, T, N*P*2]`, overwritten.
    pub offsets: ViewMut<'a, E>,
    /// `[B, T, N*L*(P+1)]`, overwritten.
    pub logits: ViewMut<'a, E>,
    /// `[R, N*P*2]`, overwritten.
    pub offset_table: ViewMut<'a, E>,
    /// `[R, N*L*(P+1)]`, overwritten.
    pub logit_table: ViewMut<'a, E>,
    /// `[N*D]`, a parameter: added to, if wanted.
    pub ignore_token: Option<ViewMut<'a, E::Acc>>,
}

/// The sizes that follow from the arguments of an MMFS call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub batch: usize,
    pub queries: usize,
    pub images: usize,
    pub positions: usize,
    pub head_size: usize,
    pub rows: usize,
}

fn mmfs_sizes<E: Element>(op: &'static str, x: &MmfsInputs<'_, E>, spec: &Mmfs<'_>) -> Result<Sizes> {
    let (batch, queries) = match x.offsets.shape().dims() {
        &[b, t, _] => (b, t),
        _ => {
            return Err(crate::Error::Shape {
                op,
                what: "offsets",
                expected: "[B, T, N*P*2]".into(),
                found: x.offsets.shape().to_string(),
            });
        }
    };
    let (n, p, l) = (spec.heads, spec.points, spec.levels.len());
    let positions: usize = spec.levels.iter().map(|(h, w)| h * w).sum();
    let width = x.value.shape().last();
    let rows = x.offset_table.shape()[0];
    check(op, n > 0 && width.is_multiple_of(n), || {
        format!("width {width} of `value` must be a multiple of {n} heads")
    })?;
    check(op, spec.ratios.len() == l && l > 0, || format!("{} ratios for {l} levels", spec.ratios.len()))?;
    let pairs = batch * queries;
    let images = spec.relative.len().checked_div(pairs).unwrap_or(0);
    check(op, spec.relative.len() == pairs * images && spec.reference.len() == queries * 2, || {
        format!(
            "{} relative indices and {} reference numbers for {pairs} queries",
            spec.relative.len(),
            spec.reference.len()
        )
    })?;
    let largest = spec.relative.iter().copied().max().unwrap_or(0);
    check(op, (largest as usize) < rows && spec.relative.iter().all(|r| *r >= 0), || {
        format!("relative image index {largest}, but the table has {rows} rows: too many images in one document")
    })?;
    match spec.pictures {
        Some(pictures) => {
            check_pictures(op, pictures, x.value.shape(), [batch, images, positions, width], spec.relative)?
        }
        None => check_shape(op, "value", x.value.shape(), [batch, images * positions, width])?,
    }
    check_shape(op, "offsets", x.offsets.shape(), [batch, queries, n * p * 2])?;
    check_shape(op, "logits", x.logits.shape(), [batch, queries, n * l * (p + 1)])?;
    check_shape(op, "offset_table", x.offset_table.shape(), [rows, n * p * 2])?;
    check_shape(op, "logit_table", x.logit_table.shape(), [rows, n * l * (p + 1)])?;
    check(op, x.ignore_token.shape().len() == width, || {
        format!("`ignore_token` has {} elements, expected {width}", x.ignore_token.shape().len())
    })?;
    Ok(Sizes { batch, queries, images, positions, head_size: width / n, rows })
}

/// Checks that packed values have the right shape, that no two images share a picture (their gradients would meet), and that every image which is
/// seen has one.
fn check_pictures(
    op: &'static str,
    pictures: &[Option<usize>],
    value: Shape,
    [batch, images, positions, width]: [usize; 4],
    relative: &[i32],
) -> Result<()> {
    check_shape(op, "value", value, [value[0], positions, width])?;
    check(op, pictures.len() == batch * images, || {
        format!("{} places of pictures for {batch} x {images} images", pictures.len())
    })?;
    for (i, picture) in pictures.iter().enumerate().filter(|(_, p)| p.is_some()) {
        check(op, picture.is_some_and(|p| p < value[0]) && !pictures[..i].contains(picture), || {
            format!("image {i} has place {picture:?} of {} pictures: out of range, or another image's", value[0])
        })?;
    }
    let rows = relative.chunks_exact(images.max(1)).enumerate();
    let per_entry = relative.len() / (batch * images).max(1);
    for (row, seen) in rows {
        let entry = &pictures[row / per_entry * images..][..images];
        check(op, seen.iter().zip(entry).all(|(&r, picture)| r == 0 || picture.is_some()), || {
            format!("row {row} of `relative` sees an image without a place")
        })?;
    }
    Ok(())
}

/// MMFS: `out` `[B, T, N*D]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::Domain`] for arguments that contradict each other.
pub fn mmfs_forward<E: Element>(
    cx: &Context,
    inputs: MmfsInputs<'_, E>,
    out: ViewMut<'_, E>,
    spec: &Mmfs<'_>,
) -> Result<()> {
    let op = "deform_attention::mmfs_forward";
    let sizes = mmfs_sizes(op, &inputs, spec)?;
    check_shape(op, "out", out.shape(), [sizes.batch, sizes.queries, inputs.value.shape().last()])?;
    if out.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::deform_attention::mmfs_forward(cx, &inputs, out, spec, sizes);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::mmfs_forward(cx, &inputs, out.data(), spec, sizes);
    Ok(())
}

/// Gradients of [`mmfs_forward`] from `d_out` `[B, T, N*D]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::Domain`] for arguments that contradict each other.
pub fn mmfs_backward<E: Element>(
    cx: &Context,
    inputs: MmfsInputs<'_, E>,
    d_out: View<'_, E>,
    gradients: MmfsGradients<'_, E>,
    spec: &Mmfs<'_>,
) -> Result<()> {
    let op = "deform_attention::mmfs_backward";
    let sizes = mmfs_sizes(op, &inputs, spec)?;
    check_shape(op, "d_out", d_out.shape(), [sizes.batch, sizes.queries, inputs.value.shape().last()])?;
    check_shape(op, "gradients.value", gradients.value.shape(), inputs.value.shape())?;
    check_shape(op, "gradients.offsets", gradients.offsets.shape(), inputs.offsets.shape())?;
    check_shape(op, "gradients.logits", gradients.logits.shape(), inputs.logits.shape())?;
    check_shape(op, "gradients.offset_table", gradients.offset_table.shape(), inputs.offset_table.shape())?;
    check_shape(op, "gradients.logit_table", gradients.logit_table.shape(), inputs.logit_table.shape())?;
    if let Some(ignore) = &gradients.ignore_token {
        check_shape(op, "gradients.ignore_token", ignore.shape(), inputs.ignore_token.shape())?;
    }
    if cx.is_cuda() {
        return crate::cuda::deform_attention::mmfs_backward(cx, &inputs, d_out, gradients, spec, sizes);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::mmfs_backward(cx, &inputs, d_out.data(), gradients, spec, sizes);
    Ok(())
}

/// Sizes of one [`sample_forward`] call.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    /// Number of heads N.
    pub heads: usize,
    /// Points per head and level: P.
    pub points: usize,
    /// `(H, W)` of each level.
    pub levels: &'a [(usize, usize)],
}

fn sample_sizes<E: Element>(
    op: &'static str,
    value: View<'_, E>,
    location: View<'_, E>,
    weight: View<'_, E>,
    spec: &Sample<'_>,
) -> Result<Sizes> {
    let (n, p, l) = (spec.heads, spec.points, spec.levels.len());
    let positions: usize = spec.levels.iter().map(|(h, w)| h * w).sum();
    let shape = value.shape();
    check(op, shape.rank() == 3 && weight.shape().rank() == 3, || format!("`value` is {shape}, expected [B, S, N*D]"))?;
    let (batch, queries, width) = (shape[0], weight.shape()[1], shape[2]);
    check(op, n > 0 && width.is_multiple_of(n), || {
        format!("width {width} of `value` must be a multiple of {n} heads")
    })?;
    check_shape(op, "value", shape, [batch, positions, width])?;
    check_shape(op, "weight", weight.shape(), [batch, queries, n * l * p])?;
    check_shape(op, "location", location.shape(), [batch, queries, n * l * p * 2])?;
    Ok(Sizes { batch, queries, images: 1, positions, head_size: width / n, rows: 0 })
}

/// Weighted bilinear sampling: value `[B, S, N*D]`, location `[B, T, N*L*P*2]` as (x, y) in `[0, 1]`, weight `[B, T, N*L*P]`, out `[B, T, N*D]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::Domain`] for arguments that contradict each other.
pub fn sample_forward<E: Element>(
    cx: &Context,
    value: View<'_, E>,
    location: View<'_, E>,
    weight: View<'_, E>,
    out: ViewMut<'_, E>,
    spec: &Sample<'_>,
) -> Result<()> {
    let op = "deform_attention::sample_forward";
    let sizes = sample_sizes(op, value, location, weight, spec)?;
    check_shape(op, "out", out.shape(), [sizes.batch, sizes.queries, value.shape().last()])?;
    if out.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::deform_attention::sample_forward(cx, value, location, weight, out, spec, sizes);
    }
    if cx.is_planning() {
        return Ok(());
    }
    let inputs = host::SampleInputs { value: value.data(), location: location.data(), weight: weight.data() };
    host::sample_forward(cx, inputs, out.data(), spec, sizes);
    Ok(())
}

/// Gradients of [`sample_forward`]; all three are overwritten.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::Domain`] for arguments that contradict each other.
#[allow(clippy::too_many_arguments)]
pub fn sample_backward<E: Element>(
    cx: &Context,
    value: View<'_, E>,
    location: View<'_, E>,
    weight: View<'_, E>,
    d_out: View<'_, E>,
    d_value: ViewMut<'_, E>,
    d_location: ViewMut<'_, E>,
    d_weight: ViewMut<'_, E>,
    spec: &Sample<'_>,
) -> Result<()> {
    let op = "deform_attention::sample_backward";
    let sizes = sample_sizes(op, value, location, weight, spec)?;
    check_shape(op, "d_out", d_out.shape(), [sizes.batch, sizes.queries, value.shape().last()])?;
    check_shape(op, "d_value", d_value.shape(), value.shape())?;
    check_shape(op, "d_location", d_location.shape(), location.shape())?;
    check_shape(op, "d_weight", d_weight.shape(), weight.shape())?;
    if cx.is_cuda() {
        return crate::cuda::deform_attention::sample_backward(
            cx, value, location, weight, d_out, d_value, d_location, d_weight, spec, sizes,
        );
    }
    if cx.is_planning() {
        return Ok(());
    }
    let inputs = host::SampleInputs { value: value.data(), location: location.data(), weight: weight.data() };
    host::sample_backward(cx, inputs, d_out.data(), d_value.data(), d_location.data(), d_weight.data(), spec, sizes);
    Ok(())
}

/// Prepares a [`sample_forward`] from a layer's outputs: `location = reference + offset / (W_l, H_l)` and `weight = softmax over (L, P)`.
///
/// offsets `[B, T, N*L*P*2]`, logits `[B, T, N*L*P]`, reference `[T, 2]`; the outputs have the shapes of the inputs.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::Domain`] for arguments that contradict each other.
pub fn locate_forward<E: Element>(
    cx: &Context,
    offsets: View<'_, E>,
    logits: View<'_, E>,
    reference: &[f64],
    location: ViewMut<'_, E>,
    weight: ViewMut<'_, E>,
    spec: &Sample<'_>,
) -> Result<()> {
    let op = "deform_attention::locate_forward";
    check_shape(op, "location", location.shape(), offsets.shape())?;
    check_shape(op, "weight", weight.shape(), logits.shape())?;
    let per_query = spec.heads * spec.levels.len() * spec.points;
    check_shape(op, "logits", logits.shape(), logits.shape().with_last(per_query))?;
    check_shape(op, "offsets", offsets.shape(), logits.shape().with_last(per_query * 2))?;
    check(op, reference.len() == 2 * logits.shape()[1], || format!("{} reference numbers", reference.len()))?;
    if logits.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::deform_attention::locate_forward(cx, offsets, logits, reference, location, weight, spec);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::locate_forward(offsets.data(), logits.data(), reference, location.data(), weight.data(), spec);
    Ok(())
}

/// Gradients of [`locate_forward`]: offsets and logits from those of location and weight; both are overwritten.
///
/// # Errors
/// [`crate::Error::Shape`] for arguments that contradict each other.
pub fn locate_backward<E: Element>(
    cx: &Context,
    weight: View<'_, E>,
    d_location: View<'_, E>,
    d_weight: View<'_, E>,
    d_offsets: ViewMut<'_, E>,
    d_logits: ViewMut<'_, E>,
    spec: &Sample<'_>,
) -> Result<()> {
    let op = "deform_attention::locate_backward";
    check_shape(op, "d_weight", d_weight.shape(), weight.shape())?;
    check_shape(op, "d_logits", d_logits.shape(), weight.shape())?;
    check_shape(op, "d_offsets", d_offsets.shape(), d_location.shape())?;
    if weight.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::deform_attention::locate_backward(
            cx, weight, d_location, d_weight, d_offsets, d_logits, spec,
        );
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::locate_backward(weight.data(), d_location.data(), d_weight.data(), d_offsets.data(), d_logits.data(), spec);
    Ok(())
}
