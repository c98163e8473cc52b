//! Video instructions against the ISA's own description of them, step by step.

use super::Random;
use cuda::isa::video::{MultiplyAdd, Operation, Part, Scalar, Second, Simd};

const OPERATIONS: [Operation; 14] = [
    Operation::Add,
    Operation::Sub,
    Operation::AbsoluteDifference,
    Operation::Min,
    Operation::Max,
    Operation::Average,
    Operation::ShiftLeft,
    Operation::ShiftRight,
    Operation::Eq,
    Operation::Ne,
    Operation::Lt,
    Operation::Le,
    Operation::Gt,
    Operation::Ge,
];

const PARTS: [&str; 7] = ["b0", "b1", "b2", "b3", "h0", "h1", ""];

/// Bits from `begin` on, extended.
fn extract(word: u32, begin: u32, bits: u32, signed: bool) -> i128 {
    let value = i128::from(word >> begin) & ((1 << bits) - 1);
    if signed && value >> (bits - 1) != 0 { value - (1 << bits) } else { value }
}

fn place(part: &str) -> (u32, u32) {
    match part.as_bytes() {
        [b'b', digit] => (8 * u32::from(digit - b'0'), 8),
        [b'h', digit] => (16 * u32::from(digit - b'0'), 16),
        _ => (0, 32),
    }
}

fn compute(operation: Operation, wraps: bool, a: i128, b: i128) -> i128 {
    let amount = if wraps { b % 32 } else { b.min(32) };
    match operation {
        Operation::Add => a + b,
        Operation::Sub => a - b,
        Operation::AbsoluteDifference => (a - b).abs(),
        Operation::Min => a.min(b),
        Operation::Max => a.max(b),
        Operation::Average if a + b >= 0 => (a + b + 1).div_euclid(2),
        Operation::Average => (a + b).div_euclid(2),
        Operation::ShiftLeft => a * 2i128.pow(amount as u32),
        Operation::ShiftRight => a.div_euclid(2i128.pow(amount as u32)),
        Operation::Eq => (a == b).into(),
        Operation::Ne => (a != b).into(),
        Operation::Lt => (a < b).into(),
        Operation::Le => (a <= b).into(),
        Operation::Gt => (a > b).into(),
        Operation::Ge => (a >= b).into(),
    }
}

fn clamp(value: i128, bits: u32, signed: bool) -> i128 {
    if signed { value.max(-(1 << (bits - 1))).min((1 << (bits - 1)) - 1) } else { value.max(0).min((1 << bits) - 1) }
}

/// A word with some bytes at the ends of their range.
fn word(random: &mut Random) -> u32 {
    let bytes = [0; 4].map(|_| match random.below(4) {
        0 => [0x00, 0xff, 0x7f, 0x80][random.below(4) as usize],
        _ => random.word() as u8,
    });
    u32::from_le_bytes(bytes)
}

#[test]
fn scalar_forms() {
    let mut random = Random::new(81);
    for operation in OPERATIONS {
        for types in 0..8u32 {
            for round in 0..3000 {
                let shifts = matches!(operation, Operation::ShiftLeft | Operation::ShiftRight);
                let signed = [types & 1 != 0, types & 2 != 0, types & 4 != 0 && !shifts];
                let chosen = [0; 3].map(|_| PARTS[random.below(7) as usize]);
                let second = [Second::Merge, Second::Add, Second::Min, Second::Max][random.below(4) as usize];
                let chosen = [if second == Second::Merge { chosen[0] } else { "" }, chosen[1], chosen[2]];
                let form = Scalar {
                    operation,
                    signed,
                    parts: chosen.map(|name| if name.is_empty() { Part::WHOLE } else { Part::parse(name).unwrap() }),
                    saturate: round % 2 == 0,
                    wraps: shifts && round % 3 == 0,
                    second,
                };
                let [a, mut b, c] = [0; 3].map(|_| word(&mut random));
                if shifts && round % 4 != 0 {
                    b &= 0x3f3f_3f3f;
                }
                let of = |name: &str, word: u32, signed: bool| {
                    let (begin, bits) = place(name);
                    extract(word, begin, bits, signed)
                };
                let exact = compute(operation, form.wraps, of(chosen[1], a, signed[1]), of(chosen[2], b, signed[2]));
                let (begin, bits) = place(chosen[0]);
                let value = if form.saturate { clamp(exact, bits, signed[0]) } else { exact };
                let (value, third) = (extract(value as u32, 0, 32, signed[0]), extract(c, 0, 32, signed[0]));
                let wanted = match second {
                    Second::Add => value + third,
                    Second::Min => value.min(third),
                    Second::Max => value.max(third),
                    Second::Merge => {
                        let kept = (0..32).filter(|bit| !(begin..begin + bits).contains(bit));
                        let kept: u32 = kept.map(|bit| c & 1 << bit).sum();
                        i128::from(kept | ((u64::from(value as u32) & ((1 << bits) - 1)) << begin) as u32)
                    }
                } as u32;
                let form = Scalar::unpack(form.pack());
                assert_eq!(form.run(a, b, c), wanted, "{form:?} {a:#x} {b:#x} {c:#x}");
            }
        }
    }
}

