//! AdamW on the host; see [`crate::ops::adamw`].

use super::parallel::{GRAIN, run};
use crate::device::{Pool, SendPtr};
use crate::dtype::{Element, Real};
use crate::ops::adamw::{AdamW, Group};
use crate::simd_fn;

/// The coefficients of one group in one step.
#[derive(Clone, Copy)]
struct Coefficients<A> {
    scale: A,
    keep: A,
    beta1: A,
    other1: A,
    beta2: A,
    other2: A,
    rate: A,
    second: A,
    eps: A,
}

impl<A: Real> Coefficients<A> {
    fn new(group: &Group, hyper: &AdamW, step: u64, grad_scale: f64) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Coefficients {
            scale: A::of(grad_scale),
            keep: A::of(1.0 - group.lr * group.weight_decay),
            beta1: A::of(hyper.beta1),
            other1: A::of(1.0 - hyper.beta1),
            beta2: A::of(hyper.beta2),
            other2: A::of(1.0 - hyper.beta2),
            rate: A::of(group.lr / correction(hyper.beta1)),
            second: A::of(1.0 / correction(hyper.beta2)),
            eps: A::of(hyper.eps),
        }
    }
}

simd_fn! {
    fn update<A: Real>(k: Coefficients<A>, p: &mut [A], g: &[A], m: &mut [A], v: &mut [A]) {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * k.scale;
            *m = k.beta1 * *m + k.other1 * g;
            *v = k.beta2 * *v + k.other2 * (g * g);
            *p = k.keep * *p - k.rate * *m / ((*v * k.second).sqrt() + k.eps);
        }
    }
}

simd_fn! {
    fn narrow<E: Element>(x: &[E::Acc], y: &mut [E]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(x);
        }
    }
}

/// One step on all groups, which lie inside of the slices and do not overlap.
#[allow(clippy::too_many_arguments)]
pub fn step<E: Element>(
    pool: &Pool,
    params: &mut [E],
    master: Option<&mut [E::Acc]>,
    grads: &[E::Acc],
    m: &mut [E::Acc],
    v: &mut [E::Acc],
    groups: &[Group],
    hyper: &AdamW,
    step: u64,
    grad_scale: f64,
) {
    let (params, master) = match master {
        Some(master) => (Some(SendPtr(params.as_mut_ptr())), SendPtr(master.as_mut_ptr())),
        // Without a master the two types are the same type (checked by the op).
        None => (None, SendPtr(bytemuck::cast_slice_mut::<E, E::Acc>(params).as_mut_ptr())),
    };
    let (m, v) = (SendPtr(m.as_mut_ptr()), SendPtr(v.as_mut_ptr()));
    let chunks = groups.iter().map(|g| g.len.div_ceil(GRAIN)).sum();
    let work = groups.iter().map(|g| g.len).sum();
    run(pool, work, chunks, |chunk| {
        let mut at = chunk;
        let Some(group) = groups.iter().find(|g| {
            let chunks = g.len.div_ceil(GRAIN);
            let found = at < chunks;
            at -= if found { 0 } else { chunks };
            found
        }) else {
            return;
        };
        let start = group.start + at * GRAIN;
        let len = GRAIN.min(group.start + group.len - start);
        // SAFETY: groups are in bounds and do not overlap (checked by the op), so chunks are disjoint ranges of slices that are borrowed
        // mutably until `run` returns.
        let part = |x: &SendPtr<E::Acc>| unsafe { std::slice::from_raw_parts_mut(x.get().add(start), len) };
        let p = part(&master);
        let k = Coefficients::new(group, hyper, step, grad_scale);
        update(k, p, &grads[start..start + len], part(&m), part(&v));
        if let Some(params) = &params {
            // SAFETY: as above.
            narrow(p, unsafe { std::slice::from_raw_parts_mut(params.get().add(start), len) });
        }
    });
}
