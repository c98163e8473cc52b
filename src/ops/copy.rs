//! Moving data: casts, concatenation, slices, broadcasts, and the change between channels first and channels last.
//!
//! Everything here is exact but the sums and the roundings of a cast to a narrower type. Shapes are said at each function.

use super::{check, check_shape};
use crate::cuda::copy::{self as cuda, Entries};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, View, ViewMut};

const OP: &str = "copy";

/// y = x in another storage type, to nearest even.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn cast<E: Element, F: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, F>) -> Result<()> {
    check_shape(OP, "y", y.shape(), x.shape())?;
    if cx.is_cuda() {
        return cuda::cast(cx, x, y);
    }
    if !cx.is_planning() {
        crate::host::copy::cast(cx.pool(), x.data(), y.data());
    }
    Ok(())
}

/// Checks a [.., Ca], b [.., Cb], whole [.., Ca + Cb] and returns (Ca, Cb).
fn halves(a: Shape, b: Shape, whole: Shape) -> Result<(usize, usize)> {
    check(OP, a.rank() > 0 && b.rank() > 0, || "a scalar has no last axis".into())?;
    check_shape(OP, "b", b, a.with_last(b.last()))?;
    check_shape(OP, "whole", whole, a.with_last(a.last() + b.last()))?;
    Ok((a.last(), b.last()))
}

/// y [.., Ca + Cb] = a [.., Ca] | b [.., Cb].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit.
pub fn concat_last<E: Element>(cx: &Context, a: View<'_, E>, b: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let (ca, cb) = halves(a.shape(), b.shape(), y.shape())?;
    if y.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        let (rows, whole) = (y.shape().rows(), ca + cb);
        let (from, to) = (|c| Entries { stride: c, start: 0 }, |start| Entries { stride: whole, start });
        cuda::blocks(cx, rows, ca, a, from(ca), &y, to(0), false)?;
        return cuda::blocks(cx, rows, cb, b, from(cb), &y, to(ca), false);
    }
    if !cx.is_planning() {
        crate::host::copy::concat_last(cx.pool(), a.data(), b.data(), y.data(), ca, cb);
    }
    Ok(())
}

/// a [.., Ca] | b [.., Cb] = x [.., Ca + Cb]: the gradient of [`concat_last`].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit.
pub fn split_last<E: Element>(cx: &Context, x: View<'_, E>, a: ViewMut<'_, E>, b: ViewMut<'_, E>) -> Result<()> {
    let (ca, cb) = halves(a.shape(), b.shape(), x.shape())?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        let (rows, whole) = (x.shape().rows(), ca + cb);
        let (from, to) = (|start| Entries { stride: whole, start }, |c| Entries { stride: c, start: 0 });
        cuda::blocks(cx, rows, ca, x, from(0), &a, to(ca), false)?;
        return cuda::blocks(cx, rows, cb, x, from(ca), &b, to(cb), false);
    }
    if !cx.is_planning() {
        crate::host::copy::split_last(cx.pool(), x.data(), a.data(), b.data(), ca, cb);
    }
    Ok(())
}

fn three_axes(what: &'static str, shape: Shape) -> Result<()> {
    check(OP, shape.rank() == 3, || format!("`{what}` has shape {shape}, expected [B, T, C]"))
}

