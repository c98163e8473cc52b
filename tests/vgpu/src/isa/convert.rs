//! Conversion (PTX ISA 9.7.9.21 and 9.7.9.22): cvt between all integer and floating-point types, packed conversions to
//! and from f16x2, bf16x2, e4m3x2, e5m2x2, to tf32; cvt.pack.
//!
//! Values travel as the low bits of a `u64`. Signed results are sign-extended to 64 bits, so that the caller can cut them
//! to whatever destination register the instruction has. The conversions that kernels are full of have fast paths that
//! fold away to a few instructions with constant arguments; the others go through [`Exact`], which rounds once.
//!
//! Not here: `cvt.rs` (stochastic rounding) and the 4- and 6-bit formats, which sm_100 brought.

use super::Rounding;
use super::exact::{Exact, Format, Number};
use super::float32;
use super::half::{self, Bf16, F16, Half};

/// An integer type: 8, 16, 32 or 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integer {
    /// Two's complement, or unsigned.
    pub signed: bool,
    /// 8, 16, 32 or 64.
    pub width: u32,
}

impl Integer {
    /// The value in the low bits of `bits`.
    #[inline(always)]
    pub fn read(self, bits: u64) -> i128 {
        let unused = 64 - self.width;
        if self.signed { (((bits << unused) as i64) >> unused) as i128 } else { (bits << unused >> unused) as i128 }
    }

    /// The value cut to the width, and extended to 64 bits again.
    #[inline(always)]
    pub fn wrap(self, value: i128) -> u64 {
        self.read(value as u64) as u64
    }

    /// The value clamped to the range of the type.
    #[inline(always)]
    pub fn clamp(self, value: i128) -> u64 {
        let lowest = if self.signed { -(1 << (self.width - 1)) } else { 0 };
        let highest = (1i128 << (self.width - self.signed as u32)) - 1;
        value.clamp(lowest, highest) as u64
    }
}

/// Modifiers of a conversion to floating point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversion {
    /// `.rn .rz .rm .rp .rna`; where the ISA has none (a widening), any.
    pub rounding: Rounding,
    /// `.rni .rzi .rmi .rpi` of a conversion between floating-point types: rounds to an integral value first.
    pub to_integral: bool,
    /// `.ftz`: subnormal f32 become zeros of their sign, on either side.
    pub ftz: bool,
    /// `.sat`: clamped to [0, 1]; NaN becomes 0.
    pub sat: bool,
    /// `.relu`: negative numbers become 0.
    pub relu: bool,
    /// `.satfinite`: what is too large, infinities too, becomes the largest finite value.
    pub satfinite: bool,
}

impl Conversion {
    /// `.rn` and nothing else.
    pub const NEAREST: Conversion = Conversion {
        rounding: Rounding::Nearest,
        to_integral: false,
        ftz: false,
        sat: false,
        relu: false,
        satfinite: false,
    };
}

/// `cvt` between integers, wrapping or `.sat`.
#[inline(always)]
pub fn integer_to_integer(from: Integer, to: Integer, sat: bool, bits: u64) -> u64 {
    if sat { to.clamp(from.read(bits)) } else { to.wrap(from.read(bits)) }
}

/// `cvt` of an integer to f16, bf16, f32 or f64. `.sat` clamps to [0, 1].
#[inline(always)]
pub fn integer_to_float(from: Integer, to: Format, rounding: Rounding, sat: bool, bits: u64) -> u64 {
    let value = from.read(bits);
    let value = if sat { value.clamp(0, 1) } else { value };
    match (to, rounding) {
        (Format::F32, Rounding::Nearest) if from.width <= 32 && from.signed => (value as i32 as f32).to_bits() as u64,
        (Format::F32, Rounding::Nearest) if from.width <= 32 => (value as u32 as f32).to_bits() as u64,
        (Format::F32, Rounding::Nearest) if from.signed => (value as i64 as f32).to_bits() as u64,
        (Format::F32, Rounding::Nearest) => (value as u64 as f32).to_bits() as u64,
        (Format::F64, _) if from.width <= 32 => (value as i64 as f64).to_bits(),
        (Format::F64, Rounding::Nearest) if from.signed => (value as i64 as f64).to_bits(),
        (Format::F64, Rounding::Nearest) => (value as u64 as f64).to_bits(),
        (Format::F16, Rounding::Nearest) if from.width <= 16 => F16::from_f32(value as i32 as f32).0 as u64,
        (Format::Bf16, Rounding::Nearest) if from.width <= 16 => Bf16::from_f32(value as i32 as f32).0 as u64,
        _ => exact_integer_to_float(value, to, rounding),
    }
}

