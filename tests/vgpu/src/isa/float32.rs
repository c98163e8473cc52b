//! Single precision (PTX ISA 9.7.3): add sub mul fma div rcp sqrt with `.rn .rz .rm .rp`, `.ftz`, `.sat`; min max abs neg
//! copysign testp.
//!
//! Every NaN result is `0x7fffffff`, as on GPUs. To nearest, Rust's own arithmetic is the instruction. Other roundings
//! take the result to nearest and step to its neighbour where the exact value, known as the sum of two f64, lies beyond it.

use super::{Mode, Rounding};

/// The NaN that single precision instructions give.
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// `a`, or a zero of its sign if it is subnormal.
#[inline(always)]
pub fn flush(a: f32) -> f32 {
    let bits = a.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// An operand of an instruction in `mode`.
#[inline(always)]
pub(super) fn operand(mode: Mode, a: f32) -> f32 {
    if mode.ftz { flush(a) } else { a }
}

/// The result of an instruction in `mode`.
#[inline(always)]
pub(super) fn result(mode: Mode, a: f32) -> f32 {
    let a = if mode.ftz { flush(a) } else { a };
    if mode.sat { saturate(a) } else { canonical(a) }
}

/// `a`, or the one NaN.
#[inline(always)]
pub fn canonical(a: f32) -> f32 {
    if a.is_nan() { NAN } else { a }
}

/// `.sat`: clamped to [0, 1]; NaN and -0 become +0.
#[inline(always)]
pub fn saturate(a: f32) -> f32 {
    let positive = if a > 0.0 { a } else { 0.0 };
    if positive > 1.0 { 1.0 } else { positive }
}

/// The neighbour below; that of zero is the smallest negative number.
#[inline(always)]
fn next_down(a: f32) -> f32 {
    let bits = a.to_bits();
    let next = if bits & 0x8000_0000 != 0 { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f32::from_bits(if bits << 1 == 0 { 0x8000_0001 } else { next })
}

/// The neighbour above.
#[inline(always)]
fn next_up(a: f32) -> f32 {
    -next_down(-a)
}

/// Moves `nearest` where rounding sends the exact value, given the order of the exact value and `nearest`.
#[inline(always)]
fn step(rounding: Rounding, nearest: f32, below: bool, above: bool) -> f32 {
    let negative = nearest.is_sign_negative();
    let (down, up) = match rounding {
        Rounding::Nearest | Rounding::NearestAway => (false, false),
        Rounding::Zero => (below && !negative, above && negative),
        Rounding::Down => (below, false),
        Rounding::Up => (false, above),
    };
    let lower = if down { next_down(nearest) } else { nearest };
    if up { next_up(nearest) } else { lower }
}

/// `sum + error`, two f64 of which the second is small, rounded to f32.
#[inline(always)]
fn round_pair(rounding: Rounding, sum: f64, error: f64) -> f32 {
    let nearest = sum as f32;
    let back = nearest as f64;
    step(rounding, nearest, sum < back || sum == back && error < 0.0, sum > back || sum == back && error > 0.0)
}

/// `a + b` rounded to f64 and what that left out, exactly.
#[inline(always)]
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    let a_part = sum - b_part;
    (sum, (a - a_part) + (b - b_part))
}

/// `a + b` of two f64 that are products of f32, or f32.
#[inline(always)]
fn add_directed(rounding: Rounding, a: f64, b: f64) -> f32 {
    let (sum, error) = two_sum(a, b);
    // Terms that cancel give -0 when rounding down.
    let zero_down = rounding == Rounding::Down && sum == 0.0 && (a.is_sign_negative() || b.is_sign_negative());
    if zero_down { -0.0 } else { round_pair(rounding, sum, error) }
}

/// `add`
#[inline(always)]
pub fn add(mode: Mode, a: f32, b: f32) -> f32 {
    let (a, b) = (operand(mode, a), operand(mode, b));
    result(
        mode,
        if mode.rounding == Rounding::Nearest { a + b } else { add_directed(mode.rounding, a as f64, b as f64) },
    )
}

/// `sub`
#[inline(always)]
pub fn sub(mode: Mode, a: f32, b: f32) -> f32 {
    add(mode, a, -b)
}

/// `mul`
#[inline(always)]
pub fn mul(mode: Mode, a: f32, b: f32) -> f32 {
    let (a, b) = (operand(mode, a), operand(mode, b));
    // The product of two f32 is exact in f64.
    result(
        mode,
        if mode.rounding == Rounding::Nearest { a * b } else { round_pair(mode.rounding, a as f64 * b as f64, 0.0) },
    )
}

/// `fma`, and `mad` of the same modifiers.
#[inline(always)]
pub fn fma(mode: Mode, a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = (operand(mode, a), operand(mode, b), operand(mode, c));
    result(
        mode,
        if mode.rounding == Rounding::Nearest {
            a.mul_add(b, c)
        } else {
            add_directed(mode.rounding, a as f64 * b as f64, c as f64)
        },
    )
}

/// `div.rn` and its like.
#[inline(always)]
pub fn div(mode: Mode, a: f32, b: f32) -> f32 {
    let (a, b) = (operand(mode, a), operand(mode, b));
    let nearest = a / b;
    if mode.rounding == Rounding::Nearest {
        return result(mode, nearest);
    }
    // Whether `a / b` is above `nearest` is the sign of `a - nearest * b`, turned round if `b` is negative. Overflow makes
    // `nearest` infinite and the product too, with the right sign; an exact infinity (b is 0) must stay.
    let product = nearest as f64 * b as f64;
    let finite = b != 0.0 && a.is_finite();
    let (less, more) = ((a as f64) < product, (a as f64) > product);
    let (below, above) = if b < 0.0 { (more, less) } else { (less, more) };
    result(mode, step(mode.rounding, nearest, finite && below, finite && above))
}

/// `rcp.rn` and its like.
#[inline(always)]
pub fn rcp(mode: Mode, a: f32) -> f32 {
    div(mode, 1.0, a)
}

/// `sqrt.rn` and its like.
#[inline(always)]
pub fn sqrt(mode: Mode, a: f32) -> f32 {
    let a = operand(mode, a);
    let nearest = a.sqrt();
    let square = nearest as f64 * nearest as f64;
    result(mode, step(mode.rounding, nearest, (a as f64) < square, a as f64 > square))
}

/// Modifiers of `min` and `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MinMax {
    /// `.ftz`
    pub ftz: bool,
    /// `.NaN`: any NaN makes the result NaN; else a NaN yields to a number.
    pub nan: bool,
    /// `.xorsign.abs`: magnitudes are compared, and the sign is the exclusive or of the two.
    pub xorsign_abs: bool,
}

