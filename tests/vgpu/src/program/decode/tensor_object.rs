//! Tensor maps that kernels make (PTX ISA 9.7.9.28, 9.7.14): tensormap.replace, tensormap.cp_fenceproxy. Semantics in [`crate::exec::tensor_object`].

use super::{U32, U64, memory, required};
use crate::exec::tensor_object::{change, flag, publish};
use crate::exec::{Class, map1};
use crate::isa::tensor_field::Field as MapField;
use crate::program::draft::{Field, Role, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::Operand;

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    if opcode.root != "tensormap" {
        return None;
    }
    Some(if opcode.take("replace") { replaced(body, opcode, operands) } else { published(body, opcode, operands) })
}

/// The version of PTX from which on strides are given in bytes.
const BYTES_SINCE: (u32, u32) = (8, 5);

fn replaced<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    required(opcode.choose(&[("tile", ())]), ".tile")?;
    let field = required(opcode.choose(&MapField::NAMES), "a field of a tensor map")?;
    let space = memory::take_space(opcode);
    required(opcode.choose(&[("b1024", ())]), ".b1024")?;
    let ty = required(opcode.choose(&[("b32", U32), ("b64", U64)]), ".b32 or .b64")?;
    if (ty.bits == 64) != field.is_wide() {
        return Err(Reason::syntax("another type for this field"));
    }
    let (address, ordinal, value) = match operands {
        [address, Operand::Integer(ordinal), value] if field.has_ordinal() && *ordinal < 5 => {
            (address, *ordinal, value)
        }
        [address, value] if !field.has_ordinal() => (address, 0, value),
        _ => return Err(Reason::syntax("expected an address, the number of a dimension where there is one, a value")),
    };
    let address = body.address(address)?;
    let space = memory::place(body.is_entry, space, &address)?;
    let value = body.source(value, ty)?;
    let value = if field.is_wide() {
        value
    } else {
        let wide = body.temporary(Width::Wide);
        body.helper(map1(|_, a: u32| u64::from(a)), vec![Field::Register(wide, Role::Destination), value]);
        Field::Register(wide, Role::Source)
    };
    let in_units = field == MapField::Stride && body.version < BYTES_SINCE;
    let step = body.step(change(), Class::AsyncCopy, vec![address.base, value]);
    step.immediate = address.offset as u64;
    step.modifier = space
        | if address.width == Width::Wide { flag::WIDE } else { 0 }
        | if in_units { flag::UNITS } else { 0 }
        | (ordinal as u32) << flag::ORDINAL
        | (field as u32) << flag::FIELD;
    Ok(())
}

fn published<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    for word in ["cp_fenceproxy", "global", "shared::cta", "tensormap::generic", "release"] {
        required(opcode.choose(&[(word, ())]), word)?;
    }
    memory::drop_order(opcode);
    for word in ["sync", "aligned"] {
        required(opcode.choose(&[(word, ())]), word)?;
    }
    let [to, from, Operand::Integer(128)] = operands else {
        return Err(Reason::syntax("expected two addresses and 128 bytes"));
    };
    let (to, from) = (body.address(to)?, body.address(from)?);
    let step = body.step(publish(), Class::AsyncCopy, vec![to.base, from.base]);
    step.immediate = u64::from(to.offset as u32) | u64::from(from.offset as u32) << 32;
    step.modifier = if to.width == Width::Wide { flag::WIDE } else { 0 }
        | if from.width == Width::Wide { flag::WIDE_FROM } else { 0 };
    Ok(())
}
