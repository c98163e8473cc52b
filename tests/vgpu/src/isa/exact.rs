//! Exact numbers and their rounding to any format: the plain path behind directed rounding of f64 and rare conversions.
//!
//! A finite number is `significand * 2^exponent` with 128 bits of significand and a flag for what lies below them. That
//! holds any one operation on two f64 (a fused multiply-add too) well enough to be rounded once.

use super::Rounding;

/// A binary floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 1 sign, 5 exponent, 10 mantissa bits.
    F16,
    /// 1, 8, 7.
    Bf16,
    /// 1, 8, 10 in the upper bits of a 32-bit register; the lower 13 are zero.
    Tf32,
    /// 1, 8, 23.
    F32,
    /// 1, 11, 52.
    F64,
    /// 1, 4, 3; no infinities, one NaN of each sign, largest value 448.
    E4m3,
    /// 1, 5, 2: a short f16.
    E5m2,
}

impl Format {
    const fn exponent_bits(self) -> u32 {
        match self {
            Format::E4m3 => 4,
            Format::F16 | Format::E5m2 => 5,
            Format::Bf16 | Format::Tf32 | Format::F32 => 8,
            Format::F64 => 11,
        }
    }

    const fn mantissa_bits(self) -> u32 {
        match self {
            Format::E5m2 => 2,
            Format::E4m3 => 3,
            Format::Bf16 => 7,
            Format::F16 | Format::Tf32 => 10,
            Format::F32 => 23,
            Format::F64 => 52,
        }
    }

    /// How far left in its register a value sits.
    const fn shift(self) -> u32 {
        if matches!(self, Format::Tf32) { 13 } else { 0 }
    }

    /// Bits of a value.
    pub const fn width(self) -> u32 {
        1 + self.exponent_bits() + self.mantissa_bits() + self.shift()
    }

    /// The sign bit.
    pub const fn sign(self) -> u64 {
        1 << (self.width() - 1)
    }

    /// The NaN that instructions give.
    pub const fn nan(self) -> u64 {
        match self {
            Format::F64 => 0xfff8_0000_0000_0000,
            _ => self.sign() - 1,
        }
    }

    /// Positive infinity; `None` where the format has none.
    pub const fn infinity(self) -> Option<u64> {
        match self {
            Format::E4m3 => None,
            _ => Some(((1 << self.exponent_bits()) - 1) << (self.mantissa_bits() + self.shift())),
        }
    }

    /// The largest finite value.
    pub const fn largest(self) -> u64 {
        match self.infinity() {
            Some(infinity) => infinity - (1 << self.shift()),
            None => self.nan() - 1,
        }
    }

    /// Whether `bits` is not zero but smaller than the smallest normal number.
    pub const fn is_subnormal(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign() - 1);
        magnitude != 0 && magnitude >> (self.mantissa_bits() + self.shift()) == 0
    }

    /// Whether `bits` is a NaN.
    pub const fn is_nan(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign() - 1);
        match self.infinity() {
            Some(infinity) => magnitude > infinity,
            None => magnitude == self.nan(),
        }
    }

    /// Exponent of the smallest normal number.
    const fn smallest_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits() - 1))
    }

    /// What a register of this format holds.
    pub fn decode(self, bits: u64) -> Number {
        let negative = bits & self.sign() != 0;
        let magnitude = bits & (self.sign() - 1);
        if self.is_nan(bits) {
            return Number::Nan;
        }
        if self.infinity() == Some(magnitude) {
            return Number::Infinite { negative };
        }
        let magnitude = magnitude >> self.shift();
        let biased = (magnitude >> self.mantissa_bits()) as i32;
        let fraction = magnitude & ((1 << self.mantissa_bits()) - 1);
        let implicit = if biased == 0 { 0 } else { 1 << self.mantissa_bits() };
        Number::Finite(Exact {
            negative,
            exponent: biased.max(1) - 1 + self.smallest_exponent() - self.mantissa_bits() as i32,
            significand: (fraction | implicit) as u128,
            sticky: false,
        })
    }
}

/// The value of a floating-point register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Not a number; payloads are not kept.
    Nan,
    /// An infinity.
    Infinite {
        /// Its sign.
        negative: bool,
    },
    /// Everything else, signed zeros included.
    Finite(Exact),
}

/// `(-1)^negative * (significand + s) * 2^exponent`, where `s` is 0, or strictly between 0 and 1 if `sticky`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// The sign, of zero too.
    pub negative: bool,
    /// The weight of the significand's lowest bit.
    pub exponent: i32,
    /// The magnitude.
    pub significand: u128,
    /// Whether something smaller was left out. Only with at least 64 significant bits above it.
    pub sticky: bool,
}

impl Exact {
    /// An integer.
    pub fn from_integer(value: i128) -> Exact {
        Exact { negative: value < 0, exponent: 0, significand: value.unsigned_abs(), sticky: false }
    }

    /// Whether the value is zero.
    pub fn is_zero(self) -> bool {
        self.significand == 0 && !self.sticky
    }

