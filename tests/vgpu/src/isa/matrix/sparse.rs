//! `mma.sp` and `wgmma.mma_async.sp` (PTX ISA 9.7.14.6 and 9.7.15.6): half of the elements of A are zero and not there, and *metadata* says where the others stand.
//!
//! Registers of A hold the M x K/2 elements that are there, as the fragment of a dense product of that depth; B, C and D are those of a dense product of depth K, by the
//! rule in [`super`]. A *chunk* of A is 4 bits of metadata: two elements out of four for 16- and 8-bit types, two pairs out of four pairs for 4-bit ones, one out of two
//! for tf32.
//!
//! A word of metadata belongs to one lane of a group `g` of four, and which lanes count a *selector* tells where not all do:
//!
//! | elements | chunks of a row | lanes | low half of the word | high half |
//! |---|---|---|---|---|
//! | 16 and 32 bits, short K | 4 | `t = selector` | row `g` | row `g + 8` |
//! | 16 and 32 bits, long K | 8 | `t = 2 selector + h`: chunks `4 h` to `4 h + 3` | row `g` | row `g + 8` |
//! | 8 and 4 bits, short K | 8 | `t = 2 selector + h`: row `g + 8 h` | chunks 0 to 3 | 4 to 7 |
//! | 8 and 4 bits, long K | 16 | `t = 2 q + h`: row `g + 8 h`, chunks `8 q` to `8 q + 7` | the first four | the others |
//!
//! What an element of A that is not there would be multiplied with is not looked at: an infinity of B there does no harm. Sums are rounded as those of the dense
//! products are, in the order in which A has its elements.

use super::{Element, Mma, Sum};
use crate::isa::Lanes;
use crate::isa::half::{F16, Half};

/// A sparse product: the shape with the whole K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sparse {
    /// Sizes, types, `.satfinite`; `depth` is the K of the text.
    pub shape: Mma,
}

impl Sparse {
    /// Whether the ISA (up to sm_90) has it.
    pub fn is_supported(&self) -> bool {
        let Mma { rows, columns, depth, a, b, c, d, .. } = self.shape;
        let sums = (c, d);
        let is = |depths: [u32; 2]| rows == 16 && columns == 8 && depths.contains(&depth);
        let pair = |elements: [Element; 2]| elements.contains(&a) && elements.contains(&b);
        match a {
            Element::F16 => a == b && matches!(sums, (Sum::F16, Sum::F16) | (Sum::F32, Sum::F32)) && is([16, 32]),
            Element::Bf16 => a == b && sums == (Sum::F32, Sum::F32) && is([16, 32]),
            Element::Tf32 => a == b && sums == (Sum::F32, Sum::F32) && is([8, 16]),
            Element::S8 | Element::U8 => {
                pair([Element::S8, Element::U8]) && sums == (Sum::S32, Sum::S32) && is([32, 64])
            }
            Element::S4 | Element::U4 => {
                pair([Element::S4, Element::U4]) && sums == (Sum::S32, Sum::S32) && is([64, 128])
            }
            Element::E4m3 | Element::E5m2 => {
                let floating = matches!(sums, (Sum::F16, Sum::F16) | (Sum::F32, Sum::F32));
                pair([Element::E4m3, Element::E5m2]) && floating && is([64; 2])
            }
            _ => false,
        }
    }

    /// Values that the selector may have: 0 to one less.
    pub fn selectors(&self) -> u32 {
        4 / self.lanes_of_metadata()
    }

    /// Lanes of four that have metadata.
    fn lanes_of_metadata(&self) -> u32 {
        // A word has eight chunks; a group has two rows.
        2 * self.chunks() / 8
    }

    /// Chunks of a row.
    fn chunks(&self) -> u32 {
        self.shape.depth * self.shape.a.width() / if self.shape.a == Element::Tf32 { 64 } else { self.chunk_bits() }
    }

    /// Bits of a chunk of four parts, of which two are there.
    fn chunk_bits(&self) -> u32 {
        match self.shape.a.width() {
            4 => 32,
            width => 4 * width,
        }
    }

    /// Registers of A, B, and C or D.
    pub fn registers(&self) -> super::Registers {
        let dense = self.shape.registers();
        super::Registers { a: dense.a / 2, ..dense }
    }

    /// The 4 bits of metadata of a chunk of a row.
    fn metadata(&self, words: &Lanes, selector: u32, row: usize, chunk: usize) -> u32 {
        let (group, low) = (4 * (row % 8), row < 8);
        let upper_row = usize::from(!low);
        let selector = selector as usize;
        let narrow = self.shape.a.width() <= 8;
        let (lane, nibble) = match (narrow, self.lanes_of_metadata()) {
            (false, 1) => (selector, chunk + 4 * upper_row),
            (false, _) => (2 * selector + chunk / 4, chunk % 4 + 4 * upper_row),
            (true, 2) => (2 * selector + upper_row, chunk),
            (true, _) => (2 * (chunk / 8) + upper_row, chunk % 8),
        };
        words[group + lane] >> (4 * nibble) & 15
    }

