//! What all tests share: reproducible numbers, gradient checks against central differences, and error bounds.
#![allow(dead_code)] // each test binary uses its own part

pub mod vgpu;

use deem::Context;
use deem::dtype::Element;
use deem::memory::{Shape, Tensor};
use deem::ops::random::Stream;

/// Says which device the tests of this process run on: `cuda`, or the host without it.
pub const DEVICE: &str = "DEEM_TEST_DEVICE";

/// Whether this process runs its tests on a CUDA device.
pub fn is_on_cuda() -> bool {
    std::env::var_os(DEVICE).is_some()
}

/// The device under test: the host, or the one that [`DEVICE`] names. Each tensor there has an allocation of its own, whose ends a checker of memory sees.
pub fn device() -> Context {
    match std::env::var(DEVICE) {
        Ok(name) => {
            let cx = Context::new(name.parse().unwrap(), 0).unwrap();
            cx.arena().set_separate(true);
            cx
        }
        Err(_) => Context::host(2),
    }
}

/// A tensor on the context's device with these numbers, rounded to its type.
pub fn put<E: Element>(cx: &Context, shape: impl Into<Shape>, data: &[f64]) -> Tensor<E> {
    cx.tensor(shape, &round::<E>(data)).unwrap()
}

/// A tensor of NaN, to be overwritten.
pub fn unset<E: Element>(cx: &Context, shape: impl Into<Shape>) -> Tensor<E> {
    filled(cx, shape, f64::NAN)
}

/// A tensor full of one number.
pub fn filled<E: Element>(cx: &Context, shape: impl Into<Shape>, value: f64) -> Tensor<E> {
    let shape = shape.into();
    cx.tensor(shape, &vec![E::from_f64(value); shape.len()]).unwrap()
}

/// The elements of a tensor of any device.
pub fn get<E: Element>(tensor: &Tensor<E>) -> Vec<f64> {
    tensor.to_vec().unwrap().iter().map(|x| x.to_f64()).collect()
}

/// `n` standard normal numbers, a function of `name` alone.
pub fn normals(name: &str, n: usize) -> Vec<f64> {
    let stream = Stream::new(0, name);
    (0..n as u64).map(|i| stream.normal(i)).collect()
}

/// `n` numbers uniform in `[lo, hi)`, a function of `name` alone.
pub fn uniforms(name: &str, n: usize, lo: f64, hi: f64) -> Vec<f64> {
    let stream = Stream::new(0, name);
    (0..n as u64).map(|i| lo + (hi - lo) * stream.uniform(i)).collect()
}

/// Rounds to storage type `E`.
pub fn round<E: Element>(x: &[f64]) -> Vec<E> {
    x.iter().map(|&x| E::from_f64(x)).collect()
}

/// Checks gradients of `f` by central differences in f64.
///
/// `f` maps the inputs to one output; `gradients` are d(sum(cotangent * output)) / d(input), one vector per input (an empty vector skips
/// that input). The difference quotient of step h has a truncation error of order h^2 and a rounding error of order 1e-16/h; with
/// h = 1e-5 relative both are near 1e-10, so 1e-6 of the largest gradient is a bound that a wrong term cannot meet.
pub fn check_gradients(
    what: &str,
    inputs: &[Vec<f64>],
    cotangent: &[f64],
    gradients: &[Vec<f64>],
    f: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let dot = |y: Vec<f64>| -> f64 {
        assert_eq!(y.len(), cotangent.len(), "{what}: output length");
        y.iter().zip(cotangent).map(|(y, c)| y * c).sum()
    };
    for (which, gradient) in gradients.iter().enumerate() {
        if gradient.is_empty() {
            continue;
        }
        assert_eq!(gradient.len(), inputs[which].len(), "{what}: gradient {which} length");
        let largest = gradient.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
        for i in 0..gradient.len() {
            let h = 1e-5 * inputs[which][i].abs().max(1.0);
            let mut moved = inputs.to_vec();
            moved[which][i] = inputs[which][i] + h;
            let above = dot(f(&moved));
            moved[which][i] = inputs[which][i] - h;
            let below = dot(f(&moved));
            let numeric = (above - below) / (2.0 * h);
            let error = (numeric - gradient[i]).abs();
            assert!(
                error <= 1e-6 * largest,
                "{what}: gradient of input {which}[{i}]: analytic {}, central difference {numeric}, error {error:.3e}",
                gradient[i]
            );
        }
    }
}

/// Asserts `|found - exact| <= bound * max(|exact|)` element by element; NaN and infinity never pass. The message gives the coordinate.
pub fn assert_close<E: Element>(what: &str, found: &[E], exact: &[f64], bound: f64) {
    assert_eq!(found.len(), exact.len(), "{what}: length");
    let scale = exact.iter().fold(0f64, |m, x| m.max(x.abs())).max(f64::MIN_POSITIVE);
    for (i, (found, exact)) in found.iter().zip(exact).enumerate() {
        let error = (found.to_f64() - exact).abs();
        assert!(
            error <= bound * scale,
            "{what}[{i}]: found {found:?}, exact {exact}, error {error:.3e} > {:.3e} = {bound:.1e} x {scale:.3e}",
            bound * scale
        );
    }
}