    /// The integer part of `|self| / 2^quantum`, rounded by its rest.
    fn quantise(self, quantum: i32, rounding: Rounding) -> u128 {
        let drop = quantum - self.exponent;
        if drop <= 0 {
            return self.significand << -drop;
        }
        let (kept, half, below) = match drop as u32 {
            drop @ 1..=127 => {
                let rest = self.significand & ((1 << drop) - 1);
                let half = 1 << (drop - 1);
                (self.significand >> drop, rest & half != 0, rest & (half - 1) != 0 || self.sticky)
            }
            128 => (0, self.significand >> 127 != 0, self.significand << 1 != 0 || self.sticky),
            _ => (0, false, !self.is_zero()),
        };
        let inexact = half || below;
        let up = match rounding {
            Rounding::Nearest => half && (below || kept & 1 != 0),
            Rounding::NearestAway => half,
            Rounding::Zero => false,
            Rounding::Down => inexact && self.negative,
            Rounding::Up => inexact && !self.negative,
        };
        kept + up as u128
    }

    /// The value in `format`. Too large values become infinities, or the largest finite value where rounding points back;
    /// in a format without infinities, NaN.
    pub fn round(self, format: Format, rounding: Rounding) -> u64 {
        let sign = if self.negative { format.sign() } else { 0 };
        if self.is_zero() {
            return sign;
        }
        let leading = self.exponent + 127 - self.significand.leading_zeros() as i32;
        let exponent = leading.max(format.smallest_exponent());
        let mantissa_bits = format.mantissa_bits();
        let steps = (exponent - format.smallest_exponent()) as u128;
        // A significand that rounds up to the next power of two carries into the exponent, as it should.
        let magnitude = (steps << mantissa_bits) + self.quantise(exponent - mantissa_bits as i32, rounding);
        let magnitude = magnitude << format.shift();
        if magnitude <= format.largest() as u128 {
            return sign | magnitude as u64;
        }
        let back = match rounding {
            Rounding::Nearest | Rounding::NearestAway => false,
            Rounding::Zero => true,
            Rounding::Down => !self.negative,
            Rounding::Up => self.negative,
        };
        sign | if back { format.largest() } else { format.infinity().unwrap_or(format.nan()) }
    }

    /// The nearest integer in the direction of `rounding`, clamped to i128.
    pub fn round_to_integer(self, rounding: Rounding) -> i128 {
        let leading = self.exponent + 128 - self.significand.leading_zeros() as i32;
        if leading > 126 {
            return if self.negative { i128::MIN } else { i128::MAX };
        }
        let magnitude = self.quantise(0, rounding) as i128;
        if self.negative { -magnitude } else { magnitude }
    }

    /// The same value with its highest bit at position 125: one free bit for a sum, one to spare.
    fn normalised(self) -> Exact {
        let up = self.significand.leading_zeros() as i32 - 2;
        Exact { exponent: self.exponent - up, significand: self.significand << up, ..self }
    }

    /// The sum. An exact zero of terms with different signs is negative only when rounding down.
    pub fn add(self, other: Exact, rounding: Rounding) -> Exact {
        if self.is_zero() && other.is_zero() {
            let negative = if self.negative == other.negative { self.negative } else { rounding == Rounding::Down };
            return Exact { negative, ..self };
        }
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (mut large, mut small) = (self.normalised(), other.normalised());
        if (small.exponent, small.significand) > (large.exponent, large.significand) {
            std::mem::swap(&mut large, &mut small);
        }
        let shift = (large.exponent - small.exponent) as u32;
        let shifted = small.significand.checked_shr(shift).unwrap_or(0);
        let lost = shifted.checked_shl(shift).unwrap_or(0) != small.significand;
        if large.negative == small.negative {
            return Exact { significand: large.significand + shifted, sticky: lost, ..large };
        }
        // `large - (shifted + s)` is `(large - shifted - 1) + (1 - s)`.
        let difference = large.significand - shifted - lost as u128;
        let negative = if difference == 0 && !lost { rounding == Rounding::Down } else { large.negative };
        Exact { negative, significand: difference, sticky: lost, ..large }
    }

    /// The square root of a number that is not negative, correct to 63 bits.
    pub fn sqrt(self) -> Exact {
        if self.is_zero() {
            return self;
        }
        // The exponent of the radicand must be even.
        let up = self.significand.leading_zeros() as i32;
        let up = up - ((self.exponent - up) & 1);
        let radicand = self.significand << up;
        let root = radicand.isqrt();
        Exact { exponent: (self.exponent - up) / 2, significand: root, sticky: root * root != radicand, ..self }
    }
}

impl std::ops::Mul for Exact {
    type Output = Exact;

    /// The product; both significands must fit 64 bits.
    fn mul(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            exponent: self.exponent + other.exponent,
            significand: self.significand * other.significand,
            sticky: false,
        }
    }
}

impl std::ops::Div for Exact {
    type Output = Exact;

    /// The quotient, correct to at least 64 bits; both significands must fit 53 bits, and `other` must not be zero.
    fn div(self, other: Exact) -> Exact {
        let negative = self.negative != other.negative;
        if self.is_zero() {
            return Exact { negative, ..self };
        }
        let up = self.significand.leading_zeros();
        let dividend = self.significand << up;
        Exact {
            negative,
            exponent: self.exponent - up as i32 - other.exponent,
            significand: dividend / other.significand,
            sticky: !dividend.is_multiple_of(other.significand),
        }
    }
}
