//! Conversions: every 8- and 16-bit source, to every destination, with every rounding; wider sources at their edges.

use super::{FLOATS, ROUNDINGS, Random, ladder, plain_value, search};
use cuda::isa::Rounding;
use cuda::isa::convert::{self, Conversion, Integer};
use cuda::isa::exact::Format;

const INTEGERS: [Integer; 8] = [
    Integer { signed: false, width: 8 },
    Integer { signed: true, width: 8 },
    Integer { signed: false, width: 16 },
    Integer { signed: true, width: 16 },
    Integer { signed: false, width: 32 },
    Integer { signed: true, width: 32 },
    Integer { signed: false, width: 64 },
    Integer { signed: true, width: 64 },
];

fn range(kind: Integer) -> (i128, i128) {
    if kind.signed { (-(1 << (kind.width - 1)), (1 << (kind.width - 1)) - 1) } else { (0, (1 << kind.width) - 1) }
}

fn number(kind: Integer, bits: u64) -> i128 {
    let value = (bits as u128 % (1 << kind.width)) as i128;
    if value > range(kind).1 { value - (1 << kind.width) } else { value }
}

/// All sources of 8 and 16 bits, and samples of wider ones.
fn sources(width: u32) -> Vec<u64> {
    if width <= 16 {
        return (0..1u64 << width).collect();
    }
    let mut random = Random::new(width as u64);
    let mut all: Vec<u64> = FLOATS.iter().map(|bits| *bits as u64).collect();
    for position in 0..64 {
        for off in [-2i64, -1, 0, 1, 2] {
            all.push((1u64 << position).wrapping_add(off as u64));
            all.push((1u64 << position).wrapping_add(off as u64).wrapping_neg());
        }
    }
    for _ in 0..5000 {
        all.push(random.bits() >> random.below(64));
        all.push(random.f32_like(1000.0).to_bits() as u64);
        all.push(random.f64_like(1e6).to_bits());
        // Numbers with halves and quarters.
        all.push((random.below(2000) as f32 * 0.25 - 250.0).to_bits() as u64);
        all.push((random.below(1 << 20) as f64 * 0.25 - 250.0).to_bits());
    }
    if width == 32 {
        all.iter_mut().for_each(|bits| *bits &= 0xffff_ffff);
    }
    all
}

#[test]
fn between_integers() {
    for from in INTEGERS {
        for to in INTEGERS {
            for bits in sources(from.width).into_iter().step_by(if from.width == 16 { 7 } else { 1 }) {
                let value = number(from, bits);
                let (lowest, highest) = range(to);
                let got = convert::integer_to_integer(from, to, false, bits);
                assert_eq!(number(to, got), number(to, value as u64), "{from:?} {to:?} {bits:#x}");
                let wide = if to.signed { got as i64 as i128 } else { got as i128 };
                assert_eq!(wide, number(to, got), "extended: {from:?} {to:?} {bits:#x}");
                let saturated = convert::integer_to_integer(from, to, true, bits);
                assert_eq!(number(to, saturated), value.clamp(lowest, highest), "sat {from:?} {to:?} {bits:#x}");
            }
        }
    }
}

#[test]
fn integers_to_floats() {
    for to in [Format::F16, Format::Bf16] {
        let values = ladder(to);
        for from in INTEGERS {
            for bits in sources(from.width).into_iter().step_by(if from.width >= 16 { 5 } else { 1 }) {
                let value = number(from, bits);
                if value.abs() > 1 << 53 {
                    continue;
                }
                for rounding in ROUNDINGS {
                    let wanted = if value as f64 > values[values.len() - 1].0 && rounding == Rounding::Zero {
                        to.largest()
                    } else if (value as f64) < values[0].0 && rounding == Rounding::Zero {
                        to.largest() | 0x8000
                    } else {
                        search(to, &values, value as f64, rounding)
                    };
                    let got = convert::integer_to_float(from, to, rounding, false, bits);
                    assert_eq!(got, wanted, "{from:?} {value} to {to:?} {rounding:?}");
                }
            }
        }
    }
    for from in INTEGERS {
        for bits in sources(from.width) {
            let value = number(from, bits);
            for rounding in ROUNDINGS {
                let single = f32::from_bits(convert::integer_to_float(from, Format::F32, rounding, false, bits) as u32);
                let double = f64::from_bits(convert::integer_to_float(from, Format::F64, rounding, false, bits));
                // All of these are exact in i128: the result is on the right side, and its neighbour is not nearer.
                let check = |got: i128, below: i128, above: i128| match rounding {
                    Rounding::Down => got <= value && (got == value || above > value),
                    Rounding::Up => got >= value && (got == value || below < value),
                    Rounding::Zero => {
                        got.abs() <= value.abs()
                            && (got == value || (if value > 0 { above } else { below }).abs() > value.abs())
                    }
                    _ => (got - value).abs() <= (below - value).abs() && (got - value).abs() <= (above - value).abs(),
                };
                assert!(
                    check(single as i128, single.next_down() as i128, single.next_up() as i128),
                    "{value} {rounding:?} {single}"
                );
                assert!(
                    check(double as i128, double.next_down() as i128, double.next_up() as i128),
                    "{value} {rounding:?} {double}"
                );
                if rounding == Rounding::Nearest {
                    assert_eq!((single, double), (value as f32, value as f64));
                }
            }
            let clamped = convert::integer_to_float(from, Format::F32, Rounding::Nearest, true, bits);
            assert_eq!(f32::from_bits(clamped as u32), value.clamp(0, 1) as f32);
        }
    }
}

