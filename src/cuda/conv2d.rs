//! Launches of `cuda/conv2d.cu`; see [`crate::ops::conv2d`].

use super::gemm::{MMA_SHARED_BYTES, aligned};
use super::params::{DeemConv2dBackwardInput, DeemConv2dBackwardWeight, DeemConv2dForward, DeemConv2dSizes};
use super::{by_dtype, input, optional_input, output, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::host::conv2d::Geometry as Conv;
use crate::memory::{View, ViewMut};
use crate::ops::conv2d::ConvEpilogue;

const OP: &str = "conv2d";

/// Which of the three products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Product {
    Forward,
    BackwardInput,
    BackwardWeight,
}

/// Whether the large tiles are legal: by sizes, storage type and alignment alone.
fn takes_large_tiles(product: Product, dtype: DType, g: &Conv, aligned: bool) -> bool {
    let (depth, pack, bytes) = match dtype {
        DType::F32 => (16, 4, 4),
        DType::Bf16 => (32, 8, 2),
        DType::F16 | DType::F64 => return false,
    };
    let channels = match product {
        Product::Forward => g.i.is_multiple_of(depth) && g.o.is_multiple_of(4),
        Product::BackwardInput => g.o.is_multiple_of(depth) && g.i.is_multiple_of(pack),
        Product::BackwardWeight => {
            let largest = g.batch * (g.h * g.w * g.i).max(g.oh * g.ow * g.o) * bytes;
            g.i.is_multiple_of(pack) && g.o.is_multiple_of(pack) && largest < 1 << 31
        }
    };
    aligned && channels && g.kh * g.kw <= 31
}

/// Into how many parts the sum over pixels of a weight gradient falls: so that some two hundred blocks have work, by shape alone.
fn weight_splits(tiles: usize, pixels: usize) -> usize {
    (216 / tiles.max(1)).min(pixels / 1024).max(1)
}

/// The sizes as kernels take them; products of them that kernels index in 32 bits are checked too.
fn sizes(g: &Conv) -> Result<DeemConv2dSizes> {
    small(OP, "the number of weights of an output", g.kh * g.kw * g.i)?;
    small(OP, "the number of weights of an input", g.kh * g.kw * g.o)?;
    small(OP, "the padded height", (g.h + g.top + g.kh) * g.stride)?;
    small(OP, "the padded width", (g.w + g.left + g.kw) * g.stride)?;
    let size = |size| small(OP, "a size", size);
    Ok(DeemConv2dSizes {
        batch: g.batch as i64,
        h: size(g.h)?,
        w_pixels: size(g.w)?,
        i: size(g.i)?,
        o: size(g.o)?,
        kh: size(g.kh)?,
        kw: size(g.kw)?,
        oh: size(g.oh)?,
        ow: size(g.ow)?,
        stride: size(g.stride)?,
        top: size(g.top)?,
        left: size(g.left)?,
        padding: 0,
    })
}

/// Kernel and geometry for a product of `m` rows and `n` columns: the plain kernel, or the large tiles of this storage type.
fn plan<E: Element>(
    cx: &Context,
    large: bool,
    (m, n): (usize, usize),
    plain: [&'static str; 2],
    tiles: [&'static str; 2],
) -> Result<(&'static str, Geometry)> {
    let [f32, bf16] = if large { tiles } else { plain };
    let kernel = by_dtype::<E>(cx, OP, f32, bf16)?;
    let tile = if large { 128 } else { 64 };
    let (threads, shared_bytes) = if large && E::DTYPE == DType::Bf16 { (128, MMA_SHARED_BYTES) } else { (256, 0) };
    Ok((kernel, Geometry::linear(OP, m.div_ceil(tile) * n.div_ceil(tile), threads)?.with_shared_bytes(shared_bytes)))
}

/// y = x * w through the epilogue.
pub(crate) fn forward<E: Element>(
    cx: &Context,
    g: &Conv,
    x: View<'_, E>,
    w: View<'_, E>,
    y: ViewMut<'_, E>,
    epilogue: &ConvEpilogue<'_, E>,
) -> Result<()> {
    let params = DeemConv2dForward {
        x: input(cx, OP, "x", x)?,
        w: input(cx, OP, "weights", w)?,
        y: output(cx, OP, "y", &y)?,
        bias: optional_input(cx, OP, "bias", epilogue.bias)?,
        per_image: optional_input(cx, OP, "per_image", epilogue.per_image)?,
        residual: optional_input(cx, OP, "residual", epilogue.residual)?,
        sizes: sizes(g)?,
    };
    let pointers = [params.x, params.w, params.y.cast_const(), params.bias, params.per_image, params.residual];
    let large = takes_large_tiles(Product::Forward, E::DTYPE, g, aligned(&pointers));
    let (kernel, geometry) = plan::<E>(
        cx,
        large,
        (g.batch * g.oh * g.ow, g.o),
        ["conv2d_forward_f32", "conv2d_forward_bf16"],
        ["conv2d_forward_tile_f32", "conv2d_forward_mma_bf16"],
    )?;
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, geometry, &params) }
}

