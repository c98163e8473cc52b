//! Resampling of maps `[B, H, W, C]`: nearest x2, bilinear, bicubic, 3x3 max pooling.
//!
//! ```text
//! bilinear, bicubic: separable; y = sum over taps of weight * x[tap], first along H, then along W, as torch.nn.functional.interpolate:
//!   align_corners = false: source = (i + 1/2) in / out - 1/2   (bilinear: not below 0)
//!   align_corners = true:  source = i (in - 1) / (out - 1)
//!   bicubic taps: Keys' kernel with a = -3/4; indices are clamped to the map
//! nearest x2:  y[2h + i, 2w + j] = x[h, w]
//! max pooling: 3x3, stride 2, padding 1; the gradient goes to the first largest element in row-major order
//! ```
//! The gradient of a resize is its transpose; every function here has one. No antialiasing (the official code has none inside the model).

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::error::Result;
use crate::host::resample as host;
use crate::memory::{View, ViewMut};

/// Interpolation of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Two taps per axis.
    Bilinear,
    /// Four taps per axis.
    Bicubic,
}

/// How a map is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// Interpolation.
    pub filter: Filter,
    /// Whether the centres of the corner pixels coincide (`true`) or the outer edges (`false`).
    pub align_corners: bool,
}

/// The up to four source pixels of one target pixel along one axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taps<A> {
    pub at: [usize; 4],
    pub weight: [A; 4],
}

impl Resize {
    /// Bilinear with `align_corners = false`.
    pub const BILINEAR: Resize = Resize { filter: Filter::Bilinear, align_corners: false };
    /// Bicubic with `align_corners = false`.
    pub const BICUBIC: Resize = Resize { filter: Filter::Bicubic, align_corners: false };

    /// The taps of target pixel `i`, in the arithmetic of `A` as torch does it.
    pub(crate) fn taps<A: Real>(self, i: usize, input: usize, output: usize) -> Taps<A> {
        let half = A::of(0.5);
        let source = if self.align_corners {
            let step =
                if output > 1 { A::of_usize(input.saturating_sub(1)) / A::of_usize(output - 1) } else { A::ZERO };
            A::of_usize(i) * step
        } else {
            (A::of_usize(i) + half) * (A::of_usize(input) / A::of_usize(output)) - half
        };
        let clamp = |k: isize| k.clamp(0, input as isize - 1) as usize;
        match self.filter {
            Filter::Bilinear => {
                let source = source.max(A::ZERO);
                let low = source.floor();
                let k = low.as_f64() as isize;
                let f = source - low;
                Taps { at: [clamp(k), clamp(k + 1), 0, 0], weight: [A::ONE - f, f, A::ZERO, A::ZERO] }
            }
            Filter::Bicubic => {
                let low = source.floor();
                let (k, f) = (low.as_f64() as isize, source - low);
                let a = A::of(-0.75);
                let near = |x: A| ((a + A::of(2.0)) * x - (a + A::of(3.0))) * x * x + A::ONE;
                let far = |x: A| ((a * x - A::of(5.0) * a) * x + A::of(8.0) * a) * x - A::of(4.0) * a;
                let g = A::ONE - f;
                Taps {
                    at: [clamp(k - 1), clamp(k), clamp(k + 1), clamp(k + 2)],
                    weight: [far(f + A::ONE), near(f), near(g), far(g + A::ONE)],
                }
            }
        }
    }
}

fn check_maps<E, F>(op: &'static str, x: View<'_, E>, y: &ViewMut<'_, F>) -> Result<()> {
    let (xs, ys) = (x.shape(), y.shape());
    let legal = xs.rank() == 4 && ys.rank() == 4 && xs[0] == ys[0] && xs[3] == ys[3];
    check(op, legal, || format!("maps {xs} and {ys} must be [B, H, W, C] with the same B and C"))?;
    check(op, ys.is_empty() || !xs.is_empty(), || format!("cannot make {ys} from the empty map {xs}"))
}

