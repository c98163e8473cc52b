use deem::Context;
use deem::dtype::Element;
use deem::memory::Scalar;
use deem::ops::reduce;
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Outputs sum_rows (from 1), [sum], log_softmax_rows, mean_pixels of the rows, its backward, arg-max.
fn run<E: Element>(cx: &Context, r: usize, c: usize, x: &[f64]) -> Outputs {
    let x = on::<E>(cx, x);
    let mut rows = ones_on::<E::Acc>(cx, c);
    reduce::sum_rows(cx, v(&x, [r, c]), vm(&mut rows, [c])).unwrap();
    let sum = reduce::sum(cx, v(&x, [r, c])).unwrap().value().unwrap();
    let mut log_softmax = nan_on::<E::Acc>(cx, r * c);
    reduce::log_softmax_rows(cx, v(&x, [r, c]), vm(&mut log_softmax, [r, c])).unwrap();
    let (mut mean, mut back) = (nan_on::<E>(cx, c), nan_on::<E>(cx, r * c));
    reduce::mean_pixels(cx, v(&x, [1, r, c]), vm(&mut mean, [1, c])).unwrap();
    reduce::mean_pixels_backward(cx, v(&mean, [1, c]), vm(&mut back, [1, r, c])).unwrap();
    let argmax = reduce::argmax_rows(cx, v(&x, [r, c])).unwrap();
    let argmax = argmax.into_iter().map(|i| i as f64).collect();
    vec![wide(&rows), vec![sum], wide(&log_softmax), wide(&mean), wide(&back), argmax]
}

#[test]
fn oracle_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (r, c) in [(0, 3), (1, 1), (5, 7), (1000, 3), (300, 700), (2, 40_000)] {
        // Means of 2, so that sums do not cancel and a relative error makes sense.
        let x: Vec<f64> = input("x", r * c).iter().map(|x| exact(x + 2.0)).collect();
        let oracle = run::<f64>(&host, r, c, &x);
        let column = |k: usize| (0..r).map(|i| x[i * c + k]).sum::<f64>();
        for (k, (sum, mean)) in oracle[0].iter().zip(&oracle[3]).enumerate() {
            assert!((sum - 1.0 - column(k)).abs() < 1e-10);
            assert!((mean - column(k) / r.max(1) as f64).abs() < 1e-12);
        }
        assert!((oracle[1][0] - x.iter().sum::<f64>()).abs() < 1e-9);
        for (i, row) in x.chunks(c).enumerate() {
            let lse = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            assert!((0..c).all(|k| (oracle[2][i * c + k] - (row[k] - lse)).abs() < 1e-11));
            let largest = (0..c).fold(0, |m, k| if row[k] > row[m] { k } else { m });
            assert_eq!(oracle[5][i], largest as f64);
        }
        // Column sums: segments of 64, then r/64. The whole sum: chains of 1024. lse: c/16 additions, exponents up to 8.
        let (rows, lse) = (64.0 + r as f64 / 64.0, c as f64 / 16.0 + 32.0);
        let u = |k| bound::<f32>(k);
        compare("f32", &run::<f32>(&cx, r, c, &x), &oracle, &[u(rows), u(1024.0), u(lse), u(rows), u(rows), 0.0]);
        let w = |k| 2.0 * bound::<bf16>(k);
        compare("bf16", &run::<bf16>(&cx, r, c, &x), &oracle, &[u(rows), u(1024.0), u(lse), w(rows), w(rows), 0.0]);
    }
}

#[test]
fn norm_and_finiteness() {
    let cx = support::device();
    let mut x = vec![1e30; 50_000];
    let put = |x: &[f64]| on::<f32>(&cx, x);
    let norm = reduce::norm_squared(&cx, put(&x).view()).unwrap().value().unwrap();
    let want = 50_000.0 * f64::from(1e30f32).powi(2);
    assert!((norm / want - 1.0).abs() < 1e-11);
    assert!(reduce::all_finite(&cx, put(&x).view()).unwrap() && reduce::all_finite(&cx, put(&[]).view()).unwrap());
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for at in [0, 49_999, 20_000] {
            let old = std::mem::replace(&mut x[at], bad);
            assert!(!reduce::all_finite(&cx, put(&x).view()).unwrap());
            x[at] = old;
        }
    }
    assert_eq!(reduce::norm_squared(&cx, put(&[]).view()).unwrap().value().unwrap(), 0.0);
}