/// `min`; -0 is less than +0.
#[inline(always)]
pub fn min(modifiers: MinMax, a: f32, b: f32) -> f32 {
    extreme(modifiers, false, a, b)
}

/// `max`; +0 is more than -0.
#[inline(always)]
pub fn max(modifiers: MinMax, a: f32, b: f32) -> f32 {
    extreme(modifiers, true, a, b)
}

#[inline(always)]
fn extreme(modifiers: MinMax, larger: bool, a: f32, b: f32) -> f32 {
    let (a, b) = if modifiers.ftz { (flush(a), flush(b)) } else { (a, b) };
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let (a, b) = if modifiers.xorsign_abs { (a.abs(), b.abs()) } else { (a, b) };
    // Equal numbers differ in the sign of zero alone: the sign bits decide.
    let first = if a == b { a.is_sign_negative() != larger } else { (a < b) != larger };
    let chosen = if first { a } else { b };
    let (a_nan, b_nan) = (a.is_nan(), b.is_nan());
    let chosen = if a_nan { b } else { chosen };
    let chosen = if b_nan { a } else { chosen };
    let chosen = if modifiers.xorsign_abs { f32::from_bits(chosen.to_bits() & 0x7fff_ffff | sign) } else { chosen };
    let nan = if modifiers.nan { a_nan || b_nan } else { a_nan && b_nan };
    if nan { NAN } else { chosen }
}

/// `abs`
#[inline(always)]
pub fn abs(ftz: bool, a: f32) -> f32 {
    let a = if ftz { flush(a) } else { a };
    f32::from_bits(a.to_bits() & 0x7fff_ffff)
}

/// `neg`
#[inline(always)]
pub fn neg(ftz: bool, a: f32) -> f32 {
    let a = if ftz { flush(a) } else { a };
    f32::from_bits(a.to_bits() ^ 0x8000_0000)
}

/// `copysign`: the magnitude of `b` with the sign of `a`.
#[inline(always)]
pub fn copysign(a: f32, b: f32) -> f32 {
    f32::from_bits(a.to_bits() & 0x8000_0000 | b.to_bits() & 0x7fff_ffff)
}

/// The question that `testp` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// Neither infinite nor NaN.
    Finite,
    /// An infinity.
    Infinite,
    /// Not NaN.
    Number,
    /// NaN.
    NotANumber,
    /// Neither zero, subnormal, infinite nor NaN.
    Normal,
    /// Subnormal, not zero.
    Subnormal,
}

/// `testp.f32`
#[inline(always)]
pub fn testp(test: Test, a: f32) -> bool {
    match test {
        Test::Finite => a.is_finite(),
        Test::Infinite => a.is_infinite(),
        Test::Number => !a.is_nan(),
        Test::NotANumber => a.is_nan(),
        Test::Normal => a.is_normal(),
        Test::Subnormal => a.is_subnormal(),
    }
}
