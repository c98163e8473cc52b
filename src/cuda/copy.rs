//! Launches of `cuda/copy.cu`; see [`crate::ops::copy`].

use super::params::{DeemCopyBlocks, DeemCopyCast, DeemCopySumBatch, DeemCopyTranspose};
use super::{Op, by_dtype, indexwise, input, kernel, output, pointwise, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: Op = "copy";

/// Where the entries of one side begin, in elements.
#[derive(Clone, Copy)]
pub(crate) struct Entries {
    /// Distance of two entries.
    pub stride: usize,
    /// Distance of the first element that is moved from the beginning of its entry.
    pub start: usize,
}

/// For each of `count` entries: `len` elements of y = (or, if `add`, +=) those of x.
#[allow(clippy::too_many_arguments)]
pub(crate) fn blocks<E: Element>(
    cx: &Context,
    count: usize,
    len: usize,
    x: View<'_, E>,
    from: Entries,
    y: &ViewMut<'_, E>,
    to: Entries,
    add: bool,
) -> Result<()> {
    let params = DeemCopyBlocks {
        x: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", y)?,
        entries: count as i64,
        len: len as i64,
        x_stride: from.stride as i64,
        x_start: from.start as i64,
        y_stride: to.stride as i64,
        y_start: to.start as i64,
        add: i32::from(add),
        padding: 0,
    };
    // SAFETY: the kernel's own struct; the caller has checked that the entries lie in the arrays.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "copy_blocks"), pointwise::<E>(OP, count * len)?, &params) }
}

/// dx = sum of the entries of dy.
pub(crate) fn sum_batch<E: Element>(cx: &Context, dy: View<'_, E>, dx: ViewMut<'_, E>) -> Result<()> {
    let n = dx.shape().len();
    let params = DeemCopySumBatch {
        dy: input(cx, OP, "dy", dy)?,
        dx: output(cx, OP, "dx", &dx)?,
        entries: dy.shape()[0] as i64,
        n: n as i64,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "copy_sum_batch"), indexwise(OP, n)?, &params) }
}

/// The kernel for a pair of types, of those for (f32, f32), (f32, bf16), (bf16, f32), (bf16, bf16).
fn by_types<E: Element, F: Element>(cx: &Context, kernels: [&'static str; 4]) -> Result<&'static str> {
    let [wide, narrowing, widening, narrow] = kernels;
    match E::DTYPE {
        DType::Bf16 => by_dtype::<F>(cx, OP, widening, narrow),
        DType::F32 => by_dtype::<F>(cx, OP, wide, narrowing),
        DType::F16 | DType::F64 => by_dtype::<E>(cx, OP, wide, narrow),
    }
}

/// y = x in another storage type.
pub(crate) fn cast<E: Element, F: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, F>) -> Result<()> {
    let n = x.shape().len();
    let (x, y) = (input(cx, OP, "x", x)?, output(cx, OP, "y", &y)?);
    if E::DTYPE == F::DTYPE {
        let params = DeemCopyBlocks {
            x,
            y,
            entries: 1,
            len: n as i64,
            x_stride: 0,
            x_start: 0,
            y_stride: 0,
            y_start: 0,
            add: 0,
            padding: 0,
        };
        // SAFETY: the kernel's own struct; both arrays have n elements of one type.
        return unsafe { cx.launch(OP, kernel!(E, cx, OP, "copy_blocks"), pointwise::<E>(OP, n)?, &params) };
    }
    let kernels = ["", "copy_cast_f32_bf16", "copy_cast_bf16_f32", ""];
    let params = DeemCopyCast { x, y, n: n as i64 };
    // SAFETY: the kernel's own struct; both arrays have n elements.
    unsafe { cx.launch(OP, by_types::<E, F>(cx, kernels)?, indexwise(OP, n.div_ceil(4))?, &params) }
}

/// For every matrix [rows, cols] of x: its transpose into y.
pub(crate) fn transpose<E: Element, F: Element>(
    cx: &Context,
    x: View<'_, E>,
    y: ViewMut<'_, F>,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let matrices = x.shape().len() / (rows * cols);
    let kernels =
        ["copy_transpose_f32_f32", "copy_transpose_f32_bf16", "copy_transpose_bf16_f32", "copy_transpose_bf16_bf16"];
    let params = DeemCopyTranspose {
        x: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", &y)?,
        matrices: matrices as i64,
        rows: small(OP, "the number of rows", rows)?,
        cols: small(OP, "the number of columns", cols)?,
    };
    let tiles = Geometry::linear(OP, cols.div_ceil(32), 0)?.blocks[0];
    let blocks = [tiles, rows.div_ceil(32).min(65_535) as u32, matrices.min(65_535) as u32];
    let geometry = Geometry { blocks, threads: [32, 8, 1], shared_bytes: 0 };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, by_types::<E, F>(cx, kernels)?, geometry, &params) }
}
