//! Single and double precision: to nearest against the processor, otherwise against exact numbers.

use super::{FLOATS, ROUNDINGS, Random};
use cuda::isa::exact::{Exact, Format, Number};
use cuda::isa::float32::{self, MinMax, Test};
use cuda::isa::{Mode, Rounding, float64};

fn finite32(a: f32) -> Option<Exact> {
    match Format::F32.decode(a.to_bits() as u64) {
        Number::Finite(exact) => Some(exact),
        _ => None,
    }
}

fn finite64(a: f64) -> Option<Exact> {
    match Format::F64.decode(a.to_bits()) {
        Number::Finite(exact) => Some(exact),
        _ => None,
    }
}

fn flush(a: f32) -> f32 {
    if a.is_subnormal() { 0f32.copysign(a) } else { a }
}

/// What an instruction gives whose operation is `operation` on finite operands and `otherwise` (by the processor) on others.
fn wanted(mode: Mode, operands: &[f32], otherwise: f32, operation: impl Fn(&[Exact]) -> Option<Exact>) -> f32 {
    let finite: Option<Vec<Exact>> = operands.iter().map(|a| finite32(*a)).collect();
    let result = match finite.and_then(|finite| operation(&finite)) {
        Some(value) => f32::from_bits(value.round(Format::F32, mode.rounding) as u32),
        None => otherwise,
    };
    let result = if mode.ftz { flush(result) } else { result };
    if mode.sat {
        return if result > 0.0 { result.min(1.0) } else { 0.0 };
    }
    if result.is_nan() { f32::from_bits(0x7fff_ffff) } else { result }
}

#[test]
fn single_precision() {
    let mut random = Random::new(4);
    for count in 0..400_000 {
        let edge = |index: usize| f32::from_bits(FLOATS[index % FLOATS.len()]);
        // First all pairs of edges, then at random.
        let (a, b, c) = if count < 30 * 30 * 30 {
            (edge(count), edge(count / 30), edge(count / 900))
        } else {
            let a = random.f32_like(1.0);
            let b = random.f32_like(a);
            let c = if random.below(3) == 0 { -(a * b) } else { random.f32_like(a * b) };
            (a, b, c)
        };
        let mode = Mode {
            rounding: ROUNDINGS[random.below(4) as usize],
            ftz: random.below(2) == 0,
            sat: random.below(4) == 0,
        };
        let [x, y, z] = [a, b, c].map(|a| if mode.ftz { flush(a) } else { a });
        let check = |name: &str, got: f32, wanted: f32| {
            assert_eq!(
                got.to_bits(),
                wanted.to_bits(),
                "{name} {mode:?} of {a:e} {b:e} {c:e}: {got:e}, not {wanted:e}"
            );
        };
        let rounding = mode.rounding;
        check("add", float32::add(mode, a, b), wanted(mode, &[x, y], x + y, |v| Some(v[0].add(v[1], rounding))));
        check("sub", float32::sub(mode, a, b), wanted(mode, &[x, -y], x - y, |v| Some(v[0].add(v[1], rounding))));
        check("mul", float32::mul(mode, a, b), wanted(mode, &[x, y], x * y, |v| Some(v[0] * v[1])));
        check(
            "fma",
            float32::fma(mode, a, b, c),
            wanted(mode, &[x, y, z], x.mul_add(y, z), |v| Some((v[0] * v[1]).add(v[2], rounding))),
        );
        let quotient = |v: &[Exact]| if v[1].is_zero() { None } else { Some(v[0] / v[1]) };
        check("div", float32::div(mode, a, b), wanted(mode, &[x, y], x / y, quotient));
        check("rcp", float32::rcp(mode, a), wanted(mode, &[1.0, x], 1.0 / x, quotient));
        let root = |v: &[Exact]| if v[0].negative { None } else { Some(v[0].sqrt()) };
        check("sqrt", float32::sqrt(mode, a), wanted(mode, &[x], x.sqrt(), root));
    }
}

#[test]
fn double_precision() {
    let mut random = Random::new(5);
    for _ in 0..200_000 {
        let a = random.f64_like(1.0);
        let b = random.f64_like(a);
        let c = if random.below(3) == 0 { -(a * b) } else { random.f64_like(a * b) };
        for rounding in ROUNDINGS {
            let check = |name: &str, got: f64, nearest: f64, value: Option<Exact>| {
                let wanted = match value {
                    Some(value) if rounding != Rounding::Nearest => f64::from_bits(value.round(Format::F64, rounding)),
                    _ => nearest,
                };
                if wanted.is_nan() {
                    let first = [a, b, c].into_iter().find(|a| a.is_nan());
                    // Which operands an instruction has is not known here; its NaN is one of them, quiet, or the default.
                    let quiet = |a: f64| a.to_bits() | 1 << 51;
                    let some = [a, b, c].into_iter().any(|a| a.is_nan() && quiet(a) == got.to_bits());
                    assert!(got.is_nan() && (some || got.to_bits() == 0xfff8_0000_0000_0000), "{name} {first:?} {got}");
                } else {
                    assert_eq!(got.to_bits(), wanted.to_bits(), "{name} {rounding:?} of {a:e} {b:e} {c:e}");
                }
            };
            let (x, y, z) = (finite64(a), finite64(b), finite64(c));
            let pair = x.zip(y);
            check("add", float64::add(rounding, a, b), a + b, pair.map(|(x, y)| x.add(y, rounding)));
            check("sub", float64::sub(rounding, a, b), a - b, x.zip(finite64(-b)).map(|(x, y)| x.add(y, rounding)));
            check("mul", float64::mul(rounding, a, b), a * b, pair.map(|(x, y)| x * y));
            let fused = pair.zip(z).map(|((x, y), z)| (x * y).add(z, rounding));
            check("fma", float64::fma(rounding, a, b, c), a.mul_add(b, c), fused);
            check("div", float64::div(rounding, a, b), a / b, pair.filter(|_| b != 0.0).map(|(x, y)| x / y));
            let one = finite64(1.0);
            check("rcp", float64::rcp(rounding, b), 1.0 / b, one.zip(y).filter(|_| b != 0.0).map(|(x, y)| x / y));
            check("sqrt", float64::sqrt(rounding, a), a.sqrt(), x.filter(|x| !x.negative).map(|x| x.sqrt()));
        }
        let near = |got: f64, wanted: f64, bits: i32| ((got - wanted) / wanted).abs() <= 2f64.powi(-bits);
        if a.is_normal() && (1e-280..1e280).contains(&a.abs()) {
            assert!(near(float64::rcp_approximate(a), 1.0 / a, 18), "rcp {a:e}");
            assert!(a < 0.0 || near(float64::rsqrt_approximate(a), 1.0 / a.sqrt(), 51), "rsqrt {a:e}");
            assert!(a < 0.0 || near(float64::rsqrt_approximate_upper(a), 1.0 / a.sqrt(), 18), "rsqrt {a:e}");
        }
    }
}

