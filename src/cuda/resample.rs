//! Launches of `cuda/resample.cu`; see [`crate::ops::resample`].

use super::params::{DeemResampleGather, DeemResampleMaxPoolBackward, DeemResampleMaxPoolForward};
use super::{indexwise, input, kernel, output, pointwise, small, whole_numbers};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, Tensor, View, ViewMut};
use crate::ops::resample::{Filter, Resize, Taps};

const OP: &str = "resample";

/// The taps of every pixel along one axis: (place, weight).
type Axis = Vec<Vec<(usize, f32)>>;

/// The sources of each target pixel of a resize.
fn sources(how: Resize, input: usize, output: usize) -> Axis {
    let count = if how.filter == Filter::Bilinear { 2 } else { 4 };
    let taps = |i| {
        let Taps { at, weight } = how.taps::<f32>(i, input, output);
        at.into_iter().zip(weight).take(count).collect()
    };
    (0..output).map(taps).collect()
}

/// The targets of each source pixel, in order: for the gradient.
fn targets(of_targets: &Axis, input: usize) -> Axis {
    let mut axis: Axis = vec![Vec::new(); input];
    for (target, taps) in of_targets.iter().enumerate() {
        taps.iter().for_each(|&(source, weight)| axis[source].push((target, weight)));
    }
    axis
}

/// An axis as the kernel takes it, and its number of taps.
fn upload(cx: &Context, axis: &Axis) -> Result<(Tensor<f32>, i32)> {
    let mut numbers = vec![0];
    let mut count = 0;
    for taps in axis {
        count += taps.len();
        numbers.push(small(OP, "the number of taps", count)?);
    }
    for (place, _) in axis.iter().flatten() {
        numbers.push(small(OP, "the size of a map", *place)?);
    }
    numbers.extend(axis.iter().flatten().map(|(_, weight)| weight.to_bits() as i32));
    Ok((whole_numbers(cx, &numbers)?, small(OP, "the number of taps", count)?))
}

/// out = the taps of `rows` and `columns` applied to `from`.
fn gather<E: Element>(
    cx: &Context,
    from: View<'_, E>,
    out: ViewMut<'_, E>,
    (rows, columns): (&Axis, &Axis),
) -> Result<()> {
    let (i, o) = (from.shape(), out.shape());
    let ((rows, row_taps), (columns, column_taps)) = (upload(cx, rows)?, upload(cx, columns)?);
    let size = |size| small(OP, "the size of a map", size);
    let params = DeemResampleGather {
        from: input(cx, OP, "x", from)?,
        rows: input(cx, OP, "rows", rows.view())?,
        columns: input(cx, OP, "columns", columns.view())?,
        out: output(cx, OP, "y", &out)?,
        n: o.len() as i64,
        in_height: size(i[1])?,
        in_width: size(i[2])?,
        out_height: size(o[1])?,
        out_width: size(o[2])?,
        channels: size(o[3])?,
        row_taps,
        column_taps,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names; taps lie in their maps.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "resample_gather"), pointwise::<E>(OP, o.len())?, &params) }
}

/// Resizes x to the size of y.
pub(crate) fn resize<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>, how: Resize) -> Result<()> {
    let (i, o) = (x.shape(), y.shape());
    gather(cx, x, y, (&sources(how, i[1], o[1]), &sources(how, i[2], o[2])))
}

/// Gradient of [`resize`].
pub(crate) fn resize_backward<E: Element>(
    cx: &Context,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
    how: Resize,
) -> Result<()> {
    let (i, o) = (dx.shape(), dy.shape());
    let axis = |k: usize| targets(&sources(how, i[k], o[k]), i[k]);
    gather(cx, dy, dx, (&axis(1), &axis(2)))
}

/// Repeats every pixel twice along both axes.
pub(crate) fn nearest_x2<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let axis = |size: usize| (0..2 * size).map(|i| vec![(i / 2, 1.0)]).collect();
    let s = x.shape();
    gather(cx, x, y, (&axis(s[1]), &axis(s[2])))
}

/// Gradient of [`nearest_x2`].
pub(crate) fn nearest_x2_backward<E: Element>(cx: &Context, dy: View<'_, E>, dx: ViewMut<'_, E>) -> Result<()> {
    let axis = |size: usize| (0..size).map(|i| vec![(2 * i, 1.0), (2 * i + 1, 1.0)]).collect();
    let s = dx.shape();
    gather(cx, dy, dx, (&axis(s[1]), &axis(s[2])))
}

/// Height, width and channels of a map.
fn sizes(s: Shape) -> Result<[i32; 3]> {
    let size = |size| small(OP, "the size of a map", size);
    Ok([size(s[1])?, size(s[2])?, size(s[3])?])
}

/// 3x3 max pooling.
pub(crate) fn max_pool<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let ([height, width, channels], n) = (sizes(x.shape())?, y.shape().len());
    let (x, y) = (input(cx, OP, "x", x)?, output(cx, OP, "y", &y)?);
    let params = DeemResampleMaxPoolForward { x, y, n: n as i64, height, width, channels, padding: 0 };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "resample_max_pool_forward"), indexwise(OP, n)?, &params) }
}

/// Gradient of [`max_pool`].
pub(crate) fn max_pool_backward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
) -> Result<()> {
    let ([height, width, channels], n) = (sizes(x.shape())?, x.shape().len());
    let (x, dy, dx) = (input(cx, OP, "x", x)?, input(cx, OP, "dy", dy)?, output(cx, OP, "dx", &dx)?);
    let params = DeemResampleMaxPoolBackward { x, dy, dx, n: n as i64, height, width, channels, padding: 0 };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "resample_max_pool_backward"), indexwise(OP, n)?, &params) }
}
