use deem::Context;
use deem::dtype::Element;
use deem::ops::activation::Activation;
use deem::ops::glu;
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Outputs y, dgate, dvalue; and the packed variant must give the very same numbers.
fn run<E: Element>(cx: &Context, kind: Activation, r: usize, f: usize, data: &[Vec<f64>]) -> Outputs {
    let [gate, value, dy] = [0, 1, 2].map(|i| on::<E>(cx, &data[i]));
    let n = r * f;
    let (mut y, mut dgate, mut dvalue) = (nan_on::<E>(cx, n), nan_on::<E>(cx, n), nan_on::<E>(cx, n));
    glu::forward(cx, kind, v(&gate, [r, f]), v(&value, [r, f]), vm(&mut y, [r, f])).unwrap();
    let (g, w, d) = (v(&gate, [r, f]), v(&value, [r, f]), v(&dy, [r, f]));
    glu::backward(cx, kind, g, w, d, vm(&mut dgate, [r, f]), vm(&mut dvalue, [r, f])).unwrap();
    let (gate_gradient, value_gradient) = (wide(&dgate), wide(&dvalue));
    let mut packed = Vec::new();
    let mut expected = Vec::new();
    for i in 0..r {
        packed.extend_from_slice(&data[1][i * f..][..f]);
        packed.extend_from_slice(&data[0][i * f..][..f]);
        expected.extend_from_slice(&value_gradient[i * f..][..f]);
        expected.extend_from_slice(&gate_gradient[i * f..][..f]);
    }
    let packed = on::<E>(cx, &packed);
    let (mut y2, mut dx) = (nan_on::<E>(cx, n), nan_on::<E>(cx, 2 * n));
    glu::forward_packed(cx, kind, v(&packed, [r, 2 * f]), vm(&mut y2, [r, f])).unwrap();
    glu::backward_packed(cx, kind, v(&packed, [r, 2 * f]), v(&dy, [r, f]), vm(&mut dx, [r, 2 * f])).unwrap();
    assert!(wide(&y2) == wide(&y) && wide(&dx) == expected, "the packed variant differs");
    vec![wide(&y), wide(&dgate), wide(&dvalue)]
}

fn data(n: usize) -> Vec<Vec<f64>> {
    ["gate", "value", "dy"].map(|name| input(name, n)).into()
}

#[test]
fn oracle_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (r, f) in [(0, 3), (1, 1), (5, 7), (3, 16_385), (900, 40)] {
        let data = data(r * f);
        for kind in [Activation::Silu, Activation::Gelu] {
            let oracle = run::<f64>(&host, kind, r, f, &data);
            for i in 0..r * f {
                let want = kind.apply(data[0][i]) * data[1][i];
                assert!((oracle[0][i] - want).abs() <= 1e-15 * want.abs());
            }
            // The roundings of the activation (see there) and two products.
            compare("f32", &run::<f32>(&cx, kind, r, f, &data), &oracle, &[bound::<f32>(32.0)]);
            compare("bf16", &run::<bf16>(&cx, kind, r, f, &data), &oracle, &[bound::<bf16>(32.0)]);
        }
    }
}

#[test]
fn gradients() {
    let cx = Context::host(1);
    let data = data(12);
    for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        let out = run::<f64>(&cx, kind, 3, 4, &data);
        let gradients = [out[1].clone(), out[2].clone()];
        support::check_gradients("glu", &data[..2], &data[2], &gradients, |i| {
            run::<f64>(&cx, kind, 3, 4, &[i[0].clone(), i[1].clone(), data[2].clone()])[0].clone()
        });
    }
}

#[test]
fn bits_and_errors() {
    let data = data(300 * 171);
    same_bits("glu", |cx| run::<f32>(cx, Activation::Silu, 300, 171, &data));
    let mut y = [0f32; 1];
    let error =
        message(glu::forward_packed(&Context::host(1), Activation::Silu, v(&[1f32; 3], [1, 3]), vm(&mut y, [1, 1])));
    assert_eq!(error, "glu: the last axis of `x` [1, 3] must be even: value | gate");
}
