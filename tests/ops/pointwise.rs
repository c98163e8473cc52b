//! What the tests of row-wise and pointwise ops share.
//!
//! A runner is a function generic over the storage type that makes its inputs, runs the op on NaN-filled outputs and returns all outputs as
//! f64. Inputs are rounded to bf16, which every storage type holds exactly, so runners of all types solve the very same problem.

use deem::Context;
use deem::dtype::{DType, Element, Real};
use deem::memory::{Shape, Tensor, View, ViewMut};
use half::bf16;

use crate::support::{self, vgpu::PRINT};

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

/// Where tests keep numbers: slices of host memory, and tensors on any device.
pub trait Numbers {
    /// The storage type.
    type Item: Element;
    /// All numbers, to be read.
    fn all(&self) -> View<'_, Self::Item>;
    /// All numbers, to be written.
    fn all_mut(&mut self) -> ViewMut<'_, Self::Item>;
    /// A copy of all numbers, as f64.
    fn widened(&self) -> Vec<f64>;
}

impl<E: Element> Numbers for [E] {
    type Item = E;
    fn all(&self) -> View<'_, E> {
        View::new(self, [self.len()])
    }
    fn all_mut(&mut self) -> ViewMut<'_, E> {
        let len = self.len();
        ViewMut::new(self, [len])
    }
    fn widened(&self) -> Vec<f64> {
        self.iter().map(|x| x.to_f64()).collect()
    }
}

impl<E: Element> Numbers for Tensor<E> {
    type Item = E;
    fn all(&self) -> View<'_, E> {
        self.view().reshape([self.len()])
    }
    fn all_mut(&mut self) -> ViewMut<'_, E> {
        let len = self.len();
        self.view_mut().reshape([len])
    }
    fn widened(&self) -> Vec<f64> {
        support::get(self)
    }
}

impl<E: Element> Numbers for Vec<E> {
    type Item = E;
    fn all(&self) -> View<'_, E> {
        self.as_slice().all()
    }
    fn all_mut(&mut self) -> ViewMut<'_, E> {
        self.as_mut_slice().all_mut()
    }
    fn widened(&self) -> Vec<f64> {
        self.as_slice().widened()
    }
}

impl<E: Element, const N: usize> Numbers for [E; N] {
    type Item = E;
    fn all(&self) -> View<'_, E> {
        self.as_slice().all()
    }
    fn all_mut(&mut self) -> ViewMut<'_, E> {
        self.as_mut_slice().all_mut()
    }
    fn widened(&self) -> Vec<f64> {
        self.as_slice().widened()
    }
}

/// To f64.
pub fn wide<N: Numbers + ?Sized>(x: &N) -> Vec<f64> {
    x.widened()
}

/// A view of all numbers.
pub fn v<N: Numbers + ?Sized>(x: &N, shape: impl Into<Shape>) -> View<'_, N::Item> {
    let all = x.all();
    // No elements for a shape that has some: a dry run.
    if all.shape().is_empty() { View::new(&[], shape) } else { all.reshape(shape) }
}

/// A view of all numbers, to be written.
pub fn vm<N: Numbers + ?Sized>(x: &mut N, shape: impl Into<Shape>) -> ViewMut<'_, N::Item> {
    let all = x.all_mut();
    if all.shape().is_empty() { ViewMut::new(&mut [], shape) } else { all.reshape(shape) }
}

/// A tensor on the context's device, with numbers of any shape.
pub fn on<E: Element>(cx: &Context, x: &[f64]) -> Tensor<E> {
    support::put(cx, [x.len()], x)
}

/// `n` NaN on the context's device.
pub fn nan_on<E: Element>(cx: &Context, n: usize) -> Tensor<E> {
    support::unset(cx, [n])
}

/// `n` ones on the context's device.
pub fn ones_on<E: Element>(cx: &Context, n: usize) -> Tensor<E> {
    support::filled(cx, [n], 1.0)
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

/// `found` is a + b, in f64.
pub fn is_sum(found: &[f64], a: &[f64], b: &[f64]) {
    assert!(found.len() == a.len() && a.len() == b.len());
    for (i, (found, (a, b))) in found.iter().zip(a.iter().zip(b)).enumerate() {
        assert!((found - (a + b)).abs() <= 1e-14 * (a.abs() + b.abs()), "number {i}: {found}, expected {a} + {b}");
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

/// The same bits with 1 and 4 threads; [`every_instruction_set_agrees`] compares them between instruction sets. On a CUDA device: what
/// `cuda::on_the_virtual_gpu` compares between orders in which blocks and warps run.
pub fn same_bits(what: &str, run: impl Fn(&Context) -> Outputs) {
    let bits = |x: Outputs| -> Vec<u64> { x.iter().flatten().map(|x| x.to_bits()).collect() };
    let reference = bits(run(&support::device()));
    if !support::is_on_cuda() {
        assert!(reference == bits(run(&Context::host(1))), "{what}: threads change bits");
        assert!(reference == bits(run(&Context::host(4))), "{what}: threads change bits");
    }
    if std::env::var_os(PRINT).is_some() {
        // FNV-1a over words.
        let hash = reference.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b).wrapping_mul(0x0100_0000_01b3));
        println!("\nBITS {what} {hash:016x}");
    }
}

/// Runs the tests called `*bits*` once per instruction set, each in a process of its own, because the choice holds for a whole process.
#[test]
fn every_instruction_set_agrees() {
    let lines = |level: &str| -> Vec<String> {
        let program = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(program);
        command.args(["bits", "--nocapture", "--test-threads=1"]).env("DEEM_SIMD", level).env(PRINT, "1");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{level}: {text}");
        text.lines().filter(|line| line.starts_with("BITS ")).map(String::from).collect()
    };
    let best = lines("best");
    assert!(best.len() > 20, "{best:?}");
    for level in ["portable", "avx2"] {
        for (found, want) in lines(level).iter().zip(&best) {
            assert_eq!(found, want, "{level} changes bits");
        }
    }
}

/// The message of an expected error.
pub fn message<T>(result: deem::Result<T>) -> String {
    result.err().expect("an error").to_string()
}
