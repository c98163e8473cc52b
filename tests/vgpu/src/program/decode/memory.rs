//! Loads and stores (PTX ISA 9.7.9.8 to 9.7.9.12): ld, ldu, st. Semantics in [`crate::exec::access`].
//!
//! Cache hints are dropped: our memory is always coherent, and stores are seen in the order of the text. Memory order matters to the search for races alone.

use super::{asynchronous, required};
use crate::exec::access::{self, space};
use crate::exec::transfer::{self, load, store};
use crate::program::draft::{Role, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::program::operand::Address;
use crate::ptx::{Operand, StateSpace, Type, TypeKind};

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    match opcode.root {
        "ld" | "ldu" => Some(transfer(body, opcode, operands, false)),
        "st" if opcode.take("async") => {
            Some(asynchronous::counted(body, opcode, operands, |body, operands| transfer(body, opcode, operands, true)))
        }
        "st" => Some(transfer(body, opcode, operands, true)),
        _ => None,
    }
}

/// The space in the modifiers of a memory instruction, as in [`space`]; generic if there is none.
pub(super) fn take_space(opcode: &Opcode<'_>) -> u32 {
    opcode
        .choose(&[
            ("global", space::GLOBAL),
            ("const", space::GLOBAL),
            ("shared", space::SHARED),
            ("shared::cta", space::SHARED),
            ("shared::cluster", space::SHARED),
            ("local", space::LOCAL),
            ("param", space::PARAM),
            ("param::entry", space::PARAM),
            ("param::func", space::PARAM),
        ])
        .unwrap_or(space::GENERIC)
}

/// Takes away what orders accesses: whether they are strong, acquire or release, as in [`access`].
pub(super) fn take_order(opcode: &Opcode<'_>, stores: bool) -> u32 {
    let both = access::ACQUIRE | access::RELEASE;
    let relaxed = if opcode.has("relaxed") { access::RELAXED } else { 0 };
    let order = opcode.choose(&[
        // With a fence before or behind it, such an access releases or acquires too: it gets the benefit of the doubt.
        ("relaxed", if stores { access::RELEASE } else { access::ACQUIRE }),
        ("acquire", access::ACQUIRE),
        ("release", access::RELEASE),
        ("acq_rel", both),
    ]);
    let volatile = if opcode.take("volatile") { access::RELAXED } else { 0 };
    drop_order(opcode);
    order.map_or(0, |order| access::STRONG | order) | relaxed | volatile
}

/// Drops what orders accesses and hints at caches.
pub(super) fn drop_order(opcode: &Opcode<'_>) {
    const WORDS: [&str; 22] = [
        "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio", "cta", "cluster", "gpu", "sys", "ca",
        "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified", "sc", "async",
    ];
    while opcode.find(|name| WORDS.contains(&name).then_some(())).is_some() {}
}

/// The final space of an access, and its base. Variables of a function lie in its frame.
pub(super) fn place(is_entry: bool, space: u32, address: &Address) -> Result<u32, Reason> {
    match address.space {
        Some(StateSpace::Local) => Ok(space::FRAME),
        Some(StateSpace::Param) if is_entry => Ok(space::PARAM),
        Some(StateSpace::Shared) => Ok(space::SHARED),
        Some(StateSpace::Global | StateSpace::Const) => Ok(space::GLOBAL),
        _ if space == space::PARAM && !is_entry => {
            Err(Reason::unsupported("computed addresses of parameters of functions"))
        }
        _ => Ok(space),
    }
}

