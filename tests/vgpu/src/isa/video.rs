//! Video instructions (PTX ISA 9.7.16 and 9.7.17): arithmetic on words, halves and bytes with a second operation, vadd to vset, and the same on two halves or four
//! bytes at once, vadd2 to vset4.
//!
//! Inputs are extended by their types, the operation is exact, its result is clamped with `.sat` to the range of the part that is written, and cut to 32 bits (to the part
//! in SIMD forms) otherwise. Then it is added to, compared with, or merged into a third operand.

/// The first operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    Add,
    Sub,
    AbsoluteDifference,
    Min,
    Max,
    /// Rounded up where the sum is not negative; SIMD only.
    Average,
    /// Scalar only.
    ShiftLeft,
    ShiftRight,
    /// Comparisons give one or zero.
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Operation {
    /// In the order of their numbers.
    const ALL: [Operation; 14] = [
        Operation::Add,
        Operation::Sub,
        Operation::AbsoluteDifference,
        Operation::Min,
        Operation::Max,
        Operation::Average,
        Operation::ShiftLeft,
        Operation::ShiftRight,
        Operation::Eq,
        Operation::Ne,
        Operation::Lt,
        Operation::Le,
        Operation::Gt,
        Operation::Ge,
    ];

    /// From the number that `as u32` gives.
    #[inline(always)]
    pub fn from_number(number: u32) -> Operation {
        Operation::ALL[number as usize % Operation::ALL.len()]
    }

    #[inline(always)]
    fn apply(self, wraps: bool, a: i64, b: i64) -> i128 {
        // Further than all bits of an input a shift moves nothing.
        let shift = if wraps { b & 31 } else { b.min(32) } as u32;
        match self {
            Operation::Add => i128::from(a + b),
            Operation::Sub => i128::from(a - b),
            Operation::AbsoluteDifference => i128::from((a - b).abs()),
            Operation::Min => i128::from(a.min(b)),
            Operation::Max => i128::from(a.max(b)),
            Operation::Average => i128::from((a + b + i64::from(a + b >= 0)) >> 1),
            Operation::ShiftLeft => i128::from(a) << shift,
            Operation::ShiftRight => i128::from(a >> shift),
            Operation::Eq => i128::from(a == b),
            Operation::Ne => i128::from(a != b),
            Operation::Lt => i128::from(a < b),
            Operation::Le => i128::from(a <= b),
            Operation::Gt => i128::from(a > b),
            Operation::Ge => i128::from(a >= b),
        }
    }
}

/// A part of a word: `.b0` to `.b3`, `.h0`, `.h1`, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// 8, 16 or 32.
    pub bits: u32,
    /// Where it begins.
    pub shift: u32,
}

impl Part {
    /// All of a word.
    pub const WHOLE: Part = Part { bits: 32, shift: 0 };

    /// By the name behind the dot.
    pub fn parse(name: &str) -> Option<Part> {
        let (bits, index) = match name.split_at_checked(1)? {
            ("b", index) => (8, index),
            ("h", index) => (16, index),
            _ => return None,
        };
        let index: u32 = index.parse().ok()?;
        (index * bits < 32).then_some(Part { bits, shift: index * bits })
    }

    /// As a number of 3 bits.
    pub fn number(self) -> u32 {
        match self.bits {
            8 => self.shift / 8,
            16 => 4 + self.shift / 16,
            _ => 6,
        }
    }

    /// From [`Part::number`].
    #[inline(always)]
    pub fn from_number(number: u32) -> Part {
        match number & 7 {
            index @ 0..=3 => Part { bits: 8, shift: 8 * index },
            index @ 4..=5 => Part { bits: 16, shift: 16 * (index - 4) },
            _ => Part::WHOLE,
        }
    }

    /// The part of a word, extended.
    #[inline(always)]
    fn extend(self, signed: bool, word: u32) -> i64 {
        let upper = word << (32 - self.bits - self.shift);
        if signed { i64::from(upper as i32 >> (32 - self.bits)) } else { i64::from(upper >> (32 - self.bits)) }
    }

    /// A number clamped to what the part holds.
    #[inline(always)]
    fn clamp(self, signed: bool, value: i128) -> i128 {
        let (least, most) =
            if signed { (-1 << (self.bits - 1), (1 << (self.bits - 1)) - 1) } else { (0, (1 << self.bits) - 1) };
        value.clamp(least, most)
    }

    #[inline(always)]
    fn mask(self) -> u32 {
        (u32::MAX >> (32 - self.bits)) << self.shift
    }
}

/// What is done with the result and the third operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// The result is put into the part of the third operand; if that is all of it, it is the result.
    Merge,
    Add,
    Min,
    Max,
}

/// Modifiers of a scalar form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The first operation.
    pub operation: Operation,
    /// Whether the result, a and b are signed.
    pub signed: [bool; 3],
    /// Which parts those are.
    pub parts: [Part; 3],
    /// `.sat`
    pub saturate: bool,
    /// `.wrap` of shifts, else `.clamp`.
    pub wraps: bool,
    /// The second operation.
    pub second: Second,
}

impl Scalar {
    /// In 21 bits.
    pub fn pack(self) -> u32 {
        let [d, a, b] = self.signed.map(u32::from);
        let parts = self.parts.map(Part::number);
        let second = match self.second {
            Second::Merge => 0,
            Second::Add => 1,
            Second::Min => 2,
            Second::Max => 3,
        };
        self.operation as u32
            | (d | a << 1 | b << 2) << 4
            | (parts[0] | parts[1] << 3 | parts[2] << 6) << 7
            | u32::from(self.saturate) << 16
            | u32::from(self.wraps) << 17
            | second << 18
    }

