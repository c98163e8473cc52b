//! Per-thread buffers that stay with the thread, so that the steady state allocates nothing.

use std::cell::RefCell;

use crate::dtype::Element;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u8; 64]);

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
