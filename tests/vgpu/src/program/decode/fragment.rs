//! `wmma` (PTX ISA 9.7.14.3 to 9.7.14.5): load, store and mma of f16 and bf16. Semantics in [`crate::exec::fragment`].
//!
//! Not supported: the shapes of other types, which compilers reach by `mma`.

use super::matrix::{ELEMENTS, SUMS, sizes, tensor};
use super::{U32, memory, required};
use crate::exec::fragment::{Fragment, Part, multiply, transfer};
use crate::exec::{Class, access::space};
use crate::isa::matrix::{Element, Sum};
use crate::program::draft::Width;
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::Operand;

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    if opcode.root != "wmma" {
        return None;
    }
    let verb = opcode.find(|name| matches!(name, "load" | "store" | "mma").then_some(name));
    Some(match verb {
        Some("mma") => product(body, opcode, operands),
        Some(verb) => movement(body, opcode, operands, verb == "store"),
        None => Err(Reason::syntax("expected .load, .store or .mma")),
    })
}

/// `.sync.aligned`, which all have.
fn together(opcode: &Opcode<'_>) -> Result<(), Reason> {
    required(opcode.choose(&[("sync", ())]), ".sync")?;
    required(opcode.choose(&[("aligned", ())]), ".aligned")
}

/// The shapes that exist for 16-bit types.
fn shape(opcode: &Opcode<'_>) -> Result<[u32; 3], Reason> {
    let found = required(opcode.find(sizes), "a shape")?;
    if [[16, 16, 16], [32, 8, 16], [8, 32, 16]].contains(&found) {
        return Ok(found);
    }
    Err(Reason::unsupported("such a shape"))
}

fn parts<'o, 'a>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
    match operand {
        Operand::Vector(parts) => parts,
        single => std::slice::from_ref(single),
    }
}

/// The index of a fragment beside the code.
fn keep(body: &mut Body<'_, '_>, fragment: Fragment) -> usize {
    let known = &mut body.builder.fragments;
    known.iter().position(|other| *other == fragment).unwrap_or_else(|| {
        known.push(fragment);
        known.len() - 1
    })
}

fn movement<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    stores: bool,
) -> Result<(), Reason> {
    let part = opcode.choose(&[("a", Part::A), ("b", Part::B), ("c", Part::Sum), ("d", Part::Sum)]);
    let part = required(part, "a matrix")?;
    together(opcode)?;
    let by_columns = required(opcode.choose(&[("row", false), ("col", true)]), ".row or .col")?;
    let sizes = shape(opcode)?;
    let space = memory::take_space(opcode);
    let (element, sum) = match part {
        Part::Sum => (Element::F16, required(opcode.choose(&SUMS), "a type")?),
        _ => (required(opcode.choose(&ELEMENTS), "a type")?, Sum::F32),
    };
    if !matches!(element, Element::F16 | Element::Bf16) || !matches!(sum, Sum::F16 | Sum::F32) {
        return Err(Reason::unsupported("such a type"));
    }
    let (registers, address, rest) = match operands {
        [address, registers, rest @ ..] if stores => (registers, address, rest),
        [registers, address, rest @ ..] => (registers, address, rest),
        _ => return Err(Reason::syntax("expected registers and an address")),
    };
    let address = body.address(address)?;
    let space = memory::place(body.is_entry, space, &address)?;
    let registers = parts(registers);
    let mut fields = Vec::new();
    for register in registers {
        fields.push(if stores { body.source(register, U32)? } else { body.destination(register, Width::Narrow)? });
    }
    let natural = match (part, by_columns) {
        (Part::A, false) | (Part::B, true) => sizes[2],
        (Part::A, true) => sizes[0],
        (Part::B, false) => sizes[1],
        (Part::Sum, false) => sizes[1],
        (Part::Sum, true) => sizes[0],
    };
    fields.push(address.base);
    fields.push(match rest {
        [stride] => body.source(stride, U32)?,
        _ => crate::program::draft::Field::Narrow(natural),
    });
    let fragment = Fragment { sizes, part, by_columns, element, sums: (sum, sum), registers: registers.len() };
    let index = keep(body, fragment);
    if space == space::SHARED || space == space::GENERIC {
        body.builder.shared_granule = body.builder.shared_granule.min(fragment.bytes() as u32);
    }
    let step = body.step(transfer(stores), Class::Matrix, fields);
    step.listed = true;
    step.immediate = address.offset as u64;
    step.modifier = space | u32::from(address.width == Width::Wide) << 8 | (index as u32) << 16;
    Ok(())
}

fn product<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    together(opcode)?;
    // The fragments are the same whatever the order in memory was.
    for _ in 0..2 {
        required(opcode.choose(&[("row", ()), ("col", ())]), ".row or .col")?;
    }
    let sizes = shape(opcode)?;
    let d = required(opcode.choose(&SUMS), "a type of D")?;
    let brain = opcode.take("bf16") && opcode.take("bf16");
    let c = required(opcode.choose(&SUMS), "a type of C")?;
    super::expect_operands(operands, 4)?;
    let element = if brain { Element::Bf16 } else { Element::F16 };
    let [m, n, k] = sizes;
    let count = |sum: Sum| (m * n / 32 / if sum == Sum::F32 { 1 } else { 2 }) as usize;
    let [of_d, of_a, of_b, of_c] = [0, 1, 2, 3].map(|index| parts(&operands[index]));
    let least = [m.div_ceil(16) as usize * 4, n as usize / 4];
    if of_d.len() != count(d) || of_c.len() != count(c) || of_a.len() < least[0] || of_b.len() < least[1] || d != c {
        return Err(Reason::unsupported("such numbers of registers with such types"));
    }
    let mut fields = Vec::new();
    for register in of_d {
        fields.push(body.destination(register, Width::Narrow)?);
    }
    for register in of_a.iter().chain(of_b).chain(of_c) {
        fields.push(body.source(register, U32)?);
    }
    let fragment = Fragment { sizes, part: Part::Sum, by_columns: false, element, sums: (c, d), registers: of_d.len() };
    let index = keep(body, fragment);
    let step = body.step(multiply(), Class::Tensor, fields);
    step.listed = true;
    step.immediate = index as u64;
    step.modifier = of_a.len() as u32 | (of_b.len() as u32) << 8;
    step.tensor = Some((tensor(element), 2 * u64::from(m) * u64::from(n) * u64::from(k), false));
    Ok(())
}
