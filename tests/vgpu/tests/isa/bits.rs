//! Bit fields and shifts, bit by bit.

use super::Random;
use cuda::isa::bits::{self, Permute};

/// Bit `index` of a word of `width` bits; 0 outside.
fn bit(value: u64, index: i64, width: i64) -> bool {
    (0..width).contains(&index) && value >> index & 1 != 0
}

fn word(width: i64, test: impl Fn(i64) -> bool) -> u64 {
    (0..width).map(|index| (test(index) as u64) << index).sum()
}

/// Amounts around the widths, and large ones.
fn amount(random: &mut Random) -> u32 {
    if random.below(8) == 0 { random.word() } else { random.below(70) }
}

#[test]
fn shifts() {
    let mut random = Random::new(15);
    for _ in 0..50_000 {
        let (a, b, c) = (random.bits(), random.word(), amount(&mut random));
        let by = c as i64;
        assert_eq!(bits::shl64(a, c), word(64, |index| bit(a, index - by, 64)));
        assert_eq!(bits::shr64(a, c), word(64, |index| bit(a, index + by, 64)));
        assert_eq!(bits::shr64_signed(a as i64, c) as u64, word(64, |index| bit(a, (index + by).min(63), 64)));
        let low = a as u32 as u64;
        assert_eq!(bits::shl32(a as u32, c) as u64, word(32, |index| bit(low, index - by, 32)));
        assert_eq!(bits::shr32(a as u32, c) as u64, word(32, |index| bit(low, index + by, 32)));
        assert_eq!(bits::shr32_signed(a as i32, c) as u32 as u64, word(32, |index| bit(low, (index + by).min(31), 32)));
        assert_eq!(bits::shl16(a as u16, c) as u64, word(16, |index| bit(a, index - by, 16)));
        assert_eq!(bits::shr16(a as u16, c) as u64, word(16, |index| bit(a & 0xffff, index + by, 16)));
        assert_eq!(bits::shr16_signed(a as i16, c) as u16 as u64, word(16, |index| bit(a, (index + by).min(15), 16)));
        let pair = (b as u64) << 32 | low;
        for wrap in [false, true] {
            let by = if wrap { by % 32 } else { by.min(32) };
            assert_eq!(bits::shf_left(wrap, a as u32, b, c) as u64, word(32, |index| bit(pair, index + 32 - by, 64)));
            assert_eq!(bits::shf_right(wrap, a as u32, b, c) as u64, word(32, |index| bit(pair, index + by, 64)));
            let (width, position) = (if wrap { c % 32 } else { c.min(32) }, if wrap { b % 32 } else { b.min(32) });
            let field = |index: i64| index >= position as i64 && index < (position + width) as i64;
            assert_eq!(bits::bmsk(wrap, b, c) as u64, word(32, field));
            let cut = |signed: bool| {
                word(32, |index| {
                    if index < width as i64 {
                        bit(low, index, 32)
                    } else {
                        signed && width > 0 && bit(low, width as i64 - 1, 32)
                    }
                })
            };
            assert_eq!(bits::szext(wrap, false, a as u32, c) as u64, cut(false));
            assert_eq!(bits::szext(wrap, true, a as u32, c) as u64, cut(true));
        }
    }
}

#[test]
fn fields() {
    let mut random = Random::new(16);
    for _ in 0..50_000 {
        let (a, b, c, d) = (random.bits(), random.bits(), amount(&mut random), amount(&mut random));
        let (position, length) = ((c & 255) as i64, (d & 255) as i64);
        let extract = |value: u64, width: i64, signed: bool| {
            let sign = signed && length > 0 && bit(value, (position + length - 1).min(width - 1), width);
            word(width, |index| {
                if index < length && index + position < width { bit(value, index + position, width) } else { sign }
            })
        };
        let low = a as u32 as u64;
        assert_eq!(bits::bfe(a as u32, c, d) as u64, extract(low, 32, false), "{a:#x} {c} {d}");
        assert_eq!(bits::bfe_signed(a as i32, c, d) as u32 as u64, extract(low, 32, true), "{a:#x} {c} {d}");
        assert_eq!(bits::bfe64(a, c, d), extract(a, 64, false), "{a:#x} {c} {d}");
        assert_eq!(bits::bfe_signed64(a as i64, c, d) as u64, extract(a, 64, true), "{a:#x} {c} {d}");
        let insert = |width: i64| {
            word(width, |index| {
                if (position..position + length).contains(&index) {
                    bit(a, index - position, width)
                } else {
                    bit(b, index, width)
                }
            })
        };
        assert_eq!(bits::bfi(a as u32, b as u32, c, d) as u64, insert(32), "{a:#x} {b:#x} {c} {d}");
        assert_eq!(bits::bfi64(a, b, c, d), insert(64), "{a:#x} {b:#x} {c} {d}");
    }
}

