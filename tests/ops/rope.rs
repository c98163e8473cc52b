use deem::Context;
use deem::dtype::Element;
use deem::ops::{copy, rope};
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Outputs: x rotated; and rotated back.
fn run<E: Element>(cx: &Context, x: &[f64], positions: &[i32], heads: usize, d: usize) -> Outputs {
    let mut x = on::<E>(cx, x);
    let shape = [1, positions.len(), heads * d];
    rope::forward(cx, vm(&mut x, shape), positions, d, 10000.0).unwrap();
    let y = wide(&x);
    rope::backward(cx, vm(&mut x, shape), positions, d, 10000.0).unwrap();
    vec![y, wide(&x)]
}

#[test]
fn golden_numbers() {
    // Section 14.3 of the specification: dim pairs 0, 1, 31, 63 of head size 128.
    let golden = [
        (1, [0.5403023, 0.6479058, 0.9999333, 1.0000000], [0.8414710, 0.7617204, 0.0115476, 0.0001155]),
        (10, [-0.8390715, -0.7212890, 0.9933398, 0.9999993], [-0.5440211, 0.6926342, 0.1152217, 0.0011548]),
        (2047, [0.2497153, 0.7173733, 0.0763684, 0.9721912], [-0.9683193, 0.6966890, -0.9970797, 0.2341886]),
    ];
    let cx = Context::host(1);
    for (position, cos, sin) in golden {
        let x: Vec<f64> = (0..128).map(|i| if i < 64 { 1.0 } else { 0.0 }).collect();
        let y = &run::<f32>(&cx, &x, &[position], 1, 128)[0];
        for (i, k) in [0, 1, 31, 63].into_iter().enumerate() {
            // Seven digits are printed, from angles with f32 roundings of frequencies by pow: one unit at angle 2047 x 0.866 is 1.2e-4.
            let tolerance = 1e-7 + if position == 2047 && k == 1 { 1.3e-4 } else { 1.3e-7 };
            assert!((y[k] - cos[i]).abs() <= tolerance, "cos {position} {k}: {} {}", y[k], cos[i]);
            assert!((y[64 + k] - sin[i]).abs() <= tolerance, "sin {position} {k}: {} {}", y[64 + k], sin[i]);
        }
    }
}

#[test]
fn oracle_inverse_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (rows, heads, d) in [(0, 1, 2), (1, 1, 2), (7, 3, 6), (100, 8, 64)] {
        let positions: Vec<i32> = (0..rows as i32).map(|i| i * 3 % 50).collect();
        let x = input("x", rows * heads * d);
        let oracle = run::<f64>(&host, &x, &positions, heads, d);
        for (r, &p) in positions.iter().enumerate() {
            for (h, k) in (0..heads).flat_map(|h| (0..d / 2).map(move |k| (h, k))) {
                let (a, b) = ((r * heads + h) * d + k, (r * heads + h) * d + d / 2 + k);
                let (sin, cos) = (p as f64 * 10000f64.powf(-2.0 * k as f64 / d as f64)).sin_cos();
                assert!((oracle[0][a] - (x[a] * cos - x[b] * sin)).abs() < 1e-13);
                assert!((oracle[0][b] - (x[b] * cos + x[a] * sin)).abs() < 1e-13);
            }
        }
        support::assert_close("back again", &oracle[1], &x, 1e-14);
        // Angles up to 50 carry two roundings, the rotation three.
        compare("f32", &run::<f32>(&cx, &x, &positions, heads, d), &oracle, &[bound::<f32>(2.0 * 50.0 + 4.0)]);
        compare("bf16", &run::<bf16>(&cx, &x, &positions, heads, d), &oracle, &[2.0 * bound::<bf16>(104.0)]);
    }
}

#[test]
fn backward_is_the_transpose() {
    let cx = Context::host(1);
    let (x, dy, positions) = (input("x", 24), input("dy", 24), [5, 0, 17]);
    let mut dx = dy.clone();
    rope::backward(&cx, vm(&mut dx, [1, 3, 8]), &positions, 4, 10000.0).unwrap();
    support::check_gradients("rope", &[x], &dy, &[dx], |i| run::<f64>(&cx, &i[0], &positions, 2, 4)[0].clone());
}

#[test]
fn bits_and_errors() {
    let x = input("x", 100 * 512);
    let positions: Vec<i32> = (0..100).collect();
    same_bits("rope", |cx| run::<f32>(cx, &x, &positions, 4, 128));
    let mut x = [0f32; 6];
    let error = message(rope::forward(&Context::host(1), vm(&mut x, [1, 1, 6]), &[0], 4, 10000.0));
    assert_eq!(error, "rope: head size 4 must be even and divide the last axis of `x` [1, 1, 6]");
}

/// The bits of the rotation and of two copies; rows beside stay.
#[test]
fn stored_keys() {
    fn check<E: Element>(cx: &Context) {
        let (new, cache) = ([2, 3, 24], [2, 7, 24]);
        let (k, v, old) = (input("k", 144), input("v", 144), input("old", 336));
        let [mut keys, values] = [&k, &v].map(|x| support::put::<E>(cx, new, x));
        let [mut key_cache, mut value_cache] = [(); 2].map(|()| support::put::<E>(cx, cache, &old));
        let [mut found_keys, mut found_values] = [(); 2].map(|()| support::put::<E>(cx, cache, &old));
        let rotary = rope::Rotary::new(cx, &[4, 5, 6, 0, 1, 2], 6, 10000.0).unwrap();
        let (to_keys, to_values) = (found_keys.view_mut(), found_values.view_mut());
        rotary.store(cx, support::put::<E>(cx, new, &k).view_mut(), values.view(), 2, to_keys, to_values).unwrap();
        rotary.forward(cx, keys.view_mut()).unwrap();
        copy::put_rows(cx, keys.view(), 2, key_cache.view_mut()).unwrap();
        copy::put_rows(cx, values.view(), 2, value_cache.view_mut()).unwrap();
        assert_eq!(support::get(&found_keys), support::get(&key_cache), "{:?}", E::DTYPE);
        assert_eq!(support::get(&found_values), support::get(&value_cache), "{:?}", E::DTYPE);
        let (keys, values) = (found_keys.view_mut(), found_values.view_mut());
        let error = message(rotary.store(
            cx,
            support::put::<E>(cx, new, &k).view_mut(),
            value_cache.view().part(0, new),
            5,
            keys,
            values,
        ));
        assert!(error.contains('5'), "{error}");
    }
    let cx = support::device();
    check::<f32>(&cx);
    check::<bf16>(&cx);
    if cx.is_cuda() {
        let on_host = rope::Rotary::new(&Context::host(1), &[0], 4, 10000.0).unwrap();
        let mut x = support::put::<f32>(&cx, [1, 1, 4], &input("x", 4));
        let error = message(on_host.forward(&cx, x.view_mut()));
        assert_eq!(error, "rope: angles are on the host, the call runs on a CUDA device");
    }
}
