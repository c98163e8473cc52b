#![allow(clippy::needless_range_loop)] // tiles in registers: every index is a constant once the loops are unrolled

//! Matrix products on the processor.
//!
//! A product is a grid of blocks of C (at most `BLOCK_ROWS` rows). For each panel of 32 columns the block's rows are taken through
//! `kernels::block`, in slices of K that keep the panel in the first-level cache, and then through the epilogue while they are
//! still there. The first operand is read where it lies if it is stored in the accumulation type (any strides will do), otherwise it is
//! widened, a block at a time, into the thread's scratch; convolutions gather their pixels in the same place (`Rows`). The second
//! operand is transposed or widened into panels (`Cols`) once, for all blocks.
//!
//! | variant | when |
//! |---|---|
//! | `dots` | form Nt, at most `FEW_ROWS` rows: each row of the weights is read once, in its own order |
//! | `product` | everything else |
//! | `reduction` | K of thousands and a small C (weight gradients): K is cut into slices by shape alone, summed in order |
//!
//! Measured with `cargo bench --bench linalg` on one core of an AVX-512 server whose clock moved between two states during the run
//! (about 100 and 147 GFLOP/s of f32 multiply-adds; best of several runs, GFLOP/s):
//!
//! | Nt 1024^3 | Nt 8192x64x64 | Nt 2048x256x64 | Nt 64x64x16 | Nt 4x512x512 | Nn 2048x64x256 | Tn 64x64x8192 | Nt 1024^3 bf16 | Nt 512^3 f64 |
//! |---|---|---|---|---|---|---|---|---|
//! | 142-145 | 130 | 147 | 117 | 56 | 148 | 123 | 137 | 23 |
//!
//! Sums of one element run over k in rising order in blocks that depend on K alone (`dots`: in 16 interleaved lanes), so bits do not
//! depend on threads, nor on whether operands were packed before.

pub(crate) mod kernels;

use std::cell::RefCell;
use std::ops::Range;

use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};
use crate::ops::Accumulate;
use crate::ops::gemm::{Activation, Epilogue, Form};
use crate::simd_fn;
use kernels::{PANEL, Strided};

/// Rows of C that one chunk computes, at most.
const BLOCK_ROWS: usize = 112;
/// Elements of the first operand that one chunk packs, about.
const BLOCK_ELEMENTS: usize = 128 << 10;
/// K is not cut up to here ...
const SINGLE_K: usize = 384;
/// ... and beyond it is cut into equal parts of about so many.
const BLOCK_K: usize = 256;
/// Elements of the second operand that are packed at once, about.
const PACK_ELEMENTS: usize = 1 << 20;
/// Largest M of the variant `dots`.
const FEW_ROWS: usize = 8;
/// Multiply-adds below which a job is not worth waking another thread.
const INLINE_WORK: usize = 32 << 10;

// ---------------------------------------------------------------- scratch

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static SCRATCH: [RefCell<Vec<Line>>; 4] = const { [const { RefCell::new(Vec::new()) }; 4] };
}

/// Which of a thread's scratch buffers.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// Shared by all chunks of a job: packed panels or partial sums.
    Shared = 0,
    /// A chunk's block of the first operand.
    Rows = 1,
    /// A chunk's sums.
    Sums = 2,
    /// What an op above the products needs for itself.
    Caller = 3,
}

/// Lends `len` numbers of the thread's scratch, 64-byte aligned, holding anything. A nested loan of the same slot gets a buffer of its own.
pub(crate) fn scratch<R: Element, T>(slot: Slot, len: usize, f: impl FnOnce(&mut [R]) -> T) -> T {
    SCRATCH.with(|all| {
        let cell = &all[slot as usize];
        let mut lines = cell.take();
        let wanted = (len * size_of::<R>()).div_ceil(64);
        if lines.len() < wanted {
            lines.resize(wanted, Line([0; 64]));
        }
        // SAFETY: the lines cover `len` elements, are aligned, initialised, and borrowed for the call; any bits are a valid `Pod`.
        let outcome = f(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<R>(), len) });
        cell.replace(lines);
        outcome
    })
}

/// Runs on the pool, or on the spot when the work (multiply-adds) is tiny.
pub(crate) fn run(cx: &Context, chunks: usize, work: usize, f: impl Fn(usize) + Sync) {
    if work <= INLINE_WORK {
        (0..chunks).for_each(f);
    } else {
        cx.pool().run(chunks, f);
    }
}

