use deem::Context;
use deem::dtype::Element;
use deem::ops::layernorm;
use half::bf16;

use crate::pointwise::*;
use crate::support::{self, device, filled, get, put, unset};

const EPS: f64 = 1e-5;

/// Outputs y, dx, dw, db, stats; `affine` says whether weight and bias exist. dw and db start at 1, to see that they are added to. The residual is
/// the last of the data, if it is there.
fn run<E: Element>(cx: &Context, r: usize, c: usize, affine: (bool, bool), data: &[Vec<f64>]) -> Outputs {
    let (x, dy) = (put::<E>(cx, [r, c], &data[0]), put::<E>(cx, [r, c], &data[3]));
    let (w, b) = (put::<E>(cx, [c], &data[1]), put::<E>(cx, [c], &data[2]));
    let (mut y, mut dx, mut stats) = (unset::<E>(cx, [r, c]), unset::<E>(cx, [r, c]), unset::<E::Acc>(cx, [r, 2]));
    let (mut dw, mut db) = (filled::<E::Acc>(cx, [c], 1.0), filled::<E::Acc>(cx, [c], 1.0));
    let weight = affine.0.then(|| w.view());
    let bias = affine.1.then(|| b.view());
    layernorm::forward(cx, x.view(), weight, bias, y.view_mut(), stats.view_mut(), EPS).unwrap();
    let (dwv, dbv) = (affine.0.then(|| dw.view_mut()), affine.1.then(|| db.view_mut()));
    let residual = data.get(4).map(|residual| put::<E>(cx, [r, c], residual));
    let residual = residual.as_ref().map(|residual| residual.view());
    layernorm::backward(cx, x.view(), weight, stats.view(), dy.view(), residual, dx.view_mut(), dwv, dbv).unwrap();
    vec![get(&y), get(&dx), get(&dw), get(&db), get(&stats)]
}

fn data(r: usize, c: usize) -> Vec<Vec<f64>> {
    let mut x = input("x", r * c);
    // A mean of several deviations, so that a variance by moments would be seen.
    x.iter_mut().for_each(|x| *x = exact(*x + 8.0));
    vec![x, input("w", c), input("b", c), input("dy", r * c)]
}

#[test]
fn oracle_and_narrow_types() {
    let (host, cx) = (Context::host(2), device());
    for (r, c) in [(0, 4), (1, 2), (3, 4), (700, 4), (5, 33), (130, 257), (3, 4096), (1, 40_000)] {
        let data = data(r, c);
        for affine in [(true, true), (false, false), (true, false), (false, true)] {
            let oracle = run::<f64>(&host, r, c, affine, &data);
            for i in 0..r {
                let x = &data[0][i * c..][..c];
                let mean = x.iter().sum::<f64>() / c as f64;
                let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
                for k in 0..c {
                    let mut want = (x[k] - mean) / (var + EPS).sqrt();
                    want = if affine.0 { want * data[1][k] } else { want };
                    want = if affine.1 { want + data[2][k] } else { want };
                    assert!((oracle[0][i * c + k] - want).abs() < 1e-11, "row {i} column {k}");
                }
            }
            // The mean carries c/16 + 4 roundings at worst (lanes and tree) of numbers near 8 deviations; a rounding of a row with a
            // deviation far below 8 (short rows) is amplified by 8 rstd, which the largest rstd states.
            let amplified = |stats: &[f64]| stats.chunks(2).fold(1.0f64, |m, s| m.max(8.0 * s[1]));
            let a = amplified(&oracle[4]);
            let k = (c as f64 / 16.0 + 4.0).min(64.0) * a * a;
            // In rows of two or three the terms of dx nearly cancel.
            let rstd = oracle[4].chunks(2).fold(0.0, |m, s| s[1].max(m));
            let terms = rstd * largest(&data[3]) * if affine.0 { largest(&data[1]) } else { 1.0 };
            let dx = k * cancellation(terms, &oracle[1]);
            let rows = 64.0 + r as f64 / 64.0;
            let bounds = |u: fn(f64) -> f64| [u(k), u(dx), u(k + rows), u(rows), u(k)];
            compare(&format!("f32 {r} {c}"), &run::<f32>(&cx, r, c, affine, &data), &oracle, &bounds(bound::<f32>));
            compare(&format!("bf16 {r} {c}"), &run::<bf16>(&cx, r, c, affine, &data), &oracle, &bounds(bound::<bf16>));
            let data = [data.clone(), vec![input("residual", r * c)]].concat();
            let with_residual = run::<f64>(&host, r, c, affine, &data);
            is_sum(&with_residual[1], &oracle[1], &data[4]);
            let name = format!("with a residual, {r} {c}");
            compare(&name, &run::<f32>(&cx, r, c, affine, &data), &with_residual, &bounds(bound::<f32>));
            compare(&name, &run::<bf16>(&cx, r, c, affine, &data), &with_residual, &bounds(bound::<bf16>));
        }
    }
}

#[test]
fn gradients() {
    let cx = Context::host(1);
    for (r, c) in [(1, 1), (3, 4), (2, 19)] {
        let data = data(r, c);
        for affine in [(true, true), (false, false)] {
            let out = run::<f64>(&cx, r, c, affine, &data);
            let less_one = |x: &[f64]| x.iter().map(|x| x - 1.0).collect::<Vec<_>>();
            let (dw, db) = if affine.0 { (less_one(&out[2]), less_one(&out[3])) } else { (vec![], vec![]) };
            support::check_gradients("layernorm", &data[..3], &data[3], &[out[1].clone(), dw, db], |i| {
                let moved = vec![i[0].clone(), i[1].clone(), i[2].clone(), data[3].clone()];
                run::<f64>(&cx, r, c, affine, &moved)[0].clone()
            });
        }
    }
}

#[test]
fn bits_and_errors() {
    for (r, c) in [(3000, 64), (300, 1100)] {
        let data = data(r, c);
        same_bits("layernorm f32", |cx| run::<f32>(cx, r, c, (true, true), &data));
        same_bits("layernorm bf16", |cx| run::<bf16>(cx, r, c, (true, true), &data));
    }
    let (cx, x) = (Context::host(1), [1f32; 6]);
    let (mut y, mut stats) = ([0f32; 6], [0f32; 4]);
    let error = message(layernorm::forward(
        &cx,
        v(&x, [2, 3]),
        Some(v(&x[..2], [2])),
        None,
        vm(&mut y, [2, 3]),
        vm(&mut stats, [2, 2]),
        EPS,
    ));
    assert_eq!(error, "layernorm: `weight` has shape [2], expected [3]");
    let planning = Context::planning();
    let none: [f32; 0] = [];
    layernorm::forward(&planning, v(&none, [2, 3]), None, None, vm(&mut [], [2, 3]), vm(&mut [], [2, 2]), EPS).unwrap();
}
