//! f16 and bf16, through exact numbers.

use super::{Random, plain_value};
use cuda::isa::Rounding;
use cuda::isa::exact::{Exact, Format, Number};
use cuda::isa::float32::MinMax;
use cuda::isa::half::{self, Bf16, F16, Half, HalfMode};

fn bits(random: &mut Random) -> u16 {
    const EDGES: [u16; 14] =
        [0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x007f, 0x0080, 0x7bff, 0x7c00, 0xfc00, 0x7f80, 0x7fff, 0x7e01];
    if random.below(6) == 0 { EDGES[random.below(14) as usize] } else { random.word() as u16 }
}

fn finite<T: Half>(a: T) -> Option<Exact> {
    match T::FORMAT.decode(a.to_bits() as u64) {
        Number::Finite(exact) => Some(exact),
        _ => None,
    }
}

fn plain<T: Half>(a: T) -> f64 {
    plain_value(T::FORMAT, a.to_bits() as u64)
}

/// The result of an operation that is `exact` for finite operands, and `otherwise` for others.
fn wanted<T: Half>(mode: HalfMode, exact: Option<Exact>, otherwise: f64) -> u16 {
    let rounded = match exact {
        Some(value) => value.round(T::FORMAT, Rounding::Nearest),
        None if otherwise.is_nan() => 0x7fff,
        None => T::FORMAT.infinity().unwrap() | if otherwise < 0.0 { 0x8000 } else { 0 },
    };
    let value = plain_value(T::FORMAT, rounded);
    let one = Exact::from_integer(1).round(T::FORMAT, Rounding::Nearest);
    let clamped = if mode.sat && (value.is_nan() || value <= 0.0) {
        0
    } else if mode.sat && value > 1.0 {
        one
    } else if mode.relu && value <= 0.0 {
        0
    } else {
        rounded
    };
    (if mode.ftz && T::FORMAT.is_subnormal(clamped) { clamped & 0x8000 } else { clamped }) as u16
}

fn arithmetic<T: Half + std::fmt::Debug>(seed: u64, ftz_and_sat: bool) {
    let mut random = Random::new(seed);
    for _ in 0..400_000 {
        let [a, b, c] = [0; 3].map(|_| T::from_bits(bits(&mut random)));
        // Now and then an addend that nearly cancels the product, or that is far below it.
        let c = match random.below(3) {
            0 => T::from_f32(-(a.to_f32() * b.to_f32())),
            1 => T::from_bits((a.to_bits() & 0x8000) | random.below(0x0800) as u16),
            _ => c,
        };
        let mode = HalfMode {
            ftz: ftz_and_sat && random.below(2) == 0,
            sat: ftz_and_sat && random.below(4) == 0,
            relu: random.below(4) == 0,
        };
        let flush = |a: T| {
            if mode.ftz && T::FORMAT.is_subnormal(a.to_bits() as u64) { T::from_bits(a.to_bits() & 0x8000) } else { a }
        };
        let (x, y, z) = (flush(a), flush(b), flush(c));
        let check = |name: &str, got: T, exact: Option<Exact>, otherwise: f64| {
            let wanted = wanted::<T>(mode, exact, otherwise);
            assert_eq!(got.to_bits(), wanted, "{name} {mode:?} of {a:?} {b:?} {c:?}");
        };
        let pair = finite(x).zip(finite(y));
        let negative = T::from_bits(y.to_bits() ^ 0x8000);
        check("add", half::add(mode, a, b), pair.map(|(x, y)| x.add(y, Rounding::Nearest)), plain(x) + plain(y));
        let difference = finite(x).zip(finite(negative)).map(|(x, y)| x.add(y, Rounding::Nearest));
        check("sub", half::sub(mode, a, b), difference, plain(x) - plain(y));
        check("mul", half::mul(mode, a, b), pair.map(|(x, y)| x * y), plain(x) * plain(y));
        let fused = pair.zip(finite(z)).map(|((x, y), z)| (x * y).add(z, Rounding::Nearest));
        check("fma", half::fma(mode, a, b, c), fused, plain(x) * plain(y) + plain(z));
    }
}

