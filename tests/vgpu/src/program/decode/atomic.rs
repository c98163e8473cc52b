//! Atomics and reductions (PTX ISA 9.7.13.5, 9.7.13.6): atom and red, with all operations and types. Semantics in [`crate::exec::atomic`].

use super::{U32, U64, asynchronous, memory, required};
use crate::exec::access::{self, space};
use crate::exec::atomic::{atomic, atomic_vector, compare_wide, exchange_wide};
use crate::exec::{Class, Handler};
use crate::isa::float32::{self, MinMax};
use crate::isa::half::{self, Bf16, F16, HalfMode};
use crate::isa::{Mode, Rounding, float64};
use crate::program::draft::{Field, Role, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::{Operand, Type};

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    match opcode.root {
        "atom" => Some(update(body, opcode, operands, true)),
        "red" if opcode.take("async") => {
            Some(asynchronous::counted(body, opcode, operands, |body, operands| update(body, opcode, operands, false)))
        }
        "red" => Some(update(body, opcode, operands, false)),
        _ => None,
    }
}

/// No modifiers.
const PLAIN: HalfMode = HalfMode { ftz: false, sat: false, relu: false };
const EXTREME: MinMax = MinMax { ftz: false, nan: false, xorsign_abs: false };

/// `atom` and `red`.
pub(super) fn update<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    returns: bool,
) -> Result<(), Reason> {
    // A relaxed one, which is the usual, orders nothing but itself.
    let relaxed = opcode.take("relaxed");
    let order = if relaxed { 0 } else { memory::take_order(opcode, false) } & !access::STRONG;
    memory::drop_order(opcode);
    let space = memory::take_space(opcode);
    memory::drop_order(opcode);
    const OPERATIONS: [&str; 11] = ["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas", "popc"];
    let operation = opcode.find(|name| OPERATIONS.contains(&name).then_some(name));
    let operation = required(operation, "an operation")?;
    opcode.take("noftz");
    let count = opcode.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let (name, ty) = required(opcode.ty(), "a type")?;
    let (destination, rest) = match (returns, operands) {
        (true, [destination, rest @ ..]) => (Some(destination), rest),
        (false, rest) => (None, rest),
        _ => return Err(Reason::syntax("expected more operands")),
    };
    if ty.bits == 128 {
        return update_halves(body, operation, destination, rest, space);
    }
    let wide = ty.bits == 64;
    let width = if wide { Width::Wide } else { Width::Narrow };
    let [address, value, rest @ ..] = rest else { return Err(Reason::syntax("expected an address and a value")) };
    let address = body.address(address)?;
    let space = memory::place(body.is_entry, space, &address)?;
    let parts = |operand: &Operand<'a>| match operand {
        Operand::Vector(parts) => parts.clone(),
        single => vec![single.clone()],
    };
    let mut fields = Vec::new();
    match destination.map(parts) {
        Some(parts) if parts.len() == count => {
            for part in &parts {
                fields.push(body.destination(part, width)?);
            }
        }
        None => fields.extend((0..count).map(|_| Field::Register(body.temporary(width), Role::Destination))),
        Some(parts) => return Err(Reason::syntax(format!("expected {count} registers, found {}", parts.len()))),
    }
    fields.push(address.base);
    let held = Type { bits: if wide { 64 } else { 32 }, ..if wide { U64 } else { U32 } };
    let values = parts(value);
    if values.len() != count {
        return Err(Reason::syntax(format!("expected {count} values, found {}", values.len())));
    }
    for value in &values {
        // Constants are written in the type of the operation.
        let ty = if body.width_of(value).is_some() { held } else { ty };
        fields.push(body.source(value, ty)?);
    }
    if count == 1 {
        fields.push(match (operation, rest) {
            ("cas", [new, ..]) => body.source(new, held)?,
            ("cas", []) => return Err(Reason::syntax("expected a value to compare and a new one")),
            _ if wide => Field::Wide(0),
            _ => Field::Narrow(0),
        });
    }
    let run = if count > 1 { vector(operation, name, count) } else { single(operation, name, space) };
    let run = required(run, "an operation that this type has")?;
    if space == space::SHARED || space == space::GENERIC {
        body.builder.shared_granule = body.builder.shared_granule.min(ty.bytes().max(1));
    }
    let step = body.step(run, Class::Atomic, fields);
    step.listed = count > 1;
    step.immediate = address.offset as u64;
    step.modifier = space | u32::from(address.width == Width::Wide) << 8 | order;
    Ok(())
}

