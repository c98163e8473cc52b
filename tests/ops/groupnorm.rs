use deem::Context;
use deem::dtype::Element;
use deem::ops::groupnorm;
use half::bf16;

use crate::pointwise::*;
use crate::support;

const EPS: f64 = 1e-5;

#[derive(Clone, Copy, Debug)]
struct Case {
    b: usize,
    p: usize,
    c: usize,
    g: usize,
    silu: bool,
}

/// Outputs y, dx, dw, db, stats; dw and db start at 1. The residual is the last of the data, if it is there.
fn run<E: Element>(cx: &Context, case: Case, data: &[Vec<f64>]) -> Outputs {
    let Case { b, p, c, g, silu } = case;
    let [x, w, bias, dy] = [0, 1, 2, 3].map(|i| on::<E>(cx, &data[i]));
    let n = b * p * c;
    let (mut y, mut dx, mut stats) = (nan_on::<E>(cx, n), nan_on::<E>(cx, n), nan_on::<E::Acc>(cx, b * g * 2));
    let (mut dw, mut db) = (ones_on::<E::Acc>(cx, c), ones_on::<E::Acc>(cx, c));
    let (xv, wv, bv) = (v(&x, [b, p, c]), v(&w, [c]), v(&bias, [c]));
    groupnorm::forward(cx, xv, wv, bv, vm(&mut y, [b, p, c]), vm(&mut stats, [b, g, 2]), g, EPS, silu).unwrap();
    let (sv, dyv, dxv) = (v(&stats, [b, g, 2]), v(&dy, [b, p, c]), vm(&mut dx, [b, p, c]));
    let (dwv, dbv) = (Some(vm(&mut dw, [c])), Some(vm(&mut db, [c])));
    let residual = data.get(4).map(|residual| on::<E>(cx, residual));
    let residual = residual.as_ref().map(|residual| v(residual, [b, p, c]));
    groupnorm::backward(cx, xv, wv, bv, sv, dyv, residual, dxv, dwv, dbv, g, silu).unwrap();
    vec![wide(&y), wide(&dx), wide(&dw), wide(&db), wide(&stats)]
}

fn data(case: Case) -> Vec<Vec<f64>> {
    let n = case.b * case.p * case.c;
    let x = input("x", n).iter().map(|x| exact(x + 4.0)).collect();
    vec![x, input("w", case.c), input("b", case.c), input("dy", n)]
}

#[test]
fn oracle_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    let shapes = [
        (0, 4, 4, 2),
        (2, 9, 6, 3),
        (1, 1, 8, 2),
        (3, 50, 32, 8),
        (1, 5000, 12, 4),
        (2, 7, 1280, 32),
        (1, 33, 2000, 1),
        (20, 16, 16, 4),
    ];
    for ((b, p, c, g), silu) in shapes.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let case = Case { b, p, c, g, silu };
        let data = data(case);
        let oracle = run::<f64>(&host, case, &data);
        let per = c / g;
        for (bi, gi) in (0..b).flat_map(|b| (0..g).map(move |g| (b, g))) {
            let at = |i: usize| (bi * p + i / per) * c + gi * per + i % per;
            let n = p * per;
            let mean = (0..n).map(|i| data[0][at(i)]).sum::<f64>() / n as f64;
            let var = (0..n).map(|i| (data[0][at(i)] - mean).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let k = at(i) % c;
                let z = (data[0][at(i)] - mean) / (var + EPS).sqrt() * data[1][k] + data[2][k];
                let want = if silu { z / (1.0 + (-z).exp()) } else { z };
                assert!((oracle[0][at(i)] - want).abs() < 1e-11, "{case:?}");
            }
        }
        // Chains of at most 512 + c / g + 16 additions (tile, group, blocks) of numbers of which the mean is `4 rstd` deviations: worst
        // cases do not meet, their root is allowed for.
        let rstd = oracle[4].chunks(2).fold(1.0f64, |m, s| m.max(s[1]));
        let k = (528.0 + per as f64).sqrt() * 4.0 * rstd * rstd.max(1.0);
        let bounds = |u: fn(f64) -> f64| [u(k), u(2.0 * k), u(2.0 * k), u(2.0 * k), u(k)];
        compare(&format!("f32 {case:?}"), &run::<f32>(&cx, case, &data), &oracle, &bounds(bound::<f32>));
        compare(&format!("bf16 {case:?}"), &run::<bf16>(&cx, case, &data), &oracle, &bounds(bound::<bf16>));
        let data = [data, vec![input("residual", b * p * c)]].concat();
        let with_residual = run::<f64>(&host, case, &data);
        is_sum(&with_residual[1], &oracle[1], &data[4]);
        let name = format!("with a residual, {case:?}");
        compare(&name, &run::<f32>(&cx, case, &data), &with_residual, &bounds(bound::<f32>));
        compare(&name, &run::<bf16>(&cx, case, &data), &with_residual, &bounds(bound::<bf16>));
    }
}

#[test]
fn gradients() {
    let cx = Context::host(1);
    for (silu, g) in [(false, 2), (true, 2), (true, 4), (true, 1)] {
        let case = Case { b: 2, p: 5, c: 4, g, silu };
        let data = data(case);
        let out = run::<f64>(&cx, case, &data);
        let less_one = |x: &[f64]| x.iter().map(|x| x - 1.0).collect::<Vec<_>>();
        let gradients = [out[1].clone(), less_one(&out[2]), less_one(&out[3])];
        support::check_gradients("groupnorm", &data[..3], &data[3], &gradients, |i| {
            run::<f64>(&cx, case, &[i[0].clone(), i[1].clone(), i[2].clone(), data[3].clone()])[0].clone()
        });
    }
}

#[test]
fn a_large_mean_keeps_the_variance() {
    // Deviations of 1 around 4096: a difference of moments in f32 would lose the variance (4096^2 x 2^-24 = 1).
    let cx = Context::host(1);
    let n = 4096;
    let x: Vec<f32> = (0..n).map(|i| 4096.0 + if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let (mut y, mut stats) = (nan::<f32>(n), nan::<f32>(2));
    let (w, b) = ([1f32], [0f32]);
    groupnorm::forward(
        &cx,
        v(&x, [1, n, 1]),
        v(&w, [1]),
        v(&b, [1]),
        vm(&mut y, [1, n, 1]),
        vm(&mut stats, [1, 1, 2]),
        1,
        0.0,
        false,
    )
    .unwrap();
    assert_eq!(stats, [4096.0, 1.0]);
    assert_eq!(y[..2], [1.0, -1.0]);
}

#[test]
fn bits_and_errors() {
    for case in [Case { b: 1, p: 3000, c: 40, g: 8, silu: true }, Case { b: 5, p: 64, c: 96, g: 32, silu: true }] {
        let data = data(case);
        same_bits("groupnorm f32", |cx| run::<f32>(cx, case, &data));
        same_bits("groupnorm bf16", |cx| run::<bf16>(cx, case, &data));
    }
    let (x, mut y, mut stats) = ([0f32; 6], [0f32; 6], [0f32; 4]);
    let error = message(groupnorm::forward(
        &Context::host(1),
        v(&x, [1, 2, 3]),
        v(&x[..3], [3]),
        v(&x[..3], [3]),
        vm(&mut y, [1, 2, 3]),
        vm(&mut stats, [1, 2, 2]),
        2,
        EPS,
        false,
    ));
    assert_eq!(error, "groupnorm: 3 channels do not divide into 2 groups");
}