#[inline(never)]
fn exact_integer_to_float(value: i128, to: Format, rounding: Rounding) -> u64 {
    Exact::from_integer(value).round(to, rounding)
}

/// `cvt` of f16, bf16, f32 or f64 to an integer. Values beyond the range are clamped, `.sat` or not. NaN becomes 0, or, if
/// the source has 64 bits or the destination, the most significant bit alone.
#[inline(always)]
pub fn float_to_integer(from: Format, to: Integer, rounding: Rounding, ftz: bool, bits: u64) -> u64 {
    let nan = if from == Format::F64 || to.width == 64 { to.wrap(1i128 << (to.width - 1)) } else { 0 };
    // Every narrower source is an f32 exactly. Flushing matters: rounding up takes the smallest subnormal to 1.
    let narrow = match from {
        Format::F16 => Some(F16(bits as u16).to_f32()),
        Format::Bf16 => Some(Bf16(bits as u16).to_f32()),
        Format::F32 if ftz => Some(float32::flush(f32::from_bits(bits as u32))),
        Format::F32 => Some(f32::from_bits(bits as u32)),
        _ => None,
    };
    if let Some(value) = narrow {
        let integral = match rounding {
            Rounding::Zero => value,
            Rounding::Nearest => value.round_ties_even(),
            Rounding::NearestAway => value.round(),
            Rounding::Down => value.floor(),
            Rounding::Up => value.ceil(),
        };
        let clamped = match (to.signed, to.width) {
            (true, 8) => integral as i8 as u64,
            (true, 16) => integral as i16 as u64,
            (true, 32) => integral as i32 as u64,
            (true, _) => integral as i64 as u64,
            (false, 8) => integral as u8 as u64,
            (false, 16) => integral as u16 as u64,
            (false, 32) => integral as u32 as u64,
            (false, _) => integral as u64,
        };
        return if value.is_nan() { nan } else { clamped };
    }
    match from.decode(bits) {
        Number::Nan => nan,
        Number::Infinite { negative } => to.clamp(if negative { i128::MIN } else { i128::MAX }),
        Number::Finite(value) => to.clamp(value.round_to_integer(rounding)),
    }
}

/// `cvt` between floating-point types, both of one value.
#[inline(always)]
pub fn float_to_float(from: Format, to: Format, conversion: Conversion, bits: u64) -> u64 {
    let plain = conversion.rounding == Rounding::Nearest && !conversion.to_integral && !conversion.satfinite;
    let narrow = match from {
        Format::F16 => Some(F16(bits as u16).to_f32()),
        Format::Bf16 => Some(Bf16(bits as u16).to_f32()),
        Format::F32 => Some(f32::from_bits(bits as u32)),
        _ => None,
    };
    match (narrow, to) {
        (Some(value), Format::F16 | Format::Bf16 | Format::F32 | Format::F64) if plain => {
            let value = if conversion.ftz && from == Format::F32 { float32::flush(value) } else { value };
            let value = if conversion.sat { float32::saturate(value) } else { value };
            let value = if conversion.relu { half::relu(value) } else { value };
            match to {
                Format::F16 => F16::from_f32(value).0 as u64,
                Format::Bf16 => Bf16::from_f32(value).0 as u64,
                Format::F64 if value.is_nan() => Format::F64.nan(),
                Format::F64 => (value as f64).to_bits(),
                _ if conversion.ftz => float32::canonical(float32::flush(value)).to_bits() as u64,
                _ => float32::canonical(value).to_bits() as u64,
            }
        }
        (None, Format::F32) if plain && from == Format::F64 => {
            let value = f64::from_bits(bits) as f32;
            let value = if conversion.ftz { float32::flush(value) } else { value };
            let value = if conversion.sat { float32::saturate(value) } else { float32::canonical(value) };
            (if conversion.relu { half::relu(value) } else { value }).to_bits() as u64
        }
        _ => exact_float_to_float(from, to, conversion, bits),
    }
}

