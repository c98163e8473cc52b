//! Kernels that nvcc compiled, run by the executor and compared with plain Rust.

mod device;
mod gemm;
mod small;
mod text;
