//! `wmma` (PTX ISA 9.7.14.3 to 9.7.14.5): load, store and mma. Semantics in [`crate::exec::fragment`].

use super::matrix::{ELEMENTS, SUMS, sizes, tensor};
use super::{ROUNDINGS, U32, U64, memory, required};
use crate::exec::fragment::{Fragment, Part, multiply, multiply_units, transfer};
use crate::exec::{Class, access::space};
use crate::isa::Rounding;
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

/// Whether a shape exists for a type of A and B.
fn exists(sizes: [u32; 3], element: Element) -> bool {
    let shapes: &[[u32; 3]] = match element {
        Element::F16 | Element::Bf16 | Element::S8 | Element::U8 => &[[16, 16, 16], [32, 8, 16], [8, 32, 16]],
        Element::Tf32 => &[[16, 16, 8]],
        Element::F64 => &[[8, 8, 4]],
        Element::S4 | Element::U4 => &[[8, 8, 32]],
        Element::XorPopulation | Element::AndPopulation => &[[8, 8, 128]],
        Element::E4m3 | Element::E5m2 => &[],
    };
    shapes.contains(&sizes)
}

/// The type of sums whose shape and type are known: what the types of A and B may be, as far as it matters to the layout.
fn element_of_sum(sizes: [u32; 3], sum: Sum) -> Element {
    match (sum, sizes) {
        (Sum::F64, _) => Element::F64,
        (Sum::F32, [.., 8]) => Element::Tf32,
        (Sum::S32, [.., 32]) => Element::S4,
        (Sum::S32, [.., 128]) => Element::XorPopulation,
        (Sum::S32, _) => Element::S8,
        _ => Element::F16,
    }
}

/// Takes away the type of A or B.
fn take_element(opcode: &Opcode<'_>) -> Option<Element> {
    opcode.choose(&ELEMENTS).or_else(|| opcode.take("b1").then_some(Element::XorPopulation))
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
    let sizes = required(opcode.find(sizes), "a shape")?;
    let space = memory::take_space(opcode);
    let (element, sum) = match part {
        Part::Sum => {
            let sum = required(opcode.choose(&SUMS), "a type")?;
            (element_of_sum(sizes, sum), sum)
        }
        _ => (required(take_element(opcode), "a type")?, Sum::F32),
    };
    if !exists(sizes, element) {
        return Err(Reason::unsupported("such a shape with such types"));
    }
    // Elements narrower than a byte lie along K alone.
    if element.width() < 8 && part != Part::Sum && by_columns != (part == Part::B) {
        return Err(Reason::unsupported("such an order of elements that are narrower than a byte"));
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
    let fragment = Fragment { sizes, part, by_columns, element, sums: (sum, sum), registers: registers.len() };
    let (width, ty) = if fragment.is_wide() { (Width::Wide, U64) } else { (Width::Narrow, U32) };
    if registers.len() < fragment.used() {
        return Err(Reason::syntax(format!("expected {} registers, found {}", fragment.used(), registers.len())));
    }
    for register in registers {
        fields.push(if stores { body.source(register, ty)? } else { body.destination(register, width)? });
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
    let index = keep(body, fragment);
    if space == space::SHARED || space == space::GENERIC {
        body.builder.shared_granule = body.builder.shared_granule.min(fragment.unit_bytes() as u32);
    }
    let step = body.step(transfer(stores), Class::Matrix, fields);
    step.listed = true;
    step.immediate = address.offset as u64;
    step.modifier = space | u32::from(address.width == Width::Wide) << 8 | (index as u32) << 16;
    Ok(())
}

fn product<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let bits = opcode.choose(&[("xor", Element::XorPopulation), ("and", Element::AndPopulation)]);
    opcode.take("popc");
    together(opcode)?;
    // The fragments are the same whatever the order in memory was.
    for _ in 0..2 {
        required(opcode.choose(&[("row", ()), ("col", ())]), ".row or .col")?;
    }
    let sizes = required(opcode.find(sizes), "a shape")?;
    let rounding = opcode.choose(&ROUNDINGS).unwrap_or(Rounding::Nearest);
    let d = required(opcode.choose(&SUMS), "a type of D")?;
    // Products of f16 name the types of D and C alone; all others name those of A and B between them.
    let names_inputs = opcode.rest().matches('.').count() >= 3;
    let pair = if names_inputs { (take_element(opcode), take_element(opcode)) } else { (None, None) };
    let (left, right) = (bits.or(pair.0).unwrap_or(Element::F16), bits.or(pair.1).unwrap_or(Element::F16));
    let c = required(opcode.choose(&SUMS), "a type of C")?;
    let saturate = opcode.take("satfinite");
    super::expect_operands(operands, 4)?;
    let integral = matches!(left, Element::S8 | Element::U8 | Element::S4 | Element::U4);
    let alike = left == right || integral && left.width() == right.width();
    let floating = |sum: Sum| matches!(sum, Sum::F16 | Sum::F32);
    let sums = match left {
        Element::F16 => floating(d) && floating(c),
        Element::F64 => d == Sum::F64,
        Element::Bf16 | Element::Tf32 => d == Sum::F32,
        _ => d == Sum::S32,
    };
    let same = c == d || left == Element::F16;
    if !exists(sizes, left) || !alike || !sums || !same || rounding != Rounding::Nearest && left != Element::F64 {
        return Err(Reason::unsupported("such a shape with such types"));
    }
    let [of_d, of_a, of_b, of_c] = [0, 1, 2, 3].map(|index| parts(&operands[index]));
    let blocked = matches!(left, Element::F16 | Element::Bf16);
    let by_columns = saturate && !blocked;
    let fragment = Fragment { sizes, part: Part::Sum, by_columns, element: left, sums: (c, d), registers: of_d.len() };
    let result = Fragment { sums: (d, d), ..fragment };
    let used = |part: Part| Fragment { part, ..fragment }.used();
    let exact =
        |parts: &[Operand<'a>], part: Part| if blocked { parts.len() >= used(part) } else { parts.len() == used(part) };
    if of_d.len() != result.used() || of_c.len() != fragment.used() || !exact(of_a, Part::A) || !exact(of_b, Part::B) {
        return Err(Reason::syntax("such numbers of registers with such types"));
    }
    let (width, ty) = if fragment.is_wide() { (Width::Wide, U64) } else { (Width::Narrow, U32) };
    let mut fields = Vec::new();
    for register in of_d {
        fields.push(body.destination(register, width)?);
    }
    for register in of_a.iter().chain(of_b).chain(of_c) {
        fields.push(body.source(register, ty)?);
    }
    let index = keep(body, fragment);
    let [m, n, k] = sizes.map(u64::from);
    let is_signed = |element: Element| u32::from(matches!(element, Element::S8 | Element::S4));
    let step = body.step(if blocked { multiply() } else { multiply_units() }, Class::Tensor, fields);
    step.listed = true;
    step.immediate = index as u64;
    step.modifier = if blocked {
        of_a.len() as u32 | (of_b.len() as u32) << 8
    } else {
        is_signed(left) | is_signed(right) << 1 | (rounding as u32) << 8
    };
    step.tensor = Some((tensor(left), 2 * m * n * k, false));
    Ok(())
}
