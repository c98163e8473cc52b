//! Data movement between registers, and addresses (PTX ISA 9.7.9): mov, cvta, isspacep, mapa, and predicates as data.

use super::{NOTHING, U32, U64, required};
use crate::exec::{Class, access, act, map1, map2};
use crate::program::draft::{Field, Role, Width};
use crate::program::function::{Body, Reason, width_of};
use crate::program::opcode::Opcode;
use crate::ptx::Operand;

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    match opcode.root {
        "mov" => Some(mov(body, opcode, operands)),
        "cvta" => Some(cvta(body, opcode, operands)),
        "isspacep" => Some(isspacep(body, opcode, operands)),
        "mapa" => Some(mapa(body, opcode, operands)),
        "getctarank" => Some(get_rank(body, opcode, operands)),
        "createpolicy" => Some(create_policy(body, opcode, operands)),
        _ => None,
    }
}

fn mov<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let (_, ty) = required(opcode.ty(), "a type")?;
    super::expect_operands(operands, 2)?;
    if ty.bits == 128 {
        let (to, from) = (body.halves(&operands[0], Role::Destination)?, body.halves(&operands[1], Role::Source)?);
        for (to, from) in to.into_iter().zip(from) {
            body.step(map1(|_, a: u64| a), Class::Move, vec![to, from]);
        }
        return Ok(());
    }
    match (&operands[0], &operands[1]) {
        (Operand::Vector(parts), source) => return unpack(body, parts, source),
        (destination, Operand::Vector(parts)) => return pack(body, destination, parts),
        _ => {}
    }
    if ty.bits == 1 {
        let Operand::Name(name, 0) = operands[0] else { return Err(Reason::syntax("expected a predicate")) };
        let fields = vec![body.predicate_destination(name)?, body.predicate(&operands[1])?];
        body.step(crate::exec::predicate_move(), Class::Move, fields);
        return Ok(());
    }
    let run = match width_of(ty) {
        Width::Wide => map1(|_, a: u64| a),
        _ => map1(|_, a: u32| a),
    };
    // `mov.u32 %r, %clock64` and its like: special registers come in the width that is asked for.
    body.simple(run, Class::Move, operands, &[ty, ty])?;
    Ok(())
}

/// `mov.b64 %rd, {%r1, %r2}` and `mov.b32 %r, {%rs1, %rs2}`, and four of 8 or 16 bits.
fn pack<'a>(body: &mut Body<'_, 'a>, destination: &Operand<'a>, parts: &[Operand<'a>]) -> Result<(), Reason> {
    let wide = body.width_of(destination) == Some(Width::Wide);
    let width = if wide { Width::Wide } else { Width::Narrow };
    let bits = if width == Width::Wide { 64 } else { 32 } / parts.len().max(1) as u32;
    let mut fields = vec![body.destination(destination, width)?];
    for part in parts {
        fields.push(body.source(part, crate::ptx::Type { bits, ..U32 })?);
    }
    let run = match (width, parts.len()) {
        (Width::Wide, 2) => map2(|_, a: u32, b: u32| u64::from(a) | u64::from(b) << 32),
        (Width::Wide, 4) => crate::exec::map4(|_, a: u16, b: u16, c: u16, d: u16| {
            u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
        }),
        (_, 2) => map2(|_, a: u16, b: u16| u32::from(a) | u32::from(b) << 16),
        (_, 4) => crate::exec::map4(|_, a: u8, b: u8, c: u8, d: u8| {
            u32::from(a) | u32::from(b) << 8 | u32::from(c) << 16 | u32::from(d) << 24
        }),
        _ => return Err(Reason::unsupported("such a number of elements")),
    };
    body.step(run, Class::Move, fields);
    Ok(())
}

