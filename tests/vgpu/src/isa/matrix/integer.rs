//! `mma.sync` of 8-, 4- and 1-bit integers with s32 sums.
//!
//! A lane's register of A and one of B with the same `t` hold the same stretch of `k`. So an element of D is a sum, over
//! registers and the four lanes of a row and of a column, of dot products of registers, as `dp4a` has them.
//!
//! Bytes in shape m16n8 go through the vectors of the floating-point shapes: at most 32 products below 2^16 sum to less than 2^24, which
//! f32 holds exactly.

use super::{Element, Level, Mma, product};
use crate::isa::{Lanes, WARP};

/// The dot product of two registers.
#[inline(always)]
fn dot(a: Element, b: Element, x: u32, y: u32) -> i32 {
    let element = |kind: Element, register: u32, index: u32| {
        let width = kind.width();
        let upper = register << (32 - width - width * index);
        match kind {
            Element::S8 | Element::S4 => upper as i32 >> (32 - width),
            _ => (upper >> (32 - width)) as i32,
        }
    };
    match a {
        Element::XorPopulation => (x ^ y).count_ones() as i32,
        Element::AndPopulation => (x & y).count_ones() as i32,
        _ => (0..32 / a.width()).map(|index| element(a, x, index) * element(b, y, index)).sum(),
    }
}

/// D of an integer `mma.sync`; sums wrap, or are clamped with `.satfinite`.
pub fn mma(level: Level, shape: &Mma, d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) {
    if shape.rows == 16 && shape.a.width() == 8 {
        let mut products = [[0; WARP]; 4];
        product::mma(level, (shape.a, shape.b), false)(&mut products, a, b, &[&[0; WARP]; 4]);
        for ((sum, start), product) in d.iter_mut().zip(c).zip(&products) {
            for lane in 0..WARP {
                let (start, product) = (start[lane] as i32, f32::from_bits(product[lane]) as i32);
                let total = if shape.saturate { start.saturating_add(product) } else { start.wrapping_add(product) };
                sum[lane] = total as u32;
            }
        }
        return;
    }
    let halves = shape.rows as usize / 8;
    for (register, (sum, start)) in d.iter_mut().zip(c).enumerate() {
        for lane in 0..WARP {
            let (row, column) = (lane / 4, 2 * (lane % 4) + register % 2);
            let mut total = start[lane] as i32 as i64;
            for (block, rows_of_b) in b.iter().enumerate() {
                let rows_of_a = a[block * halves + register / 2];
                for t in 0..4 {
                    total += dot(shape.a, shape.b, rows_of_a[4 * row + t], rows_of_b[4 * column + t]) as i64;
                }
            }
            let clamped = total.clamp(i32::MIN as i64, i32::MAX as i64);
            sum[lane] = if shape.saturate { clamped } else { total } as u32;
        }
    }
}