// ---------------------------------------------------------------- operands

/// A first operand: M rows of K.
pub(crate) trait Rows<R>: Sync {
    /// Where it lies, if it need not be packed.
    fn direct(&self) -> Option<Strided<R>>;
    /// Writes the given rows and columns somewhere into `dst` (`rows.len() * ks.len()` elements) and says how they lie there.
    fn pack(&self, rows: Range<usize>, ks: Range<usize>, dst: &mut [R]) -> Strided<R>;
}

/// The second operand in panels: panel j at `data + j * panel`, its row p at `p * ld` from there.
#[derive(Clone, Copy)]
pub(crate) struct Panels<R> {
    pub(crate) data: *const R,
    pub(crate) panel: usize,
    pub(crate) ld: usize,
}

// SAFETY: a pointer and two numbers; whoever reads through it says why that is sound.
unsafe impl<R> Send for Panels<R> {}
// SAFETY: as above.
unsafe impl<R> Sync for Panels<R> {}

impl<R> Panels<R> {
    /// Row `p` of panel `j`.
    fn at(self, j: usize, p: usize) -> *const R {
        self.data.wrapping_add(j * self.panel + p * self.ld)
    }
}

/// A second operand: K rows of N.
pub(crate) trait Cols<R>: Sync {
    /// Where it lies, if its rows are contiguous and it need not be packed.
    fn direct(&self) -> Option<Panels<R>>;
    /// Writes columns `js` (at most `PANEL`) of rows `ks` to `dst[(k - ks.start) * PANEL + (j - js.start)]`.
    fn pack(&self, ks: Range<usize>, js: Range<usize>, dst: &mut [R]);
}

/// Where sums go.
pub(crate) trait Sink<R>: Sync {
    /// If sums are stored as they are: the output, its row stride, and whether they are added.
    fn direct(&self) -> Option<(SendPtr<R>, usize, bool)>;
    /// Takes the sums of `rows x cols`, at `sums` with row stride `ld`; it may change them.
    ///
    /// # Safety
    /// Nobody else has these rows and columns of the output, and `sums` is writable.
    unsafe fn store(&self, rows: Range<usize>, cols: Range<usize>, sums: *mut R, ld: usize);
}

/// A matrix in memory, read as a first operand: element (i, k) at `i * row + k * col`.
pub(crate) struct Matrix<'a, E> {
    pub(crate) data: &'a [E],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

/// Whether E is its own accumulation type, and the pointer then.
pub(crate) fn same<E: Element>(data: &[E]) -> Option<*const E::Acc> {
    (E::DTYPE == E::Acc::DTYPE).then_some(data.as_ptr().cast())
}

simd_fn! {
    /// Widens a row.
    pub(crate) fn widen<E: Element>(dst: &mut [E::Acc], src: &[E]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = s.to_acc();
        }
    }
}

impl<E: Element> Rows<E::Acc> for Matrix<'_, E> {
    fn direct(&self) -> Option<Strided<E::Acc>> {
        Some(Strided { data: same(self.data)?, row: self.row, col: self.col })
    }

    fn pack(&self, rows: Range<usize>, ks: Range<usize>, dst: &mut [E::Acc]) -> Strided<E::Acc> {
        let data = dst.as_ptr();
        if ks.is_empty() || rows.is_empty() {
            return Strided { data, row: 0, col: 0 };
        }
        if self.col == 1 {
            for (i, dst) in rows.zip(dst.chunks_exact_mut(ks.len())) {
                widen(dst, &self.data[i * self.row + ks.start..][..ks.len()]);
            }
            Strided { data, row: ks.len(), col: 1 }
        } else {
            let m = rows.len();
            for (p, dst) in ks.zip(dst.chunks_exact_mut(m)) {
                widen(dst, &self.data[p * self.col + rows.start..][..m]);
            }
            Strided { data, row: 1, col: m }
        }
    }
}

/// A matrix in memory, read as a second operand: K rows of N, or N rows of K if `transposed`.
pub(crate) struct Second<'a, E> {
    pub(crate) data: &'a [E],
    pub(crate) ld: usize,
    pub(crate) transposed: bool,
    /// Whether many rows will read it: then panels pay even for rows that are contiguous already.
    pub(crate) reused: bool,
}