/// `ld` and `st`.
pub(super) fn transfer<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    stores: bool,
) -> Result<(), Reason> {
    let read_only = opcode.take("nc");
    let order = take_order(opcode, stores);
    let space = take_space(opcode);
    drop_order(opcode);
    let count = opcode.choose(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let (_, ty) = required(opcode.ty(), "a type")?;
    // A cache policy may follow.
    let (value, address) = match (operands, stores) {
        ([value, address] | [value, address, _], false) | ([address, value] | [address, value, _], true) => {
            (value, address)
        }
        _ => return Err(Reason::syntax("expected an address and a value")),
    };
    let address = body.address(address)?;
    let space = place(body.is_entry, space, &address)?;
    let parts = match value {
        Operand::Vector(parts) => parts.as_slice(),
        single => std::slice::from_ref(single),
    };
    if parts.len() != count {
        return Err(Reason::syntax(format!("expected {count} registers, found {}", parts.len())));
    }
    if ty.bits == 128 {
        return transfer_halves(body, parts, address, space, stores);
    }
    let natural = if ty.bits == 64 { Width::Wide } else { Width::Narrow };
    let width = parts.iter().find_map(|part| body.width_of(part)).unwrap_or(natural);
    if width == Width::Predicate {
        return Err(Reason::unsupported("predicates in memory"));
    }
    let mut fields = Vec::new();
    for part in parts {
        fields.push(if stores {
            let held = Type { bits: if width == Width::Wide { 64 } else { ty.bits.min(32) }, ..ty };
            match body.width_of(part) {
                Some(_) => {
                    body.source(part, Type { bits: if width == Width::Wide { 64 } else { 32 }, kind: TypeKind::Bits })?
                }
                None => body.source(part, held)?,
            }
        } else {
            body.destination(part, width)?
        });
    }
    fields.push(address.base);
    let run = if stores { store_of(ty, width, count) } else { load_of(ty, width, count) };
    let run = required(run, "a type that registers hold")?;
    if space == space::SHARED || space == space::GENERIC {
        body.builder.shared_granule = body.builder.shared_granule.min(ty.bytes().max(1));
    }
    let class = transfer::class_of(space, stores);
    let step = body.step(run, class, fields);
    step.immediate = address.offset as u64;
    step.modifier = space | u32::from(address.width == Width::Wide) << 8 | order;
    if read_only {
        step.modifier |= access::READ_ONLY;
    }
    Ok(())
}

/// Loads and stores of 128 bits per element: as halves of 64.
fn transfer_halves<'a>(
    body: &mut Body<'_, 'a>,
    parts: &[Operand<'a>],
    address: Address,
    space: u32,
    stores: bool,
) -> Result<(), Reason> {
    let mut fields = Vec::new();
    for part in parts {
        fields.extend(body.halves(part, if stores { Role::Source } else { Role::Destination })?);
    }
    let count = fields.len();
    fields.push(address.base);
    let run = if stores { store::<u64, u64>(count) } else { load::<u64, u64>(count) };
    let step = body.step(required(run, "one or two elements")?, transfer::class_of(space, stores), fields);
    step.immediate = address.offset as u64;
    step.modifier = space | u32::from(address.width == Width::Wide) << 8;
    Ok(())
}

fn load_of(ty: Type, width: Width, count: usize) -> Option<[crate::exec::Handler; 2]> {
    match (ty.kind == TypeKind::Signed, ty.bits, width) {
        (false, 8, Width::Narrow) => load::<u8, u32>(count),
        (false, 16, Width::Narrow) => load::<u16, u32>(count),
        (_, 32, Width::Narrow) => load::<u32, u32>(count),
        (true, 8, Width::Narrow) => load::<i8, u32>(count),
        (true, 16, Width::Narrow) => load::<i16, u32>(count),
        (false, 8, Width::Wide) => load::<u8, u64>(count),
        (false, 16, Width::Wide) => load::<u16, u64>(count),
        (false, 32, Width::Wide) => load::<u32, u64>(count),
        (true, 8, Width::Wide) => load::<i8, u64>(count),
        (true, 16, Width::Wide) => load::<i16, u64>(count),
        (true, 32, Width::Wide) => load::<i32, u64>(count),
        (_, 64, Width::Wide) => load::<u64, u64>(count),
        _ => None,
    }
}

fn store_of(ty: Type, width: Width, count: usize) -> Option<[crate::exec::Handler; 2]> {
    match (ty.bits, width) {
        (8, Width::Narrow) => store::<u8, u32>(count),
        (16, Width::Narrow) => store::<u16, u32>(count),
        (32, Width::Narrow) => store::<u32, u32>(count),
        (8, Width::Wide) => store::<u8, u64>(count),
        (16, Width::Wide) => store::<u16, u64>(count),
        (32, Width::Wide) => store::<u32, u64>(count),
        (64, Width::Wide) => store::<u64, u64>(count),
        _ => None,
    }
}
