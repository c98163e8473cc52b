//! Textures and surfaces by handles (PTX ISA 9.7.10 and 9.7.11): tex, tld4, txq, suld, sust, suq, istypep. Semantics in [`crate::exec::texture`].
//!
//! There is the unified mode alone, in which a handle names texture and sampler together. Not here: offsets, depth comparison, predicates of residency, results of f16x2,
//! multisample images, `sured`.

use super::{F32, U32, U64, expect_operands, required};
use crate::exec::Class;
use crate::exec::texture::{Outside, QUERIES, Sample, Surface, TEXTURE, is_type, load, query, sample, store};
use crate::program::draft::{Field, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::Operand;
use crate::texture::Geometry;

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    match opcode.root {
        "tex" => Some(texture(body, opcode, operands)),
        "tld4" => Some(texture(body, opcode, operands)),
        "txq" | "suq" => Some(ask(body, opcode, operands)),
        "suld" => Some(surface(body, opcode, operands, false)),
        "sust" => Some(surface(body, opcode, operands, true)),
        "istypep" => Some(is_of_type(body, opcode, operands)),
        _ => None,
    }
}

fn parts<'o, 'a>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
    match operand {
        Operand::Vector(parts) => parts,
        single => std::slice::from_ref(single),
    }
}

/// The handle and the coordinates of `[handle, {x, y}]`.
fn place<'o, 'a>(operand: &'o Operand<'a>) -> Result<(&'o Operand<'a>, &'o [Operand<'a>]), Reason> {
    match operand {
        Operand::Address(inner) => match inner.as_slice() {
            [handle, coordinates] => Ok((handle, parts(coordinates))),
            _ => Err(Reason::unsupported("a sampler beside the texture")),
        },
        _ => Err(Reason::syntax("expected a handle and coordinates in brackets")),
    }
}

/// The coordinates that a geometry has, of which some are written with one more.
fn of_geometry<'o, 'a>(coordinates: &'o [Operand<'a>], geometry: Geometry) -> Result<&'o [Operand<'a>], Reason> {
    let count = geometry.dimensions() + usize::from(geometry.has_layers());
    coordinates.get(..count).ok_or_else(|| Reason::syntax(format!("expected {count} coordinates")))
}

fn texture<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let gathers = match opcode.root {
        "tld4" => Some(required(opcode.choose(&[("r", 0), ("g", 1), ("b", 2), ("a", 3)]), "a channel")?),
        _ => None,
    };
    let level = opcode.choose(&[("base", 0), ("level", 1), ("grad", 2)]).unwrap_or(0);
    let geometry = required(opcode.choose(&Geometry::NAMES), "a geometry")?;
    required(opcode.choose(&[("v4", ())]), ".v4")?;
    required(opcode.choose(&[("u32", ()), ("s32", ()), ("f32", ())]), "a type of the result")?;
    let by_index = required(opcode.choose(&[("f32", false), ("s32", true)]), "a type of coordinates")?;
    let is_cube = matches!(geometry, Geometry::Cube | Geometry::Cubes);
    let flat = matches!(geometry, Geometry::Plane | Geometry::Planes | Geometry::Cube | Geometry::Cubes);
    if by_index && (is_cube || level != 0 || gathers.is_some()) || gathers.is_some() && (!flat || level != 0) {
        return Err(Reason::unsupported("such a geometry with such coordinates"));
    }
    let [results, from, rest @ ..] = operands else { return Err(Reason::syntax("expected registers and a texture")) };
    if parts(results).len() != 4 {
        return Err(Reason::syntax("expected four registers"));
    }
    let (handle, coordinates) = place(from)?;
    let mut fields = Vec::new();
    for register in parts(results) {
        fields.push(body.destination(register, Width::Narrow)?);
    }
    fields.push(body.source(handle, U64)?);
    for (index, coordinate) in of_geometry(coordinates, geometry)?.iter().enumerate() {
        let is_layer = geometry.has_layers() && index == 0;
        fields.push(body.source(coordinate, if is_layer || by_index { U32 } else { F32 })?);
    }
    match (level, rest) {
        (0, []) => {}
        (1, [level]) => fields.push(body.source(level, F32)?),
        (2, [x, y]) => {
            for slope in [x, y] {
                let slope = parts(slope);
                let wanted = geometry.dimensions();
                let slope = slope.get(..wanted).ok_or_else(|| Reason::syntax(format!("expected {wanted} slopes")))?;
                for part in slope {
                    fields.push(body.source(part, F32)?);
                }
            }
        }
        _ => return Err(Reason::unsupported("offsets and depth comparison")),
    }
    let step = body.step(sample(), Class::GlobalLoad, fields);
    step.listed = true;
    step.immediate = Sample { geometry, by_index, level, gathers }.pack();
    step.modifier = TEXTURE;
    Ok(())
}

