//! Rotary position embedding on the host; see [`crate::ops::rope`].

use super::parallel::{rows_per_chunk, with_scratch};
use crate::device::Pool;
use crate::dtype::{Element, Real};
use crate::simd_fn;

simd_fn! {
    /// Rotates all heads of one row.
    fn rotate_row<E: Element>(row: &mut [E], cos: &[E::Acc], sin: &[E::Acc]) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let (a, b) = (low.to_acc(), high.to_acc());
                *low = E::from_acc(a * cos - b * sin);
                *high = E::from_acc(b * cos + a * sin);
            }
        }
    }
}

/// Rotates the rows of x, which have `cols` elements, by the angles of their positions, or back.
pub fn rotate<E: Element>(
    pool: &Pool,
    x: &mut [E],
    positions: &[i32],
    head_size: usize,
    cols: usize,
    theta: f64,
    inverse: bool,
) {
    let half = head_size / 2;
    with_scratch(half, |frequency: &mut [E::Acc]| {
        for (k, f) in frequency.iter_mut().enumerate() {
            *f = E::Acc::of(theta.powf(-((2 * k) as f64) / head_size as f64));
        }
        let frequency = &*frequency;
        let rows = rows_per_chunk(cols);
        pool.run_parts(x, rows * cols, |chunk, x| {
            with_scratch(head_size, |table: &mut [E::Acc]| {
                let (cos, sin) = table.split_at_mut(half);
                let mut last = None;
                for (row, &position) in x.chunks_exact_mut(cols).zip(&positions[chunk * rows..]) {
                    if last != Some(position) {
                        angles(position, frequency, cos, sin, inverse);
                        last = Some(position);
                    }
                    rotate_row(row, cos, sin);
                }
            });
        });
    });
}

/// Cosine and sine of every angle at a position.
fn angles<A: Real>(position: i32, frequency: &[A], cos: &mut [A], sin: &mut [A], inverse: bool) {
    let p = A::of(f64::from(position));
    for ((cos, sin), &f) in cos.iter_mut().zip(sin).zip(frequency) {
        let angle = p * f;
        *cos = angle.cos();
        *sin = if inverse { -angle.sin() } else { angle.sin() };
    }
}
