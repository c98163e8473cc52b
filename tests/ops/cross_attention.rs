//! Cross attention is attention without masks, whatever the number of keys.

use deem::Context;
use deem::dtype::Element;
use deem::memory::{View, ViewMut};
use deem::ops::attention::{self, Attention};
use deem::ops::cross_attention::{self, CrossAttention};
use half::bf16;

use crate::support::{assert_close, check_gradients, device, get, normals, put, unset};

#[test]
fn equals_attention() {
    let (host, cx) = (Context::host(2), device());
    for (s, d) in [(0, 10), (1, 10), (9, 10), (77, 10), (128, 10), (129, 10), (9, 40), (77, 80), (128, 160)] {
        let (b, t, n) = (2, 37, 3);
        let (sq, sk, sl) = ([b, t, n * d], [b, s, n * d], [b, n, t]);
        let (q, k, v) = (normals("q", b * t * n * d), normals("k", b * s * n * d), normals("v", b * s * n * d));
        let spec = CrossAttention { heads: n, scale: 0.3 };
        let general = Attention::full(n, 0.3);
        let (mut exact, mut lse) = (vec![f64::NAN; q.len()], vec![f64::NAN; b * n * t]);
        let (vo, vl) = (ViewMut::new(&mut exact, sq), ViewMut::new(&mut lse, sl));
        attention::forward(&host, View::new(&q, sq), View::new(&k, sk), View::new(&v, sk), vo, vl, &general).unwrap();
        let found = short::<f32>(&cx, (sq, sk, sl), [&q, &k, &v], &spec);
        assert_close(&format!("{s} keys, {d} numbers, f32"), &found, &exact, 1e-5);
        // Inputs, probabilities and outputs are rounded to 2^-9; a score is a sum of d products of two of the inputs, times the scale.
        let bound = (4.0 + 0.3 * 2.0 * (d as f64).sqrt()) / 256.0;
        let found = short::<bf16>(&cx, (sq, sk, sl), [&q, &k, &v], &spec);
        assert_close(&format!("{s} keys, {d} numbers, bf16"), &found, &exact, bound);
    }
}

/// The output of the op in a storage type.
fn short<E: Element>(
    cx: &Context,
    (sq, sk, sl): ([usize; 3], [usize; 3], [usize; 3]),
    [q, k, v]: [&[f64]; 3],
    spec: &CrossAttention,
) -> Vec<f64> {
    let (q, k, v) = (put::<E>(cx, sq, q), put::<E>(cx, sk, k), put::<E>(cx, sk, v));
    let (mut out, mut lse) = (unset::<E>(cx, sq), unset::<E::Acc>(cx, sl));
    cross_attention::forward(cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), spec).unwrap();
    get(&out)
}

#[test]
fn gradients_against_central_differences() {
    let cx = Context::host(1);
    let (b, t, s, n, d) = (2, 4, 5, 2, 3);
    let (sq, sk, sl) = ([b, t, n * d], [b, s, n * d], [b, n, t]);
    let inputs = [normals("q", b * t * n * d), normals("k", b * s * n * d), normals("v", b * s * n * d)];
    let d_out = normals("d", b * t * n * d);
    let spec = CrossAttention { heads: n, scale: 0.6 };
    let forward = |x: &[Vec<f64>]| {
        let (mut out, mut lse) = (vec![f64::NAN; b * t * n * d], vec![f64::NAN; b * n * t]);
        let (vo, vl) = (ViewMut::new(&mut out, sq), ViewMut::new(&mut lse, sl));
        cross_attention::forward(&cx, View::new(&x[0], sq), View::new(&x[1], sk), View::new(&x[2], sk), vo, vl, &spec)
            .unwrap();
        (out, lse)
    };
    let (out, lse) = forward(&inputs);
    let [mut dq, mut dk, mut dv] = inputs.each_ref().map(|x| vec![f64::NAN; x.len()]);
    let [q, k, v] = [View::new(&inputs[0], sq), View::new(&inputs[1], sk), View::new(&inputs[2], sk)];
    let (out, lse, d) = (View::new(&out, sq), View::new(&lse, sl), View::new(&d_out, sq));
    let (vq, vk, vv) = (ViewMut::new(&mut dq, sq), ViewMut::new(&mut dk, sk), ViewMut::new(&mut dv, sk));
    cross_attention::backward(&cx, q, k, v, out, lse, d, vq, vk, vv, &spec).unwrap();
    check_gradients("cross attention", &inputs, &d_out, &[dq, dk, dv], |x| forward(x).0);
}
