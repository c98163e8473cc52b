//! Half precision and bfloat16 (PTX ISA 9.7.4): add sub mul fma fma.relu min max neg abs, `.ftz`, `.sat`.
//!
//! Every result is rounded once, to nearest even. Sums and f16 products are formed in f32, whose 24 bits are enough for
//! the second rounding to be harmless (24 >= 2 * 11 + 2); the others in f64, brought down by rounding to odd, after which
//! any shorter rounding is the right one. NaN results are `0x7fff`.
//!
//! Packed instructions are the scalar ones on both halves: [`pair1`], [`pair2`], [`pair3`].

use super::exact::Format;
use super::float32::{self, MinMax};

/// An f16 register value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F16(pub u16);

/// A bf16 register value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16(pub u16);

/// What the two 16-bit formats have in common.
pub trait Half: super::Value<Register = u32> {
    /// The format.
    const FORMAT: Format;
    /// From the 16 bits.
    fn from_bits(bits: u16) -> Self;
    /// The 16 bits.
    fn to_bits(self) -> u16;
    /// The exact value.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even; NaN becomes `0x7fff`.
    fn from_f32(a: f32) -> Self;
    /// The product, rounded to f32 so that rounding it once more is right.
    fn product(a: f32, b: f32) -> f32;
}

impl Half for F16 {
    const FORMAT: Format = Format::F16;
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        F16(bits)
    }
    #[inline(always)]
    fn to_bits(self) -> u16 {
        self.0
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let sign = (self.0 as u32 & 0x8000) << 16;
        let magnitude = (self.0 as u32 & 0x7fff) << 13;
        // Exponents are 112 apart; those of infinities and NaN another 112.
        let normal = magnitude + (112 << 23);
        let special = magnitude + (224 << 23);
        // A subnormal is read as the fraction of a number in [2^-14, 2^-13), from which 2^-14 is taken.
        let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
        let bits = if magnitude < 1 << 23 { subnormal } else { normal };
        f32::from_bits(sign | if magnitude >= 31 << 23 { special } else { bits })
    }
    #[inline(always)]
    fn from_f32(a: f32) -> Self {
        let sign = (a.to_bits() >> 16) & 0x8000;
        let magnitude = a.to_bits() & 0x7fff_ffff;
        // Below 2^-14, the spacing of f16 is that of f32 at 0.5, and the addition rounds.
        let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let rebased = magnitude.wrapping_sub(112 << 23);
        let normal = (rebased.wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13).min(0x7c00);
        let bits = sign | if magnitude < 113 << 23 { small } else { normal };
        F16(if a.is_nan() { 0x7fff } else { bits as u16 })
    }
    #[inline(always)]
    fn product(a: f32, b: f32) -> f32 {
        a * b
    }
}

impl Half for Bf16 {
    const FORMAT: Format = Format::Bf16;
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Bf16(bits)
    }
    #[inline(always)]
    fn to_bits(self) -> u16 {
        self.0
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(a: f32) -> Self {
        let bits = a.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        Bf16(if a.is_nan() { 0x7fff } else { rounded as u16 })
    }
    #[inline(always)]
    fn product(a: f32, b: f32) -> f32 {
        // The product of two bf16 can lie below the subnormals of f32.
        to_odd_f32(a as f64 * b as f64)
    }
}

