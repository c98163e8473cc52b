//! Launches of `cuda/add.cu`; see [`crate::ops::add`].

use super::params::{
    DeemAddAxpy, DeemAddChannels, DeemAddDot, DeemAddForward, DeemAddGammaGradient, DeemAddMaskRows, DeemAddScale,
};
use super::{Op, Slices, input, kernel, output, pointwise, reduce, small, summing};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Tensor, View, ViewMut};

const OP: &str = "add";

/// y = a + b.
pub(crate) fn forward<E: Element>(cx: &Context, a: View<'_, E>, b: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let n = a.shape().len();
    let (a, b, y) = (input(cx, OP, "a", a)?, input(cx, OP, "b", b)?, output(cx, OP, "y", &y)?);
    let params = DeemAddForward { a, b, y, n: n as i64 };
    // SAFETY: the kernel's own struct; the arrays have n elements.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "add_forward"), pointwise::<E>(OP, n)?, &params) }
}

/// y += alpha x.
pub(crate) fn axpy<E: Element>(cx: &Context, alpha: f64, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let n = x.shape().len();
    let (x, y) = (input(cx, OP, "x", x)?, output(cx, OP, "y", &y)?);
    let params = DeemAddAxpy { x, y, n: n as i64, alpha: alpha as f32, padding: 0 };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "add_axpy"), pointwise::<E>(OP, n)?, &params) }
}

/// y = alpha x.
pub(crate) fn scale<E: Element>(cx: &Context, alpha: f64, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let n = x.shape().len();
    let (x, y) = (input(cx, OP, "x", x)?, output(cx, OP, "y", &y)?);
    let params = DeemAddScale { x, y, n: n as i64, alpha: alpha as f32, padding: 0 };
    // SAFETY: as above.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "add_scale"), pointwise::<E>(OP, n)?, &params) }
}

/// y = v x by rows (`product`), or v + x.
pub(crate) fn channels<E: Element>(
    cx: &Context,
    product: bool,
    v: View<'_, E>,
    x: View<'_, E>,
    y: ViewMut<'_, E>,
) -> Result<()> {
    let (n, cols) = (x.shape().len(), x.shape().last());
    let (v, x, y) = (input(cx, OP, "v", v)?, input(cx, OP, "x", x)?, output(cx, OP, "y", &y)?);
    let params = DeemAddChannels { v, x, y, n: n as i64, cols: cols as i64, product: i32::from(product), padding: 0 };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "add_channels"), pointwise::<E>(OP, n)?, &params) }
}

/// dgamma += sum of x dy over rows.
pub(crate) fn gamma_gradient<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    dy: View<'_, E>,
    dgamma: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    let slices = Slices::of(rows);
    let mut partial = slices.partial(cx, cols)?;
    let params = DeemAddGammaGradient {
        x: input(cx, OP, "x", x)?,
        dy: input(cx, OP, "dy", dy)?,
        partial: output(cx, OP, "partial sums", &partial.view_mut())?,
        rows: rows as i64,
        rows_per_slice: slices.rows_per_slice as i64,
        cols: small(OP, "the number of columns", cols)?,
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "add_gamma_gradient"), slices.geometry(OP, cols)?, &params)? };
    reduce::add_slices(cx, OP, partial.view(), &dgamma)
}

/// y = keep x, one factor per row.
pub(crate) fn mask_rows<E: Element>(cx: &Context, keep: &[f32], x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let (n, cols) = (x.shape().len(), x.shape().last());
    let keep = cx.tensor([keep.len()], keep)?;
    let params = DeemAddMaskRows {
        keep: input(cx, OP, "keep", keep.view())?,
        x: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", &y)?,
        n: n as i64,
        cols: cols as i64,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "add_mask_rows"), pointwise::<E>(OP, n)?, &params) }
}

/// Sum of a b, in f64.
pub(crate) fn dot<E: Element>(cx: &Context, a: View<'_, E>, b: View<'_, E>) -> Result<Scalar> {
    reduce::total(cx, OP, dot_partial(cx, OP, a, b)?.view())
}

/// Partial sums of a b, one per block, for the op that adds them up.
pub(crate) fn dot_partial<E: Element>(cx: &Context, op: Op, a: View<'_, E>, b: View<'_, E>) -> Result<Tensor<f64>> {
    let n = a.shape().len();
    let geometry = summing(op, n)?;
    let mut partial = cx.uninit::<f64>([geometry.blocks[0] as usize])?;
    let (a, b) = (input(cx, op, "a", a)?, input(cx, op, "b", b)?);
    let params = DeemAddDot { a, b, partial: output(cx, op, "partial sums", &partial.view_mut())?, n: n as i64 };
    // SAFETY: the kernel's own struct; every block has a partial sum.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "add_dot"), geometry, &params)? };
    Ok(partial)
}
