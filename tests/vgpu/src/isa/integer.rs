//! Integer arithmetic (PTX ISA 9.7.1 and 9.7.2): add sub mul mad mul24 mad24 sad div rem abs neg min max, the carry
//! chain, dp4a, dp2a and the packed 16-bit forms.
//!
//! [`Integer`] gives the operations of the six types of 16 to 64 bits. Arithmetic wraps unless the name says `sat`.
//!
//! What the ISA leaves open is done as GPUs do it: division by zero gives all ones and its remainder the dividend; the
//! most negative number divided by -1 gives itself, remainder 0.

use super::Value;

/// Operations on `u16 i16 u32 i32 u64 i64`. Names are those of the instructions.
pub trait Integer: Value + Ord {
    /// The type of twice the width that `mul.wide` gives.
    type Wide: Copy;

    /// `add`
    fn add(self, b: Self) -> Self;
    /// `sub`
    fn sub(self, b: Self) -> Self;
    /// `add.sat`: clamped to the range of the type.
    fn add_sat(self, b: Self) -> Self;
    /// `sub.sat`: clamped to the range of the type.
    fn sub_sat(self, b: Self) -> Self;
    /// `mul.lo`
    fn mul_lo(self, b: Self) -> Self;
    /// `mul.hi`: the upper half of the product of twice the width.
    fn mul_hi(self, b: Self) -> Self;
    /// `mul.wide`
    fn mul_wide(self, b: Self) -> Self::Wide;
    /// `mad.wide`
    fn mad_wide(self, b: Self, c: Self::Wide) -> Self::Wide;
    /// `div`
    fn div(self, b: Self) -> Self;
    /// `rem`
    fn rem(self, b: Self) -> Self;
    /// `neg`
    fn neg(self) -> Self;
    /// `abs`; the most negative number stays.
    fn abs(self) -> Self;
    /// `sad`: `c + |a - b|`.
    fn sad(self, b: Self, c: Self) -> Self;

    /// `mad.lo`
    #[inline(always)]
    fn mad_lo(self, b: Self, c: Self) -> Self {
        self.mul_lo(b).add(c)
    }

    /// `mad.hi`
    #[inline(always)]
    fn mad_hi(self, b: Self, c: Self) -> Self {
        self.mul_hi(b).add(c)
    }

    /// `mad.hi.sat`
    #[inline(always)]
    fn mad_hi_sat(self, b: Self, c: Self) -> Self {
        self.mul_hi(b).add_sat(c)
    }
}

macro_rules! integer {
    ($($type:ty, $wide:ty, $abs:expr;)*) => {$(
        impl Integer for $type {
            type Wide = $wide;
            #[inline(always)]
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            #[inline(always)]
            fn add_sat(self, b: Self) -> Self { self.saturating_add(b) }
            #[inline(always)]
            fn sub_sat(self, b: Self) -> Self { self.saturating_sub(b) }
            #[inline(always)]
            fn mul_lo(self, b: Self) -> Self { self.wrapping_mul(b) }
            #[inline(always)]
            fn mul_hi(self, b: Self) -> Self { (self.mul_wide(b) >> Self::BITS) as Self }
            #[inline(always)]
            fn mul_wide(self, b: Self) -> $wide { self as $wide * b as $wide }
            #[inline(always)]
            fn mad_wide(self, b: Self, c: $wide) -> $wide { self.mul_wide(b).wrapping_add(c) }
            #[inline(always)]
            fn div(self, b: Self) -> Self { if b == 0 { !0 } else { self.wrapping_div(b) } }
            #[inline(always)]
            fn rem(self, b: Self) -> Self { if b == 0 { self } else { self.wrapping_rem(b) } }
            #[inline(always)]
            fn neg(self) -> Self { self.wrapping_neg() }
            #[inline(always)]
            fn abs(self) -> Self { let abs: fn($type) -> $type = $abs; abs(self) }
            #[inline(always)]
            fn sad(self, b: Self, c: Self) -> Self { self.max(b).wrapping_sub(self.min(b)).wrapping_add(c) }
        }
    )*};
}

integer! {
    u16, u32, |a| a;
    i16, i32, |a| a.wrapping_abs();
    u32, u64, |a| a;
    i32, i64, |a| a.wrapping_abs();
    u64, u128, |a| a;
    i64, i128, |a| a.wrapping_abs();
}

