//! Matrix products on the processor.
//!
//! A product is a grid of blocks of C (at most `BLOCK_ROWS` rows). For each panel of 32 columns the block's rows are taken through
//! `kernels::block`, in slices of K that keep the panel in the first-level cache. The kernels add a bias and a residual themselves; other epilogues
//! are a pass over the sums while they are still in the cache (`output`). The first operand is read where it lies if it is stored in the accumulation type (any strides will do), otherwise it is
//! widened, a block at a time, into the thread's scratch; convolutions gather their pixels in the same place (`Rows`). The second
//! operand is transposed or widened into panels (`Cols`) once, for all blocks.
//!
//! | variant | when |
//! |---|---|
//! | `dots` | form Nt, at most `FEW_ROWS` rows: each row of the weights is read once, in its own order |
//! | `product` | everything else |
//! | `reduction` | K of thousands and a small C (weight gradients): K is cut into slices by shape alone, summed in order |
//!
//! Measured with `cargo bench --bench ops` on one core of an AVX-512 server whose clock moved between two states during the run
//! (about 100 and 147 GFLOP/s of f32 multiply-adds; best of several runs, GFLOP/s):
//!
//! | Nt 1024^3 | Nt 8192x64x64 | Nt 2048x256x64 | Nt 64x64x16 | Nt 4x512x512 | Nn 2048x64x256 | Tn 64x64x8192 | Nt 1024^3 bf16 | Nt 512^3 f64 |
//! |---|---|---|---|---|---|---|---|---|
//! | 142-145 | 130 | 147 | 117 | 56 | 148 | 123 | 137 | 23 |
//!
//! Sums of one element run over k in rising order in blocks that depend on K alone (`dots`: in 16 interleaved lanes), so bits do not
//! depend on threads, nor on whether operands were packed before.

mod few_rows;
pub(crate) mod kernels;
mod operands;
mod output;
mod product;
mod scratch;

pub(crate) use few_rows::dots_block;
pub use operands::PackedB;
pub(crate) use operands::{Cols, Matrix, Panels, Rows, Second, same, widen};
pub(crate) use output::{Direct, Output, Sink, add_row, store_row};
pub(crate) use product::{product, reduction};
pub(crate) use scratch::{Slot, scratch};

use crate::device::{Context, SendPtr};
use crate::dtype::Element;
use crate::ops::Accumulate;
use crate::ops::gemm::{Epilogue, Form};
use few_rows::few_rows;
use kernels::PANEL;
use product::{grid, pack_panels};
use scratch::Line;

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

/// Runs on the pool, or on the spot when the work (multiply-adds) is tiny.
pub(crate) fn run(cx: &Context, chunks: usize, work: usize, f: impl Fn(usize) + Sync) {
    if work <= INLINE_WORK {
        (0..chunks).for_each(f);
    } else {
        cx.pool().run(chunks, f);
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
        let sink = output(unsafe { c.get().add(z * m * n) }, z, m, n, epilogue);
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
    let sink = output(c.as_mut_ptr(), 0, m, n, epilogue);
    if form == Form::Nt && m <= FEW_ROWS {
        few_rows(cx, (m, n, k), a, Err(b), &sink);
    } else if is_reduction(form, k) {
        reduction(cx, (m, n, k), &first(form, m, k, a), b, &sink);
    } else {
        let panels = Panels { data: b.panels().as_ptr(), panel: k * PANEL, ld: PANEL };
        grid(cx, m, 0..n, k, &first(form, m, k, a), panels, &sink);
    }
}

fn output<'a, E: Element, O: Element>(
    c: *mut O,
    z: usize,
    m: usize,
    n: usize,
    epilogue: &Epilogue<'a, E>,
) -> Output<'a, E, O> {
    Output {
        bias: epilogue.bias.map(|x| x.data()),
        activation: epilogue.activation,
        scale: epilogue.scale.map(|x| x.data()),
        residual: epilogue.residual.map(|x| &x.data()[z * m * n..(z + 1) * m * n]),
        add: epilogue.accumulate == Accumulate::Add,
        ..Output::plain(c, n)
    }
}
