//! Gated linear units on the host; see [`crate::ops::glu`].

use super::activation::by_kind;
use super::parallel::{GRAIN, map2, rows_per_chunk, run_rows2};
use crate::device::Pool;
use crate::dtype::Element;
use crate::ops::activation::Activation;
use crate::simd_fn;

simd_fn! {
    fn apply<E: Element>(kind: Activation, gate: &[E], value: &[E], y: &mut [E]) {
        by_kind!(kind => for ((y, &g), &v) in y.iter_mut().zip(gate).zip(value) {
            *y = E::from_acc(kind.apply(g.to_acc()) * v.to_acc());
        })
    }
}

simd_fn! {
    fn differentiate<E: Element>(kind: Activation, gate: &[E], value: &[E], dy: &[E], dgate: &mut [E], dvalue: &mut [E]) {
        by_kind!(kind => for ((((dgate, dvalue), &g), &v), &d) in dgate.iter_mut().zip(dvalue).zip(gate).zip(value).zip(dy) {
            let (g, v, d) = (g.to_acc(), v.to_acc(), d.to_acc());
            *dgate = E::from_acc(kind.derivative(g) * v * d);
            *dvalue = E::from_acc(kind.apply(g) * d);
        })
    }
}

/// y = act(gate) * value.
pub fn forward<E: Element>(pool: &Pool, kind: Activation, gate: &[E], value: &[E], y: &mut [E]) {
    map2(pool, gate, value, y, |gate, value, y| apply(kind, gate, value, y));
}

/// Gradients of gate and value.
pub fn backward<E: Element>(
    pool: &Pool,
    kind: Activation,
    gate: &[E],
    value: &[E],
    dy: &[E],
    dgate: &mut [E],
    dvalue: &mut [E],
) {
    run_rows2(pool, gate.len(), GRAIN, (dgate, 1), (dvalue, 1), |part, dgate, dvalue| {
        differentiate(kind, &gate[part.clone()], &value[part.clone()], &dy[part], dgate, dvalue);
    });
}

/// y [R, F] from x [R, 2F] = value | gate.
pub fn forward_packed<E: Element>(pool: &Pool, kind: Activation, x: &[E], y: &mut [E], f: usize) {
    let rows = rows_per_chunk(f);
    pool.run_parts(y, rows * f, |chunk, y| {
        let x = &x[chunk * rows * 2 * f..][..2 * y.len()];
        for (y, x) in y.chunks_exact_mut(f).zip(x.chunks_exact(2 * f)) {
            apply(kind, &x[f..], &x[..f], y);
        }
    });
}

/// dx [R, 2F] = dvalue | dgate.
pub fn backward_packed<E: Element>(pool: &Pool, kind: Activation, x: &[E], dy: &[E], dx: &mut [E], f: usize) {
    let rows = rows_per_chunk(f);
    pool.run_parts(dx, rows * 2 * f, |chunk, dx| {
        let x = &x[chunk * rows * 2 * f..][..dx.len()];
        let dy = &dy[chunk * rows * f..][..dx.len() / 2];
        for ((dx, x), dy) in dx.chunks_exact_mut(2 * f).zip(x.chunks_exact(2 * f)).zip(dy.chunks_exact(f)) {
            let (dvalue, dgate) = dx.split_at_mut(f);
            differentiate(kind, &x[f..], &x[..f], dy, dgate, dvalue);
        }
    });
}
