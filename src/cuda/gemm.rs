//! Launches of `cuda/gemm.cu`; see [`crate::ops::gemm`].

use std::ffi::c_void;

use super::activation::number;
use super::params::{DEEM_GEMM_NN, DEEM_GEMM_NT, DEEM_GEMM_TN, DeemGemmForward, DeemGemmTensorForward};
use super::{by_dtype, has_warpgroups, input, multiprocessors, optional_input, output, tensor_map};
use crate::device::Context;
use crate::device::cuda::{Capability, Geometry};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops::Accumulate;
use crate::ops::activation::Activation;
use crate::ops::gemm::{Epilogue, Form};

const OP: &str = "gemm";

/// The kernels for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Any sizes.
    Plain,
    /// f32 in tiles of 128 x 128.
    Tile,
    /// f32 in tiles of 32 x 32, whose sums eight warps divide among themselves.
    Slices,
    /// The same for any sizes.
    Ragged,
    /// bf16 on tensor cores, in tiles of 128 x 128.
    Mma,
    /// The same in tiles of 64 x 64, of which more run beside each other, and in so many parts of K.
    Small { splits: usize },
    /// The same in tiles of 32 x 32, whose two halves along k are summed by different warps.
    Sliced,
    /// bf16 by warpgroups (Hopper).
    Warpgroup(&'static WarpgroupTile),
}

/// The names of a kernel's three forms, in the order NT, NN, TN.
macro_rules! forms {
    ($kernel:expr, $dtype:expr) => {
        [concat!($kernel, "_nt_", $dtype), concat!($kernel, "_nn_", $dtype), concat!($kernel, "_tn_", $dtype)]
    };
}

/// A kernel of warpgroups: its tile of C, and how long it takes, in cycles as the model of the virtual GPU counts them.
#[derive(Debug, PartialEq, Eq)]
struct WarpgroupTile {
    kernels: [&'static str; 3],
    rows: usize,
    cols: usize,
    /// Stages of steps of 64 terms.
    stages: usize,
    depth: usize,
    /// Blocks that a multiprocessor holds.
    resident: usize,
    /// Of a tile: for a hundred terms, and beside; of a wave likewise.
    round: [usize; 2],
    wave: [usize; 2],
}

macro_rules! warpgroup_tile {
    ($rows:literal x $cols:literal, $stages:literal of $depth:literal, $resident:literal, $round:expr, $wave:expr) => {
        WarpgroupTile {
            kernels: forms!(concat!("gemm_forward_wgmma_", $rows, "x", $cols), "bf16"),
            rows: $rows,
            cols: $cols,
            stages: $stages,
            depth: $depth,
            resident: $resident,
            round: $round,
            wave: $wave,
        }
    };
}

/// The kernels of warpgroups, the largest tile first.
static WARPGROUP_TILES: [WarpgroupTile; 4] = [
    warpgroup_tile!(128 x 256, 4 of 1, 1, [1720, 550], [430, 2000]),
    warpgroup_tile!(128 x 128, 3 of 2, 1, [930, 370], [300, 1300]),
    warpgroup_tile!(128 x 64, 3 of 2, 1, [536, 180], [290, 930]),
    warpgroup_tile!(64 x 64, 3 of 2, 2, [265, 100], [280, 970]),
];

impl WarpgroupTile {
    /// `TensorProduct::SHARED_BYTES` in `cuda/common/warpgroup_product.cuh`: stages of tiles, a slab of sums for each warp, barriers.
    fn shared_bytes(&self) -> u32 {
        let bytes = 1024 + self.stages * self.depth * (self.rows + self.cols) * 128 + self.rows / 16 * 2560;
        (bytes + self.stages * 16) as u32
    }

    /// A warpgroup for 64 rows, and one that copies.
    fn threads(&self) -> u32 {
        (self.rows * 2 + 128) as u32
    }

    fn cost(&self, batch: usize, (m, n, k): Sizes, multiprocessors: usize) -> usize {
        let tiles = batch * m.div_ceil(self.rows) * n.div_ceil(self.cols);
        let (rounds, waves) = (tiles.div_ceil(multiprocessors), tiles.div_ceil(self.resident * multiprocessors));
        let of = |[terms, beside]: [usize; 2]| terms * k / 100 + beside;
        let second_cache = (tiles * (self.rows + self.cols) * k + batch * m * n) / 2560;
        (rounds * of(self.round)).max(waves * of(self.wave)).max(second_cache)
    }