/// y [B, sum of Ti, C] = the parts [B, Ti, C] one after the other along the second axis.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit, [`crate::Error::Domain`] unless all have three axes.
pub fn concat_rows<E: Element>(cx: &Context, parts: &[View<'_, E>], y: ViewMut<'_, E>) -> Result<()> {
    three_axes("y", y.shape())?;
    let (b, t, c) = (y.shape()[0], y.shape()[1], y.shape()[2]);
    let mut all = 0;
    for part in parts {
        three_axes("part", part.shape())?;
        check_shape(OP, "part", part.shape(), [b, part.shape()[1], c])?;
        all += part.shape()[1];
    }
    check_shape(OP, "y", y.shape(), [b, all, c])?;
    if y.shape().is_empty() {
        return Ok(());
    }
    let mut start = 0;
    if cx.is_cuda() {
        for part in parts {
            let len = part.shape()[1] * c;
            let (from, to) = (Entries { stride: len, start: 0 }, Entries { stride: t * c, start });
            cuda::blocks(cx, b, len, *part, from, &y, to, false)?;
            start += len;
        }
        return Ok(());
    }
    if cx.is_planning() {
        return Ok(());
    }
    let y = y.data();
    for part in parts {
        let rows = part.shape()[1];
        crate::host::copy::copy_rows(cx.pool(), part.data(), rows * c, 0, y, t * c, start * c, rows * c);
        start += rows;
    }
    Ok(())
}

/// Checks rows `start ..` of whole [B, T, C] against part [B, t, C].
pub(super) fn check_slice(whole: Shape, start: usize, part: Shape) -> Result<()> {
    three_axes("whole", whole)?;
    three_axes("part", part)?;
    check_shape(OP, "part", part, [whole[0], part[1], whole[2]])?;
    check(OP, start + part[1] <= whole[1], || format!("rows {start}..{} are outside of {whole}", start + part[1]))
}

/// The last columns of y [R, V] += x [R, n]; n is at most V.
///
/// # Errors
/// [`crate::Error::Shape`] if the rows differ or x is wider.
pub fn add_into_last<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let (n, v) = (x.shape().last(), y.shape().last());
    check_shape(OP, "x", x.shape(), y.shape().with_last(n.min(v)))?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        let (from, to) = (Entries { stride: n, start: 0 }, Entries { stride: v, start: v - n });
        return cuda::blocks(cx, x.shape().rows(), n, x, from, &y, to, true);
    }
    if !cx.is_planning() {
        crate::host::copy::add_rows(cx.pool(), x.data(), n, y.data(), v, v - n);
    }
    Ok(())
}

/// y [B, t, C] = rows start .. start + t of x [B, T, C].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit, [`crate::Error::Domain`] if the rows are outside of x.
pub fn slice_rows<E: Element>(cx: &Context, x: View<'_, E>, start: usize, y: ViewMut<'_, E>) -> Result<()> {
    check_slice(x.shape(), start, y.shape())?;
    if y.shape().is_empty() {
        return Ok(());
    }
    let (whole, c, part) = (x.shape()[1], x.shape()[2], y.shape()[1]);
    if cx.is_cuda() {
        let (from, to) = (Entries { stride: whole * c, start: start * c }, Entries { stride: part * c, start: 0 });
        return cuda::blocks(cx, x.shape()[0], part * c, x, from, &y, to, false);
    }
    if !cx.is_planning() {
        crate::host::copy::copy_rows(cx.pool(), x.data(), whole * c, start * c, y.data(), part * c, 0, part * c);
    }
    Ok(())
}

/// dst [B, T, C] at rows start .. start + t = src [B, t, C]; other rows stay (a cache grows).
///
/// # Errors
/// As [`slice_rows`].
pub fn put_rows<E: Element>(cx: &Context, src: View<'_, E>, start: usize, dst: ViewMut<'_, E>) -> Result<()> {
    check_slice(dst.shape(), start, src.shape())?;
    if src.shape().is_empty() {
        return Ok(());
    }
    let (whole, c, part) = (dst.shape()[1], dst.shape()[2], src.shape()[1]);
    if cx.is_cuda() {
        let (from, to) = (Entries { stride: part * c, start: 0 }, Entries { stride: whole * c, start: start * c });
        return cuda::blocks(cx, src.shape()[0], part * c, src, from, &dst, to, false);
    }
    if !cx.is_planning() {
        crate::host::copy::copy_rows(cx.pool(), src.data(), part * c, 0, dst.data(), whole * c, start * c, part * c);
    }
    Ok(())
}

