//! Every op: each device against the f64 oracle, and each gradient against central differences.

#[path = "../support/mod.rs"]
mod support;

mod attention;
mod conv2d;
mod conv2d_depthwise;
mod cross_attention;
mod gemm;
