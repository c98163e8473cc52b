//! Convolutions against the sum in their definition, and gradients against central differences.

use deem::dtype::Element;
use deem::memory::{View, ViewMut};
use deem::ops::conv2d::{self, Conv2d, ConvEpilogue, Pad};
use deem::{Context, Error};
use half::bf16;

use crate::pointwise::same_bits;
use crate::support::{assert_close, check_gradients, device, filled, get, is_on_cuda, normals, put, round, unset};

#[derive(Clone, Copy, Debug)]
struct Case {
    b: usize,
    h: usize,
    w: usize,
    i: usize,
    o: usize,
    kh: usize,
    kw: usize,
    conv: Conv2d,
}

const fn case(
    b: usize,
    (h, w): (usize, usize),
    (i, o): (usize, usize),
    (kh, kw): (usize, usize),
    stride: usize,
    pad: [usize; 4],
) -> Case {
    let [top, left, bottom, right] = pad;
    Case { b, h, w, i, o, kh, kw, conv: Conv2d { stride, pad: Pad { top, left, bottom, right } } }
}

const CASES: [Case; 18] = [
    case(1, (1, 1), (1, 1), (1, 1), 1, [0; 4]),
    case(2, (5, 4), (3, 5), (3, 3), 1, [1; 4]),
    case(2, (6, 7), (8, 4), (3, 3), 2, [1; 4]),
    case(1, (6, 6), (2, 3), (3, 3), 2, [0, 0, 1, 1]),
    case(3, (8, 8), (3, 6), (4, 4), 4, [0; 4]),
    case(2, (5, 6), (7, 9), (1, 1), 1, [0; 4]),
    case(1, (7, 5), (4, 3), (1, 1), 2, [0; 4]),
    case(1, (9, 8), (2, 2), (2, 5), 3, [2, 1, 0, 4]),
    case(2, (12, 12), (40, 36), (3, 3), 1, [1; 4]),
    case(1, (3, 3), (1, 1), (5, 5), 1, [2; 4]),
    case(2, (2, 2), (3, 2), (3, 3), 1, [4, 0, 0, 3]),
    case(1, (20, 33), (16, 70), (3, 3), 1, [1; 4]),
    // Channels of the CUDA kernels' large tiles.
    case(2, (6, 7), (32, 64), (3, 3), 2, [1; 4]),
    case(1, (6, 6), (32, 32), (3, 3), 2, [0, 0, 1, 1]),
    case(1, (8, 8), (64, 32), (4, 4), 4, [0; 4]),
    case(1, (9, 8), (32, 32), (2, 5), 3, [2, 1, 0, 4]),
    case(1, (5, 6), (48, 136), (1, 1), 1, [0; 4]),
    case(2, (33, 32), (32, 32), (3, 3), 1, [1; 4]),
];

impl Case {
    fn out(&self) -> (usize, usize) {
        self.conv.output_size((self.h, self.w), (self.kh, self.kw))
    }

    fn shapes(&self) -> [[usize; 4]; 3] {
        let (oh, ow) = self.out();
        [[self.b, self.h, self.w, self.i], [self.o, self.kh, self.kw, self.i], [self.b, oh, ow, self.o]]
    }

    fn lens(&self) -> [usize; 3] {
        self.shapes().map(|s| s.iter().product())
    }

    /// Calls `f(x index, w index, y index)` for every term of the definition.
    fn terms(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (oh, ow) = self.out();
        for (b, i, j) in (0..self.b * oh * ow).map(|p| (p / (oh * ow), p / ow % oh, p % ow)) {
            for (u, v) in (0..self.kh * self.kw).map(|t| (t / self.kw, t % self.kw)) {
                let h = (i * self.conv.stride + u).wrapping_sub(self.conv.pad.top);
                let w = (j * self.conv.stride + v).wrapping_sub(self.conv.pad.left);
                if h >= self.h || w >= self.w {
                    continue;
                }
                for (o, c) in (0..self.o * self.i).map(|p| (p / self.i, p % self.i)) {
                    f(
                        ((b * self.h + h) * self.w + w) * self.i + c,
                        ((o * self.kh + u) * self.kw + v) * self.i + c,
                        ((b * oh + i) * ow + j) * self.o + o,
                    );
                }
            }
        }
    }

