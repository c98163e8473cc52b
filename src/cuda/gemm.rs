//! Launches of `cuda/gemm.cu`; see [`crate::ops::gemm`].

use std::ffi::c_void;

use super::activation::number;
use super::params::{DEEM_GEMM_NN, DEEM_GEMM_NT, DEEM_GEMM_TN, DeemGemmForward};
use super::{by_dtype, input, optional_input, output};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops::Accumulate;
use crate::ops::gemm::{Epilogue, Form};

const OP: &str = "gemm";

/// The kernels for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Any sizes.
    Plain,
    /// f32 in tiles of 128 x 128.
    Tile,
    /// bf16 on tensor cores, in tiles of 128 x 128.
    Mma,
    /// The same in tiles of 64 x 64, of which more run beside each other.
    Small,
}

/// Whether all of these begin at multiples of 16 bytes (null among them).
pub(super) fn aligned(pointers: &[*const c_void]) -> bool {
    pointers.iter().all(|pointer| pointer.addr().is_multiple_of(16))
}

/// Tiles of 128 x 128 from which on they fill a GPU: multiprocessors of an A100. A constant, so that nothing depends on the machine.
const MANY_TILES: usize = 108;

/// Kernels by sizes, storage type and alignment alone. All sum in the same order, so the bits are the same for any number of products at once.
fn pick_variant(dtype: DType, form: Form, batch: usize, (m, n, k): (usize, usize, usize), aligned: bool) -> Variant {
    let rows = match form {
        Form::Nt => [k, k],
        Form::Nn => [k, n],
        Form::Tn => [m, n],
    };
    let whole = |pack: usize| aligned && n.is_multiple_of(4) && rows.iter().all(|row| row.is_multiple_of(pack));
    let fits = k < 1 << 31 && m < 1 << 28 && n < 1 << 28;
    match dtype {
        DType::F32 if fits && whole(4) && (m > 64 || n > 64) => Variant::Tile,
        DType::Bf16 if fits && whole(8) && batch * m.div_ceil(128) * n.div_ceil(128) < MANY_TILES => Variant::Small,
        DType::Bf16 if fits && whole(8) => Variant::Mma,
        _ => Variant::Plain,
    }
}

/// `batch` products through the epilogue.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    batch: usize,
    (m, n, k): (usize, usize, usize),
    form: Form,
    a: View<'_, E>,
    b: View<'_, E>,
    c: ViewMut<'_, O>,
    epilogue: &Epilogue<'_, E>,
) -> Result<()> {
    let plain = by_dtype::<E>(cx, OP, "gemm_forward_f32", "gemm_forward_bf16")?;
    let params = DeemGemmForward {
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
    };
    let pointers = [params.a, params.b, params.c.cast_const(), params.bias, params.scale, params.residual];
    let (kernel, tile, threads, shared_bytes) = match pick_variant(E::DTYPE, form, batch, (m, n, k), aligned(&pointers))
    {
        Variant::Plain => (plain, 64, 256, 0),
        Variant::Tile => {
            let kernel = match form {
                Form::Nt => "gemm_forward_tile_nt_f32",
                Form::Nn => "gemm_forward_tile_nn_f32",
                Form::Tn => "gemm_forward_tile_tn_f32",
            };
            (kernel, 128, 256, 0)
        }
        Variant::Mma => {
            let kernel = match form {
                Form::Nt => "gemm_forward_mma_nt_bf16",
                Form::Nn => "gemm_forward_mma_nn_bf16",
                Form::Tn => "gemm_forward_mma_tn_bf16",
            };
            (kernel, 128, 128, MMA_SHARED_BYTES)
        }
        Variant::Small => {
            let kernel = match form {
                Form::Nt => "gemm_forward_small_nt_bf16",
                Form::Nn => "gemm_forward_small_nn_bf16",
                Form::Tn => "gemm_forward_small_tn_bf16",
            };
            (kernel, 64, 128, mma_shared_bytes(64))
        }
    };
    let tiles = Geometry::linear(OP, m.div_ceil(tile) * n.div_ceil(tile), threads)?.with_shared_bytes(shared_bytes);
    // Beyond so many products a block makes several.
    let geometry = Geometry { blocks: [tiles.blocks[0], batch.min(65535) as u32, 1], ..tiles };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, geometry, &params) }
}

/// Shared memory of the tensor-core products (`Mma::SHARED_BYTES` in `cuda/common/tile.cuh`): four stages of 32 rows of two operands.
const fn mma_shared_bytes(tile: u32) -> u32 {
    4 * 2 * 32 * (tile * 2 + 16)
}
/// The same for the large tile.
pub(super) const MMA_SHARED_BYTES: u32 = mma_shared_bytes(128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_by_sizes() {
        let pick = |dtype, form, m, n, k| pick_variant(dtype, form, 1, (m, n, k), true);
        assert_eq!(pick(DType::Bf16, Form::Nt, 3, 4, 8), Variant::Small);
        assert_eq!(pick(DType::Bf16, Form::Nt, 2048, 1024, 8), Variant::Mma);
        assert_eq!(pick_variant(DType::Bf16, Form::Nt, 108, (3, 4, 8), true), Variant::Mma);
        assert_eq!(pick(DType::Bf16, Form::Nt, 3, 8, 12), Variant::Plain);
        assert_eq!(pick(DType::Bf16, Form::Nn, 3, 12, 8), Variant::Plain);
        assert_eq!(pick(DType::Bf16, Form::Tn, 8, 8, 3), Variant::Small);
        assert_eq!(pick(DType::F32, Form::Tn, 68, 4, 3), Variant::Tile);
        assert_eq!(pick(DType::F32, Form::Nt, 64, 64, 64), Variant::Plain);
        assert_eq!(pick(DType::F32, Form::Nt, 128, 6, 64), Variant::Plain);
        assert_eq!(pick_variant(DType::Bf16, Form::Nt, 1, (8, 8, 8), false), Variant::Plain);
    }
}
