//! Resampling against closed forms; gradients as transposes: <resize(x), y> = <x, resize_backward(y)>.

use deem::Context;
use deem::dtype::Element;
use deem::ops::resample::{self, Filter, Resize};
use half::bf16;

use crate::pointwise::*;
use crate::support;

const FILTERS: [Filter; 2] = [Filter::Bilinear, Filter::Bicubic];

fn ways() -> impl Iterator<Item = Resize> {
    FILTERS.into_iter().flat_map(|filter| [false, true].map(|align_corners| Resize { filter, align_corners }))
}

/// From and to `[B, H, W, C]`: one pixel, no change, larger, smaller, ragged.
const SIZES: [([usize; 4], [usize; 2]); 7] = [
    ([1, 1, 1, 1], [1, 1]),
    ([2, 1, 1, 3], [4, 5]),
    ([1, 4, 6, 2], [4, 6]),
    ([2, 3, 5, 4], [7, 9]),
    ([1, 8, 8, 5], [3, 2]),
    ([3, 16, 16, 3], [4, 4]),
    ([1, 5, 3, 1], [1, 1]),
];

/// Outputs y and dx of a resize.
fn run<E: Element>(cx: &Context, from: [usize; 4], to: [usize; 2], how: Resize, data: &[Vec<f64>]) -> Outputs {
    let target = [from[0], to[0], to[1], from[3]];
    let (x, dy) = (on::<E>(cx, &data[0]), on::<E>(cx, &data[1]));
    let (mut y, mut dx) = (nan_on::<E>(cx, dy.len()), nan_on::<E>(cx, x.len()));
    resample::resize(cx, v(&x, from), vm(&mut y, target), how).unwrap();
    resample::resize_backward(cx, v(&dy, target), vm(&mut dx, from), how).unwrap();
    vec![wide(&y), wide(&dx)]
}

fn data(from: [usize; 4], to: [usize; 2]) -> Vec<Vec<f64>> {
    vec![input("x", from.iter().product()), input("dy", from[0] * to[0] * to[1] * from[3])]
}

/// Interpolation along one axis by definition: `sum over k of kernel(source - k) x[clamp(k)]`.
fn along(x: &[f64], output: usize, how: Resize) -> Vec<f64> {
    let kernel = |t: f64| match (how.filter, t.abs()) {
        (Filter::Bilinear, t) => (1.0 - t).max(0.0),
        // Keys (1981) with a = -3/4.
        (Filter::Bicubic, t) if t <= 1.0 => 1.25 * t.powi(3) - 2.25 * t.powi(2) + 1.0,
        (Filter::Bicubic, t) if t < 2.0 => -0.75 * (t.powi(3) - 5.0 * t.powi(2) + 8.0 * t - 4.0),
        _ => 0.0,
    };
    let n = x.len() as f64;
    let source = |i: usize| match how.align_corners {
        true if output == 1 => 0.0,
        true => i as f64 * (n - 1.0) / (output as f64 - 1.0),
        false => (i as f64 + 0.5) * n / output as f64 - 0.5,
    };
    let value = |at: f64| -> f64 {
        let low = at.floor() as isize;
        let pixel = |k: isize| x[k.clamp(0, x.len() as isize - 1) as usize];
        (low - 1..=low + 2).map(|k| kernel(at - k as f64) * pixel(k)).sum()
    };
    (0..output).map(source).map(value).collect()
}

#[test]
fn resize_is_its_definition() {
    let (host, cx) = (Context::host(2), support::device());
    for how in ways() {
        for (from, to) in SIZES {
            let what = format!("{how:?} {from:?} to {to:?}");
            let data = data(from, to);
            let oracle = run::<f64>(&host, from, to, how, &data);
            // First along H, then along W.
            let [b, h, w, c] = from;
            let mut exact = vec![0.0; data[1].len()];
            for (image, ch) in (0..b * c).map(|i| (i / c, i % c)) {
                let columns: Vec<Vec<f64>> = (0..w)
                    .map(|j| {
                        let column: Vec<f64> = (0..h).map(|i| data[0][((image * h + i) * w + j) * c + ch]).collect();
                        along(&column, to[0], how)
                    })
                    .collect();
                for i in 0..to[0] {
                    let line: Vec<f64> = columns.iter().map(|column| column[i]).collect();
                    for (j, value) in along(&line, to[1], how).into_iter().enumerate() {
                        exact[((image * to[0] + i) * to[1] + j) * c + ch] = value;
                    }
                }
            }
            support::assert_close(&what, &oracle[0], &exact, 1e-13);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let (left, right) = (dot(&oracle[0], &data[1]), dot(&data[0], &oracle[1]));
            let scale = dot(&exact, &exact).sqrt() * dot(&data[1], &data[1]).sqrt();
            assert!((left - right).abs() <= 1e-13 * scale, "{what}: {left} {right}");
            // Positions are rounded too (by U times the side of at most 16), and the weights' slopes are up to 1.3; 16 taps.
            compare(&what, &run::<f32>(&cx, from, to, how, &data), &oracle, &[bound::<f32>(100.0)]);
            compare(&what, &run::<bf16>(&cx, from, to, how, &data), &oracle, &[bound::<bf16>(100.0)]);
        }
    }
}

