//! The CPU implementation of every op, generic over the storage type; its `f64` instantiation is the oracle of the tests.
//!
//! Nothing here checks shapes: [`crate::ops`] has done it. Work is cut into chunks whose bounds depend on the shapes alone, never
//! on the number of threads, so results have the same bits whatever the machine is doing.

pub mod attention;
pub mod conv2d;
pub mod conv2d_depthwise;
pub mod cross_attention;
pub mod deform_attention;
pub mod gemm;
pub mod math;
pub mod resample;
pub mod simd;
