//! What each instruction of the text means: the handler, the operands, and what it counts as. One file per family.

mod asynchronous;
mod atomic;
mod compare;
mod control;
mod convert;
mod float;
mod fragment;
mod half;
mod integer;
mod matrix;
mod memory;
mod moves;
mod multicast;
mod special;
mod tensor_object;
mod texture;
mod video;
mod warp;

pub(super) use special::special_register;

use super::draft::{Field, Step, Width};
use super::function::{Body, Reason, width_of};
use super::opcode::Opcode;
use crate::exec::{Class, Handler};
use crate::isa::{Mode, Rounding};
use crate::ptx::{Operand, Type};

/// The handlers of an instruction for each of the six integer types; `None` for other types.
macro_rules! by_integer {
    ($ty:expr, $T:ident => $handlers:expr) => {
        match $ty {
            "u16" | "b16" => Some({
                type $T = u16;
                $handlers
            }),
            "s16" => Some({
                type $T = i16;
                $handlers
            }),
            "u32" | "b32" => Some({
                type $T = u32;
                $handlers
            }),
            "s32" => Some({
                type $T = i32;
                $handlers
            }),
            "u64" | "b64" => Some({
                type $T = u64;
                $handlers
            }),
            "s64" => Some({
                type $T = i64;
                $handlers
            }),
            _ => None,
        }
    };
}
use by_integer;

/// The handlers of an instruction of f32 with a [`Mode`]: the usual modes are compiled in, the others are read from the modifier.
macro_rules! by_mode {
    ($mode:expr, $map:ident, |$m:ident, $($x:ident: $t:ty),*| $body:expr) => {{
        use crate::isa::{Mode, Rounding};
        let mode: Mode = $mode;
        match (mode.rounding, mode.ftz, mode.sat) {
            (Rounding::Nearest, false, false) => $map(|_, $($x: $t),*| { let $m = Mode::PLAIN; $body }),
            (Rounding::Nearest, true, false) => $map(|_, $($x: $t),*| { let $m = Mode::FTZ; $body }),
            (Rounding::Nearest, false, true) => $map(|_, $($x: $t),*| { let $m = Mode { sat: true, ..Mode::PLAIN }; $body }),
            (Rounding::Nearest, true, true) => $map(|_, $($x: $t),*| { let $m = Mode { sat: true, ..Mode::FTZ }; $body }),
            _ => $map(|modifier, $($x: $t),*| { let $m = super::unpack_mode(modifier); $body }),
        }
    }};
}
use by_mode;

/// A mode in a modifier.
fn pack_mode(mode: Mode) -> u32 {
    mode.rounding as u32 | u32::from(mode.ftz) << 8 | u32::from(mode.sat) << 9
}

/// The mode that [`pack_mode`] packed.
#[inline(always)]
fn unpack_mode(modifier: u32) -> Mode {
    Mode { rounding: unpack_rounding(modifier), ftz: modifier & 1 << 8 != 0, sat: modifier & 1 << 9 != 0 }
}

/// The rounding in the low bits of a modifier.
#[inline(always)]
fn unpack_rounding(modifier: u32) -> Rounding {
    Rounding::from_number(modifier & 7)
}

/// Decodes an instruction.
pub(super) fn instruction<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Result<(), Reason> {
    opcode.drop_hints();
    let families = [
        integer::decode,
        half::decode,
        float::decode,
        moves::decode,
        compare::decode,
        convert::decode,
        memory::decode,
        multicast::decode,
        atomic::decode,
        warp::decode,
        matrix::decode,
        fragment::decode,
        asynchronous::decode,
        control::decode,
        tensor_object::decode,
        texture::decode,
        video::decode,
    ];
    for family in families {
        if let Some(result) = family(body, opcode, operands) {
            return result;
        }
    }
    Err(Reason::unsupported(format!("`{}` is not an instruction that is supported", opcode.root)))
}

impl<'a> Body<'_, 'a> {
    /// An instruction that computes a register from others: `types` are those of the destination and of the sources.
    fn simple(
        &mut self,
        run: [Handler; 2],
        class: Class,
        operands: &[Operand<'a>],
        types: &[Type],
    ) -> Result<&mut Step, Reason> {
        expect_operands(operands, types.len())?;
        let mut fields = vec![self.destination(&operands[0], width_of(types[0]))?];
        for (operand, &ty) in operands[1..].iter().zip(&types[1..]) {
            fields.push(self.source(operand, ty)?);
        }
        Ok(self.step(run, class, fields))
    }
}

/// Checks the number of operands.
fn expect_operands(operands: &[Operand<'_>], count: usize) -> Result<(), Reason> {
    if operands.len() == count {
        return Ok(());
    }
    Err(Reason::syntax(format!("expected {count} operands, found {}", operands.len())))
}

/// The type of an instruction.
fn required<T>(found: Option<T>, what: &str) -> Result<T, Reason> {
    found.ok_or_else(|| Reason::unsupported(format!("expected {what}")))
}

/// The class of integer arithmetic.
fn integer_class(width: Width) -> Class {
    if width == Width::Wide { Class::Integer64 } else { Class::Integer }
}

/// Rounding of floating-point arithmetic.
const ROUNDINGS: [(&str, Rounding); 4] =
    [("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)];

/// The 32-bit types that operands often have.
const U32: Type = Type { kind: crate::ptx::TypeKind::Unsigned, bits: 32 };
/// 64 bits.
const U64: Type = Type { kind: crate::ptx::TypeKind::Unsigned, bits: 64 };
/// Single precision.
const F32: Type = Type { kind: crate::ptx::TypeKind::Float, bits: 32 };

/// No operand.
const NOTHING: Field = Field::None;
