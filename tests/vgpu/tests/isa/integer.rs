//! Integer arithmetic against i128.

use super::Random;
use cuda::isa::integer::{self, Integer};

/// A number of `width` bits, often near an end of a range.
fn sample(random: &mut Random, width: u32) -> u64 {
    let edge = (1u64 << random.below(width)).wrapping_sub(random.below(3) as u64);
    let bits = match random.below(4) {
        0 => edge,
        1 => edge.wrapping_neg(),
        2 => random.below(4) as u64,
        _ => random.bits(),
    };
    bits << (64 - width) >> (64 - width)
}

macro_rules! check_type {
    ($name:ident, $type:ty, $bits:expr) => {
        #[test]
        fn $name() {
            let mut random = Random::new(11);
            let range = |value: i128| value.clamp(<$type>::MIN as i128, <$type>::MAX as i128) as $type;
            for _ in 0..100_000 {
                let [a, b, c] = [0; 3].map(|_| sample(&mut random, $bits) as $type);
                let (x, y, z) = (a as i128, b as i128, c as i128);
                assert_eq!(Integer::add(a, b), (x + y) as $type);
                assert_eq!(Integer::sub(a, b), (x - y) as $type);
                assert_eq!(a.add_sat(b), range(x + y), "{a} {b}");
                assert_eq!(a.sub_sat(b), range(x - y), "{a} {b}");
                assert_eq!(a.mul_lo(b), x.wrapping_mul(y) as $type);
                // The product of two u64 may not fit i128, whose upper half is then right all the same.
                let high = (x.wrapping_mul(y) as u128 >> $bits) as $type;
                assert_eq!(a.mul_hi(b), high, "{a} {b}");
                assert_eq!(
                    a.mul_wide(b) as u128,
                    (x.wrapping_mul(y) as u128) << (128 - 2 * $bits) >> (128 - 2 * $bits)
                        | sign_bits(x.wrapping_mul(y), 2 * $bits, <$type>::MIN as i128)
                );
                assert_eq!(a.mad_lo(b, c), x.wrapping_mul(y).wrapping_add(z) as $type);
                assert_eq!(a.mad_hi(b, c), (high as i128).wrapping_add(z) as $type);
                assert_eq!(a.mad_hi_sat(b, c), range(high as i128 + z));
                assert_eq!(Integer::div(a, b), if y == 0 { !0 } else { (x / y) as $type });
                assert_eq!(Integer::rem(a, b), if y == 0 { a } else { (x % y) as $type });
                assert_eq!(Integer::neg(a), (-x) as $type);
                assert_eq!(Integer::abs(a), x.unsigned_abs() as $type);
                assert_eq!(a.sad(b, c), ((x - y).abs() + z) as $type);
            }
        }
    };
}

/// The bits above `width` of the two's complement of a signed product; none of an unsigned one.
fn sign_bits(product: i128, width: u32, lowest: i128) -> u128 {
    if lowest < 0 && product < 0 && width < 128 { u128::MAX << width } else { 0 }
}

check_type!(unsigned_16, u16, 16);
check_type!(signed_16, i16, 16);
check_type!(unsigned_32, u32, 32);
check_type!(signed_32, i32, 32);
check_type!(unsigned_64, u64, 64);
check_type!(signed_64, i64, 64);

#[test]
fn carries() {
    let mut random = Random::new(12);
    for _ in 0..100_000 {
        let (a, b, carry) = (sample(&mut random, 64), sample(&mut random, 64), random.below(2) != 0);
        let sum = a as u128 + b as u128 + carry as u128;
        assert_eq!(integer::add_carry64(a, b, carry), (sum as u64, sum > u64::MAX as u128));
        let difference = a as i128 - b as i128 - carry as i128;
        assert_eq!(integer::sub_borrow64(a, b, carry), (difference as u64, difference < 0));
        // A 64-bit sum in two steps of 32.
        let (low, carry_low) = integer::add_carry(a as u32, b as u32, carry);
        let (high, carry_high) = integer::add_carry((a >> 32) as u32, (b >> 32) as u32, carry_low);
        assert_eq!((low as u64 | (high as u64) << 32, carry_high), (sum as u64, sum > u64::MAX as u128));
        let (low, borrow_low) = integer::sub_borrow(a as u32, b as u32, carry);
        let (high, borrow_high) = integer::sub_borrow((a >> 32) as u32, (b >> 32) as u32, borrow_low);
        assert_eq!((low as u64 | (high as u64) << 32, borrow_high), (difference as u64, difference < 0));
    }
}

#[test]
fn products_of_24_bits() {
    let mut random = Random::new(13);
    for _ in 0..100_000 {
        let (a, b) = (random.word(), random.word());
        let product = (a % (1 << 24)) as u128 * (b % (1 << 24)) as u128;
        assert_eq!(integer::mul24_lo(a, b), product as u32);
        assert_eq!(integer::mul24_hi(a, b), (product >> 16) as u32);
        let cut = |a: u32| if a >> 23 & 1 != 0 { (a % (1 << 24)) as i128 - (1 << 24) } else { (a % (1 << 24)) as i128 };
        let product = cut(a) * cut(b);
        assert_eq!(integer::mul24_lo_signed(a as i32, b as i32), product as i32);
        assert_eq!(integer::mul24_hi_signed(a as i32, b as i32), (product >> 16) as i32);
    }
}

#[test]
fn dot_products_of_bytes() {
    let mut random = Random::new(14);
    let byte = |word: u32, index: u32, signed: bool| {
        let byte = word.to_le_bytes()[index as usize];
        if signed { byte as i8 as i64 } else { byte as i64 }
    };
    let half = |word: u32, index: u32, signed: bool| {
        let half = (word >> (16 * index)) as u16;
        if signed { half as i16 as i64 } else { half as i64 }
    };
    for _ in 0..50_000 {
        let (a, b, c) = (random.word(), random.word(), random.word());
        for (sign_a, sign_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let sum: i64 = (0..4).map(|index| byte(a, index, sign_a) * byte(b, index, sign_b)).sum();
            assert_eq!(integer::dp4a(sign_a, sign_b, a, b, c), (sum + c as i64) as u32);
            for high in [false, true] {
                let sum: i64 = (0..2)
                    .map(|index| half(a, index, sign_a) * byte(b, index + if high { 2 } else { 0 }, sign_b))
                    .sum();
                assert_eq!(integer::dp2a(sign_a, sign_b, high, a, b, c), (sum + c as i64) as u32);
            }
        }
        let sum = integer::halves2::<u16>(a, b, Integer::add);
        assert_eq!(
            (sum as u16, (sum >> 16) as u16),
            ((a as u16).wrapping_add(b as u16), ((a >> 16) as u16).wrapping_add((b >> 16) as u16))
        );
        let least = integer::halves2::<i16>(a, b, Ord::min);
        assert_eq!(
            (least as i16, (least >> 16) as i16),
            ((a as i16).min(b as i16), ((a >> 16) as i16).min((b >> 16) as i16))
        );
    }
}
