//! Convolution as a product whose first operand is gathered from the image, a block of pixels at a time.
//!
//! | function | product | first operand | second operand |
//! |---|---|---|---|
//! | forward | `[B OH OW, Kh Kw I] [Kh Kw I, O]` | gathered from x | weights, transposed into panels |
//! | backward_input | `[B H W, Kh Kw O] [Kh Kw O, I]`, once per phase of the stride | gathered from dy | weights, re-ordered into panels |
//! | backward_weight | `[O, B OH OW] [B OH OW, Kh Kw I]`, a reduction | dy where it lies | gathered from x |
//!
//! No matrix of all patches exists: a block of rows lives in the thread's scratch until it is used. In channels-last order the `Kw * C` numbers
//! of one kernel row are contiguous in the image, so gathering is copying, with zeros where the kernel hangs over the edge. A 1x1 convolution
//! of stride 1 reads the image where it lies. With stride s the input gradient falls into s * s phases, each a convolution of stride 1
//! with the taps that hit it: no work is spent on zeros between pixels.
//!
//! Measured as in [`crate::host::gemm`], GFLOP/s:
//!
//! | | forward | backward_input | backward_weight |
//! |---|---|---|---|
//! | 3x3 `[32,16,16,64]` to 64 | 138 | 140 | 110 |
//! | 3x3 stride 2 `[8,32,32,32]` to 32 | 122 | 89 | 85 |
//! | 3x3 `[8,64,64,4]` to 16 | 33 | 16 | 16 |
//! | 4x4 stride 4 `[32,64,64,3]` to 32 | 56 | 5 | 44 |
//! | 1x1 `[32,16,16,64]` to 64 | 103 | 131 | 123 |

use std::ops::Range;

use crate::device::{Context, SendPtr};
use crate::dtype::Element;
use crate::host::gemm::kernels::{Finish, PANEL, Strided};
use crate::host::gemm::{self, Cols, Direct, Matrix, Output, Panels, Rows, Second, Sink, store_row};
use crate::ops::conv2d::ConvEpilogue;
use crate::simd_fn;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Geometry {
    pub batch: usize,
    pub h: usize,
    pub w: usize,
    pub i: usize,
    pub o: usize,
    pub kh: usize,
    pub kw: usize,
    pub oh: usize,
    pub ow: usize,
    pub stride: usize,
    pub top: usize,
    pub left: usize,
}

impl Geometry {
    /// Whether the image itself is the first operand.
    fn is_pointwise(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.stride == 1 && self.oh == self.h && self.ow == self.w && self.top == 0
    }

    /// The patches of x that the outputs read.
    fn patches<'a, E>(&self, x: &'a [E]) -> Patches<'a, E> {
        Patches {
            data: x,
            h: self.h,
            w: self.w,
            c: self.i,
            grid: (self.oh, self.ow),
            step: self.stride,
            origin: (-(self.top as isize), -(self.left as isize)),
            taps: (self.kh, self.kw),
        }
    }
}

/// Patches of an image: row (b, i, j) is the `taps.0 x taps.1 x c` numbers from `(i, j) * step + origin` on, zeros outside.
#[derive(Clone, Copy)]
struct Patches<'a, E> {
    data: &'a [E],
    h: usize,
    w: usize,
    c: usize,
    grid: (usize, usize),
    step: usize,
    origin: (isize, isize),
    taps: (usize, usize),
}

impl<E> Patches<'_, E> {
    /// Image, line and column of the patch behind this one.
    #[inline(always)]
    fn next(&self, b: usize, i: usize, j: usize) -> (usize, usize, usize) {
        match (i + 1 == self.grid.0, j + 1 == self.grid.1) {
            (_, false) => (b, i, j + 1),
            (false, true) => (b, i + 1, 0),
            (true, true) => (b + 1, 0, 0),
        }
    }
}

/// Copies at least N numbers, N at a time; the last N overlap those before them. So few numbers cost less than a call would.
#[inline(always)]
fn copy_pieces<E: Element, const N: usize>(to: &mut [E::Acc], from: &[E]) {
    let widened = |from: &[E; N]| -> [E::Acc; N] { std::array::from_fn(|i| from[i].to_acc()) };
    for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        *to = widened(from);
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = widened(from);
    }
}

#[inline(always)]
fn copy_line<E: Element>(to: &mut [E::Acc], from: &[E]) {
    match to.len() {
        16.. => copy_pieces::<E, 16>(to, from),
        4.. => copy_pieces::<E, 4>(to, from),
        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_acc()),
    }
}

