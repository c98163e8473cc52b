//! PTX that other compilers made, run through the driver API and compared with f64.
//!
//! `make.sh` in this folder makes the PTX again.

mod numba;
mod nvcc;
mod surfaces;
mod tensor;
mod textures;
mod triton;

use std::path::PathBuf;

use crate::support::{Module, context};

/// A file of this folder.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

/// The text of a file of this folder.
fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|problem| panic!("{name}: {problem}"))
}

/// Loads a file of this folder.
fn load(name: &str) -> Module {
    context();
    Module::load(&read(name))
}

/// f16 or bf16 bits of values, and the values that they stand for.
fn halves<T: HalfFloat>(values: &[f32]) -> (Vec<u16>, Vec<f64>) {
    values.iter().map(|&value| (T::bits(value), T::value(T::bits(value)))).unzip()
}

/// The 16-bit floating-point types.
trait HalfFloat {
    /// Rounded to nearest even.
    fn bits(value: f32) -> u16;
    /// Exact.
    fn value(bits: u16) -> f64;
}

impl HalfFloat for half::f16 {
    fn bits(value: f32) -> u16 {
        half::f16::from_f32(value).to_bits()
    }
    fn value(bits: u16) -> f64 {
        half::f16::from_bits(bits).to_f64()
    }
}

impl HalfFloat for half::bf16 {
    fn bits(value: f32) -> u16 {
        half::bf16::from_f32(value).to_bits()
    }
    fn value(bits: u16) -> f64 {
        half::bf16::from_bits(bits).to_f64()
    }
}

/// `a[m, k] b[k, n]` in f64.
fn product(a: &[f64], b: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for row in 0..m {
        for inner in 0..k {
            let value = a[row * k + inner];
            let from = &b[inner * n..(inner + 1) * n];
            c[row * n..(row + 1) * n].iter_mut().zip(from).for_each(|(sum, other)| *sum += value * other);
        }
    }
    c
}

/// All in f64.
fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value as f64).collect()
}

#[test]
fn every_file_loads() {
    context();
    let mut refused = Vec::new();
    let mut files = 0;
    for folder in ["nvcc", "nvrtc12", "nvrtc13", "triton", "numba"] {
        for entry in std::fs::read_dir(path(folder)).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "ptx") {
                files += 1;
                let text = std::fs::read_to_string(&file).unwrap();
                let loaded = cuda::program::Program::load(&[&text], cuda::machine::Machine::h100().capability);
                if let Err(problem) = loaded {
                    refused.push(format!("{}: {problem}", file.display()));
                }
            }
        }
    }
    assert!(files >= 50, "only {files} files");
    assert!(refused.is_empty(), "{} of {files} refused:\n{}", refused.len(), refused.join("\n"));
}
