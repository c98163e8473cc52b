//! Launches of `cuda/attention.cu`; see [`crate::ops::attention`].

use std::ffi::c_void;

use super::gemm::aligned;
use super::params::{DeemAttentionBackward, DeemAttentionDropout, DeemAttentionForward, DeemAttentionTensorForward};
use super::rope::Angles;
use super::{
    attention_decode, by_dtype, has_warpgroups, input, multiprocessors, output, small, tensor_map, whole_numbers,
};
use crate::device::Context;
use crate::device::cuda::{Capability, Geometry};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::host::attention::Problem;
use crate::memory::{Tensor, View, ViewMut};

const OP: &str = "attention";
/// The module of the kernels for f16.
const OP_F16: &str = "attention_f16";
/// Queries or keys of a block of the tensor-core kernels, and its threads.
const BLOCK: usize = 128;
/// Rows of a block of the kernels in tiles, at 128 threads.
const TILE_ROWS: usize = 64;
/// Rows of a block of the plain kernels, a warp each, and its threads.
const PLAIN_ROWS: usize = 4;
const PLAIN_THREADS: u32 = 128;

/// Bytes between the rows of a tile in shared memory: an odd number of pieces of 16 (`Head::ROW` in `cuda/common/flash.cuh`).
pub(super) fn row_bytes(d: usize) -> usize {
    d.div_ceil(16) * 32 + 16
}

/// `FlashForward::SHARED_BYTES` of a block of so many queries.
fn forward_shared_bytes(d: usize, queries: usize) -> u32 {
    let keys = if d > 128 { 32 } else { 64 };
    ((queries + 2 * keys) * row_bytes(d) + if d >= 128 && queries == 128 { BLOCK * 24 } else { 0 }) as u32
}

/// `FlashBackward::SHARED_BYTES` of a launch that makes gradients from dS, from P, or both.
fn backward_shared_bytes(d: usize, scores: bool, probs: bool) -> u32 {
    let sums = d * (usize::from(scores) + usize::from(probs));
    let columns = match sums {
        129.. => 16,
        0..64 => 64,
        64..=96 if !scores => 64,
        _ => 32,
    };
    let tiles = 128 * row_bytes(d) * (1 + usize::from(scores));
    (tiles + 2 * columns * (2 * row_bytes(d) + 8) + BLOCK * 16 + 16) as u32
}

/// Which kernels run a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Those for everything.
    Plain,
    /// Multiply-adds in tiles of shared memory (f32).
    Tiles,
    /// Tensor cores (bf16, f16).
    TensorCores,
}

/// The kernels that run a problem: by sizes, options, storage type and alignment alone.
fn pick_variant(dtype: DType, p: &Problem<'_>, aligned: bool) -> Variant {
    let fits = p.t < 1 << 30 && p.capacity < 1 << 30 && p.batch < 1 << 16 && p.heads < 1 << 16;
    let simple = p.first.is_none() && p.dropout.is_none();
    if !(fits && simple && aligned && p.scale > 0.0 && tile_kernels(p.d).is_some()) {
        return Variant::Plain;
    }
    match dtype {
        DType::F32 => Variant::Tiles,
        DType::Bf16 | DType::F16 => Variant::TensorCores,
        DType::F64 => Variant::Plain,
    }
}

/// The kernels in tiles for this head size: forward, gradients of queries, gradients of keys and values.
fn tile_kernels(d: usize) -> Option<[&'static str; 3]> {
    macro_rules! kernels {
        ($d:literal) => {
            Some([
                concat!("attention_forward_tile_d", $d, "_f32"),
                concat!("attention_backward_dq_tile_d", $d, "_f32"),
                concat!("attention_backward_dkv_tile_d", $d, "_f32"),
            ])
        };
    }
    match d {
        40 => kernels!(40),
        64 => kernels!(64),
        80 => kernels!(80),
        96 => kernels!(96),
        128 => kernels!(128),
        160 => kernels!(160),
        _ => None,
    }
}

/// `SHARED_BYTES` of `FfmaForward` and `FfmaBackward` in `cuda/common/ffma_flash.cuh`.
fn tile_shared_bytes(d: usize) -> [u32; 2] {
    let [keys, columns] = [80, 40].map(|largest| if d <= largest { 64 } else { 32 });
    let forward = (TILE_ROWS + 2 * keys) * (d + 4) + TILE_ROWS * (keys + 8);
    let backward = 2 * (TILE_ROWS + columns) * (d + 4) + TILE_ROWS * (columns + 8) + 2 * columns;
    [forward, backward].map(|numbers| (numbers * size_of::<f32>()) as u32)
}

