use deem::Context;
use deem::dtype::Element;
use deem::ops::mse;
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Outputs [loss], dpred, map; the loss with and without a map must be one number.
fn run<E: Element>(cx: &Context, pixels: usize, c: usize, factor: Option<&[f32]>, data: &[Vec<f64>]) -> Outputs {
    let (p, t) = (on::<E>(cx, &data[0]), on::<E>(cx, &data[1]));
    let (mut d, mut map) = (nan_on::<E>(cx, pixels * c), nan_on::<E>(cx, pixels * c));
    let shape = [1, pixels, c];
    let loss = mse::forward(cx, v(&p, shape), v(&t, shape), factor, Some(vm(&mut map, shape))).unwrap();
    let loss = loss.value().unwrap();
    assert_eq!(loss, mse::forward(cx, v(&p, shape), v(&t, shape), factor, None).unwrap().value().unwrap());
    mse::backward(cx, v(&p, shape), v(&t, shape), factor, 1.0, vm(&mut d, shape)).unwrap();
    vec![vec![loss], wide(&d), wide(&map)]
}

fn problem(pixels: usize, c: usize) -> (Vec<Vec<f64>>, Vec<f32>) {
    let factor = (0..pixels).map(|i| [0.0, 1.0, 2.5][i % 3]).collect();
    (vec![input("pred", pixels * c), input("target", pixels * c)], factor)
}

#[test]
fn oracle_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (pixels, c) in [(0, 4), (1, 1), (9, 4), (10_000, 4), (3, 1000)] {
        let (data, factor) = problem(pixels, c);
        for factor in [None, Some(&factor[..])] {
            let oracle = run::<f64>(&host, pixels, c, factor, &data);
            let f = |i: usize| factor.map_or(1.0, |f| f64::from(f[i / c]));
            let terms: Vec<f64> = (0..pixels * c).map(|i| f(i) * (data[0][i] - data[1][i]).powi(2)).collect();
            let mean = terms.iter().sum::<f64>() / (pixels * c).max(1) as f64;
            assert!((oracle[0][0] - mean).abs() <= 1e-12 * mean);
            // Four roundings per term; the sum is f64.
            compare("f32", &run::<f32>(&cx, pixels, c, factor, &data), &oracle, &[bound::<f32>(4.0)]);
            compare(
                "bf16",
                &run::<bf16>(&cx, pixels, c, factor, &data),
                &oracle,
                &[bound::<f32>(4.0), bound::<bf16>(4.0)],
            );
        }
    }
}

#[test]
fn gradients_bits_and_errors() {
    let cx = Context::host(1);
    let (data, factor) = problem(6, 4);
    let d = run::<f64>(&cx, 6, 4, Some(&factor), &data)[1].clone();
    support::check_gradients("mse", &data[..1], &[1.0], &[d], |i| {
        run::<f64>(&cx, 6, 4, Some(&factor), &[i[0].clone(), data[1].clone()])[0].clone()
    });
    let (data, factor) = problem(10_000, 4);
    same_bits("mse", |cx| run::<f32>(cx, 10_000, 4, Some(&factor), &data));
    let x = [0f32; 4];
    let error = message(mse::forward(&cx, v(&x, [2, 2]), v(&x, [2, 2]), Some(&[1.0]), None));
    assert_eq!(error, "mse: 1 factors for the 2 pixels of `pred` [2, 2]");
}
