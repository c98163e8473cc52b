//! Matrix instructions (PTX ISA 9.7.14 and 9.7.15): mma.sync, wgmma, ldmatrix, stmatrix, movmatrix.
//!
//! # Fragments
//! With lane `4 g + t`, a register of `e` elements (32 bits over the element's width):
//! * A, register `r`: row `g + 8 (r % 2)`, columns `4 e (r / 2) + e t + i`, for `i < e`;
//! * B, register `r`: rows `4 e r + e t + i`, column `g`;
//! * C and D of 32 bits (f64 too), register `r`: row `g + 8 (r / 2)`, column `2 t + r % 2`; of f16, register `r`: row
//!   `g + 8 r`, columns `2 t` and `2 t + 1`.
//!
//! That is the ISA's tables for every shape m16n8 in one rule. In shapes m8n8 there is no second half of rows. The
//! f16 shape m8n8k4, of an older generation, is its own case ([`quad_pair`]).
//!
//! # What there is
//! | elements | shapes | sums |
//! |---|---|---|
//! | f16 | m16n8k8, m16n8k16, m8n8k4 | f16, f32 |
//! | bf16 | m16n8k8, m16n8k16 | f32 |
//! | tf32 | m16n8k4, m16n8k8 | f32 |
//! | e4m3, e5m2, mixed too | m16n8k16, m16n8k32 | f16, f32 |
//! | f64 | m8n8k4, m16n8k4, m16n8k8, m16n8k16 | f64 ([`mma_f64`]) |
//! | s8, u8, mixed too | m8n8k16, m16n8k16, m16n8k32 | s32 |
//! | s4, u4, mixed too | m8n8k32, m16n8k32, m16n8k64 | s32 |
//! | b1, and or xor | m8n8k128, m16n8k128, m16n8k256 | s32 |
//!
//! Products with half of A missing are in [`sparse`]; `wmma`, whose fragments are opaque, is in the executor. Not here: the block-scaled forms of sm_120.

pub mod integer;
pub mod move_rows;
mod product;
pub mod quad_pair;
pub mod sparse;
mod vector;
pub mod wgmma;

pub use vector::Level;

use super::{Lanes, Lanes64, Rounding, WARP, float64};

/// Types of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
    /// `.tf32`
    Tf32,
    /// `.f64`
    F64,
    /// `.e4m3`
    E4m3,
    /// `.e5m2`
    E5m2,
    /// `.s8`
    S8,
    /// `.u8`
    U8,
    /// `.s4`
    S4,
    /// `.u4`
    U4,
    /// `.b1` with `.xor.popc`
    XorPopulation,
    /// `.b1` with `.and.popc`
    AndPopulation,
}

impl Element {
    /// Bits of an element.
    pub const fn width(self) -> u32 {
        match self {
            Element::F64 => 64,
            Element::Tf32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => 8,
            Element::S4 | Element::U4 => 4,
            Element::XorPopulation | Element::AndPopulation => 1,
        }
    }
}

/// Types of C and D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sum {
    /// `.f16`, two of a row in a register.
    F16,
    /// `.f32`
    F32,
    /// `.f64`
    F64,
    /// `.s32`
    S32,
}

/// An `mma.sync`: M x K times K x N.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mma {
    /// M
    pub rows: u32,
    /// N
    pub columns: u32,
    /// K
    pub depth: u32,
    /// Type of A.
    pub a: Element,
    /// Type of B.
    pub b: Element,
    /// Type of C.
    pub c: Sum,
    /// Type of D.
    pub d: Sum,
    /// `.satfinite` of integers: sums are clamped instead of wrapped.
    pub saturate: bool,
}

/// Registers of the four operands, per lane; pairs of 32 bits count once for f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Of A.
    pub a: usize,
    /// Of B.
    pub b: usize,
    /// Of C.
    pub c: usize,
    /// Of D.
    pub d: usize,
}

