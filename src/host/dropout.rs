//! Dropout on the host; see [`crate::ops::dropout`]. A chunk is one row: a number costs a few nanoseconds, most of it the generator.

use crate::device::Pool;
use crate::dtype::{Element, Real};
use crate::ops::dropout::Dropout;

/// Numbers of a row that are in hand at once; a multiple of 4.
const BLOCK: usize = 64;

/// See [`crate::ops::dropout::forward`].
pub fn forward<E: Element>(pool: &Pool, x: &[E], residual: Option<&[E]>, y: &mut [E], cols: usize, dropout: &Dropout) {
    pool.run_parts(y, cols, |row, y| {
        let range = row * cols..(row + 1) * cols;
        let (x, residual) = (&x[range.clone()], residual.map(|r| &r[range]));
        for (block, y) in y.chunks_mut(BLOCK).enumerate() {
            let first = block * BLOCK;
            let mut values = [E::Acc::ZERO; BLOCK];
            let values = &mut values[..y.len()];
            for (value, x) in values.iter_mut().zip(&x[first..]) {
                *value = x.to_acc();
            }
            dropout.apply(values, row, cols, first);
            if let Some(residual) = residual {
                for (value, r) in values.iter_mut().zip(&residual[first..]) {
                    *value += r.to_acc();
                }
            }
            for (y, value) in y.iter_mut().zip(values) {
                *y = E::from_acc(*value);
            }
        }
    });
}