/// The kernels of warpgroups for this head size: 128 queries to a block, and 64.
fn warpgroup_kernels(d: usize) -> Option<[&'static str; 2]> {
    Some(match d {
        40 => ["attention_forward_wgmma_d40_bf16", "attention_forward_wgmma_small_d40_bf16"],
        64 => ["attention_forward_wgmma_d64_bf16", "attention_forward_wgmma_small_d64_bf16"],
        80 => ["attention_forward_wgmma_d80_bf16", "attention_forward_wgmma_small_d80_bf16"],
        96 => ["attention_forward_wgmma_d96_bf16", "attention_forward_wgmma_small_d96_bf16"],
        128 => ["attention_forward_wgmma_d128_bf16", "attention_forward_wgmma_small_d128_bf16"],
        160 => ["attention_forward_wgmma_d160_bf16", "attention_forward_wgmma_small_d160_bf16"],
        _ => return None,
    })
}

/// Keys of a tile of the kernels of warpgroups (`WarpgroupFlash::KEYS` in `cuda/common/warpgroup_flash.cuh`).
fn warpgroup_keys(d: usize) -> usize {
    if d > 128 { 64 } else { 128 }
}

/// `WarpgroupFlash::SHARED_BYTES`.
fn warpgroup_shared_bytes(d: usize, queries: usize) -> u32 {
    (1024 + d.div_ceil(64) * 128 * (queries + 4 * warpgroup_keys(d)) + queries / 16 * 2304 + 72) as u32
}

/// How a forward pass is divided into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocks {
    queries: usize,
    /// By warpgroups (Hopper), else by single warps.
    warpgroups: bool,
}

/// The blocks of a forward pass on tensor cores: 128 queries share the loads of keys and values among more products, 64 leave fewer multiprocessors idle and each
/// warp waits half as long. The choice changes bits between warps and warpgroups only, whose tiles of keys differ; it never depends on other problems.
fn pick_blocks(dtype: DType, p: &Problem<'_>, capability: Option<Capability>) -> Blocks {
    let multiprocessors = multiprocessors(capability);
    // A round is what a multiprocessor works through, a wave what waits beside each other in one; cycles by the model of the virtual GPU, at a head size of 64, for
    // a tile of keys and beside.
    let cost = |queries: usize, keys: usize, round: [usize; 2], wave: [usize; 2], resident: usize| {
        let blocks = p.t.div_ceil(queries) * p.heads * p.batch;
        let (tiles, waves) = (p.s.div_ceil(keys), blocks.div_ceil(multiprocessors * resident));
        (blocks.div_ceil(multiprocessors) * (round[0] * tiles + round[1])).max(waves * (wave[0] * tiles + wave[1]))
    };
    let resident = if p.d <= 40 { 4 } else { 3 };
    let mut all = vec![
        (cost(128, 64, [1080, 0], [2000, 2000], 2), Blocks { queries: 128, warpgroups: false }),
        (cost(64, 64, [550, 0], [1220, 2000], resident), Blocks { queries: 64, warpgroups: false }),
    ];
    if dtype == DType::Bf16 && has_warpgroups(capability) && p.keys.is_none() && p.s > 0 {
        // Here a cycle of the above is worth more: the tensor cores of Hopper give `mma.sync` less than they have.
        for (cost, _) in &mut all {
            *cost = *cost * 137 / 100;
        }
        all.push((cost(128, 128, [1870, 340], [1344, 850], 1), Blocks { queries: 128, warpgroups: true }));
        all.push((cost(64, 128, [935, 170], [1344, 850], 1), Blocks { queries: 64, warpgroups: true }));
    }
    all.into_iter()
        .min_by_key(|(cost, _)| *cost)
        .map_or(Blocks { queries: 128, warpgroups: false }, |(_, blocks)| blocks)
}