/// `atom.exch.b128` and `atom.cas.b128`.
fn update_halves<'a>(
    body: &mut Body<'_, 'a>,
    operation: &str,
    destination: Option<&Operand<'a>>,
    operands: &[Operand<'a>],
    space: u32,
) -> Result<(), Reason> {
    let (Some(destination), [address, values @ ..]) = (destination, operands) else {
        return Err(Reason::syntax("expected a register and an address"));
    };
    let is_exchange = match (operation, values) {
        ("exch", [_]) => true,
        ("cas", [_, _]) => false,
        _ => return Err(Reason::unsupported("such an operation on 128 bits")),
    };
    let address = body.address(address)?;
    let space = memory::place(body.is_entry, space, &address)?;
    let mut fields = body.halves(destination, Role::Destination)?.to_vec();
    fields.push(address.base);
    for value in values {
        fields.extend(body.halves(value, Role::Source)?);
    }
    let step = body.step(if is_exchange { exchange_wide() } else { compare_wide() }, Class::Atomic, fields);
    step.listed = true;
    step.immediate = address.offset as u64;
    step.modifier = space | u32::from(address.width == Width::Wide) << 8;
    Ok(())
}

/// A sum of f32 in bits.
#[inline(always)]
fn add_single(ftz: bool, a: u32, b: u32) -> u32 {
    let mode = Mode { ftz, ..Mode::PLAIN };
    float32::add(mode, f32::from_bits(a), f32::from_bits(b)).to_bits()
}

fn single(operation: &str, name: &str, space: u32) -> Option<[Handler; 2]> {
    // Sums of f32 in global memory flush subnormals, those in shared memory do not.
    Some(match (operation, name) {
        ("add", "u32" | "s32") => atomic(|old: u32, b, _| old.wrapping_add(b)),
        ("add", "u64" | "s64") => atomic(|old: u64, b, _| old.wrapping_add(b)),
        ("add", "f32") if space == space::GLOBAL => atomic(|old: u32, b, _| add_single(true, old, b)),
        ("add", "f32") => atomic(|old: u32, b, _| add_single(false, old, b)),
        ("add", "f64") => {
            atomic(|old: u64, b, _| float64::add(Rounding::Nearest, f64::from_bits(old), f64::from_bits(b)).to_bits())
        }
        ("add", "f16") => atomic(|old: u16, b, _| half::add(PLAIN, F16(old), F16(b)).0),
        ("add", "bf16") => atomic(|old: u16, b, _| half::add(PLAIN, Bf16(old), Bf16(b)).0),
        ("add", "f16x2") => atomic(|old: u32, b, _| half::pair2::<F16>(old, b, |a, b| half::add(PLAIN, a, b))),
        ("add", "bf16x2") => atomic(|old: u32, b, _| half::pair2::<Bf16>(old, b, |a, b| half::add(PLAIN, a, b))),
        ("min", "u32") => atomic(|old: u32, b, _| old.min(b)),
        ("max", "u32") => atomic(|old: u32, b, _| old.max(b)),
        ("min", "s32") => atomic(|old: u32, b, _| (old as i32).min(b as i32) as u32),
        ("max", "s32") => atomic(|old: u32, b, _| (old as i32).max(b as i32) as u32),
        ("min", "u64") => atomic(|old: u64, b, _| old.min(b)),
        ("max", "u64") => atomic(|old: u64, b, _| old.max(b)),
        ("min", "s64") => atomic(|old: u64, b, _| (old as i64).min(b as i64) as u64),
        ("max", "s64") => atomic(|old: u64, b, _| (old as i64).max(b as i64) as u64),
        ("min", "f16x2") => atomic(|old: u32, b, _| half::pair2::<F16>(old, b, |a, b| half::min(EXTREME, a, b))),
        ("max", "f16x2") => atomic(|old: u32, b, _| half::pair2::<F16>(old, b, |a, b| half::max(EXTREME, a, b))),
        ("min", "bf16x2") => atomic(|old: u32, b, _| half::pair2::<Bf16>(old, b, |a, b| half::min(EXTREME, a, b))),
        ("max", "bf16x2") => atomic(|old: u32, b, _| half::pair2::<Bf16>(old, b, |a, b| half::max(EXTREME, a, b))),
        ("min", "f16") => atomic(|old: u16, b, _| half::min(EXTREME, F16(old), F16(b)).0),
        ("max", "f16") => atomic(|old: u16, b, _| half::max(EXTREME, F16(old), F16(b)).0),
        ("min", "bf16") => atomic(|old: u16, b, _| half::min(EXTREME, Bf16(old), Bf16(b)).0),
        ("max", "bf16") => atomic(|old: u16, b, _| half::max(EXTREME, Bf16(old), Bf16(b)).0),
        ("inc", "u32") => atomic(|old: u32, b, _| if old >= b { 0 } else { old + 1 }),
        ("dec", "u32") => atomic(|old: u32, b, _| if old == 0 || old > b { b } else { old - 1 }),
        ("and", "b32") => atomic(|old: u32, b, _| old & b),
        ("or", "b32") => atomic(|old: u32, b, _| old | b),
        ("xor", "b32") => atomic(|old: u32, b, _| old ^ b),
        ("and", "b64") => atomic(|old: u64, b, _| old & b),
        ("or", "b64") => atomic(|old: u64, b, _| old | b),
        ("xor", "b64") => atomic(|old: u64, b, _| old ^ b),
        ("exch", "b32" | "u32" | "s32" | "f32") => atomic(|_: u32, b, _| b),
        ("exch", "b64" | "u64" | "s64" | "f64") => atomic(|_: u64, b, _| b),
        ("cas", "b16" | "u16") => atomic(|old: u16, b, c| if old == b { c } else { old }),
        ("cas", "b32" | "u32" | "s32") => atomic(|old: u32, b, c| if old == b { c } else { old }),
        ("cas", "b64" | "u64" | "s64") => atomic(|old: u64, b, c| if old == b { c } else { old }),
        _ => return None,
    })
}

