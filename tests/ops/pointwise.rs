//! What the tests of row-wise and pointwise ops share.
//!
//! A runner is a function generic over the storage type that makes its inputs, runs the op on NaN-filled outputs and returns all outputs as
//! f64. Inputs are rounded to bf16, which every storage type holds exactly, so runners of all types solve the very same problem.

use deem::Context;
use deem::dtype::{DType, Element, Real};
use deem::host::simd::{Level, best_of_machine, force};
use deem::memory::{Shape, View, ViewMut};
use half::bf16;

use crate::support;

/// All outputs of a runner.
pub type Outputs = Vec<Vec<f64>>;

/// Normal numbers that every storage type holds exactly.
pub fn input(name: &str, n: usize) -> Vec<f64> {
    support::normals(name, n).into_iter().map(exact).collect()
}

/// Rounds to bf16.
pub fn exact(x: f64) -> f64 {
    bf16::from_f64(x).to_f64()
}

/// `n` NaN.
pub fn nan<E: Element>(n: usize) -> Vec<E> {
    vec![E::from_f64(f64::NAN); n]
}

/// To f64.
pub fn wide<E: Element>(x: &[E]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// A view of a slice.
pub fn v<E>(x: &[E], shape: impl Into<Shape>) -> View<'_, E> {
    View::new(x, shape)
}

/// A view of a slice to be written.
pub fn vm<E>(x: &mut [E], shape: impl Into<Shape>) -> ViewMut<'_, E> {
    ViewMut::new(x, shape)
}

/// One rounding to storage and `k` roundings of the accumulation type.
pub fn bound<E: Element>(k: f64) -> f64 {
    let storage = match E::DTYPE {
        DType::Bf16 => 1.0 / 256.0,
        _ => <E::Acc as Real>::ROUNDOFF,
    };
    storage + k * <E::Acc as Real>::ROUNDOFF
}

/// Every output of `found` within its bound of `exact`.
pub fn compare(what: &str, found: &Outputs, exact: &Outputs, bounds: &[f64]) {
    assert_eq!(found.len(), exact.len(), "{what}");
    for (i, (found, exact)) in found.iter().zip(exact).enumerate() {
        support::assert_close(&format!("{what}, output {i}"), found, exact, bounds[i.min(bounds.len() - 1)]);
    }
}

/// How much larger the terms of a sum (up to `terms`) are than its result: by so much does cancellation amplify roundings.
pub fn cancellation(terms: f64, result: &[f64]) -> f64 {
    (terms / largest(result).max(f64::MIN_POSITIVE)).max(1.0)
}

/// The largest absolute value.
pub fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// The same bits with 1 and 4 threads and at every instruction set of this machine.
pub fn same_bits(what: &str, run: impl Fn(&Context) -> Outputs) {
    let bits = |x: Outputs| -> Vec<Vec<u64>> { x.iter().map(|x| x.iter().map(|x| x.to_bits()).collect()).collect() };
    let reference = bits(run(&Context::host(1)));
    assert!(reference == bits(run(&Context::host(4))), "{what}: threads change bits");
    for level in [Level::Portable, Level::Avx2] {
        force(level);
        assert!(reference == bits(run(&Context::host(1))), "{what}: {level:?} changes bits");
        force(best_of_machine());
    }
}

/// The message of an expected error.
pub fn message<T>(result: deem::Result<T>) -> String {
    result.err().expect("an error").to_string()
}