    fn forward<E: Element>(&self, cx: &Context, x: &[E], w: &[E], epilogue: &ConvEpilogue<'_, E>) -> Vec<E> {
        let [sx, sw, sy] = self.shapes();
        let (x, w, mut y) = (cx.tensor(sx, x).unwrap(), cx.tensor(sw, w).unwrap(), unset::<E>(cx, sy));
        conv2d::forward(cx, x.view(), w.view(), y.view_mut(), &self.conv, epilogue).unwrap();
        y.to_vec().unwrap()
    }

    fn input<E: Element>(&self, cx: &Context, dy: &[E], w: &[E]) -> Vec<E> {
        let [sx, sw, sy] = self.shapes();
        let (dy, w, mut dx) = (cx.tensor(sy, dy).unwrap(), cx.tensor(sw, w).unwrap(), unset::<E>(cx, sx));
        conv2d::backward_input(cx, dy.view(), w.view(), dx.view_mut(), &self.conv).unwrap();
        dx.to_vec().unwrap()
    }

    /// Starts from 1, to see that gradients are added.
    fn weight<E: Element>(&self, cx: &Context, dy: &[E], x: &[E]) -> Vec<E::Acc> {
        let [sx, sw, sy] = self.shapes();
        let (dy, x, mut dw) = (cx.tensor(sy, dy).unwrap(), cx.tensor(sx, x).unwrap(), filled::<E::Acc>(cx, sw, 1.0));
        conv2d::backward_weight(cx, dy.view(), x.view(), dw.view_mut(), &self.conv).unwrap();
        dw.to_vec().unwrap()
    }

    fn check<E: Element>(&self, cx: &Context) {
        let [nx, nw, ny] = self.lens();
        let pixels = ny / self.o.max(1);
        let [x, w, dy, bias, per_image, residual] =
            [("x", nx), ("w", nw), ("dy", ny), ("bias", self.o), ("pi", self.b * self.o), ("res", ny)]
                .map(|(name, n)| round::<E>(&normals(name, n)));
        let wide = |x: &[E]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
        let (x64, w64, dy64) = (wide(&x), wide(&w), wide(&dy));
        let (mut y_exact, mut dx_exact, mut dw_exact) = (vec![0.0; ny], vec![0.0; nx], vec![1.0; nw]);
        self.terms(|xi, wi, yi| {
            y_exact[yi] += x64[xi] * w64[wi];
            dx_exact[xi] += dy64[yi] * w64[wi];
            dw_exact[wi] += dy64[yi] * x64[xi];
        });
        // One rounding to store, and sums of n terms round about sqrt(n) times by u relative to the largest sum: 8 standard deviations.
        let bound = |n: usize, stored: bool| {
            let acc = <E::Acc as deem::dtype::Real>::ROUNDOFF;
            8.0 * acc * (n as f64).sqrt()
                + if stored && E::DTYPE == deem::dtype::DType::Bf16 { 1.0 / 256.0 } else { 0.0 }
        };
        let what = format!("{self:?} {}", E::DTYPE);
        let plain = self.forward(cx, &x, &w, &ConvEpilogue::default());
        assert_close(&format!("{what} y"), &plain, &y_exact, bound(self.i * self.kh * self.kw, true));
        let [_, _, sy] = self.shapes();
        let there = |x: &[E], shape: &[usize]| cx.tensor(shape, x).unwrap();
        let (bias_there, residual_there) = (there(&bias, &[self.o]), there(&residual, &sy));
        let per_image_there = there(&per_image, &[self.b, self.o]);
        let epilogue = ConvEpilogue {
            bias: Some(bias_there.view()),
            per_image: Some(per_image_there.view()),
            residual: Some(residual_there.view()),
        };
        for (at, y) in y_exact.iter_mut().enumerate() {
            let (pixel, o) = (at / self.o, at % self.o);
            *y += bias[o].to_f64() + per_image[pixel / (pixels / self.b) * self.o + o].to_f64() + residual[at].to_f64();
        }
        let full = self.forward(cx, &x, &w, &epilogue);
        assert_close(&format!("{what} y with epilogue"), &full, &y_exact, bound(self.i * self.kh * self.kw + 3, true));
        assert_close(
            &format!("{what} dx"),
            &self.input(cx, &dy, &w),
            &dx_exact,
            bound(self.o * self.kh * self.kw, true),
        );
        assert_close(&format!("{what} dw"), &self.weight(cx, &dy, &x), &dw_exact, bound(pixels, false));
    }
}