impl<E: Element> Cols<E::Acc> for Second<'_, E> {
    fn direct(&self) -> Option<Panels<E::Acc>> {
        if self.transposed || self.reused {
            return None;
        }
        Some(Panels { data: same(self.data)?, panel: PANEL, ld: self.ld })
    }

    fn pack(&self, ks: Range<usize>, js: Range<usize>, dst: &mut [E::Acc]) {
        if !self.transposed {
            for (p, dst) in ks.zip(dst.chunks_exact_mut(PANEL)) {
                widen(dst, &self.data[p * self.ld + js.start..][..js.len()]);
            }
        } else if let Some(data) = same(self.data) {
            // SAFETY: rows js of ks lie inside the matrix, and `dst` holds a panel of ks.
            unsafe {
                let src = data.add(js.start * self.ld + ks.start);
                kernels::transpose_panel(js.len(), ks.len(), src, self.ld, dst.as_mut_ptr());
            }
        } else {
            const STEP: usize = 64;
            let mut wide = [E::Acc::ZERO; PANEL * STEP];
            for p in ks.clone().step_by(STEP) {
                let count = STEP.min(ks.end - p);
                for (j, wide) in js.clone().zip(wide.chunks_exact_mut(STEP)) {
                    widen(wide, &self.data[j * self.ld + p..][..count]);
                }
                // SAFETY: `wide` has js rows of `count`, and `dst` continues with `count` rows of a panel.
                unsafe {
                    let dst = dst[(p - ks.start) * PANEL..].as_mut_ptr();
                    kernels::transpose_panel(js.len(), count, wide.as_ptr(), STEP, dst);
                }
            }
        }
    }
}

// ---------------------------------------------------------------- epilogue

simd_fn! {
    /// `sums += x`
    pub(crate) fn add_row<E: Element>(sums: &mut [E::Acc], x: &[E]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x.to_acc();
        }
    }
}

simd_fn! {
    /// `sums *= x`
    fn scale_row<E: Element>(sums: &mut [E::Acc], x: &[E]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum *= x.to_acc();
        }
    }
}

simd_fn! {
    /// `sums = act(sums)`
    fn activate_row<R: Real>(sums: &mut [R], activation: Activation) {
        match activation {
            Activation::None => {}
            Activation::Relu => sums.iter_mut().for_each(|x| *x = Activation::Relu.apply(*x)),
            Activation::Gelu => sums.iter_mut().for_each(|x| *x = Activation::Gelu.apply(*x)),
            Activation::QuickGelu => sums.iter_mut().for_each(|x| *x = Activation::QuickGelu.apply(*x)),
            Activation::Silu => sums.iter_mut().for_each(|x| *x = Activation::Silu.apply(*x)),
        }
    }
}

simd_fn! {
    /// `c = sums`, rounded.
    pub(crate) fn store_row<O: Element>(c: &mut [O], sums: &[O::Acc]) {
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = O::from_acc(*sum);
        }
    }
}

/// The output of a product: C `[M, N]`, and what [`Epilogue`] says.
pub(crate) struct Output<'a, E: Element, O> {
    c: SendPtr<O>,
    n: usize,
    bias: Option<&'a [E]>,
    activation: Activation,
    scale: Option<&'a [E]>,
    residual: Option<&'a [E]>,
    add: bool,
}

impl<E: Element, O> Output<'_, E, O> {
    /// Sums are added to `c`, whose rows have `n` elements.
    pub(crate) fn adding(c: SendPtr<O>, n: usize) -> Self {
        Output { c, n, bias: None, activation: Activation::None, scale: None, residual: None, add: true }
    }
}