/// `mov.b64 {%r1, %r2}, %rd` and its like: a step for each part.
fn unpack<'a>(body: &mut Body<'_, 'a>, parts: &[Operand<'a>], source: &Operand<'a>) -> Result<(), Reason> {
    let wide = body.width_of(source).is_none_or(|width| width == Width::Wide);
    let mut value = body.source(source, if wide { U64 } else { U32 })?;
    let step = if wide { 64 } else { 32 } / parts.len().max(1) as u32;
    // The source may be overwritten by the first part only where a part is as wide: never.
    if let (Field::Register(register, _), false) = (value, wide)
        && parts.iter().any(|part| {
            body.destination(part, Width::Narrow).ok() == Some(Field::Register(register, Role::Destination))
        })
    {
        let copy = body.temporary(Width::Narrow);
        body.step(map1(|_, a: u32| a), Class::Move, vec![Field::Register(copy, Role::Destination), value]).class = None;
        value = Field::Register(copy, Role::Source);
    }
    for (index, part) in parts.iter().enumerate() {
        if *part == Operand::Name("_", 0) {
            continue;
        }
        let run = match (wide, step) {
            (true, 32) => map1(|shift, a: u64| (a >> shift) as u32),
            (true, 16) => map1(|shift, a: u64| (a >> shift) as u16),
            (true, 8) => map1(|shift, a: u64| (a >> shift) as u8),
            (false, 16) => map1(|shift, a: u32| (a >> shift) as u16),
            (false, 8) => map1(|shift, a: u32| (a >> shift) as u8),
            _ => return Err(Reason::unsupported("such a number of elements")),
        };
        let destination = body.destination(part, Width::Narrow)?;
        body.step(run, Class::Move, vec![destination, value]).modifier = index as u32 * step;
    }
    Ok(())
}

/// Between addresses of a space and generic ones. Global memory has the same in both; the others have a window each.
fn cvta<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let to_space = opcode.take("to");
    let window = required(opcode.choose(&access::WINDOWS), "a space")?;
    let (_, ty) = required(opcode.ty(), ".u64")?;
    if ty.bits != 64 {
        return Err(Reason::unsupported("addresses of 32 bits"));
    }
    super::expect_operands(operands, 2)?;
    let add = Field::Wide(if to_space { window.wrapping_neg() } else { window });
    let fields = vec![body.destination(&operands[0], Width::Wide)?, body.source(&operands[1], U64)?, add];
    body.step(map2(|_, a: u64, window: u64| a.wrapping_add(window)), Class::Move, fields);
    Ok(())
}

fn isspacep<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let space = required(opcode.choose(&access::SPACES), "a space")?;
    super::expect_operands(operands, 2)?;
    let Operand::Name(name, 0) = operands[0] else { return Err(Reason::syntax("expected a predicate")) };
    let fields = vec![
        body.predicate_destination(name)?,
        Field::Sink,
        body.source(&operands[1], U64)?,
        NOTHING,
        Field::Always(true),
    ];
    body.step(crate::exec::test1(|space, a: u64| access::is_in(space & 0xff, a)), Class::Integer, fields).modifier =
        space;
    Ok(())
}

/// `mapa`: the address of a variable in another block of the cluster.
fn mapa<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    opcode.take("shared::cluster");
    let (_, ty) = required(opcode.ty(), "a type")?;
    let run = if ty.bits == 64 {
        map2(|_, a: u64, rank: u32| access::map_to_block(a, rank))
    } else {
        map2(|_, a: u32, rank: u32| access::map_to_block(u64::from(a), rank) as u32)
    };
    body.simple(run, Class::Integer, operands, &[ty, ty, U32])?;
    Ok(())
}

/// `getctarank`: which block of the cluster an address belongs to.
fn get_rank<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    opcode.take("shared::cluster");
    let (_, ty) = required(opcode.ty(), "a type")?;
    super::expect_operands(operands, 2)?;
    let fields = vec![body.destination(&operands[0], Width::Narrow)?, body.source(&operands[1], ty)?];
    let run = if ty.bits == 64 { act(access::rank_of::<u64>) } else { act(access::rank_of::<u32>) };
    body.step(run, Class::Integer, fields);
    Ok(())
}

/// `createpolicy`: a hint for caches that nothing here looks at.
fn create_policy<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    while opcode.first().is_some() {}
    let first = operands.first().ok_or_else(|| Reason::syntax("expected a register"))?;
    let fields = vec![body.destination(first, Width::Wide)?, Field::Wide(0)];
    body.step(map1(|_, a: u64| a), Class::Move, fields);
    Ok(())
}
