use deem::Context;
use deem::dtype::Element;
use deem::ops::random::{Stream, fill_normal, fill_uniform};
use half::bf16;

use crate::pointwise::*;

fn run<E: Element>(cx: &Context, n: usize) -> Outputs {
    let (mut y, mut u) = (nan_on::<E>(cx, n), nan_on::<E>(cx, n));
    fill_normal(cx, 3, "weight", vm(&mut y, [n])).unwrap();
    fill_uniform(cx, 3, "weight", vm(&mut u, [n])).unwrap();
    assert!(wide(&u).iter().all(|u| (0.0..1.0).contains(u)));
    let stream = Stream::new(3, "weight");
    let normals = wide(&y);
    assert!((0..n).all(|i| normals[i] == E::from_f64(stream.normal(i as u64)).to_f64()));
    vec![wide(&y), wide(&u)]
}

#[test]
fn bits_are_those_of_the_stream() {
    for n in [0, 1, 5000] {
        same_bits("f32", |cx| run::<f32>(cx, n));
        same_bits("bf16", |cx| run::<bf16>(cx, n));
        run::<f64>(&Context::host(2), n);
    }
}
