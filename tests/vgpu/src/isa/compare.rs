//! Comparison and selection (PTX ISA 9.7.6 and 9.7.7): what setp, set and slct ask of their values.

use super::{Value, float32, half};

/// Comparison operators. Of integers the first six apply; `lo ls hi hs` are `Lt Le Gt Ge` of unsigned types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Equal, and both numbers.
    Eq,
    /// Different, and both numbers.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Equal, or any NaN.
    Equ,
    /// Different, or any NaN.
    Neu,
    /// Less, or any NaN.
    Ltu,
    /// Less or equal, or any NaN.
    Leu,
    /// Greater, or any NaN.
    Gtu,
    /// Greater or equal, or any NaN.
    Geu,
    /// Both numbers.
    Num,
    /// Any NaN.
    Nan,
}

/// Compares integers.
#[inline(always)]
pub fn integer<T: Ord>(comparison: Comparison, a: T, b: T) -> bool {
    match comparison {
        Comparison::Eq | Comparison::Equ => a == b,
        Comparison::Ne | Comparison::Neu => a != b,
        Comparison::Lt | Comparison::Ltu => a < b,
        Comparison::Le | Comparison::Leu => a <= b,
        Comparison::Gt | Comparison::Gtu => a > b,
        Comparison::Ge | Comparison::Geu => a >= b,
        Comparison::Num => true,
        Comparison::Nan => false,
    }
}

/// Compares floating-point numbers.
#[inline(always)]
pub fn float<T: PartialOrd + Copy>(comparison: Comparison, a: T, b: T) -> bool {
    let ordered = a.partial_cmp(&b).is_some();
    match comparison {
        Comparison::Eq => a == b,
        Comparison::Ne => ordered && a != b,
        Comparison::Lt => a < b,
        Comparison::Le => a <= b,
        Comparison::Gt => a > b,
        Comparison::Ge => a >= b,
        Comparison::Equ => !ordered || a == b,
        Comparison::Neu => a != b,
        Comparison::Ltu => !ordered || a < b,
        Comparison::Leu => !ordered || a <= b,
        Comparison::Gtu => !ordered || a > b,
        Comparison::Geu => !ordered || a >= b,
        Comparison::Num => ordered,
        Comparison::Nan => !ordered,
    }
}

/// Types that `setp` compares as floating point.
pub trait Comparable: Value {
    /// The value in a type that Rust compares; with `ftz` subnormals are zeros.
    fn ordered(self, ftz: bool) -> impl PartialOrd + Copy;
}

impl Comparable for f32 {
    #[inline(always)]
    fn ordered(self, ftz: bool) -> impl PartialOrd + Copy {
        if ftz { float32::flush(self) } else { self }
    }
}

impl Comparable for f64 {
    #[inline(always)]
    fn ordered(self, _ftz: bool) -> impl PartialOrd + Copy {
        self
    }
}

impl Comparable for half::F16 {
    #[inline(always)]
    fn ordered(self, ftz: bool) -> impl PartialOrd + Copy {
        half::Half::to_f32(half::flush(ftz, self))
    }
}

impl Comparable for half::Bf16 {
    #[inline(always)]
    fn ordered(self, ftz: bool) -> impl PartialOrd + Copy {
        half::Half::to_f32(half::flush(ftz, self))
    }
}

/// `slct` with an s32 selector: `a` if it is not negative.
#[inline(always)]
pub fn slct<R>(a: R, b: R, selector: i32) -> R {
    if selector >= 0 { a } else { b }
}

/// `slct` with an f32 selector: `a` if it is not negative; -0 is not, NaN is. With `ftz` neither are subnormals.
#[inline(always)]
pub fn slct_float<R>(ftz: bool, a: R, b: R, selector: f32) -> R {
    let selector = if ftz { float32::flush(selector) } else { selector };
    if selector >= 0.0 { a } else { b }
}
