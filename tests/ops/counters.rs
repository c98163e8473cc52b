//! What the virtual GPU counts while an op runs: nothing is moved twice that could be moved once.
//!
//! * Kernels that only move numbers: bytes between the L2 cache and the memory at most 1.05 times what the launch must read and write, and sectors of 32
//!   bytes as if every byte of each was used.
//! * Kernels that compute in tiles of shared memory: no bank conflicts.

use std::path::PathBuf;

use deem::dtype::{DType, Element};
use deem::memory::{Shape, Tensor};
use deem::ops::activation::{self, Activation};
use deem::ops::adamw::{self, AdamW, Group};
use deem::ops::attention::{self, Attention};
use deem::ops::conv2d::{self, Conv2d, Pad};
use deem::ops::cross_attention::{self, CrossAttention};
use deem::ops::deform_attention::{self, Sample};
use deem::ops::diffusion::{self, Prediction, Sampler, Schedule};
use deem::ops::dropout::{self, Dropout};
use deem::ops::gemm::{self, Epilogue, Form};
use deem::ops::{
    add, conv2d_depthwise, copy, cross_entropy, embedding, gate, glu, groupnorm, layernorm, mse, random, reduce,
    resample, rmsnorm, rope,
};
use deem::{Context, Result};
use half::{bf16, f16};

use crate::support::{device, is_on_cuda, uniforms, vgpu};

/// What is allowed beyond the least possible.
const ALLOWED: f64 = 1.05;

/// In a process of its own; prints a line "COUNTED .." per launch.
#[test]
fn on_the_virtual_gpu() {
    if is_on_cuda() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("launches.jsonl").into_os_string();
    let run = |test, machine: &str| {
        vgpu::run_with(&[test], 0, &[("VGPU_REPORT", report.clone()), ("VGPU_MACHINE", machine.into())])
    };
    let text = run("counters::launches", "h100") + &run("counters::launches_of_single_warps", "a100");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("COUNTED ")).collect();
    println!("{}", lines.join("\n"));
    assert!(lines.len() > 80, "only {} launches were counted", lines.len());
}

/// One launch of the report.
#[derive(serde::Deserialize)]
struct Launch {
    kernel: String,
    dram_bytes: f64,
    load_sectors: f64,
    load_sectors_ideal: f64,
    store_sectors: f64,
    store_sectors_ideal: f64,
    shared_cycles: f64,
    bank_conflict_cycles: f64,
}

/// A context and the part of its report that was read.
struct Counted {
    cx: Context,
    report: PathBuf,
    read: usize,
}

impl Counted {
    /// None outside of the virtual GPU with its report.
    fn new() -> Option<Self> {
        let report = is_on_cuda().then(|| std::env::var_os("VGPU_REPORT")).flatten()?;
        Some(Counted { cx: device(), report: report.into(), read: 0 })
    }

