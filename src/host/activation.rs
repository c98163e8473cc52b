//! Activation functions on the host; see [`crate::ops::activation`].

use super::parallel::{map, map2};
use crate::device::Pool;
use crate::dtype::Element;
use crate::ops::activation::Activation;
use crate::simd_fn;

/// Evaluates `$body` with `$kind` a constant, so that each kind gets a loop of its own.
macro_rules! by_kind {
    ($kind:ident => $body:expr) => {
        match $kind {
            Activation::None => {
                let $kind = Activation::None;
                $body
            }
            Activation::Relu => {
                let $kind = Activation::Relu;
                $body
            }
            Activation::Gelu => {
                let $kind = Activation::Gelu;
                $body
            }
            Activation::QuickGelu => {
                let $kind = Activation::QuickGelu;
                $body
            }
            Activation::Silu => {
                let $kind = Activation::Silu;
                $body
            }
        }
    };
}
pub(super) use by_kind;

simd_fn! {
    fn apply<E: Element>(kind: Activation, x: &[E], y: &mut [E]) {
        by_kind!(kind => for (y, &x) in y.iter_mut().zip(x) {
            *y = E::from_acc(kind.apply(x.to_acc()));
        })
    }
}

simd_fn! {
    fn differentiate<E: Element>(kind: Activation, x: &[E], dy: &[E], dx: &mut [E]) {
        by_kind!(kind => for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = E::from_acc(kind.derivative(x.to_acc()) * dy.to_acc());
        })
    }
}

/// y = act(x).
pub fn forward<E: Element>(pool: &Pool, kind: Activation, x: &[E], y: &mut [E]) {
    map(pool, x, y, |x, y| apply(kind, x, y));
}

/// dx = act'(x) dy.
pub fn backward<E: Element>(pool: &Pool, kind: Activation, x: &[E], dy: &[E], dx: &mut [E]) {
    map2(pool, x, dy, dx, |x, dy, dx| differentiate(kind, x, dy, dx));
}
