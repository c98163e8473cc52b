//! Logic, shifts and bit fields (PTX ISA 9.7.1 and 9.7.8): and or xor not cnot lop3 shl shr shf bfe bfi bfind fns clz
//! popc brev prmt szext bmsk.
//!
//! `and or xor not` are Rust's own operators; the rest is here. Shift amounts are clamped to the width, as PTX asks.

/// `cnot`: 1 if `a` is zero, else 0.
#[inline(always)]
pub fn cnot<T: Default + PartialEq + From<bool>>(a: T) -> T {
    T::from(a == T::default())
}

/// `lop3.b32`: bit by bit, entry `4 a + 2 b + c` of the table.
#[inline(always)]
pub fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    // A sum over the minterms; with a constant table only the terms that are in it remain.
    let term = |index: u32, bits: u32| if table >> index & 1 != 0 { bits } else { 0 };
    term(0, !a & !b & !c)
        | term(1, !a & !b & c)
        | term(2, !a & b & !c)
        | term(3, !a & b & c)
        | term(4, a & !b & !c)
        | term(5, a & !b & c)
        | term(6, a & b & !c)
        | term(7, a & b & c)
}

macro_rules! shifts {
    ($($type:ty, $signed:ty, $shl:ident, $shr:ident, $shr_signed:ident;)*) => {$(
        /// `shl`: amounts of the width and more give 0.
        #[inline(always)]
        pub fn $shl(a: $type, amount: u32) -> $type {
            let shifted = a << (amount & (<$type>::BITS - 1));
            if amount < <$type>::BITS { shifted } else { 0 }
        }
        /// `shr` of an unsigned number: amounts of the width and more give 0.
        #[inline(always)]
        pub fn $shr(a: $type, amount: u32) -> $type {
            let shifted = a >> (amount & (<$type>::BITS - 1));
            if amount < <$type>::BITS { shifted } else { 0 }
        }
        /// `shr` of a signed number: amounts of the width and more leave the sign alone.
        #[inline(always)]
        pub fn $shr_signed(a: $signed, amount: u32) -> $signed {
            a >> amount.min(<$type>::BITS - 1)
        }
    )*};
}

shifts! {
    u16, i16, shl16, shr16, shr16_signed;
    u32, i32, shl32, shr32, shr32_signed;
    u64, i64, shl64, shr64, shr64_signed;
}

/// The amount of a funnel shift: `.wrap` takes it modulo 32, `.clamp` at most 32.
#[inline(always)]
fn funnel_amount(wrap: bool, c: u32) -> u32 {
    if wrap { c & 31 } else { c.min(32) }
}

/// `shf.l`: the upper word of the pair `b:a` shifted left.
#[inline(always)]
pub fn shf_left(wrap: bool, a: u32, b: u32, c: u32) -> u32 {
    let pair = (b as u64) << 32 | a as u64;
    ((pair << funnel_amount(wrap, c)) >> 32) as u32
}

/// `shf.r`: the lower word of the pair `b:a` shifted right.
#[inline(always)]
pub fn shf_right(wrap: bool, a: u32, b: u32, c: u32) -> u32 {
    let pair = (b as u64) << 32 | a as u64;
    (pair >> funnel_amount(wrap, c)) as u32
}

/// `bfe.u32`: `length` bits from `position` (both modulo 256); bits beyond the word are 0.
#[inline(always)]
pub fn bfe(a: u32, position: u32, length: u32) -> u32 {
    shr32(a, position & 0xff) & !shl32(!0, length & 0xff)
}

/// `bfe.u64`
#[inline(always)]
pub fn bfe64(a: u64, position: u32, length: u32) -> u64 {
    shr64(a, position & 0xff) & !shl64(!0, length & 0xff)
}

/// `bfe.s32`: as [`bfe`], extended by the field's top bit, or by the word's where the field reaches beyond it.
#[inline(always)]
pub fn bfe_signed(a: i32, position: u32, length: u32) -> i32 {
    bfe_signed64(a as i64, position & 0xff, (length & 0xff).min(32)) as i32
}

/// `bfe.s64`
#[inline(always)]
pub fn bfe_signed64(a: i64, position: u32, length: u32) -> i64 {
    let field = shr64_signed(a, position & 0xff);
    let unused = 64 - (length & 0xff).min(64);
    let extended = field << (unused & 63) >> (unused & 63);
    if length & 0xff == 0 { 0 } else { extended }
}