    /// The cheapest kernel.
    fn pick(batch: usize, sizes: Sizes, multiprocessors: usize) -> &'static WarpgroupTile {
        let [first, others @ ..] = &WARPGROUP_TILES;
        let cost = |tile: &WarpgroupTile| tile.cost(batch, sizes, multiprocessors);
        others.iter().fold(first, |best, other| if cost(other) < cost(best) { other } else { best })
    }
}

/// Whether all of these begin at multiples of 16 bytes (null among them).
pub(super) fn aligned(pointers: &[*const c_void]) -> bool {
    pointers.iter().all(|pointer| pointer.addr().is_multiple_of(16))
}

/// Sizes of a product: rows, columns, terms of a sum.
type Sizes = (usize, usize, usize);

/// What a product costs in tiles of 128 x 128, in cycles as the model of the virtual GPU counts them: the multiprocessor with most tiles works through `rounds` of
/// them, and waits for `waves` of those that run beside each other.
fn cost_of_mma(batch: usize, (m, n, k): Sizes, multiprocessors: usize) -> usize {
    let tiles = batch * m.div_ceil(128) * n.div_ceil(128);
    let (rounds, waves) = (tiles.div_ceil(multiprocessors), tiles.div_ceil(2 * multiprocessors));
    (rounds * (19 * k)).max(waves * (15 * k + 2800))
}

/// The same in tiles of 64 x 64 and `splits` parts of K, with the launch that adds the parts.
fn cost_of_small(batch: usize, (m, n, k): Sizes, splits: usize, multiprocessors: usize) -> usize {
    let (tiles, part) = (splits * batch * m.div_ceil(64) * n.div_ceil(64), k.div_ceil(splits));
    let (rounds, waves) = (tiles.div_ceil(multiprocessors), tiles.div_ceil(2 * multiprocessors));
    let adding = if splits == 1 { 0 } else { 3800 + splits * batch * m * n * 8 / 1300 };
    (rounds * (13 * part / 2)).max(waves * (10 * part + 1400)) + adding
}

/// The same in tiles of 32 x 32.
fn cost_of_sliced((m, n, k): Sizes, multiprocessors: usize) -> usize {
    let tiles = m.div_ceil(32) * n.div_ceil(32);
    let (rounds, waves) = (tiles.div_ceil(multiprocessors), tiles.div_ceil(4 * multiprocessors));
    (rounds * (3 * k)).max(waves * (17 * k / 4 + 950)).max(tiles * k / 40)
}

/// The cheaper of two f32 kernels for tiles of 32 and 64 or 128 numbers a side, of which a multiprocessor holds two and one: `small` and `large` are what the
/// model of the virtual GPU counts for a hundred terms of a wave of tiles, and beside; `round` is what a multiprocessor has to do for a hundred terms of a small tile.
fn cheaper<T>(
    (m, n, k): Sizes,
    (small, round, if_small): ([usize; 2], usize, T),
    (side, large, if_large): (usize, [usize; 2], T),
    multiprocessors: usize,
) -> T {
    let of = |[terms, beside]: [usize; 2]| terms * k / 100 + beside;
    let tiles = m.div_ceil(32) * n.div_ceil(32);
    let waves = tiles.div_ceil(2 * multiprocessors) * of(small);
    let cost = waves.max(tiles.div_ceil(multiprocessors) * (round * k / 100));
    let cost_of_large = (m.div_ceil(side) * n.div_ceil(side)).div_ceil(multiprocessors) * of(large);
    if cost <= cost_of_large { if_small } else { if_large }
}

/// Terms of a part of K: whole steps of the kernel.
fn k_of_split(k: usize, splits: usize) -> usize {
    k.div_ceil(splits).next_multiple_of(64)
}

