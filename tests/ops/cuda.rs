//! The same tests on a CUDA device, the virtual GPU of `tests/vgpu`, with all of its checks on.
//!
//! A test that takes its context from [`support::device`](crate::support::device) runs there in a process of its own, because a process opens one
//! `libcuda.so.1`. By hand, or on a real GPU: `DEEM_TEST_DEVICE=cuda cargo test --release --test ops -- NAMES`.

use std::io::Write;

use deem::device::{GraphCounts, Graphs};
use deem::memory::{Tensor, View};
use deem::ops::activation::{self, Activation};
use deem::ops::{add, reduce, rmsnorm};
use deem::params::{Grads, Init, Params, Registry};
use deem::{Context, Error};

use crate::pointwise::message;
use crate::support::{device, get, is_on_cuda, put, unset, vgpu};

/// The tests that run on the device, against the oracle on the host.
const TESTS: &[&str] = &[
    "adamw::formulas_and_narrow_types",
    "diffusion::guidance",
    "diffusion::samplers_are_their_definitions",
    "activation::f64_is_the_formula_and_narrow_types_are_near",
    "add::plain_loops_and_narrow_types",
    "attention::empty_problems",
    "attention::few_queries",
    "attention::rotated_queries",
    "attention::the_definition_in_every_type",
    "conv2d::the_definition_in_every_type",
    "conv2d_depthwise::the_definition_in_every_type",
    "copy::casts",
    "copy::concatenations_slices_batches_and_layouts",
    "cross_attention::equals_attention",
    "cross_entropy::oracle_and_narrow_types",
    "cuda::foreign_memory_is_an_error",
    "cuda::work_that_comes_again_is_a_graph",
    "cuda::graphs_read_nothing",
    "cuda::the_owner_of_a_stream_may_capture_it",
    "reduce::hits_are_rows_whose_largest_is_the_wanted_one",
    "reduce::numbers_are_read_together",
    "adamw::clipping_and_gradients_that_are_not_finite",
    "cuda::parameters_live_on_the_device",
    "cuda::dry_runs_count_what_is_used",
    "deform_attention::locate_is_its_definition",
    "deform_attention::mmfs_is_its_definition",
    "deform_attention::packed_pictures_change_nothing",
    "deform_attention::sample_is_its_definition",
    "embedding::plain_loops_and_narrow_types",
    "fold::fold_is_its_definition",
    "gate::the_definition_in_every_type",
    "gemm::a_gradient_of_weights_is_kept_in_f32",
    "gemm::batches_are_single_products",
    "gemm::large_products",
    "gemm::the_definition_in_every_form_and_type",
    "glu::oracle_and_narrow_types",
    "groupnorm::oracle_and_narrow_types",
    "layernorm::oracle_and_narrow_types",
    "mse::oracle_and_narrow_types",
    "posterior::the_definition_in_every_type",
    "reduce::argmax_takes_the_first_of_equals_and_nan",
    "reduce::norm_and_finiteness",
    "reduce::oracle_and_narrow_types",
    "resample::max_pool_takes_the_first_largest",
    "resample::nearest_repeats_and_sums",
    "resample::resize_is_its_definition",
    "rmsnorm::oracle_and_narrow_types",
    "rope::oracle_inverse_and_narrow_types",
    "rope::stored_keys",
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
    "diffusion::noise_and_target",
    "dropout::the_definition_in_every_type",
    "embedding::bits_and_errors",
    "fold::fold_bits",
    "gate::bits_and_errors",
    "gemm::order_of_blocks",
    "glu::bits_and_errors",
    "groupnorm::bits_and_errors",
    "layernorm::bits_and_errors",
    "posterior::bits_and_errors",
    "random::bits_are_those_of_the_stream",
    "reduce::bits_and_errors",
    "resample::resize_bits",
    "rmsnorm::bits_agree",
    "rope::bits_and_errors",
];

