#![allow(clippy::needless_range_loop)] // tiles in registers: every index is a constant once the loops are unrolled

//! Depthwise convolution: 16 channels and 8 pixels at a time, all sums in registers.
//!
//! A chunk is some rows of one image and up to `CHANNELS` channels. Its input is widened once into the thread's scratch with zeros all
//! around (and behind the last channel and pixel), so the loops have neither edges nor tails. For one row of the kernel the weights stay in
//! registers while 8 + Kw - 1 pixels pass by, each loaded once and used by every output it reaches:
//!
//! ```text
//! forward, backward_input     y[j]  += w[v]  x[j + v]     8 sums, Kw weights
//! backward_weight             dw[v] += dy[j] x[j + v]     Kw sums, 8 gradients
//! ```
//!
//! The input gradient is the forward with the kernel turned round. Gradients of weights are summed per slice of rows, the number of slices given
//! by the shape, then in order. AVX-512 uses fused multiply-add, the other levels do not: last bits may differ between levels.
//!
//! Measured as in [`crate::host::gemm`]: 7x7 on `[32,32,32,64]` 77 GFLOP/s forward, 77 input gradient, 80 weight gradient; `[32,16,16,40]` 64 each.

use std::ops::Range;

use crate::device::{Context, SendPtr};
use crate::dtype::{DType, Element, Real};
use crate::host::gemm::{Slot, add_row, run, scratch, store_row, widen};
use crate::host::simd::{Level, level};
use crate::simd_fn;

/// Channels of a chunk, at most.
const CHANNELS: usize = 64;
/// Channels of a vector.
const LANES: usize = 16;
/// Pixels of a tile.
const PIXELS: usize = 8;
/// Numbers of padded input in a chunk, about.
const CHUNK: usize = 64 << 10;

/// The sizes of a depthwise convolution.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Geometry {
    pub batch: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub kh: usize,
    pub kw: usize,
}

impl Geometry {
    /// Pixels of a row of outputs, a multiple of the tile.
    fn width(&self) -> usize {
        self.w.next_multiple_of(PIXELS)
    }

    /// Pixels of a row of padded input.
    fn padded_width(&self) -> usize {
        self.width() + self.kw - 1
    }

    fn channel_blocks(&self) -> usize {
        self.c.div_ceil(CHANNELS)
    }

    /// Channels of block `z`, evenly cut at multiples of the vector.
    fn channels(&self, z: usize) -> Range<usize> {
        let each = self.c.div_ceil(LANES).div_ceil(self.channel_blocks()) * LANES;
        (z * each).min(self.c)..((z + 1) * each).min(self.c)
    }

    /// Rows of a chunk.
    fn rows(&self) -> usize {
        let fit = (CHUNK / (self.padded_width() * self.c.min(CHANNELS))).saturating_sub(self.kh - 1);
        let most = fit.clamp(4, 32).min(self.h);
        self.h.div_ceil(self.h.div_ceil(most))
    }
}

/// Sixteen channels.
trait Vector<R>: Copy {
    fn zero() -> Self;
    /// # Safety
    /// 16 numbers are readable.
    unsafe fn load(from: *const R) -> Self;
    /// # Safety
    /// 16 numbers are writable.
    unsafe fn store(self, to: *mut R);
    fn multiply_add(self, x: Self, y: Self) -> Self;
}