impl<E: Element, O: Element<Acc = E::Acc>> Sink<E::Acc> for Output<'_, E, O> {
    fn direct(&self) -> Option<(SendPtr<E::Acc>, usize, bool)> {
        let plain = self.bias.is_none()
            && self.activation == Activation::None
            && self.scale.is_none()
            && self.residual.is_none()
            && O::DTYPE == E::Acc::DTYPE;
        plain.then(|| (SendPtr(self.c.get().cast()), self.n, self.add))
    }

    unsafe fn store(&self, rows: Range<usize>, cols: Range<usize>, sums: *mut E::Acc, ld: usize) {
        let n = cols.len();
        for (r, i) in rows.enumerate() {
            let at = i * self.n + cols.start;
            // SAFETY: the caller's promise.
            let (sums, c) = unsafe {
                let c = std::slice::from_raw_parts_mut(self.c.get().add(at), n);
                (std::slice::from_raw_parts_mut(sums.add(r * ld), n), c)
            };
            if let Some(bias) = self.bias {
                add_row(sums, &bias[cols.clone()]);
            }
            activate_row(sums, self.activation);
            if let Some(scale) = self.scale {
                scale_row(sums, &scale[cols.clone()]);
            }
            if let Some(residual) = self.residual {
                add_row(sums, &residual[at..at + n]);
            }
            if self.add {
                add_row::<O>(sums, c);
            }
            store_row(c, sums);
        }
    }
}

// ---------------------------------------------------------------- product

/// Packs columns `js` of all K rows into `dst`, a panel after the other.
fn pack_panels<R: Real, B: Cols<R>>(cx: &Context, b: &B, k: usize, js: Range<usize>, dst: &mut [R]) -> Panels<R> {
    let panels = js.len().div_ceil(PANEL);
    let to = SendPtr(dst.as_mut_ptr());
    // Several panels to a chunk, so that a chunk is worth its while.
    let each = (8192 / (k * PANEL).max(1)).max(1);
    run(cx, panels.div_ceil(each), k * js.len(), |chunk| {
        for panel in chunk * each..(chunk * each + each).min(panels) {
            let start = js.start + panel * PANEL;
            // SAFETY: panels are disjoint parts of `dst`.
            let dst = unsafe { std::slice::from_raw_parts_mut(to.get().add(panel * k * PANEL), k * PANEL) };
            b.pack(0..k, start..(start + PANEL).min(js.end), dst);
        }
    });
    Panels { data: dst.as_ptr(), panel: k * PANEL, ld: PANEL }
}

/// The whole product, any shape.
pub(crate) fn product<R: Real>(
    cx: &Context,
    (m, n, k): (usize, usize, usize),
    a: &impl Rows<R>,
    b: &impl Cols<R>,
    sink: &impl Sink<R>,
) {
    if let Some(panels) = b.direct() {
        return grid(cx, m, 0..n, k, a, panels, sink);
    }
    let at_once = (PACK_ELEMENTS / k.max(1) / PANEL * PANEL).max(2 * PANEL).min(n.next_multiple_of(PANEL));
    scratch::<R, _>(Slot::Shared, at_once * k, |shared| {
        for start in (0..n).step_by(at_once) {
            let js = start..(start + at_once).min(n);
            let panels = pack_panels(cx, b, k, js.clone(), shared);
            grid(cx, m, js, k, a, panels, sink);
        }
    });
}