/// dst [B, T, C] at rows start .. start + t += src [B, t, C]: the gradient of [`slice_rows`].
///
/// # Errors
/// As [`slice_rows`].
pub fn add_into_rows<E: Element>(cx: &Context, src: View<'_, E>, start: usize, dst: ViewMut<'_, E>) -> Result<()> {
    check_slice(dst.shape(), start, src.shape())?;
    if src.shape().is_empty() {
        return Ok(());
    }
    let (whole, c, part) = (dst.shape()[1], dst.shape()[2], src.shape()[1]);
    if cx.is_cuda() {
        let (from, to) = (Entries { stride: part * c, start: 0 }, Entries { stride: whole * c, start: start * c });
        return cuda::blocks(cx, src.shape()[0], part * c, src, from, &dst, to, true);
    }
    if !cx.is_planning() {
        crate::host::copy::add_rows(cx.pool(), src.data(), part * c, dst.data(), whole * c, start * c);
    }
    Ok(())
}

fn check_batch(one: Shape, many: Shape) -> Result<()> {
    check(OP, one.rank() > 0, || "a scalar has no batch axis".into())?;
    check_shape(OP, "one", one, one.with_first(1))?;
    check_shape(OP, "many", many, one.with_first(many.dims().first().copied().unwrap_or(1)))
}

/// y [B, ..] = x [1, ..] for every b.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit.
pub fn broadcast_batch<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_batch(x.shape(), y.shape())?;
    if y.shape().is_empty() {
        return Ok(());
    }
    let n = x.shape().len();
    if cx.is_cuda() {
        let (from, to) = (Entries { stride: 0, start: 0 }, Entries { stride: n, start: 0 });
        return cuda::blocks(cx, y.shape()[0], n, x, from, &y, to, false);
    }
    if !cx.is_planning() {
        crate::host::copy::copy_rows(cx.pool(), x.data(), 0, 0, y.data(), n, 0, n);
    }
    Ok(())
}

/// dx [1, ..] = sum of dy [B, ..] over b, in order, in the accumulation type: the gradient of [`broadcast_batch`]. Overwrites.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit.
pub fn sum_batch<E: Element>(cx: &Context, dy: View<'_, E>, dx: ViewMut<'_, E>) -> Result<()> {
    check_batch(dx.shape(), dy.shape())?;
    if dx.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::sum_batch(cx, dy, dx);
    }
    if !cx.is_planning() {
        crate::host::copy::sum_batch(cx.pool(), dy.data(), dx.data());
    }
    Ok(())
}

/// y [B, H, W, C] = x [B, C, H, W], cast to y's type. Pictures enter the models here.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit, [`crate::Error::Domain`] unless x has four axes.
pub fn nchw_to_nhwc<E: Element, F: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, F>) -> Result<()> {
    let s = x.shape();
    check(OP, s.rank() == 4, || format!("`x` has shape {s}, expected [B, C, H, W]"))?;
    check_shape(OP, "y", y.shape(), [s[0], s[2], s[3], s[1]])?;
    if s.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::transpose(cx, x, y, s[1], s[2] * s[3]);
    }
    if !cx.is_planning() {
        crate::host::copy::transpose(cx.pool(), x.data(), y.data(), s[1], s[2] * s[3]);
    }
    Ok(())
}

/// y [B, C, H, W] = x [B, H, W, C], cast to y's type. Pictures leave the models here.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes do not fit, [`crate::Error::Domain`] unless x has four axes.
pub fn nhwc_to_nchw<E: Element, F: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, F>) -> Result<()> {
    let s = x.shape();
    check(OP, s.rank() == 4, || format!("`x` has shape {s}, expected [B, H, W, C]"))?;
    check_shape(OP, "y", y.shape(), [s[0], s[3], s[1], s[2]])?;
    if s.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::transpose(cx, x, y, s[1] * s[2], s[3]);
    }
    if !cx.is_planning() {
        crate::host::copy::transpose(cx.pool(), x.data(), y.data(), s[1] * s[2], s[3]);
    }
    Ok(())
}
