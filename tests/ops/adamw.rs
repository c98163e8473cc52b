use deem::Context;
use deem::dtype::{DType, Element, Real};
use deem::ops::adamw::{self, AdamW, GradScale, Group};
use deem::ops::reduce;
use half::bf16;

use crate::pointwise::*;
use crate::support::{device, filled, get, put};

const HYPER: AdamW = AdamW { beta1: 0.9, beta2: 0.995, eps: 1e-8 };

fn groups(n: usize) -> Vec<Group> {
    // Out of order, one empty, and a gap that must stay untouched.
    vec![
        Group { start: n / 2, len: n - n / 2, lr: 1e-2, weight_decay: 0.05 },
        Group { start: 0, len: n / 3, lr: 3e-3, weight_decay: 0.0 },
        Group { start: 0, len: 0, lr: 1.0, weight_decay: 1.0 },
    ]
}

/// Outputs params, master, m, v after three steps.
fn run<E: Element>(cx: &Context, n: usize) -> Outputs {
    let mut params = put::<E>(cx, [n], &input("p", n));
    let mut master = (E::DTYPE == DType::Bf16).then(|| put::<E::Acc>(cx, [n], &input("p", n)));
    let (mut m, mut v) = (filled::<E::Acc>(cx, [n], 0.0), filled::<E::Acc>(cx, [n], 0.0));
    for step in 1..=3 {
        let grads = put::<E::Acc>(cx, [n], &input(&format!("g{step}"), n));
        let master = master.as_mut().map(|master| master.view_mut());
        let (params, m, v) = (params.view_mut(), m.view_mut(), v.view_mut());
        adamw::step(cx, params, master, grads.view(), m, v, &groups(n), &HYPER, step, GradScale::by(0.5)).unwrap();
    }
    let master = master.map_or_else(|| get(&params), |master| get(&master));
    vec![get(&params), master, get(&m), get(&v)]
}

#[test]
fn formulas_and_narrow_types() {
    let (host, cx) = (Context::host(2), device());
    for n in [0, 1, 50, 100_001] {
        let oracle = run::<f64>(&host, n);
        let (mut p, mut m, mut v) = (input("p", n), vec![0.0; n], vec![0.0; n]);
        for k in 1..=3 {
            let g = input(&format!("g{k}"), n);
            for group in groups(n) {
                for i in group.start..group.start + group.len {
                    let g = 0.5 * g[i];
                    p[i] *= 1.0 - group.lr * group.weight_decay;
                    m[i] = 0.9 * m[i] + (1.0 - 0.9) * g;
                    v[i] = 0.995 * v[i] + (1.0 - 0.995) * g * g;
                    let (a, b) = (1.0 - 0.9f64.powi(k), 1.0 - 0.995f64.powi(k));
                    p[i] -= group.lr * (m[i] / a) / ((v[i] / b).sqrt() + 1e-8);
                }
            }
        }
        compare("f64", &oracle, &vec![p.clone(), p, m, v], &[1e-13]);
        // Three steps of at most six roundings each.
        compare("f32", &run::<f32>(&cx, n), &oracle, &[bound::<f32>(18.0)]);
        let u = bound::<f32>(18.0);
        compare("bf16", &run::<bf16>(&cx, n), &oracle, &[bound::<bf16>(18.0), u, u, u]);
    }
}

/// Gradients are scaled down to the largest norm, and one that is not finite changes nothing.
#[test]
fn clipping_and_gradients_that_are_not_finite() {
    const N: usize = 3000;
    fn once<E: Real>(cx: &Context, grads: &[f64], factor: f64, largest: f64, find: bool) -> Outputs {
        let mut params = put::<E>(cx, [N], &input("p", N));
        let grads = put::<E>(cx, [N], grads);
        let (mut m, mut v) = (filled::<E>(cx, [N], 0.0), filled::<E>(cx, [N], 0.0));
        let norm_squared = reduce::norm_squared(cx, grads.view()).unwrap();
        let scale = GradScale { factor, largest, norm_squared: find.then_some(&norm_squared) };
        let to = (params.view_mut(), m.view_mut(), v.view_mut());
        adamw::step(cx, to.0, None, grads.view(), to.1, to.2, &groups(N), &HYPER, 1, scale).unwrap();
        vec![get(&params), get(&m), get(&v)]
    }
    let (host, cx) = (Context::host(2), device());
    let grads = input("g", N);
    let norm = 0.25 * grads.iter().map(|g| g * g).sum::<f64>().sqrt();
    for (largest, scale) in [(0.0, 0.25), (2.0 * norm, 0.25), (0.5 * norm, 0.25 * 0.5 * norm / (norm + 1e-6))] {
        let wanted = once::<f64>(&host, &grads, scale, 0.0, false);
        compare("f64", &once::<f64>(&host, &grads, 0.25, largest, true), &wanted, &[1e-13]);
        // One step of at most six roundings.
        compare("f32", &once::<f32>(&cx, &grads, 0.25, largest, true), &wanted, &[bound::<f32>(6.0)]);
    }
    for bad in [f64::NAN, f64::INFINITY] {
        let mut grads = grads.clone();
        grads[N / 2] = bad;
        let untouched = vec![input("p", N), vec![0.0; N], vec![0.0; N]];
        let narrow = |x: Outputs| x.iter().map(|x| x.iter().map(|&x| x as f32).collect()).collect::<Vec<Vec<f32>>>();
        assert_eq!(narrow(once::<f32>(&cx, &grads, 1.0, 1.0, true)), narrow(untouched));
    }
}

#[test]
fn bits_and_errors() {
    same_bits("adamw f32", |cx| run::<f32>(cx, 100_001));
    same_bits("adamw bf16", |cx| run::<bf16>(cx, 100_001));
    let cx = Context::host(1);
    let (mut p, mut m, mut v, g) = ([0f32; 4], [0f32; 4], [0f32; 4], [0f32; 4]);
    let group = |start, len| Group { start, len, lr: 0.1, weight_decay: 0.0 };
    let mut go = |groups: &[Group], step| {
        let (p, m, v) = (vm(&mut p, [4]), vm(&mut m, [4]), vm(&mut v, [4]));
        message(adamw::step(&cx, p, None, crate::pointwise::v(&g, [4]), m, v, groups, &HYPER, step, GradScale::by(1.0)))
    };
    assert_eq!(go(&[group(0, 4)], 0), "adamw: steps count from 1");
    assert_eq!(go(&[group(2, 3)], 1), "adamw: group 0 is 3 elements from 2 of 4");
    assert_eq!(go(&[group(0, 3), group(2, 2)], 1), "adamw: groups 0 and 1 overlap");
    let mut p = [bf16::ZERO; 4];
    let (p, m, v) = (vm(&mut p, [4]), vm(&mut m, [4]), vm(&mut v, [4]));
    let error =
        message(adamw::step(&cx, p, None, crate::pointwise::v(&g, [4]), m, v, &[], &HYPER, 1, GradScale::by(1.0)));
    assert_eq!(error, "adamw: parameters in bf16 need a master copy in f32");
}