simd_fn! {
    /// Columns `cols` of the patches `rows`, each patch at a multiple of `ld`.
    fn gather<E: Element>(p: Patches<'_, E>, rows: Range<usize>, cols: Range<usize>, dst: &mut [E::Acc], ld: usize) {
        let per_line = p.taps.1 * p.c;
        let lines = cols.start / per_line..cols.end.div_ceil(per_line);
        let whole = cols.start == 0 && cols.end == p.taps.0 * per_line;
        let (mut b, mut i, mut j) = (rows.start / (p.grid.0 * p.grid.1), rows.start / p.grid.1 % p.grid.0, rows.start % p.grid.1);
        for dst in dst.chunks_mut(ld).take(rows.len()) {
            let (y, x) = ((i * p.step) as isize + p.origin.0, (j * p.step) as isize + p.origin.1);
            let fits = |at: isize, taps: usize, size: usize| at >= 0 && at as usize + taps <= size;
            if whole && fits(y, p.taps.0, p.h) && fits(x, p.taps.1, p.w) {
                // Most pixels: nothing hangs over the edge.
                let image = &p.data[((b * p.h + y as usize) * p.w + x as usize) * p.c..];
                for (line, dst) in dst.chunks_exact_mut(per_line).take(p.taps.0).enumerate() {
                    copy_line(dst, &image[line * p.w * p.c..][..per_line]);
                }
                (b, i, j) = p.next(b, i, j);
                continue;
            }
            // The part of a line that lies inside the image, in numbers.
            let inside = ((-x).clamp(0, p.taps.1 as isize) as usize * p.c, (p.w as isize - x).clamp(0, p.taps.1 as isize) as usize * p.c);
            for line in lines.clone() {
                let from = cols.start.max(line * per_line);
                let to = cols.end.min((line + 1) * per_line);
                let dst = &mut dst[from - cols.start..to - cols.start];
                let row = y + line as isize;
                let (first, last) = (from - line * per_line, to - line * per_line);
                let (start, end) = (inside.0.clamp(first, last), inside.1.clamp(first, last));
                if row < 0 || row >= p.h as isize || start >= end {
                    dst.fill(E::Acc::default());
                    continue;
                }
                dst[..start - first].fill(E::Acc::default());
                dst[end - first..].fill(E::Acc::default());
                let at = (((b * p.h) as isize + row) * p.w as isize + x) * p.c as isize + start as isize;
                copy_line(&mut dst[start - first..end - first], &p.data[at as usize..][..end - start]);
            }
            (b, i, j) = p.next(b, i, j);
        }
    }
}

impl<E: Element> Rows<E::Acc> for Patches<'_, E> {
    fn direct(&self) -> Option<Strided<E::Acc>> {
        None
    }

    fn pack(&self, rows: Range<usize>, ks: Range<usize>, dst: &mut [E::Acc]) -> Strided<E::Acc> {
        let (data, ld) = (dst.as_ptr(), ks.len());
        if ld > 0 {
            gather(*self, rows, ks, dst, ld);
        }
        Strided { data, row: ld, col: 1 }
    }
}

impl<E: Element> Cols<E::Acc> for Patches<'_, E> {
    fn direct(&self) -> Option<Panels<E::Acc>> {
        None
    }

    fn pack(&self, ks: Range<usize>, js: Range<usize>, dst: &mut [E::Acc]) {
        gather(*self, ks, js, dst, PANEL);
    }
}

// ---------------------------------------------------------------- forward

/// See [`crate::ops::conv2d::forward`].
pub fn forward<E: Element>(cx: &Context, g: &Geometry, x: &[E], w: &[E], y: &mut [E], epilogue: &ConvEpilogue<'_, E>) {
    let k = g.kh * g.kw * g.i;
    let sink = Output {
        bias: epilogue.bias.map(|x| x.data()),
        shift: epilogue.per_image.map(|x| (x.data(), g.oh * g.ow)),
        residual: epilogue.residual.map(|x| x.data()),
        ..Output::plain(y.as_mut_ptr(), g.o)
    };
    let size = (g.batch * g.oh * g.ow, g.o, k);
    let weights = Second { data: w, ld: k, transposed: true, reused: true };
    if g.is_pointwise() {
        gemm::product(cx, size, &Matrix { data: x, row: g.i, col: 1 }, &weights, &sink);
    } else {
        gemm::product(cx, size, &g.patches(x), &weights, &sink);
    }
}

// ---------------------------------------------------------------- backward, input

/// Weights as the second operand of an input gradient: rows (tap, tap, o), columns c; taps in falling order, `step` apart.
struct Turned<'a, E> {
    w: &'a [E],
    g: Geometry,
    first: (usize, usize),
    taps: (usize, usize),
}

