use deem::Context;
use deem::dtype::Element;
use deem::memory::Tensor;
use deem::ops::add;
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Outputs of forward, add_assign, axpy, scale, scale_channels, its dx and dgamma (from 1), add_channels, mask_rows.
fn run<E: Element>(cx: &Context, r: usize, c: usize, data: &[Vec<f64>]) -> Outputs {
    let [a, b, gamma] = [0, 1, 2].map(|i| on::<E>(cx, &data[i]));
    let keep: Vec<f32> = (0..r).map(|i| [0.0, 1.0, 1.25][i % 3]).collect();
    let s = [r, c];
    let (av, bv, gv) = (v(&a, s), v(&b, s), v(&gamma, [c]));
    let mut out: [Tensor<E>; 8] = std::array::from_fn(|_| nan_on::<E>(cx, r * c));
    let [sum, assigned, axpy, scaled, channels, dx, added, masked] = &mut out;
    add::forward(cx, av, bv, vm(sum, s)).unwrap();
    *assigned = on::<E>(cx, &data[1]);
    add::add_assign(cx, av, vm(assigned, s)).unwrap();
    assert!(wide(sum) == wide(assigned));
    *axpy = on::<E>(cx, &data[1]);
    add::axpy(cx, -0.75, av, vm(axpy, s)).unwrap();
    add::scale(cx, 0.3, av, vm(scaled, s)).unwrap();
    add::scale_channels(cx, gv, av, vm(channels, s)).unwrap();
    let mut dgamma = ones_on::<E::Acc>(cx, c);
    add::scale_channels_backward(cx, gv, av, bv, vm(dx, s), Some(vm(&mut dgamma, [c]))).unwrap();
    add::add_channels(cx, gv, av, vm(added, s)).unwrap();
    add::mask_rows(cx, &keep, av, vm(masked, s)).unwrap();
    out.iter().map(wide).chain([wide(&dgamma)]).collect()
}

fn data(r: usize, c: usize) -> Vec<Vec<f64>> {
    vec![input("a", r * c), input("b", r * c), input("gamma", c)]
}

#[test]
fn plain_loops_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (r, c) in [(0, 4), (1, 1), (5, 7), (700, 64), (3, 20_000)] {
        let data = data(r, c);
        let (a, b, g) = (&data[0], &data[1], &data[2]);
        let each = |f: &dyn Fn(usize) -> f64| (0..r * c).map(f).collect::<Vec<f64>>();
        let sum = each(&|i| a[i] + b[i]);
        let mut dgamma = vec![1.0; c];
        (0..r * c).for_each(|i| dgamma[i % c] += a[i] * b[i]);
        let exact = vec![
            sum.clone(),
            sum,
            each(&|i| b[i] - 0.75 * a[i]),
            each(&|i| 0.3 * a[i]),
            each(&|i| g[i % c] * a[i]),
            each(&|i| g[i % c] * b[i]),
            each(&|i| g[i % c] + a[i]),
            each(&|i| [0.0, 1.0, 1.25][i / c % 3] * a[i]),
            dgamma,
        ];
        compare("f64", &run::<f64>(&host, r, c, &data), &exact, &[1e-13]);
        // At most three roundings; dgamma sums r terms in segments of 64, relative to a largest sum near sqrt(r).
        let rows = 64.0 + r as f64 / 64.0;
        let bounds = |u: fn(f64) -> f64| [[u(3.0); 8].as_slice(), &[bound::<f32>(rows)]].concat();
        compare("f32", &run::<f32>(&cx, r, c, &data), &exact, &bounds(bound::<f32>));
        compare("bf16", &run::<bf16>(&cx, r, c, &data), &exact, &bounds(bound::<bf16>));
    }
}

#[test]
fn bits_and_errors() {
    let data = data(700, 130);
    same_bits("add f32", |cx| run::<f32>(cx, 700, 130, &data));
    same_bits("add bf16", |cx| run::<bf16>(cx, 700, 130, &data));
    let (x, mut y) = ([0f32; 6], [0f32; 6]);
    let error = message(add::mask_rows(&Context::host(1), &[1.0], v(&x, [2, 3]), vm(&mut y, [2, 3])));
    assert_eq!(error, "add: 1 factors for the rows of `x` [2, 3]");
}
