use deem::Context;
use deem::dtype::{Element, Real};
use deem::ops::fold::{self, Gradients, Layers};
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Inputs gamma, beta, W, b and cotangents dF, dg.
fn data(o: usize, c: usize) -> Vec<Vec<f64>> {
    [("gamma", c), ("beta", c), ("w", o * c), ("b", o), ("df", o * c), ("dg", o)]
        .map(|(name, n)| input(name, n))
        .to_vec()
}

/// F, g and the gradients of gamma, beta, W and b, which begin at 1 to see that they are added to.
fn run<E: Element>(cx: &Context, o: usize, c: usize, data: &[Vec<f64>]) -> Outputs {
    let [gamma, beta, weight, bias] = [0, 1, 2, 3].map(|i| on::<E>(cx, &data[i]));
    let [d_weight, d_bias] = [4, 5].map(|i| on::<E::Acc>(cx, &data[i]));
    let layers = Layers { gamma: v(&gamma, [c]), beta: v(&beta, [c]), weight: v(&weight, [o, c]), bias: v(&bias, [o]) };
    let (mut f, mut g) = (nan_on::<E>(cx, o * c), nan_on::<E>(cx, o));
    fold::forward(cx, layers, vm(&mut f, [o, c]), vm(&mut g, [o])).unwrap();
    let mut to = [c, c, o * c, o].map(|n| ones_on::<E::Acc>(cx, n));
    let [gamma, beta, weight, bias] = &mut to;
    let gradients = Gradients {
        gamma: Some(vm(gamma, [c])),
        beta: Some(vm(beta, [c])),
        weight: Some(vm(weight, [o, c])),
        bias: Some(vm(bias, [o])),
    };
    fold::backward(cx, layers, v(&d_weight, [o, c]), v(&d_bias, [o]), gradients).unwrap();
    let mut outputs = vec![wide(&f), wide(&g)];
    outputs.extend(to.iter().map(wide));
    outputs
}

/// The definition, and its derivative by hand.
fn exact_outputs(o: usize, c: usize, x: &[Vec<f64>]) -> Outputs {
    let [gamma, beta, w, b, df, dg] = [0, 1, 2, 3, 4, 5].map(|i| &x[i]);
    let rows = |f: &dyn Fn(usize, usize) -> f64| -> Vec<f64> { (0..o * c).map(|k| f(k / c, k % c)).collect() };
    let over_rows = |f: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..c).map(|k| 1.0 + (0..o).map(|i| f(i, k)).sum::<f64>()).collect()
    };
    vec![
        rows(&|i, k| w[i * c + k] * gamma[k]),
        (0..o).map(|i| b[i] + (0..c).map(|k| w[i * c + k] * beta[k]).sum::<f64>()).collect(),
        over_rows(&|i, k| w[i * c + k] * df[i * c + k]),
        over_rows(&|i, k| w[i * c + k] * dg[i]),
        rows(&|i, k| 1.0 + df[i * c + k] * gamma[k] + dg[i] * beta[k]),
        dg.iter().map(|d| 1.0 + d).collect(),
    ]
}

#[test]
fn fold_is_its_definition() {
    let (host, cx) = (Context::host(2), support::device());
    for (o, c) in [(0, 3), (1, 1), (3, 16), (5, 33), (48, 64), (7, 300)] {
        let data = data(o, c);
        let exact = exact_outputs(o, c, &data);
        compare(&format!("f64 {o} {c}"), &run::<f64>(&host, o, c, &data), &exact, &[1e-13]);
        // A sum of n terms carries at most n roundings, amplified where its terms cancel.
        let sum = |terms: usize, result: &[f64]| {
            let size = largest(&data[2]) * largest(&data[1]).max(largest(&data[4])).max(largest(&data[5]));
            (terms as f64 + 2.0) * cancellation(size, result)
        };
        let bounds = |u: fn(f64) -> f64| {
            let parameter = <f32 as Real>::ROUNDOFF;
            let (gamma, beta) = (sum(o, &exact[2]) * parameter, sum(o, &exact[3]) * parameter);
            [u(1.0), u(sum(c, &exact[1])), gamma, beta, 4.0 * parameter, 2.0 * parameter]
        };
        compare(&format!("f32 {o} {c}"), &run::<f32>(&cx, o, c, &data), &exact, &bounds(bound::<f32>));
        compare(&format!("bf16 {o} {c}"), &run::<bf16>(&cx, o, c, &data), &exact, &bounds(bound::<bf16>));
    }
}

#[test]
fn fold_bits() {
    let data = data(48, 65);
    same_bits("fold", |cx| run::<f32>(cx, 48, 65, &data));
}

#[test]
fn fold_errors() {
    let cx = Context::host(1);
    let (x, w) = ([0f32; 3], [0f32; 6]);
    let layers = Layers { gamma: v(&x, [3]), beta: v(&x[..2], [2]), weight: v(&w, [2, 3]), bias: v(&x[..2], [2]) };
    let (mut f, mut g) = ([0f32; 6], [0f32; 2]);
    let text = message(fold::forward(&cx, layers, vm(&mut f, [2, 3]), vm(&mut g, [2])));
    assert!(text.contains("beta") && text.contains("[2]") && text.contains("[3]"), "{text}");
}