/// Kernels by sizes, storage type and alignment alone. How the terms of a sum are grouped does not depend on `batch`, so the bits are the same for any number of
/// products at once.
fn pick_variant(
    dtype: DType,
    form: Form,
    batch: usize,
    sizes: Sizes,
    aligned: bool,
    capability: Option<Capability>,
) -> Variant {
    let multiprocessors = multiprocessors(capability);
    let (m, n, k) = sizes;
    let rows = match form {
        Form::Nt => [k, k],
        Form::Nn => [k, n],
        Form::Tn => [m, n],
    };
    let whole = |pack: usize| aligned && n.is_multiple_of(4) && rows.iter().all(|row| row.is_multiple_of(pack));
    let fits = k < 1 << 31 && m < 1 << 28 && n < 1 << 28;
    match dtype {
        DType::F32 if fits && whole(4) => {
            let (slices, tile) = (([2600, 700], 2400, Variant::Slices), (128, [25_600, 1500], Variant::Tile));
            return cheaper(sizes, slices, tile, multiprocessors);
        }
        DType::F32 if fits => {
            let (ragged, plain) = (([5400, 2650], 3400, Variant::Ragged), (64, [14_600, 1560], Variant::Plain));
            return cheaper(sizes, ragged, plain, multiprocessors);
        }
        DType::Bf16 if fits && whole(8) => {}
        _ => return Variant::Plain,
    }
    if k > 0 && has_warpgroups(capability) {
        return Variant::Warpgroup(WarpgroupTile::pick(batch, sizes, multiprocessors));
    }
    let small = |splits| (cost_of_small(1, sizes, splits, multiprocessors), Variant::Small { splits });
    let sliced = (cost_of_sliced(sizes, multiprocessors), Variant::Sliced);
    let mma = (cost_of_mma(1, sizes, multiprocessors), Variant::Mma);
    let splits =
        [2, 4, 8, 16].into_iter().filter(|splits| k / splits >= 256 && k_of_split(k, *splits) * (splits - 1) < k);
    let cheapest = splits.map(small).chain([small(1), sliced, mma]).min_by_key(|(cost, _)| *cost);
    match cheapest {
        Some((_, grouped @ (Variant::Sliced | Variant::Small { splits: 2.. }))) => grouped,
        // Both sum in the same order.
        _ if cost_of_mma(batch, sizes, multiprocessors) <= cost_of_small(batch, sizes, 1, multiprocessors) => {
            Variant::Mma
        }
        _ => Variant::Small { splits: 1 },
    }
}