    /// What the call launches.
    fn launches(&mut self, call: impl FnOnce(&Context) -> Result<()>) -> Vec<Launch> {
        self.cx.synchronize().unwrap();
        self.read = std::fs::read(&self.report).map_or(0, |bytes| bytes.len());
        call(&self.cx).unwrap();
        self.cx.synchronize().unwrap();
        let text = String::from_utf8(std::fs::read(&self.report).unwrap()).unwrap();
        text[self.read..].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Launches of these kernels (their names without the storage type), each with the bytes that it must move. Others that the call makes move next to nothing.
    fn check<E: Element>(&mut self, what: &str, kernels: &[(&str, f64)], call: impl FnOnce(&Context) -> Result<()>) {
        let launches = self.launches(call);
        let most = kernels.iter().fold(0.0, |most: f64, (_, bytes)| most.max(*bytes));
        let mut expected = kernels.iter();
        let mut wanted = expected.next();
        for launch in &launches {
            let Launch { kernel, dram_bytes, .. } = launch;
            let sectors = launch.load_sectors + launch.store_sectors;
            let ideal = launch.load_sectors_ideal + launch.store_sectors_ideal;
            let Some((_, least)) = wanted.filter(|(name, _)| of_type::<E>(kernel) == *name) else {
                assert!(*dram_bytes <= 0.02 * most, "{what}: {kernel} moves {dram_bytes} bytes and is not in the list");
                continue;
            };
            wanted = expected.next();
            let (bytes, sectors) = (dram_bytes / least, sectors / ideal);
            println!(
                "COUNTED {what:28} {kernel:42} {:9.3} MB, {bytes:5.3} of the least, sectors {sectors:5.3}",
                least * 1e-6
            );
            assert!(bytes >= 0.99, "{what}: {kernel} moves {dram_bytes} bytes, the list says at least {least}");
            assert!(
                bytes <= ALLOWED,
                "{what}: {kernel} moves {dram_bytes} bytes, {bytes:.3} times the {least} that it must"
            );
            assert!(sectors <= ALLOWED, "{what}: {kernel} asks for {sectors:.3} times the sectors that would do");
        }
        let found: Vec<_> = launches.iter().map(|launch| &launch.kernel).collect();
        assert!(wanted.is_none(), "{what}: no launch of {}, only of {found:?}", wanted.unwrap().0);
    }

    fn numbers<E: Element>(&self, shape: impl Into<Shape>) -> Tensor<E> {
        let shape = shape.into();
        let some: Vec<E> = uniforms("counters", 4096, -1.0, 1.0).into_iter().map(E::from_f64).collect();
        let all: Vec<E> = some.into_iter().cycle().take(shape.len()).collect();
        self.cx.tensor(shape, &all).unwrap()
    }

    fn empty<E: Element>(&self, shape: impl Into<Shape>) -> Tensor<E> {
        self.cx.uninit(shape).unwrap()
    }

    fn zeros<E: Element>(&self, shape: impl Into<Shape>) -> Tensor<E> {
        self.cx.zeros(shape).unwrap()
    }
}

/// The name without the suffix of this storage type, or of the accumulators'.
fn of_type<E: Element>(kernel: &str) -> &str {
    let own = if E::DTYPE == DType::Bf16 { "_bf16" } else { "_f32" };
    kernel.strip_suffix(own).or_else(|| kernel.strip_suffix("_f32")).unwrap_or(kernel)
}

/// The kernels of attention without warpgroups, which an H100 takes where it must. At other head sizes a hundredth is lost where the output is written.
#[test]
fn launches_of_single_warps() {
    let Some(mut counted) = Counted::new() else { return };
    attentions::<bf16>(&mut counted, &[40, 64, 128]);
    attentions::<f16>(&mut counted, &[40, 64, 128]);
    short_attentions(&mut counted, &[40, 64]);
}

/// One test, so that nothing else of the process writes to the report.
#[test]
fn launches() {
    let Some(mut counted) = Counted::new() else { return };
    tiles::<bf16>(&mut counted);
    // Where a row of the output has not eight pieces, warpgroups leave lanes idle when they write it, and the idle share of a cycle counts as lost.
    attentions::<bf16>(&mut counted, &[64, 128]);
    attentions::<f32>(&mut counted, &[40, 64, 80, 96, 128, 160]);
    decoding::<f32>(&mut counted);
    decoding::<bf16>(&mut counted);
    tiles::<f32>(&mut counted);
    samples::<f32>(&mut counted);
    samples::<bf16>(&mut counted);
    pointwise::<f32>(&mut counted);
    pointwise::<bf16>(&mut counted);
    moving::<f32>(&mut counted);
    moving::<bf16>(&mut counted);
    rows::<f32>(&mut counted);
    rows::<bf16>(&mut counted);
    maps::<f32>(&mut counted);
    maps::<bf16>(&mut counted);
}

fn pointwise<E: Element>(counted: &mut Counted) {
    let shape = Shape::from([256, 1024]);
    let n = shape.len() as f64;
    let e = size_of::<E>() as f64;
    let [a, b, c] = [(); 3].map(|()| counted.numbers::<E>(shape));
    let (mut y, mut z) = (counted.empty::<E>(shape), counted.empty::<E>(shape));
    let silu = Activation::Silu;
    counted.check::<E>("activation forward", &[("activation_forward", 2.0 * n * e)], |cx| {
        activation::forward(cx, silu, a.view(), y.view_mut())
    });
    counted.check::<E>("activation backward", &[("activation_backward", 3.0 * n * e)], |cx| {
        activation::backward(cx, silu, a.view(), b.view(), y.view_mut())
    });
    counted.check::<E>("glu forward", &[("glu_forward", 3.0 * n * e)], |cx| {
        glu::forward(cx, silu, a.view(), b.view(), y.view_mut())
    });
    counted.check::<E>("glu backward", &[("glu_backward", 5.0 * n * e)], |cx| {
        glu::backward(cx, silu, a.view(), b.view(), c.view(), y.view_mut(), z.view_mut())
    });
    counted.check::<E>("add forward", &[("add_forward", 3.0 * n * e)], |cx| {
        add::forward(cx, a.view(), b.view(), y.view_mut())
    });
    counted.check::<E>("add_assign", &[("add_axpy", 3.0 * n * e)], |cx| add::axpy(cx, 0.5, a.view(), y.view_mut()));
    counted.check::<E>("dropout", &[("dropout", 2.0 * n * e)], |cx| {
        dropout::forward(cx, a.view(), None, y.view_mut(), &Dropout::new(3, "counters", 0.1)?.unwrap())
    });
    let opening = counted.numbers::<E>([1]);
    counted.check::<E>("gate forward", &[("gate_forward", 2.0 * n * e)], |cx| {
        gate::forward(cx, opening.view(), a.view(), y.view_mut())
    });
    counted.check::<E>("random fill_uniform", &[("random_uniform", n * e)], |cx| {
        random::fill_uniform(cx, 1, "counters", y.view_mut())
    });
    counted.check::<E>("mse forward", &[("mse_forward", 2.0 * n * e)], |cx| {
        mse::forward(cx, a.view(), b.view(), None, None).map(|_| ())
    });
    counted.check::<E>("mse backward", &[("mse_backward", 3.0 * n * e)], |cx| {
        mse::backward(cx, a.view(), b.view(), None, 1.0, y.view_mut())
    });
    counted.check::<E>("reduce sum", &[("reduce_sum", n * e)], |cx| reduce::sum(cx, a.view()).map(|_| ()));
    let narrow = E::DTYPE == DType::Bf16;
    let n = shape.len();
    let (mut params, grads) = (counted.numbers::<E>([n]), counted.numbers::<E::Acc>([n]));
    let mut master = narrow.then(|| counted.numbers::<E::Acc>([n]));
    let (mut m, mut v) = (counted.zeros::<E::Acc>([n]), counted.zeros::<E::Acc>([n]));
    let least = n as f64 * if narrow { 2.0 + 7.0 * 4.0 } else { 7.0 * 4.0 };
    counted.check::<E>("adamw", &[("adamw", least)], |cx| {
        let groups = [Group { start: 0, len: n, lr: 1e-4, weight_decay: 0.05 }];
        let hyper = AdamW { beta1: 0.9, beta2: 0.995, eps: 1e-6 };
        let master = master.as_mut().map(Tensor::view_mut);
        let (params, m, v) = (params.view_mut(), m.view_mut(), v.view_mut());
        adamw::step(cx, params, master, grads.view(), m, v, &groups, &hyper, 1, adamw::GradScale::by(1.0))
    });
}

fn moving<E: Element>(counted: &mut Counted) {
    let e = size_of::<E>() as f64;
    let shape = Shape::from([2, 16, 16, 640]);
    let n = shape.len() as f64;
    let (a, b) = (counted.numbers::<E>(shape), counted.numbers::<E>(shape));
    let mut y = counted.empty::<E>(shape.with_last(1280));
    let each = ("copy_blocks", 2.0 * n * e);
    counted.check::<E>("copy concat_last", &[each, each], |cx| copy::concat_last(cx, a.view(), b.view(), y.view_mut()));
    let (mut left, mut right) = (counted.empty::<E>(shape), counted.empty::<E>(shape));
    counted.check::<E>("copy split_last", &[each, each], |cx| {
        copy::split_last(cx, y.view(), left.view_mut(), right.view_mut())
    });
    let mut other = counted.empty::<f32>(shape);
    let cast = if E::DTYPE == DType::Bf16 { "copy_cast_bf16" } else { "copy_blocks" };
    counted.check::<E>("copy cast to f32", &[(cast, n * (e + 4.0))], |cx| copy::cast(cx, a.view(), other.view_mut()));
    let mut other = counted.empty::<bf16>(shape);
    let cast = if E::DTYPE == DType::Bf16 { "copy_blocks" } else { "copy_cast_f32_bf16" };
    counted.check::<E>("copy cast to bf16", &[(cast, n * (e + 2.0))], |cx| copy::cast(cx, a.view(), other.view_mut()));
    let mut planes = counted.empty::<E>([2, 640, 16, 16]);
    let name = if E::DTYPE == DType::Bf16 { "copy_transpose_bf16" } else { "copy_transpose_f32" };
    counted.check::<E>("copy nhwc_to_nchw", &[(name, 2.0 * n * e)], |cx| {
        copy::nhwc_to_nchw(cx, a.view(), planes.view_mut())
    });
    let mut twice = counted.empty::<E>([2, 32, 32, 640]);
    counted.check::<E>("resample nearest_x2", &[("resample_gather", 5.0 * n * e)], |cx| {
        resample::nearest_x2(cx, a.view(), twice.view_mut())
    });
    counted.check::<E>("resample nearest_x2_backward", &[("resample_gather", 5.0 * n * e)], |cx| {
        resample::nearest_x2_backward(cx, twice.view(), left.view_mut())
    });
    let (rows, cols) = (512, 1024);
    let table = counted.numbers::<E>([3000, cols]);
    let ids: Vec<i32> = (0..rows).map(|i| (i * 7919 % 3000) as i32).collect();
    let mut gathered = counted.empty::<E>([rows, cols]);
    let least = (2 * rows * cols) as f64 * e;
    counted.check::<E>("embedding gather", &[("embedding_gather", least)], |cx| {
        embedding::gather(cx, table.view(), &ids, gathered.view_mut())
    });
    let mut turned = counted.numbers::<E>([2, 256, 1024]);
    let least = 2.0 * turned.len() as f64 * e;
    let positions: Vec<i32> = (0..512).map(|i| i % 256).collect();
    counted
        .check::<E>("rope", &[("rope_rotate", least)], |cx| rope::forward(cx, turned.view_mut(), &positions, 128, 1e4));
}

fn rows<E: Element>(counted: &mut Counted) {
    let e = size_of::<E>() as f64;
    let mut both = |r: usize, c: usize| {
        let n = (r * c) as f64 * e;
        let (x, dy, w, b) = (
            counted.numbers::<E>([r, c]),
            counted.numbers::<E>([r, c]),
            counted.numbers::<E>([c]),
            counted.numbers::<E>([c]),
        );
        let residual = counted.numbers::<E>([r, c]);
        let (mut y, mut stats, mut rstd) =
            (counted.empty::<E>([r, c]), counted.empty::<E::Acc>([r, 2]), counted.empty::<E::Acc>([r]));
        counted.check::<E>("layernorm forward", &[("layernorm_forward", 2.0 * n)], |cx| {
            layernorm::forward(cx, x.view(), Some(w.view()), Some(b.view()), y.view_mut(), stats.view_mut(), 1e-6)
        });
        // Sums over slices of rows leave a row of f32 per slice.
        let slices = r.div_ceil(r.div_ceil(256).max(64));
        let weight = |sums: usize| 2.0 * n + (sums * slices * c * 4) as f64;
        let (mut dw, mut db) = (counted.zeros::<E::Acc>([c]), counted.zeros::<E::Acc>([c]));
        let slice = ("reduce_slices", (slices * c * 4 + 2 * c * 4) as f64);
        let kernels = [("layernorm_backward_input", 4.0 * n), ("layernorm_backward_weight", weight(2)), slice, slice];
        counted.check::<E>("layernorm backward", &kernels, |cx| {
            let (dw, db) = (Some(dw.view_mut()), Some(db.view_mut()));
            let (stats, residual) = (stats.view(), Some(residual.view()));
            layernorm::backward(cx, x.view(), Some(w.view()), stats, dy.view(), residual, y.view_mut(), dw, db)
        });
        counted.check::<E>("rmsnorm forward", &[("rmsnorm_forward", 2.0 * n)], |cx| {
            rmsnorm::forward(cx, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-6)
        });
        let kernels = [("rmsnorm_backward_input", 3.0 * n), ("rmsnorm_backward_weight", weight(1)), slice];
        counted.check::<E>("rmsnorm backward", &kernels, |cx| {
            let dw = Some(dw.view_mut());
            rmsnorm::backward(cx, x.view(), w.view(), rstd.view(), dy.view(), None, y.view_mut(), dw)
        });
        counted.check::<E>("reduce sum_rows", &[("reduce_sum_rows", n + (slices * c * 4) as f64), slice], |cx| {
            reduce::sum_rows(cx, x.view(), dw.view_mut())
        });
        let mut logs = counted.empty::<E::Acc>([r, c]);
        let least = n + (r * c * 4) as f64;
        counted.check::<E>("reduce log_softmax_rows", &[("reduce_log_softmax", least)], |cx| {
            reduce::log_softmax_rows(cx, x.view(), logs.view_mut())
        });
        counted.check::<E>("reduce argmax_rows", &[("reduce_argmax", n)], |cx| {
            reduce::argmax_rows(cx, x.view()).map(|_| ())
        });
    };
    both(512, 768);
    both(128, 4096);
    // A vocabulary, whose rows do not begin where packs do.
    let (r, v) = (32, 32_006);
    let logits = counted.numbers::<E>([r, v]);
    let (mut lse, mut d) = (counted.empty::<E::Acc>([r]), counted.empty::<E>([r, v]));
    let targets: Vec<i32> = (0..r).map(|i| (i * 7919 % v) as i32).collect();
    let n = (r * v) as f64 * e;
    counted.check::<E>("cross_entropy forward", &[("cross_entropy_forward", n)], |cx| {
        cross_entropy::forward(cx, logits.view(), &targets, lse.view_mut()).map(|_| ())
    });
    counted.check::<E>("cross_entropy backward", &[("cross_entropy_backward", 2.0 * n)], |cx| {
        cross_entropy::backward(cx, logits.view(), &targets, lse.view(), 1.0, d.view_mut())
    });
}

fn maps<E: Element>(counted: &mut Counted) {
    let e = size_of::<E>() as f64;
    // All channels in a tile, tiles of half the channels, groups of ten channels that no sector ends with.
    for (side, channels, groups) in [(32, 320, 32), (8, 2560, 32)] {
        let shape = Shape::from([2, side, side, channels]);
        let n = shape.len() as f64 * e;
        let [x, dy, residual] = [(); 3].map(|()| counted.numbers::<E>(shape));
        let (w, b) = (counted.numbers::<E>([channels]), counted.numbers::<E>([channels]));
        let (mut y, mut stats) = (counted.empty::<E>(shape), counted.empty::<E::Acc>([2, groups, 2]));
        counted.check::<E>(
            "groupnorm forward",
            &[("groupnorm_moments_tile", n), ("groupnorm_forward_tile", 2.0 * n)],
            |cx| {
                groupnorm::forward(cx, x.view(), w.view(), b.view(), y.view_mut(), stats.view_mut(), groups, 1e-5, true)
            },
        );
        let kernels = [("groupnorm_backward_sums_tile", 2.0 * n), ("groupnorm_backward_input_tile", 4.0 * n)];
        counted.check::<E>("groupnorm backward", &kernels, |cx| {
            let inputs = (x.view(), w.view(), b.view(), stats.view(), dy.view());
            let (residual, dx) = (Some(residual.view()), y.view_mut());
            groupnorm::backward(
                cx, inputs.0, inputs.1, inputs.2, inputs.3, inputs.4, residual, dx, None, None, groups, true,
            )
        });
    }
    let shape = Shape::from([1, 32, 32, 128]);
    let n = shape.len() as f64 * e;
    let (x, w, mut y) = (counted.numbers::<E>(shape), counted.numbers::<E>([7, 7, 128]), counted.empty::<E>(shape));
    counted.check::<E>(
        "conv2d_depthwise forward",
        &[("conv2d_depthwise_forward_pack", 2.0 * n + 49.0 * 128.0 * e)],
        |cx| conv2d_depthwise::forward(cx, x.view(), w.view(), None, y.view_mut()),
    );
    // Sums of the kernel's taps for every line of the image.
    let sums = 32.0 * 49.0 * 128.0 * 4.0;
    let mut dw = counted.zeros::<E::Acc>([7, 7, 128]);
    let kernels = [("conv2d_depthwise_backward_weight", 2.0 * n + sums), ("reduce_slices", sums + 2.0 * sums / 32.0)];
    counted.check::<E>("conv2d_depthwise backward_weight", &kernels, |cx| {
        conv2d_depthwise::backward_weight(cx, x.view(), y.view(), dw.view_mut())
    });
    let latents = Shape::from([8, 64, 64, 4]);
    let n = latents.len() as f64 * e;
    let schedule = Schedule::scaled_linear(1000, 0.00085, 0.012, Prediction::Epsilon, 1);
    let (both, noise) = (counted.numbers::<E>([16, 64, 64, 4]), counted.numbers::<E>(latents));
    let (mut x, mut x0) = (counted.numbers::<E>(latents), counted.numbers::<E>(latents));
    let step = schedule.plan(Sampler::Ddpm, 50).unwrap()[10];
    counted.check::<E>("diffusion guide+step", &[("diffusion_step", 6.0 * n)], |cx| {
        diffusion::step_forward(cx, &step, both.view(), Some(3.5), Some(noise.view()), x.view_mut(), x0.view_mut())
    });
    counted.check::<E>("diffusion add_noise", &[("diffusion_mix", 3.0 * n)], |cx| {
        diffusion::add_noise(cx, &schedule, x.view(), noise.view(), &[10; 8], x0.view_mut())
    });
}

/// The kernels of a call that compute in tiles: shared memory takes no cycle more than it must.
fn check_tiles(counted: &mut Counted, what: &str, call: &mut dyn FnMut(&Context) -> Result<()>) {
    for Launch { kernel, shared_cycles, bank_conflict_cycles, .. } in counted.launches(call) {
        if ["_mma_", "_tile_", "_small_", "_wgmma_", "_pack_", "_keys"].iter().any(|part| kernel.contains(part)) {
            println!("COUNTED {what:28} {kernel:42} {bank_conflict_cycles} of {shared_cycles} shared cycles");
            assert!(
                bank_conflict_cycles <= 0.01 * shared_cycles,
                "{what}: {kernel} loses {bank_conflict_cycles} of {shared_cycles} cycles to bank conflicts"
            );
        }
    }
}

fn tiles<E: Element>(counted: &mut Counted) {
    let (m, n, k) = (256, 256, 256);
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        let a = counted.numbers::<E>(if form == Form::Tn { [k, m] } else { [m, k] });
        let b = counted.numbers::<E>(if form == Form::Nt { [n, k] } else { [k, n] });
        let mut c = counted.empty::<E>([m, n]);
        check_tiles(counted, &format!("gemm {form:?}"), &mut |cx| {
            gemm::forward(cx, form, a.view(), b.view(), c.view_mut(), &Epilogue::default())
        });
    }
    let conv = Conv2d::new(1, Pad::same(1));
    let shape = [1, 16, 16, 64];
    let (x, w, mut y) =
        (counted.numbers::<E>(shape), counted.numbers::<E>([64, 3, 3, 64]), counted.numbers::<E>(shape));
    check_tiles(counted, "conv2d forward", &mut |cx| {
        conv2d::forward(cx, x.view(), w.view(), y.view_mut(), &conv, &Default::default())
    });
    check_tiles(counted, "conv2d backward_input", &mut |cx| {
        conv2d::backward_input(cx, x.view(), w.view(), y.view_mut(), &conv)
    });
    let mut dw = counted.zeros::<E::Acc>([64, 3, 3, 64]);
    check_tiles(counted, "conv2d backward_weight", &mut |cx| {
        conv2d::backward_weight(cx, x.view(), x.view(), dw.view_mut(), &conv)
    });
}