#[test]
fn closed_forms() {
    let cx = Context::host(1);
    let line = |x: &[f64], n: usize, how: Resize| -> Vec<f64> {
        let mut y = nan::<f64>(n);
        resample::resize(&cx, v(x, [1, 1, x.len(), 1]), vm(&mut y, [1, 1, n, 1]), how).unwrap();
        y
    };
    let ramp: Vec<f64> = (0..9).map(f64::from).collect();
    let aligned = |filter| Resize { filter, align_corners: true };
    // Aligned corners: a ramp stays a ramp; ends are kept.
    let fine: Vec<f64> = (0..17).map(|i| f64::from(i) / 2.0).collect();
    support::assert_close("ramp", &line(&ramp, 17, aligned(Filter::Bilinear)), &fine, 1e-15);
    let cubic = line(&ramp, 17, aligned(Filter::Bicubic));
    assert_eq!((cubic[0], cubic[16]), (0.0, 8.0));
    // Keys' kernel repeats linear functions away from the clamped edge.
    support::assert_close("cubic ramp", &cubic[2..15], &fine[2..15], 1e-15);
    // Outer edges: twice as many pixels lie at quarters.
    support::assert_close("halves", &line(&[0.0, 4.0], 4, Resize::BILINEAR), &[0.0, 1.0, 3.0, 4.0], 1e-15);
    // Half as many are means of two (bilinear); bicubic weighs -3/32, 19/32, 19/32, -3/32.
    support::assert_close("means", &line(&[1.0, 3.0, 6.0, 8.0], 2, Resize::BILINEAR), &[2.0, 7.0], 1e-15);
    let impulse = line(&[0.0, 0.0, 32.0, 0.0, 0.0, 0.0], 3, Resize::BICUBIC);
    support::assert_close("impulse", &impulse, &[-3.0, 19.0, 0.0], 1e-14);
    // Constants stay constants. A cubic weight is a sum of terms of up to 8 with about 6 roundings of 1.1e-16 each; four of them on two axes add to
    // 1 within 2 * 4 * 6 * 8 * 1.1e-16 = 4e-14.
    for how in ways() {
        support::assert_close("constant", &line(&[2.5; 5], 13, how), &[2.5; 13], 4e-14);
    }
}

#[test]
fn resize_bits() {
    for how in ways() {
        for (from, to) in SIZES {
            let data = data(from, to);
            same_bits(&format!("{how:?} {from:?} {to:?}"), |cx| run::<f32>(cx, from, to, how, &data));
        }
    }
}

fn nearest<E: Element>(cx: &Context, [b, h, w, c]: [usize; 4]) -> Outputs {
    let large = [b, 2 * h, 2 * w, c];
    let (x, dy) = (on::<E>(cx, &input("x", b * h * w * c)), on::<E>(cx, &input("dy", 4 * b * h * w * c)));
    let (mut y, mut dx) = (nan_on::<E>(cx, dy.len()), nan_on::<E>(cx, x.len()));
    resample::nearest_x2(cx, v(&x, [b, h, w, c]), vm(&mut y, large)).unwrap();
    resample::nearest_x2_backward(cx, v(&dy, large), vm(&mut dx, [b, h, w, c])).unwrap();
    vec![wide(&y), wide(&dx)]
}