#[test]
fn floats_to_integers() {
    for from in [Format::F16, Format::Bf16, Format::F32, Format::F64] {
        for bits in sources(from.width()) {
            let value = plain_value(from, bits);
            for to in INTEGERS {
                for rounding in ROUNDINGS {
                    let integral = match rounding {
                        Rounding::Nearest => value.round_ties_even(),
                        Rounding::Zero => value.trunc(),
                        Rounding::Down => value.floor(),
                        _ => value.ceil(),
                    };
                    let (lowest, highest) = range(to);
                    let wanted = if value.is_nan() {
                        if from == Format::F64 || to.width == 64 { number(to, 1 << (to.width - 1)) } else { 0 }
                    } else {
                        (integral as i128).clamp(lowest, highest)
                    };
                    let got = convert::float_to_integer(from, to, rounding, false, bits);
                    assert_eq!(number(to, got), wanted, "{from:?} {bits:#x} ({value:e}) to {to:?} {rounding:?}");
                }
            }
        }
    }
    let signed = Integer { signed: true, width: 32 };
    assert_eq!(convert::float_to_integer(Format::F32, signed, Rounding::Up, false, 1), 1);
    assert_eq!(convert::float_to_integer(Format::F32, signed, Rounding::Up, true, 1), 0);
}

/// What `cvt` gives: a search among the values of `to`, with the modifiers around it.
fn wanted(to: Format, values: &[(f64, u64)], conversion: Conversion, value: f64) -> u64 {
    let one = search(to, values, 1.0, Rounding::Nearest);
    if value.is_nan() {
        return if conversion.sat { 0 } else { to.nan() };
    }
    let value = if conversion.to_integral {
        match conversion.rounding {
            Rounding::Nearest => value.round_ties_even(),
            Rounding::Zero => value.trunc(),
            Rounding::Down => value.floor(),
            _ => value.ceil(),
        }
    } else {
        value
    };
    let largest = values[values.len() - 1].0;
    let bits = if value.is_infinite() {
        let infinite = if conversion.satfinite { to.largest() } else { to.infinity().unwrap_or(to.nan()) };
        infinite | if value < 0.0 { to.sign() } else { 0 }
    } else if value.abs() > largest && conversion.rounding == Rounding::Zero {
        to.largest() | if value < 0.0 { to.sign() } else { 0 }
    } else {
        let bits = search(to, values, value, conversion.rounding);
        let overflow = bits & !to.sign() > to.largest();
        if overflow && conversion.satfinite { to.largest() | bits & to.sign() } else { bits }
    };
    let negative = bits & to.sign() != 0;
    if negative && (conversion.sat || conversion.relu) {
        0
    } else if conversion.sat {
        bits.min(one)
    } else {
        bits
    }
}

#[test]
fn between_floats() {
    let small = [Format::F16, Format::Bf16, Format::E4m3, Format::E5m2];
    for to in small {
        let values = ladder(to);
        for from in [Format::F16, Format::Bf16, Format::E4m3, Format::E5m2, Format::F32, Format::F64] {
            for bits in sources(from.width()) {
                let value = plain_value(from, bits);
                for choice in 0..16 {
                    let conversion = Conversion {
                        rounding: ROUNDINGS[choice & 3],
                        relu: choice & 4 != 0,
                        satfinite: choice & 8 != 0,
                        ..Conversion::NEAREST
                    };
                    let got = convert::float_to_float(from, to, conversion, bits);
                    assert_eq!(
                        got,
                        wanted(to, &values, conversion, value),
                        "{from:?} {bits:#x} ({value:e}) to {to:?} {conversion:?}"
                    );
                }
                if to == Format::F16 || to == Format::Bf16 {
                    let conversion = Conversion { sat: true, ..Conversion::NEAREST };
                    let got = convert::float_to_float(from, to, conversion, bits);
                    assert_eq!(got, wanted(to, &values, conversion, value), "{from:?} {bits:#x} to {to:?}.sat");
                }
                if to == from {
                    let conversion = Conversion { to_integral: true, ..Conversion::NEAREST };
                    let got = convert::float_to_float(from, to, conversion, bits);
                    assert_eq!(got, wanted(to, &values, conversion, value), "{from:?} {bits:#x}.rni");
                }
            }
        }
    }
}