/// A kernel for gradients of keys, and whether it makes those from the scores and those from the probabilities.
type OfKeys = (&'static str, bool, bool);

/// The tensor-core kernels of a storage type and head size.
struct TensorCores {
    /// 128 queries to a block, and 64.
    forward: [&'static str; 2],
    of_queries: &'static str,
    /// One kernel makes the gradients of keys and values, or there is one for each.
    of_keys: &'static [OfKeys],
}

/// The tensor-core kernels for this storage type and head size.
fn tensor_core_kernels(dtype: DType, d: usize) -> Option<TensorCores> {
    macro_rules! kernels {
        ($d:literal, $type:literal, $(($name:literal, $scores:literal, $probs:literal)),*) => {
            TensorCores {
                forward: [
                    concat!("attention_forward_mma_d", $d, "_", $type),
                    concat!("attention_forward_small_d", $d, "_", $type),
                ],
                of_queries: concat!("attention_backward_dq_mma_d", $d, "_", $type),
                of_keys: &[$((concat!("attention_backward_", $name, "_mma_d", $d, "_", $type), $scores, $probs)),*],
            }
        };
    }
    macro_rules! of_type {
        ($type:literal) => {
            match d {
                40 => kernels!(40, $type, ("dkv", true, true)),
                64 => kernels!(64, $type, ("dkv", true, true)),
                80 => kernels!(80, $type, ("dk", true, false), ("dv", false, true)),
                96 => kernels!(96, $type, ("dk", true, false), ("dv", false, true)),
                128 => kernels!(128, $type, ("dk", true, false), ("dv", false, true)),
                160 => kernels!(160, $type, ("dk", true, false), ("dv", false, true)),
                _ => return None,
            }
        };
    }
    match dtype {
        DType::Bf16 => Some(of_type!("bf16")),
        DType::F16 => Some(of_type!("f16")),
        DType::F32 | DType::F64 => None,
    }
}

/// The module and the kernel for a storage type, of those for `f32`, `bf16` and `f16`.
fn by_type<E: Element>(cx: &Context, [f32, bf16, f16]: [&'static str; 3]) -> Result<(&'static str, &'static str)> {
    match E::DTYPE {
        DType::F16 => Ok((OP_F16, f16)),
        _ => Ok((OP, by_dtype::<E>(cx, OP, f32, bf16)?)),
    }
}

/// [`by_type`] of the three names that begin alike.
macro_rules! plain_kernel {
    ($element:ty, $cx:expr, $name:literal) => {
        by_type::<$element>($cx, [concat!($name, "_f32"), concat!($name, "_bf16"), concat!($name, "_f16")])?
    };
}

/// Geometry of a kernel in tiles or on tensor cores over rows of heads of images, of which a block takes so many.
fn blocks(rows: usize, of_block: usize, heads: usize, batch: usize, shared_bytes: u32) -> Geometry {
    Geometry {
        blocks: [rows.div_ceil(of_block) as u32, heads as u32, batch as u32],
        threads: [BLOCK as u32, 1, 1],
        shared_bytes,
    }
}

/// Geometry of a plain kernel; a row takes `vectors` times D, and `scalars`, f32 numbers of shared memory.
fn plain(rows: usize, d: usize, vectors: usize, scalars: usize) -> Result<Geometry> {
    let shared_bytes = PLAIN_ROWS * (vectors * d + scalars) * size_of::<f32>();
    if shared_bytes > 160 << 10 {
        let reason =
            format!("heads of {d} numbers need {shared_bytes} bytes of shared memory, a block has {}", 160 << 10);
        return Err(Error::Domain { op: OP, reason });
    }
    Ok(Geometry::linear(OP, rows.div_ceil(PLAIN_ROWS), PLAIN_THREADS)?.with_shared_bytes(shared_bytes as u32))
}

/// The key mask in device memory: its bytes, four to a number.
fn upload_keys(cx: &Context, p: &Problem<'_>) -> Result<Option<Tensor<f32>>> {
    let upload = |keys: &[u8]| {
        let words: Vec<f32> = keys
            .chunks(4)
            .map(|bytes| {
                let mut word = [0; 4];
                word[..bytes.len()].copy_from_slice(bytes);
                f32::from_ne_bytes(word)
            })
            .collect();
        cx.tensor([words.len()], &words)
    };
    p.keys.map(upload).transpose()
}

/// The address of an uploaded mask; null without one.
fn address(cx: &Context, keys: Option<&Tensor<f32>>) -> Result<*const c_void> {
    super::optional_input(cx, OP, "a mask", keys.map(Tensor::view))
}

/// The first key of each query, in device memory.
fn upload_first(cx: &Context, p: &Problem<'_>) -> Result<Option<Tensor<f32>>> {
    p.first.map(|first| whole_numbers(cx, bytemuck::cast_slice(first))).transpose()
}

/// Dropout as kernels take it.
fn dropout(p: &Problem<'_>) -> DeemAttentionDropout {
    let ((key, tensor), threshold, factor) = p.dropout.map_or((([0; 2], [0; 2]), 0, 1.0), |dropout| dropout.parts());
    DeemAttentionDropout { key, tensor, threshold, factor: factor as f32 }
}

/// The offset of the causal line as kernels take it: -1 without one.
fn causal(p: &Problem<'_>) -> i64 {
    p.causal.map_or(-1, |offset| offset.min(p.s) as i64)
}

/// Output and lse.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    p: &Problem<'_>,
    q: View<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: ViewMut<'_, E>,
    lse: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let few = few_queries(p, [q.address(), k.address(), v.address(), out.address().cast_const()]);
    run(cx, p, few, None, q, k, v, out, lse)
}

/// How the kernel for few queries runs a problem of these arrays, if it does.
fn few_queries<E: Element>(p: &Problem<'_>, arrays: [*const E; 4]) -> Option<attention_decode::Variant> {
    attention_decode::pick_variant(E::DTYPE, p, aligned(&arrays.map(<*const E>::cast)))
}

/// The same for queries that are yet to be rotated: as they are loaded where the kernel for few queries runs, else in place before.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward_rotated<E: Element>(
    cx: &Context,
    p: &Problem<'_>,
    angles: &Angles,
    mut q: ViewMut<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: ViewMut<'_, E>,
    lse: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let few = few_queries(p, [q.address().cast_const(), k.address(), v.address(), out.address().cast_const()]);
    if few.is_none() {
        super::rope::rotate(cx, q.reborrow(), angles, false)?;
    }
    run(cx, p, few, Some(angles), q.as_view(), k, v, out, lse)
}

/// By the kernel for few queries, which rotates them if there are angles, or by another.
#[allow(clippy::too_many_arguments)]
fn run<E: Element>(
    cx: &Context,
    p: &Problem<'_>,
    few: Option<attention_decode::Variant>,
    rotary: Option<&Angles>,
    q: View<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: ViewMut<'_, E>,
    lse: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let (module, simple) = plain_kernel!(E, cx, "attention_forward");
    let (keys, first) = (upload_keys(cx, p)?, upload_first(cx, p)?);
    let params = DeemAttentionForward {
        q: input(cx, OP, "q", q)?,
        k: input(cx, OP, "k", k)?,
        v: input(cx, OP, "v", v)?,
        keys: address(cx, keys.as_ref())?,
        out: output(cx, OP, "out", &out)?,
        lse: output(cx, OP, "lse", &lse)?,
        batch: p.batch as i64,
        t: p.t as i64,
        s: p.s as i64,
        capacity: p.capacity as i64,
        causal: causal(p),
        heads: small(OP, "the number of heads", p.heads)?,
        kv_heads: small(OP, "the number of key heads", p.kv_heads)?,
        d: small(OP, "the head size", p.d)?,
        scale: p.scale as f32,
        first: address(cx, first.as_ref())?,
        dropout: dropout(p),
    };
    if let Some(variant) = few {
        return attention_decode::forward::<E>(cx, p, &variant, &params, rotary);
    }
    let is_aligned = aligned(&[params.q, params.k, params.v, params.out.cast_const()]);
    let variant = pick_variant(E::DTYPE, p, is_aligned);
    let tensor_cores = tensor_core_kernels(E::DTYPE, p.d).zip(warpgroup_kernels(p.d));
    let (kernel, geometry) = match (variant, tensor_cores, tile_kernels(p.d)) {
        (Variant::Tiles, _, Some([kernel, ..])) => {
            (kernel, blocks(p.t, TILE_ROWS, p.heads, p.batch, tile_shared_bytes(p.d)[0]))
        }
        (Variant::TensorCores, Some((of_warps, of_warpgroups)), _) => {
            let chosen = pick_blocks(E::DTYPE, p, cx.capability());
            let [large, small] = if chosen.warpgroups { of_warpgroups } else { of_warps.forward };
            let kernel = if chosen.queries == BLOCK { large } else { small };
            if chosen.warpgroups {
                return warpgroups(cx, p, kernel, chosen.queries, params);
            }
            let shared_bytes = forward_shared_bytes(p.d, chosen.queries);
            (kernel, blocks(p.t, chosen.queries, p.heads, p.batch, shared_bytes))
        }
        _ => (simple, plain(p.batch * p.heads * p.t, p.d, 2, 32)?),
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(module, kernel, geometry, &params) }
}

/// The launch of a kernel of warpgroups.
fn warpgroups(
    cx: &Context,
    p: &Problem<'_>,
    kernel: &'static str,
    queries: usize,
    attention: DeemAttentionForward,
) -> Result<()> {
    let keys = warpgroup_keys(p.d) as u32;
    let of_keys = [p.batch, p.capacity, p.kv_heads, p.d];
    let params = DeemAttentionTensorForward {
        q_map: tensor_map::heads(cx, OP, attention.q, [p.batch, p.t, p.heads, p.d], p.t, queries as u32)?,
        k_map: tensor_map::heads(cx, OP, attention.k, of_keys, p.s, keys)?,
        v_map: tensor_map::heads(cx, OP, attention.v, of_keys, p.s, keys)?,
        attention,
        padding: [0; 7],
    };
    let geometry = blocks(p.t, queries, p.heads, p.batch, warpgroup_shared_bytes(p.d, queries));
    // A warpgroup for 64 queries, and one that copies.
    let geometry = Geometry { threads: [(queries * 2 + 128) as u32, 1, 1], ..geometry };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it and its maps name.
    unsafe { cx.launch(OP, kernel, geometry, &params) }
}

/// Gradients of q, k and v, overwritten.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward<E: Element>(
    cx: &Context,
    p: &Problem<'_>,
    q: View<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: View<'_, E>,
    lse: View<'_, E::Acc>,
    d_out: View<'_, E>,
    dq: ViewMut<'_, E>,
    dk: ViewMut<'_, E>,
    dv: ViewMut<'_, E>,
) -> Result<()> {
    let (module, delta_kernel) = plain_kernel!(E, cx, "attention_backward_delta");
    let (keys, first) = (upload_keys(cx, p)?, upload_first(cx, p)?);
    let mut delta = cx.uninit::<f32>([p.batch, p.heads, p.t])?;
    let params = DeemAttentionBackward {
        q: input(cx, OP, "q", q)?,
        k: input(cx, OP, "k", k)?,
        v: input(cx, OP, "v", v)?,
        keys: address(cx, keys.as_ref())?,
        out: input(cx, OP, "out", out)?,
        lse: input(cx, OP, "lse", lse)?,
        d_out: input(cx, OP, "d_out", d_out)?,
        delta: output(cx, OP, "delta", &delta.view_mut())?,
        dq: output(cx, OP, "dq", &dq)?,
        dk: output(cx, OP, "dk", &dk)?,
        dv: output(cx, OP, "dv", &dv)?,
        batch: p.batch as i64,
        t: p.t as i64,
        s: p.s as i64,
        capacity: p.capacity as i64,
        causal: causal(p),
        heads: small(OP, "the number of heads", p.heads)?,
        kv_heads: small(OP, "the number of key heads", p.kv_heads)?,
        d: small(OP, "the head size", p.d)?,
        scale: p.scale as f32,
        first: address(cx, first.as_ref())?,
        dropout: dropout(p),
    };
    let inputs = [params.q, params.k, params.v, params.d_out];
    let outputs = [params.dq, params.dk, params.dv].map(<*mut c_void>::cast_const);
    let is_aligned = aligned(&inputs) && aligned(&outputs);
    let (queries, keys) = (p.batch * p.heads * p.t, p.batch * p.kv_heads * p.capacity);
    // SAFETY: the kernels' own struct, with arrays of the shapes that it names.
    let launch = |kernel, geometry| unsafe { cx.launch(module, kernel, geometry, &params) };
    if queries > 0 {
        launch(delta_kernel, plain(queries, 0, 0, 0)?)?;
    }
    match (pick_variant(E::DTYPE, p, is_aligned), tensor_core_kernels(E::DTYPE, p.d), tile_kernels(p.d)) {
        (Variant::Tiles, _, Some([_, dq, dkv])) => {
            let [_, shared_bytes] = tile_shared_bytes(p.d);
            if queries > 0 {
                launch(dq, blocks(p.t, TILE_ROWS, p.heads, p.batch, shared_bytes))?;
            }
            if keys > 0 {
                launch(dkv, blocks(p.capacity, TILE_ROWS, p.kv_heads, p.batch, shared_bytes))?;
            }
        }
        (Variant::TensorCores, Some(kernels), _) => {
            if queries > 0 {
                launch(
                    kernels.of_queries,
                    blocks(p.t, BLOCK, p.heads, p.batch, backward_shared_bytes(p.d, true, false)),
                )?;
            }
            if keys > 0 {
                for &(kernel, scores, probs) in kernels.of_keys {
                    launch(
                        kernel,
                        blocks(p.capacity, BLOCK, p.kv_heads, p.batch, backward_shared_bytes(p.d, scores, probs)),
                    )?;
                }
            }
        }
        _ => {
            if queries > 0 {
                launch(plain_kernel!(E, cx, "attention_backward_dq").1, plain(queries, p.d, 3, 32)?)?;
            }
            if keys > 0 {
                launch(plain_kernel!(E, cx, "attention_backward_dkv").1, plain(keys, p.d, 4, 64)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_by_sizes() {
        let problem = |d, scale| Problem {
            batch: 1,
            t: 5,
            s: 7,
            capacity: 7,
            heads: 2,
            kv_heads: 1,
            d,
            scale,
            causal: None,
            keys: None,
            first: None,
            dropout: None,
        };
        let pick = |dtype, d, scale, aligned| pick_variant(dtype, &problem(d, scale), aligned);
        assert_eq!(pick(DType::Bf16, 40, 0.1, true), Variant::TensorCores);
        assert_eq!(pick(DType::F32, 40, 0.1, true), Variant::Tiles);
        assert_eq!(pick(DType::F16, 160, 0.1, true), Variant::TensorCores);
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            assert_eq!(pick(dtype, 40, 0.1, false), Variant::Plain);
            assert_eq!(pick(dtype, 48, 0.1, true), Variant::Plain);
            assert_eq!(pick(dtype, 64, -0.1, true), Variant::Plain);
            let first = Problem { first: Some(&[0; 5]), ..problem(64, 0.1) };
            assert_eq!(pick_variant(dtype, &first, true), Variant::Plain);
        }
        for d in [40, 64, 80, 96, 128, 160] {
            for dtype in [DType::Bf16, DType::F16] {
                assert!(tensor_core_kernels(dtype, d).is_some());
            }
            // What a block of an A100 may have.
            assert!(warpgroup_kernels(d).is_some() && warpgroup_shared_bytes(d, 128) <= 227 << 10);
            assert!(tile_kernels(d).is_some() && tile_shared_bytes(d).iter().all(|&bytes| bytes <= 163 << 10));
            assert!(forward_shared_bytes(d, 128) <= 163 << 10 && backward_shared_bytes(d, true, d <= 64) <= 163 << 10);
        }
    }

    #[test]
    fn blocks_by_sizes_and_capability() {
        let pick_type = |dtype, (batch, heads, t, s, d), keys, major| {
            let (causal, first, dropout) = (None, None, None);
            let problem = Problem {
                batch,
                t,
                s,
                capacity: s,
                heads,
                kv_heads: heads,
                d,
                scale: 0.1,
                causal,
                keys,
                first,
                dropout,
            };
            let Blocks { queries, warpgroups } = pick_blocks(dtype, &problem, Some(Capability { major, minor: 0 }));
            (queries, warpgroups)
        };
        let pick = |sizes, keys, major| pick_type(DType::Bf16, sizes, keys, major);
        assert_eq!(pick_type(DType::F16, (1, 16, 512, 512, 64), None, 9), (64, false));
        assert_eq!(pick((1, 16, 512, 512, 64), None, 8), (64, false));
        assert_eq!(pick((1, 16, 512, 512, 64), None, 9), (64, true));
        assert_eq!(pick((1, 16, 1024, 1024, 64), None, 9), (128, true));
        assert_eq!(pick((1, 16, 512, 512, 64), Some(&[1; 512]), 9), (64, false));
        // Three tiles of keys for two and a bit.
        assert_eq!(pick((4, 16, 257, 257, 64), None, 9), (64, false));
    }
}
