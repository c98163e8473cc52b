//! Sinusoidal embedding of timesteps on the host; see [`crate::ops::timestep_embedding`]. A few rows: not worth a thread.

use crate::dtype::{Element, Real};

/// One row of `c` elements per timestep.
pub fn forward<E: Element>(timesteps: &[f64], y: &mut [E], c: usize, flip_sin_to_cos: bool, freq_shift: f64) {
    let half = c / 2;
    for (y, &t) in y.chunks_exact_mut(c).zip(timesteps) {
        let t = E::Acc::of(t);
        y.fill(E::default());
        let (first, second) = y[..2 * half].split_at_mut(half);
        for (k, (first, second)) in first.iter_mut().zip(second).enumerate() {
            let exponent = E::Acc::of(-10000f64.ln()) * E::Acc::of_usize(k) / E::Acc::of(half as f64 - freq_shift);
            let angle = t * E::Acc::of(exponent.as_f64().exp());
            let (sin, cos) = (E::from_acc(angle.sin()), E::from_acc(angle.cos()));
            (*first, *second) = if flip_sin_to_cos { (cos, sin) } else { (sin, cos) };
        }
    }
}
