//! Sinusoidal embedding of diffusion timesteps.
//!
//! Ho et al. (arXiv 2006.11239), in the form of diffusers: with h = floor(C/2) and f_k = exp(-ln(10000) k / (h - freq_shift)),
//! y = [sin(t f) | cos(t f)], or [cos | sin] if flipped (Stable Diffusion: flipped, shift 0). An odd C ends with a zero.
//!
//! Shapes: timesteps B; y [B, C]. For f32 and bf16 exponent, frequency and angle are each rounded to f32, as in the official code.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::ViewMut;

/// y [B, C] from B timesteps.
///
/// # Errors
/// [`crate::Error::Shape`] if y is not [B, C], [`crate::Error::Domain`] if `freq_shift` equals the number of frequencies.
pub fn forward<E: Element>(
    cx: &Context,
    timesteps: &[f64],
    y: ViewMut<'_, E>,
    flip_sin_to_cos: bool,
    freq_shift: f64,
) -> Result<()> {
    const OP: &str = "timestep_embedding";
    let c = y.shape().last();
    check_shape(OP, "y", y.shape(), [timesteps.len(), c])?;
    let half = c / 2;
    check(OP, half == 0 || half as f64 != freq_shift, || {
        format!("freq_shift {freq_shift} equals the number of frequencies")
    })?;
    if y.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::timestep_embedding::forward(cx, timesteps, y, flip_sin_to_cos, freq_shift);
    }
    if cx.is_planning() {
        return Ok(());
    }
    crate::host::timestep_embedding::forward(timesteps, y.data(), c, flip_sin_to_cos, freq_shift);
    Ok(())
}
