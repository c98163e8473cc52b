//! Every op: each device against the f64 oracle, and each gradient against central differences.

mod activation;
mod adamw;
mod add;
mod copy;
mod cross_entropy;
mod embedding;
mod glu;
mod groupnorm;
mod layernorm;
mod mse;
mod pointwise;
mod random;
mod reduce;
mod rmsnorm;
mod rope;
#[path = "../support/mod.rs"]
mod support;
mod timestep_embedding;
