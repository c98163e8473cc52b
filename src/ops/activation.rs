//! Activation functions: y = act(x), pointwise.
//!
//! | kind | formula | source |
//! |---|---|---|
//! | None | x | |
//! | Relu | max(x, 0) | |
//! | Gelu | x Phi(x) = x/2 (1 + erf(x / sqrt 2)) | Hendrycks and Gimpel, arXiv 1606.08415 |
//! | QuickGelu | x sigmoid(1.702 x) | the same paper, section 2; CLIP |
//! | Silu | x sigmoid(x) | Elfwing et al., arXiv 1702.03118; LLaMA, Stable Diffusion |
//!
//! Shapes: x, y, dy, dx all the same. The backward recomputes from x.

use super::check_shape;
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::error::Result;
use crate::memory::{View, ViewMut};

/// Which activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// x itself.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// x Phi(x), with the exact error function.
    Gelu,
    /// x sigmoid(1.702 x).
    QuickGelu,
    /// x sigmoid(x).
    Silu,
}

impl Activation {
    /// act(x).
    #[inline(always)]
    pub fn apply<A: Real>(self, x: A) -> A {
        match self {
            Activation::None => x,
            Activation::Relu => {
                if x < A::ZERO {
                    A::ZERO
                } else {
                    x
                }
            }
            Activation::Gelu => A::of(0.5) * x * (A::ONE + (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf()),
            Activation::QuickGelu => x * (A::of(1.702) * x).sigmoid(),
            Activation::Silu => x * x.sigmoid(),
        }
    }

    /// act'(x); that of Relu at 0 is 0.
    #[inline(always)]
    pub fn derivative<A: Real>(self, x: A) -> A {
        match self {
            Activation::None => A::ONE,
            Activation::Relu => {
                if x > A::ZERO {
                    A::ONE
                } else {
                    A::ZERO
                }
            }
            Activation::Gelu => {
                let phi = A::of(0.5) * (A::ONE + (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf());
                // 1 / sqrt(2 pi)
                phi + x * (A::of(-0.5) * x * x).exp() * A::of(0.398_942_280_401_432_7)
            }
            Activation::QuickGelu => {
                let s = (A::of(1.702) * x).sigmoid();
                s + A::of(1.702) * x * s * (A::ONE - s)
            }
            Activation::Silu => {
                let s = x.sigmoid();
                s * (A::ONE + x * (A::ONE - s))
            }
        }
    }
}

/// y = act(x).
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn forward<E: Element>(cx: &Context, kind: Activation, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    check_shape("activation", "y", y.shape(), x.shape())?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::activation::forward(cx, kind, x, y);
    }
    if !cx.is_planning() {
        crate::host::activation::forward(cx.pool(), kind, x.data(), y.data());
    }
    Ok(())
}

/// dx = act'(x) dy.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn backward<E: Element>(
    cx: &Context,
    kind: Activation,
    x: View<'_, E>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
) -> Result<()> {
    check_shape("activation", "dy", dy.shape(), x.shape())?;
    check_shape("activation", "dx", dx.shape(), x.shape())?;
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::activation::backward(cx, kind, x, dy, dx);
    }
    if !cx.is_planning() {
        crate::host::activation::backward(cx.pool(), kind, x.data(), dy.data(), dx.data());
    }
    Ok(())
}
