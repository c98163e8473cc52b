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
mod counters;
mod cross_attention;
mod cross_entropy;
mod cuda;
mod deform_attention;
mod diffusion;
mod dropout;
mod embedding;
mod fold;
mod gate;
mod gemm;
mod glu;
mod groupnorm;
mod layernorm;
mod mse;
mod pointwise;
mod posterior;
mod random;
mod reduce;
mod resample;
mod rmsnorm;
mod rope;
mod timestep_embedding;

/// Says on which device and with which instruction set the tests of this binary run: `tests/run.sh` collects these lines.
#[test]
fn which_machine() {
    use deem::host::simd::{Level, best_of_machine, level};
    let name = match level() {
        Level::Avx512 => "avx512",
        Level::Avx2 => "avx2",
        Level::Portable => "portable",
    };
    let cx = deem::Context::host(0);
    println!("ran: {}, {name}, {} threads", cx.device(), cx.pool().threads());
    assert!(level() <= best_of_machine());
}
