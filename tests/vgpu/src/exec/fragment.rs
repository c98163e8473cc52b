//! `wmma` (PTX ISA 9.7.14.3 and 9.7.14.4): matrices of a warp whose place in registers the ISA leaves open.
//!
//! Ours are those of `mma.m16n8k16`: A as blocks of 16 rows, B as blocks of 8 columns, C and D as blocks of both, row of blocks after row of blocks. A matrix of 8 rows
//! is the upper half of such a block. Registers that are left over stay zero.

use super::access::{Mode, addresses_at};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, act, handlers};
use super::warp::Warp;
use crate::isa::matrix::{self, Element, Mma, Sum};
use crate::isa::{Lanes, Lanes64, WARP};

/// Which matrix of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    A,
    B,
    /// C and D.
    Sum,
}

/// A matrix between memory and registers, or a whole product; kept beside the code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fragment {
    /// M, N, K.
    pub sizes: [u32; 3],
    /// Which matrix is moved.
    pub part: Part,
    /// Whether its columns are contiguous in memory.
    pub by_columns: bool,
    /// Type of A and B.
    pub element: Element,
    /// Types of C and D; those of a moved matrix are both its own.
    pub sums: (Sum, Sum),
    /// Registers of it in the text.
    pub registers: usize,
}

impl Fragment {
    /// Bytes of an element in memory.
    pub fn bytes(&self) -> u64 {
        if self.part == Part::Sum && self.sums.0 == Sum::F32 { 4 } else { 2 }
    }

    /// Registers that hold something.
    fn used(&self) -> usize {
        let [m, n, _] = self.sizes.map(|size| size as usize);
        match self.part {
            Part::A => m.div_ceil(16) * 4,
            Part::B => n / 8 * 2,
            Part::Sum => m * n / WARP * self.bytes() as usize / 4,
        }
    }

    /// Row and column of an element: half `half` of a register of a lane. `None` if it is none of the matrix.
    fn place(&self, register: usize, half: usize, lane: usize) -> Option<(usize, usize)> {
        let [m, n, _] = self.sizes.map(|size| size as usize);
        let (g, t) = (lane / 4, lane % 4);
        let place = match self.part {
            Part::A => {
                let (block, register) = (register / 4, register % 4);
                (16 * block + g + 8 * (register % 2), 8 * (register / 2) + 2 * t + half)
            }
            Part::B => (8 * (register % 2) + 2 * t + half, 8 * (register / 2) + g),
            Part::Sum => {
                // A register holds one f32 or two f16; a block of 8 rows has half as many.
                let (per_register, rows) = (if self.bytes() == 4 { 1 } else { 2 }, m.min(16));
                let per_block = rows / 4 / per_register;
                let (block, value) = (register / per_block, register % per_block * per_register + half);
                (16 * (block / (n / 8)) + g + 8 * (value / 2), 8 * (block % (n / 8)) + 2 * t + value % 2)
            }
        };
        (self.part != Part::A || place.0 < m).then_some(place)
    }

    /// Addresses of an element of all lanes, and the lanes that have it.
    fn addresses(&self, base: &Lanes64, stride: u64, register: usize, half: usize) -> (Lanes64, u32) {
        let mut mask = 0;
        let addresses = std::array::from_fn(|lane| {
            let Some((row, column)) = self.place(register, half, lane) else { return base[lane] };
            mask |= 1 << lane;
            let (line, within) = if self.by_columns { (column, row) } else { (row, column) };
            base[lane].wrapping_add((line as u64 * stride + within as u64) * self.bytes())
        });
        (addresses, mask)
    }
}

/// `wmma.load` and `wmma.store`: a list of the registers, the address, and the stride in elements. The immediate is the offset of the address, the modifier as of other
/// memory instructions, with the index of the [`Fragment`] in its upper half.
pub(crate) fn transfer(stores: bool) -> [Handler; 2] {
    #[derive(Clone, Copy)]
    struct Transfer<const STORES: bool>;
    impl<const STORES: bool> Semantics for Transfer<STORES> {
        #[inline(always)]
        fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
            if let Err(flow) = warp.converge(instruction, mask) {
                return flow;
            }
            match transfer_parts::<E, STORES>(warp, instruction, mask) {
                Ok(()) => Flow::Next,
                Err(flow) => flow,
            }
        }
    }
    if stores { handlers(Transfer::<true>) } else { handlers(Transfer::<false>) }
}

