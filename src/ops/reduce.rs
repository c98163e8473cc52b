//! Reductions: sums over rows, norms, finiteness, arg-max, log-softmax, top-k, means over pixels.
//!
//! Shapes: x [.., C] = R rows of C. Every sum is a fixed tree of blocks, so its bits do not depend on the threads.

use super::{check, check_shape};
use crate::cuda::reduce::What;
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::error::Result;
use crate::memory::{Scalar, Shape, View, ViewMut};

const OP: &str = "reduce";

/// out `[C]` += sum of x [.., C] over all rows: the gradient of a bias.
///
/// # Errors
/// [`crate::Error::Shape`] if out is not `[C]`.
pub fn sum_rows<E: Element>(cx: &Context, x: View<'_, E>, out: ViewMut<'_, E::Acc>) -> Result<()> {
    let c = x.shape().last();
    check_shape(OP, "out", out.shape(), [c])?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::reduce::sum_rows(cx, x, out);
    }
    if !cx.is_planning() {
        crate::host::reduce::sum_rows(cx.pool(), x.data(), out.data(), c);
    }
    Ok(())
}

/// Sum of all elements, taken in f64.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn sum<E: Element>(cx: &Context, x: View<'_, E>) -> Result<Scalar> {
    if cx.is_cuda() {
        return crate::cuda::reduce::sum(cx, What::Elements, x);
    }
    Ok(Scalar::of(crate::host::reduce::sum(cx.pool(), x.data())))
}

/// Sum of squares, in f64 throughout, so that gradients of any size can be measured.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn norm_squared<A: Real>(cx: &Context, x: View<'_, A>) -> Result<Scalar> {
    if cx.is_cuda() {
        return crate::cuda::reduce::sum(cx, What::Squares, x);
    }
    Ok(Scalar::of(crate::host::reduce::norm_squared(cx.pool(), x.data())))
}

/// Whether no element is infinite or NaN.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn all_finite<A: Real>(cx: &Context, x: View<'_, A>) -> Result<bool> {
    if cx.is_cuda() {
        return Ok(crate::cuda::reduce::sum(cx, What::NotFinite, x)?.value()? == 0.0);
    }
    Ok(crate::host::reduce::all_finite(cx.pool(), x.data()))
}

/// Column of the largest element of each row of x [R, C]; the first of equals, and the first NaN before all numbers, as in PyTorch.
///
/// Returns R indices (zeros while planning).
///
/// # Errors
/// [`crate::Error::Domain`] if rows are empty.
pub fn argmax_rows<E: Element>(cx: &Context, x: View<'_, E>) -> Result<Vec<usize>> {
    let (rows, c) = (x.shape().rows(), x.shape().last());
    check(OP, c > 0 || rows == 0, || format!("arg-max of the empty rows of `x` {}", x.shape()))?;
    if cx.is_cuda() {
        return crate::cuda::reduce::argmax_rows(cx, x);
    }
    let mut found = vec![0; rows];
    if !cx.is_planning() && rows > 0 {
        crate::host::reduce::argmax_rows(cx.pool(), x.data(), &mut found, c);
    }
    Ok(found)
}

/// Number of rows of x [R, C] whose [`argmax_rows`] is the wanted column; rows without one count as nothing.
///
/// # Errors
/// [`crate::Error::Domain`] if there are not R wanted columns, or rows are empty.
pub fn count_hits<E: Element>(cx: &Context, x: View<'_, E>, wanted: &[Option<u32>]) -> Result<Scalar> {
    let (rows, c) = (x.shape().rows(), x.shape().last());
    check(OP, wanted.len() == rows, || format!("{} wanted columns for the {rows} rows of `x`", wanted.len()))?;
    if cx.is_cuda() && rows > 0 {
        check(OP, c > 0, || format!("arg-max of the empty rows of `x` {}", x.shape()))?;
        return crate::cuda::reduce::count_hits(cx, x, wanted);
    }
    let found = argmax_rows(cx, x)?;
    let hits =
        found.iter().zip(wanted).filter(|(found, wanted)| wanted.is_some_and(|wanted| wanted as usize == **found));
    Ok(Scalar::of(if cx.is_planning() { 0.0 } else { hits.count() as f64 }))
}

/// y = x - ln sum exp(x) per row; both [.., C].
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn log_softmax_rows<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E::Acc>) -> Result<()> {
    check_shape(OP, "y", y.shape(), x.shape())?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::reduce::log_softmax_rows(cx, x, y);
    }
    if !cx.is_planning() {
        crate::host::reduce::log_softmax_rows(cx.pool(), x.data(), y.data(), x.shape().last());
    }
    Ok(())
}

/// The k largest values with their indices (all, if there are fewer), largest first, the lower index first among equals. NaN counts as larger
/// than every number, as in PyTorch.
pub fn top_k<A: Real>(values: &[A], k: usize) -> Vec<(usize, A)> {
    crate::host::reduce::top_k(values, k)
}

/// (B, P, C) of x [B, .., C].
fn pixels(what: &'static str, x: Shape) -> Result<(usize, usize, usize)> {
    check(OP, x.rank() >= 2, || format!("`{what}` {x} needs at least a batch and a channel axis"))?;
    Ok((x[0], x.dims()[1..x.rank() - 1].iter().product(), x.last()))
}

/// y [B, C] = mean of x [B, P, C] (or [B, H, W, C]) over the pixels; 0 if there are none.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn mean_pixels<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let (b, p, c) = pixels("x", x.shape())?;
    check_shape(OP, "y", y.shape(), [b, c])?;
    if b * c == 0 {
        return Ok(());
    }
    let factor = if p == 0 { 0.0 } else { 1.0 / p as f64 };
    if cx.is_cuda() {
        return crate::cuda::reduce::sum_pixels(cx, x, factor, y, p);
    }
    if !cx.is_planning() {
        crate::host::reduce::sum_pixels(cx.pool(), x.data(), factor, y.data(), p, c);
    }
    Ok(())
}

/// y [B, C] = sum of x [B, P, C] over its pixels: the gradient of a vector that was added to every pixel.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn sum_pixels<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let (b, p, c) = pixels("x", x.shape())?;
    check_shape(OP, "y", y.shape(), [b, c])?;
    if b * c == 0 {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::reduce::sum_pixels(cx, x, 1.0, y, p);
    }
    if !cx.is_planning() {
        crate::host::reduce::sum_pixels(cx.pool(), x.data(), 1.0, y.data(), p, c);
    }
    Ok(())
}

/// dx [B, P, C] = dy [B, C] / P at every pixel.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn mean_pixels_backward<E: Element>(cx: &Context, dy: View<'_, E>, dx: ViewMut<'_, E>) -> Result<()> {
    let (b, p, c) = pixels("dx", dx.shape())?;
    check_shape(OP, "dy", dy.shape(), [b, c])?;
    if dx.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::reduce::spread_pixels(cx, dy, 1.0 / p as f64, dx, p);
    }
    if !cx.is_planning() {
        crate::host::reduce::mean_pixels_backward(cx.pool(), dy.data(), dx.data(), p, c);
    }
    Ok(())
}
