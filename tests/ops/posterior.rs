//! The posterior against its definition, and gradients against central differences.

use deem::Context;
use deem::dtype::Element;
use deem::ops::posterior;
use half::bf16;

use crate::pointwise::*;
use crate::support::{self, device, get, put, unset};

const SCALING: f64 = 0.5;
const WEIGHT: f64 = 0.25;

/// Outputs latents, mode, d_moments, divergence; rows of z latents.
fn run<E: Element>(cx: &Context, r: usize, z: usize, data: &[Vec<f64>]) -> Outputs {
    let (moments, noise) = (put::<E>(cx, [r, 2 * z], &data[0]), put::<E>(cx, [r, z], &data[1]));
    let d = put::<E>(cx, [r, z], &data[2]);
    let (mut y, mut mode, mut dm) = (unset::<E>(cx, [r, z]), unset::<E>(cx, [r, z]), unset::<E>(cx, [r, 2 * z]));
    posterior::forward(cx, moments.view(), Some(noise.view()), y.view_mut(), SCALING).unwrap();
    posterior::forward(cx, moments.view(), None, mode.view_mut(), SCALING).unwrap();
    let (noise, d) = (noise.view(), d.view());
    let divergence = posterior::backward(cx, moments.view(), noise, d, dm.view_mut(), SCALING, WEIGHT).unwrap();
    vec![get(&y), get(&mode), get(&dm), vec![divergence.value().unwrap()]]
}

/// Moments, some of whose log-variances are beyond the clamp; noise, cotangents.
fn data(r: usize, z: usize) -> Vec<Vec<f64>> {
    let mut moments = input("moments", r * 2 * z);
    for (i, m) in moments.iter_mut().enumerate().filter(|(i, _)| i % (2 * z) >= z) {
        *m = if i % 11 == 0 { -40.0 } else { *m };
    }
    vec![moments, input("noise", r * z), input("d", r * z)]
}

#[test]
fn the_definition_in_every_type() {
    let (host, cx) = (Context::host(2), device());
    for (r, z) in [(0, 4), (1, 1), (3, 4), (700, 8)] {
        let data = data(r, z);
        let oracle = run::<f64>(&host, r, z, &data);
        let mut divergence = 0.0;
        for i in 0..r * z {
            let at = i / z * 2 * z + i % z;
            let (mean, logvar) = (data[0][at], data[0][at + z]);
            let std = (0.5 * logvar.clamp(-30.0, 20.0)).exp();
            divergence += 0.5 * (mean * mean + std * std - 1.0 - logvar);
            assert!((oracle[0][i] - SCALING * (mean + std * data[1][i])).abs() < 1e-13);
            assert!((oracle[1][i] - SCALING * mean).abs() < 1e-13);
        }
        assert!((oracle[3][0] - divergence).abs() <= 1e-12 * divergence.abs());
        // An exponential and a few products; the divergence adds terms that nearly all have one sign.
        let bounds = |u: f64| [u, u, 2.0 * u, bound::<f32>(64.0)];
        compare("f32", &run::<f32>(&cx, r, z, &data), &oracle, &bounds(bound::<f32>(16.0)));
        compare("bf16", &run::<bf16>(&cx, r, z, &data), &oracle, &bounds(bound::<bf16>(16.0)));
    }
}

#[test]
fn gradients() {
    let (cx, r, z) = (Context::host(1), 3, 2);
    let data = data(r, z);
    let out = run::<f64>(&cx, r, z, &data);
    // The divergence as one more number, whose cotangent is its weight.
    let cotangent: Vec<f64> = data[2].iter().copied().chain([WEIGHT]).collect();
    support::check_gradients("posterior", &data[..1], &cotangent, &out[2..3], |i| {
        let y = run::<f64>(&cx, r, z, &[i[0].clone(), data[1].clone(), data[2].clone()]);
        [&y[0][..], &y[3][..]].concat()
    });
}

#[test]
fn bits_and_errors() {
    let data = data(700, 8);
    same_bits("posterior f32", |cx| run::<f32>(cx, 700, 8, &data));
    let (cx, x, mut y) = (Context::host(1), [1f32; 6], [0f32; 2]);
    let error = message(posterior::forward(&cx, v(&x, [1, 6]), None, vm(&mut y, [1, 2]), 1.0));
    assert!(error.contains("`moments`") && error.contains("[1, 4]"), "{error}");
}
