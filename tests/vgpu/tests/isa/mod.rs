//! Every instruction against a plain scalar definition: exact integers, f64, or a search among all values of a format.
//! Eight- and sixteen-bit sources are tried exhaustively, wider ones at their edges, in all pairs, and at random.

// A lane or bit number addresses several things at once.
#![allow(clippy::needless_range_loop)]

mod approximate;
mod bits;
mod compare;
mod convert;
mod exact;
mod exchange;
mod float;
mod half;
mod integer;
mod matrix;
mod sparse;
mod tensor_map;
mod video;
mod wgmma;

use cuda::isa::Rounding;
use cuda::isa::exact::Format;

pub const ROUNDINGS: [Rounding; 4] = [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up];

/// A small generator of well-mixed numbers (xorshift with a multiplication).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn word(&mut self) -> u32 {
        (self.bits() >> 32) as u32
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((self.word() as u64 * bound as u64) >> 32) as u32
    }

    pub fn lanes(&mut self) -> [u32; 32] {
        std::array::from_fn(|_| self.word())
    }

    /// An f32 of any kind, near to another one half of the time, so that sums cancel and quotients are near one.
    pub fn f32_like(&mut self, other: f32) -> f32 {
        let bits = match self.below(4) {
            0 => self.word(),
            1 => (other.to_bits() ^ self.word() & 0x8000_0000).wrapping_add(self.below(64)),
            2 => {
                (other.to_bits() & 0x7f80_0000).wrapping_add((self.below(60) << 23).wrapping_sub(30 << 23))
                    | self.word() & 0x807f_ffff
            }
            _ => FLOATS[self.below(FLOATS.len() as u32) as usize],
        };
        f32::from_bits(bits)
    }

    /// The same of f64.
    pub fn f64_like(&mut self, other: f64) -> f64 {
        let bits = match self.below(4) {
            0 => self.bits(),
            1 => (other.to_bits() ^ self.bits() & 1 << 63).wrapping_add(self.below(64) as u64),
            2 => {
                (other.to_bits() & 0x7ff << 52).wrapping_add((self.below(120) as u64) << 52).wrapping_sub(60 << 52)
                    | self.bits() & 0x800f_ffff_ffff_ffff
            }
            _ => (f32::from_bits(FLOATS[self.below(FLOATS.len() as u32) as usize]) as f64
                * DOUBLES[self.below(6) as usize])
                .to_bits(),
        };
        f64::from_bits(bits)
    }
}

const DOUBLES: [f64; 6] = [1.0, 1e-300, 1e-180, 1e270, f64::EPSILON, 5e-324];

/// Zeros, subnormals, the neighbours of one, the largest, infinities, NaN of all sorts.
pub const FLOATS: [u32; 30] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x0080_0001,
    0x3f80_0000,
    0xbf80_0000,
    0x3f7f_ffff,
    0x3f80_0001,
    0x3f00_0000,
    0x3f00_0001,
    0x3eff_ffff,
    0x4000_0000,
    0x4b00_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x4eff_ffff,
    0x5f00_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x7f80_0001,
    0xffff_ffff,
    0x3300_0000,
];

/// The value of a register, by the definition of the formats alone.
pub fn plain_value(format: Format, bits: u64) -> f64 {
    let (exponent_bits, mantissa_bits, bits) = match format {
        Format::F16 => (5, 10, bits),
        Format::Bf16 => (8, 7, bits),
        Format::Tf32 => (8, 10, bits >> 13),
        Format::F32 => (8, 23, bits),
        Format::E4m3 => (4, 3, bits),
        Format::E5m2 => (5, 2, bits),
        Format::F64 => return f64::from_bits(bits),
    };
    let fraction = (bits & ((1 << mantissa_bits) - 1)) as f64 / (1u64 << mantissa_bits) as f64;
    let biased = (bits >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let sign = if bits >> (mantissa_bits + exponent_bits) & 1 != 0 { -1.0 } else { 1.0 };
    let bias = (1 << (exponent_bits - 1)) - 1;
    let last = (1 << exponent_bits) - 1;
    if format == Format::E4m3 {
        if biased == last && fraction == 0.875 {
            return f64::NAN;
        }
    } else if biased == last {
        return if fraction == 0.0 { sign * f64::INFINITY } else { f64::NAN };
    }
    let magnitude =
        if biased == 0 { fraction * 2f64.powi(1 - bias) } else { (1.0 + fraction) * 2f64.powi(biased - bias) };
    sign * magnitude
}

/// The finite values of a format of at most 16 bits in ascending order, one zero, with their bits.
pub fn ladder(format: Format) -> Vec<(f64, u64)> {
    let mut values: Vec<(f64, u64)> = (0..1u64 << format.width())
        .filter(|bits| *bits != format.sign())
        .map(|bits| (plain_value(format, bits), bits))
        .filter(|(value, _)| value.is_finite())
        .collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    values
}

/// `value` (finite, exact) rounded to a format of at most 16 bits, by searching its values. `past` continues the ladder
/// above the largest: what nearest rounding turns into overflow.
pub fn search(format: Format, values: &[(f64, u64)], value: f64, rounding: Rounding) -> u64 {
    let sign = if value.is_sign_negative() { format.sign() } else { 0 };
    let overflow = format.infinity().unwrap_or(format.nan());
    let above = values.partition_point(|(candidate, _)| *candidate < value);
    if above < values.len() && values[above].0 == value {
        return if value == 0.0 { sign } else { values[above].1 };
    }
    // The value that would follow the largest if exponents went on.
    let (last, before) = (values[values.len() - 1], values[values.len() - 2]);
    let past = last.0 + (last.0 - before.0);
    let lower = if above == 0 {
        (-past, overflow | format.sign(), true)
    } else {
        (values[above - 1].0, values[above - 1].1, false)
    };
    let upper = if above == values.len() { (past, overflow, true) } else { (values[above].0, values[above].1, false) };
    let middle = lower.0 / 2.0 + upper.0 / 2.0;
    let even = |bits: u64, infinite: bool| infinite && format != Format::E4m3 || !infinite && bits & 1 == 0;
    let up = match rounding {
        Rounding::Down => false,
        Rounding::Up => true,
        Rounding::Zero => value < 0.0,
        Rounding::Nearest => value > middle || value == middle && even(upper.1, upper.2),
        Rounding::NearestAway => value > middle || value == middle && value > 0.0,
    };
    // Rounding toward zero never overflows; nor does nearest below the middle, which the above has seen to.
    let bits = if up { upper.1 } else { lower.1 };
    if bits == 0 || bits == format.sign() { sign } else { bits }
}
