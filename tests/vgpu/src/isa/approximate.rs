//! Approximate functions (PTX ISA 9.7.3 and 9.7.4): ex2 lg2 sin cos tanh rcp rsqrt sqrt div.approx div.full.
//!
//! They must be within the ISA's error bounds, not equal to a GPU's bits, which are not published. Errors met here, checked
//! by the tests:
//!
//! | function | ISA | here |
//! |---|---|---|
//! | ex2 f32 | 2^-22 relative | 2^-22.9 relative |
//! | lg2 f32 | 2^-22 absolute in (0.5, 2), else relative | 2^-23.9 relative everywhere |
//! | sin, cos f32 | 2^-20.5 absolute in [-2 pi, 2 pi], 2^-14.7 in [-100 pi, 100 pi] | 2^-23.9 in both, slowly worse beyond 2^30 |
//! | tanh f32 | 2^-11 relative | 2^-21 relative |
//! | rcp, sqrt f32 | 1 ulp, 2^-23 relative | correctly rounded |
//! | rsqrt f32 | 2^-22.9 relative | 2^-23 relative |
//! | div.approx, div.full | 2 ulp | correctly rounded |
//! | ex2, tanh of f16, bf16 | 2^-9.9, 2^-7; 2^-10.9, 2^-8 | within one rounding of the f32 function |
//!
//! All are branch-free and made of additions, multiplications and fused multiply-adds, so that they vectorise.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2, LN_2};

use super::Mode;
use super::float32::{self, NAN, flush};
use super::half::{Half, HalfMode};

/// Adding it to a small f32 leaves the nearest integer in the low bits.
const INTEGER32: f32 = 12_582_912.0;

/// The same for f64.
const INTEGER64: f64 = 6_755_399_441_055_744.0;

/// `2^exponent` for exponents of normal numbers.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// `ex2.approx.f32`
#[inline(always)]
pub fn ex2(ftz: bool, a: f32) -> f32 {
    // Coefficients of the series of 2^x; its eighth term is below 2^-27 for |x| <= 1/2.
    const SERIES: [f32; 8] = {
        let mut series = [1.0; 8];
        let mut term = 1.0f64;
        let mut index = 1;
        while index < 8 {
            term *= LN_2 / index as f64;
            series[index] = term as f32;
            index += 1;
        }
        series
    };
    // Beyond these, the result is infinite or zero.
    let x = if a < 160.0 { a } else { 160.0 };
    let x = if x > -160.0 { x } else { -160.0 };
    let shifted = x + INTEGER32;
    let fraction = x - (shifted - INTEGER32);
    let exponent = (shifted.to_bits() as i32).wrapping_sub(INTEGER32.to_bits() as i32);
    let mut power = SERIES[7];
    for index in (0..7).rev() {
        power = power.mul_add(fraction, SERIES[index]);
    }
    // In two steps, since the result may be subnormal.
    let half = exponent >> 1;
    let result = power * power_of_two(half) * power_of_two(exponent - half);
    let result = if ftz { flush(result) } else { result };
    if a.is_nan() { NAN } else { result }
}

/// `lg2.approx.f32`
#[inline(always)]
pub fn lg2(ftz: bool, a: f32) -> f32 {
    let a = if ftz { flush(a) } else { a };
    let subnormal = a < f32::MIN_POSITIVE;
    let scaled = if subnormal { a * 16_777_216.0 } else { a };
    // Mantissa in [2/3, 4/3), so that numbers near one lose nothing.
    let offset = scaled.to_bits().wrapping_sub(0x3f2a_aaab) as i32;
    let exponent = (offset >> 23) - if subnormal { 24 } else { 0 };
    let mantissa = f32::from_bits((offset as u32 & 0x7f_ffff).wrapping_add(0x3f2a_aaab)) as f64;
    // log2(m) = 2 / ln 2 * artanh((m - 1) / (m + 1)), of which |t| <= 1/5.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut series = 1.0 / 17.0;
    for divisor in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = square.mul_add(series, 1.0 / divisor);
    }
    let result = (t * series).mul_add(2.0 / LN_2, exponent as f64) as f32;
    let result = if a == f32::INFINITY { a } else { result };
    let result = if a == 0.0 { f32::NEG_INFINITY } else { result };
    if a < 0.0 || a.is_nan() { NAN } else { result }
}

