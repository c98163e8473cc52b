#![allow(clippy::needless_range_loop)] // sums in registers: every index is a constant once the loops are unrolled

//! Where sums go: straight into C where nothing but a bias and a residual is added, otherwise through [`Output`]'s pass over a block of sums that
//! is still in the cache.

use std::array::from_fn;
use std::ops::Range;

use super::kernels::Finish;
use crate::device::SendPtr;
use crate::dtype::Element;
use crate::host::activation::by_kind;
use crate::ops::gemm::Activation;
use crate::simd_fn;

/// C, if the kernels may write their sums into it.
pub(crate) struct Direct<R> {
    /// Its first number.
    pub(crate) c: SendPtr<R>,
    /// Numbers between its rows.
    pub(crate) ld: usize,
    /// Whether sums are added to what is there.
    pub(crate) add: bool,
    /// What is added to the sums, for the whole of C.
    pub(crate) finish: Finish<R>,
}

impl<R> Direct<R> {
    /// What is added to a block that begins at number `at` of C and at this column.
    pub(super) fn finish(&self, at: usize, column: usize) -> Finish<R> {
        let moved = |x: *const R, by: usize| if x.is_null() { x } else { x.wrapping_add(by) };
        Finish { bias: moved(self.finish.bias, column), residual: moved(self.finish.residual, at) }
    }
}

/// Where sums go.
pub(crate) trait Sink<R>: Sync {
    /// C, if sums are stored as they are but for what [`Finish`] says.
    fn direct(&self) -> Option<Direct<R>>;
    /// Takes the sums of `rows x cols`, at `sums` with row stride `ld`; it may change them.
    ///
    /// # Safety
    /// Nobody else has these rows and columns of the output, and `sums` is writable.
    unsafe fn store(&self, rows: Range<usize>, cols: Range<usize>, sums: *mut R, ld: usize);
}

