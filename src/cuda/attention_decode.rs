//! Launches of `cuda/attention_decode.cu`: the forward of [`super::attention`] for few queries.

use super::params::{DeemAttentionDecode, DeemAttentionForward};
use super::rope::Angles;
use super::{kernel, optional_output, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::host::attention::Problem;

const OP: &str = "attention_decode";
/// Queries up to which keys are divided: beyond, the tiles of the other kernels are full enough.
const MOST_QUERIES: usize = 16;
/// Threads of a block, and the keys that it takes at a time.
const THREADS: u32 = 128;
const KEYS: usize = 64;
/// Keys of a part, at least: below, a block would begin and end more than it reads.
const LEAST_KEYS: usize = 128;
/// Blocks that fill any GPU, about four to a multiprocessor, whose real number must not matter; also the parts that the second launch can add up.
const BLOCKS: usize = 512;

/// A kernel, and how a problem is divided among its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    kernel: &'static str,
    /// Blocks that share the keys of a key head, for different queries.
    row_tiles: usize,
    parts: usize,
    keys_of_part: usize,
}

/// The kernel for few queries, where it is legal; by sizes, options, storage type and alignment alone.
pub(super) fn pick_variant(dtype: DType, p: &Problem<'_>, aligned: bool) -> Option<Variant> {
    let rows = p.t * p.heads / p.kv_heads;
    let (narrow, of_pack) = match dtype {
        DType::F32 => (false, 4),
        DType::Bf16 => (true, 8),
        _ => return None,
    };
    let legal = aligned && p.dropout.is_none() && p.d > 0 && p.d.is_multiple_of(of_pack);
    if !legal || !(1..=MOST_QUERIES).contains(&p.t) || !(1..1 << 30).contains(&p.s) || p.batch >= 1 << 16 {
        return None;
    }
    let large = rows > 8;
    let (kernel, of_tile) = match (narrow, p.d, large) {
        (true, ..=64, false) => ("attention_decode_d64_rows8_bf16", 8),
        (true, ..=64, true) => ("attention_decode_d64_rows16_bf16", 16),
        (true, ..=128, false) => ("attention_decode_d128_rows8_bf16", 8),
        (true, ..=128, true) => ("attention_decode_d128_rows16_bf16", 16),
        (true, ..=160, false) => ("attention_decode_d192_rows8_bf16", 8),
        (true, ..=160, true) => ("attention_decode_d192_rows16_bf16", 16),
        (false, ..=32, false) => ("attention_decode_d32_rows8_f32", 8),
        (false, ..=32, true) => ("attention_decode_d32_rows16_f32", 16),
        (false, ..=64, false) => ("attention_decode_d64_rows8_f32", 8),
        (false, ..=64, true) => ("attention_decode_d64_rows16_f32", 16),
        (false, ..=128, false) => ("attention_decode_d128_rows8_f32", 8),
        (false, ..=128, true) => ("attention_decode_d128_rows16_f32", 16),
        // 16 rows would not fit the registers.
        (false, ..=160, _) => ("attention_decode_d160_rows8_f32", 8),
        _ => return None,
    };
    let row_tiles = rows.div_ceil(of_tile);
    let groups = p.batch * p.kv_heads * row_tiles;
    if p.kv_heads * row_tiles >= 1 << 16 {
        return None;
    }
    let wanted = (BLOCKS / groups).clamp(1, p.s.div_ceil(LEAST_KEYS));
    let keys_of_part = p.s.div_ceil(wanted).next_multiple_of(KEYS);
    Some(Variant { kernel, row_tiles, parts: p.s.div_ceil(keys_of_part), keys_of_part })
}

