//! The VAE's posterior on the host; see [`crate::ops::posterior`]. Latents are small: one thread.

use crate::dtype::{Element, Real};

/// Standard deviation of a clamped log-variance.
fn deviation<A: Real>(logvar: A) -> A {
    (A::of(0.5) * logvar.max(A::of(-30.0)).min(A::of(20.0))).exp()
}

/// See [`crate::ops::posterior::forward`].
pub fn forward<E: Element>(moments: &[E], noise: Option<&[E]>, latents: &mut [E], z: usize, scaling: f64) {
    let scaling = E::Acc::of(scaling);
    for (row, (out, m)) in latents.chunks_exact_mut(z).zip(moments.chunks_exact(2 * z)).enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            let mut value = m[c].to_acc();
            if let Some(noise) = noise {
                value += deviation(m[z + c].to_acc()) * noise[row * z + c].to_acc();
            }
            *out = E::from_acc(value * scaling);
        }
    }
}

/// See [`crate::ops::posterior::backward`].
pub fn backward<E: Element>(
    moments: &[E],
    noise: &[E],
    d_latents: &[E],
    d_moments: &mut [E],
    z: usize,
    scaling: f64,
    weight: f64,
) -> f64 {
    let (scaling, weight, half) = (E::Acc::of(scaling), E::Acc::of(weight), E::Acc::of(0.5));
    let mut divergence = 0.0;
    let rows = d_moments.chunks_exact_mut(2 * z).zip(moments.chunks_exact(2 * z));
    for ((out, m), (noise, d)) in rows.zip(noise.chunks_exact(z).zip(d_latents.chunks_exact(z))) {
        for c in 0..z {
            let (mean, logvar, d) = (m[c].to_acc(), m[z + c].to_acc(), d[c].to_acc() * scaling);
            let inside = logvar > E::Acc::of(-30.0) && logvar < E::Acc::of(20.0);
            let std = deviation(logvar);
            let variance = std * std;
            divergence += 0.5 * (mean * mean + variance - E::Acc::ONE - logvar).as_f64();
            let through_noise = if inside { d * noise[c].to_acc() * std * half } else { E::Acc::ZERO };
            out[c] = E::from_acc(d + weight * mean);
            out[z + c] = E::from_acc(through_noise + weight * half * (variance - E::Acc::ONE));
        }
    }
    divergence
}
