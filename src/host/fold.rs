//! Folding a norm into a linear layer on the host; see [`crate::ops::fold`]. Weights are small against the rows that they meet: one thread.

use crate::dtype::{Element, Real};
use crate::host::parallel::{LANES, total};
use crate::simd_fn;

simd_fn! {
    /// Weight and bias of the folded layer.
    pub fn forward<E: Element>(gamma: &[E], beta: &[E], weight: &[E], bias: &[E], to_weight: &mut [E], to_bias: &mut [E]) {
        let c = gamma.len();
        let rows = weight.chunks_exact(c).zip(to_weight.chunks_exact_mut(c)).zip(bias).zip(to_bias);
        for (((weight, to_weight), bias), to_bias) in rows {
            for ((to, w), gamma) in to_weight.iter_mut().zip(weight).zip(gamma) {
                *to = E::from_acc(w.to_acc() * gamma.to_acc());
            }
            let mut lanes = [E::Acc::ZERO; LANES];
            for (w, beta) in weight.chunks(LANES).zip(beta.chunks(LANES)) {
                for ((lane, w), beta) in lanes.iter_mut().zip(w).zip(beta) {
                    *lane += w.to_acc() * beta.to_acc();
                }
            }
            *to_bias = E::from_acc(bias.to_acc() + total(lanes));
        }
    }
}

simd_fn! {
    /// `to += a * b` where `a` is stored.
    fn add_products<E: Element>(to: &mut [E::Acc], a: &[E], b: &[E::Acc]) {
        for ((to, a), &b) in to.iter_mut().zip(a).zip(b) {
            *to += a.to_acc() * b;
        }
    }
}

simd_fn! {
    /// `to += a * scale` where `a` is stored.
    fn add_scaled<E: Element>(to: &mut [E::Acc], a: &[E], scale: E::Acc) {
        for (to, a) in to.iter_mut().zip(a) {
            *to += a.to_acc() * scale;
        }
    }
}

/// Adds the gradients of gamma, beta, weight and bias, in this order.
pub fn backward<E: Element>(
    (gamma, beta, weight): (&[E], &[E], &[E]),
    d_weight: &[E::Acc],
    d_bias: &[E::Acc],
    to: [Option<&mut [E::Acc]>; 4],
) {
    let c = gamma.len();
    let [to_gamma, to_beta, to_weight, to_bias] = to;
    if let Some(to) = to_weight {
        for ((to, d_weight), &d_bias) in to.chunks_exact_mut(c).zip(d_weight.chunks_exact(c)).zip(d_bias) {
            add_products(to, gamma, d_weight);
            add_scaled(to, beta, d_bias);
        }
    }
    let rows = || weight.chunks_exact(c).zip(d_weight.chunks_exact(c)).zip(d_bias);
    if let Some(to) = to_gamma {
        rows().for_each(|((weight, d_weight), _)| add_products(to, weight, d_weight));
    }
    if let Some(to) = to_beta {
        rows().for_each(|((weight, _), &d_bias)| add_scaled(to, weight, d_bias));
    }
    if let Some(to) = to_bias {
        to.iter_mut().zip(d_bias).for_each(|(to, &d)| *to += d);
    }
}
