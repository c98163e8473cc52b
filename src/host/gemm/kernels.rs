#![allow(clippy::needless_range_loop)] // tiles in registers: every index is a constant once the loops are unrolled

//! The micro-kernels: `C[m,n] (+)= A[m,k] B[k,n]` for a tile that fits in registers.
//!
//! A is read through a row and a column stride (element by element, broadcast), so neither row-major nor transposed operands need packing; a
//! row of B is contiguous, and its stride is free, so a panel of a packed operand and a plain matrix look alike. AVX-512 and AVX2 kernels use
//! fused multiply-add, the portable one does not: levels may differ in the last bits, which is the only place in the host device where they do.

use crate::dtype::{DType, Real};
use crate::host::simd::{Level, level};
use crate::simd_fn;

/// Columns of a tile, and of a panel of a packed second operand.
pub(crate) const PANEL: usize = 32;
/// The largest number of rows of a tile at any level.
pub(crate) const MAX_ROWS: usize = 14;

/// How many rows a tile should have at this level.
pub(crate) fn tile_rows<R: Real>() -> usize {
    match (R::DTYPE, level()) {
        (DType::F32, Level::Avx512) => 14,
        (DType::F32, Level::Avx2) => 6,
        _ => 4,
    }
}

/// Element (i, p) is at `data + i * row + p * col`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<R> {
    pub(crate) data: *const R,
    pub(crate) row: usize,
    pub(crate) col: usize,
}

// SAFETY: a pointer and two numbers; whoever reads through it says why that is sound.
unsafe impl<R> Send for Strided<R> {}
// SAFETY: as above.
unsafe impl<R> Sync for Strided<R> {}

impl<R> Strided<R> {
    /// The same matrix without its first `i` rows and `p` columns.
    pub(crate) fn at(self, i: usize, p: usize) -> Self {
        Strided { data: self.data.wrapping_add(i * self.row + p * self.col), ..self }
    }
}

/// What is added to sums when they are stored, after what C holds: `bias[j]` to column j, and the residual, laid out as C. Null for nothing.
#[derive(Clone, Copy)]
pub(crate) struct Finish<R> {
    pub(crate) bias: *const R,
    pub(crate) residual: *const R,
}

// SAFETY: two pointers; whoever reads through them says why that is sound.
unsafe impl<R> Send for Finish<R> {}
// SAFETY: as above.
unsafe impl<R> Sync for Finish<R> {}

impl<R> Finish<R> {
    /// Nothing is added.
    pub(crate) fn none() -> Self {
        Finish { bias: std::ptr::null(), residual: std::ptr::null() }
    }

    /// The same `i` rows and `j` columns further on.
    fn at(self, i: usize, j: usize, ldc: usize) -> Self {
        let moved = |x: *const R, by: usize| if x.is_null() { x } else { x.wrapping_add(by) };
        Finish { bias: moved(self.bias, j), residual: moved(self.residual, i * ldc + j) }
    }
}

/// `c (+)= a b` for `m` rows (any number) and `n <= PANEL` columns; rows are cut evenly into tiles.
///
/// # Safety
/// `a` is readable at `m x k` elements, `b` at `k` rows of `n` with stride `ldb`, `c` writable (with `add`, readable) at `m` rows of `n` with
/// stride `ldc`, and `c` overlaps neither; what `finish` points to is readable for `n` columns and as `c`.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn block<R: Real>(
    m: usize,
    n: usize,
    k: usize,
    a: Strided<R>,
    b: *const R,
    ldb: usize,
    c: *mut R,
    ldc: usize,
    add: bool,
    finish: Finish<R>,
) {
    debug_assert!(n <= PANEL);
    let tiles = m.div_ceil(tile_rows::<R>()).max(1);
    let (rows, longer) = (m / tiles, m % tiles);
    let mut i = 0;
    for t in 0..tiles {
        let mr = rows + usize::from(t < longer);
        // SAFETY: rows i .. i + mr of the caller's block.
        unsafe { tile(mr, n, k, a.at(i, 0), b, ldb, c.add(i * ldc), ldc, add, finish.at(i, 0, ldc)) };
        i += mr;
    }
}

