//! `mma.sync.m8n8k4` of f16: four independent products, one for each *quad pair* (lanes `4 p .. 4 p + 4` and the same
//! plus 16).
//!
//! Lane `l` has `i = l % 4`, and `upper` for `l >= 16`. Two registers of A hold elements 0 to 3, likewise of B; C and D
//! hold elements 0 to 7, as four registers of f16 or eight of f32:
//! * A by rows: row `i + 4 upper`, column `element`; by columns: row `element + 4 upper`, column `i`;
//! * B by rows: row `i`, column `element + 4 upper`; by columns: row `element`, column `i + 4 upper`;
//! * C and D of f16: row `i + 4 upper`, column `element`; of f32: row `i % 2 + element & 2 + 4 upper`, column
//!   `element & 4 + i & 2 + element % 2`.
//!
//! Arithmetic as in the other shapes: products exact, sums in f32 in order of `k`, f16 rounded at the end.

use super::Sum;
use crate::isa::half::{F16, Half, pack, unpack};
use crate::isa::{Lanes, WARP};

/// Row or column order of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// `.row`
    Rows,
    /// `.col`
    Columns,
}

/// Row and column of an element of C or D.
fn place(sum: Sum, lane: usize, element: usize) -> (usize, usize) {
    let (own, upper) = (lane % 4, 4 * (lane / 16));
    match sum {
        Sum::F16 => (own + upper, element),
        _ => (own % 2 + (element & 2) + upper, (element & 4) + (own & 2) + element % 2),
    }
}

/// Element `element` of a lane whose registers hold f16 pairs.
fn half(registers: &[&Lanes], lane: usize, element: usize) -> f32 {
    unpack::<F16>(registers[element / 2][lane])[element % 2].to_f32()
}

/// The lanes of quad pair `pair`.
fn lanes(pair: usize) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| lane % 16 / 4 == pair)
}

/// `mma.sync.aligned.m8n8k4`; A and B have two registers, C and D four or eight.
pub fn mma(orders: (Order, Order), sums: (Sum, Sum), d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) {
    for pair in 0..4 {
        let (mut left, mut right, mut sum) = ([[0f32; 4]; 8], [[0f32; 8]; 4], [[0f32; 8]; 8]);
        for lane in lanes(pair) {
            let (own, upper) = (lane % 4, 4 * (lane / 16));
            for element in 0..4 {
                let (row, column) =
                    if orders.0 == Order::Rows { (own + upper, element) } else { (element + upper, own) };
                left[row][column] = half(a, lane, element);
                let (row, column) =
                    if orders.1 == Order::Rows { (own, element + upper) } else { (element, own + upper) };
                right[row][column] = half(b, lane, element);
            }
            for element in 0..8 {
                let (row, column) = place(sums.0, lane, element);
                sum[row][column] =
                    if sums.0 == Sum::F16 { half(c, lane, element) } else { f32::from_bits(c[element][lane]) };
            }
        }
        for (row, sums) in sum.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum = (0..4).fold(*sum, |sum, k| left[row][k].mul_add(right[k][column], sum));
            }
        }
        for lane in lanes(pair) {
            let value = |element: usize| {
                let (row, column) = place(sums.1, lane, element);
                crate::isa::float32::canonical(sum[row][column])
            };
            if sums.1 == Sum::F16 {
                for (register, d) in d.iter_mut().enumerate() {
                    d[lane] = pack([0, 1].map(|part| F16::from_f32(value(2 * register + part))));
                }
            } else {
                for (element, d) in d.iter_mut().enumerate() {
                    d[lane] = value(element).to_bits();
                }
            }
        }
    }
}