/// [`float_to_float`] in full generality.
#[inline(never)]
fn exact_float_to_float(from: Format, to: Format, conversion: Conversion, bits: u64) -> u64 {
    let flush = |format: Format, bits: u64| {
        let flushed = conversion.ftz && format == Format::F32 && format.is_subnormal(bits);
        if flushed { bits & format.sign() } else { bits }
    };
    let one = Exact::from_integer(1).round(to, Rounding::Nearest);
    let (negative, magnitude) = match from.decode(flush(from, bits)) {
        Number::Nan if conversion.sat => (false, 0),
        Number::Nan => return to.nan(),
        Number::Infinite { negative } => {
            let largest = if conversion.satfinite { Some(to.largest()) } else { to.infinity() };
            (negative, largest.unwrap_or(to.nan()))
        }
        Number::Finite(value) => {
            let value = if conversion.to_integral {
                let integral = Exact { exponent: 0, ..value };
                // A large value is integral already, and one that rounds to zero keeps its sign.
                if value.exponent >= 0 {
                    value
                } else {
                    let rounded = value.round_to_integer(conversion.rounding).unsigned_abs();
                    Exact { significand: rounded, ..integral }
                }
            } else {
                value
            };
            let rounded = flush(to, value.round(to, conversion.rounding));
            let magnitude = rounded & (to.sign() - 1);
            let infinite = magnitude > to.largest();
            (value.negative, if infinite && conversion.satfinite { to.largest() } else { magnitude })
        }
    };
    if negative && (conversion.relu || conversion.sat) {
        return 0;
    }
    let magnitude = if conversion.sat { magnitude.min(one) } else { magnitude };
    if negative { magnitude | to.sign() } else { magnitude }
}

/// `cvt.rn.f16x2.f32 d, a, b` and its like: two f32 to a packed pair, `a` in the upper half. `to` is F16, Bf16, E4m3 or
/// E5m2; pairs of the latter two are 16 bits.
#[inline(always)]
pub fn pack_f32(to: Format, conversion: Conversion, a: u32, b: u32) -> u32 {
    let convert = |bits: u32| float_to_float(Format::F32, to, conversion, bits as u64) as u32;
    convert(a) << to.width() | convert(b)
}

/// A packed pair to another: e4m3x2 or e5m2x2 to f16x2, and f16x2 to either.
#[inline(always)]
pub fn pair_to_pair(from: Format, to: Format, conversion: Conversion, pair: u32) -> u32 {
    let convert = |bits: u32| float_to_float(from, to, conversion, bits as u64) as u32;
    let low = pair & ((1u32 << from.width()) - 1);
    convert(pair >> from.width() & ((1u32 << from.width()) - 1)) << to.width() | convert(low)
}

/// `cvt.pack.sat`: `a` and `b` (s32) clamped to `to` (16, 8, 4 or 2 bits), `b` lowest, below the low bits of `c`.
#[inline(always)]
pub fn pack_integers(to: Integer, a: i32, b: i32, c: u32) -> u32 {
    let clamp = |value: i32| to.clamp(value as i128) as u32 & ((1 << to.width) - 1);
    let rest = if to.width == 16 { 0 } else { c << (2 * to.width) };
    rest | clamp(a) << to.width | clamp(b)
}