impl<R: Real> Vector<R> for [R; LANES] {
    #[inline(always)]
    fn zero() -> Self {
        [R::ZERO; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const R) -> Self {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut R) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    fn multiply_add(mut self, x: Self, y: Self) -> Self {
        for l in 0..LANES {
            self[l] += x[l] * y[l];
        }
        self
    }
}

/// Where a row of outputs and its inputs lie; lengths in numbers.
#[derive(Clone, Copy)]
struct Row<R> {
    /// Padded input, first row that the outputs read.
    x: *const R,
    /// From a row of padded input to the next.
    x_row: usize,
    /// Weights, or their gradients: `[kh * kw]` rows.
    w: *mut R,
    /// Outputs, or their gradients.
    y: *mut R,
    /// From a pixel to the next, in all of them: the channels of the chunk, a multiple of 16.
    pixel: usize,
    /// A multiple of 8.
    width: usize,
    kh: usize,
    kw: usize,
}

/// One row of outputs.
///
/// # Safety
/// The row is readable and writable where it says.
#[inline(always)]
unsafe fn outputs<R, V: Vector<R>, const KW: usize>(r: Row<R>) {
    for c in (0..r.pixel).step_by(LANES) {
        for j in (0..r.width).step_by(PIXELS) {
            let mut sums = [V::zero(); PIXELS];
            for u in 0..r.kh {
                // SAFETY: inside the row, as the caller vouches.
                unsafe {
                    let x = r.x.add(u * r.x_row + j * r.pixel + c);
                    let w = r.w.cast_const().add(u * r.kw * r.pixel + c);
                    if KW > 0 {
                        let mut taps = [V::zero(); KW];
                        for v in 0..KW {
                            taps[v] = V::load(w.add(v * r.pixel));
                        }
                        for p in 0..PIXELS + KW - 1 {
                            let x = V::load(x.add(p * r.pixel));
                            for v in 0..KW {
                                if p >= v && p - v < PIXELS {
                                    sums[p - v] = sums[p - v].multiply_add(x, taps[v]);
                                }
                            }
                        }
                    } else {
                        for v in 0..r.kw {
                            let tap = V::load(w.add(v * r.pixel));
                            for p in 0..PIXELS {
                                sums[p] = sums[p].multiply_add(V::load(x.add((p + v) * r.pixel)), tap);
                            }
                        }
                    }
                }
            }
            for p in 0..PIXELS {
                // SAFETY: as above.
                unsafe { sums[p].store(r.y.add((j + p) * r.pixel + c)) };
            }
        }
    }
}

/// Gradients of weights from one row of outputs, added.
///
/// # Safety
/// As [`outputs`].
#[inline(always)]
unsafe fn weights<R, V: Vector<R>, const KW: usize>(r: Row<R>) {
    for c in (0..r.pixel).step_by(LANES) {
        for u in 0..r.kh {
            // SAFETY: inside the row, as the caller vouches.
            unsafe {
                let (x, y) = (r.x.add(u * r.x_row + c), r.y.cast_const().add(c));
                let w = r.w.add(u * r.kw * r.pixel + c);
                if KW > 0 {
                    let mut sums = [V::zero(); KW];
                    for v in 0..KW {
                        sums[v] = V::load(w.add(v * r.pixel));
                    }
                    for j in (0..r.width).step_by(PIXELS) {
                        let mut grads = [V::zero(); PIXELS];
                        for p in 0..PIXELS {
                            grads[p] = V::load(y.add((j + p) * r.pixel));
                        }
                        for p in 0..PIXELS + KW - 1 {
                            let x = V::load(x.add((j + p) * r.pixel));
                            for v in 0..KW {
                                if p >= v && p - v < PIXELS {
                                    sums[v] = sums[v].multiply_add(x, grads[p - v]);
                                }
                            }
                        }
                    }
                    for v in 0..KW {
                        sums[v].store(w.add(v * r.pixel));
                    }
                } else {
                    for v in 0..r.kw {
                        let mut sum = V::load(w.add(v * r.pixel));
                        for j in 0..r.width {
                            sum = sum.multiply_add(V::load(x.add((j + v) * r.pixel)), V::load(y.add(j * r.pixel)));
                        }
                        sum.store(w.add(v * r.pixel));
                    }
                }
            }
        }
    }
}

/// The loops above for a kernel width that is known when compiling, if it is a usual one.
///
/// # Safety
/// As [`outputs`].
#[inline(always)]
unsafe fn choose<R, V: Vector<R>>(r: Row<R>, gradient: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        match (gradient, r.kw) {
            (false, 3) => outputs::<R, V, 3>(r),
            (false, 5) => outputs::<R, V, 5>(r),
            (false, 7) => outputs::<R, V, 7>(r),
            (false, _) => outputs::<R, V, 0>(r),
            (true, 3) => weights::<R, V, 3>(r),
            (true, 5) => weights::<R, V, 5>(r),
            (true, 7) => weights::<R, V, 7>(r),
            (true, _) => weights::<R, V, 0>(r),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Row, Vector, choose};
    use std::arch::x86_64::*;

    impl Vector<f32> for __m512 {
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: only `row` below uses this type, on a machine that has the features.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise; features as above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise; features as above.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        fn multiply_add(self, x: Self, y: Self) -> Self {
            // SAFETY: features as above.
            unsafe { _mm512_fmadd_ps(x, y, self) }
        }
    }

    /// # Safety
    /// As [`super::outputs`], on a machine with AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn row(r: Row<f32>, gradient: bool) {
        // SAFETY: the caller's promise.
        unsafe { choose::<f32, __m512>(r, gradient) }
    }
}

