//! Dropout against its definition on the random generator, whose own answers are known.

use deem::Context;
use deem::dtype::Element;
use deem::ops::dropout::{self, Dropout};
use deem::ops::random::philox;
use half::bf16;

use crate::pointwise::*;
use crate::support::{device, get, put, unset};

const RATE: f64 = 0.25;
const NAME: &str = "layer.3.attention";
const SEED: u64 = 0x1_0000_0007;

/// The factor of element (row, col): word `i % 4` of counter `i / 4`, `i` = row x (cols rounded up to fours) + col, under the FNV-1a hash of the name.
fn factor(row: usize, col: usize, cols: usize) -> f64 {
    let hash = NAME.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let i = (row * cols.div_ceil(4) * 4 + col) as u64;
    let word = philox([(i / 4) as u32, 0, hash as u32, (hash >> 32) as u32], [SEED as u32, (SEED >> 32) as u32]);
    if f64::from(word[i as usize % 4]) / 2f64.powi(32) < RATE { 0.0 } else { 1.0 / (1.0 - RATE) }
}

/// Outputs without and with a residual.
fn run<E: Element>(cx: &Context, r: usize, c: usize) -> Outputs {
    let [x, residual] = ["x", "residual"].map(|name| put::<E>(cx, [r, c], &input(name, r * c)));
    let dropout = Dropout::new(SEED, NAME, RATE).unwrap().unwrap();
    let (mut alone, mut sum) = (unset::<E>(cx, [r, c]), unset::<E>(cx, [r, c]));
    dropout::forward(cx, x.view(), None, alone.view_mut(), &dropout).unwrap();
    dropout::forward(cx, x.view(), Some(residual.view()), sum.view_mut(), &dropout).unwrap();
    vec![get(&alone), get(&sum)]
}

#[test]
fn the_definition_in_every_type() {
    let (host, cx) = (Context::host(2), device());
    for (r, c) in [(0, 4), (1, 1), (3, 5), (2, 64), (5, 131)] {
        let [x, residual] = ["x", "residual"].map(|name| input(name, r * c));
        let exact = run::<f64>(&host, r, c);
        for i in 0..r * c {
            let dropped = factor(i / c, i % c, c) * x[i];
            assert!((exact[0][i] - dropped).abs() <= 1e-15 * dropped.abs());
            assert!((exact[1][i] - dropped - residual[i]).abs() <= 4e-16 * (dropped.abs() + residual[i].abs()));
        }
        for (name, narrow, roundoff) in
            [("f32", run::<f32>(&cx, r, c), 2f64.powi(-24)), ("bf16", run::<bf16>(&cx, r, c), 2f64.powi(-9))]
        {
            // Inputs are exact; the factor, the product and the sum are rounded, and what is stored.
            for (found, exact) in narrow.iter().zip(&exact) {
                for (i, (a, b)) in found.iter().zip(exact).enumerate() {
                    let size = 4.0 / 3.0 * x[i].abs() + residual[i].abs();
                    assert!((a - b).abs() <= 4.0 * roundoff * size, "{name} [{r},{c}] {i}: {a} {b}");
                }
            }
        }
        same_bits("f32", |cx| run::<f32>(cx, r, c));
    }
}

#[test]
fn as_many_as_the_rate_says() {
    let cx = Context::host(2);
    let n = 100_000;
    let (ones, mut y) = (vec![1f32; n], vec![0f32; n]);
    let dropout = Dropout::new(3, "x", 0.1).unwrap().unwrap();
    dropout::forward(&cx, v(&ones, [n / 100, 100]), None, vm(&mut y, [n / 100, 100]), &dropout).unwrap();
    let dropped = y.iter().filter(|y| **y == 0.0).count() as f64;
    // Five standard deviations of a binomial number.
    assert!((dropped - 0.1 * n as f64).abs() < 5.0 * (0.1 * 0.9 * n as f64).sqrt(), "{dropped} of {n}");
    let kept = 1.0 / 0.9f32;
    assert!(y.iter().all(|y| *y == 0.0 || (y - kept).abs() < 1e-6));
}

#[test]
fn rates() {
    assert!(Dropout::new(1, "x", 0.0).unwrap().is_none());
    for rate in [-0.1, 1.0, f64::NAN] {
        let error = Dropout::new(1, "x", rate).unwrap_err().to_string();
        assert!(error.contains("rate") && error.contains("0 <= rate < 1"), "{error}");
    }
}
