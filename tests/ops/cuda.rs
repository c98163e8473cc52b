//! The same tests on a CUDA device, the virtual GPU of `tests/vgpu`, with all of its checks on.
//!
//! A test that takes its context from [`support::device`](crate::support::device) runs there in a process of its own, because a process opens one
//! `libcuda.so.1`. By hand, or on a real GPU: `DEEM_TEST_DEVICE=cuda cargo test --release --test ops -- NAMES`.

use std::io::Write;
use std::process::{Command, Stdio};

use deem::Context;
use deem::memory::{Tensor, View};
use deem::ops::activation::{self, Activation};

use crate::pointwise::{PRINT, message};
use crate::support::{DEVICE, device, get, is_on_cuda, put, unset};

/// The tests that run on the device, against the oracle on the host.
const TESTS: &[&str] = &[
    "adamw::formulas_and_narrow_types",
    "diffusion::guidance",
    "diffusion::noise_and_target",
    "diffusion::samplers_are_their_definitions",
    "activation::f64_is_the_formula_and_narrow_types_are_near",
    "add::plain_loops_and_narrow_types",
    "attention::empty_problems",
    "attention::the_definition_in_every_type",
    "conv2d::the_definition_in_every_type",
    "conv2d_depthwise::the_definition_in_every_type",
    "copy::casts",
    "copy::concatenations_slices_batches_and_layouts",
    "cross_attention::equals_attention",
    "cross_entropy::oracle_and_narrow_types",
    "cuda::foreign_memory_is_an_error",
    "cuda::graphs_replay",
    "deform_attention::locate_is_its_definition",
    "deform_attention::mmfs_is_its_definition",
    "deform_attention::packed_pictures_change_nothing",
    "deform_attention::sample_is_its_definition",
    "dropout::the_definition_in_every_type",
    "embedding::plain_loops_and_narrow_types",
    "fold::fold_is_its_definition",
    "gemm::a_gradient_of_weights_is_kept_in_f32",
    "gemm::batches_are_single_products",
    "gemm::the_definition_in_every_form_and_type",
    "glu::oracle_and_narrow_types",
    "groupnorm::oracle_and_narrow_types",
    "layernorm::oracle_and_narrow_types",
    "mse::oracle_and_narrow_types",
    "reduce::argmax_takes_the_first_of_equals_and_nan",
    "reduce::norm_and_finiteness",
    "reduce::oracle_and_narrow_types",
    "resample::max_pool_takes_the_first_largest",
    "resample::nearest_repeats_and_sums",
    "resample::resize_is_its_definition",
    "rmsnorm::oracle_and_narrow_types",
    "rope::oracle_inverse_and_narrow_types",
    "timestep_embedding::formula_in_all_types",
];

/// The tests whose bits may not depend on the order in which blocks and warps run.
const BITS: &[&str] = &[
    "activation::bits_and_errors",
    "add::bits_and_errors",
    "attention::order_of_blocks",
    "conv2d::order_of_blocks",
    "cross_entropy::bits_and_errors",
    "deform_attention::mmfs_bits",
    "deform_attention::sample_and_locate_bits",
    "embedding::bits_and_errors",
    "fold::fold_bits",
    "gemm::order_of_blocks",
    "glu::bits_and_errors",
    "groupnorm::bits_and_errors",
    "layernorm::bits_and_errors",
    "random::bits_are_those_of_the_stream",
    "reduce::bits_and_errors",
    "resample::resize_bits",
    "rmsnorm::bits_agree",
    "rope::bits_and_errors",
];

