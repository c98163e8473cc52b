//! Launches of `cuda/cross_attention.cu`; see [`crate::ops::cross_attention`].

use super::attention::row_bytes;
use super::gemm::aligned;
use super::params::DeemCrossAttentionForward;
use super::{has_warpgroups, input, multiprocessors, output, small};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::host::cross_attention::Problem;
use crate::memory::{View, ViewMut};

const OP: &str = "cross_attention";
/// Queries of a block at a time, and its threads.
const BLOCK: usize = 128;

/// The kernel and its capacity of keys: by sizes and storage type alone; `None` where there is none and the general attention serves.
fn pick_variant(dtype: DType, p: &Problem) -> Option<(&'static str, usize)> {
    let fits = p.t < 1 << 30 && p.batch < 1 << 16 && p.heads < 1 << 16;
    if dtype != DType::Bf16 || p.s == 0 || p.scale <= 0.0 || !fits {
        return None;
    }
    let kernel = match (p.s, p.d) {
        (..=80, 40) => "cross_attention_forward_keys80_d40_bf16",
        (..=80, 64) => "cross_attention_forward_keys80_d64_bf16",
        (..=80, 80) => "cross_attention_forward_keys80_d80_bf16",
        (..=80, 160) => "cross_attention_forward_keys80_d160_bf16",
        (..=128, 40) => "cross_attention_forward_keys128_d40_bf16",
        (..=128, 64) => "cross_attention_forward_keys128_d64_bf16",
        (..=128, 80) => "cross_attention_forward_keys128_d80_bf16",
        (..=128, 160) => "cross_attention_forward_keys128_d160_bf16",
        _ => return None,
    };
    Some((kernel, if p.s <= 80 { 80 } else { 128 }))
}

/// The kernel of a problem, and its capacity of keys.
pub(crate) struct Kernel(&'static str, usize);

/// The kernel for this problem, if there is one; the general attention takes all. Its kernels of warpgroups are faster from head size 80 on: 3.5 us for 5.3 of
/// 1024 queries and 77 keys of 16 heads, in the model of the virtual GPU.
pub(crate) fn kernel<E: Element>(
    cx: &Context,
    p: &Problem,
    q: View<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: &ViewMut<'_, E>,
) -> Option<Kernel> {
    let pointers = [q.address(), k.address(), v.address(), out.address().cast_const()];
    let (name, keys) = pick_variant(E::DTYPE, p)?;
    if has_warpgroups(cx.capability()) && p.d > 64 {
        return None;
    }
    aligned(&pointers.map(<*const E>::cast)).then_some(Kernel(name, keys))
}

/// Output and lse, by the kernel that [`kernel`] chose.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward<E: Element>(
    cx: &Context,
    Kernel(kernel, keys): Kernel,
    p: &Problem,
    q: View<'_, E>,
    k: View<'_, E>,
    v: View<'_, E>,
    out: ViewMut<'_, E>,
    lse: ViewMut<'_, E::Acc>,
) -> Result<()> {
    let params = DeemCrossAttentionForward {
        q: input(cx, OP, "q", q)?,
        k: input(cx, OP, "k", k)?,
        v: input(cx, OP, "v", v)?,
        out: output(cx, OP, "out", &out)?,
        lse: output(cx, OP, "lse", &lse)?,
        batch: p.batch as i64,
        t: p.t as i64,
        s: p.s as i64,
        heads: small(OP, "the number of heads", p.heads)?,
        d: small(OP, "the head size", p.d)?,
        scale: p.scale as f32,
        padding: 0,
    };
    // So many tiles of queries to a block that all blocks run at once, up to four: it reads the keys and values for all of them once.
    let tiles = (p.t.div_ceil(BLOCK) * p.heads * p.batch).div_ceil(2 * multiprocessors(cx.capability())).clamp(1, 4);
    let geometry = Geometry {
        blocks: [p.t.div_ceil(tiles * BLOCK) as u32, p.heads as u32, p.batch as u32],
        threads: [BLOCK as u32, 1, 1],
        shared_bytes: ((BLOCK + 2 * keys) * row_bytes(p.d)) as u32,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel, geometry, &params) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_by_sizes() {
        let problem = |s, d| Problem { batch: 2, t: 64, s, heads: 4, d, scale: 0.2 };
        let keys = |s, d| pick_variant(DType::Bf16, &problem(s, d)).map(|(_, keys)| keys);
        assert_eq!(keys(77, 40), Some(80));
        assert_eq!(keys(81, 160), Some(128));
        assert_eq!(keys(129, 40), None);
        assert_eq!(keys(0, 40), None);
        assert_eq!(keys(9, 96), None);
        assert_eq!(pick_variant(DType::F32, &problem(9, 40)), None);
    }
}