/// One tile: `m <= tile_rows()`, `n <= PANEL`.
#[allow(clippy::too_many_arguments)]
unsafe fn tile<R: Real>(
    m: usize,
    n: usize,
    k: usize,
    a: Strided<R>,
    b: *const R,
    ldb: usize,
    c: *mut R,
    ldc: usize,
    add: bool,
    finish: Finish<R>,
) {
    if m == 0 || n == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if R::DTYPE == DType::F32 {
        let a = Strided { data: a.data.cast::<f32>(), row: a.row, col: a.col };
        let (b, c) = (b.cast::<f32>(), c.cast::<f32>());
        let finish = Finish { bias: finish.bias.cast::<f32>(), residual: finish.residual.cast::<f32>() };
        match level() {
            // SAFETY: R is f32, the level says that the features are there, and the caller vouches for the operands.
            Level::Avx512 => return unsafe { x86::tile512(m, n, k, a, b, ldb, c, ldc, add, finish) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { x86::tile256(m, n, k, a, b, ldb, c, ldc, add, finish) },
            Level::Portable => {}
        }
    }
    plain(m, n, k, a, b, ldb, c, ldc, add, finish);
}

simd_fn! {
    /// The tile of every other type and machine: 4 x 8 sums that the compiler keeps in registers. The caller vouches as in [`block`].
    fn plain<R: Real>(m: usize, n: usize, k: usize, a: Strided<R>, b: *const R, ldb: usize, c: *mut R, ldc: usize, add: bool, finish: Finish<R>) {
        const M: usize = 4;
        const N: usize = 8;
        for j in (0..n).step_by(N) {
            let nr = N.min(n - j);
            for i in (0..m).step_by(M) {
                let mr = M.min(m - i);
                let mut sums = [[R::ZERO; N]; M];
                let (x, y) = (a.at(i, 0).data, b.wrapping_add(j));
                if nr == N && mr == M {
                    for p in 0..k {
                        // SAFETY: row p of b has columns j .. j + 8, and column p of a has rows i .. i + 4.
                        unsafe {
                            let y = y.add(p * ldb).cast::<[R; N]>().read_unaligned();
                            for r in 0..M {
                                let x = *x.add(r * a.row + p * a.col);
                                for q in 0..N {
                                    sums[r][q] += x * y[q];
                                }
                            }
                        }
                    }
                    for (r, sums) in sums.iter().enumerate() {
                        // SAFETY: rows i .. i + 4 and columns j .. j + 8 of c.
                        unsafe {
                            let c = c.add((i + r) * ldc + j).cast::<[R; N]>();
                            let mut row = *sums;
                            if add {
                                let old = c.read_unaligned();
                                for q in 0..N {
                                    row[q] = old[q] + row[q];
                                }
                            }
                            let finish = finish.at(i + r, j, ldc);
                            for more in [finish.bias, finish.residual] {
                                if !more.is_null() {
                                    let more = more.cast::<[R; N]>().read_unaligned();
                                    for q in 0..N {
                                        row[q] += more[q];
                                    }
                                }
                            }
                            c.write_unaligned(row);
                        }
                    }
                    continue;
                }
                // Indices that are not constant would keep the sums of the case above out of registers, so this case has its own.
                for r in 0..mr {
                    for q in 0..nr {
                        let mut sum = R::ZERO;
                        for p in 0..k {
                            // SAFETY: inside the operands, as the caller vouches.
                            sum += unsafe { *x.add(r * a.row + p * a.col) * *y.add(p * ldb + q) };
                        }
                        // SAFETY: inside c.
                        let c = unsafe { &mut *c.add((i + r) * ldc + j + q) };
                        sum = if add { *c + sum } else { sum };
                        let finish = finish.at(i + r, j + q, ldc);
                        for more in [finish.bias, finish.residual] {
                            // SAFETY: as the caller vouches.
                            sum += if more.is_null() { R::ZERO } else { unsafe { *more } };
                        }
                        *c = sum;
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Finish, Strided};
    use std::arch::x86_64::*;

    macro_rules! choose {
        ($kernel:ident, $m:expr, $v:literal, $args:tt, [$($rows:literal)*]) => {
            match $m {
                $($rows => $kernel::<$rows, $v> $args,)*
                _ => unreachable!("a tile has at most as many rows as its level says"),
            }
        };
    }

    /// # Safety
    /// As [`super::block`], with `m <= 14`, `n <= 32`, on a machine with AVX-512F.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn tile512(
        m: usize,
        n: usize,
        k: usize,
        a: Strided<f32>,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        add: bool,
        finish: Finish<f32>,
    ) {
        let mask = u16::MAX >> ((16 - n % 16) % 16);
        // SAFETY: the caller's promise, handed on.
        unsafe {
            if n > 16 {
                choose!(kernel512, m, 2, (k, a, b, ldb, c, ldc, mask, add, finish), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
            } else {
                choose!(kernel512, m, 1, (k, a, b, ldb, c, ldc, mask, add, finish), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
            }
        }
    }

    /// M rows by V vectors of 16 columns, the last of them under a mask; 28 sums of the largest tile leave four registers.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn kernel512<const M: usize, const V: usize>(
        k: usize,
        a: Strided<f32>,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        mask: __mmask16,
        add: bool,
        finish: Finish<f32>,
    ) {
        // SAFETY: all addresses lie inside the operands that the caller vouches for; masked lanes are not touched.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); V]; M];
            // One pointer for four rows: a single one would be a chain of additions as long as the loop itself.
            let mut x: [*const f32; 4] = std::array::from_fn(|g| a.data.wrapping_add(4 * g * a.row));
            let mut y = b;
            for _ in 0..k {
                let mut row = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    let from = y.add(16 * v);
                    row[v] = if v + 1 == V { _mm512_maskz_loadu_ps(mask, from) } else { _mm512_loadu_ps(from) };
                }
                for i in 0..M {
                    let x = _mm512_set1_ps(*x[i / 4].add(i % 4 * a.row));
                    for v in 0..V {
                        sums[i][v] = _mm512_fmadd_ps(x, row[v], sums[i][v]);
                    }
                }
                x = x.map(|x| x.wrapping_add(a.col));
                y = y.wrapping_add(ldb);
            }
            let lanes = |v: usize| if v + 1 == V { mask } else { u16::MAX };
            // Of a matrix laid out as c.
            let vector = |from: *const f32, i: usize, v: usize| {
                _mm512_maskz_loadu_ps(lanes(v), from.wrapping_add(i * ldc + 16 * v))
            };
            if add {
                for i in 0..M {
                    for v in 0..V {
                        sums[i][v] = _mm512_add_ps(vector(c, i, v), sums[i][v]);
                    }
                }
            }
            if !finish.bias.is_null() {
                for v in 0..V {
                    let bias = vector(finish.bias, 0, v);
                    for i in 0..M {
                        sums[i][v] = _mm512_add_ps(sums[i][v], bias);
                    }
                }
            }
            if !finish.residual.is_null() {
                for i in 0..M {
                    for v in 0..V {
                        sums[i][v] = _mm512_add_ps(sums[i][v], vector(finish.residual, i, v));
                    }
                }
            }
            for i in 0..M {
                for v in 0..V {
                    _mm512_mask_storeu_ps(c.add(i * ldc + 16 * v), lanes(v), sums[i][v]);
                }
            }
        }
    }

    /// # Safety
    /// As [`super::block`], with `m <= 6`, `n <= 32`, on a machine with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn tile256(
        m: usize,
        n: usize,
        k: usize,
        a: Strided<f32>,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        add: bool,
        finish: Finish<f32>,
    ) {
        for j in (0..n).step_by(16) {
            let nr = (n - j).min(16);
            let lanes = std::array::from_fn::<i32, 8, _>(|l| -i32::from(nr.is_multiple_of(8) || l < nr % 8));
            // SAFETY: the caller's promise for columns j .. j + nr.
            unsafe {
                let mask = _mm256_loadu_si256(lanes.as_ptr().cast());
                let (b, c, finish) = (b.add(j), c.add(j), finish.at(0, j, ldc));
                if nr > 8 {
                    choose!(kernel256, m, 2, (k, a, b, ldb, c, ldc, mask, add, finish), [1 2 3 4 5 6]);
                } else {
                    choose!(kernel256, m, 1, (k, a, b, ldb, c, ldc, mask, add, finish), [1 2 3 4 5 6]);
                }
            }
        }
    }

    /// M rows by V vectors of 8 columns, the last of them under a mask.
    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn kernel256<const M: usize, const V: usize>(
        k: usize,
        a: Strided<f32>,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        mask: __m256i,
        add: bool,
        finish: Finish<f32>,
    ) {
        // SAFETY: as in `kernel512`.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); V]; M];
            let (mut x, mut y) = (a.data, b);
            for _ in 0..k {
                let mut row = [_mm256_setzero_ps(); V];
                for v in 0..V {
                    let from = y.add(8 * v);
                    row[v] = if v + 1 == V { _mm256_maskload_ps(from, mask) } else { _mm256_loadu_ps(from) };
                }
                for i in 0..M {
                    let x = _mm256_broadcast_ss(&*x.add(i * a.row));
                    for v in 0..V {
                        sums[i][v] = _mm256_fmadd_ps(x, row[v], sums[i][v]);
                    }
                }
                x = x.wrapping_add(a.col);
                y = y.wrapping_add(ldb);
            }
            for i in 0..M {
                for v in 0..V {
                    let to = c.add(i * ldc + 8 * v);
                    let last = v + 1 == V;
                    let vector = |from: *const f32| {
                        if last { _mm256_maskload_ps(from, mask) } else { _mm256_loadu_ps(from) }
                    };
                    let mut sum = sums[i][v];
                    if add {
                        sum = _mm256_add_ps(vector(to), sum);
                    }
                    if !finish.bias.is_null() {
                        sum = _mm256_add_ps(sum, vector(finish.bias.wrapping_add(8 * v)));
                    }
                    if !finish.residual.is_null() {
                        sum = _mm256_add_ps(sum, vector(finish.residual.wrapping_add(i * ldc + 8 * v)));
                    }
                    if last { _mm256_maskstore_ps(to, mask, sum) } else { _mm256_storeu_ps(to, sum) }
                }
            }
        }
    }

    /// 16 rows of `k` numbers (stride `lds`), transposed into `k` rows of 16 (stride `ldd`).
    ///
    /// # Safety
    /// `src` is readable at `rows <= 16` rows of `k`, `dst` writable at `k` rows of 16; AVX-512F.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn transpose16(rows: usize, k: usize, src: *const f32, lds: usize, dst: *mut f32, ldd: usize) {
        // SAFETY: masks keep every access inside the caller's matrices.
        unsafe {
            let mut p = 0;
            while p < k {
                let width = (k - p).min(16);
                let mask = u16::MAX >> (16 - width);
                let mut r = [_mm512_setzero_ps(); 16];
                for i in 0..16 {
                    if i < rows {
                        r[i] = _mm512_maskz_loadu_ps(mask, src.add(i * lds + p));
                    }
                }
                let mut t = [_mm512_setzero_ps(); 16];
                for i in 0..8 {
                    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                for i in 0..4 {
                    let d = |x| _mm512_castps_pd(x);
                    let s = |x| _mm512_castpd_ps(x);
                    r[4 * i] = s(_mm512_unpacklo_pd(d(t[4 * i]), d(t[4 * i + 2])));
                    r[4 * i + 1] = s(_mm512_unpackhi_pd(d(t[4 * i]), d(t[4 * i + 2])));
                    r[4 * i + 2] = s(_mm512_unpacklo_pd(d(t[4 * i + 1]), d(t[4 * i + 3])));
                    r[4 * i + 3] = s(_mm512_unpackhi_pd(d(t[4 * i + 1]), d(t[4 * i + 3])));
                }
                // r[4 g + c] holds, in 128-bit lane l, column 4 l + c of rows 4 g .. 4 g + 4.
                for c in 0..4 {
                    let low = _mm512_shuffle_f32x4::<0x44>(r[c], r[4 + c]);
                    let high = _mm512_shuffle_f32x4::<0xee>(r[c], r[4 + c]);
                    let low2 = _mm512_shuffle_f32x4::<0x44>(r[8 + c], r[12 + c]);
                    let high2 = _mm512_shuffle_f32x4::<0xee>(r[8 + c], r[12 + c]);
                    t[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
                    t[4 + c] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
                    t[8 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
                    t[12 + c] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
                }
                for (q, t) in t.iter().enumerate() {
                    if q < width {
                        _mm512_storeu_ps(dst.add((p + q) * ldd), *t);
                    }
                }
                p += 16;
            }
        }
    }
}

/// Transposes `n <= PANEL` rows of `k` numbers (stride `lds`) into `k` rows of `PANEL`; columns beyond `n` hold anything.
///
/// # Safety
/// `src` is readable at `n` rows of `k`, and `dst` writable at `k * PANEL`.
pub(crate) unsafe fn transpose_panel<R: Real>(n: usize, k: usize, src: *const R, lds: usize, dst: *mut R) {
    #[cfg(target_arch = "x86_64")]
    if R::DTYPE == DType::F32 && level() == Level::Avx512 {
        for j in (0..n).step_by(16) {
            // SAFETY: R is f32, and the caller's promise.
            unsafe {
                let (src, dst) = (src.add(j * lds).cast::<f32>(), dst.add(j).cast::<f32>());
                x86::transpose16((n - j).min(16), k, src, lds, dst, PANEL);
            }
        }
        return;
    }
    for j in 0..n {
        for p in 0..k {
            // SAFETY: the caller's promise.
            unsafe { *dst.add(p * PANEL + j) = *src.add(j * lds + p) };
        }
    }
}