simd_fn! {
    /// `sums += x`
    pub(crate) fn add_row<E: Element>(sums: &mut [E::Acc], x: &[E]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x.to_acc();
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

/// The output of a product: C `[M, N]`, and what [`Epilogue`](crate::ops::gemm::Epilogue) says.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a, E: Element, O> {
    pub(crate) c: *mut O,
    pub(crate) n: usize,
    pub(crate) bias: Option<&'a [E]>,
    /// Added after the bias: rows of a table, each for so many rows of C.
    pub(crate) shift: Option<(&'a [E], usize)>,
    pub(crate) activation: Activation,
    pub(crate) scale: Option<&'a [E]>,
    pub(crate) residual: Option<&'a [E]>,
    pub(crate) add: bool,
}

// SAFETY: whoever stores through the pointer promises that nobody else has the rows and columns that he stores.
unsafe impl<E: Element, O: Element> Sync for Output<'_, E, O> {}

impl<'a, E: Element, O> Output<'a, E, O> {
    /// Sums go to `c`, whose rows have `n` elements, as they are.
    pub(crate) fn plain(c: *mut O, n: usize) -> Self {
        let activation = Activation::None;
        Output { c, n, bias: None, shift: None, activation, scale: None, residual: None, add: false }
    }
}

/// Numbers that go through [`finish`] side by side.
const LANES: usize = 16;

/// `act(sum + bias + shift)` for a part of a row, in place. Loops of their own: behind others in one body an activation would not be vectorised.
#[inline(always)]
fn activate<E: Element, O>(out: &Output<'_, E, O>, (row, column): (usize, usize), sums: &mut [E::Acc]) {
    if let Some(bias) = out.bias {
        sums.iter_mut().zip(&bias[column..]).for_each(|(x, bias)| *x += bias.to_acc());
    }
    if let Some((table, rows)) = out.shift {
        let shift = &table[row / rows * out.n + column..];
        sums.iter_mut().zip(shift).for_each(|(x, shift)| *x += shift.to_acc());
    }
    let kind = out.activation;
    by_kind!(kind => for x in sums {
        *x = kind.apply(*x);
    })
}

/// N numbers of a row from their sums on: `residual + scale * (sum + bias + shift)`, and C's own.
#[inline(always)]
fn finish_part<E: Element, O: Element<Acc = E::Acc>, const N: usize>(
    out: &Output<'_, E, O>,
    (row, column): (usize, usize),
    sums: &[E::Acc],
    c: &mut [O],
) {
    let mut x: [E::Acc; N] = from_fn(|i| sums[i]);
    if let Some(bias) = out.bias {
        let bias = &bias[column..column + N];
        x = from_fn(|i| x[i] + bias[i].to_acc());
    }
    if let Some((table, rows)) = out.shift {
        let shift = &table[row / rows * out.n + column..][..N];
        x = from_fn(|i| x[i] + shift[i].to_acc());
    }
    if let Some(scale) = out.scale {
        let scale = &scale[column..column + N];
        x = from_fn(|i| x[i] * scale[i].to_acc());
    }
    if let Some(residual) = out.residual {
        let residual = &residual[row * out.n + column..][..N];
        x = from_fn(|i| x[i] + residual[i].to_acc());
    }
    if out.add {
        x = from_fn(|i| x[i] + c[i].to_acc());
    }
    let rounded: [O; N] = from_fn(|i| O::from_acc(x[i]));
    c.copy_from_slice(&rounded);
}

simd_fn! {
    /// The epilogue over a block of sums.
    fn finish<E: Element, O: Element<Acc = E::Acc>>(out: &Output<'_, E, O>, rows: Range<usize>, cols: Range<usize>, sums: &mut [E::Acc], ld: usize) {
        let n = cols.len();
        let whole = n / LANES * LANES;
        let active = out.activation != Activation::None;
        let rest = if active { Output { bias: None, shift: None, ..*out } } else { *out };
        for (row, sums) in rows.zip(sums.chunks_mut(ld)) {
            if active {
                activate(out, (row, cols.start), &mut sums[..n]);
            }
            // SAFETY: `Sink::store` was promised these rows and columns.
            let c = unsafe { std::slice::from_raw_parts_mut(out.c.add(row * out.n + cols.start), n) };
            for (i, (sums, c)) in sums.chunks_exact(LANES).zip(c.chunks_exact_mut(LANES)).enumerate() {
                finish_part::<E, O, LANES>(&rest, (row, cols.start + i * LANES), sums, c);
            }
            for i in whole..n {
                finish_part::<E, O, 1>(&rest, (row, cols.start + i), &sums[i..], &mut c[i..=i]);
            }
        }
    }
}

impl<E: Element, O: Element<Acc = E::Acc>> Sink<E::Acc> for Output<'_, E, O> {
    fn direct(&self) -> Option<Direct<E::Acc>> {
        let accumulated = |x: Option<&[E]>| match x {
            Some(x) => super::same(x),
            None => Some(std::ptr::null()),
        };
        let finish = Finish { bias: accumulated(self.bias)?, residual: accumulated(self.residual)? };
        let plain = self.activation == Activation::None && self.scale.is_none() && self.shift.is_none();
        let adds = self.add && !(finish.bias.is_null() && finish.residual.is_null());
        (plain && !adds && O::DTYPE == E::Acc::DTYPE).then(|| Direct {
            c: SendPtr(self.c.cast()),
            ld: self.n,
            add: self.add,
            finish,
        })
    }

    unsafe fn store(&self, rows: Range<usize>, cols: Range<usize>, sums: *mut E::Acc, ld: usize) {
        if rows.is_empty() || cols.is_empty() {
            return;
        }
        // SAFETY: the caller's promise: the last row ends after its columns.
        let sums = unsafe { std::slice::from_raw_parts_mut(sums, (rows.len() - 1) * ld + cols.len()) };
        finish(self, rows, cols, sums, ld);
    }
}
