//! Formats, and rounding to them.

use super::{FLOATS, Random, ladder, plain_value, search};
use cuda::isa::Rounding;
use cuda::isa::exact::{Exact, Format, Number};

const SMALL: [Format; 4] = [Format::F16, Format::Bf16, Format::E4m3, Format::E5m2];

fn exact(value: f64) -> Exact {
    match Format::F64.decode(value.to_bits()) {
        Number::Finite(exact) => exact,
        other => panic!("{value} is {other:?}"),
    }
}

fn as_f64(number: Number) -> f64 {
    match number {
        Number::Nan => f64::NAN,
        Number::Infinite { negative } => {
            if negative {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        Number::Finite(value) => f64::from_bits(value.round(Format::F64, Rounding::Nearest)),
    }
}

#[test]
fn every_small_register_decodes_to_its_value() {
    for format in SMALL {
        for bits in 0..1u64 << format.width() {
            let (got, wanted) = (as_f64(format.decode(bits)), plain_value(format, bits));
            assert!(
                got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan(),
                "{format:?} {bits:#x}: {got} {wanted}"
            );
            assert_eq!(format.is_nan(bits), wanted.is_nan(), "{format:?} {bits:#x}");
            let smallest = plain_value(format, 1)
                * if format == Format::E4m3 {
                    8.0
                } else if format == Format::E5m2 {
                    4.0
                } else if format == Format::F16 {
                    1024.0
                } else {
                    128.0
                };
            assert_eq!(format.is_subnormal(bits), wanted != 0.0 && wanted.abs() < smallest, "{format:?} {bits:#x}");
        }
    }
    for bits in FLOATS {
        let wanted = f32::from_bits(bits) as f64;
        let got = as_f64(Format::F32.decode(bits as u64));
        assert!(got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan());
    }
}

#[test]
fn constants_of_formats() {
    assert_eq!(Format::E4m3.largest(), 0x7e);
    assert_eq!(Format::E5m2.largest(), 0x7b);
    assert_eq!(Format::F16.largest(), 0x7bff);
    assert_eq!(Format::Bf16.largest(), 0x7f7f);
    assert_eq!(Format::Tf32.largest(), 0x7f7f_e000);
    assert_eq!(Format::F32.largest() as u32, f32::MAX.to_bits());
    assert_eq!(Format::F64.largest(), f64::MAX.to_bits());
    assert_eq!(Format::F64.infinity(), Some(f64::INFINITY.to_bits()));
    assert_eq!(Format::Tf32.infinity(), Some(0x7f80_0000));
    assert_eq!(Format::E4m3.infinity(), None);
}

#[test]
fn rounding_to_small_formats_is_a_search() {
    let mut random = Random::new(1);
    for format in SMALL {
        let values = ladder(format);
        for rounding in [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up, Rounding::NearestAway] {
            let check = |value: f64| {
                let overflows = value.abs() > values[values.len() - 1].0;
                let got = exact(value).round(format, rounding);
                let wanted = if overflows && matches!(rounding, Rounding::Zero) {
                    values[if value > 0.0 { values.len() - 1 } else { 0 }].1
                } else {
                    search(format, &values, value, rounding)
                };
                assert_eq!(got, wanted, "{value:e} to {format:?} {rounding:?}");
            };
            // Every value, every middle, and both sides of each.
            for pair in values.windows(2) {
                let middle = pair[0].0 / 2.0 + pair[1].0 / 2.0;
                for value in [
                    pair[0].0,
                    middle,
                    middle.next_up(),
                    middle.next_down(),
                    pair[1].0.next_up(),
                    pair[1].0.next_down(),
                ] {
                    check(value);
                }
            }
            for _ in 0..2000 {
                let value = random.f64_like(1.0);
                if value.is_finite() {
                    check(value);
                }
            }
        }
    }
}

#[test]
fn nearest_agrees_with_the_processor() {
    let mut random = Random::new(2);
    for _ in 0..300_000 {
        let a = random.f64_like(1.0);
        let (b, c) = (random.f64_like(a), random.f64_like(a));
        let c = if random.below(2) == 0 { -(a * b) * (1.0 + random.below(3) as f64 * f64::EPSILON) } else { c };
        if !(a.is_finite() && b.is_finite() && c.is_finite()) {
            continue;
        }
        let (x, y, z) = (exact(a), exact(b), exact(c));
        let nearest = |value: Exact| f64::from_bits(value.round(Format::F64, Rounding::Nearest));
        let same =
            |got: f64, wanted: f64, what: &str| assert_eq!(got.to_bits(), wanted.to_bits(), "{what} {a:e} {b:e} {c:e}");
        same(nearest(x.add(y, Rounding::Nearest)), a + b, "add");
        same(nearest(x * y), a * b, "mul");
        same(nearest((x * y).add(z, Rounding::Nearest)), a.mul_add(b, c), "fma");
        if b != 0.0 {
            same(nearest(x / y), a / b, "div");
        }
        if a > 0.0 {
            same(nearest(x.sqrt()), a.sqrt(), "sqrt");
        }
        assert_eq!(x.round(Format::F32, Rounding::Nearest) as u32, (a as f32).to_bits(), "{a:e} to f32");
        let clamped = x.round_to_integer(Rounding::Nearest);
        if a.abs() < 1e30 {
            assert_eq!(clamped, a.round_ties_even() as i128, "{a:e} to an integer");
            assert_eq!(x.round_to_integer(Rounding::Down), a.floor() as i128, "floor {a:e}");
            assert_eq!(x.round_to_integer(Rounding::Up), a.ceil() as i128, "ceil {a:e}");
            assert_eq!(x.round_to_integer(Rounding::NearestAway), a.round() as i128, "round {a:e}");
        }
    }
}

#[test]
fn directed_roundings_enclose_the_nearest() {
    let mut random = Random::new(3);
    for _ in 0..100_000 {
        let a = random.f64_like(1.0);
        let b = random.f64_like(a);
        let (Number::Finite(x), Number::Finite(y)) = (Format::F64.decode(a.to_bits()), Format::F64.decode(b.to_bits()))
        else {
            continue;
        };
        let product = x * y;
        let at = |rounding| f64::from_bits(product.round(Format::F64, rounding));
        let (down, nearest, up, zero) =
            (at(Rounding::Down), at(Rounding::Nearest), at(Rounding::Up), at(Rounding::Zero));
        // The exact error of a product that is far from underflow is an f64 itself.
        if nearest.is_finite() && nearest.abs() > 1e-200 {
            let error = a.mul_add(b, -nearest);
            let wanted = if error == 0.0 {
                (nearest, nearest)
            } else if error < 0.0 {
                (nearest.next_down(), nearest)
            } else {
                (nearest, nearest.next_up())
            };
            assert_eq!((down, up), wanted, "{a:e} * {b:e}");
        }
        assert_eq!(zero.to_bits(), (if product.negative { up } else { down }).to_bits(), "{a:e} * {b:e}");
        assert!(down <= nearest && nearest <= up);
    }
}