/// dx is overwritten.
pub(crate) fn backward_input<E: Element>(
    cx: &Context,
    g: &Conv,
    dy: View<'_, E>,
    w: View<'_, E>,
    dx: ViewMut<'_, E>,
) -> Result<()> {
    let params = DeemConv2dBackwardInput {
        dy: input(cx, OP, "dy", dy)?,
        w: input(cx, OP, "weights", w)?,
        dx: output(cx, OP, "dx", &dx)?,
        sizes: sizes(g)?,
    };
    let phases = u32::try_from(g.stride * g.stride).unwrap_or(u32::MAX);
    let large = phases <= 65535
        && takes_large_tiles(
            Product::BackwardInput,
            E::DTYPE,
            g,
            aligned(&[params.dy, params.w, params.dx.cast_const()]),
        );
    // The first phase has the most pixels.
    let rows = if large { g.batch * g.h.div_ceil(g.stride) * g.w.div_ceil(g.stride) } else { g.batch * g.h * g.w };
    let (kernel, tiles) = plan::<E>(
        cx,
        large,
        (rows, g.i),
        ["conv2d_backward_input_f32", "conv2d_backward_input_bf16"],
        ["conv2d_backward_input_tile_f32", "conv2d_backward_input_mma_bf16"],
    )?;
    let geometry = Geometry { blocks: [tiles.blocks[0], if large { phases } else { 1 }, 1], ..tiles };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, geometry, &params) }
}

/// dw is added to.
pub(crate) fn backward_weight<E: Element>(
    cx: &Context,
    g: &Conv,
    dy: View<'_, E>,
    x: View<'_, E>,
    dw: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let (dy, x, dw) = (input(cx, OP, "dy", dy)?, input(cx, OP, "x", x)?, output(cx, OP, "dw", &dw)?);
    let (n, pixels) = (g.kh * g.kw * g.i, g.batch * g.oh * g.ow);
    let large = takes_large_tiles(Product::BackwardWeight, E::DTYPE, g, aligned(&[dy, x, dw.cast_const()]));
    let splits = if large { weight_splits(g.o.div_ceil(128) * n.div_ceil(128), pixels) } else { 1 };
    let mut partial = (splits > 1).then(|| cx.uninit::<f32>([splits, g.o * n])).transpose()?;
    let params = DeemConv2dBackwardWeight {
        dy,
        x,
        dw,
        partial: match &mut partial {
            Some(partial) => output(cx, OP, "partial sums", &partial.view_mut())?,
            None => std::ptr::null_mut(),
        },
        sizes: sizes(g)?,
        splits: splits as i64,
    };
    let (kernel, tiles) = plan::<E>(
        cx,
        large,
        (g.o, n),
        ["conv2d_backward_weight_f32", "conv2d_backward_weight_bf16"],
        ["conv2d_backward_weight_tile_f32", "conv2d_backward_weight_mma_bf16"],
    )?;
    let geometry = Geometry { blocks: [tiles.blocks[0], splits as u32, 1], ..tiles };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, geometry, &params)? };
    if splits > 1 {
        let geometry = Geometry::linear(OP, (g.o * n).div_ceil(256), 256)?;
        // SAFETY: as above.
        unsafe { cx.launch(OP, "conv2d_backward_weight_reduce_f32", geometry, &params)? };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_by_sizes() {
        let conv = |i, o, k: usize| Conv {
            batch: 2,
            h: 8,
            w: 8,
            i,
            o,
            kh: k,
            kw: k,
            oh: 8,
            ow: 8,
            stride: 1,
            top: k / 2,
            left: k / 2,
        };
        let takes = |product, dtype, g: Conv| takes_large_tiles(product, dtype, &g, true);
        assert!(takes(Product::Forward, DType::Bf16, conv(32, 4, 3)));
        assert!(!takes(Product::Forward, DType::Bf16, conv(16, 8, 3)));
        assert!(takes(Product::Forward, DType::F32, conv(16, 8, 3)));
        assert!(!takes(Product::Forward, DType::F32, conv(16, 8, 7)));
        assert!(takes(Product::BackwardInput, DType::Bf16, conv(8, 32, 3)));
        assert!(takes(Product::BackwardWeight, DType::Bf16, conv(8, 8, 3)));
        assert!(!takes(Product::BackwardWeight, DType::F64, conv(8, 8, 3)));
        assert!(!takes_large_tiles(Product::Forward, DType::F32, &conv(16, 8, 3), false));
        assert_eq!(weight_splits(1, 100), 1);
        assert_eq!(weight_splits(1, 1 << 20), 216);
        assert_eq!(weight_splits(66, 1 << 14), 3);
    }
}
