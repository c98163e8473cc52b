//! Number types: what a tensor stores ([`Element`]) and what arithmetic accumulates in ([`Real`]).
//!
//! | storage | accumulation | use |
//! |---|---|---|
//! | `f32` | `f32` | default |
//! | `bf16` | `f32` | half the memory; parameters keep `f32` masters |
//! | `f16` | `f32` | attention, for those who have it; on CUDA no other op takes it |
//! | `f64` | `f64` | the oracle of every test |
//!
//! One generic implementation of an op serves all four, so the oracle checks the very code that runs.

use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use half::{bf16, f16};

/// Name of a storage type, as written in configs, checkpoints and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// Brain float: the upper 16 bits of an `f32`.
    Bf16,
    /// 16-bit IEEE float.
    F16,
    /// 64-bit IEEE float, for the oracle.
    F64,
}

impl DType {
    /// Bytes of an element, which begins at a multiple of them.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => size_of::<f32>(),
            DType::Bf16 => size_of::<bf16>(),
            DType::F16 => size_of::<f16>(),
            DType::F64 => size_of::<f64>(),
        }
    }
}

impl Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::F64 => "f64",
        })
    }
}

/// A type that tensors store.
pub trait Element: bytemuck::Pod + Default + PartialEq + PartialOrd + Debug + Send + Sync + 'static {
    /// The type in which sums, statistics and parameter gradients of this storage type are kept.
    type Acc: Real;
    /// The name of this storage type.
    const DTYPE: DType;
    /// Widens to the accumulation type (exact).
    fn to_acc(self) -> Self::Acc;
    /// Rounds from the accumulation type (to nearest even).
    fn from_acc(x: Self::Acc) -> Self;
    /// Rounds from `f64`.
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        Self::from_acc(Self::Acc::of(x))
    }
    /// Widens to `f64` (exact).
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.to_acc().as_f64()
    }
}

/// A type that arithmetic is done in: `f32`, or `f64` for the oracle.
///
/// The functions of `f32` are vectorisable polynomials of [`crate::host::math`]; those of `f64` are the exact ones of `libm`.
pub trait Real:
    Element<Acc = Self>
    + Display
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The most negative finite value: the additive mask of the official code.
    const LOWEST: Self;
    /// Unit roundoff: half the distance from 1 to the next larger number.
    const ROUNDOFF: f64;
    /// Rounds an `f64`.
    fn of(x: f64) -> Self;
    /// Converts a count or an index.
    #[inline(always)]
    fn of_usize(x: usize) -> Self {
        Self::of(x as f64)
    }
    /// Widens to `f64`.
    fn as_f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to the power `self`; 0 below the smallest normal number.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// Sine of an angle in radians.
    fn sin(self) -> Self;
    /// Cosine of an angle in radians.
    fn cos(self) -> Self;
    /// `self` to the power `x`.
    fn powf(self, x: Self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Largest integer not above `self`.
    fn floor(self) -> Self;
    /// The larger of two numbers.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    /// The smaller of two numbers.
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    /// A whole number from 0 to 2^23 as an index, in a way that vectorises.
    fn to_index(self) -> u32;
    /// Whether neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// Logistic function `1 / (1 + exp(-self))`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }
}

macro_rules! real {
    ($t:ty, $dtype:expr, $roundoff:expr, $to_index:expr, { $($f:ident => $path:path),* $(,)? }) => {
        impl Element for $t {
            type Acc = $t;
            const DTYPE: DType = $dtype;
            #[inline(always)]
            fn to_acc(self) -> $t { self }
            #[inline(always)]
            fn from_acc(x: $t) -> $t { x }
        }
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = <$t>::MIN;
            const ROUNDOFF: f64 = $roundoff;
            #[inline(always)]
            fn of(x: f64) -> Self { x as $t }
            #[inline(always)]
            fn as_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn sqrt(self) -> Self { <$t>::sqrt(self) }
            #[inline(always)]
            fn ln(self) -> Self { <$t>::ln(self) }
            #[inline(always)]
            fn sin(self) -> Self { <$t>::sin(self) }
            #[inline(always)]
            fn cos(self) -> Self { <$t>::cos(self) }
            #[inline(always)]
            fn powf(self, x: Self) -> Self { <$t>::powf(self, x) }
            #[inline(always)]
            fn abs(self) -> Self { <$t>::abs(self) }
            #[inline(always)]
            fn floor(self) -> Self { <$t>::floor(self) }
            #[inline(always)]
            fn to_index(self) -> u32 { $to_index(self) }
            #[inline(always)]
            fn is_finite(self) -> bool { <$t>::is_finite(self) }
            $(#[inline(always)]
            fn $f(self) -> Self { $path(self) })*
        }
    };
}

// Adding 2^23 leaves a small whole number in the low bits of the mantissa.
real!(f32, DType::F32, 5.960464477539063e-8, |x: f32| (x + 8_388_608.0).to_bits() & 0x7f_ffff, {
    exp => crate::host::math::exp,
    tanh => crate::host::math::tanh,
    erf => crate::host::math::erf,
});
real!(f64, DType::F64, 1.1102230246251565e-16, |x: f64| x as u32, { exp => f64::exp, tanh => f64::tanh, erf => libm::erf });

impl Element for bf16 {
    type Acc = f32;
    const DTYPE: DType = DType::Bf16;
    #[inline(always)]
    fn to_acc(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_acc(x: f32) -> bf16 {
        // To nearest even in integer arithmetic, which vectorises; NaN stays NaN.
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        bf16::from_bits(if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { (rounded >> 16) as u16 })
    }
}

impl Element for f16 {
    type Acc = f32;
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn to_acc(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn from_acc(x: f32) -> f16 {
        f16::from_f32(x)
    }
}
