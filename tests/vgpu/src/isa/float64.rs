//! Double precision (PTX ISA 9.7.3): add sub mul fma div rcp sqrt with `.rn .rz .rm .rp`; min max abs neg copysign testp;
//! and rcp.approx.ftz, rsqrt.approx (in full accuracy).
//!
//! A NaN operand is passed on with its payload, quieted, the first one if there are several; an invalid operation gives
//! `0xfff8000000000000`. Roundings other than to nearest take the plain path of [`Exact`]: no compiler emits them in loops.

use super::Rounding;
use super::exact::{Exact, Format, Number};
use super::float32::Test;

/// The result of an operation without NaN operands; else the first NaN.
#[inline(always)]
fn result(operands: [f64; 3], result: f64) -> f64 {
    let quiet = |a: f64| f64::from_bits(a.to_bits() | 0x0008_0000_0000_0000);
    let mut chosen = if result.is_nan() { f64::from_bits(Format::F64.nan()) } else { result };
    for operand in operands.into_iter().rev() {
        chosen = if operand.is_nan() { quiet(operand) } else { chosen };
    }
    chosen
}

/// `a` as an exact number, if finite.
fn exact(a: f64) -> Option<Exact> {
    match Format::F64.decode(a.to_bits()) {
        Number::Finite(exact) => Some(exact),
        _ => None,
    }
}

/// Replaces the result to nearest by the correctly rounded one, where operands are finite.
#[inline(always)]
fn directed(rounding: Rounding, nearest: f64, exactly: impl FnOnce() -> Option<Exact>) -> f64 {
    if rounding == Rounding::Nearest {
        return nearest;
    }
    exactly().map_or(nearest, |value| f64::from_bits(value.round(Format::F64, rounding)))
}

/// `add`
#[inline(always)]
pub fn add(rounding: Rounding, a: f64, b: f64) -> f64 {
    result([a, b, 0.0], directed(rounding, a + b, || Some(exact(a)?.add(exact(b)?, rounding))))
}

/// `sub`
#[inline(always)]
pub fn sub(rounding: Rounding, a: f64, b: f64) -> f64 {
    result([a, b, 0.0], directed(rounding, a - b, || Some(exact(a)?.add(exact(-b)?, rounding))))
}

/// `mul`
#[inline(always)]
pub fn mul(rounding: Rounding, a: f64, b: f64) -> f64 {
    result([a, b, 0.0], directed(rounding, a * b, || Some(exact(a)? * exact(b)?)))
}

/// `fma`
#[inline(always)]
pub fn fma(rounding: Rounding, a: f64, b: f64, c: f64) -> f64 {
    let nearest = a.mul_add(b, c);
    result([a, b, c], directed(rounding, nearest, || Some((exact(a)? * exact(b)?).add(exact(c)?, rounding))))
}

/// `div`
#[inline(always)]
pub fn div(rounding: Rounding, a: f64, b: f64) -> f64 {
    let exactly = || if b == 0.0 { None } else { Some(exact(a)? / exact(b)?) };
    result([a, b, 0.0], directed(rounding, a / b, exactly))
}

/// `rcp`
#[inline(always)]
pub fn rcp(rounding: Rounding, a: f64) -> f64 {
    div(rounding, 1.0, a)
}

/// `sqrt`
#[inline(always)]
pub fn sqrt(rounding: Rounding, a: f64) -> f64 {
    let exactly = || if a < 0.0 { None } else { Some(exact(a)?.sqrt()) };
    result([a, 0.0, 0.0], directed(rounding, a.sqrt(), exactly))
}

/// `rcp.approx.ftz.f64`: the upper word of the reciprocal, the lower one zero, as the ISA specifies; relative error below
/// 2^-20.
#[inline(always)]
pub fn rcp_approximate(a: f64) -> f64 {
    upper_word(1.0 / upper_word(a))
}

/// `rsqrt.approx.ftz.f64`: as [`rcp_approximate`], of the square root.
#[inline(always)]
pub fn rsqrt_approximate_upper(a: f64) -> f64 {
    upper_word(1.0 / upper_word(a).sqrt())
}

/// `rsqrt.approx.f64`: relative error below 2^-51.
#[inline(always)]
pub fn rsqrt_approximate(a: f64) -> f64 {
    result([a, 0.0, 0.0], 1.0 / a.sqrt())
}

/// `a` with the lower word zero, subnormals flushed, and the NaN of these instructions.
#[inline(always)]
fn upper_word(a: f64) -> f64 {
    let bits = a.to_bits() & 0xffff_ffff_0000_0000;
    let bits = if bits & 0x7ff0_0000_0000_0000 == 0 { bits & 0x8000_0000_0000_0000 } else { bits };
    f64::from_bits(if a.is_nan() { 0x7fff_ffff_0000_0000 } else { bits })
}

/// `min`: a NaN yields to a number; -0 is less than +0.
#[inline(always)]
pub fn min(a: f64, b: f64) -> f64 {
    extreme(false, a, b)
}

/// `max`: a NaN yields to a number; +0 is more than -0.
#[inline(always)]
pub fn max(a: f64, b: f64) -> f64 {
    extreme(true, a, b)
}

#[inline(always)]
fn extreme(larger: bool, a: f64, b: f64) -> f64 {
    let first = if a == b { a.is_sign_negative() != larger } else { (a < b) != larger };
    let chosen = if first { a } else { b };
    let chosen = if a.is_nan() { b } else { chosen };
    let chosen = if b.is_nan() { a } else { chosen };
    if a.is_nan() && b.is_nan() { f64::from_bits(Format::F64.nan()) } else { chosen }
}

/// `abs`
#[inline(always)]
pub fn abs(a: f64) -> f64 {
    f64::from_bits(a.to_bits() & !Format::F64.sign())
}

/// `neg`
#[inline(always)]
pub fn neg(a: f64) -> f64 {
    f64::from_bits(a.to_bits() ^ Format::F64.sign())
}

/// `copysign`: the magnitude of `b` with the sign of `a`.
#[inline(always)]
pub fn copysign(a: f64, b: f64) -> f64 {
    f64::from_bits(a.to_bits() & Format::F64.sign() | b.to_bits() & !Format::F64.sign())
}

/// `testp.f64`
#[inline(always)]
pub fn testp(test: Test, a: f64) -> bool {
    match test {
        Test::Finite => a.is_finite(),
        Test::Infinite => a.is_infinite(),
        Test::Number => !a.is_nan(),
        Test::NotANumber => a.is_nan(),
        Test::Normal => a.is_normal(),
        Test::Subnormal => a.is_subnormal(),
    }
}
