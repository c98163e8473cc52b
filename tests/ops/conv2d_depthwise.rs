//! Depthwise convolutions against their definition, and gradients against central differences.

use deem::Context;
use deem::dtype::{DType, Element, Real};
use deem::host::simd;
use deem::memory::{Shape, View, ViewMut};
use deem::ops::conv2d_depthwise;
use half::bf16;

use crate::support::{assert_close, check_gradients, device, filled, normals, round, unset};

/// B, H, W, C, Kh, Kw.
#[derive(Clone, Copy, Debug)]
struct Case([usize; 6]);

const CASES: [Case; 8] = [
    Case([1, 1, 1, 1, 1, 1]),
    Case([2, 3, 4, 6, 3, 3]),
    Case([1, 5, 9, 17, 7, 7]),
    Case([2, 6, 8, 16, 5, 5]),
    Case([1, 4, 3, 5, 9, 3]),
    Case([1, 3, 11, 2, 1, 9]),
    Case([3, 19, 17, 40, 7, 7]),
    Case([1, 40, 12, 130, 3, 7]),
];

impl Case {
    fn lens(&self) -> (usize, usize) {
        let [b, h, w, c, kh, kw] = self.0;
        (b * h * w * c, kh * kw * c)
    }

    fn shapes(&self) -> ([usize; 4], [usize; 3]) {
        let [b, h, w, c, kh, kw] = self.0;
        ([b, h, w, c], [kh, kw, c])
    }

    /// Calls `f(x index, w index, y index)` for every term of the definition.
    fn terms(&self, mut f: impl FnMut(usize, usize, usize)) {
        let [b, h, w, c, kh, kw] = self.0;
        for (b, i, j) in (0..b * h * w).map(|p| (p / (h * w), p / w % h, p % w)) {
            for (u, v) in (0..kh * kw).map(|t| (t / kw, t % kw)) {
                let (y, x) = ((i + u).wrapping_sub(kh / 2), (j + v).wrapping_sub(kw / 2));
                if y < h && x < w {
                    (0..c).for_each(|z| {
                        f(((b * h + y) * w + x) * c + z, (u * kw + v) * c + z, ((b * h + i) * w + j) * c + z)
                    });
                }
            }
        }
    }

    fn forward<E: Element>(&self, cx: &Context, x: &[E], w: &[E], bias: Option<&[E]>) -> Vec<E> {
        let ((s, sw), tensor) = (self.shapes(), |shape: Shape, data: &[E]| cx.tensor(shape, data).unwrap());
        let (x, w) = (tensor(s.into(), x), tensor(sw.into(), w));
        let (bias, mut y) = (bias.map(|b| tensor([b.len()].into(), b)), unset::<E>(cx, s));
        let bias = bias.as_ref().map(|b| b.view());
        conv2d_depthwise::forward(cx, x.view(), w.view(), bias, y.view_mut()).unwrap();
        y.to_vec().unwrap()
    }

    fn input<E: Element>(&self, cx: &Context, dy: &[E], w: &[E]) -> Vec<E> {
        let (s, sw) = self.shapes();
        let (dy, w, mut dx) = (cx.tensor(s, dy).unwrap(), cx.tensor(sw, w).unwrap(), unset::<E>(cx, s));
        conv2d_depthwise::backward_input(cx, dy.view(), w.view(), dx.view_mut()).unwrap();
        dx.to_vec().unwrap()
    }

    /// Starts from 1, to see that gradients are added.
    fn weight<E: Element>(&self, cx: &Context, dy: &[E], x: &[E]) -> Vec<E::Acc> {
        let (s, sw) = self.shapes();
        let (dy, x, mut dw) = (cx.tensor(s, dy).unwrap(), cx.tensor(s, x).unwrap(), filled::<E::Acc>(cx, sw, 1.0));
        conv2d_depthwise::backward_weight(cx, dy.view(), x.view(), dw.view_mut()).unwrap();
        dw.to_vec().unwrap()
    }

