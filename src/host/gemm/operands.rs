//! Where the operands of a product come from: matrices in memory, panels packed before, or whatever can be gathered a block at a time.

use std::ops::Range;

use super::kernels::{self, PANEL, Strided};
use super::scratch::Line;
use crate::dtype::{Element, Real};
use crate::simd_fn;

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
    pub(super) fn at(self, j: usize, p: usize) -> *const R {
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

/// A second operand in panels, in the accumulation type.
pub struct PackedB<E: Element> {
    pub(super) lines: Vec<Line>,
    pub(super) k: usize,
    pub(super) element: std::marker::PhantomData<E>,
}

impl<E: Element> PackedB<E> {
    /// Nothing, for a dry run.
    pub fn empty() -> Self {
        PackedB { lines: Vec::new(), k: 0, element: std::marker::PhantomData }
    }

    /// All panels, one after the other.
    pub(super) fn panels(&self) -> &[E::Acc] {
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