#[test]
fn finding_bits() {
    let mut random = Random::new(17);
    for _ in 0..50_000 {
        let a = random.bits() >> random.below(64);
        let a = if random.below(2) == 0 { !a } else { a };
        let highest = |value: u64, width: i64| (0..width).rev().find(|index| bit(value, *index, width));
        let answers =
            |found: Option<i64>, width: i64| found.map_or([!0u32; 2], |at| [at as u32, (width - 1 - at) as u32]);
        let narrow = a as u32 as u64;
        for (shift, wanted) in answers(highest(narrow, 32), 32).into_iter().enumerate() {
            assert_eq!(bits::bfind(shift == 1, a as u32), wanted);
        }
        for (shift, wanted) in answers(highest(a, 64), 64).into_iter().enumerate() {
            assert_eq!(bits::bfind64(shift == 1, a), wanted);
        }
        let differing = |width: i64| (0..width).rev().find(|index| bit(a, *index, width) != bit(a, width - 1, width));
        for (shift, wanted) in answers(differing(32), 32).into_iter().enumerate() {
            assert_eq!(bits::bfind_signed(shift == 1, a as i32), wanted);
        }
        for (shift, wanted) in answers(differing(64), 64).into_iter().enumerate() {
            assert_eq!(bits::bfind_signed64(shift == 1, a as i64), wanted);
        }
    }
    assert_eq!([bits::cnot(0u32), bits::cnot(7u32)], [1, 0]);
    // The n-th set bit of 0b1010_1100 from bit 3.
    let mask = 0b1010_1100;
    let found = [-2, -1, 0, 1, 2, 3, 4].map(|offset| bits::fns(mask, 3, offset));
    assert_eq!(found, [2, 3, 3, 3, 5, 7, !0]);
    assert_eq!(bits::fns(mask, 4, 0), !0);
}

#[test]
fn every_table_of_three_inputs() {
    let mut random = Random::new(18);
    for table in 0..=255u8 {
        let (a, b, c) = (random.word(), random.word(), random.word());
        let at = |index: i64| {
            (bit(a as u64, index, 32) as u32) << 2
                | (bit(b as u64, index, 32) as u32) << 1
                | bit(c as u64, index, 32) as u32
        };
        assert_eq!(bits::lop3(table, a, b, c) as u64, word(32, |index| table >> at(index) & 1 != 0));
    }
}

#[test]
fn permutations_of_bytes() {
    let mut random = Random::new(19);
    // The ISA's tables: source bytes for selectors 0 to 3, the lowest byte of the result last.
    let tables = [
        (Permute::Forward4, ["3210", "4321", "5432", "6543"]),
        (Permute::Backward4, ["5670", "6701", "7012", "0123"]),
        (Permute::Replicate8, ["0000", "1111", "2222", "3333"]),
        (Permute::EdgeLeft, ["3210", "3211", "3222", "3333"]),
        (Permute::EdgeRight, ["0000", "1110", "2210", "3210"]),
        (Permute::Replicate16, ["1010", "3232", "1010", "3232"]),
    ];
    for _ in 0..1000 {
        let (a, b, c) = (random.word(), random.word(), random.word());
        let bytes: Vec<u8> = [a.to_le_bytes(), b.to_le_bytes()].concat();
        for (mode, table) in tables {
            for (selector, sources) in table.iter().enumerate() {
                let wanted: Vec<u8> = sources.bytes().rev().map(|digit| bytes[(digit - b'0') as usize]).collect();
                let c = c & !3 | selector as u32;
                assert_eq!(bits::prmt(mode, a, b, c).to_le_bytes().to_vec(), wanted, "{mode:?} {selector}");
            }
        }
        let wanted: Vec<u8> = (0..4)
            .map(|index| {
                let nibble = c >> (4 * index) & 15;
                let byte = bytes[(nibble & 7) as usize];
                if nibble & 8 == 0 {
                    byte
                } else if byte & 0x80 != 0 {
                    0xff
                } else {
                    0
                }
            })
            .collect();
        assert_eq!(bits::prmt(Permute::Index, a, b, c).to_le_bytes().to_vec(), wanted);
    }
}