/// Sine and cosine of `a`.
#[inline(always)]
fn sin_cos(a: f32) -> (f32, f32) {
    // The second part of pi / 2.
    const FRAC_PI_2_REST: f64 = 6.123_233_995_736_766e-17;
    let x = a as f64;
    let turns = (x * FRAC_2_PI).clamp(-(2f64.powi(50)), 2f64.powi(50));
    let shifted = turns + INTEGER64;
    let quarter = shifted - INTEGER64;
    let angle = (-quarter).mul_add(FRAC_PI_2_REST, (-quarter).mul_add(FRAC_PI_2, x)).clamp(-0.8, 0.8);
    let square = angle * angle;
    let mut sine = -1.0 / 39_916_800.0;
    for coefficient in [1.0 / 362_880.0, -1.0 / 5_040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0] {
        sine = square.mul_add(sine, coefficient);
    }
    let sine = sine * angle;
    let mut cosine = 1.0 / 479_001_600.0;
    for coefficient in [-1.0 / 3_628_800.0, 1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0] {
        cosine = square.mul_add(cosine, coefficient);
    }
    let quadrant = shifted.to_bits();
    let (first, second) = if quadrant & 1 != 0 { (cosine, sine) } else { (sine, cosine) };
    let sine = if quadrant & 2 != 0 { -first } else { first };
    let cosine = if quadrant.wrapping_add(1) & 2 != 0 { -second } else { second };
    if a.is_finite() { (sine as f32, cosine as f32) } else { (NAN, NAN) }
}

/// `sin.approx.f32`
#[inline(always)]
pub fn sin(ftz: bool, a: f32) -> f32 {
    let a = if ftz { flush(a) } else { a };
    let sine = sin_cos(a).0;
    let sine = if ftz { flush(sine) } else { sine };
    // The sign of zero is kept.
    if a == 0.0 { a } else { sine }
}

/// `cos.approx.f32`
#[inline(always)]
pub fn cos(a: f32) -> f32 {
    // `.ftz` makes no difference: subnormal angles have cosine 1, and no f32 has a subnormal cosine.
    sin_cos(a).1
}

/// `tanh.approx.f32`
#[inline(always)]
pub fn tanh(a: f32) -> f32 {
    let magnitude = a.abs();
    // (1 - t) / (1 + t) with t = e^-2|a| loses digits near zero, where four terms of the series serve.
    let t = ex2(false, magnitude * (-2.0 / LN_2) as f32);
    let far = (1.0 - t) / (1.0 + t);
    let square = a * a;
    let series = square.mul_add(square.mul_add(square.mul_add(-17.0 / 315.0, 2.0 / 15.0), -1.0 / 3.0), 1.0);
    let near = magnitude * series;
    let result = if magnitude < 0.125 { near } else { far };
    if a.is_nan() { NAN } else { result.copysign(a) }
}

/// `rcp.approx.f32`
#[inline(always)]
pub fn rcp(ftz: bool, a: f32) -> f32 {
    float32::rcp(Mode { ftz, ..Mode::PLAIN }, a)
}

/// `sqrt.approx.f32`
#[inline(always)]
pub fn sqrt(ftz: bool, a: f32) -> f32 {
    float32::sqrt(Mode { ftz, ..Mode::PLAIN }, a)
}

/// `rsqrt.approx.f32`
#[inline(always)]
pub fn rsqrt(ftz: bool, a: f32) -> f32 {
    let a = if ftz { flush(a) } else { a };
    float32::canonical(1.0 / a.sqrt())
}

/// `div.full.f32`
#[inline(always)]
pub fn div_full(ftz: bool, a: f32, b: f32) -> f32 {
    float32::div(Mode { ftz, ..Mode::PLAIN }, a, b)
}

/// `div.approx.f32`: `a * (1 / b)` in the range where the reciprocal vanishes, as the ISA specifies: for |b| above 2^126,
/// zero, or NaN if `a` is infinite.
#[inline(always)]
pub fn div(ftz: bool, a: f32, b: f32) -> f32 {
    let vanishing = b.abs() > power_of_two(126) && b.is_finite();
    let reciprocal = if vanishing { float32::copysign(b, 0.0) } else { 1.0 };
    let quotient = div_full(ftz, a, b);
    let product = float32::mul(Mode { ftz, ..Mode::PLAIN }, a, reciprocal);
    if vanishing { product } else { quotient }
}

/// `ex2.approx.f16`, `ex2.approx.ftz.bf16`
#[inline(always)]
pub fn ex2_half<T: Half>(mode: HalfMode, a: T) -> T {
    super::half::flush(mode.ftz, T::from_f32(ex2(false, super::half::flush(mode.ftz, a).to_f32())))
}

/// `tanh.approx.f16`, `tanh.approx.bf16`
#[inline(always)]
pub fn tanh_half<T: Half>(a: T) -> T {
    T::from_f32(tanh(a.to_f32()))
}
