//! ldmatrix, stmatrix, movmatrix (PTX ISA 9.7.14.5): 8 x 8 matrices of 16-bit elements between rows of 16 bytes and
//! fragments.
//!
//! In a fragment lane `4 g + t` holds row `g`, columns `2 t` and `2 t + 1`. In shared memory a row is 16 bytes, anywhere;
//! lane `8 m + r` gives the address of row `r` of matrix `m` ([`address_lane`]). `.x1`, `.x2`, `.x4` are so many matrices,
//! each a register. The `.b8` forms of sm_100 are not here.

use crate::isa::{Lanes, WARP};

/// A row of an 8 x 8 matrix: four words of two elements.
pub type Row = [u32; 4];

/// Which lane holds the address of a row of a matrix.
pub fn address_lane(matrix: usize, row: usize) -> usize {
    8 * matrix + row
}

/// `ldmatrix`: the register of one matrix. With `.trans`, of its transpose.
#[inline(always)]
pub fn load(transposed: bool, rows: &[Row; 8]) -> Lanes {
    let mut lanes = [0; WARP];
    // Row after row is lane after lane.
    lanes.copy_from_slice(rows.as_flattened());
    if transposed { transpose(&lanes) } else { lanes }
}

/// `stmatrix`: the rows of the matrix in a register. With `.trans`, of its transpose.
pub fn store(transposed: bool, register: &Lanes) -> [Row; 8] {
    let source = if transposed { transpose(register) } else { *register };
    std::array::from_fn(|row| std::array::from_fn(|word| source[4 * row + word]))
}

/// `movmatrix.trans`: the transpose of the matrix in a register.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn transpose(register: &Lanes) -> Lanes {
    use std::arch::x86_64::{__m128i, _mm_unpackhi_epi16, _mm_unpacklo_epi16};
    // SAFETY: both are 128 bytes without invalid values.
    let mut rows = unsafe { std::mem::transmute::<Lanes, [__m128i; 8]>(*register) };
    // Each round interleaves rows that are four apart: three of them rotate the six bits of an element's place by three.
    for _ in 0..3 {
        let mut next = rows;
        for pair in 0..4 {
            // SAFETY: every x86-64 processor has SSE2.
            unsafe {
                next[2 * pair] = _mm_unpacklo_epi16(rows[pair], rows[pair + 4]);
                next[2 * pair + 1] = _mm_unpackhi_epi16(rows[pair], rows[pair + 4]);
            }
        }
        rows = next;
    }
    // SAFETY: as above.
    unsafe { std::mem::transmute::<[__m128i; 8], Lanes>(rows) }
}

/// `movmatrix.trans`: the transpose of the matrix in a register.
#[cfg(not(target_arch = "x86_64"))]
pub fn transpose(register: &Lanes) -> Lanes {
    let element = |row: usize, column: usize| register[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let mut result = [0; WARP];
    for (lane, pair) in result.iter_mut().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        *pair = element(2 * t, g) | element(2 * t + 1, g) << 16;
    }
    result
}
