//! Kernels that nvcc compiled, run by the executor and compared with plain Rust.

mod cluster;
mod device;
mod fragment;
pub mod fuzz;
mod gemm;
mod instructions;
mod memory;
mod small;
mod tensor;
mod text;
mod texture;