fn surface<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    stores: bool,
) -> Result<(), Reason> {
    let formatted = required(opcode.choose(&[("b", false), ("p", true)]), ".b or .p")?;
    if formatted && !stores {
        return Err(Reason::unsupported("formatted loads from surfaces"));
    }
    let geometry = required(opcode.choose(&Geometry::NAMES), "a geometry")?;
    if matches!(geometry, Geometry::Cube | Geometry::Cubes) {
        return Err(Reason::unsupported("surfaces of cubes"));
    }
    while opcode.choose(&[("ca", ()), ("cg", ()), ("cs", ()), ("cv", ()), ("wb", ()), ("wt", ())]).is_some() {}
    let count = opcode.choose(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let bytes: u32 = required(opcode.choose(&[("b8", 1), ("b16", 2), ("b32", 4), ("b64", 8)]), "a type")?;
    let clamping = [("trap", Outside::Trap), ("clamp", Outside::Clamp), ("zero", Outside::Zero)];
    let outside = opcode.choose(&clamping).unwrap_or(Outside::Trap);
    if count as u32 * bytes > 16 || formatted && bytes != 4 {
        return Err(Reason::unsupported("such a type of elements"));
    }
    let (registers, at) = match operands {
        [at, registers] if stores => (registers, at),
        [registers, at] => (registers, at),
        _ => return Err(Reason::syntax("expected registers and a surface")),
    };
    if parts(registers).len() != count {
        return Err(Reason::syntax(format!("expected {count} registers")));
    }
    let (handle, coordinates) = place(at)?;
    let (width, ty) = if bytes == 8 { (Width::Wide, U64) } else { (Width::Narrow, U32) };
    let mut fields = Vec::new();
    for register in parts(registers) {
        fields.push(if stores { body.source(register, ty)? } else { body.destination(register, width)? });
    }
    fields.push(body.source(handle, U64)?);
    for coordinate in of_geometry(coordinates, geometry)? {
        fields.push(body.source(coordinate, U32)?);
    }
    let (run, class) = if stores { (store(), Class::GlobalStore) } else { (load(), Class::GlobalLoad) };
    let step = body.step(run, class, fields);
    step.listed = true;
    step.immediate = Surface { geometry, registers: count as u32, bytes, outside, formatted }.pack();
    Ok(())
}

/// `txq` and `suq`.
fn ask<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let has_level = opcode.take("level");
    let number = required(
        opcode.find(|name| QUERIES.iter().position(|query| query.0 == name)),
        "a property of a texture or surface",
    )?;
    required(opcode.choose(&[("b32", ())]), ".b32")?;
    expect_operands(operands, if has_level { 3 } else { 2 })?;
    let Operand::Address(inner) = &operands[1] else { return Err(Reason::syntax("expected a handle in brackets")) };
    let [handle] = inner.as_slice() else { return Err(Reason::syntax("expected a handle alone")) };
    let level = if has_level { body.source(&operands[2], U32)? } else { Field::Narrow(0) };
    let fields = vec![body.destination(&operands[0], Width::Narrow)?, body.source(handle, U64)?, level];
    body.step(query(), Class::Local, fields).modifier = number as u32;
    Ok(())
}

/// `istypep`: whether a handle is that of a texture or of a surface. There are no samplers of their own.
fn is_of_type<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let surfaces = required(opcode.choose(&[("texref", 0), ("surfref", 1)]), ".texref or .surfref")?;
    expect_operands(operands, 2)?;
    let Operand::Name(name, 0) = operands[0] else { return Err(Reason::syntax("expected a predicate")) };
    let fields = vec![body.predicate_destination(name)?, body.source(&operands[1], U64)?];
    body.step(is_type(), Class::Integer, fields).modifier = surfaces;
    Ok(())
}