/// Resizes `x` `[B, H, W, C]` to the size of `y` `[B, H', W', C]`.
///
/// # Errors
/// [`crate::Error::Domain`] if B or C differ or a rank is not 4.
pub fn resize<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>, how: Resize) -> Result<()> {
    check_maps("resample::resize", x, &y)?;
    if y.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::resample::resize(cx, x, y, how);
    }
    if !cx.is_planning() {
        let shape = y.shape();
        host::resize(cx, x.data(), x.shape(), y.data(), shape, how);
    }
    Ok(())
}

/// Gradient of [`resize`]: `dx` is overwritten.
///
/// # Errors
/// [`crate::Error::Domain`] if B or C differ or a rank is not 4.
pub fn resize_backward<E: Element>(cx: &Context, dy: View<'_, E>, dx: ViewMut<'_, E>, how: Resize) -> Result<()> {
    check_maps("resample::resize_backward", dy, &dx)?;
    if dx.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::resample::resize_backward(cx, dy, dx, how);
    }
    if !cx.is_planning() {
        let shape = dx.shape();
        host::resize_backward(cx, dy.data(), dy.shape(), dx.data(), shape, how);
    }
    Ok(())
}

/// Repeats every pixel of `x` `[B, H, W, C]` twice along H and W: `y` `[B, 2H, 2W, C]`.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn nearest_x2<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_maps("resample::nearest_x2", x, &y)?;
    let s = x.shape();
    check_shape("resample::nearest_x2", "y", y.shape(), [s[0], 2 * s[1], 2 * s[2], s[3]])?;
    if s.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::resample::nearest_x2(cx, x, y);
    }
    if !cx.is_planning() {
        host::nearest_x2(cx, x.data(), s, y.data());
    }
    Ok(())
}

/// Gradient of [`nearest_x2`]: each pixel of `dx` is the sum of its four copies in `dy`.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn nearest_x2_backward<E: Element>(cx: &Context, dy: View<'_, E>, dx: ViewMut<'_, E>) -> Result<()> {
    check_maps("resample::nearest_x2_backward", dy, &dx)?;
    let s = dx.shape();
    check_shape("resample::nearest_x2_backward", "dy", dy.shape(), [s[0], 2 * s[1], 2 * s[2], s[3]])?;
    if s.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::resample::nearest_x2_backward(cx, dy, dx);
    }
    if !cx.is_planning() {
        host::nearest_x2_backward(cx, dy.data(), s, dx.data());
    }
    Ok(())
}

/// Output size of the 3x3, stride 2, padding 1 max pooling along one axis.
pub fn max_pool_size(size: usize) -> usize {
    size.div_ceil(2)
}

/// 3x3 max pooling with stride 2 and padding 1: `y` `[B, ceil(H/2), ceil(W/2), C]`.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn max_pool<E: Element>(cx: &Context, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_maps("resample::max_pool", x, &y)?;
    let s = x.shape();
    check_shape("resample::max_pool", "y", y.shape(), [s[0], max_pool_size(s[1]), max_pool_size(s[2]), s[3]])?;
    if s.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::resample::max_pool(cx, x, y);
    }
    if !cx.is_planning() {
        host::max_pool(x.data(), s, y.data());
    }
    Ok(())
}

/// Gradient of [`max_pool`]: `dx` is overwritten.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn max_pool_backward<E: Element>(cx: &Context, x: View<'_, E>, dy: View<'_, E>, dx: ViewMut<'_, E>) -> Result<()> {
    let (op, s) = ("resample::max_pool_backward", x.shape());
    check_maps(op, dy, &dx)?;
    check_shape(op, "dx", dx.shape(), s)?;
    check_shape(op, "dy", dy.shape(), [s[0], max_pool_size(s[1]), max_pool_size(s[2]), s[3]])?;
    if s.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::resample::max_pool_backward(cx, x, dy, dx);
    }
    if !cx.is_planning() {
        host::max_pool_backward(x.data(), s, dy.data(), dx.data());
    }
    Ok(())
}