simd_fn! {
    /// A row at the levels and types without intrinsics. The caller vouches as in [`outputs`].
    fn plain<R: Real>(r: Row<R>, gradient: bool) {
        // SAFETY: the caller's promise.
        unsafe { choose::<R, [R; LANES]>(r, gradient) }
    }
}

/// One row of outputs, or of gradients of weights.
///
/// # Safety
/// As [`outputs`].
unsafe fn row<R: Real>(r: Row<R>, gradient: bool) {
    #[cfg(target_arch = "x86_64")]
    if R::DTYPE == DType::F32 && level() == Level::Avx512 {
        let Row { x, x_row, w, y, pixel, width, kh, kw } = r;
        let r = Row { x: x.cast(), x_row, w: w.cast(), y: y.cast(), pixel, width, kh, kw };
        // SAFETY: R is f32, the level says that the features are there, and the caller's promise.
        return unsafe { x86::row(r, gradient) };
    }
    plain(r, gradient);
}

/// Rows `top ..` of image `b`, channels `cs`, widened into `to`: rows of `width` pixels of `pixel` channels, of which the image's first lies at
/// `left`; zeros outside.
#[allow(clippy::too_many_arguments)]
fn fill<E: Element>(
    g: &Geometry,
    data: &[E],
    b: usize,
    top: isize,
    left: usize,
    cs: Range<usize>,
    (width, pixel): (usize, usize),
    to: &mut [E::Acc],
) {
    for (i, to) in to.chunks_exact_mut(width * pixel).enumerate() {
        let h = top + i as isize;
        if h < 0 || h >= g.h as isize {
            to.fill(E::Acc::ZERO);
            continue;
        }
        to[..left * pixel].fill(E::Acc::ZERO);
        to[(left + g.w) * pixel..].fill(E::Acc::ZERO);
        let from = &data[(b * g.h + h as usize) * g.w * g.c..][..g.w * g.c];
        let inside = &mut to[left * pixel..(left + g.w) * pixel];
        if pixel == g.c {
            widen(inside, from);
            continue;
        }
        for (to, from) in inside.chunks_exact_mut(pixel).zip(from.chunks_exact(g.c)) {
            widen(&mut to[..cs.len()], &from[cs.clone()]);
            to[cs.len()..].fill(E::Acc::ZERO);
        }
    }
}

fn cut<'a, R>(space: &mut &'a mut [R], len: usize) -> &'a mut [R] {
    let (front, rest) = std::mem::take(space).split_at_mut(len);
    *space = rest;
    front
}

fn correlate<E: Element>(cx: &Context, g: &Geometry, x: &[E], w: &[E], bias: Option<&[E]>, y: &mut [E], turned: bool) {
    let (rows_each, zs, taps) = (g.rows(), g.channel_blocks(), g.kh * g.kw);
    let blocks = g.h.div_ceil(rows_each);
    let y = SendPtr(y.as_mut_ptr());
    run(cx, g.batch * blocks * zs, g.batch * g.h * g.w * g.c * taps, |chunk| {
        let (b, block, cs) = (chunk / zs / blocks, chunk / zs % blocks, g.channels(chunk % zs));
        let rows = (block * rows_each).min(g.h)..((block + 1) * rows_each).min(g.h);
        if cs.is_empty() || rows.is_empty() {
            return;
        }
        let pixel = cs.len().next_multiple_of(LANES);
        let x_row = g.padded_width() * pixel;
        let x_len = (rows.len() + g.kh - 1) * x_row;
        scratch::<E::Acc, _>(Slot::Caller, x_len + (taps + g.width() + 1) * pixel, |mut space| {
            let (padded, kernel) = (cut(&mut space, x_len), cut(&mut space, taps * pixel));
            let (sums, offset) = (cut(&mut space, g.width() * pixel), cut(&mut space, pixel));
            let top = rows.start as isize - (g.kh / 2) as isize;
            fill(g, x, b, top, g.kw / 2, cs.clone(), (g.padded_width(), pixel), padded);
            for (tap, kernel) in kernel.chunks_exact_mut(pixel).enumerate() {
                let tap = if turned { taps - 1 - tap } else { tap };
                widen(&mut kernel[..cs.len()], &w[tap * g.c..][cs.clone()]);
                kernel[cs.len()..].fill(E::Acc::ZERO);
            }
            if let Some(bias) = bias {
                widen(offset, &bias[cs.clone()]);
            }
            for (i, h) in rows.clone().enumerate() {
                let r = Row {
                    x: padded[i * x_row..].as_ptr(),
                    x_row,
                    w: kernel.as_mut_ptr(),
                    y: sums.as_mut_ptr(),
                    pixel,
                    width: g.width(),
                    kh: g.kh,
                    kw: g.kw,
                };
                // SAFETY: the scratch has these sizes.
                unsafe { row(r, false) };
                let at = (b * g.h + h) * g.w * g.c;
                if pixel == g.c && bias.is_none() {
                    // SAFETY: this row is this chunk's alone.
                    store_row(unsafe { std::slice::from_raw_parts_mut(y.get().add(at), g.w * g.c) }, sums);
                    continue;
                }
                for (j, sums) in sums.chunks_exact_mut(pixel).take(g.w).enumerate() {
                    if bias.is_some() {
                        add_row(&mut sums[..cs.len()], &offset[..cs.len()]);
                    }
                    // SAFETY: these channels of this row are this chunk's alone.
                    let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(at + j * g.c + cs.start), cs.len()) };
                    store_row(y, sums);
                }
            }
        });
    });
}