/// The tests of ops that have kernels of their own for an H100: on an A100 they run the ones for everybody.
const ON_AN_A100: &[&str] = &[
    "attention::order_of_blocks",
    "attention::the_definition_in_every_type",
    "cross_attention::equals_attention",
    "gemm::a_gradient_of_weights_is_kept_in_f32",
    "gemm::batches_are_single_products",
    "gemm::large_products",
    "gemm::the_definition_in_every_form_and_type",
    "gemm::order_of_blocks",
];

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
    let first = bits(vgpu::run(&all, 0));
    // Tests of the first list print bits too.
    let again = bits(vgpu::run(BITS, 1));
    assert!(again.len() >= BITS.len());
    let changed: Vec<_> = again.iter().filter(|line| !first.contains(line)).collect();
    assert!(changed.is_empty(), "the order of blocks and warps changes bits: {changed:?}");
    let first = bits(vgpu::run_on("a100", ON_AN_A100, 0));
    assert!(!first.is_empty() && first == bits(vgpu::run_on("a100", ON_AN_A100, 1)), "bits change on an A100");
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

/// Work that comes again runs as a graph, with other numbers from the host and other parameters of kernels.
#[test]
fn work_that_comes_again_is_a_graph() {
    let cx = device();
    // Memory in the same places each time, as in the steady state of a run.
    cx.arena().set_separate(false);
    let mut graphs = Graphs::new();
    let mut total = put::<f32>(&cx, [3], &[0.0; 3]);
    // total += factor * relu(numbers), through zeros, a copy from the host, and memory that is used twice.
    let mut run = |numbers: &[f32], factor: f64| {
        let sum = graphs.run(&cx, || {
            let x = cx.tensor([numbers.len()], numbers)?;
            let mut y = cx.zeros::<f32>([numbers.len()])?;
            activation::forward(&cx, Activation::Relu, x.view(), y.view_mut())?;
            drop(x);
            let first = cx.tensor([3], &numbers[..3])?;
            activation::forward(&cx, Activation::Relu, first.view(), y.view_mut().part(0, [3]))?;
            add::axpy(&cx, factor, y.view().part(0, [3]), total.view_mut())?;
            reduce::sum(&cx, total.view())
        });
        (sum.unwrap().value().unwrap(), graphs.counts())
    };
    let long = vec![1.0; 1000];
    let sums = [
        run(&[1.0, -2.0, 3.0, 4.0], 1.0).0,
        run(&[-1.0, 2.0, 3.0, 4.0], 2.0).0,
        run(&long, 1.0).0,
        run(&[1.0, 1.0, 1.0, 1.0], -1.0).0,
        run(&long, 1.0).0,
    ];
    assert_eq!(sums, [4.0, 14.0, 17.0, 14.0, 17.0]);
    let (_, counts) = run(&[0.0, 0.0, 0.0, 0.0], -1.0);
    assert_eq!(get(&total), [1.0 + 1.0 - 1.0 + 1.0, 4.0 + 1.0 - 1.0 + 1.0, 3.0 + 6.0 + 1.0 - 1.0 + 1.0]);
    if !is_on_cuda() {
        assert_eq!(counts, Default::default());
        return;
    }
    // Graphs are made of a second coming; of the third launch on, the factor that changed was set in a node once.
    let GraphCounts { runs, graphs: made, launches, patches } = counts;
    assert_eq!((runs, made, launches, patches), (6, 2, 4, 1));
}

/// What fails inside of work that is written down leaves nothing behind, and reading there is an error.
#[test]
fn graphs_read_nothing() {
    let cx = device();
    let mut graphs = Graphs::new();
    let mut x = put::<f32>(&cx, [1], &[7.0]);
    let before = x.clone();
    let read = graphs.run(&cx, || before.to_vec());
    if is_on_cuda() {
        assert!(message(read).contains("read after it"));
    } else {
        assert_eq!(read.unwrap(), [7.0]);
    }
    drop(before);
    let failed = graphs.run(&cx, || {
        if is_on_cuda() {
            x.write(&[1.0])?;
        }
        Err::<(), _>(Error::Config("no".into()))
    });
    assert!(message(failed).contains("no"));
    assert_eq!(get(&x), [7.0]);
}

