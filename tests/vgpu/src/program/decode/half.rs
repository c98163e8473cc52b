//! f16 and bf16 arithmetic, single and packed (PTX ISA 9.7.4), and mixed precision. Semantics in [`crate::isa::half`].

use super::{ROUNDINGS, U32, required};
use crate::exec::{Class, Handler, map1, map2, map3};
use crate::isa::approximate;
use crate::isa::float32::{self, MinMax};
use crate::isa::half::{self, Bf16, F16, Half, HalfMode};
use crate::isa::{Mode, Rounding};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::{Operand, Type, TypeKind};

/// 16 bits of anything.
const U16: Type = Type { kind: TypeKind::Unsigned, bits: 16 };

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    const ROOTS: [&str; 10] = ["add", "sub", "mul", "fma", "min", "max", "abs", "neg", "ex2", "tanh"];
    if !ROOTS.contains(&opcode.root) {
        return None;
    }
    match opcode.choose(&[("f16", 0), ("f16x2", 1), ("bf16", 2), ("bf16x2", 3)])? {
        0 => Some(of_type::<F16>(body, opcode, operands, false)),
        1 => Some(of_type::<F16>(body, opcode, operands, true)),
        2 => Some(of_type::<Bf16>(body, opcode, operands, false)),
        _ => Some(of_type::<Bf16>(body, opcode, operands, true)),
    }
}

/// A mode from run time.
#[inline(always)]
fn unpack(modifier: u32) -> HalfMode {
    HalfMode { ftz: modifier & 1 != 0, sat: modifier & 2 != 0, relu: modifier & 4 != 0 }
}

/// Modifiers of `min` and `max` from run time.
#[inline(always)]
fn unpack_extreme(modifier: u32) -> MinMax {
    MinMax { ftz: modifier & 1 != 0, nan: modifier & 8 != 0, xorsign_abs: modifier & 16 != 0 }
}

/// The plain mode.
const PLAIN: HalfMode = HalfMode { ftz: false, sat: false, relu: false };

fn of_type<'a, T: Half>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    packed: bool,
) -> Result<(), Reason> {
    // Mixed precision: `fma.rn.f32.f16`, with the f32 type still to be taken.
    if opcode.take("f32") {
        return mixed::<T>(body, opcode, operands);
    }
    opcode.take("rn");
    let approximate = opcode.take("approx");
    let mode = HalfMode { ftz: opcode.take("ftz"), sat: opcode.take("sat"), relu: opcode.take("relu") };
    let nan = opcode.take("NaN");
    let oob = opcode.root == "fma" && opcode.take("oob");
    let xorsign_abs = opcode.take("xorsign") && opcode.take("abs");
    let modifier = u32::from(mode.ftz)
        | u32::from(mode.sat) << 1
        | u32::from(mode.relu) << 2
        | u32::from(nan) << 3
        | u32::from(xorsign_abs) << 4;
    let plain = modifier == 0;
    /// Handlers for single or packed operands.
    macro_rules! lift {
        ($map:ident, $pair:ident, |$m:ident, $($x:ident),*| $body:expr) => {
            if packed {
                $map(|$m, $($x: u32),*| half::$pair::<T>($($x,)* |$($x),*| $body))
            } else {
                $map(|$m, $($x: T),*| $body)
            }
        };
    }
    let (run, count): ([Handler; 2], usize) = match (opcode.root, plain) {
        ("fma", _) if oob => (lift!(map3, pair3, |m, a, b, c| half::fma_inside(unpack(m), a, b, c)), 4),
        ("add", true) => (lift!(map2, pair2, |_m, a, b| half::add(PLAIN, a, b)), 3),
        ("sub", true) => (lift!(map2, pair2, |_m, a, b| half::sub(PLAIN, a, b)), 3),
        ("mul", true) => (lift!(map2, pair2, |_m, a, b| half::mul(PLAIN, a, b)), 3),
        ("fma", true) => (lift!(map3, pair3, |_m, a, b, c| half::fma(PLAIN, a, b, c)), 4),
        ("add", false) => (lift!(map2, pair2, |m, a, b| half::add(unpack(m), a, b)), 3),
        ("sub", false) => (lift!(map2, pair2, |m, a, b| half::sub(unpack(m), a, b)), 3),
        ("mul", false) => (lift!(map2, pair2, |m, a, b| half::mul(unpack(m), a, b)), 3),
        ("fma", false) => (lift!(map3, pair3, |m, a, b, c| half::fma(unpack(m), a, b, c)), 4),
        ("min", _) => (lift!(map2, pair2, |m, a, b| half::min(unpack_extreme(m), a, b)), 3),
        ("max", _) => (lift!(map2, pair2, |m, a, b| half::max(unpack_extreme(m), a, b)), 3),
        ("abs", _) => (lift!(map1, pair1, |m, a| half::abs(m & 1 != 0, a)), 2),
        ("neg", _) => (lift!(map1, pair1, |m, a| half::neg(m & 1 != 0, a)), 2),
        ("ex2", _) if approximate => (lift!(map1, pair1, |m, a| approximate::ex2_half(unpack(m), a)), 2),
        ("tanh", _) if approximate => (lift!(map1, pair1, |_m, a| approximate::tanh_half(a)), 2),
        _ => return Err(Reason::unsupported("such modifiers")),
    };
    let class = if approximate { Class::Special } else { Class::Half };
    let ty = if packed { U32 } else { U16 };
    body.simple(run, class, operands, &vec![ty; count])?.modifier = modifier;
    Ok(())
}

/// `add.f32.f16`, `sub.f32.bf16`, `fma.rn.f32.f16`: half-precision inputs to single-precision arithmetic.
fn mixed<'a, T: Half>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let mode =
        Mode { rounding: opcode.choose(&ROUNDINGS).unwrap_or(Rounding::Nearest), ftz: false, sat: opcode.take("sat") };
    let (run, types) = match opcode.root {
        "add" => (map2(|m, a: T, c: f32| float32::add(super::unpack_mode(m), a.to_f32(), c)), vec![U32, U16, U32]),
        "sub" => (map2(|m, a: T, c: f32| float32::sub(super::unpack_mode(m), a.to_f32(), c)), vec![U32, U16, U32]),
        "fma" => (
            map3(|m, a: T, b: T, c: f32| float32::fma(super::unpack_mode(m), a.to_f32(), b.to_f32(), c)),
            vec![U32, U16, U16, U32],
        ),
        _ => return Err(required::<()>(None, "add, sub or fma").unwrap_err()),
    };
    body.simple(run, Class::Single, operands, &types)?.modifier = super::pack_mode(mode);
    Ok(())
}