/// Runs tests of this very program on the virtual GPU, and returns what they print.
fn on_virtual_gpu(tests: &[&str], seed: u32) -> String {
    let program = std::env::current_exe().unwrap();
    let built = program.ancestors().nth(2).unwrap().join("libcuda.so");
    assert!(
        built.exists(),
        "the virtual GPU is not built: there is no {}. Run: cargo build {}-p vgpu",
        built.display(),
        if cfg!(debug_assertions) { "" } else { "--release " }
    );
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(&built, folder.path().join(name)).unwrap();
    }
    let mut command = Command::new(program);
    let others = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(folder.path().into()).chain(std::env::split_paths(&others))).unwrap();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VGPU_") && name != "VGPU_REPORT" {
            command.env_remove(name);
        }
    }
    command.env("LD_LIBRARY_PATH", path).env(DEVICE, "cuda").env(PRINT, "1");
    command.env("VGPU_CHECKS", "all").env("VGPU_SEED", seed.to_string());
    command.args(["--exact", "--nocapture"]).args(tests);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!errors.contains("vgpu:"), "findings of the virtual GPU:\n{errors}");
    assert!(text.contains(&format!("{} passed", tests.len())), "some of {tests:?} do not exist:\n{text}");
    text.into_owned()
}

/// Every op against the oracle, and the same bits whatever the order of blocks and warps. `tests/run.sh` collects the line "ran: ..".
#[test]
fn on_the_virtual_gpu() {
    if is_on_cuda() {
        return;
    }
    let all: Vec<&str> = TESTS.iter().chain(BITS).copied().collect();
    let bits = |text: String| -> Vec<String> {
        let mut lines: Vec<_> = text.lines().filter(|line| line.starts_with("BITS ")).map(String::from).collect();
        lines.sort();
        lines
    };
    let first = bits(on_virtual_gpu(&all, 0));
    assert!(first.len() >= BITS.len());
    assert_eq!(first, bits(on_virtual_gpu(BITS, 1)), "the order of blocks and warps changes bits");
    // Not through `println!`, which the harness keeps from the log.
    writeln!(std::io::stderr(), "ran: cuda, virtual GPU, {} tests of ops", all.len()).unwrap();
}

#[test]
fn foreign_memory_is_an_error() {
    let cx = device();
    let mut y = unset::<f32>(&cx, [3]);
    if !is_on_cuda() {
        return;
    }
    let error = message(activation::forward(&cx, Activation::Silu, View::new(&[1f32; 3], [3]), y.view_mut()));
    assert!(error.starts_with("device cuda:0: activation: `x` [3] is in host memory"), "{error}");
    let x = Tensor::<f64>::zeros(cx.arena(), [3]).unwrap();
    let mut y = unset::<f64>(&cx, [3]);
    let error = message(activation::forward(&cx, Activation::Silu, x.view(), y.view_mut()));
    assert!(error.contains("no kernels for f64"), "{error}");
}

#[test]
fn graphs_replay() {
    let cx = device();
    let mut x = put::<f32>(&cx, [5], &[1.0, -2.0, 3.0, 0.0, 0.5]);
    let run = |cx: &Context| {
        let mut y = cx.uninit::<f32>([5])?;
        activation::forward(cx, Activation::Relu, x.view(), y.view_mut())?;
        let mut z = cx.uninit::<f32>([5])?;
        activation::backward(cx, Activation::Relu, x.view(), y.view(), z.view_mut())?;
        Ok(z)
    };
    if !is_on_cuda() {
        assert!(message(cx.capture(run)).contains("CUDA devices only"));
        return;
    }
    let (mut graph, z) = cx.capture(run).unwrap();
    graph.replay().unwrap();
    assert_eq!(get(&z), [1.0, 0.0, 3.0, 0.0, 0.5]);
    x.write(&[-1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    graph.replay().unwrap();
    assert_eq!(get(&z), [0.0, 2.0, 3.0, 4.0, 5.0]);
    // What a graph cannot hold is an error, and the stream works on.
    assert!(message(cx.capture(|cx| cx.tensor([1], &[1f32]))).contains("while a graph is captured"));
    assert_eq!(get(&put::<f32>(&cx, [1], &[7.0])), [7.0]);
}