#[test]
fn the_definition_in_every_type() {
    let cx = device();
    for case in CASES {
        if !is_on_cuda() {
            case.check::<f64>(&cx);
        }
        case.check::<f32>(&cx);
        case.check::<bf16>(&cx);
    }
}

/// Bits depend neither on threads nor on the order of blocks.
#[test]
fn order_of_blocks() {
    for case in [CASES[17], CASES[8]] {
        let [nx, nw, ny] = case.lens();
        let [sx, sw, sy] = case.shapes();
        let (x, w, dy) = (normals("x", nx), normals("w", nw), normals("dy", ny));
        same_bits(&format!("{case:?}"), |cx| {
            let (x, w, dy) = (put::<f32>(cx, sx, &x), put::<f32>(cx, sw, &w), put::<f32>(cx, sy, &dy));
            let (mut y, mut dx, mut dw) = (unset::<f32>(cx, sy), unset::<f32>(cx, sx), filled::<f32>(cx, sw, 1.0));
            conv2d::forward(cx, x.view(), w.view(), y.view_mut(), &case.conv, &Default::default()).unwrap();
            conv2d::backward_input(cx, dy.view(), w.view(), dx.view_mut(), &case.conv).unwrap();
            conv2d::backward_weight(cx, dy.view(), x.view(), dw.view_mut(), &case.conv).unwrap();
            vec![get(&y), get(&dx), get(&dw)]
        });
    }
}

#[test]
fn gradients_against_central_differences() {
    let cx = Context::host(1);
    for case in &CASES[..8] {
        let [nx, nw, ny] = case.lens();
        let (x, w, dy) = (normals("x", nx), normals("w", nw), normals("dy", ny));
        let dx = case.input(&cx, &dy, &w);
        let dw = case.weight(&cx, &dy, &x).iter().map(|g| g - 1.0).collect();
        check_gradients(&format!("{case:?}"), &[x, w], &dy, &[dx, dw], |inputs| {
            case.forward(&cx, &inputs[0], &inputs[1], &ConvEpilogue::default())
        });
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let case = case(4, (24, 24), (24, 40), (3, 3), 1, [1; 4]);
    let [nx, nw, ny] = case.lens();
    let [x, w, dy] = [("x", nx), ("w", nw), ("dy", ny)].map(|(name, n)| round::<f32>(&normals(name, n)));
    let [one, four] = [1, 4].map(|threads| {
        let cx = Context::host(threads);
        [case.forward(&cx, &x, &w, &ConvEpilogue::default()), case.input(&cx, &dy, &w), case.weight(&cx, &dy, &x)]
    });
    assert!(one == four);
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let cx = Context::host(1);
    let (x, w, mut y) = (vec![0f32; 2 * 25 * 3], vec![0f32; 4 * 27], vec![0f32; 2 * 25 * 4]);
    let (sx, sw, sy) = ([2, 5, 5, 3], [4, 3, 3, 3], [2, 5, 5, 4]);
    let mut run = |sx: [usize; 4], conv: Conv2d| {
        let (x, w, y) = (View::new(&x, sx), View::new(&w, sw), ViewMut::new(&mut y, sy));
        conv2d::forward(&cx, x, w, y, &conv, &Default::default())
    };
    assert!(run(sx, Conv2d::new(1, Pad::same(1))).is_ok());
    assert!(matches!(run(sx, Conv2d::new(1, Pad::same(0))), Err(Error::Shape { .. })));
    assert!(matches!(run(sx, Conv2d::new(0, Pad::same(1))), Err(Error::Domain { .. })));
    assert!(matches!(run([2, 5, 3, 5], Conv2d::new(1, Pad::same(1))), Err(Error::Shape { .. })));
    let empty = case(0, (5, 5), (3, 4), (3, 3), 1, [1; 4]);
    assert!(empty.forward::<f32>(&cx, &[], &w, &ConvEpilogue::default()).is_empty());
}
