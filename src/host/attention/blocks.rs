//! Blocks of numbers on their way into the micro-kernels.

use super::KEYS;
use crate::dtype::{Element, Real};
use crate::host::gemm::kernels::{self, Finish, PANEL, Strided};
use crate::host::gemm::{self, widen};

/// Numbers where they lie if they are of the accumulation type, or widened into `space` (rows of `d`).
pub(super) fn rows<E: Element>(
    data: &[E],
    count: usize,
    stride: usize,
    d: usize,
    space: &mut [E::Acc],
) -> (*const E::Acc, usize) {
    if let Some(data) = gemm::same(data) {
        return (data, stride);
    }
    for (r, space) in space.chunks_exact_mut(d).take(count).enumerate() {
        widen(space, &data[r * stride..r * stride + d]);
    }
    (space.as_ptr(), d)
}

/// Panels of the transposed rows of `data`: panel j, `[d, PANEL]`, at `j * d * PANEL`.
pub(super) fn panels<E: Element>(
    data: &[E],
    count: usize,
    stride: usize,
    d: usize,
    wide: &mut [E::Acc],
    to: &mut [E::Acc],
) {
    let (from, ld) = rows(data, count, stride, d, wide);
    for (j, to) in (0..count).step_by(PANEL).zip(to.chunks_exact_mut(d * PANEL)) {
        // SAFETY: `from` has `count` rows of `d`, and `to` is one panel.
        unsafe { kernels::transpose_panel((count - j).min(PANEL), d, from.add(j * ld), ld, to.as_mut_ptr()) };
    }
}

/// `c[m, n] (+)= a b` with `b` in plain rows, any n.
///
/// # Safety
/// As [`kernels::block`].
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn multiply<R: Real>(
    (m, n, k): (usize, usize, usize),
    a: Strided<R>,
    b: *const R,
    ldb: usize,
    c: *mut R,
    ldc: usize,
    add: bool,
) {
    for j in (0..n).step_by(PANEL) {
        // SAFETY: columns j .. of the caller's operands.
        unsafe { kernels::block(m, (n - j).min(PANEL), k, a, b.add(j), ldb, c.add(j), ldc, add, Finish::none()) };
    }
}

/// `c[m, n] = a b` with `b` in panels of `k` rows, `n <= KEYS`, rows of `c` KEYS apart.
///
/// # Safety
/// As [`kernels::block`].
pub(super) unsafe fn multiply_panels<R: Real>((m, n, k): (usize, usize, usize), a: Strided<R>, b: &[R], c: *mut R) {
    for (j, b) in (0..n).step_by(PANEL).zip(b.chunks_exact(k * PANEL)) {
        // SAFETY: columns j .. of the caller's operands.
        unsafe {
            kernels::block(m, (n - j).min(PANEL), k, a, b.as_ptr(), PANEL, c.add(j), KEYS, false, Finish::none())
        };
    }
}

/// Cuts the next `len` numbers off the front of `space`.
pub(super) fn cut<'a, R>(space: &mut &'a mut [R], len: usize) -> &'a mut [R] {
    let (front, rest) = std::mem::take(space).split_at_mut(len);
    *space = rest;
    front
}
