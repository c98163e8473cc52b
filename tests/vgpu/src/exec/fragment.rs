//! `wmma` (PTX ISA 9.7.14.3 and 9.7.14.4): matrices of a warp whose place in registers the ISA leaves open.
//!
//! Of 16-bit types, ours are those of `mma.m16n8k16`: A as blocks of 16 rows, B as blocks of 8 columns, C and D as blocks of both, row of blocks after row of blocks. A matrix of 8 rows
//! is the upper half of such a block. Registers that are left over stay zero.
//!
//! Of all other types each lane holds one run of *units* of the matrix, along K in A and B and along N in sums. A unit is an element, or 4 bytes of those that are narrower
//! than one. Products of these are computed element by element: programs that care for speed use `mma`.

use super::access::{Mode, addresses_at};
use super::code::{Flow, Handler, Instruction, Operand};
use super::semantics::{Environment, Semantics, act, handlers, store as store_register};
use super::warp::Warp;
use crate::isa::half::{self, F16, Half};
use crate::isa::matrix::{self, Element, Mma, Sum};
use crate::isa::{Lanes, Lanes64, Mode as FloatMode, Rounding, WARP, float32, float64};

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
    /// Whether it is laid out as `mma.m16n8k16` has it.
    fn is_blocked(&self) -> bool {
        matches!(self.element, Element::F16 | Element::Bf16)
    }

    /// Bits of an element in memory.
    fn bits(&self) -> u32 {
        match (self.part, self.sums.0) {
            (Part::Sum, Sum::F16) => 16,
            (Part::Sum, Sum::F32 | Sum::S32) => 32,
            (Part::Sum, Sum::F64) => 64,
            _ => self.element.width(),
        }
    }

    /// Bytes that are moved together: an element, or several that are narrower than a byte.
    pub fn unit_bytes(&self) -> u64 {
        if self.bits() < 8 { 4 } else { u64::from(self.bits() / 8) }
    }

    /// Elements of a unit.
    fn unit_elements(&self) -> usize {
        (self.unit_bytes() * 8) as usize / self.bits() as usize
    }

    /// Units of a register.
    fn units_per_register(&self) -> usize {
        if self.is_wide() { 1 } else { 4 / self.unit_bytes() as usize }
    }

    /// Whether its registers have 64 bits.
    pub fn is_wide(&self) -> bool {
        self.unit_bytes() == 8
    }

    /// Lines of the matrix, each of which is contiguous in the order of the fragment, and units of a line.
    fn lines(&self) -> (usize, usize) {
        let [m, n, k] = self.sizes.map(|size| size as usize);
        let (lines, elements) = match self.part {
            Part::A => (m, k),
            Part::B => (n, k),
            Part::Sum => (m, n),
        };
        (lines, elements / self.unit_elements())
    }

    /// Units of a lane.
    fn units_per_lane(&self) -> usize {
        let (lines, units) = self.lines();
        lines * units / WARP
    }

    /// Registers that hold something.
    pub fn used(&self) -> usize {
        let [m, n, _] = self.sizes.map(|size| size as usize);
        match self.part {
            _ if !self.is_blocked() => self.units_per_lane().div_ceil(self.units_per_register()),
            Part::A => m.div_ceil(16) * 4,
            Part::B => n / 8 * 2,
            Part::Sum => m * n / WARP * self.unit_bytes() as usize / 4,
        }
    }

    /// Row and column of the first element of a unit of a register of a lane. `None` if it is none of the matrix.
    fn place(&self, register: usize, unit: usize, lane: usize) -> Option<(usize, usize)> {
        let [m, n, _] = self.sizes.map(|size| size as usize);
        if !self.is_blocked() {
            let (_, units) = self.lines();
            let number = lane * self.units_per_lane() + register * self.units_per_register() + unit;
            let (line, within) = (number / units, number % units * self.unit_elements());
            return Some(if self.part == Part::B { (within, line) } else { (line, within) });
        }
        let (g, t) = (lane / 4, lane % 4);
        let place = match self.part {
            Part::A => {
                let (block, register) = (register / 4, register % 4);
                (16 * block + g + 8 * (register % 2), 8 * (register / 2) + 2 * t + unit)
            }
            Part::B => (8 * (register % 2) + 2 * t + unit, 8 * (register / 2) + g),
            Part::Sum => {
                // A register holds one f32 or two f16; a block of 8 rows has half as many.
                let (per_register, rows) = (if self.unit_bytes() == 4 { 1 } else { 2 }, m.min(16));
                let per_block = rows / 4 / per_register;
                let (block, value) = (register / per_block, register % per_block * per_register + unit);
                (16 * (block / (n / 8)) + g + 8 * (value / 2), 8 * (block % (n / 8)) + 2 * t + value % 2)
            }
        };
        (self.part != Part::A || place.0 < m).then_some(place)
    }

    /// Addresses of a unit of all lanes, and the lanes that have it.
    fn addresses(&self, base: &Lanes64, stride: u64, register: usize, unit: usize) -> (Lanes64, u32) {
        let mut mask = 0;
        let addresses = std::array::from_fn(|lane| {
            let Some((row, column)) = self.place(register, unit, lane) else { return base[lane] };
            mask |= 1 << lane;
            let (line, within) = if self.by_columns { (column, row) } else { (row, column) };
            let elements = (line as u64).wrapping_mul(stride).wrapping_add(within as u64);
            base[lane].wrapping_add(elements.wrapping_mul(u64::from(self.bits())) / 8)
        });
        (addresses, mask)
    }

    /// The units of the matrix, line by line, from the registers of a fragment that is no blocked one.
    fn units(&self, registers: &[Lanes64]) -> Vec<u64> {
        let (lines, units) = self.lines();
        let (per_lane, per_register, bits) =
            (self.units_per_lane(), self.units_per_register(), 8 * self.unit_bytes() as u32);
        let unit = |number: usize| {
            let (lane, own) = (number / per_lane, number % per_lane);
            let word = registers[own / per_register][lane] >> (bits * (own % per_register) as u32);
            word & (u64::MAX >> (64 - bits))
        };
        (0..lines * units).map(unit).collect()
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
    let (bytes, space) = (fragment.unit_bytes(), instruction.modifier & 0xff);
    let wide = fragment.is_wide();
    for (number, &operand) in registers.iter().enumerate() {
        let mut lanes = if STORES { register_of(warp, operand, wide) } else { [0; WARP] };
        let units = if number < fragment.used() { fragment.units_per_register() } else { 0 };
        for unit in 0..units {
            let (mut places, inside) = fragment.addresses(&base, stride, number, unit);
            if inside & mask == 0 {
                continue;
            }
            let mode = if STORES { Mode::Write } else { Mode::Read };
            let located = E::locate(warp, instruction, inside & mask, space, &mut places, bytes, mode)?;
            let shift = 8 * bytes * unit as u64;
            for lane in (0..WARP).filter(|lane| (inside & mask) >> lane & 1 != 0) {
                let place = located.pointer(places[lane]);
                let count = bytes as usize;
                if STORES {
                    let word = (lanes[lane] >> shift).to_le_bytes();
                    // SAFETY: `locate` found a unit there.
                    unsafe { std::ptr::copy_nonoverlapping(word.as_ptr(), place, count) };
                } else {
                    let mut word = [0; 8];
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(place, word.as_mut_ptr(), count) };
                    lanes[lane] |= u64::from_le_bytes(word) << shift;
                }
            }
        }
        if !STORES {
            set_register(warp, operand, wide, mask, &lanes);
        }
    }
    Ok(())
}