/// The owner of a stream may capture ops into a graph of their own. Copies from and to the host, which go through buffers of ours, are errors meanwhile.
#[test]
fn the_owner_of_a_stream_may_capture_it() {
    use cudarc::driver::sys;
    let cx = device();
    let Some(stream) = cx.queue().map(|queue| queue.stream()) else { return };
    // Memory comes from what is reserved: to give some back to the driver is no work for a captured stream.
    cx.arena().set_separate(false);
    let x = put::<f32>(&cx, [3], &[1.0, -2.0, 3.0]);
    let mut y = unset::<f32>(&cx, [3]);
    let (mut graph, mut executable) = (std::ptr::null_mut(), std::ptr::null_mut());
    let checked = |result: sys::CUresult| assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: the stream lives as long as the context; results go into places of their own.
    unsafe { checked(sys::cuStreamBeginCapture_v2(stream, mode)) };
    activation::forward(&cx, Activation::Relu, x.view(), y.view_mut()).unwrap();
    assert!(message(x.to_vec()).contains("while the stream is captured"));
    assert!(message(Graphs::new().run(&cx, || cx.tensor([1], &[1f32]))).contains("while the stream is captured"));
    // SAFETY: as above; what the graph accesses is alive.
    unsafe {
        checked(sys::cuStreamEndCapture(stream, &mut graph));
        checked(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        checked(sys::cuGraphLaunch(executable, stream));
    }
    assert_eq!(get(&y), [1.0, 0.0, 3.0]);
    // SAFETY: the launch is done.
    unsafe {
        checked(sys::cuGraphExecDestroy(executable));
        checked(sys::cuGraphDestroy(graph));
    }
}

#[test]
fn parameters_live_on_the_device() {
    let cx = device();
    let mut registry = Registry::new();
    let a = registry.add("a", [3, 5], Init::Uniform { bound: 1.0 });
    let b = registry.add("b", [5], Init::Uniform { bound: 1.0 });
    let frozen = registry.add("frozen", [5], Init::Const(2.0));
    registry.apply(|spec| (spec.name == "frozen").then_some(false));
    let host = Params::<f32>::new(registry, 3);
    let first: Vec<Vec<f32>> = [a, b, frozen].map(|id| host.values(id).unwrap()).into();
    let mut params = host.on(&cx).unwrap();
    for (id, first) in [a, b, frozen].into_iter().zip(&first) {
        assert_eq!(params.values(id).unwrap(), *first);
        assert_eq!(cx.read_view(params.view(id)).unwrap(), *first);
    }
    let mut grads = Grads::<f32>::on(params.table(), &cx).unwrap();
    assert!(grads.get(frozen).is_none());
    for (first, second) in [(a, b), (b, a)] {
        let (x, y) = grads.pair(first, second);
        let (x, y) = (x.unwrap(), y.unwrap());
        add::add_assign(&cx, params.view(first), x).unwrap();
        add::axpy(&cx, 2.0, params.view(second), y).unwrap();
    }
    let tripled = |x: &[f32]| x.iter().map(|x| 2.0 * x + x).collect::<Vec<f32>>();
    for (id, first) in [a, b].into_iter().zip(&first) {
        let found = grads.values(id).unwrap().unwrap();
        assert!(found.iter().zip(tripled(first)).all(|(found, want)| (found - want).abs() <= 1e-6), "{found:?}");
    }
    params.write(b, &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    assert_eq!(params.values(b).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(params.values(a).unwrap(), first[0]);
    grads.clear().unwrap();
    assert_eq!(reduce::norm_squared(&cx, grads.flat_view()).unwrap().value().unwrap(), 0.0);
}

/// A dry run of the same calls takes the same bytes as the real one, scratch of the kernels included.
#[test]
fn dry_runs_count_what_is_used() {
    let cx = device();
    let run = |cx: &Context| -> deem::Result<()> {
        let (x, dy) = (cx.zeros::<f32>([300, 40])?, cx.zeros::<f32>([300, 40])?);
        let (mut y, mut dx) = (cx.uninit::<f32>([300, 40])?, cx.uninit::<f32>([300, 40])?);
        let (weight, mut dw, mut rstd) = (cx.zeros::<f32>([40])?, cx.zeros::<f32>([40])?, cx.uninit::<f32>([300])?);
        rmsnorm::forward(cx, x.view(), weight.view(), y.view_mut(), rstd.view_mut(), 1e-6)?;
        let dw = Some(dw.view_mut());
        rmsnorm::backward(cx, x.view(), weight.view(), rstd.view(), dy.view(), None, dx.view_mut(), dw)
    };
    run(&cx).unwrap();
    let dry = cx.planning_alike();
    run(&dry).unwrap();
    assert_eq!(dry.device(), cx.device());
    assert_eq!(dry.arena().stats().peak_bytes, cx.arena().stats().peak_bytes);
    assert_eq!(dry.arena().stats().allocations, cx.arena().stats().allocations);
}
