#![allow(clippy::excessive_precision)] // constants are written with all the digits of their derivation

//! Elementary functions of `f32` that compilers can vectorise: no table, no branch, no call.
//!
//! | function | method | largest error (units in the last place) |
//! |---|---|---|
//! | [`exp`] | 2^n e^r, `|r| <= ln 2 / 2`, degree-6 polynomial | 1.0 |
//! | [`tanh`] | `1 - 2 / (e^2x + 1)`, odd polynomial below 0.55 | 2 |
//! | [`erf`] | odd polynomial below 0.921875, `1 - e^q(x)` above | 2 |
//!
//! The tests compare with `libm` in f64 over dense sweeps of the whole range.

/// e^x. Exactly 0 below -87.336 (results would be subnormal), infinity above 88.72, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.336, 88.8);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * 0.693_145_75) - n * 1.428_606_8e-6;
    let p = 1.388_888_9e-3 + r * 1.984_127e-4;
    let p = 8.333_333e-3 + r * p;
    let p = 4.166_666_7e-2 + r * p;
    let p = 0.166_666_67 + r * p;
    let p = 0.5 + r * p;
    let p = r + r * r * p;
    // 2^n in two factors, so that n = 128 overflows to infinity only in the last product.
    // The low bits of `shifted` are n: a conversion that, unlike a cast, vectorises.
    let whole = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
    let half = whole >> 1;
    let rest = whole - half;
    let y = (1.0 + p) * f32::from_bits(((half + 127) << 23) as u32) * f32::from_bits(((rest + 127) << 23) as u32);
    if x < -87.336 {
        0.0
    } else if x.is_nan() {
        x
    } else {
        y
    }
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs().min(10.0);
    let s = a * a;
    // Taylor coefficients 2^{2n}(2^{2n}-1)B_{2n}/(2n)!, enough below 0.55.
    let p = -0.008_863_235_5 + s * (0.003_592_128 - s * 0.001_455_834_4);
    let p = -0.333_333_34 + s * (0.133_333_34 + s * (-0.053_968_254 + s * (0.021_869_488 + s * p)));
    let small = a + a * s * p;
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    let y = if a < 0.55 { small } else { large };
    let y = if x.is_nan() { x } else { y };
    y.copysign(x)
}

/// Error function `2/sqrt(pi) * integral of e^(-t^2) from 0 to x`.
///
/// Both polynomials are least-maximum fits made in 40-digit arithmetic: erf(a)/a in a^2 below 0.921875, and
/// -ln(erfc(a)) in a from there to 4, where f32 rounds erf to 1.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs().min(4.0);
    let s = a * a;
    let p = 1.145_524e-4 - s * 1.029_426_4e-5;
    let p = 0.005_222_336 + s * (-8.506_441_4e-4 + s * p);
    let p = 0.112_837_88 + s * (-0.026_865_82 + s * p);
    // 2/sqrt(pi) is split so that its rounding error does not reach the result.
    let small = a + a * (0.128_379_17 + s * (-0.376_126_38 + s * p));
    let q = -2.202_357_1e-6 + a * 2.657_900_6e-8;
    let q = -6.235_247_7e-4 + a * (5.123_53e-5 + a * q);
    let q = -0.026_594_907 + a * (0.004_844_877 + a * q);
    let q = 0.631_649_2 + a * (0.110_304_9 + a * q);
    let q = -3.335_965e-4 + a * (1.130_309_6 + a * q);
    let large = 1.0 - exp(-q);
    let y = if a < 0.921_875 { small } else { large };
    let y = if x.is_nan() { x } else { y };
    y.copysign(x)
}

#[cfg(test)]
mod tests {
    /// Largest error in units in the last place of the exact value, over `steps` points of `[lo, hi]`.
    fn worst_ulp(f: fn(f32) -> f32, exact: fn(f64) -> f64, lo: f32, hi: f32, steps: usize) -> f64 {
        (0..=steps)
            .map(|i| {
                let x = lo + (hi - lo) * i as f32 / steps as f32;
                let want = exact(x as f64);
                let ulp = f64::from(f32::from_bits((want.abs() as f32).to_bits() + 1)) - f64::from(want.abs() as f32);
                (f64::from(f(x)) - want).abs() / ulp
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn polynomials_stay_within_their_stated_error() {
        assert!(worst_ulp(super::exp, f64::exp, -87.0, 88.7, 400_000) <= 1.0);
        assert!(worst_ulp(super::exp, f64::exp, -1.0, 1.0, 400_000) <= 1.0);
        assert!(worst_ulp(super::tanh, f64::tanh, 1e-6, 9.0, 400_000) <= 2.0);
        assert!(worst_ulp(super::erf, libm::erf, 1e-6, 4.2, 400_000) <= 2.0);
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(super::exp(-100.0), 0.0);
        assert_eq!(super::exp(f32::MIN), 0.0);
        assert_eq!(super::exp(200.0), f32::INFINITY);
        assert_eq!(super::exp(0.0), 1.0);
        assert_eq!(super::erf(-9.0), -1.0);
        assert_eq!(super::tanh(20.0), 1.0);
        assert!(super::exp(f32::NAN).is_nan() && super::tanh(f32::NAN).is_nan() && super::erf(f32::NAN).is_nan());
    }
}
