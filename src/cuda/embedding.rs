//! Launches of `cuda/embedding.cu`; see [`crate::ops::embedding`].

use super::params::{DeemEmbeddingGather, DeemEmbeddingScatter, DeemEmbeddingSumRowsAt};
use super::{Slices, indices, input, kernel, output, reduce, rows, small};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: &str = "embedding";

/// `y[i] = table[rows[i]]`.
pub(crate) fn gather<E: Element>(
    cx: &Context,
    table: View<'_, E>,
    from: impl ExactSizeIterator<Item = usize>,
    y: ViewMut<'_, E>,
) -> Result<()> {
    let (count, cols) = (from.len(), y.shape().last());
    let from = indices(cx, OP, from)?;
    let params = DeemEmbeddingGather {
        table: input(cx, OP, "table", table)?,
        rows: input(cx, OP, "rows", from.view())?,
        y: output(cx, OP, "y", &y)?,
        count: count as i64,
        cols: small(OP, "the number of columns", cols)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct; the op has checked every index.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "embedding_gather"), rows(OP, count, cols)?, &params) }
}

/// What a scatter does with the sources of a target.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scatter {
    /// The last one replaces what is there.
    Replace,
    /// All are added to what is there, in order.
    Add,
    /// The one row that the source has is added once per mention of the target.
    AddRow,
}

/// `dst[targets[i]]` = or += `src[i]`, for dst of the storage type E or, for a gradient of a table, its accumulation type.
pub(crate) fn scatter<E: Element, F: Element>(
    cx: &Context,
    how: Scatter,
    src: View<'_, E>,
    targets: impl Iterator<Item = usize>,
    dst: ViewMut<'_, F>,
) -> Result<()> {
    let cols = dst.shape().last();
    // Sources by target, in the order in which they are given: a row of threads owns a target, so nothing is added atomically.
    let mut order: Vec<(usize, usize)> = targets.zip(0..).collect();
    order.sort_unstable();
    let mut bounds: Vec<usize> = (0..order.len()).filter(|&i| i == 0 || order[i].0 != order[i - 1].0).collect();
    let count = bounds.len();
    let owned = indices(cx, OP, bounds.iter().map(|&i| order[i].0))?;
    bounds.push(order.len());
    let (bounds, sources) = (indices(cx, OP, bounds)?, indices(cx, OP, order.iter().map(|(_, source)| *source))?);
    let params = DeemEmbeddingScatter {
        src: input(cx, OP, "src", src)?,
        targets: input(cx, OP, "targets", owned.view())?,
        segments: input(cx, OP, "segments", bounds.view())?,
        sources: input(cx, OP, "sources", sources.view())?,
        dst: output(cx, OP, "dst", &dst)?,
        count: count as i64,
        cols: small(OP, "the number of columns", cols)?,
        add: i32::from(how != Scatter::Replace),
        one_row: i32::from(how == Scatter::AddRow),
        padding: 0,
    };
    let kernel = if E::DTYPE == F::DTYPE {
        kernel!(E, cx, OP, "embedding_scatter_rows")
    } else {
        kernel!(E, cx, OP, "embedding_scatter_table")
    };
    // SAFETY: the kernel's own struct; the op has checked every index.
    unsafe { cx.launch(OP, kernel, rows(OP, count, cols)?, &params) }
}

/// `out += sum of src[rows[i]]`.
pub(crate) fn sum_rows_at<E: Element>(
    cx: &Context,
    src: View<'_, E>,
    from: &[usize],
    out: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let cols = src.shape().last();
    let slices = Slices::of(from.len());
    let rows = indices(cx, OP, from.iter().copied())?;
    let mut partial = slices.partial(cx, cols)?;
    let params = DeemEmbeddingSumRowsAt {
        src: input(cx, OP, "src", src)?,
        rows: input(cx, OP, "rows", rows.view())?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        count: from.len() as i64,
        rows_per_slice: slices.rows_per_slice as i64,
        cols: small(OP, "the number of columns", cols)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct; the op has checked every index.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "embedding_sum_rows_at"), slices.geometry(OP, cols)?, &params)? };
    reduce::add_slices(cx, OP, partial.view(), &out)
}
