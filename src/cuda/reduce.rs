//! Launches of `cuda/reduce.cu`; see [`crate::ops::reduce`].

use super::params::{
    self, DeemReduceArgmax, DeemReduceHits, DeemReduceLogSoftmax, DeemReduceSlices, DeemReduceSpreadPixels,
    DeemReduceSum, DeemReduceSumPixels, DeemReduceSumRows, DeemReduceTotal,
};
use super::{Op, Slices, by_dtype, indexwise, input, kernel, output, rows, small, summing, whole_numbers};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Tensor, View, ViewMut};

const OP: &str = "reduce";

/// out [cols], of type f32, += partial [slices, cols]: the second launch of the sums of `op` over rows.
pub(crate) fn add_slices<A: Element>(cx: &Context, op: Op, partial: View<'_, f32>, out: &ViewMut<'_, A>) -> Result<()> {
    let (slices, cols) = (partial.shape()[0], partial.shape()[1]);
    let params = DeemReduceSlices {
        partial: input(cx, op, "partial sums", partial)?,
        out: output(cx, op, "out", out)?,
        slices: slices as i64,
        cols: cols as i64,
        add: 1,
        padding: 0,
    };
    let kernel = by_dtype::<A>(cx, op, "reduce_slices_f32", "reduce_slices_f32")?;
    // SAFETY: the kernel's own struct; parameter gradients and accumulators of f32 and bf16 storage are f32.
    unsafe { cx.launch(OP, kernel, Geometry::linear(op, cols.div_ceil(256), 256)?, &params) }
}

/// out `[C]` += sum of rows.
pub(crate) fn sum_rows<E: Element>(cx: &Context, x: View<'_, E>, out: ViewMut<'_, E::Acc>) -> Result<()> {
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    let slices = Slices::of(rows);
    let mut partial = slices.partial(cx, cols)?;
    let params = DeemReduceSumRows {
        x: input(cx, OP, "x", x)?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        rows: rows as i64,
        rows_per_slice: slices.rows_per_slice as i64,
        cols: small(OP, "the number of columns", cols)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "reduce_sum_rows"), slices.geometry(OP, cols)?, &params)? };
    add_slices(cx, OP, partial.view(), &out)
}

/// The sum of partial sums, in order.
pub(crate) fn total(cx: &Context, op: Op, partial: View<'_, f64>) -> Result<Scalar> {
    let mut out = cx.uninit::<f64>([1])?;
    let params = DeemReduceTotal {
        partial: input(cx, op, "partial sums", partial)?,
        out: output(cx, op, "out", &out.view_mut())?,
        n: partial.shape().len() as i64,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, "reduce_total_f64", Geometry::linear(op, 1, 256)?, &params)? };
    Ok(Scalar::on_device(out))
}

/// What is added up over all elements.
#[derive(Clone, Copy)]
pub(crate) enum What {
    /// The elements.
    Elements,
    /// Their squares.
    Squares,
    /// 1 for each that is infinite or NaN.
    NotFinite,
}

/// A sum over all elements, in f64.
pub(crate) fn sum<E: Element>(cx: &Context, what: What, x: View<'_, E>) -> Result<Scalar> {
    let n = x.shape().len();
    let geometry = summing(OP, n)?;
    let mut partial = cx.uninit::<f64>([geometry.blocks[0] as usize])?;
    let what = match what {
        What::Elements => params::DEEM_REDUCE_SUM,
        What::Squares => params::DEEM_REDUCE_SQUARES,
        What::NotFinite => params::DEEM_REDUCE_NOT_FINITE,
    };
    let params = DeemReduceSum {
        x: input(cx, OP, "x", x)?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        n: n as i64,
        what: what as i32,
        padding: 0,
    };
    // SAFETY: the kernel's own struct; every block has a partial sum.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "reduce_sum"), geometry, &params)? };
    total(cx, OP, partial.view())
}

