//! The two general ways through a product: a grid of blocks of C, and slices of a long K.

use std::ops::Range;

use super::kernels::{self, Finish, MAX_ROWS, PANEL};
use super::operands::{Cols, Panels, Rows};
use super::output::{Sink, add_row};
use super::{BLOCK_ELEMENTS, BLOCK_K, BLOCK_ROWS, PACK_ELEMENTS, SINGLE_K, Slot, run, scratch};
use crate::device::{Context, SendPtr};
use crate::dtype::Real;

/// Packs columns `js` of all K rows into `dst`, a panel after the other.
pub(super) fn pack_panels<R: Real, B: Cols<R>>(
    cx: &Context,
    b: &B,
    k: usize,
    js: Range<usize>,
    dst: &mut [R],
) -> Panels<R> {
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
pub(super) fn grid<R: Real>(
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
    let most_rows = if direct.is_some() { BLOCK_ROWS } else { (BLOCK_ELEMENTS / k.max(1)).clamp(MAX_ROWS, BLOCK_ROWS) };
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
                    let (c, ldc, add, finish) = match &store {
                        Some(to) => {
                            let at = rows.start * to.ld + cols.start;
                            // SAFETY: inside C, which has these rows and columns.
                            (unsafe { to.c.get().add(at) }, to.ld, to.add, to.finish(at, cols.start))
                        }
                        None => (sums.as_mut_ptr(), PANEL, false, Finish::none()),
                    };
                    for kb in 0..k_blocks {
                        let ks = kb * k_each..((kb + 1) * k_each).min(k);
                        let finish = if kb + 1 == k_blocks { finish } else { Finish::none() };
                        // SAFETY: the operands have these rows and columns; C's are this chunk's alone.
                        unsafe {
                            let data = b.at(panel, ks.start);
                            let a = a.at(0, ks.start);
                            kernels::block(
                                rows.len(),
                                cols.len(),
                                ks.len(),
                                a,
                                data,
                                b.ld,
                                c,
                                ldc,
                                add || kb > 0,
                                finish,
                            );
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
                                kernels::block(
                                    rows.len(),
                                    cols.len(),
                                    ks.len(),
                                    a,
                                    data,
                                    b_ld,
                                    c,
                                    ld,
                                    add,
                                    Finish::none(),
                                );
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
