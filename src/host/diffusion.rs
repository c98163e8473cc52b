//! Noising and denoising on the host; see [`crate::ops::diffusion`]. Latents are small against everything that is done to them: one thread.

use crate::dtype::{Element, Real};
use crate::ops::diffusion::Step;

/// `out = a z + b noise` with (a, b) of each image.
pub fn mix<E: Element>(z: &[E], noise: &[E], factors: &[(E::Acc, E::Acc)], out: &mut [E]) {
    let per_image = z.len() / factors.len();
    let rows = out.chunks_exact_mut(per_image).zip(z.chunks_exact(per_image));
    for (((out, z), noise), &(a, b)) in rows.zip(noise.chunks_exact(per_image)).zip(factors) {
        for ((out, z), noise) in out.iter_mut().zip(z).zip(noise) {
            *out = E::from_acc(a * z.to_acc() + b * noise.to_acc());
        }
    }
}

/// `u + scale (c - u)` of one number.
#[inline(always)]
fn guided<E: Element>(u: E, c: E, scale: E::Acc) -> E::Acc {
    u.to_acc() + scale * (c.to_acc() - u.to_acc())
}

/// See [`crate::ops::diffusion::guide`].
pub fn guide<E: Element>(prediction: &[E], scale: f64, out: &mut [E]) {
    let (u, c) = prediction.split_at(out.len());
    let scale = E::Acc::of(scale);
    for ((out, &u), &c) in out.iter_mut().zip(u).zip(c) {
        *out = E::from_acc(guided(u, c, scale));
    }
}

/// See [`crate::ops::diffusion::step_forward`].
pub fn step<E: Element>(
    step: &Step,
    prediction: &[E],
    guidance: Option<f64>,
    noise: Option<&[E]>,
    x: &mut [E],
    x0: &mut [E],
) {
    let of = |v: f64| E::Acc::of(v);
    let (from_x, from_p) = (of(step.from_x), of(step.from_prediction));
    let (fx, f0, fb, fn_) = (of(step.x_factor), of(step.x0_factor), of(step.previous), of(step.noise));
    let (first, second) = prediction.split_at(x.len());
    let scale = guidance.map(of);
    for (i, ((x, x0), &p)) in x.iter_mut().zip(x0).zip(first).enumerate() {
        let p = match scale {
            Some(scale) => guided(p, second[i], scale),
            None => p.to_acc(),
        };
        let estimate = from_x * x.to_acc() + from_p * p;
        let mut next = f0 * estimate + fx * x.to_acc();
        if step.previous != 0.0 {
            next += fb * x0.to_acc();
        }
        if let (true, Some(noise)) = (step.noise != 0.0, noise) {
            next += fn_ * noise[i].to_acc();
        }
        *x = E::from_acc(next);
        *x0 = E::from_acc(estimate);
    }
}
