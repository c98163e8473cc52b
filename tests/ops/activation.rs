use deem::Context;
use deem::dtype::Element;
use deem::ops::activation::{self, Activation};
use half::bf16;

use crate::pointwise::*;
use crate::support::{self, device, get, put, unset};

const KINDS: [Activation; 5] =
    [Activation::None, Activation::Relu, Activation::Gelu, Activation::QuickGelu, Activation::Silu];

fn run<E: Element>(cx: &Context, kind: Activation, x: &[f64], dy: &[f64]) -> Outputs {
    let n = x.len();
    let (x, dy) = (put::<E>(cx, [n], x), put::<E>(cx, [n], dy));
    let (mut y, mut dx) = (unset::<E>(cx, [n]), unset::<E>(cx, [n]));
    activation::forward(cx, kind, x.view(), y.view_mut()).unwrap();
    activation::backward(cx, kind, x.view(), dy.view(), dx.view_mut()).unwrap();
    vec![get(&y), get(&dx)]
}

#[test]
fn f64_is_the_formula_and_narrow_types_are_near() {
    let (host, cx) = (Context::host(2), device());
    for n in [0, 1, 17, 1000, 40_000] {
        let (x, dy) = (input("x", n).iter().map(|x| exact(3.0 * x)).collect::<Vec<_>>(), input("dy", n));
        for kind in KINDS {
            let oracle = run::<f64>(&host, kind, &x, &dy);
            for (&y, &x) in oracle[0].iter().zip(&x) {
                let s = |x: f64| 1.0 / (1.0 + (-x).exp());
                let want = match kind {
                    Activation::None => x,
                    Activation::Relu => f64::max(x, 0.0),
                    Activation::Gelu => x * 0.5 * erfc(-x / 2f64.sqrt()),
                    Activation::QuickGelu => x * s(1.702 * x),
                    Activation::Silu => x * s(x),
                };
                assert!((y - want).abs() <= 1e-14 * x.abs().max(1.0), "{kind:?}({x}) = {y}, expected {want}");
            }
            // A dozen roundings, of which those of 1 + erf and 1 - s are relative to 1; |x| <= 15 amplifies those of the argument.
            compare(&format!("{kind:?} f32"), &run::<f32>(&cx, kind, &x, &dy), &oracle, &[bound::<f32>(32.0)]);
            compare(&format!("{kind:?} bf16"), &run::<bf16>(&cx, kind, &x, &dy), &oracle, &[bound::<bf16>(32.0)]);
        }
    }
}

/// erfc by its continued fraction or series: a second opinion on the error function.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 3.0 {
        // All terms are positive: erf(x) = 2 / sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (2n+1)!!
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= 2.0 * x * x / (2 * n + 1) as f64;
            sum += term;
        }
        return 1.0 - sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt();
    }
    let fraction = (1..200).rev().fold(0.0, |f, k| k as f64 / 2.0 / (x + f));
    (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + fraction)
}

#[test]
fn gradients() {
    let cx = Context::host(1);
    let (x, dy) = (input("gx", 33), input("gdy", 33));
    for kind in KINDS {
        let dx = run::<f64>(&cx, kind, &x, &dy)[1].clone();
        support::check_gradients(&format!("{kind:?}"), std::slice::from_ref(&x), &dy, &[dx], |i| {
            run::<f64>(&cx, kind, &i[0], &dy)[0].clone()
        });
    }
}

#[test]
fn bits_and_errors() {
    let (x, dy) = (input("x", 40_001), input("dy", 40_001));
    for kind in KINDS {
        same_bits(&format!("{kind:?}"), |cx| run::<f32>(cx, kind, &x, &dy));
        same_bits(&format!("{kind:?}"), |cx| run::<bf16>(cx, kind, &x, &dy));
    }
    let mut y = [0f32; 2];
    let error = message(activation::forward(&Context::host(1), Activation::Silu, v(&[1f32; 3], [3]), vm(&mut y, [2])));
    assert_eq!(error, "activation: `y` has shape [2], expected [3]");
}