/// The same of several words side by side, at most 16 bytes.
fn vector(operation: &str, name: &str, count: usize) -> Option<[Handler; 2]> {
    let most = if matches!(name, "f16" | "bf16") { 8 } else { 4 };
    if count > most {
        return None;
    }
    macro_rules! halves {
        ($half:ident, $operation:expr) => {
            atomic_vector(count, |old: u16, b, _| $operation($half(old), $half(b)).0)
        };
    }
    macro_rules! pairs {
        ($half:ident, $operation:expr) => {
            atomic_vector(count, |old: u32, b, _| half::pair2::<$half>(old, b, $operation))
        };
    }
    match (operation, name) {
        ("add", "f32") => atomic_vector(count, |old: u32, b, _| add_single(true, old, b)),
        ("add", "f16") => halves!(F16, |a, b| half::add(PLAIN, a, b)),
        ("min", "f16") => halves!(F16, |a, b| half::min(EXTREME, a, b)),
        ("max", "f16") => halves!(F16, |a, b| half::max(EXTREME, a, b)),
        ("add", "bf16") => halves!(Bf16, |a, b| half::add(PLAIN, a, b)),
        ("min", "bf16") => halves!(Bf16, |a, b| half::min(EXTREME, a, b)),
        ("max", "bf16") => halves!(Bf16, |a, b| half::max(EXTREME, a, b)),
        ("add", "f16x2") => pairs!(F16, |a, b| half::add(PLAIN, a, b)),
        ("min", "f16x2") => pairs!(F16, |a, b| half::min(EXTREME, a, b)),
        ("max", "f16x2") => pairs!(F16, |a, b| half::max(EXTREME, a, b)),
        ("add", "bf16x2") => pairs!(Bf16, |a, b| half::add(PLAIN, a, b)),
        ("min", "bf16x2") => pairs!(Bf16, |a, b| half::min(EXTREME, a, b)),
        ("max", "bf16x2") => pairs!(Bf16, |a, b| half::max(EXTREME, a, b)),
        _ => None,
    }
}