#[test]
fn argmax_takes_the_first_of_equals_and_nan() {
    let cx = support::device();
    let low = f64::NEG_INFINITY;
    let x = [1., 3., 3., 2., low, low, low, low, 0., f64::NAN, 9., f64::NAN];
    assert_eq!(reduce::argmax_rows(&cx, v(&on::<f32>(&cx, &x), [3, 4])).unwrap(), [1, 0, 1]);
    let mut long = vec![0.0; 1100];
    (long[40], long[90]) = (2.0, 2.0);
    assert_eq!(reduce::argmax_rows(&cx, v(&on::<f32>(&cx, &long), [11, 100])).unwrap()[0], 40);
    (long[40], long[90]) = (0.0, f64::NAN);
    assert_eq!(reduce::argmax_rows(&cx, v(&on::<f32>(&cx, &long), [1, 1100])).unwrap(), [90]);
}

#[test]
fn hits_are_rows_whose_largest_is_the_wanted_one() {
    let cx = support::device();
    let (r, c) = (5000, 7);
    let x = support::normals("x", r * c);
    let x = on::<f32>(&cx, &x);
    let argmax = reduce::argmax_rows(&cx, v(&x, [r, c])).unwrap();
    // A third has no wanted column, a third the right one, a third another.
    let other = |i: usize| (argmax[i] as u32 + 1) % c as u32;
    let wanted: Vec<_> = (0..r).map(|i| [None, Some(argmax[i] as u32), Some(other(i))][i % 3]).collect();
    let hits = |wanted: &[Option<u32>]| {
        reduce::count_hits(&cx, v(&x, [wanted.len(), c]), wanted).map(|hits| hits.value().unwrap())
    };
    assert_eq!(hits(&wanted).unwrap(), (0..r).filter(|i| i % 3 == 1).count() as f64);
    assert_eq!(reduce::count_hits(&cx, v(&on::<f32>(&cx, &[]), [0, c]), &[]).unwrap().value().unwrap(), 0.0);
    let error = message(reduce::count_hits(&cx, v(&x, [r, c]), &[None]));
    assert_eq!(error, "reduce: 1 wanted columns for the 5000 rows of `x`");
}

/// Several numbers are read with one wait, weighted sums of them too.
#[test]
fn numbers_are_read_together() {
    let cx = support::device();
    let (a, b) = (on::<f32>(&cx, &[1.0, 2.0]), on::<f32>(&cx, &[4.0, -3.0]));
    let sum = |x| reduce::sum(&cx, v(x, [1, 2])).unwrap();
    let both = sum(&a) * 2.0 + sum(&b) * 0.5 + Scalar::of(1.0);
    assert_eq!(cx.values(&[sum(&b), both, Scalar::of(7.0), sum(&a)]).unwrap(), [1.0, 7.5, 7.0, 3.0]);
    assert!(cx.values(&[]).unwrap().is_empty());
}

#[test]
fn top_k_is_sorted_and_stable() {
    let x = [1.0f32, 5.0, 3.0, 5.0, -1.0];
    assert_eq!(reduce::top_k(&x, 3), [(1, 5.0), (3, 5.0), (2, 3.0)]);
    assert_eq!(reduce::top_k(&x, 9).len(), 5);
    assert!(reduce::top_k(&x, 0).is_empty() && reduce::top_k::<f32>(&[], 3).is_empty());
    let many = support::normals("top", 1000);
    let mut sorted: Vec<(usize, f64)> = many.iter().copied().enumerate().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    assert_eq!(reduce::top_k(&many, 17), sorted[..17]);
}

#[test]
fn bits_and_errors() {
    let x = input("x", 1100 * 130);
    same_bits("reduce f32", |cx| run::<f32>(cx, 1100, 130, &x));
    same_bits("reduce bf16", |cx| run::<bf16>(cx, 130, 1100, &x));
    let mut out = [0f32; 2];
    let error = message(reduce::sum_rows(&Context::host(1), v(&[0f32; 3], [1, 3]), vm(&mut out, [2])));
    assert_eq!(error, "reduce: `out` has shape [2], expected [3]");
}
