//! Approximate functions against f64, within the bounds that the module's head gives.

use super::{FLOATS, Random};
use cuda::isa::approximate;
use cuda::isa::half::{Bf16, F16, Half, HalfMode};

/// f32 of all magnitudes: every edge, and a stride through all bit patterns.
fn singles() -> impl Iterator<Item = f32> {
    FLOATS.into_iter().chain((0..1 << 20).map(|index: u32| index.wrapping_mul(4093))).map(f32::from_bits)
}

/// Fails unless `got` is `wanted` to `bits` bits relatively, with `floor` for what may vanish.
fn relative(name: &str, a: f32, got: f32, wanted: f64, bits: f64, floor: f64) {
    if wanted.is_nan() {
        return assert_eq!(got.to_bits(), 0x7fff_ffff, "{name} {a:e}");
    }
    if wanted.abs() > f32::MAX as f64 * (1.0 + 1e-7) {
        return assert_eq!(got as f64, if wanted > 0.0 { f64::INFINITY } else { f64::NEG_INFINITY }, "{name} {a:e}");
    }
    if got.is_infinite() && wanted.abs() > f32::MAX as f64 * (1.0 - 1e-6) {
        return;
    }
    let error = (got as f64 - wanted).abs();
    assert!(error <= wanted.abs() * (-bits).exp2() + floor, "{name} {a:e}: {got:e}, not {wanted:e}");
}

/// Half the smallest subnormal.
const TINY: f64 = 7.1e-46;

#[test]
fn exponential_and_logarithm() {
    let mut random = Random::new(24);
    let near = (0..300_000).map(|_| (random.word() as f32 / 4.3e9 - 0.5) * 280.0);
    for a in singles().chain(near) {
        relative("ex2", a, approximate::ex2(false, a), (a as f64).exp2(), 22.9, TINY);
        let flushed = approximate::ex2(true, a);
        let plain = approximate::ex2(false, a);
        assert_eq!(flushed.to_bits(), if plain.is_subnormal() { 0 } else { plain.to_bits() }, "ex2.ftz {a:e}");
    }
    let near = (0..300_000).map(|_| 1.0 + (random.word() as f32 / 4.3e9 - 0.5) * 0.1);
    for a in singles().chain(near) {
        relative("lg2", a, approximate::lg2(false, a), (a as f64).log2(), 23.9, 0.0);
        if a.is_subnormal() {
            assert_eq!(approximate::lg2(true, a), f32::NEG_INFINITY);
        }
    }
}

#[test]
fn sine_and_cosine() {
    let mut random = Random::new(25);
    let near = (0..300_000).map(|_| (random.word() as f32 / 4.3e9 - 0.5) * 700.0);
    for a in singles().chain(near) {
        let (sine, cosine) = (approximate::sin(false, a), approximate::cos(a));
        if !a.is_finite() {
            assert!(sine.is_nan() && cosine.is_nan(), "{a}");
            continue;
        }
        assert!(sine.abs() <= 1.0 && cosine.abs() <= 1.0, "{a:e}");
        if a.abs() < 1e9 {
            let bound = (-23.9f64).exp2();
            assert!((sine as f64 - (a as f64).sin()).abs() <= bound, "sin {a:e}: {sine}");
            assert!((cosine as f64 - (a as f64).cos()).abs() <= bound, "cos {a:e}: {cosine}");
        }
    }
    assert_eq!(approximate::sin(false, -0.0).to_bits(), (-0.0f32).to_bits());
    assert_eq!(approximate::sin(true, -f32::from_bits(1)).to_bits(), (-0.0f32).to_bits());
}

#[test]
fn hyperbolic_tangent() {
    let mut random = Random::new(26);
    let near = (0..300_000).map(|_| (random.word() as f32 / 4.3e9 - 0.5) * 20.0);
    for a in singles().chain(near) {
        relative("tanh", a, approximate::tanh(a), (a as f64).tanh(), 21.0, TINY);
        assert!(a.is_nan() || approximate::tanh(a).is_sign_negative() == a.is_sign_negative());
    }
}

#[test]
fn reciprocals_and_quotients() {
    let mut random = Random::new(27);
    for a in singles() {
        relative("rcp", a, approximate::rcp(false, a), 1.0 / a as f64, 24.0, TINY);
        relative("sqrt", a, approximate::sqrt(false, a), (a as f64).sqrt(), 24.0, 0.0);
        relative("rsqrt", a, approximate::rsqrt(false, a), 1.0 / (a as f64).sqrt(), 22.99, 0.0);
        let b = random.f32_like(a);
        relative("div.full", a, approximate::div_full(false, a, b), a as f64 / b as f64, 24.0, TINY);
        let quotient = approximate::div(false, a, b);
        if b.abs() > 126f32.exp2() && b.is_finite() {
            assert!(if a.is_infinite() || a.is_nan() { quotient.is_nan() } else { quotient == 0.0 }, "{a:e} / {b:e}");
        } else {
            assert_eq!(quotient.to_bits(), approximate::div_full(false, a, b).to_bits());
        }
    }
    assert_eq!(approximate::rsqrt(false, -0.0), f32::NEG_INFINITY);
    assert_eq!(approximate::rcp(true, f32::from_bits(1)), f32::INFINITY);
}

fn halves<T: Half>(bound_ex2: f64, bound_tanh: f64, smallest: f64) {
    for bits in 0..=u16::MAX {
        let a = T::from_bits(bits);
        let value = a.to_f32() as f64;
        let (power, tangent) = (approximate::ex2_half(HalfMode::default(), a), approximate::tanh_half(a));
        if value.is_nan() {
            assert_eq!((power.to_bits(), tangent.to_bits()), (0x7fff, 0x7fff));
            continue;
        }
        let wanted = value.exp2();
        let got = power.to_f32() as f64;
        let overflow = got.is_infinite() && wanted > 65504.0;
        assert!(overflow || (got - wanted).abs() <= wanted * bound_ex2.exp2() + smallest, "ex2 {value:e}: {got:e}");
        assert!((tangent.to_f32() as f64 - value.tanh()).abs() <= bound_tanh.exp2(), "tanh {value:e}");
    }
}

#[test]
fn half_precision() {
    halves::<F16>(-9.9, -10.987, 6e-8);
    halves::<Bf16>(-7.0, -8.0, 1e-40);
}