#[test]
fn f16_arithmetic() {
    arithmetic::<F16>(6, true);
}

#[test]
fn bf16_arithmetic() {
    arithmetic::<Bf16>(7, false);
}

fn to_and_from_single<T: Half>(seed: u64) {
    for bits in 0..=u16::MAX {
        let value = T::from_bits(bits);
        let (single, wanted) = (value.to_f32(), plain_value(T::FORMAT, bits as u64));
        assert!(single as f64 == wanted || single.is_nan() && wanted.is_nan(), "{bits:#x}");
        assert_eq!(single.is_sign_negative(), bits & 0x8000 != 0, "{bits:#x}");
        assert_eq!(T::from_f32(single).to_bits(), if single.is_nan() { 0x7fff } else { bits }, "{bits:#x}");
        // The middle to the next value, and its neighbours.
        let next = plain_value(T::FORMAT, bits as u64 + 1);
        let middle = ((wanted + next) / 2.0) as f32;
        for a in [middle, middle.next_up(), middle.next_down()] {
            if let Number::Finite(exact) = Format::F32.decode(a.to_bits() as u64) {
                assert_eq!(T::from_f32(a).to_bits() as u64, exact.round(T::FORMAT, Rounding::Nearest), "{a:e}");
            }
        }
    }
    let mut random = Random::new(seed);
    for _ in 0..300_000 {
        let (a, wide) = (random.f32_like(1.0), random.f64_like(1.0));
        if let Number::Finite(exact) = Format::F32.decode(a.to_bits() as u64) {
            assert_eq!(T::from_f32(a).to_bits() as u64, exact.round(T::FORMAT, Rounding::Nearest), "{a:e}");
        }
        if let Number::Finite(exact) = Format::F64.decode(wide.to_bits()) {
            assert_eq!(
                half::from_f64::<T>(wide).to_bits() as u64,
                exact.round(T::FORMAT, Rounding::Nearest),
                "{wide:e}"
            );
        }
    }
    assert_eq!(T::from_f32(f32::INFINITY).to_bits() as u64, T::FORMAT.infinity().unwrap());
}

#[test]
fn f16_to_and_from_single() {
    to_and_from_single::<F16>(8);
}

#[test]
fn bf16_to_and_from_single() {
    to_and_from_single::<Bf16>(9);
}

#[test]
fn extremes_signs_and_pairs() {
    let mut random = Random::new(10);
    for _ in 0..100_000 {
        let (a, b) = (F16(bits(&mut random)), F16(bits(&mut random)));
        let (x, y) = (plain(a), plain(b));
        let smaller = half::min(MinMax::default(), a, b);
        let wanted = if x.is_nan() && y.is_nan() {
            0x7fff
        } else if y.is_nan() || x < y || x == y && a.0 & 0x8000 != 0 {
            a.0
        } else {
            b.0
        };
        assert_eq!(smaller.0, wanted, "min {a:?} {b:?}");
        let nan = half::max(MinMax { nan: true, ..MinMax::default() }, a, b);
        assert_eq!(nan.0 == 0x7fff, x.is_nan() || y.is_nan(), "max.NaN {a:?} {b:?}");
        assert_eq!(half::neg(false, a).0, a.0 ^ 0x8000);
        assert_eq!(half::abs(false, a).0, a.0 & 0x7fff);
        let (p, q) = (random.word(), random.word());
        let sum = half::pair2::<F16>(p, q, |a, b| half::add(HalfMode::default(), a, b));
        let each =
            |shift: u32| half::add(HalfMode::default(), F16((p >> shift) as u16), F16((q >> shift) as u16)).0 as u32;
        assert_eq!(sum, each(0) | each(16) << 16);
    }
}