#[test]
fn to_single_and_double() {
    for from in [Format::F16, Format::Bf16, Format::E4m3, Format::E5m2, Format::F32] {
        for bits in sources(from.width()) {
            let value = plain_value(from, bits);
            let double = f64::from_bits(convert::float_to_float(from, Format::F64, Conversion::NEAREST, bits));
            let single = f32::from_bits(convert::float_to_float(from, Format::F32, Conversion::NEAREST, bits) as u32);
            assert!(double.to_bits() == value.to_bits() || double.is_nan() && value.is_nan(), "{from:?} {bits:#x}");
            assert!(
                single.to_bits() == (value as f32).to_bits() || single.to_bits() == 0x7fff_ffff && value.is_nan(),
                "{from:?} {bits:#x}"
            );
        }
    }
    for bits in sources(64) {
        let value = f64::from_bits(bits);
        for ftz in [false, true] {
            for rounding in ROUNDINGS {
                let conversion = Conversion { rounding, ftz, ..Conversion::NEAREST };
                let got = f32::from_bits(convert::float_to_float(Format::F64, Format::F32, conversion, bits) as u32);
                if value.is_nan() {
                    assert_eq!(got.to_bits(), 0x7fff_ffff);
                    continue;
                }
                let nearest = value as f32;
                let wanted = match rounding {
                    Rounding::Down if nearest as f64 > value => nearest.next_down(),
                    Rounding::Up if (nearest as f64) < value => nearest.next_up(),
                    Rounding::Zero if (nearest as f64).abs() > value.abs() => {
                        if value > 0.0 {
                            nearest.next_down()
                        } else {
                            nearest.next_up()
                        }
                    }
                    _ => nearest,
                };
                let wanted = if ftz && wanted.is_subnormal() { 0f32.copysign(wanted) } else { wanted };
                assert_eq!(got, wanted, "{value:e} {conversion:?}");
                assert_eq!(got.is_sign_negative(), value.is_sign_negative(), "{value:e} {conversion:?}");
            }
        }
    }
    for bits in sources(32) {
        let value = f32::from_bits(bits as u32);
        for rounding in ROUNDINGS {
            let conversion = Conversion { rounding, to_integral: true, ..Conversion::NEAREST };
            let got = f32::from_bits(convert::float_to_float(Format::F32, Format::F32, conversion, bits) as u32);
            let wanted = match rounding {
                Rounding::Nearest => value.round_ties_even(),
                Rounding::Zero => value.trunc(),
                Rounding::Down => value.floor(),
                _ => value.ceil(),
            };
            assert!(got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan(), "{value:e} {rounding:?}");
        }
        // tf32: ten mantissa bits of the f32, rounded by the thirteen below.
        let away = convert::float_to_float(
            Format::F32,
            Format::Tf32,
            Conversion { rounding: Rounding::NearestAway, ..Conversion::NEAREST },
            bits,
        ) as u32;
        let wanted = if value.is_nan() {
            0x7fff_ffff
        } else if value.is_infinite() {
            bits as u32
        } else {
            (bits as u32 + 0x1000) & !0x1fff
        };
        assert_eq!(away, wanted, "{bits:#x}");
    }
}

#[test]
fn packed_pairs() {
    let mut random = Random::new(23);
    for _ in 0..20_000 {
        let (a, b) = (random.f32_like(3.0).to_bits(), random.f32_like(3.0).to_bits());
        for to in [Format::F16, Format::Bf16, Format::E4m3, Format::E5m2] {
            let conversion =
                Conversion { satfinite: to.width() == 8, relu: random.below(2) == 0, ..Conversion::NEAREST };
            let one = |bits: u32| convert::float_to_float(Format::F32, to, conversion, bits as u64) as u32;
            assert_eq!(convert::pack_f32(to, conversion, a, b), one(a) << to.width() | one(b));
        }
        for from in [Format::E4m3, Format::E5m2] {
            let one =
                |bits: u32| convert::float_to_float(from, Format::F16, Conversion::NEAREST, (bits & 255) as u64) as u32;
            assert_eq!(convert::pair_to_pair(from, Format::F16, Conversion::NEAREST, a), one(a >> 8) << 16 | one(a));
        }
        let (x, y, c) =
            (random.word() as i32 >> random.below(32), random.word() as i32 >> random.below(32), random.word());
        let bytes = convert::pack_integers(Integer { signed: true, width: 8 }, x, y, c).to_le_bytes();
        assert_eq!(bytes, [y.clamp(-128, 127) as u8, x.clamp(-128, 127) as u8, c as u8, (c >> 8) as u8]);
        let halves = convert::pack_integers(Integer { signed: false, width: 16 }, x, y, c);
        assert_eq!(halves, (x.clamp(0, 65535) as u32) << 16 | y.clamp(0, 65535) as u32);
        let nibbles = convert::pack_integers(Integer { signed: false, width: 4 }, x, y, c);
        assert_eq!(nibbles, c << 8 | (x.clamp(0, 15) as u32) << 4 | y.clamp(0, 15) as u32);
    }
}