impl<E: Element> Cols<E::Acc> for Turned<'_, E> {
    fn direct(&self) -> Option<Panels<E::Acc>> {
        None
    }

    fn pack(&self, ks: Range<usize>, js: Range<usize>, dst: &mut [E::Acc]) {
        let g = &self.g;
        for (k, dst) in ks.zip(dst.chunks_exact_mut(PANEL)) {
            let (tap, o) = (k / g.o, k % g.o);
            let u = self.first.0 + g.stride * (self.taps.0 - 1 - tap / self.taps.1);
            let v = self.first.1 + g.stride * (self.taps.1 - 1 - tap % self.taps.1);
            gemm::widen(dst, &self.w[((o * g.kh + u) * g.kw + v) * g.i + js.start..][..js.len()]);
        }
    }
}

/// The pixels of one phase of an image.
struct Phase<E> {
    dx: SendPtr<E>,
    g: Geometry,
    at: (usize, usize),
    grid: (usize, usize),
}

impl<E: Element> Sink<E::Acc> for Phase<E> {
    fn direct(&self) -> Option<Direct<E::Acc>> {
        (self.g.stride == 1 && E::DTYPE == E::Acc::DTYPE).then(|| Direct {
            c: SendPtr(self.dx.get().cast()),
            ld: self.g.i,
            add: false,
            finish: Finish::none(),
        })
    }

    unsafe fn store(&self, rows: Range<usize>, cols: Range<usize>, sums: *mut E::Acc, ld: usize) {
        let g = &self.g;
        for (r, row) in rows.enumerate() {
            let (b, i, j) = (row / (self.grid.0 * self.grid.1), row / self.grid.1 % self.grid.0, row % self.grid.1);
            let pixel = (b * g.h + self.at.0 + i * g.stride) * g.w + self.at.1 + j * g.stride;
            // SAFETY: the caller's promise; phases have different pixels.
            unsafe {
                let dx = std::slice::from_raw_parts_mut(self.dx.get().add(pixel * g.i + cols.start), cols.len());
                store_row(dx, std::slice::from_raw_parts(sums.add(r * ld), cols.len()));
            }
        }
    }
}

/// See [`crate::ops::conv2d::backward_input`].
pub fn backward_input<E: Element>(cx: &Context, g: &Geometry, dy: &[E], w: &[E], dx: &mut [E]) {
    let s = g.stride;
    // Along one axis: first tap that hits phase `at`, number of taps, number of pixels, first output that the first of them reads.
    let axis = |at: usize, pad: usize, kernel: usize, size: usize| {
        let first = (at + pad) % s;
        let taps = if first < kernel { (kernel - first).div_ceil(s) } else { 0 };
        let pixels = if at < size { (size - at).div_ceil(s) } else { 0 };
        (first, taps, pixels, ((at + pad - first) / s) as isize - taps as isize + 1)
    };
    let dx = SendPtr(dx.as_mut_ptr());
    for at in (0..s * s).map(|phase| (phase / s, phase % s)) {
        let (u, kh, h, y) = axis(at.0, g.top, g.kh, g.h);
        let (v, kw, w_pixels, x) = axis(at.1, g.left, g.kw, g.w);
        let sink = Phase { dx: SendPtr(dx.get()), g: *g, at, grid: (h, w_pixels) };
        let weights = Turned { w, g: *g, first: (u, v), taps: (kh, kw) };
        let size = (g.batch * h * w_pixels, g.i, kh * kw * g.o);
        if size.0 == 0 {
            continue;
        }
        if g.is_pointwise() {
            gemm::product(cx, size, &Matrix { data: dy, row: g.o, col: 1 }, &weights, &sink);
        } else {
            let patches = Patches {
                data: dy,
                h: g.oh,
                w: g.ow,
                c: g.o,
                grid: (h, w_pixels),
                step: 1,
                origin: (y, x),
                taps: (kh, kw),
            };
            gemm::product(cx, size, &patches, &weights, &sink);
        }
    }
}

// ---------------------------------------------------------------- backward, weights

/// See [`crate::ops::conv2d::backward_weight`].
pub fn backward_weight<E: Element>(cx: &Context, g: &Geometry, dy: &[E], x: &[E], dw: &mut [E::Acc]) {
    let n = g.kh * g.kw * g.i;
    let size = (g.o, n, g.batch * g.oh * g.ow);
    let sink = Output::<E::Acc, E::Acc> { add: true, ..Output::plain(dw.as_mut_ptr(), n) };
    let dy = Matrix { data: dy, row: 1, col: g.o };
    if g.is_pointwise() {
        let x = Second { data: x, ld: g.i, transposed: false, reused: false };
        gemm::reduction(cx, size, &dy, &x, &sink);
    } else {
        gemm::reduction(cx, size, &dy, &g.patches(x), &sink);
    }
}
