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

/// Element `column` of a row.
fn element(row: &Row, column: usize) -> u32 {
    row[column / 2] >> (16 * (column % 2)) & 0xffff
}

/// `ldmatrix`: the register of one matrix. With `.trans`, of its transpose.
pub fn load(transposed: bool, rows: &[Row; 8]) -> Lanes {
    std::array::from_fn(|lane| {
        let (g, t) = (lane / 4, lane % 4);
        if transposed { element(&rows[2 * t], g) | element(&rows[2 * t + 1], g) << 16 } else { rows[g][t] }
    })
}

/// `stmatrix`: the rows of the matrix in a register. With `.trans`, of its transpose.
pub fn store(transposed: bool, register: &Lanes) -> [Row; 8] {
    let source = if transposed { transpose(register) } else { *register };
    std::array::from_fn(|row| std::array::from_fn(|word| source[4 * row + word]))
}

/// `movmatrix.trans`: the transpose of the matrix in a register.
pub fn transpose(register: &Lanes) -> Lanes {
    let element = |row: usize, column: usize| register[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let mut result = [0; WARP];
    for (lane, pair) in result.iter_mut().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        *pair = element(2 * t, g) | element(2 * t + 1, g) << 16;
    }
    result
}
