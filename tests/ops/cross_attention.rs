//! Cross attention is attention without masks, whatever the number of keys.

use deem::Context;
use deem::memory::{View, ViewMut};
use deem::ops::attention::{self, Attention};
use deem::ops::cross_attention::{self, CrossAttention};

use crate::support::{assert_close, check_gradients, normals, round};

#[test]
fn equals_attention() {
    let cx = Context::host(2);
    let (b, t, n, d) = (2, 37, 3, 10);
    for s in [0, 1, 9, 77, 128, 129] {
        let (sq, sk, sl) = ([b, t, n * d], [b, s, n * d], [b, n, t]);
        let (q, k, v) = (normals("q", b * t * n * d), normals("k", b * s * n * d), normals("v", b * s * n * d));
        let spec = CrossAttention { heads: n, scale: 0.3 };
        let general = Attention::full(n, 0.3);
        let (mut exact, mut lse) = (vec![f64::NAN; q.len()], vec![f64::NAN; b * n * t]);
        let (vo, vl) = (ViewMut::new(&mut exact, sq), ViewMut::new(&mut lse, sl));
        attention::forward(&cx, View::new(&q, sq), View::new(&k, sk), View::new(&v, sk), vo, vl, &general).unwrap();
        let (q, k, v) = (round::<f32>(&q), round::<f32>(&k), round::<f32>(&v));
        let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; b * n * t]);
        let (vo, vl) = (ViewMut::new(&mut out, sq), ViewMut::new(&mut lse, sl));
        cross_attention::forward(&cx, View::new(&q, sq), View::new(&k, sk), View::new(&v, sk), vo, vl, &spec).unwrap();
        assert_close(&format!("{s} keys"), &out, &exact, 1e-5);
    }
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