fn samples<E: Element>(counted: &mut Counted) {
    let (heads, points, levels) = (8, 4, [(32, 32), (16, 16)]);
    let spec = Sample { heads, points, levels: &levels };
    let shape = [2, 128, heads * 64];
    let value = counted.numbers::<E>([2, 32 * 32 + 16 * 16, heads * 64]);
    let location = counted.numbers::<E>([2, 128, heads * 2 * points * 2]);
    let weight = counted.numbers::<E>([2, 128, heads * 2 * points]);
    let (d_out, mut out) = (counted.numbers::<E>(shape), counted.empty::<E>(shape));
    check_tiles(counted, "deform_attention forward", &mut |cx| {
        deform_attention::sample_forward(cx, value.view(), location.view(), weight.view(), out.view_mut(), &spec)
    });
    let mut grads = [&value, &location, &weight].map(|tensor| counted.empty::<E>(tensor.shape()));
    check_tiles(counted, "deform_attention backward", &mut |cx| {
        let [d_value, d_location, d_weight] = grads.each_mut().map(|tensor| tensor.view_mut());
        let inputs = (value.view(), location.view(), weight.view(), d_out.view());
        deform_attention::sample_backward(
            cx, inputs.0, inputs.1, inputs.2, inputs.3, d_value, d_location, d_weight, &spec,
        )
    });
}