/// The columns `js` of a product whose second operand is in panels.
fn grid<R: Real>(
    cx: &Context,
    m: usize,
    js: Range<usize>,
    k: usize,
    a: &impl Rows<R>,
    b: Panels<R>,
    sink: &impl Sink<R>,
) {
    let n = js.len();
    let direct = a.direct();
    let most_rows =
        if direct.is_some() { BLOCK_ROWS } else { (BLOCK_ELEMENTS / k.max(1)).clamp(kernels::MAX_ROWS, BLOCK_ROWS) };
    let row_blocks = m.div_ceil(most_rows);
    let rows_each = m.div_ceil(row_blocks);
    // A low matrix is cut along its columns as well, as long as chunks stay worth their while.
    let panels = n.div_ceil(PANEL);
    let wanted = (m * n * k / (256 << 10)).min(16);
    let col_blocks = wanted.div_ceil(row_blocks).clamp(1, panels);
    let panels_each = panels.div_ceil(col_blocks);
    let col_blocks = panels.div_ceil(panels_each);
    let k_blocks = if k <= SINGLE_K { 1 } else { k.div_ceil(BLOCK_K) };
    let k_each = k.div_ceil(k_blocks);
    let store = sink.direct();
    run(cx, row_blocks * col_blocks, m * n * k, |chunk| {
        let (rb, cb) = (chunk / col_blocks, chunk % col_blocks);
        let rows = rb * rows_each..((rb + 1) * rows_each).min(m);
        if rows.is_empty() {
            return;
        }
        let packed = if direct.is_some() { 0 } else { rows.len() * k };
        scratch::<R, _>(Slot::Rows, packed, |block| {
            let a = match direct {
                Some(a) => a.at(rows.start, 0),
                None => a.pack(rows.clone(), 0..k, block),
            };
            scratch::<R, _>(Slot::Sums, rows.len() * PANEL, |sums| {
                for panel in cb * panels_each..((cb + 1) * panels_each).min(panels) {
                    let cols = js.start + panel * PANEL..js.end.min(js.start + (panel + 1) * PANEL);
                    let (c, ldc, add) = match &store {
                        // SAFETY: inside C, which has these rows and columns.
                        Some((c, ldc, add)) => (unsafe { c.get().add(rows.start * ldc + cols.start) }, *ldc, *add),
                        None => (sums.as_mut_ptr(), PANEL, false),
                    };
                    for kb in 0..k_blocks {
                        let ks = kb * k_each..((kb + 1) * k_each).min(k);
                        // SAFETY: the operands have these rows and columns; C's are this chunk's alone.
                        unsafe {
                            let data = b.at(panel, ks.start);
                            let a = a.at(0, ks.start);
                            kernels::block(rows.len(), cols.len(), ks.len(), a, data, b.ld, c, ldc, add || kb > 0);
                        }
                    }
                    if store.is_none() {
                        // SAFETY: these rows and columns are this chunk's alone.
                        unsafe { sink.store(rows.clone(), cols, sums.as_mut_ptr(), PANEL) };
                    }
                }
            });
        });
    });
}

/// A product of large K and small C: slices of K in parallel, each into sums of its own, which are then added in order.
pub(crate) fn reduction<R: Real>(
    cx: &Context,
    (m, n, k): (usize, usize, usize),
    a: &impl Rows<R>,
    b: &impl Cols<R>,
    sink: &impl Sink<R>,
) {
    const ROWS: usize = 512;
    const PANELS: usize = 8;
    const PARTIAL_ELEMENTS: usize = 4 << 20;
    let ld = n.next_multiple_of(PANEL);
    let slices = (k / 512).min(PARTIAL_ELEMENTS / (m * ld)).clamp(1, 16);
    let k_slice = k.div_ceil(slices);
    let k_each = k_slice.div_ceil(k_slice.div_ceil(BLOCK_K));
    let panels = n.div_ceil(PANEL);
    let row_blocks = m.div_ceil(ROWS);
    let rows_each = m.div_ceil(row_blocks);
    let panels_each = (panels * slices * row_blocks / 16).clamp(1, PANELS);
    let col_blocks = panels.div_ceil(panels_each);
    let (a_direct, b_direct) = (a.direct(), b.direct());
    scratch::<R, _>(Slot::Shared, slices * m * ld, |partial| {
        let to = SendPtr(partial.as_mut_ptr());
        run(cx, slices * row_blocks * col_blocks, m * n * k, |chunk| {
            let (slice, block) = (chunk / (row_blocks * col_blocks), chunk % (row_blocks * col_blocks));
            let (rb, cb) = (block / col_blocks, block % col_blocks);
            let rows = rb * rows_each..((rb + 1) * rows_each).min(m);
            let first_panel = cb * panels_each;
            let panels = first_panel..(first_panel + panels_each).min(panels);
            let end = ((slice + 1) * k_slice).min(k);
            let a_len = if a_direct.is_some() { 0 } else { rows.len() * k_each };
            let b_len = if b_direct.is_some() { 0 } else { PANEL * k_each };
            scratch::<R, _>(Slot::Rows, a_len, |a_block| {
                scratch::<R, _>(Slot::Sums, b_len, |b_panel| {
                    let mut start = (slice * k_slice).min(k);
                    let mut add = false;
                    while start < end || !add {
                        let ks = start..(start + k_each).min(end).max(start);
                        let a = match a_direct {
                            Some(a) => a.at(rows.start, ks.start),
                            None => a.pack(rows.clone(), ks.clone(), a_block),
                        };
                        for panel in panels.clone() {
                            let cols = panel * PANEL..n.min((panel + 1) * PANEL);
                            let (data, b_ld) = match b_direct {
                                Some(b) => (b.at(panel, ks.start), b.ld),
                                None => {
                                    b.pack(ks.clone(), cols.clone(), &mut b_panel[..PANEL * ks.len()]);
                                    (b_panel.as_ptr(), PANEL)
                                }
                            };
                            // SAFETY: the operands have these rows and columns; these sums are this chunk's alone.
                            unsafe {
                                let c = to.get().add((slice * m + rows.start) * ld + cols.start);
                                kernels::block(rows.len(), cols.len(), ks.len(), a, data, b_ld, c, ld, add);
                            }
                        }
                        start = ks.end;
                        add = true;
                    }
                });
            });
        });
        let each = (16384 / (ld * slices)).clamp(1, m);
        run(cx, m.div_ceil(each), slices * m * ld, |chunk| {
            let rows = chunk * each..(chunk * each + each).min(m);
            // SAFETY: the rows of this chunk, in every slice, belong to it alone.
            unsafe {
                let part = |slice: usize| to.get().add((slice * m + rows.start) * ld);
                let sums = std::slice::from_raw_parts_mut(part(0), rows.len() * ld);
                for slice in 1..slices {
                    add_row(sums, std::slice::from_raw_parts(part(slice), rows.len() * ld));
                }
                sink.store(rows.clone(), 0..n, sums.as_mut_ptr(), ld);
            }
        });
    });
}