/// `sum + error` rounded to odd in f64: an inexact result has its last bit set.
#[inline(always)]
pub(super) fn to_odd_f64(sum: f64, error: f64) -> f64 {
    let bits = sum.to_bits();
    let outward = (error > 0.0) == (sum > 0.0);
    let odd = if outward { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    // Not of a NaN, which an infinite sum leaves behind.
    let inexact = error.abs() > 0.0;
    f64::from_bits(if inexact && bits & 1 == 0 { odd } else { bits })
}

/// `a` rounded to odd in f32.
#[inline(always)]
fn to_odd_f32(a: f64) -> f32 {
    let nearest = a as f32;
    let back = nearest as f64;
    let bits = nearest.to_bits();
    let odd = if a.abs() > back.abs() { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = (a - back).abs() > 0.0;
    f32::from_bits(if inexact && bits & 1 == 0 { odd } else { bits })
}

/// f64 to a 16-bit format, rounded once.
#[inline(always)]
pub fn from_f64<T: Half>(a: f64) -> T {
    T::from_f32(to_odd_f32(a))
}

/// Modifiers of half arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HalfMode {
    /// `.ftz` (f16 only): subnormal inputs and results become zeros of the same sign.
    pub ftz: bool,
    /// `.sat` (f16 only): clamped to [0, 1], and NaN becomes 0.
    pub sat: bool,
    /// `.relu` (fma): negative results become 0.
    pub relu: bool,
}

#[inline(always)]
pub(super) fn flush<T: Half>(ftz: bool, a: T) -> T {
    let subnormal = T::FORMAT.is_subnormal(a.to_bits() as u64);
    if ftz && subnormal { T::from_bits(a.to_bits() & 0x8000) } else { a }
}

#[inline(always)]
fn operand<T: Half>(mode: HalfMode, a: T) -> f32 {
    flush(mode.ftz, a).to_f32()
}

#[inline(always)]
fn result<T: Half>(mode: HalfMode, a: f32) -> T {
    let a = if mode.sat { float32::saturate(a) } else { a };
    let a = if mode.relu { relu(a) } else { a };
    flush(mode.ftz, T::from_f32(a))
}

/// `.relu`: negative numbers and -0 become +0; NaN stays.
#[inline(always)]
pub(super) fn relu(a: f32) -> f32 {
    if a <= 0.0 { 0.0 } else { a }
}

/// `add`
#[inline(always)]
pub fn add<T: Half>(mode: HalfMode, a: T, b: T) -> T {
    result(mode, operand(mode, a) + operand(mode, b))
}

/// `sub`
#[inline(always)]
pub fn sub<T: Half>(mode: HalfMode, a: T, b: T) -> T {
    result(mode, operand(mode, a) - operand(mode, b))
}

/// `mul`
#[inline(always)]
pub fn mul<T: Half>(mode: HalfMode, a: T, b: T) -> T {
    result(mode, T::product(operand(mode, a), operand(mode, b)))
}

/// `fma`
#[inline(always)]
pub fn fma<T: Half>(mode: HalfMode, a: T, b: T, c: T) -> T {
    let product = operand(mode, a) as f64 * operand(mode, b) as f64;
    let (sum, error) = float32::two_sum(product, operand(mode, c) as f64);
    result(mode, to_odd_f32(to_odd_f64(sum, error)))
}

/// `fma.oob`: zero where an operand is the NaN that tensor copies put in place of elements outside of the tensor.
#[inline(always)]
pub fn fma_inside<T: Half>(mode: HalfMode, a: T, b: T, c: T) -> T {
    let is_outside = |operand: T| operand.to_bits() == OUTSIDE;
    if is_outside(a) || is_outside(b) || is_outside(c) { T::from_bits(0) } else { fma(mode, a, b, c) }
}

/// The NaN of elements outside of a tensor.
pub const OUTSIDE: u16 = 0x7fff;

/// `min`; see [`MinMax`] for its modifiers.
#[inline(always)]
pub fn min<T: Half>(modifiers: MinMax, a: T, b: T) -> T {
    extreme(modifiers, a, b, float32::min)
}

/// `max`; see [`MinMax`] for its modifiers.
#[inline(always)]
pub fn max<T: Half>(modifiers: MinMax, a: T, b: T) -> T {
    extreme(modifiers, a, b, float32::max)
}

#[inline(always)]
fn extreme<T: Half>(modifiers: MinMax, a: T, b: T, choose: impl Fn(MinMax, f32, f32) -> f32) -> T {
    let (a, b) = (flush(modifiers.ftz, a).to_f32(), flush(modifiers.ftz, b).to_f32());
    T::from_f32(choose(MinMax { ftz: false, ..modifiers }, a, b))
}

/// `abs`
#[inline(always)]
pub fn abs<T: Half>(ftz: bool, a: T) -> T {
    T::from_bits(flush(ftz, a).to_bits() & 0x7fff)
}

/// `neg`
#[inline(always)]
pub fn neg<T: Half>(ftz: bool, a: T) -> T {
    T::from_bits(flush(ftz, a).to_bits() ^ 0x8000)
}

/// The two values of a packed register, the lower half first.
#[inline(always)]
pub fn unpack<T: Half>(pair: u32) -> [T; 2] {
    [T::from_bits(pair as u16), T::from_bits((pair >> 16) as u16)]
}

/// The packed register of two values, the lower half first.
#[inline(always)]
pub fn pack<T: Half>([low, high]: [T; 2]) -> u32 {
    low.to_bits() as u32 | (high.to_bits() as u32) << 16
}

/// Applies an operation to both halves of a packed register.
#[inline(always)]
pub fn pair1<T: Half>(a: u32, operation: impl Fn(T) -> T) -> u32 {
    let [a0, a1] = unpack(a);
    pack([operation(a0), operation(a1)])
}

/// Applies an operation to both halves of two packed registers.
#[inline(always)]
pub fn pair2<T: Half>(a: u32, b: u32, operation: impl Fn(T, T) -> T) -> u32 {
    let ([a0, a1], [b0, b1]) = (unpack(a), unpack(b));
    pack([operation(a0, b0), operation(a1, b1)])
}

/// Applies an operation to both halves of three packed registers.
#[inline(always)]
pub fn pair3<T: Half>(a: u32, b: u32, c: u32, operation: impl Fn(T, T, T) -> T) -> u32 {
    let ([a0, a1], [b0, b1], [c0, c1]) = (unpack(a), unpack(b), unpack(c));
    pack([operation(a0, b0, c0), operation(a1, b1, c1)])
}