    fn check<E: Element>(&self, cx: &Context) {
        let (n, nw) = self.lens();
        let [b, h, w, c, kh, kw] = self.0;
        let [x, weights, dy, bias] =
            [("x", n), ("w", nw), ("dy", n), ("bias", c)].map(|(name, n)| round::<E>(&normals(name, n)));
        let (mut y_exact, mut dx_exact, mut dw_exact) = (vec![0.0; n], vec![0.0; n], vec![1.0; nw]);
        self.terms(|xi, wi, yi| {
            y_exact[yi] += x[xi].to_f64() * weights[wi].to_f64();
            dx_exact[xi] += dy[yi].to_f64() * weights[wi].to_f64();
            dw_exact[wi] += dy[yi].to_f64() * x[xi].to_f64();
        });
        // One rounding to store; sums of n terms round about sqrt(n) times: 8 standard deviations.
        let storage = if E::DTYPE == DType::Bf16 { 1.0 / 256.0 } else { 0.0 };
        let bound = |n: usize| 8.0 * <E::Acc as Real>::ROUNDOFF * (n as f64 + 1.0).sqrt();
        let what = format!("{self:?} {} {:?}", E::DTYPE, simd::level());
        assert_close(&format!("{what} y"), &self.forward(cx, &x, &weights, None), &y_exact, bound(kh * kw) + storage);
        y_exact.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % c].to_f64());
        let biased = self.forward(cx, &x, &weights, Some(&bias));
        assert_close(&format!("{what} y + bias"), &biased, &y_exact, bound(kh * kw) + storage);
        assert_close(&format!("{what} dx"), &self.input(cx, &dy, &weights), &dx_exact, bound(kh * kw) + storage);
        assert_close(&format!("{what} dw"), &self.weight(cx, &dy, &x), &dw_exact, bound(b * h * w));
    }
}

#[test]
fn the_definition_in_every_type() {
    let (host, cx) = (Context::host(2), device());
    for case in CASES {
        case.check::<f64>(&host);
        case.check::<f32>(&cx);
        case.check::<bf16>(&cx);
    }
}

#[test]
fn gradients_against_central_differences() {
    let cx = Context::host(1);
    for case in &CASES[..4] {
        let (n, nw) = case.lens();
        let (x, w, dy) = (normals("x", n), normals("w", nw), normals("dy", n));
        let dx = case.input(&cx, &dy, &w);
        let dw = case.weight(&cx, &dy, &x).iter().map(|g| g - 1.0).collect();
        check_gradients(&format!("{case:?}"), &[x, w], &dy, &[dx, dw], |i| case.forward(&cx, &i[0], &i[1], None));
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let case = Case([5, 30, 30, 70, 7, 7]);
    let (n, nw) = case.lens();
    let [x, w, dy] = [("x", n), ("w", nw), ("dy", n)].map(|(name, n)| round::<f32>(&normals(name, n)));
    let [one, four] = [1, 4].map(|threads| {
        let cx = Context::host(threads);
        [case.forward(&cx, &x, &w, None), case.input(&cx, &dy, &w), case.weight(&cx, &dy, &x)]
    });
    assert!(one == four);
}

#[test]
fn empty_problems_and_errors() {
    let cx = Context::host(1);
    assert!(Case([0, 3, 3, 4, 3, 3]).forward::<f32>(&cx, &[], &[0.0; 36], None).is_empty());
    assert_eq!(Case([0, 3, 3, 4, 3, 3]).weight::<f32>(&cx, &[], &[]), [1.0; 36]);
    let (x, mut y) = (vec![0f32; 36], vec![0f32; 36]);
    let mut run = |w: [usize; 3]| {
        let (vx, vw) = (View::new(&x, [1, 3, 3, 4]), View::new(&x[..w.iter().product()], w));
        conv2d_depthwise::forward(&cx, vx, vw, None, ViewMut::new(&mut y, [1, 3, 3, 4]))
    };
    assert!(run([3, 3, 4]).is_ok());
    assert!(run([2, 3, 4]).is_err());
    assert!(run([3, 3, 3]).is_err());
}