    /// Where in K each of the K/2 elements of a row of A that are there stands.
    fn places(&self, words: &Lanes, selector: u32, row: usize) -> Vec<usize> {
        let mut places = Vec::with_capacity(self.shape.depth as usize / 2);
        for chunk in 0..self.chunks() as usize {
            let bits = self.metadata(words, selector, row, chunk) as usize;
            match self.shape.a.width() {
                // The index counts halves of an element: 0100 is the first of two, 1110 the second.
                32 => places.push(2 * chunk + (bits >> 3)),
                4 => {
                    let pairs = [bits & 3, bits >> 2].map(|pair| 8 * chunk + 2 * pair);
                    places.extend(pairs.into_iter().flat_map(|first| [first, first + 1]));
                }
                _ => places.extend([4 * chunk + (bits & 3), 4 * chunk + (bits >> 2)]),
            }
        }
        places
    }
}

/// The bits of an element of a fragment, by the rule of dense products.
fn element(registers: &[&Lanes], width: u32, is_a: bool, line: usize, k: usize) -> u32 {
    let per_register = (32 / width) as usize;
    let (block, within) = (k / (4 * per_register), k % (4 * per_register));
    let (t, index) = (within / per_register, within % per_register);
    let register = if is_a { 2 * block + line / 8 } else { block };
    let word = registers[register][4 * (line % 8) + t];
    let value = word >> (width as usize * index);
    if width == 32 { value } else { value & ((1 << width) - 1) }
}

fn float(kind: Element, bits: u32) -> f32 {
    match kind {
        Element::F16 => F16(bits as u16).to_f32(),
        Element::Bf16 => f32::from_bits(bits << 16),
        Element::Tf32 => f32::from_bits(bits & 0xffff_e000),
        Element::E4m3 if bits & 0x7f == 0x7f => f32::NAN,
        // As the upper bits of an f32 it is too small by the difference of the biases, subnormals included.
        Element::E4m3 => f32::from_bits((bits & 0x7f) << 20 | (bits & 0x80) << 24) * f32::from_bits((127 + 120) << 23),
        // It is the upper byte of an f16.
        _ => F16((bits << 8) as u16).to_f32(),
    }
}

fn integer(kind: Element, bits: u32) -> i64 {
    let shift = 32 - kind.width();
    match kind {
        Element::S8 | Element::S4 => i64::from((bits << shift) as i32 >> shift),
        _ => i64::from(bits),
    }
}

/// `mma.sp`: 32-bit registers of D, A, B and C as [`Sparse::registers`] counts them, the words of metadata, and the selector. `product` must be supported.
pub fn mma(
    product: &Sparse,
    d: &mut [Lanes],
    a: &[&Lanes],
    b: &[&Lanes],
    c: &[&Lanes],
    metadata: &Lanes,
    selector: u32,
) {
    let Mma { depth, a: left, b: right, d: sum, saturate, .. } = product.shape;
    let floating = sum != Sum::S32;
    let columns: Vec<Vec<u32>> =
        (0..8).map(|n| (0..depth as usize).map(|k| element(b, right.width(), false, n, k)).collect()).collect();
    for row in 0..16 {
        let places = product.places(metadata, selector, row);
        let stored: Vec<u32> = (0..places.len()).map(|k| element(a, left.width(), true, row, k)).collect();
        for (column, values) in columns.iter().enumerate() {
            let lane = 4 * (row % 8) + column / 2;
            let (register, shift) = match sum {
                Sum::F16 => (row / 8, 16 * (column % 2) as u32),
                _ => (2 * (row / 8) + column % 2, 0),
            };
            let terms = stored.iter().zip(places.iter().map(|&place| values[place]));
            let start = c[register][lane] >> shift;
            let result = if floating {
                let start = if sum == Sum::F16 { F16(start as u16).to_f32() } else { f32::from_bits(start) };
                let total = terms.fold(start, |total, (&a, b)| float(left, a).mul_add(float(right, b), total));
                match sum {
                    Sum::F16 => u32::from(F16::from_f32(total).0),
                    _ if total.is_nan() => 0x7fff_ffff,
                    _ => total.to_bits(),
                }
            } else {
                let total: i64 = terms.map(|(&a, b)| integer(left, a) * integer(right, b)).sum();
                let total = i64::from(start as i32) + total;
                let clamped = total.clamp(i32::MIN.into(), i32::MAX.into());
                if saturate { clamped as u32 } else { total as u32 }
            };
            let keep = if sum == Sum::F16 { 0xffff << (16 - shift) } else { 0 };
            d[register][lane] = d[register][lane] & keep | result << shift;
        }
    }
}