/// `bfi.b32`: `b` with `length` bits from `position` (both modulo 256) replaced by the low bits of `a`.
#[inline(always)]
pub fn bfi(a: u32, b: u32, position: u32, length: u32) -> u32 {
    let field = shl32(!shl32(!0, length & 0xff), position & 0xff);
    b & !field | shl32(a, position & 0xff) & field
}

/// `bfi.b64`
#[inline(always)]
pub fn bfi64(a: u64, b: u64, position: u32, length: u32) -> u64 {
    let field = shl64(!shl64(!0, length & 0xff), position & 0xff);
    b & !field | shl64(a, position & 0xff) & field
}

/// `bfind.u32`: the position of the highest one, or all ones if there is none. With `shift_amount`, the left shift that
/// brings it to the top instead.
#[inline(always)]
pub fn bfind(shift_amount: bool, a: u32) -> u32 {
    let position = 31u32.wrapping_sub(a.leading_zeros());
    if a != 0 && shift_amount { 31 - position } else { position }
}

/// `bfind.u64`
#[inline(always)]
pub fn bfind64(shift_amount: bool, a: u64) -> u32 {
    let position = 63u32.wrapping_sub(a.leading_zeros());
    if a != 0 && shift_amount { 63 - position } else { position }
}

/// `bfind.s32`: the highest bit that differs from the sign.
#[inline(always)]
pub fn bfind_signed(shift_amount: bool, a: i32) -> u32 {
    bfind(shift_amount, (a ^ a >> 31) as u32)
}

/// `bfind.s64`
#[inline(always)]
pub fn bfind_signed64(shift_amount: bool, a: i64) -> u32 {
    bfind64(shift_amount, (a ^ a >> 63) as u64)
}

/// `fns.b32`: from bit `base`, the position of the `offset`-th set bit going up (down if negative), itself included with
/// offset 0 (only if set). All ones if there is none.
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let base = (base & 31) as i64;
    if offset == 0 {
        return if mask >> base & 1 != 0 { base as u32 } else { !0 };
    }
    let step = offset.signum() as i64;
    let mut left = offset.unsigned_abs();
    let mut position = base;
    while (0..32).contains(&position) {
        if mask >> position & 1 != 0 {
            left -= 1;
            if left == 0 {
                return position as u32;
            }
        }
        position += step;
    }
    !0
}

/// How `prmt` chooses its four bytes of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permute {
    /// Each of four selector nibbles: a byte of `b:a`, and bit 3 for its sign eight times.
    Index,
    /// `.f4e`: four bytes forward from the selector.
    Forward4,
    /// `.b4e`: four bytes backward.
    Backward4,
    /// `.rc8`: one byte four times.
    Replicate8,
    /// `.ecl`: edge clamp left.
    EdgeLeft,
    /// `.ecr`: edge clamp right.
    EdgeRight,
    /// `.rc16`: one half twice.
    Replicate16,
}

/// `prmt.b32`: bytes of the pair `b:a`, chosen by `c`.
#[inline(always)]
pub fn prmt(mode: Permute, a: u32, b: u32, c: u32) -> u32 {
    let pair = (b as u64) << 32 | a as u64;
    let selector = c & 3;
    let mut result = 0;
    for index in 0..4 {
        let (source, sign) = match mode {
            Permute::Index => (c >> (4 * index) & 7, c >> (4 * index) & 8 != 0),
            Permute::Forward4 => (selector + index, false),
            Permute::Backward4 => (selector.wrapping_sub(index) & 7, false),
            Permute::Replicate8 => (selector, false),
            Permute::EdgeLeft => (selector.max(index), false),
            Permute::EdgeRight => (selector.min(index), false),
            Permute::Replicate16 => (2 * (selector & 1) + (index & 1), false),
        };
        let byte = (pair >> (8 * source)) as u8;
        let signs = (byte as i8 >> 7) as u8;
        result |= (if sign { signs } else { byte } as u32) << (8 * index);
    }
    result
}

/// `szext`: `a` cut to its low `width` bits and extended by its top one if `signed`. With `wrap` the width counts modulo
/// 32, else at most 32.
#[inline(always)]
pub fn szext(wrap: bool, signed: bool, a: u32, width: u32) -> u32 {
    let width = funnel_amount(wrap, width);
    if signed { bfe_signed(a as i32, 0, width) as u32 } else { bfe(a, 0, width) }
}

/// `bmsk`: `width` ones from `position` up. With `wrap` both count modulo 32, else at most 32.
#[inline(always)]
pub fn bmsk(wrap: bool, position: u32, width: u32) -> u32 {
    shl32(!shl32(!0, funnel_amount(wrap, width)), funnel_amount(wrap, position))
}
