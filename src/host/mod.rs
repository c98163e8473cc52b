//! The CPU implementation of every op, generic over the storage type; its `f64` instantiation is the oracle of the tests.
//!
//! Nothing here checks shapes: [`crate::ops`] has done it. Work is cut into chunks whose bounds depend on the shapes alone, never
//! on the number of threads, so results have the same bits whatever the machine is doing.

pub mod activation;
pub mod adamw;
pub mod add;
pub mod attention;
pub mod conv2d;
pub mod conv2d_depthwise;
pub mod copy;
pub mod cross_attention;
pub mod cross_entropy;
pub mod deform_attention;
pub mod diffusion;
pub mod dropout;
pub mod embedding;
pub mod fold;
pub mod gemm;
pub mod glu;
pub mod groupnorm;
pub mod layernorm;
pub mod math;
pub mod mse;
pub(crate) mod parallel;
pub mod posterior;
pub mod random;
pub mod reduce;
pub mod resample;
pub mod rmsnorm;
pub mod rope;
pub mod simd;
pub mod timestep_embedding;