#[test]
fn simd_forms() {
    let mut random = Random::new(82);
    for operation in OPERATIONS {
        if matches!(operation, Operation::ShiftLeft | Operation::ShiftRight) {
            continue;
        }
        for bits in [8, 16] {
            for types in 0..8u32 {
                for round in 0..2000 {
                    let signed = [types & 1 != 0, types & 2 != 0, types & 4 != 0];
                    let sums = round % 3 == 0;
                    let count = 32 / bits;
                    let mask = 1 + random.below((1 << count) - 1);
                    let form = Simd { operation, signed, bits, saturate: !sums && round % 2 == 0, sums, mask };
                    let [a, b, c] = [0; 3].map(|_| word(&mut random));
                    let mut wanted = if sums { i128::from(c) } else { 0 };
                    for index in 0..count {
                        let begin = index * bits;
                        let (x, y) = (extract(a, begin, bits, signed[1]), extract(b, begin, bits, signed[2]));
                        let value = compute(operation, false, x, y);
                        let value = if form.saturate { clamp(value, bits, signed[0]) } else { value };
                        match (sums, mask >> index & 1 != 0) {
                            (true, true) => wanted += value,
                            (true, false) => {}
                            (false, true) => wanted |= (value & ((1 << bits) - 1)) << begin,
                            (false, false) => wanted |= extract(c, begin, bits, false) << begin,
                        }
                    }
                    let form = Simd::unpack(form.pack());
                    assert_eq!(form.run(a, b, c), wanted as u32, "{form:?} {a:#x} {b:#x} {c:#x}");
                }
            }
        }
    }
}

#[test]
fn multiply_and_add() {
    let mut random = Random::new(83);
    for round in 0..200_000u32 {
        let chosen = [0; 2].map(|_| PARTS[random.below(7) as usize]);
        let signed = [round & 1 != 0, round & 2 != 0];
        // Plain, plus one, a product or an addend that is negated.
        let way = random.below(4);
        let form = MultiplyAdd {
            signed,
            parts: chosen.map(|name| if name.is_empty() { Part::WHOLE } else { Part::parse(name).unwrap() }),
            saturate: round & 4 != 0,
            plus_one: way == 1,
            negates_product: way == 2,
            negates_addend: way == 3,
            scale: [0, 7, 15][random.below(3) as usize],
        };
        let [a, b, c] = [0; 3].map(|_| word(&mut random));
        let of = |index: usize, word: u32| {
            let (begin, bits) = place(chosen[index]);
            extract(word, begin, bits, signed[index])
        };
        let is_signed = signed[0] || signed[1] || way >= 2;
        // In two's complement, as the ISA has it: negation is complement and one.
        let (mut product, mut lsb) = (of(0, a) * of(1, b), i128::from(way == 1));
        if way == 2 {
            (product, lsb) = (!product, 1);
        }
        let third = if way == 3 {
            lsb = 1;
            extract(!c, 0, 32, true)
        } else {
            extract(c, 0, 32, is_signed)
        };
        let result = (product + third + lsb) >> form.scale;
        // The complement of an unsigned third operand would not be its negative.
        if way == 3 && c == 1 << 31 {
            continue;
        }
        let wanted = if form.saturate { clamp(result, 32, is_signed) } else { result } as u32;
        let form = MultiplyAdd::unpack(form.pack());
        assert_eq!(form.run(a, b, c), wanted, "{form:?} {a:#x} {b:#x} {c:#x}");
    }
}

#[test]
fn names_of_parts() {
    for name in PARTS.iter().filter(|name| !name.is_empty()) {
        let part = Part::parse(name).unwrap();
        assert_eq!((part.shift, part.bits), place(name));
        assert_eq!(Part::from_number(part.number()), part);
    }
    for name in ["b4", "h2", "b", "x0", "w0", "é", ""] {
        assert_eq!(Part::parse(name), None, "{name}");
    }
}
