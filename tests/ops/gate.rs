//! The gate against its definition, and gradients against central differences.

use deem::Context;
use deem::dtype::Element;
use deem::ops::gate;
use half::bf16;

use crate::pointwise::*;
use crate::support::{self, device, filled, get, put, unset};

/// Outputs y, dx, d_gate (from 1).
fn run<E: Element>(cx: &Context, n: usize, data: &[Vec<f64>]) -> Outputs {
    let (x, dy, g) = (put::<E>(cx, [n], &data[0]), put::<E>(cx, [n], &data[1]), put::<E>(cx, [1], &data[2]));
    let (mut y, mut dx) = (unset::<E>(cx, [n]), unset::<E>(cx, [n]));
    let mut d_gate = filled::<E::Acc>(cx, [1], 1.0);
    gate::forward(cx, g.view(), x.view(), y.view_mut()).unwrap();
    gate::backward(cx, g.view(), x.view(), dy.view(), dx.view_mut(), Some(d_gate.view_mut())).unwrap();
    vec![get(&y), get(&dx), get(&d_gate)]
}

fn data(n: usize) -> Vec<Vec<f64>> {
    vec![input("x", n), input("dy", n), vec![exact(0.3)]]
}

#[test]
fn the_definition_in_every_type() {
    let (host, cx) = (Context::host(2), device());
    for n in [0, 1, 7, 5000] {
        let data = data(n);
        let oracle = run::<f64>(&host, n, &data);
        let opening = data[2][0].tanh();
        let dot: f64 = data[0].iter().zip(&data[1]).map(|(x, dy)| x * dy).sum();
        let scaled = |x: &[f64]| x.iter().map(|x| opening * x).collect::<Vec<_>>();
        let d_gate = vec![1.0 + (1.0 - opening * opening) * dot];
        compare("f64", &oracle, &vec![scaled(&data[0]), scaled(&data[1]), d_gate], &[1e-13]);
        // The sum of n products of random sign: their rounding grows as the root of n, against a sum that does too.
        let terms = (n as f64).sqrt() + 8.0;
        let bounds = |u: fn(f64) -> f64| [u(4.0), u(4.0), u(terms) * terms];
        compare("f32", &run::<f32>(&cx, n, &data), &oracle, &bounds(bound::<f32>));
        let narrow = [bound::<bf16>(4.0), bound::<bf16>(4.0), bound::<f32>(terms) * terms];
        compare("bf16", &run::<bf16>(&cx, n, &data), &oracle, &narrow);
    }
}

#[test]
fn gradients() {
    let cx = Context::host(1);
    let data = data(6);
    let out = run::<f64>(&cx, 6, &data);
    let d_gate = vec![out[2][0] - 1.0];
    support::check_gradients("gate", &[data[0].clone(), data[2].clone()], &data[1], &[out[1].clone(), d_gate], |i| {
        run::<f64>(&cx, 6, &[i[0].clone(), data[1].clone(), i[1].clone()])[0].clone()
    });
}

#[test]
fn bits_and_errors() {
    let data = data(5000);
    same_bits("gate f32", |cx| run::<f32>(cx, 5000, &data));
    let (cx, x, mut y) = (Context::host(1), [1f32; 2], [0f32; 2]);
    let error = message(gate::forward(&cx, v(&x, [2]), v(&x, [2]), vm(&mut y, [2])));
    assert!(error.contains("`gate` has shape [2], expected one element"), "{error}");
}