#[test]
fn nearest_repeats_and_sums() {
    let (host, cx) = (Context::host(2), support::device());
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 16, 16, 4], [0, 2, 2, 2]] {
        let [b, h, w, c] = shape;
        let found = nearest::<f64>(&host, shape);
        let (x, dy) = (input("x", b * h * w * c), input("dy", 4 * b * h * w * c));
        let mut sums = vec![0.0; x.len()];
        for (k, (y, dy)) in found[0].iter().zip(&dy).enumerate() {
            let (ch, j, i, image) = (k % c, k / c % (2 * w), k / c / (2 * w) % (2 * h), k / c / (4 * w * h));
            let from = ((image * h + i / 2) * w + j / 2) * c + ch;
            assert_eq!(*y, x[from]);
            sums[from] += dy;
        }
        support::assert_close("sums", &found[1], &sums, 1e-15);
        // Copies are exact; sums of four terms cancel at most to the size of a term.
        compare("f32", &nearest::<f32>(&cx, shape), &found, &[0.0, bound::<f32>(4.0)]);
        compare("bf16", &nearest::<bf16>(&cx, shape), &found, &[0.0, bound::<bf16>(4.0)]);
        same_bits(&format!("nearest {shape:?}"), |cx| nearest::<f32>(cx, shape));
    }
}

fn pool<E: Element>(cx: &Context, [b, h, w, c]: [usize; 4], x: &[f64], dy: &[f64]) -> Outputs {
    let small = [b, resample::max_pool_size(h), resample::max_pool_size(w), c];
    let (x, dy) = (on::<E>(cx, x), on::<E>(cx, dy));
    let (mut y, mut dx) = (nan_on::<E>(cx, dy.len()), nan_on::<E>(cx, x.len()));
    resample::max_pool(cx, v(&x, [b, h, w, c]), vm(&mut y, small)).unwrap();
    resample::max_pool_backward(cx, v(&x, [b, h, w, c]), v(&dy, small), vm(&mut dx, [b, h, w, c])).unwrap();
    vec![wide(&y), wide(&dx)]
}

#[test]
fn max_pool_takes_the_first_largest() {
    let (host, cx) = (Context::host(2), support::device());
    for shape in [[1, 1, 1, 1], [1, 4, 4, 1], [2, 5, 7, 3], [1, 2, 9, 2]] {
        let [b, h, w, c] = shape;
        let (oh, ow) = (resample::max_pool_size(h), resample::max_pool_size(w));
        // Few distinct numbers: nearly every window has ties.
        let x: Vec<f64> = input("x", b * h * w * c).iter().map(|x| x.round().abs() - 2.0).collect();
        let dy = input("dy", b * oh * ow * c);
        let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        for (k, y) in y.iter_mut().enumerate() {
            let (ch, ox, oy, image) = (k % c, k / c % ow, k / c / ow % oh, k / c / ow / oh);
            let (mut best, mut at) = (f64::NEG_INFINITY, 0);
            for (i, j) in (0..9).map(|n| (2 * oy + n / 3, 2 * ox + n % 3)) {
                // Padding of one: shifted by one.
                if (1..=h).contains(&i) && (1..=w).contains(&j) {
                    let from = ((image * h + i - 1) * w + j - 1) * c + ch;
                    if x[from] > best {
                        (best, at) = (x[from], from);
                    }
                }
            }
            *y = best;
            dx[at] += dy[k];
        }
        let found = pool::<f64>(&host, shape, &x, &dy);
        assert_eq!(found[0], y, "{shape:?}");
        support::assert_close("dx", &found[1], &dx, 1e-15);
        assert_eq!(pool::<f32>(&cx, shape, &x, &dy)[0], y);
        // At most four windows share a pixel; bf16 rounds each partial sum.
        compare("f32", &pool::<f32>(&cx, shape, &x, &dy), &found, &[0.0, bound::<f32>(8.0)]);
        compare("bf16", &pool::<bf16>(&cx, shape, &x, &dy), &found, &[0.0, 4.0 * bound::<bf16>(8.0)]);
        same_bits(&format!("pool {shape:?}"), |cx| pool::<f32>(cx, shape, &x, &dy));
    }
}

#[test]
fn errors() {
    let cx = Context::host(1);
    let x = [0f32; 8];
    let mut y = [0f32; 16];
    let error = message(resample::resize(&cx, v(&x, [1, 2, 2, 2]), vm(&mut y, [1, 4, 4, 1]), Resize::BILINEAR));
    assert!(error.contains("with the same B and C"), "{error}");
    let error = message(resample::resize(&cx, v(&x[..0], [1, 0, 2, 2]), vm(&mut y, [1, 2, 4, 2]), Resize::BILINEAR));
    assert!(error.contains("from the empty map"), "{error}");
    let error = message(resample::nearest_x2(&cx, v(&x, [1, 2, 2, 2]), vm(&mut y, [1, 2, 4, 2])));
    assert!(error.contains("[1, 4, 4, 2]"), "{error}");
}
