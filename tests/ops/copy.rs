//! Moving data is exact: every comparison is for equality.

use deem::Context;
use deem::dtype::{DType, Element};
use deem::ops::copy;
use half::bf16;

use crate::pointwise::*;
use crate::support;

#[test]
fn casts() {
    let cx = support::device();
    for n in [0, 1, 33, 40_000] {
        let x = support::normals("x", n);
        let narrow: Vec<f32> = support::round(&x);
        let y32 = on::<f32>(&cx, &x);
        let (mut y16, mut back) = (nan_on::<bf16>(&cx, n), nan_on::<f32>(&cx, n));
        copy::cast(&cx, v(&y32, [n]), vm(&mut y16, [n])).unwrap();
        let rounded: Vec<f64> = narrow.iter().map(|x| bf16::from_f32(*x).to_f64()).collect();
        assert_eq!(wide(&y16), rounded);
        copy::cast(&cx, v(&y16, [n]), vm(&mut back, [n])).unwrap();
        assert_eq!(wide(&back), rounded);
        copy::cast(&cx, v(&y32, [n]), vm(&mut back, [n])).unwrap();
        assert_eq!(wide(&back), wide(&narrow));
        if cx.is_cuda() {
            continue;
        }
        let (mut from64, mut y64) = (nan::<f32>(n), nan::<f64>(n));
        copy::cast(&cx, v(&x, [n]), vm(&mut from64, [n])).unwrap();
        assert_eq!(from64, narrow);
        copy::cast(&cx, v(&y16, [n]), vm(&mut y64, [n])).unwrap();
        assert_eq!(y64, rounded);
    }
}

fn all<E: Element>() {
    let cx = &if E::DTYPE == DType::F64 { Context::host(3) } else { support::device() };
    for (b, t, c) in [(1, 1, 1), (2, 3, 5), (4, 100, 70), (0, 2, 2), (1, 900, 33)] {
        let (ta, ca) = (t / 2 + 1, c / 2 + 1);
        let x = on::<E>(cx, &input("x", b * t * c));
        let a = on::<E>(cx, &input("a", b * ta * c));
        let w = on::<E>(cx, &input("w", b * t * ca));
        // Last axis.
        let mut y = nan_on::<E>(cx, b * t * (c + ca));
        copy::concat_last(cx, v(&x, [b, t, c]), v(&w, [b, t, ca]), vm(&mut y, [b, t, c + ca])).unwrap();
        let (numbers, x_numbers, w_numbers, a_numbers) = (wide(&y), wide(&x), wide(&w), wide(&a));
        for r in 0..b * t {
            assert_eq!(numbers[r * (c + ca)..][..c], x_numbers[r * c..][..c]);
            assert_eq!(numbers[r * (c + ca) + c..][..ca], w_numbers[r * ca..][..ca]);
        }
        let (mut x2, mut w2) = (nan_on::<E>(cx, b * t * c), nan_on::<E>(cx, b * t * ca));
        copy::split_last(cx, v(&y, [b, t, c + ca]), vm(&mut x2, [b, t, c]), vm(&mut w2, [b, t, ca])).unwrap();
        assert!(wide(&x2) == x_numbers && wide(&w2) == w_numbers);
        // Rows.
        let whole = 2 * t + ta;
        let mut y = nan_on::<E>(cx, b * whole * c);
        let parts = [v(&x, [b, t, c]), v(&a, [b, ta, c]), v(&x, [b, t, c])];
        copy::concat_rows(cx, &parts, vm(&mut y, [b, whole, c])).unwrap();
        let (mut first, mut second) = (nan_on::<E>(cx, b * t * c), nan_on::<E>(cx, b * ta * c));
        copy::slice_rows(cx, v(&y, [b, whole, c]), t + ta, vm(&mut first, [b, t, c])).unwrap();
        copy::slice_rows(cx, v(&y, [b, whole, c]), t, vm(&mut second, [b, ta, c])).unwrap();
        assert!(wide(&first) == x_numbers && wide(&second) == a_numbers);
        let before = wide(&y);
        copy::add_into_rows(cx, v(&a, [b, ta, c]), t, vm(&mut y, [b, whole, c])).unwrap();
        for (i, (y, before)) in wide(&y).iter().zip(&before).enumerate() {
            let (entry, row) = (i / (whole * c), i / c % whole);
            let inside = row >= t && row < t + ta;
            let add = if inside { a_numbers[(entry * ta + row - t) * c + i % c] } else { 0.0 };
            assert_eq!(*y, E::from_f64(before + add).to_f64());
        }
        // Batch.
        let one = on::<E>(cx, &input("one", t * c));
        let (mut many, mut sum) = (nan_on::<E>(cx, b * t * c), nan_on::<E>(cx, t * c));
        copy::broadcast_batch(cx, v(&one, [1, t, c]), vm(&mut many, [b, t, c])).unwrap();
        let one = wide(&one);
        assert!(wide(&many).chunks(t * c).all(|part| part == one));
        copy::sum_batch(cx, v(&many, [b, t, c]), vm(&mut sum, [1, t, c])).unwrap();
        // Equal numbers up to 4 times: exact in every type but for the third, which rounds to the same in any order.
        assert!(wide(&sum).iter().zip(&one).all(|(s, x)| (s - b as f64 * x).abs() <= 0.01 * x.abs()));
        // Pictures: [B, C, H, W] with H = 1.
        let mut last = nan_on::<E>(cx, b * t * c);
        copy::nchw_to_nhwc(cx, v(&x, [b, t, 1, c]), vm(&mut last, [b, 1, c, t])).unwrap();
        let turned = wide(&last);
        for (i, x) in x_numbers.iter().enumerate() {
            let (entry, channel, pixel) = (i / (t * c), i / c % t, i % c);
            assert_eq!(turned[(entry * c + pixel) * t + channel], *x);
        }
        let mut back = nan_on::<E::Acc>(cx, b * t * c);
        copy::nhwc_to_nchw(cx, v(&last, [b, 1, c, t]), vm(&mut back, [b, t, 1, c])).unwrap();
        assert_eq!(wide(&back), x_numbers);
    }
}

#[test]
fn concatenations_slices_batches_and_layouts() {
    all::<f32>();
    all::<bf16>();
    if !support::is_on_cuda() {
        all::<f64>();
    }
}

#[test]
fn errors_name_the_problem() {
    let cx = Context::host(1);
    let (x, mut y) = ([0f32; 6], [0f32; 6]);
    let error = message(copy::slice_rows(&cx, v(&x, [1, 3, 2]), 2, vm(&mut y[..4], [1, 2, 2])));
    assert_eq!(error, "copy: rows 2..4 are outside of [1, 3, 2]");
    let error = message(copy::nchw_to_nhwc(&cx, v(&x, [1, 3, 2, 1]), vm(&mut y, [1, 3, 2, 1])));
    assert_eq!(error, "copy: `y` has shape [1, 3, 2, 1], expected [1, 2, 1, 3]");
    let error = message(copy::broadcast_batch(&cx, v(&x, [2, 3]), vm(&mut y, [2, 3])));
    assert_eq!(error, "copy: `one` has shape [2, 3], expected [1, 3]");
}