/// `add.cc` (with `carry` false) and `addc.cc`: the sum and the carry out.
#[inline(always)]
pub fn add_carry(a: u32, b: u32, carry: bool) -> (u32, bool) {
    let sum = a as u64 + b as u64 + carry as u64;
    (sum as u32, sum >> 32 != 0)
}

/// [`add_carry`] of 64 bits.
#[inline(always)]
pub fn add_carry64(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = a as u128 + b as u128 + carry as u128;
    (sum as u64, sum >> 64 != 0)
}

/// `sub.cc` (with `borrow` false) and `subc.cc`: `a - (b + borrow)` and the borrow out.
#[inline(always)]
pub fn sub_borrow(a: u32, b: u32, borrow: bool) -> (u32, bool) {
    let difference = (a as i64) - (b as i64) - (borrow as i64);
    (difference as u32, difference < 0)
}

/// [`sub_borrow`] of 64 bits.
#[inline(always)]
pub fn sub_borrow64(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let difference = (a as i128) - (b as i128) - (borrow as i128);
    (difference as u64, difference < 0)
}

/// The 24-bit operand of `mul24` and `mad24`, unsigned.
#[inline(always)]
fn low24(a: u32) -> u64 {
    (a & 0xff_ffff) as u64
}

/// The 24-bit operand of `mul24` and `mad24`, signed.
#[inline(always)]
fn low24_signed(a: i32) -> i64 {
    (a << 8 >> 8) as i64
}

/// `mul24.lo.u32`: bits 0 to 31 of the 48-bit product of the low 24 bits.
#[inline(always)]
pub fn mul24_lo(a: u32, b: u32) -> u32 {
    (low24(a) * low24(b)) as u32
}

/// `mul24.hi.u32`: bits 16 to 47.
#[inline(always)]
pub fn mul24_hi(a: u32, b: u32) -> u32 {
    ((low24(a) * low24(b)) >> 16) as u32
}

/// `mul24.lo.s32`
#[inline(always)]
pub fn mul24_lo_signed(a: i32, b: i32) -> i32 {
    (low24_signed(a) * low24_signed(b)) as i32
}

/// `mul24.hi.s32`
#[inline(always)]
pub fn mul24_hi_signed(a: i32, b: i32) -> i32 {
    ((low24_signed(a) * low24_signed(b)) >> 16) as i32
}

/// Byte `index` of `a`, extended by its sign if `signed`.
#[inline(always)]
fn byte(a: u32, index: u32, signed: bool) -> i32 {
    let byte = (a >> (8 * index)) as u8;
    if signed { byte as i8 as i32 } else { byte as i32 }
}

/// `dp4a`: `c` plus the dot product of four bytes, of which `a`'s and `b`'s may be signed or not.
#[inline(always)]
pub fn dp4a(a_signed: bool, b_signed: bool, a: u32, b: u32, c: u32) -> u32 {
    let mut sum = c as i32;
    for index in 0..4 {
        sum = sum.wrapping_add(byte(a, index, a_signed) * byte(b, index, b_signed));
    }
    sum as u32
}

/// `dp2a.lo` and `dp2a.hi`: `c` plus the dot product of `a`'s two halves with `b`'s two lower (upper) bytes.
#[inline(always)]
pub fn dp2a(a_signed: bool, b_signed: bool, high: bool, a: u32, b: u32, c: u32) -> u32 {
    let mut sum = c as i32;
    for index in 0..2 {
        let half = (a >> (16 * index)) as u16;
        let half = if a_signed { half as i16 as i32 } else { half as i32 };
        sum = sum.wrapping_add(half * byte(b, index + 2 * high as u32, b_signed));
    }
    sum as u32
}

/// Applies an operation to both halves: `add.u16x2`, `min.s16x2`, `max.u16x2` and so on.
#[inline(always)]
pub fn halves2<T: Value<Register = u32>>(a: u32, b: u32, operation: impl Fn(T, T) -> T) -> u32 {
    let low = operation(T::read(a & 0xffff), T::read(b & 0xffff)).write();
    let high = operation(T::read(a >> 16), T::read(b >> 16)).write();
    low & 0xffff | high << 16
}