// ---------------------------------------------------------------- few rows

const LANES: usize = 16;

/// The order in which the lanes of a dot product are added: halves onto halves.
#[inline(always)]
fn fold<R: Real>(mut lanes: [R; LANES]) -> R {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Up to 16 numbers, widened, zeros behind them.
#[inline(always)]
fn load<E: Element>(x: &[E]) -> [E::Acc; LANES] {
    let mut lanes = [E::Acc::ZERO; LANES];
    for (lane, x) in lanes.iter_mut().zip(x) {
        *lane = x.to_acc();
    }
    lanes
}

/// Dot products of M rows of `a` with N rows of `b`, each in 16 interleaved lanes.
#[inline(always)]
pub(crate) fn dots_block<E: Element, const M: usize, const N: usize>(
    a: [&[E::Acc]; M],
    b: [&[E]; N],
) -> [[E::Acc; N]; M] {
    let k = b[0].len();
    let mut lanes = [[[E::Acc::ZERO; LANES]; N]; M];
    let whole = k / LANES * LANES;
    for p in (0..whole).step_by(LANES) {
        let x = a.map(|a| load::<E::Acc>(&a[p..p + LANES]));
        for j in 0..N {
            let y = load::<E>(&b[j][p..p + LANES]);
            for i in 0..M {
                for l in 0..LANES {
                    lanes[i][j][l] += x[i][l] * y[l];
                }
            }
        }
    }
    if whole < k {
        // The rest, filled up with zeros: every index stays a constant, so the sums stay in registers.
        let x = a.map(|a| load::<E::Acc>(&a[whole..]));
        for j in 0..N {
            let y = load::<E>(&b[j][whole..]);
            for i in 0..M {
                for l in 0..LANES {
                    lanes[i][j][l] += x[i][l] * y[l];
                }
            }
        }
    }
    lanes.map(|row| row.map(fold))
}

simd_fn! {
    /// `sums[i, j] = sum_k a[i, k] b[j, k]` for `n` rows of `b`; sums have the row stride `n`.
    fn dots<E: Element>(a: &[E::Acc], b: &[E], k: usize, n: usize, sums: &mut [E::Acc]) {
        let m = sums.len() / n;
        let (row_a, row_b) = (|i: usize| &a[i * k..(i + 1) * k], |j: usize| &b[j * k..(j + 1) * k]);
        let mut j = 0;
        while j < n {
            let many = n - j >= 4;
            let mut i = 0;
            while i < m {
                if many && m - i >= 2 {
                    let s = dots_block::<E, 2, 4>([row_a(i), row_a(i + 1)], [row_b(j), row_b(j + 1), row_b(j + 2), row_b(j + 3)]);
                    sums[i * n + j..][..4].copy_from_slice(&s[0]);
                    sums[(i + 1) * n + j..][..4].copy_from_slice(&s[1]);
                    i += 2;
                } else if many {
                    let s = dots_block::<E, 1, 4>([row_a(i)], [row_b(j), row_b(j + 1), row_b(j + 2), row_b(j + 3)]);
                    sums[i * n + j..][..4].copy_from_slice(&s[0]);
                    i += 1;
                } else {
                    sums[i * n + j] = dots_block::<E, 1, 1>([row_a(i)], [row_b(j)])[0][0];
                    i += 1;
                }
            }
            j += if many { 4 } else { 1 };
        }
    }
}

simd_fn! {
    /// The same sums from a panel of `b`: lane l of the dot products is a vector over 16 columns here.
    fn dots_panel<R: Real>(a: &[R], panel: &[R], n: usize, sums: &mut [R]) {
        for half in (0..n).step_by(LANES) {
            let mut lanes = [[R::ZERO; LANES]; LANES];
            for (a, rows) in a.chunks(LANES).zip(panel.chunks(LANES * PANEL)) {
                for ((lane, &x), row) in lanes.iter_mut().zip(a).zip(rows.chunks_exact(PANEL)) {
                    let row = &row[half..half + LANES];
                    for q in 0..LANES {
                        lane[q] += x * row[q];
                    }
                }
            }
            let mut size = LANES / 2;
            while size > 0 {
                for l in 0..size {
                    for q in 0..LANES {
                        lanes[l][q] += lanes[l + size][q];
                    }
                }
                size /= 2;
            }
            let count = LANES.min(n - half);
            sums[half..half + count].copy_from_slice(&lanes[0][..count]);
        }
    }
}

/// A product of few rows, whose second operand is `b` (N rows of K) or `panels`.
fn few_rows<E: Element>(
    cx: &Context,
    (m, n, k): (usize, usize, usize),
    a: &[E],
    b: Result<&[E], &PackedB<E>>,
    sink: &impl Sink<E::Acc>,
) {
    let each = ((64 << 10) / (m * k).max(1)).next_multiple_of(PANEL).min(n.next_multiple_of(PANEL));
    scratch::<E::Acc, _>(Slot::Shared, m * k, |wide| {
        widen(wide, &a[..m * k]);
        let wide = &*wide;
        run(cx, n.div_ceil(each), m * n * k, |chunk| {
            let cols = chunk * each..n.min((chunk + 1) * each);
            scratch::<E::Acc, _>(Slot::Sums, m * cols.len(), |sums| {
                match b {
                    Ok(b) => dots(wide, &b[cols.start * k..cols.end * k], k, cols.len(), sums),
                    Err(packed) => {
                        let panels = packed.panels();
                        for i in 0..m {
                            for j in cols.clone().step_by(PANEL) {
                                let count = PANEL.min(cols.end - j);
                                let panel = &panels[j / PANEL * k * PANEL..][..k * PANEL];
                                let at = i * cols.len() + j - cols.start;
                                dots_panel(&wide[i * k..(i + 1) * k], panel, count, &mut sums[at..at + count]);
                            }
                        }
                    }
                }
                // SAFETY: these columns are this chunk's alone.
                unsafe { sink.store(0..m, cols.clone(), sums.as_mut_ptr(), cols.len()) };
            });
        });
    });
}

// ---------------------------------------------------------------- entries

/// A second operand in panels, in the accumulation type.
pub struct PackedB<E: Element> {
    lines: Vec<Line>,
    k: usize,
    element: std::marker::PhantomData<E>,
}

impl<E: Element> PackedB<E> {
    /// Nothing, for a dry run.
    pub fn empty() -> Self {
        PackedB { lines: Vec::new(), k: 0, element: std::marker::PhantomData }
    }

    fn panels(&self) -> &[E::Acc] {
        let len = self.lines.len() * 64 / size_of::<E::Acc>();
        // SAFETY: the lines are aligned and initialised, and any bits are a valid `Pod`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), len) }
    }
}

impl<E: Element> Cols<E::Acc> for PackedB<E> {
    fn direct(&self) -> Option<Panels<E::Acc>> {
        None
    }

    fn pack(&self, ks: Range<usize>, js: Range<usize>, dst: &mut [E::Acc]) {
        let from = js.start / PANEL * self.k * PANEL + ks.start * PANEL;
        dst.copy_from_slice(&self.panels()[from..][..ks.len() * PANEL]);
    }
}

/// Packs a second operand: `[N, K]` in form Nt, `[K, N]` in the others.
pub fn pack<E: Element>(cx: &Context, form: Form, n: usize, k: usize, b: &[E]) -> PackedB<E> {
    let len = n.next_multiple_of(PANEL) * k;
    let mut lines = vec![Line([0; 64]); (len * size_of::<E::Acc>()).div_ceil(64)];
    // SAFETY: as in `panels`, and the lines are ours alone.
    let dst = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<E::Acc>(), len) };
    pack_panels(cx, &second(form, usize::MAX, n, k, b), k, 0..n, dst);
    PackedB { lines, k, element: std::marker::PhantomData }
}

