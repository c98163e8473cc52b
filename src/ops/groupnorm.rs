//! Group normalisation, channels last, with SiLU fused if wanted: y = silu?((x - mean) rstd weight + bias).
//!
//! Wu and He (arXiv 1803.08494); Stable Diffusion. Shapes: x, y, dx, dy [B, .., C]: the first axis is the batch, all middle axes are pixels;
//! weight, bias `[C]`; stats [B, G, 2] = (mean, rstd) over the pixels and the C / G neighbouring channels of a group.
//!
//! Statistics: each block of pixels that fits the cache is read twice (mean, then squares of deviations); blocks are combined by the
//! formula of Chan, Golub and LeVeque (1979), so memory is read once and no difference of large moments is taken.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, View, ViewMut};

const OP: &str = "groupnorm";

/// (B, pixels, C) after checking that the groups divide the channels.
fn sizes(x: Shape, groups: usize) -> Result<(usize, usize, usize)> {
    check(OP, x.rank() >= 2, || format!("`x` {x} needs at least a batch and a channel axis"))?;
    let c = x.last();
    check(OP, groups > 0 && c.is_multiple_of(groups), || format!("{c} channels do not divide into {groups} groups"))?;
    Ok((x[0], x.dims()[1..x.rank() - 1].iter().product(), c))
}

/// y = silu?((x - mean) rstd weight + bias); writes the statistics [B, G, 2] that the backward reads.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit, [`crate::Error::Domain`] if the groups do not divide C.
#[allow(clippy::too_many_arguments)]
pub fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    bias: View<'_, E>,
    y: ViewMut<'_, E>,
    stats: ViewMut<'_, E::Acc>,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<()> {
    let (b, pixels, c) = sizes(x.shape(), groups)?;
    check_shape(OP, "weight", weight.shape(), [c])?;
    check_shape(OP, "bias", bias.shape(), [c])?;
    check_shape(OP, "y", y.shape(), x.shape())?;
    check_shape(OP, "stats", stats.shape(), [b, groups, 2])?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::groupnorm::forward(cx, x, weight, bias, y, stats, groups, eps, silu);
    }
    if cx.is_planning() {
        return Ok(());
    }
    let size = crate::host::groupnorm::Size { b, pixels, c, groups };
    let stats = stats.data();
    crate::host::groupnorm::statistics(cx.pool(), size, x.data(), stats, eps);
    crate::host::groupnorm::forward(cx.pool(), size, x.data(), weight.data(), bias.data(), stats, y.data(), silu);
    Ok(())
}

/// With n = (x - mean) rstd, z = n weight + bias, d = silu'(z) dy (or dy), g = weight d, and means over a group:
/// dx = residual + rstd (g - mean(g) - n mean(g n)); dw += sum of d n over batch and pixels; db += sum of d.
/// The residual is the gradient that goes past the norm, 0 if there is none.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit, [`crate::Error::Domain`] if the groups do not divide C.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    weight: View<'_, E>,
    bias: View<'_, E>,
    stats: View<'_, E::Acc>,
    dy: View<'_, E>,
    residual: Option<View<'_, E>>,
    dx: ViewMut<'_, E>,
    dw: Option<ViewMut<'_, E::Acc>>,
    db: Option<ViewMut<'_, E::Acc>>,
    groups: usize,
    silu: bool,
) -> Result<()> {
    let (b, pixels, c) = sizes(x.shape(), groups)?;
    check_shape(OP, "weight", weight.shape(), [c])?;
    check_shape(OP, "bias", bias.shape(), [c])?;
    check_shape(OP, "stats", stats.shape(), [b, groups, 2])?;
    check_shape(OP, "dy", dy.shape(), x.shape())?;
    check_shape(OP, "dx", dx.shape(), x.shape())?;
    if let Some(residual) = &residual {
        check_shape(OP, "residual", residual.shape(), x.shape())?;
    }
    if let Some(dw) = &dw {
        check_shape(OP, "dw", dw.shape(), [c])?;
    }
    if let Some(db) = &db {
        check_shape(OP, "db", db.shape(), [c])?;
    }
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::groupnorm::backward(cx, x, weight, bias, stats, dy, residual, dx, dw, db, groups, silu);
    }
    if cx.is_planning() {
        return Ok(());
    }
    crate::host::groupnorm::backward(
        cx.pool(),
        crate::host::groupnorm::Size { b, pixels, c, groups },
        x.data(),
        weight.data(),
        bias.data(),
        stats.data(),
        dy.data(),
        residual.map(|residual| residual.data()),
        dx.data(),
        dw.map(ViewMut::data),
        db.map(ViewMut::data),
        silu,
    );
    Ok(())
}