/// Output and lse, of queries that are rotated as they are loaded if `rotary` has angles; the addresses are those of the launch of another kernel.
pub(super) fn forward<E: Element>(
    cx: &Context,
    p: &Problem<'_>,
    variant: &Variant,
    attention: &DeemAttentionForward,
    rotary: Option<&Angles>,
) -> Result<()> {
    let Variant { kernel, row_tiles, parts, keys_of_part } = *variant;
    let lines = p.batch * p.heads * p.t;
    let scratch =
        |numbers: usize| if parts > 1 { cx.uninit::<f32>([lines, parts, numbers]).map(Some) } else { Ok(None) };
    let (mut sums, mut weights) = (scratch(p.d)?, scratch(2)?);
    let [positions, frequency] = rotary.map_or(Ok([std::ptr::null(); 2]), |angles| angles.addresses(cx))?;
    let params = DeemAttentionDecode {
        q: attention.q,
        k: attention.k,
        v: attention.v,
        keys: attention.keys,
        first: attention.first,
        out: attention.out,
        lse: attention.lse,
        sums: optional_output(cx, OP, "sums", sums.as_mut().map(|x| x.view_mut()).as_ref())?,
        weights: optional_output(cx, OP, "weights", weights.as_mut().map(|x| x.view_mut()).as_ref())?,
        positions,
        frequency,
        batch: attention.batch,
        t: attention.t,
        s: attention.s,
        capacity: attention.capacity,
        causal: attention.causal,
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        d: attention.d,
        scale: attention.scale,
        parts: small(OP, "the number of parts", parts)?,
        keys_of_part: small(OP, "the number of keys of a part", keys_of_part)?,
    };
    let geometry = Geometry {
        blocks: [parts as u32, (p.kv_heads * row_tiles) as u32, p.batch as u32],
        threads: [THREADS, 1, 1],
        shared_bytes: 0,
    };
    // SAFETY: the kernels' own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, geometry, &params)? };
    if parts > 1 {
        let sum = kernel!(E, cx, OP, "attention_decode_sum");
        // SAFETY: as above.
        unsafe { cx.launch(OP, sum, Geometry::linear(OP, lines, THREADS)?, &params)? };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem((batch, t, s): (usize, usize, usize), (heads, kv_heads, d): (usize, usize, usize)) -> Problem<'static> {
        let (causal, keys, first, dropout) = (None, None, None, None);
        Problem { batch, t, s, capacity: s, heads, kv_heads, d, scale: 0.1, causal, keys, first, dropout }
    }

    #[test]
    fn variants_by_sizes() {
        let kernel =
            |dtype, sizes, heads| pick_variant(dtype, &problem(sizes, heads), true).map(|x| (x.kernel, x.row_tiles));
        let (f32, bf16) = (DType::F32, DType::Bf16);
        assert_eq!(kernel(bf16, (1, 1, 2048), (32, 32, 128)), Some(("attention_decode_d128_rows8_bf16", 1)));
        assert_eq!(kernel(bf16, (1, 2, 2048), (32, 4, 64)), Some(("attention_decode_d64_rows16_bf16", 1)));
        assert_eq!(kernel(bf16, (1, 5, 2048), (32, 4, 160)), Some(("attention_decode_d192_rows16_bf16", 3)));
        assert_eq!(kernel(f32, (1, 3, 9), (5, 5, 16)), Some(("attention_decode_d32_rows8_f32", 1)));
        assert_eq!(kernel(f32, (1, 16, 9), (1, 1, 132)), Some(("attention_decode_d160_rows8_f32", 2)));
        // Many queries, none, no keys, other head sizes.
        for (sizes, d) in [((1, 17, 9), 16), ((1, 0, 9), 16), ((1, 1, 0), 16), ((1, 1, 9), 12), ((1, 1, 9), 168)] {
            assert_eq!(kernel(bf16, sizes, (2, 2, d)), None);
        }
        assert_eq!(kernel(DType::F64, (1, 1, 9), (2, 2, 16)), None);
        assert_eq!(pick_variant(f32, &problem((1, 1, 9), (2, 2, 16)), false), None);
    }

    #[test]
    fn parts_by_sizes() {
        let parts = |sizes, heads| {
            let variant = pick_variant(DType::Bf16, &problem(sizes, heads), true).unwrap();
            assert!(variant.keys_of_part.is_multiple_of(KEYS) && variant.parts * variant.keys_of_part >= sizes.2);
            assert!((variant.parts - 1) * variant.keys_of_part < sizes.2, "no part is empty");
            (variant.parts, variant.keys_of_part)
        };
        assert_eq!(parts((1, 1, 4096), (32, 32, 128)), (16, 256));
        assert_eq!(parts((1, 1, 4096), (32, 8, 128)), (32, 128));
        assert_eq!(parts((16, 1, 4096), (32, 32, 128)), (1, 4096));
        assert_eq!(parts((1, 1, 100), (32, 32, 128)), (1, 128));
        assert_eq!(parts((1, 1, 300), (2, 2, 128)), (3, 128));
        assert_eq!(parts((2, 16, 70_000), (40, 5, 128)).0, 6);
    }
}