fn first<E: Element>(form: Form, m: usize, k: usize, data: &[E]) -> Matrix<'_, E> {
    if form == Form::Tn { Matrix { data, row: 1, col: m } } else { Matrix { data, row: k, col: 1 } }
}

fn second<E: Element>(form: Form, m: usize, n: usize, k: usize, data: &[E]) -> Second<'_, E> {
    let transposed = form == Form::Nt;
    Second { data, ld: if transposed { k } else { n }, transposed, reused: m >= 64 && n > 4 * PANEL }
}

/// Whether a product goes to `reduction`.
fn is_reduction(form: Form, k: usize) -> bool {
    form == Form::Tn && k >= 1024
}

/// `batch` products. Small ones run beside each other, large ones one after the other.
#[allow(clippy::too_many_arguments)]
pub fn gemm<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    batch: usize,
    (m, n, k): (usize, usize, usize),
    form: Form,
    a: &[E],
    b: &[E],
    c: &mut [O],
    epilogue: &Epilogue<'_, E>,
) {
    let c = SendPtr(c.as_mut_ptr());
    let one = |z: usize| {
        let (a, b) = (&a[z * m * k..(z + 1) * m * k], &b[z * n * k..(z + 1) * n * k]);
        // SAFETY: the part of C that belongs to product z.
        let sink = output(SendPtr(unsafe { c.get().add(z * m * n) }), z, m, n, epilogue);
        let size = (m, n, k);
        if form == Form::Nt && m <= FEW_ROWS {
            few_rows(cx, size, a, Ok(b), &sink);
        } else if is_reduction(form, k) {
            reduction(cx, size, &first(form, m, k, a), &second(form, m, n, k, b), &sink);
        } else {
            product(cx, size, &first(form, m, k, a), &second(form, m, n, k, b), &sink);
        }
    };
    if m * n * k >= 4 << 20 || batch == 1 {
        (0..batch).for_each(one);
    } else {
        let each = (INLINE_WORK / (m * n * k).max(1)).clamp(1, batch);
        run(cx, batch.div_ceil(each), batch * m * n * k, |chunk| {
            (chunk * each..(chunk * each + each).min(batch)).for_each(one)
        });
    }
}

