//! Launches of `cuda/activation.cu`; see [`crate::ops::activation`].

use super::params::{self, DeemActivationBackward, DeemActivationForward};
use super::{by_dtype, input, output, pointwise};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops::activation::Activation;

const OP: &str = "activation";

/// What kernels call a kind.
pub(crate) fn number(kind: Activation) -> i32 {
    let number = match kind {
        Activation::None => params::DEEM_ACTIVATION_NONE,
        Activation::Relu => params::DEEM_ACTIVATION_RELU,
        Activation::Gelu => params::DEEM_ACTIVATION_GELU,
        Activation::QuickGelu => params::DEEM_ACTIVATION_QUICK_GELU,
        Activation::Silu => params::DEEM_ACTIVATION_SILU,
    };
    number as i32
}

/// y = act(x).
pub(crate) fn forward<E: Element>(cx: &Context, kind: Activation, x: View<'_, E>, y: ViewMut<'_, E>) -> Result<()> {
    let kernel = by_dtype::<E>(cx, OP, "activation_forward_f32", "activation_forward_bf16")?;
    let n = x.shape().len();
    let params = DeemActivationForward {
        x: input(cx, OP, "x", x)?,
        y: output(cx, OP, "y", &y)?,
        n: n as i64,
        kind: number(kind),
        padding: 0,
    };
    // SAFETY: the kernel's own struct; both arrays have n elements.
    unsafe { cx.launch(OP, kernel, pointwise::<E>(OP, n)?, &params) }
}

/// dx = act'(x) dy.
pub(crate) fn backward<E: Element>(
    cx: &Context,
    kind: Activation,
    x: View<'_, E>,
    dy: View<'_, E>,
    dx: ViewMut<'_, E>,
) -> Result<()> {
    let kernel = by_dtype::<E>(cx, OP, "activation_backward_f32", "activation_backward_bf16")?;
    let n = x.shape().len();
    let params = DeemActivationBackward {
        x: input(cx, OP, "x", x)?,
        dy: input(cx, OP, "dy", dy)?,
        dx: output(cx, OP, "dx", &dx)?,
        n: n as i64,
        kind: number(kind),
        padding: 0,
    };
    // SAFETY: the kernel's own struct; the arrays have n elements.
    unsafe { cx.launch(OP, kernel, pointwise::<E>(OP, n)?, &params) }
}