/// Column of the largest element of each row: 32-bit whole numbers, in a tensor of as many bytes.
fn columns<E: Element>(cx: &Context, x: View<'_, E>) -> Result<Tensor<f32>> {
    let (r, cols) = (x.shape().rows(), x.shape().last());
    let mut found = cx.uninit::<f32>([r])?;
    let params = DeemReduceArgmax {
        x: input(cx, OP, "x", x)?,
        found: output(cx, OP, "columns", &found.view_mut())?,
        rows: r as i64,
        cols: small(OP, "the number of columns", cols)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "reduce_argmax"), rows(OP, r, cols)?, &params)? };
    Ok(found)
}

/// Column of the largest element of each row, on the host.
pub(crate) fn argmax_rows<E: Element>(cx: &Context, x: View<'_, E>) -> Result<Vec<usize>> {
    let r = x.shape().rows();
    let found = columns(cx, x)?.to_vec()?;
    Ok(if cx.is_planning() { vec![0; r] } else { found.iter().map(|found| found.to_bits() as usize).collect() })
}

/// Number of rows whose largest element is in the wanted column.
pub(crate) fn count_hits<E: Element>(cx: &Context, x: View<'_, E>, wanted: &[Option<u32>]) -> Result<Scalar> {
    let found = columns(cx, x)?;
    // No column has the number -1.
    let wanted: Vec<i32> = wanted.iter().map(|wanted| wanted.map_or(-1, |wanted| wanted as i32)).collect();
    let wanted = whole_numbers(cx, &wanted)?;
    let geometry = summing(OP, found.len())?;
    let mut partial = cx.uninit::<f64>([geometry.blocks[0] as usize])?;
    let params = DeemReduceHits {
        found: input(cx, OP, "columns", found.view())?,
        wanted: input(cx, OP, "wanted columns", wanted.view())?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        n: found.len() as i64,
    };
    // SAFETY: the kernel's own struct; every block has a partial sum.
    unsafe { cx.launch(OP, "reduce_hits_s32", geometry, &params)? };
    total(cx, OP, partial.view())
}

/// y = x - ln sum exp(x) per row.
pub(crate) fn log_softmax_rows<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E::Acc>) -> Result<()> {
    let (r, cols) = (x.shape().rows(), x.shape().last());
    let params = DeemReduceLogSoftmax {
        x: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", &y)?,
        rows: r as i64,
        cols: small(OP, "the number of columns", cols)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "reduce_log_softmax"), rows(OP, r, cols)?, &params) }
}

/// y [B, C] = factor times the sum of x [B, P, C] over P.
pub(crate) fn sum_pixels<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    factor: f64,
    y: ViewMut<'_, E>,
    pixels: usize,
) -> Result<()> {
    let (images, cols) = (y.shape()[0], y.shape()[1]);
    let params = DeemReduceSumPixels {
        x: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", &y)?,
        pixels: pixels as i64,
        images: small(OP, "the number of images", images)?,
        cols: small(OP, "the number of channels", cols)?,
        factor: factor as f32,
        padding: 0,
    };
    let columns = Geometry::linear(OP, cols.div_ceil(32), 0)?.blocks[0];
    let geometry = Geometry { blocks: [columns, images.min(65_535) as u32, 1], threads: [32, 8, 1], shared_bytes: 0 };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "reduce_sum_pixels"), geometry, &params) }
}

/// dx [B, P, C] = factor dy [B, C].
pub(crate) fn spread_pixels<E: Element>(
    cx: &Context,
    dy: View<'_, E>,
    factor: f64,
    dx: ViewMut<'_, E>,
    pixels: usize,
) -> Result<()> {
    let (n, cols) = (dx.shape().len(), dx.shape().last());
    let params = DeemReduceSpreadPixels {
        dy: input(cx, OP, "dy", dy)?,
        dx: output(cx, OP, "dx", &dx)?,
        n: n as i64,
        pixels: pixels as i64,
        cols: small(OP, "the number of channels", cols)?,
        factor: factor as f32,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "reduce_spread_pixels"), indexwise(OP, n)?, &params) }
}