/// A product with a packed second operand.
pub fn gemm_packed<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    (m, n, k): (usize, usize, usize),
    form: Form,
    a: &[E],
    b: &PackedB<E>,
    c: &mut [O],
    epilogue: &Epilogue<'_, E>,
) {
    let sink = output(SendPtr(c.as_mut_ptr()), 0, m, n, epilogue);
    if form == Form::Nt && m <= FEW_ROWS {
        few_rows(cx, (m, n, k), a, Err(b), &sink);
    } else if is_reduction(form, k) {
        reduction(cx, (m, n, k), &first(form, m, k, a), b, &sink);
    } else {
        let panels = Panels { data: b.panels().as_ptr(), panel: k * PANEL, ld: PANEL };
        grid(cx, m, 0..n, k, &first(form, m, k, a), panels, &sink);
    }
}

fn output<'a, E: Element, O: Element<Acc = E::Acc>>(
    c: SendPtr<O>,
    z: usize,
    m: usize,
    n: usize,
    epilogue: &Epilogue<'a, E>,
) -> Output<'a, E, O> {
    Output {
        c,
        n,
        bias: epilogue.bias.map(|x| x.data()),
        activation: epilogue.activation,
        scale: epilogue.scale.map(|x| x.data()),
        residual: epilogue.residual.map(|x| &x.data()[z * m * n..(z + 1) * m * n]),
        add: epilogue.accumulate == Accumulate::Add,
    }
}
