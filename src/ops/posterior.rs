//! The VAE's posterior: latents drawn from a normal distribution, and the divergence of that distribution from the standard one.
//!
//! Kingma and Welling (arXiv 1312.6114); Stable Diffusion. Moments are (mean | logvar), and s = exp(clamp(logvar, -30, 20) / 2):
//!
//! ```text
//! latents    = scaling (mean + s noise)
//! divergence = 1/2 sum(mean^2 + s^2 - 1 - logvar)
//! d_mean     = scaling d + weight mean
//! d_logvar   = scaling d noise s / 2 (0 where logvar is clamped) + weight (s^2 - 1) / 2
//! ```
//! Shapes: moments, d_moments [.., 2 Z]; noise, latents, d_latents [.., Z].

use super::check_shape;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, View, ViewMut};

const OP: &str = "posterior";

/// Scaled latents; without noise the mode.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn forward<E: Element>(
    cx: &Context,
    moments: View<'_, E>,
    noise: Option<View<'_, E>>,
    latents: ViewMut<'_, E>,
    scaling: f64,
) -> Result<()> {
    check_shape(OP, "moments", moments.shape(), latents.shape().with_last(2 * latents.shape().last()))?;
    if let Some(noise) = &noise {
        check_shape(OP, "noise", noise.shape(), latents.shape())?;
    }
    if latents.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::posterior::forward(cx, moments, noise, latents, scaling);
    }
    if !cx.is_planning() {
        let z = latents.shape().last();
        crate::host::posterior::forward(moments.data(), noise.map(|n| n.data()), latents.data(), z, scaling);
    }
    Ok(())
}

/// Gradient of the moments from that of the latents, plus that of `weight` times the divergence; overwritten. Returns the divergence.
///
/// # Errors
/// As [`forward`].
pub fn backward<E: Element>(
    cx: &Context,
    moments: View<'_, E>,
    noise: View<'_, E>,
    d_latents: View<'_, E>,
    d_moments: ViewMut<'_, E>,
    scaling: f64,
    weight: f64,
) -> Result<Scalar> {
    let z = d_latents.shape().last();
    check_shape(OP, "moments", moments.shape(), d_latents.shape().with_last(2 * z))?;
    check_shape(OP, "noise", noise.shape(), d_latents.shape())?;
    check_shape(OP, "d_moments", d_moments.shape(), moments.shape())?;
    if d_latents.shape().is_empty() {
        return Ok(Scalar::of(0.0));
    }
    if cx.is_cuda() {
        return crate::cuda::posterior::backward(cx, moments, noise, d_latents, d_moments, scaling, weight);
    }
    if cx.is_planning() {
        return Ok(Scalar::of(0.0));
    }
    let inputs = (moments.data(), noise.data(), d_latents.data());
    let found = crate::host::posterior::backward(inputs.0, inputs.1, inputs.2, d_moments.data(), z, scaling, weight);
    Ok(Scalar::of(found))
}