#[test]
fn a_nan_of_double_precision_keeps_its_payload() {
    let (signalling, quiet) = (f64::from_bits(0x7ff0_0000_0000_1234), f64::from_bits(0xfff8_0000_0000_5678));
    let sum = |a, b| float64::add(Rounding::Nearest, a, b).to_bits();
    assert_eq!(sum(signalling, quiet), 0x7ff8_0000_0000_1234);
    assert_eq!(sum(quiet, signalling), quiet.to_bits());
    assert_eq!(sum(1.0, signalling), 0x7ff8_0000_0000_1234);
    assert_eq!(sum(f64::INFINITY, f64::NEG_INFINITY), 0xfff8_0000_0000_0000);
    assert_eq!(float64::fma(Rounding::Up, 1.0, 2.0, quiet).to_bits(), quiet.to_bits());
    assert_eq!(float64::min(quiet, 1.0), 1.0);
    assert_eq!(float64::max(-0.0, 0.0).to_bits(), 0);
    assert_eq!(float64::min(0.0, -0.0).to_bits(), 1 << 63);
}

#[test]
fn minimum_and_maximum() {
    for bits_a in FLOATS {
        for bits_b in FLOATS {
            for choice in 0..8 {
                let modifiers = MinMax { ftz: choice & 1 != 0, nan: choice & 2 != 0, xorsign_abs: choice & 4 != 0 };
                let (a, b) = (f32::from_bits(bits_a), f32::from_bits(bits_b));
                let (a, b) = if modifiers.ftz { (flush(a), flush(b)) } else { (a, b) };
                let sign = a.is_sign_negative() != b.is_sign_negative();
                let (x, y) = if modifiers.xorsign_abs { (a.abs(), b.abs()) } else { (a, b) };
                let wanted = |larger: bool| {
                    if modifiers.nan && (a.is_nan() || b.is_nan()) || a.is_nan() && b.is_nan() {
                        return 0x7fff_ffff;
                    }
                    // Sign and magnitude as an integer: -0 is one below +0.
                    let order = |value: f32| {
                        let magnitude = (value.to_bits() & 0x7fff_ffff) as i64;
                        if value.is_sign_negative() { -magnitude - 1 } else { magnitude }
                    };
                    let chosen = match (x.is_nan(), y.is_nan()) {
                        (true, _) => y,
                        (_, true) => x,
                        _ if (order(x) < order(y)) != larger => x,
                        _ => y,
                    };
                    let chosen = if modifiers.xorsign_abs && sign { -chosen.abs() } else { chosen };
                    chosen.to_bits()
                };
                assert_eq!(
                    float32::min(modifiers, f32::from_bits(bits_a), f32::from_bits(bits_b)).to_bits(),
                    wanted(false),
                    "min {a} {b} {modifiers:?}"
                );
                assert_eq!(
                    float32::max(modifiers, f32::from_bits(bits_a), f32::from_bits(bits_b)).to_bits(),
                    wanted(true),
                    "max {a} {b} {modifiers:?}"
                );
            }
        }
    }
}

#[test]
fn signs_and_tests() {
    for bits in FLOATS {
        let a = f32::from_bits(bits);
        assert_eq!(float32::abs(false, a).to_bits(), bits & 0x7fff_ffff);
        assert_eq!(float32::neg(false, a).to_bits(), bits ^ 0x8000_0000);
        assert_eq!(float32::neg(true, a).to_bits(), flush(a).to_bits() ^ 0x8000_0000);
        assert_eq!(float32::copysign(-1.0, a).to_bits(), bits | 0x8000_0000);
        let exponent = bits >> 23 & 0xff;
        let fraction = bits & 0x7f_ffff;
        let expected = [
            (Test::Finite, exponent != 255),
            (Test::Infinite, exponent == 255 && fraction == 0),
            (Test::Number, exponent != 255 || fraction == 0),
            (Test::NotANumber, exponent == 255 && fraction != 0),
            (Test::Normal, exponent != 255 && exponent != 0),
            (Test::Subnormal, exponent == 0 && fraction != 0),
        ];
        for (test, wanted) in expected {
            assert_eq!(float32::testp(test, a), wanted, "{test:?} {a:e}");
            if !a.is_nan() && test != Test::Subnormal && test != Test::Normal {
                assert_eq!(float64::testp(test, a as f64), wanted, "{test:?} {a:e}");
            }
        }
    }
}