impl Mma {
    /// Whether the ISA (up to sm_90) has this shape with these types.
    pub fn is_supported(&self) -> bool {
        let shape = (self.rows, self.columns, self.depth);
        let sums = (self.c, self.d);
        let of = |elements: &[Element]| elements.contains(&self.a) && elements.contains(&self.b);
        let is = |shapes: &[(u32, u32, u32)]| shapes.contains(&shape);
        let same = self.a == self.b;
        let floating = matches!(sums, (Sum::F32, Sum::F32) | (Sum::F16, Sum::F16));
        let integral = sums == (Sum::S32, Sum::S32);
        match self.a {
            Element::F16 if is(&[(8, 8, 4)]) => same && matches!(self.c, Sum::F16 | Sum::F32) && floating_sum(self.d),
            Element::F16 => same && floating && is(&[(16, 8, 8), (16, 8, 16)]),
            Element::Bf16 => same && sums == (Sum::F32, Sum::F32) && is(&[(16, 8, 8), (16, 8, 16)]),
            Element::Tf32 => same && sums == (Sum::F32, Sum::F32) && is(&[(16, 8, 4), (16, 8, 8)]),
            Element::E4m3 | Element::E5m2 => {
                of(&[Element::E4m3, Element::E5m2]) && floating && is(&[(16, 8, 16), (16, 8, 32)])
            }
            Element::F64 => {
                same && sums == (Sum::F64, Sum::F64) && is(&[(8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)])
            }
            Element::S8 | Element::U8 => {
                of(&[Element::S8, Element::U8]) && integral && is(&[(8, 8, 16), (16, 8, 16), (16, 8, 32)])
            }
            Element::S4 | Element::U4 => {
                of(&[Element::S4, Element::U4]) && integral && is(&[(8, 8, 32), (16, 8, 32), (16, 8, 64)])
            }
            Element::XorPopulation | Element::AndPopulation => {
                same && integral && is(&[(8, 8, 128), (16, 8, 128), (16, 8, 256)])
            }
        }
    }

    /// How many registers each operand has.
    pub fn registers(&self) -> Registers {
        // Four independent products of m8n8k4 share a warp.
        let copies = if self.is_quad_pair() { 4 } else { 1 };
        let count = |elements: u32, width: u32| (copies * elements * width / width.max(32) / WARP as u32) as usize;
        let sums = |sum: Sum| match sum {
            Sum::F16 => count(self.rows * self.columns, 16),
            Sum::F32 | Sum::S32 => count(self.rows * self.columns, 32),
            Sum::F64 => count(self.rows * self.columns, 64),
        };
        Registers {
            a: count(self.rows * self.depth, self.a.width()),
            b: count(self.columns * self.depth, self.b.width()),
            c: sums(self.c),
            d: sums(self.d),
        }
    }

    /// Multiplications and additions, two for each element of A and column of B.
    pub fn operations(&self) -> u64 {
        let copies = if self.is_quad_pair() { 4 } else { 1 };
        copies * 2 * self.rows as u64 * self.columns as u64 * self.depth as u64
    }

    /// Whether this is m8n8k4 of f16, with its own fragments and row or column order.
    pub fn is_quad_pair(&self) -> bool {
        self.a == Element::F16 && self.rows == 8
    }
}

fn floating_sum(sum: Sum) -> bool {
    matches!(sum, Sum::F16 | Sum::F32)
}

/// A function that computes `mma.sync` from registers: D, A, B, C.
pub type Multiply = fn(&mut [Lanes], &[&Lanes], &[&Lanes], &[&Lanes]);

/// The function for a shape that is supported, which is [`mma`] of it; `None` where there is none without the shape (integers, f64, m8n8k4).
pub fn multiply(shape: &Mma) -> Option<Multiply> {
    let floating = floating_sum(shape.c) && !shape.is_quad_pair();
    floating.then(|| product::mma(Level::best(), (shape.a, shape.b), shape.c == Sum::F16))
}

/// `mma.sync` of 32-bit registers, all but f64 and m8n8k4 of f16. `shape` must be supported, and the operands have as many
/// registers as [`Mma::registers`] says.
#[inline]
pub fn mma(shape: &Mma, d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) {
    mma_at(Level::best(), shape, d, a, b, c)
}

/// [`mma`] with a given instruction set (or less, if the processor lacks it). The result is the same.
#[inline]
pub fn mma_at(level: Level, shape: &Mma, d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) {
    match shape.c {
        Sum::S32 => integer::mma(level, shape, d, a, b, c),
        sum => product::mma(level, (shape.a, shape.b), sum == Sum::F16)(d, a, b, c),
    }
}

/// `mma.sync` of f64: products are added in order of `k` by fused multiply-adds. `rows` is 8 or 16; the depth is four
/// times the registers of B.
pub fn mma_f64(rounding: Rounding, rows: u32, d: &mut [Lanes64], a: &[&Lanes64], b: &[&Lanes64], c: &[&Lanes64]) {
    let halves = rows as usize / 8;
    for (register, (sum, start)) in d.iter_mut().zip(c).enumerate() {
        for lane in 0..WARP {
            let (row, column) = (lane / 4, 2 * (lane % 4) + register % 2);
            let mut total = f64::from_bits(start[lane]);
            for (block, rows_of_b) in b.iter().enumerate() {
                let rows_of_a = a[block * halves + register / 2];
                for t in 0..4 {
                    let factor = |operand: &Lanes64, line: usize| f64::from_bits(operand[4 * line + t]);
                    total = float64::fma(rounding, factor(rows_of_a, row), factor(rows_of_b, column), total);
                }
            }
            sum[lane] = total.to_bits();
        }
    }
}