/// `batch` products through the epilogue.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    batch: usize,
    (m, n, k): Sizes,
    form: Form,
    a: View<'_, E>,
    b: View<'_, E>,
    c: ViewMut<'_, O>,
    epilogue: &Epilogue<'_, E>,
) -> Result<()> {
    let plain = by_dtype::<E>(cx, OP, "gemm_forward_f32", "gemm_forward_bf16")?;
    let mut params = DeemGemmForward {
        a: input(cx, OP, "a", a)?,
        b: input(cx, OP, "b", b)?,
        c: output(cx, OP, "c", &c)?,
        bias: optional_input(cx, OP, "bias", epilogue.bias)?,
        scale: optional_input(cx, OP, "scale", epilogue.scale)?,
        residual: optional_input(cx, OP, "residual", epilogue.residual)?,
        batch: batch as i64,
        m: m as i64,
        n: n as i64,
        k: k as i64,
        form: match form {
            Form::Nt => DEEM_GEMM_NT,
            Form::Nn => DEEM_GEMM_NN,
            Form::Tn => DEEM_GEMM_TN,
        } as i32,
        activation: number(epilogue.activation),
        accumulate: i32::from(epilogue.accumulate == Accumulate::Add),
        c_is_f32: i32::from(O::DTYPE == DType::F32),
        partial: std::ptr::null_mut(),
        k_of_split: k as i64,
        splits: 1,
        is_bare: 0,
    };
    let has_epilogue = epilogue.bias.is_some()
        || epilogue.scale.is_some()
        || epilogue.residual.is_some()
        || params.activation != number(Activation::None)
        || params.accumulate != 0;
    params.is_bare = i32::from(!has_epilogue && params.c_is_f32 == 0 && n.is_multiple_of(8));
    let pointers = [params.a, params.b, params.c.cast_const(), params.bias, params.scale, params.residual];
    let name = |names: [&'static str; 3]| match form {
        Form::Nt => names[0],
        Form::Nn => names[1],
        Form::Tn => names[2],
    };
    let variant = pick_variant(E::DTYPE, form, batch, (m, n, k), aligned(&pointers), cx.capability());
    let (kernel, tile, threads, shared_bytes) = match variant {
        Variant::Plain => (plain, 64, 256, 0),
        Variant::Tile => (name(forms!("gemm_forward_tile", "f32")), 128, 256, 0),
        Variant::Slices => (name(forms!("gemm_forward_slices", "f32")), 32, 256, 0),
        Variant::Ragged => (name(forms!("gemm_forward_ragged", "f32")), 32, 256, 0),
        Variant::Mma => (name(forms!("gemm_forward_mma", "bf16")), 128, 256, MMA_SHARED_BYTES),
        Variant::Small { .. } => (name(forms!("gemm_forward_small", "bf16")), 64, 128, mma_shared_bytes(64, 64, 3)),
        Variant::Sliced => (name(forms!("gemm_forward_sliced", "bf16")), 32, 128, mma_shared_bytes(32, 64, 3)),
        Variant::Warpgroup(tile) => return warpgroups(cx, tile, name(tile.kernels), form, params),
    };
    let mut partial = None;
    if let Variant::Small { splits: splits @ 2.. } = variant {
        let sums = partial.insert(cx.uninit::<f32>([splits, batch, m, n])?);
        params.partial = output(cx, OP, "the sums of parts", &sums.view_mut())?;
        params.k_of_split = k_of_split(k, splits) as i64;
        params.splits = splits as i32;
    }
    let tiles = Geometry::linear(OP, m.div_ceil(tile) * n.div_ceil(tile), threads)?.with_shared_bytes(shared_bytes);
    // Beyond so many products a block makes several.
    let blocks = [tiles.blocks[0], batch.min(65535) as u32, params.splits as u32];
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, Geometry { blocks, ..tiles }, &params)? };
    if partial.is_some() {
        let geometry = Geometry::linear(OP, (batch * m * n).div_ceil(1024).min(1 << 20), 256)?;
        // SAFETY: as above.
        unsafe { cx.launch(OP, "gemm_forward_add_splits_bf16", geometry, &params)? };
    }
    Ok(())
}

/// The launch of a kernel of warpgroups.
fn warpgroups(
    cx: &Context,
    tile: &WarpgroupTile,
    kernel: &'static str,
    form: Form,
    gemm: DeemGemmForward,
) -> Result<()> {
    let [batch, m, n, k] = [gemm.batch, gemm.m, gemm.n, gemm.k].map(|size| size as usize);
    // Rows along k come in boxes of as many lines as the tile has, rows across in boxes of 64 terms.
    let map = |matrix, lines, tile_lines, along| match along {
        true => tensor_map::rows(cx, OP, matrix, [batch, lines, k], tile_lines as u32),
        false => tensor_map::rows(cx, OP, matrix, [batch, k, lines], 64),
    };
    let params = DeemGemmTensorForward {
        a_map: map(gemm.a, m, tile.rows, form != Form::Tn)?,
        b_map: map(gemm.b, n, tile.cols, form == Form::Nt)?,
        gemm,
        padding: [0],
    };
    let tiles = Geometry::linear(OP, m.div_ceil(tile.rows) * n.div_ceil(tile.cols), tile.threads())?;
    let blocks = [tiles.blocks[0], batch.min(65535) as u32, 1];
    let geometry = Geometry { blocks, ..tiles }.with_shared_bytes(tile.shared_bytes());
    // SAFETY: the kernel's own struct, with arrays of the shapes that it and its maps name.
    unsafe { cx.launch(OP, kernel, geometry, &params) }
}

/// Shared memory of the tensor-core products (`Product::SHARED_BYTES` in `cuda/common/product.cuh`, `Mma::SHARED_BYTES` in `tile.cuh`): stages of so many terms of
/// two operands.
const fn mma_shared_bytes(tile: u32, terms: u32, stages: u32) -> u32 {
    stages * 2 * terms * (tile * 2 + 16)
}
/// The same for the large tile.
pub(super) const MMA_SHARED_BYTES: u32 = mma_shared_bytes(128, 32, 4);

#[cfg(test)]
mod tests {
    use super::*;