/// A register of 32 or 64 bits.
fn register_of(warp: &Warp<'_>, operand: Operand, wide: bool) -> Lanes64 {
    if wide { *warp.read::<u64>(operand) } else { warp.lanes(operand).map(u64::from) }
}

/// Writes one.
fn set_register(warp: &mut Warp<'_>, operand: Operand, wide: bool, mask: u32, lanes: &Lanes64) {
    if wide {
        store_register(warp.register::<u64>(operand), mask, lanes);
    } else {
        warp.set_lanes(operand, mask, &lanes.map(|lane| lane as u32));
    }
}

/// `wmma.mma` of the types that are not laid out in blocks: a list of D, A, B, C; the immediate is the index of the [`Fragment`] of C, whose `by_columns` stands for
/// `.satfinite`, the modifier the types of A and B where they differ in their sign (bit 0 and 1) and the rounding of f64 from bit 8 on.
pub(crate) fn multiply_units() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let sum = warp.grid.code.fragments[instruction.immediate as usize];
        let (left, right) = (Fragment { part: Part::A, ..sum }, Fragment { part: Part::B, ..sum });
        let list = warp.list(instruction);
        let wide = sum.is_wide();
        let mut registers = list[sum.used()..].iter().map(|&operand| register_of(warp, operand, wide));
        let mut take = |part: &Fragment| part.units(&registers.by_ref().take(part.used()).collect::<Vec<_>>());
        let (a, b, c) = (take(&left), take(&right), take(&sum));
        let (_, depth) = left.lines();
        let columns = sum.sizes[1] as usize;
        let signs = (instruction.modifier & 1 != 0, instruction.modifier & 2 != 0);
        let mut d = vec![[0; WARP]; sum.used()];
        for (number, &start) in c.iter().enumerate() {
            let (row, column) = (number / columns, number % columns);
            let (a, b) = (&a[row * depth..][..depth], &b[column * depth..][..depth]);
            let rounding = Rounding::from_number(instruction.modifier >> 8);
            let total = inner_product(sum.element, signs, sum.by_columns, rounding, (a, b), start);
            d[number % sum.units_per_lane()][number / sum.units_per_lane()] = total;
        }
        for (&operand, lanes) in list.iter().zip(&d) {
            set_register(warp, operand, wide, mask, lanes);
        }
        Flow::Next
    })
}