fn attentions<E: Element>(counted: &mut Counted, head_sizes: &[usize]) {
    for &d in head_sizes {
        let (heads, t) = (2, 256);
        let shape = [1, t, heads * d];
        let spec = Attention::full(heads, (d as f64).powf(-0.5));
        let [q, key, value, d_out] = [(); 4].map(|()| counted.numbers::<E>(shape));
        let (mut out, mut lse) = (counted.empty::<E>(shape), counted.empty::<E::Acc>([1, heads, t]));
        check_tiles(counted, &format!("attention forward {d}"), &mut |cx| {
            attention::forward(cx, q.view(), key.view(), value.view(), out.view_mut(), lse.view_mut(), &spec)
        });
        let mut grads = [(); 3].map(|()| counted.empty::<E>(shape));
        check_tiles(counted, &format!("attention backward {d}"), &mut |cx| {
            let [dq, dk, dv] = grads.each_mut().map(|tensor| tensor.view_mut());
            let inputs = (q.view(), key.view(), value.view(), out.view(), lse.view(), d_out.view());
            attention::backward(cx, inputs.0, inputs.1, inputs.2, inputs.3, inputs.4, inputs.5, dq, dk, dv, &spec)
        });
    }
}

/// Few queries: keys and values are read once for all queries of a key head, and what the parts of the keys leave is little beside them.
fn decoding<E: Element>(counted: &mut Counted) {
    for (b, t, s, heads, kv_heads, rows) in [(1, 1, 2048, 16, 16, 8), (8, 2, 2048, 16, 8, 8), (64, 2, 256, 48, 8, 16)] {
        let d = 128;
        let spec = Attention { kv_heads, causal: Some(s - t), ..Attention::full(heads, (d as f64).powf(-0.5)) };
        let (q, k, v) = (
            counted.numbers::<E>([b, t, heads * d]),
            counted.numbers::<E>([b, s, kv_heads * d]),
            counted.numbers::<E>([b, s, kv_heads * d]),
        );
        let (mut out, mut lse) = (counted.empty::<E>([b, t, heads * d]), counted.empty::<E::Acc>([b, heads, t]));
        let least = (2 * b * (s * kv_heads + t * heads) * d * size_of::<E>()) as f64;
        let kernel = format!("attention_decode_d128_rows{rows}");
        // The launch that adds up the parts moves less than a fiftieth of it.
        counted.check::<E>(&format!("attention decode {b}x{t}x{s}"), &[(&kernel, least)], |cx| {
            attention::forward(cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), &spec)
        });
    }
}

/// Queries of an image over a caption.
fn short_attentions(counted: &mut Counted, head_sizes: &[usize]) {
    for &d in head_sizes {
        let (heads, t, s) = (2, 512, 77);
        let shape = [1, t, heads * d];
        let spec = CrossAttention { heads, scale: (d as f64).powf(-0.5) };
        let q = counted.numbers::<bf16>(shape);
        let [key, value] = [(); 2].map(|()| counted.numbers::<bf16>([1, s, heads * d]));
        let (mut out, mut lse) = (counted.empty::<bf16>(shape), counted.empty::<f32>([1, heads, t]));
        check_tiles(counted, &format!("cross_attention forward {d}"), &mut |cx| {
            cross_attention::forward(cx, q.view(), key.view(), value.view(), out.view_mut(), lse.view_mut(), &spec)
        });
    }
}
