//! Launches of `cuda/reduce.cu`; see [`crate::ops::reduce`].

use super::params::{DeemReduceSlices, DeemReduceSumRows};
use super::{Op, Slices, by_dtype, input, output, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};

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
    let kernel = by_dtype::<E>(cx, OP, "reduce_sum_rows_f32", "reduce_sum_rows_bf16")?;
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
    unsafe { cx.launch(OP, kernel, slices.geometry(OP, cols)?, &params)? };
    add_slices(cx, OP, partial.view(), &out)
}