    /// From [`Scalar::pack`].
    #[inline(always)]
    pub fn unpack(bits: u32) -> Scalar {
        Scalar {
            operation: Operation::from_number(bits & 15),
            signed: [4, 5, 6].map(|bit| bits >> bit & 1 != 0),
            parts: [7, 10, 13].map(|shift| Part::from_number(bits >> shift)),
            saturate: bits >> 16 & 1 != 0,
            wraps: bits >> 17 & 1 != 0,
            second: match bits >> 18 & 3 {
                0 => Second::Merge,
                1 => Second::Add,
                2 => Second::Min,
                _ => Second::Max,
            },
        }
    }

    /// The instruction.
    #[inline(always)]
    pub fn run(self, a: u32, b: u32, c: u32) -> u32 {
        let [signed, a_signed, b_signed] = self.signed;
        let [to, from_a, from_b] = self.parts;
        let value = self.operation.apply(self.wraps, from_a.extend(a_signed, a), from_b.extend(b_signed, b));
        let value = if self.saturate { to.clamp(signed, value) } else { value } as u32;
        let least = if signed { (value as i32).min(c as i32) as u32 } else { value.min(c) };
        match self.second {
            Second::Merge => value << to.shift & to.mask() | c & !to.mask(),
            Second::Add => value.wrapping_add(c),
            Second::Min => least,
            // The other one of the two.
            Second::Max => value ^ c ^ least,
        }
    }
}

/// Modifiers of a SIMD form, whose inputs were selected before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd {
    /// The operation.
    pub operation: Operation,
    /// Whether the result, a and b are signed.
    pub signed: [bool; 3],
    /// Bits of an element: 8 or 16.
    pub bits: u32,
    /// `.sat`
    pub saturate: bool,
    /// `.add`: the elements are summed, with the third operand.
    pub sums: bool,
    /// Which elements of the result count; the others are those of the third operand.
    pub mask: u32,
}

impl Simd {
    /// In 14 bits.
    pub fn pack(self) -> u32 {
        let [d, a, b] = self.signed.map(u32::from);
        self.operation as u32
            | (d | a << 1 | b << 2) << 4
            | u32::from(self.bits == 16) << 7
            | u32::from(self.saturate) << 8
            | u32::from(self.sums) << 9
            | self.mask << 10
    }

    /// From [`Simd::pack`].
    #[inline(always)]
    pub fn unpack(bits: u32) -> Simd {
        Simd {
            operation: Operation::from_number(bits & 15),
            signed: [4, 5, 6].map(|bit| bits >> bit & 1 != 0),
            bits: if bits >> 7 & 1 != 0 { 16 } else { 8 },
            saturate: bits >> 8 & 1 != 0,
            sums: bits >> 9 & 1 != 0,
            mask: bits >> 10 & 15,
        }
    }

    /// The instruction.
    #[inline(always)]
    pub fn run(self, a: u32, b: u32, c: u32) -> u32 {
        let [signed, a_signed, b_signed] = self.signed;
        let mut result = c;
        for index in (0..32 / self.bits).filter(|index| self.mask >> index & 1 != 0) {
            let part = Part { bits: self.bits, shift: index * self.bits };
            let value = self.operation.apply(false, part.extend(a_signed, a), part.extend(b_signed, b));
            let value = if self.saturate { part.clamp(signed, value) } else { value } as u32;
            result = if self.sums {
                result.wrapping_add(value)
            } else {
                result & !part.mask() | value << part.shift & part.mask()
            };
        }
        result
    }
}

/// Modifiers of `vmad`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiplyAdd {
    /// Whether a and b are signed.
    pub signed: [bool; 2],
    /// Which parts they are.
    pub parts: [Part; 2],
    /// `.sat`
    pub saturate: bool,
    /// `.po`: one more is added.
    pub plus_one: bool,
    /// Whether the product is negated.
    pub negates_product: bool,
    /// Whether the third operand is negated.
    pub negates_addend: bool,
    /// Bits by which the sum is shifted to the right: 0, 7 or 15.
    pub scale: u32,
}

impl MultiplyAdd {
    /// In 16 bits.
    pub fn pack(self) -> u32 {
        let [a, b] = self.signed.map(u32::from);
        let parts = self.parts.map(Part::number);
        a | b << 1
            | parts[0] << 2
            | parts[1] << 5
            | u32::from(self.saturate) << 8
            | u32::from(self.plus_one) << 9
            | u32::from(self.negates_product) << 10
            | u32::from(self.negates_addend) << 11
            | self.scale << 12
    }

    /// From [`MultiplyAdd::pack`].
    #[inline(always)]
    pub fn unpack(bits: u32) -> MultiplyAdd {
        MultiplyAdd {
            signed: [0, 1].map(|bit| bits >> bit & 1 != 0),
            parts: [2, 5].map(|shift| Part::from_number(bits >> shift)),
            saturate: bits >> 8 & 1 != 0,
            plus_one: bits >> 9 & 1 != 0,
            negates_product: bits >> 10 & 1 != 0,
            negates_addend: bits >> 11 & 1 != 0,
            scale: bits >> 12 & 15,
        }
    }

    /// The instruction.
    #[inline(always)]
    pub fn run(self, a: u32, b: u32, c: u32) -> u32 {
        let signed = self.signed[0] || self.signed[1] || self.negates_product || self.negates_addend;
        let product =
            i128::from(self.parts[0].extend(self.signed[0], a)) * i128::from(self.parts[1].extend(self.signed[1], b));
        let product = if self.negates_product { -product } else { product };
        let addend = i128::from(Part::WHOLE.extend(signed, c));
        let addend = if self.negates_addend { -addend } else { addend };
        let sum = (product + addend + i128::from(self.plus_one)) >> self.scale;
        if self.saturate { Part::WHOLE.clamp(signed, sum) as u32 } else { sum as u32 }
    }
}