    const AMPERE: Option<Capability> = Some(Capability { major: 8, minor: 0 });
    const HOPPER: Option<Capability> = Some(Capability { major: 9, minor: 0 });

    #[test]
    fn warpgroups_by_sizes() {
        let pick = |m, n, k| match pick_variant(DType::Bf16, Form::Nt, 1, (m, n, k), true, HOPPER) {
            Variant::Warpgroup(tile) => (tile.rows, tile.cols),
            other => panic!("{other:?}"),
        };
        assert_eq!(pick(4096, 1024, 1024), (128, 256));
        assert_eq!(pick(1024, 1024, 512), (128, 128));
        assert_eq!(pick(128, 4096, 1024), (128, 64));
        assert_eq!(pick(128, 1024, 4096), (64, 64));
        let other = |sizes, capability| pick_variant(DType::Bf16, Form::Nt, 1, sizes, true, capability);
        assert_eq!(other((8, 8, 0), HOPPER), Variant::Sliced);
        // Code for sm_90a runs on nothing newer.
        let newer = Some(Capability { major: 10, minor: 0 });
        assert!(!matches!(other((64, 64, 64), newer), Variant::Warpgroup(_)));
        // What a block of an H100 may have.
        assert!(WARPGROUP_TILES.iter().all(|tile| tile.shared_bytes() <= 227 << 10));
    }

    #[test]
    fn variants_by_sizes() {
        let pick = |dtype, form, m, n, k| pick_variant(dtype, form, 1, (m, n, k), true, AMPERE);
        assert_eq!(pick(DType::Bf16, Form::Nt, 3, 4, 8), Variant::Sliced);
        assert_eq!(pick(DType::Bf16, Form::Nt, 256, 512, 512), Variant::Sliced);
        assert_eq!(pick(DType::Bf16, Form::Nt, 2048, 2048, 512), Variant::Mma);
        assert_eq!(pick(DType::Bf16, Form::Nt, 1024, 1024, 512), Variant::Mma);
        assert_eq!(pick(DType::Bf16, Form::Nt, 128, 4096, 1024), Variant::Small { splits: 1 });
        assert_eq!(pick(DType::Bf16, Form::Nn, 128, 1024, 4096), Variant::Small { splits: 4 });
        assert_eq!(pick(DType::Bf16, Form::Tn, 320, 320, 4096), Variant::Small { splits: 8 });
        assert_eq!(pick(DType::Bf16, Form::Nt, 3, 8, 12), Variant::Plain);
        assert_eq!(pick(DType::Bf16, Form::Nn, 3, 12, 8), Variant::Plain);
        assert_eq!(pick(DType::Bf16, Form::Tn, 8, 8, 3), Variant::Sliced);
        assert_eq!(pick(DType::F32, Form::Tn, 68, 4, 3), Variant::Slices);
        assert_eq!(pick(DType::F32, Form::Nt, 64, 64, 64), Variant::Slices);
        assert_eq!(pick(DType::F32, Form::Nt, 1024, 1024, 512), Variant::Slices);
        assert_eq!(pick(DType::F32, Form::Nt, 2048, 2048, 512), Variant::Tile);
        assert_eq!(pick(DType::F32, Form::Nt, 128, 6, 64), Variant::Ragged);
        assert_eq!(pick(DType::F32, Form::Nt, 2047, 2049, 65), Variant::Plain);
        assert_eq!(pick_variant(DType::Bf16, Form::Nt, 1, (8, 8, 8), false, AMPERE), Variant::Plain);
    }

    /// Whether the terms of a sum are grouped, and how, is the same for one product and many.
    #[test]
    fn groups_of_terms_do_not_depend_on_the_number_of_products() {
        let grouped = |variant| match variant {
            Variant::Mma | Variant::Small { splits: 1 } => None,
            other => Some(other),
        };
        for sizes in [(8, 8, 40), (64, 64, 4096), (128, 1024, 512), (1024, 1024, 512), (2048, 4096, 64)] {
            for dtype in [DType::Bf16, DType::F32] {
                let pick = |batch| grouped(pick_variant(dtype, Form::Nt, batch, sizes, true, AMPERE));
                assert!([2, 7, 108, 5000].into_iter().all(|batch| pick(batch) == pick(1)), "{sizes:?}");
            }
        }
    }
}