/// The sum `start` and the products of units, in their order.
fn inner_product(
    element: Element,
    signs: (bool, bool),
    saturate: bool,
    rounding: Rounding,
    (a, b): (&[u64], &[u64]),
    start: u64,
) -> u64 {
    let pairs = || a.iter().copied().zip(b.iter().copied());
    let integers = |bits: u32| {
        // The elements of a unit as numbers.
        let numbers = move |unit: u64, signed: bool| {
            (0..if bits < 8 { 32 / bits } else { 1 }).map(move |index| {
                let value = (unit >> (bits * index)) as i64 & ((1 << bits) - 1);
                if signed { (value << (64 - bits)) >> (64 - bits) } else { value }
            })
        };
        let products = pairs().flat_map(|(a, b)| numbers(a, signs.0).zip(numbers(b, signs.1)));
        let total = i64::from(start as u32 as i32) + products.map(|(a, b)| a * b).sum::<i64>();
        let clamped = total.clamp(i32::MIN.into(), i32::MAX.into());
        u64::from(if saturate { clamped as u32 } else { total as u32 })
    };
    let population = |operation: fn(u64, u64) -> u64| {
        let count: u32 = pairs().map(|(a, b)| operation(a, b).count_ones()).sum();
        u64::from((start as u32).wrapping_add(count))
    };
    match element {
        Element::F64 => {
            let fma = |sum, (a, b)| float64::fma(rounding, f64::from_bits(a), f64::from_bits(b), sum);
            pairs().fold(f64::from_bits(start), fma).to_bits()
        }
        Element::S8 | Element::U8 => integers(8),
        Element::S4 | Element::U4 => integers(4),
        Element::XorPopulation => population(|a, b| a ^ b),
        Element::AndPopulation => population(|a, b| a & b),
        _ => {
            // tf32: the lower bits of a register are ignored.
            let single = |word: u64| f32::from_bits(word as u32 & 0xffff_e000);
            let start = f32::from_bits(start as u32);
            let total = pairs().fold(start, |sum, (a, b)| float32::fma(FloatMode::PLAIN, single(a), single(b), sum));
            u64::from(total.to_bits())
        }
    }
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
        // Where C and D differ the product is one of f32, with C widened before and D narrowed behind it.
        let inner = if sum_c == sum_d { sum_c } else { Sum::F32 };
        let shape = Mma {
            rows: 16,
            columns: 8,
            depth: 16,
            a: fragment.element,
            b: fragment.element,
            c: inner,
            d: inner,
            saturate: false,
        };
        let blocks = m.div_ceil(16) * (n / 8);
        let (per_c, per_d) = (count_c / blocks, count_d / blocks);
        for block in 0..blocks {
            let (row, column) = (block / (n / 8), block % (n / 8));
            let left: [&Lanes; 4] = std::array::from_fn(|index| &a[4 * row + index]);
            let right = [&b[2 * column], &b[2 * column + 1]];
            let registers = shape.registers();
            let mut start = c[block * per_c..][..per_c].to_vec();
            if sum_c != inner {
                start = start.iter().flat_map(widen).collect();
            }
            start.resize(registers.c, [0; WARP]);
            let mut d = vec![[0; WARP]; registers.d];
            matrix::mma(&shape, &mut d, &left, &right, &start.iter().collect::<Vec<_>>());
            if sum_d != inner {
                d = d.chunks_exact(2).map(|pair| narrow(&pair[0], &pair[1])).collect();
            }
            for (index, lanes) in d[..per_d].iter().enumerate() {
                warp.set_lanes(list[block * per_d + index], mask, lanes);
            }
        }
        Flow::Next
    })
}

/// Two f32 of each lane from a pair of f16.
fn widen(pair: &Lanes) -> [Lanes; 2] {
    [0, 16].map(|shift| pair.map(|bits| F16((bits >> shift) as u16).to_f32().to_bits()))
}

/// A pair of f16 of each lane from two f32.
fn narrow(low: &Lanes, high: &Lanes) -> Lanes {
    std::array::from_fn(|lane| half::pack([low[lane], high[lane]].map(|bits| F16::from_f32(f32::from_bits(bits)))))
}
