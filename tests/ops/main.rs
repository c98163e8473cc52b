//! Every op: each device against the f64 oracle, and each gradient against central differences.

#[path = "../support/mod.rs"]
mod support;

mod activation;
mod adamw;
mod add;
mod attention;
mod conv2d;
mod conv2d_depthwise;
mod copy;
mod cross_attention;
mod cross_entropy;
mod embedding;
mod gemm;
mod glu;
mod groupnorm;
mod layernorm;
mod mse;
mod pointwise;
mod random;
mod reduce;
mod rmsnorm;
mod rope;
mod timestep_embedding;
