//! What each instruction computes: pure functions, with no machine state around them.
//!
//! # Conventions
//! * A register of a warp is [`Lanes`] (32 bits per lane) or [`Lanes64`]. 16-bit and 8-bit values live in the low bits of
//!   a 32-bit lane, packed `f16x2`, `bf16x2`, `u16x2` fill it; a predicate register is one `u32` with a bit per lane.
//! * An instruction that every thread executes for itself is a *scalar* function on Rust values: `float32::add(mode, a, b)`.
//!   [`Value`] says how a typed value sits in a register. They are branch-free and `#[inline(always)]`, so that loops over lanes vectorise for
//!   whatever `#[target_feature]` the caller was compiled with, and give the same bits in each.
//! * Instructions that look across lanes ([`exchange`], [`matrix`]) take whole registers.
//! * Modifiers (rounding, `.ftz`, `.sat`, comparison operators) are small enums and structs passed as ordinary arguments.
//!   Pass constants: after inlining nothing of the choice is left at run time.
//!
//! | module | instructions |
//! |---|---|
//! | [`integer`] | add sub mul mad mul24 mad24 sad div rem abs neg min max, carries, dp4a dp2a, 16-bit pairs |
//! | [`bits`] | and or xor not cnot lop3 shl shr shf bfe bfi bfind fns clz popc brev prmt szext bmsk |
//! | [`float32`], [`float64`] | add sub mul fma div rcp sqrt min max abs neg copysign testp |
//! | [`half`] | f16 and bf16 arithmetic, rounded once; packed pairs by [`half::pair2`] and its like |
//! | [`approximate`] | ex2 lg2 sin cos tanh rcp rsqrt sqrt div.approx div.full |
//! | [`compare`] | setp set slct |
//! | [`convert`] | cvt, cvt.pack |
//! | [`exchange`] | shfl vote match redux elect |
//! | [`matrix`] | mma, ldmatrix, stmatrix, movmatrix, wgmma and its descriptors |
//! | [`tensor_map`] | the 128 bytes of a `CUtensorMap`, boxes and swizzles of tensor copies |

// A lane index addresses several registers at once.
#![allow(clippy::needless_range_loop)]

pub mod approximate;
pub mod bits;
pub mod compare;
pub mod convert;
pub mod exact;
pub mod exchange;
pub mod float32;
pub mod float64;
pub mod half;
pub mod im2col;
pub mod integer;
pub mod matrix;
pub mod tensor_field;
pub mod tensor_map;
pub mod video;

/// Threads of a warp.
pub const WARP: usize = 32;

/// One 32-bit register of a warp.
pub type Lanes = [u32; WARP];

/// One 64-bit register of a warp.
pub type Lanes64 = [u64; WARP];

/// Where a result that does not fit goes: `.rn .rz .rm .rp`, and `.rna` of some conversions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// `.rn`, `.rni`: to nearest, ties to even.
    Nearest,
    /// `.rz`, `.rzi`: toward zero.
    Zero,
    /// `.rm`, `.rmi`: toward minus infinity.
    Down,
    /// `.rp`, `.rpi`: toward plus infinity.
    Up,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
}

impl Rounding {
    /// From the number that `as u32` gives.
    #[inline(always)]
    pub fn from_number(number: u32) -> Rounding {
        match number {
            0 => Rounding::Nearest,
            1 => Rounding::Zero,
            2 => Rounding::Down,
            3 => Rounding::Up,
            _ => Rounding::NearestAway,
        }
    }
}

/// The modifiers of a floating-point instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// How an inexact result is rounded.
    pub rounding: Rounding,
    /// `.ftz`: subnormal inputs and results become zeros of the same sign. A result counts as subnormal after rounding.
    pub ftz: bool,
    /// `.sat`: results are clamped to [0, 1], and NaN becomes 0.
    pub sat: bool,
}

impl Mode {
    /// Round to nearest even, subnormals kept, no saturation: what an instruction without modifiers does.
    pub const PLAIN: Mode = Mode { rounding: Rounding::Nearest, ftz: false, sat: false };
    /// Round to nearest even with `.ftz`.
    pub const FTZ: Mode = Mode { rounding: Rounding::Nearest, ftz: true, sat: false };
}

/// A typed value and the register lane that holds it.
pub trait Value: Copy {
    /// `u32` or `u64`.
    type Register: Copy + Default + PartialEq;
    /// The value in a lane; bits above the value's width are ignored.
    fn read(register: Self::Register) -> Self;
    /// The lane that holds the value; bits above the value's width are zero.
    fn write(self) -> Self::Register;
}

macro_rules! value {
    ($($type:ty, $register:ty, |$r:ident| $read:expr, |$v:ident| $write:expr;)*) => {$(
        impl Value for $type {
            type Register = $register;
            #[inline(always)]
            fn read($r: $register) -> Self { $read }
            #[inline(always)]
            fn write(self) -> $register { let $v = self; $write }
        }
    )*};
}

value! {
    u8,  u32, |r| r as u8,  |v| v as u32;
    i8,  u32, |r| r as i8,  |v| v as u8 as u32;
    u16, u32, |r| r as u16, |v| v as u32;
    i16, u32, |r| r as i16, |v| v as u16 as u32;
    u32, u32, |r| r,        |v| v;
    i32, u32, |r| r as i32, |v| v as u32;
    u64, u64, |r| r,        |v| v;
    i64, u64, |r| r as i64, |v| v as u64;
    f32, u32, |r| f32::from_bits(r), |v| v.to_bits();
    f64, u64, |r| f64::from_bits(r), |v| v.to_bits();
    half::F16,  u32, |r| half::F16(r as u16),  |v| v.0 as u32;
    half::Bf16, u32, |r| half::Bf16(r as u16), |v| v.0 as u32;
}

/// The predicate of all 32 lanes: bit `lane` is `test(lane)`.
#[inline(always)]
pub fn mask_of(test: impl Fn(usize) -> bool) -> u32 {
    // Bits in vectors, put together at the end: one shift after the other would not vectorise.
    let mut bits = [0u32; WARP];
    for lane in 0..WARP {
        bits[lane] = if test(lane) { 1 << lane } else { 0 };
    }
    bits.iter().fold(0, |mask, bit| mask | bit)
}