fn transfer_parts<E: Environment, const STORES: bool>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Result<(), Flow> {
    let fragment = warp.grid.code.fragments[(instruction.modifier >> 16) as usize];
    let list = warp.list(instruction);
    let (registers, rest) = list.split_at(fragment.registers);
    let base = addresses_at(warp, rest[0], instruction.modifier & 1 << 8 != 0, instruction.immediate as i64);
    let stride = u64::from(warp.lanes(rest[1])[mask.trailing_zeros() as usize & 31]);
    let (bytes, space) = (fragment.bytes(), instruction.modifier & 0xff);
    for (number, &operand) in registers.iter().enumerate() {
        let mut lanes = if STORES { *warp.lanes(operand) } else { [0; WARP] };
        let halves = if number < fragment.used() { 4 / bytes as usize } else { 0 };
        for half in 0..halves {
            let (mut places, inside) = fragment.addresses(&base, stride, number, half);
            if inside & mask == 0 {
                continue;
            }
            let mode = if STORES { Mode::Write } else { Mode::Read };
            let located = E::locate(warp, instruction, inside & mask, space, &mut places, bytes, mode)?;
            for lane in (0..WARP).filter(|lane| (inside & mask) >> lane & 1 != 0) {
                let place = located.pointer(places[lane]);
                // SAFETY: `locate` found an element there.
                unsafe {
                    match (STORES, bytes) {
                        (true, 4) => place.cast::<u32>().write_unaligned(lanes[lane]),
                        (true, _) => place.cast::<u16>().write_unaligned((lanes[lane] >> (16 * half)) as u16),
                        (false, 4) => lanes[lane] = place.cast::<u32>().read_unaligned(),
                        (false, _) => lanes[lane] |= u32::from(place.cast::<u16>().read_unaligned()) << (16 * half),
                    }
                }
            }
        }
        if !STORES {
            warp.set_lanes(operand, mask, &lanes);
        }
    }
    Ok(())
}

/// `wmma.mma`: a list of D, A, B, C. The immediate is the index of the [`Fragment`] of C, the modifier how many registers A and B have each in the text.
pub(crate) fn multiply() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let fragment = &warp.grid.code.fragments[instruction.immediate as usize];
        let list = warp.list(instruction);
        let [m, n, _] = fragment.sizes.map(|size| size as usize);
        let count = |sum: Sum| m * n / WARP / if sum == Sum::F32 { 1 } else { 2 };
        let (count_c, count_d) = (count(fragment.sums.0), count(fragment.sums.1));
        let (count_a, count_b) = ((instruction.modifier & 0xff) as usize, (instruction.modifier >> 8 & 0xff) as usize);
        let lanes: Vec<Lanes> = list[count_d..].iter().map(|&operand| *warp.lanes(operand)).collect();
        let (a, rest) = lanes.split_at(count_a);
        let (b, c) = rest.split_at(count_b);
        let (sum_c, sum_d) = fragment.sums;
        let shape = Mma {
            rows: 16,
            columns: 8,
            depth: 16,
            a: fragment.element,
            b: fragment.element,
            c: sum_c,
            d: sum_d,
            saturate: false,
        };
        let blocks = m.div_ceil(16) * (n / 8);
        let (per_c, per_d) = (count_c / blocks, count_d / blocks);
        let zero = [0; WARP];
        for block in 0..blocks {
            let (row, column) = (block / (n / 8), block % (n / 8));
            let left: [&Lanes; 4] = std::array::from_fn(|index| &a[4 * row + index]);
            let right = [&b[2 * column], &b[2 * column + 1]];
            let registers = shape.registers();
            let start: Vec<&Lanes> =
                (0..registers.c).map(|index| if index < per_c { &c[block * per_c + index] } else { &zero }).collect();
            let mut d = [[0; WARP]; 4];
            matrix::mma(&shape, &mut d[..registers.d], &left, &right, &start);
            for (index, lanes) in d[..per_d].iter().enumerate() {
                warp.set_lanes(list[block * per_d + index], mask, lanes);
            }
        }
        Flow::Next
    })
}
