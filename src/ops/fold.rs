//! Folding the weight and bias of a norm into the linear layer that reads it.
//!
//! ```text
//! y = (n gamma + beta) W^T + b = n F^T + g     with  F[o,c] = W[o,c] gamma[c],  g[o] = b[o] + sum_c W[o,c] beta[c]
//! ```
//! Several such layers on the same rows then share the normalised rows n: one norm, forward and backward, instead of one for each. Shapes: gamma,
//! beta `[C]`; W, F `[O, C]`; b, g `[O]`. From dF and dg, `dW = dF gamma + dg beta`, `d_gamma = sum_o W dF`, `d_beta = sum_o W dg`, `db = dg`.

use super::check_shape;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};

const OP: &str = "fold";

/// What is folded.
#[derive(Clone, Copy)]
pub struct Layers<'a, E> {
    /// Weight of the norm `[C]`.
    pub gamma: View<'a, E>,
    /// Bias of the norm `[C]`.
    pub beta: View<'a, E>,
    /// Weight of the linear layer `[O, C]`.
    pub weight: View<'a, E>,
    /// Bias of the linear layer `[O]`.
    pub bias: View<'a, E>,
}

/// Where gradients are added, if wanted; shapes as in [`Layers`].
pub struct Gradients<'a, A> {
    /// Of the norm's weight.
    pub gamma: Option<ViewMut<'a, A>>,
    /// Of the norm's bias.
    pub beta: Option<ViewMut<'a, A>>,
    /// Of the linear layer's weight.
    pub weight: Option<ViewMut<'a, A>>,
    /// Of the linear layer's bias.
    pub bias: Option<ViewMut<'a, A>>,
}

fn check_layers<E: Element>(x: &Layers<'_, E>) -> Result<(usize, usize)> {
    let (c, o) = (x.gamma.shape().len(), x.bias.shape().len());
    check_shape(OP, "gamma", x.gamma.shape(), [c])?;
    check_shape(OP, "beta", x.beta.shape(), [c])?;
    check_shape(OP, "weight", x.weight.shape(), [o, c])?;
    check_shape(OP, "bias", x.bias.shape(), [o])?;
    Ok((o, c))
}

/// Weight `[O, C]` and bias `[O]` of the folded layer.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn forward<E: Element>(cx: &Context, x: Layers<'_, E>, weight: ViewMut<'_, E>, bias: ViewMut<'_, E>) -> Result<()> {
    let (o, c) = check_layers(&x)?;
    check_shape(OP, "folded weight", weight.shape(), [o, c])?;
    check_shape(OP, "folded bias", bias.shape(), [o])?;
    if o == 0 || c == 0 {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::fold::forward(cx, x, weight, bias);
    }
    if !cx.is_planning() {
        let (gamma, beta) = (x.gamma.data(), x.beta.data());
        crate::host::fold::forward(gamma, beta, x.weight.data(), x.bias.data(), weight.data(), bias.data());
    }
    Ok(())
}

/// Adds the gradients of all four from those of the folded weight `[O, C]` and bias `[O]`.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn backward<E: Element>(
    cx: &Context,
    x: Layers<'_, E>,
    d_weight: View<'_, E::Acc>,
    d_bias: View<'_, E::Acc>,
    gradients: Gradients<'_, E::Acc>,
) -> Result<()> {
    let (o, c) = check_layers(&x)?;
    check_shape(OP, "d_weight", d_weight.shape(), [o, c])?;
    check_shape(OP, "d_bias", d_bias.shape(), [o])?;
    let Gradients { gamma, beta, weight, bias } = gradients;
    for (what, gradient, shape) in [("gradient of gamma", &gamma, &[c][..]), ("gradient of beta", &beta, &[c])] {
        if let Some(gradient) = gradient {
            check_shape(OP, what, gradient.shape(), shape)?;
        }
    }
    for (what, gradient, shape) in [("gradient of weight", &weight, &[o, c][..]), ("gradient of bias", &bias, &[o])] {
        if let Some(gradient) = gradient {
            check_shape(OP, what, gradient.shape(), shape)?;
        }
    }
    if o == 0 || c == 0 {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::fold::backward(cx, x, d_weight, d_bias, Gradients { gamma, beta, weight, bias });
    }
    if !cx.is_planning() {
        let layers = (x.gamma.data(), x.beta.data(), x.weight.data());
        let to = [gamma, beta, weight, bias].map(|gradient| gradient.map(ViewMut::data));
        crate::host::fold::backward(layers, d_weight.data(), d_bias.data(), to);
    }
    Ok(())
}
