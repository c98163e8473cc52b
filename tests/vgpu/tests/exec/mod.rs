//! Kernels that nvcc compiled, run by the executor and compared with plain Rust.

mod cluster;
mod device;
mod fragment;
pub mod fuzz;
mod gemm;
mod memory;
mod instructions;
mod small;
mod tensor;
mod text;