/// See [`crate::ops::conv2d_depthwise::forward`].
pub fn forward<E: Element>(cx: &Context, g: &Geometry, x: &[E], w: &[E], bias: Option<&[E]>, y: &mut [E]) {
    correlate(cx, g, x, w, bias, y, false);
}

/// See [`crate::ops::conv2d_depthwise::backward_input`].
pub fn backward_input<E: Element>(cx: &Context, g: &Geometry, dy: &[E], w: &[E], dx: &mut [E]) {
    correlate(cx, g, dy, w, None, dx, true);
}

/// See [`crate::ops::conv2d_depthwise::backward_weight`].
pub fn backward_weight<E: Element>(cx: &Context, g: &Geometry, dy: &[E], x: &[E], dw: &mut [E::Acc]) {
    let (rows_each, zs, taps) = (g.rows(), g.channel_blocks(), g.kh * g.kw);
    let blocks = g.h.div_ceil(rows_each);
    let units = g.batch * blocks;
    let slices = units.min(16.max(64 / zs));
    let each = units.div_ceil(slices);
    let pixel = g.channels(0).len().next_multiple_of(LANES);
    scratch::<E::Acc, _>(Slot::Shared, slices * zs * taps * pixel, |partial| {
        let to = SendPtr(partial.as_mut_ptr());
        run(cx, slices * zs, g.batch * g.h * g.w * g.c * taps, |chunk| {
            let (slice, cs) = (chunk / zs, g.channels(chunk % zs));
            // SAFETY: chunks are disjoint parts of `partial`.
            let sums = unsafe { std::slice::from_raw_parts_mut(to.get().add(chunk * taps * pixel), taps * pixel) };
            sums.fill(E::Acc::ZERO);
            let (x_row, y_row) = (g.padded_width() * pixel, g.width() * pixel);
            let x_most = (rows_each + g.kh - 1) * x_row;
            scratch::<E::Acc, _>(Slot::Caller, x_most + rows_each * y_row, |mut space| {
                let (padded, grads) = (cut(&mut space, x_most), cut(&mut space, rows_each * y_row));
                for unit in (slice * each).min(units)..((slice + 1) * each).min(units) {
                    let (b, block) = (unit / blocks, unit % blocks);
                    let rows = (block * rows_each).min(g.h)..((block + 1) * rows_each).min(g.h);
                    let top = rows.start as isize - (g.kh / 2) as isize;
                    let padded = &mut padded[..(rows.len() + g.kh - 1) * x_row];
                    fill(g, x, b, top, g.kw / 2, cs.clone(), (g.padded_width(), pixel), padded);
                    let grads = &mut grads[..rows.len() * y_row];
                    fill(g, dy, b, rows.start as isize, 0, cs.clone(), (g.width(), pixel), grads);
                    for i in 0..rows.len() {
                        let r = Row {
                            x: padded[i * x_row..].as_ptr(),
                            x_row,
                            w: sums.as_mut_ptr(),
                            y: grads[i * y_row..].as_mut_ptr(),
                            pixel,
                            width: g.width(),
                            kh: g.kh,
                            kw: g.kw,
                        };
                        // SAFETY: the scratch has these sizes.
                        unsafe { row(r, true) };
                    }
                }
            });
        });
        for slice in 0..slices {
            for z in 0..zs {
                let cs = g.channels(z);
                for tap in 0..taps {
                    let from = ((slice * zs + z) * taps + tap) * pixel;
                    add_row(&mut dw[tap * g.c..][cs.clone()], &partial[from..from + cs.len()]);
                }
            }
        }
    });
}
