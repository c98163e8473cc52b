use deem::Context;
use deem::dtype::Element;
use deem::ops::rmsnorm;
use half::bf16;

use crate::pointwise::*;
use crate::support;

const EPS: f64 = 1e-6;

/// Outputs y, dx, dw, rstd; dw starts at 1. The residual is the last of the data, if it is there.
fn run<E: Element>(cx: &Context, r: usize, c: usize, data: &[Vec<f64>]) -> Outputs {
    let [x, w, dy] = [0, 1, 2].map(|i| on::<E>(cx, &data[i]));
    let (mut y, mut dx, mut rstd) = (nan_on::<E>(cx, r * c), nan_on::<E>(cx, r * c), nan_on::<E::Acc>(cx, r));
    let mut dw = ones_on::<E::Acc>(cx, c);
    rmsnorm::forward(cx, v(&x, [r, c]), v(&w, [c]), vm(&mut y, [r, c]), vm(&mut rstd, [r]), EPS).unwrap();
    let residual = data.get(3).map(|residual| on::<E>(cx, residual));
    let (rv, dyv, beside) = (v(&rstd, [r]), v(&dy, [r, c]), residual.as_ref().map(|x| v(x, [r, c])));
    let (dxv, dwv) = (vm(&mut dx, [r, c]), Some(vm(&mut dw, [c])));
    rmsnorm::backward(cx, v(&x, [r, c]), v(&w, [c]), rv, dyv, beside, dxv, dwv).unwrap();
    vec![wide(&y), wide(&dx), wide(&dw), wide(&rstd)]
}

fn data(r: usize, c: usize) -> Vec<Vec<f64>> {
    vec![input("x", r * c), input("w", c), input("dy", r * c)]
}

#[test]
fn oracle_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (r, c) in [(0, 4), (1, 1), (700, 4), (5, 33), (130, 257), (3, 4096), (1, 40_000)] {
        let data = data(r, c);
        let oracle = run::<f64>(&host, r, c, &data);
        for i in 0..r {
            let x = &data[0][i * c..][..c];
            let mean = x.iter().map(|x| x * x).sum::<f64>() / c as f64;
            for k in 0..c {
                let want = x[k] / (mean + EPS).sqrt() * data[1][k];
                assert!((oracle[0][i * c + k] - want).abs() < 1e-12, "row {i} column {k}");
            }
        }
        // A sum of positive terms in 16 lanes: at worst c/16 + 4 roundings, of which the root halves the effect; 8 more elsewhere.
        // dw adds up to r rows in segments of 64.
        let k = c as f64 / 16.0 + 16.0;
        // In rows of one the two terms of dx cancel but for eps.
        let terms = largest(&oracle[3]) * largest(&data[1]) * largest(&data[2]);
        let dx = k * cancellation(terms, &oracle[1]);
        let bounds = |u: fn(f64) -> f64| [u(k), u(dx), u(k + 64.0 + r as f64 / 64.0), u(k)];
        compare(&format!("f32 {r} {c}"), &run::<f32>(&cx, r, c, &data), &oracle, &bounds(bound::<f32>));
        compare(&format!("bf16 {r} {c}"), &run::<bf16>(&cx, r, c, &data), &oracle, &bounds(bound::<bf16>));
        let data = [data, vec![input("residual", r * c)]].concat();
        let with_residual = run::<f64>(&host, r, c, &data);
        is_sum(&with_residual[1], &oracle[1], &data[3]);
        let name = format!("with a residual, {r} {c}");
        compare(&name, &run::<f32>(&cx, r, c, &data), &with_residual, &bounds(bound::<f32>));
        compare(&name, &run::<bf16>(&cx, r, c, &data), &with_residual, &bounds(bound::<bf16>));
    }
}

#[test]
fn gradients() {
    let cx = Context::host(1);
    for (r, c) in [(1, 1), (3, 4), (2, 19)] {
        let data = data(r, c);
        let out = run::<f64>(&cx, r, c, &data);
        let dw = out[2].iter().map(|x| x - 1.0).collect();
        support::check_gradients("rmsnorm", &data[..2], &data[2], &[out[1].clone(), dw], |i| {
            run::<f64>(&cx, r, c, &[i[0].clone(), i[1].clone(), data[2].clone()])[0].clone()
        });
    }
}

#[test]
fn bits_agree() {
    let data = data(300, 1100);
    same_bits("rmsnorm f32", |cx| run::<f32>(cx, 300, 1100, &data));
    same_bits("rmsnorm bf16", |cx| run::<bf16>(cx, 300, 1100, &data));
}
