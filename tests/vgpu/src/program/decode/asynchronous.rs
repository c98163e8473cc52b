//! Asynchronous copies and mbarrier objects (PTX ISA 9.7.9.25, 9.7.13.15): cp.async, cp.async.bulk, mbarrier. Semantics in [`crate::exec::pending`] and
//! [`crate::exec::mbarrier`].

use super::{U32, U64, memory, required};
use crate::exec::bulk::flag;
use crate::exec::mbarrier::{self, Operation};
use crate::exec::reduce::{OPERATIONS, TYPES, reduction};
use crate::exec::{Class, act, in_flight, pending};
use crate::program::draft::{Field, Role, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::{Operand, StateSpace};

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    match opcode.root {
        "cp" if opcode.take("reduce") => Some(reductions(body, opcode, operands)),
        "cp" if opcode.take("async") => Some(copies(body, opcode, operands)),
        "mbarrier" => Some(objects(body, opcode, operands)),
        _ => None,
    }
}

fn copies<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    if opcode.take("bulk") {
        return bulk(body, opcode, operands, None);
    }
    if opcode.take("mbarrier") {
        required(opcode.choose(&[("arrive", ())]), ".arrive")?;
        let operation = if opcode.take("noinc") { Operation::ArriveCopies } else { Operation::ArriveCopiesMore };
        memory::take_space(opcode);
        required(opcode.choose(&[("b64", ())]), ".b64")?;
        super::expect_operands(operands, 1)?;
        return change(body, &operands[0], operation, None, Field::Narrow(1));
    }
    if let Some(run) = opcode.choose(&[("commit_group", act(pending::commit)), ("wait_all", act(pending::wait_all))]) {
        super::expect_operands(operands, 0)?;
        body.step(run, Class::AsyncCopy, Vec::new());
        return Ok(());
    }
    if opcode.take("wait_group") {
        let [Operand::Integer(count)] = operands else { return Err(Reason::syntax("expected a number of groups")) };
        body.step(act(pending::wait_group), Class::AsyncCopy, Vec::new()).immediate = *count;
        return Ok(());
    }
    memory::drop_order(opcode);
    required(opcode.choose(&[("shared", ()), ("shared::cta", ())]), ".shared")?;
    required(opcode.choose(&[("global", ())]), ".global")?;
    let [to, from, Operand::Integer(size), rest @ ..] = operands else {
        return Err(Reason::syntax("expected two addresses and a size"));
    };
    let (to, from) = (body.address(to)?, body.address(from)?);
    let read = match rest.first() {
        None => Field::Narrow(*size as u32),
        Some(operand) => match body.width_of(operand) {
            // `ignore-src`: nothing is read where the predicate holds.
            Some(Width::Predicate) => {
                let ignored = body.predicate(operand)?;
                let read = body.temporary(Width::Narrow);
                let fields = vec![
                    Field::Register(read, Role::Destination),
                    Field::Narrow(0),
                    Field::Narrow(*size as u32),
                    ignored,
                ];
                body.step(crate::exec::select::<u32>(), Class::Move, fields).class = None;
                Field::Register(read, Role::Source)
            }
            // A cache policy.
            Some(Width::Wide) => Field::Narrow(*size as u32),
            _ => body.source(operand, U32)?,
        },
    };
    let run = required(pending::copy(*size), "4, 8 or 16 bytes")?;
    let step = body.step(run, Class::AsyncCopy, vec![to.base, from.base, read]);
    step.immediate = u64::from(to.offset as u32) | u64::from(from.offset as u32) << 32;
    step.modifier = u32::from(to.width == Width::Wide) << 8 | u32::from(from.width == Width::Wide) << 9;
    Ok(())
}

/// `cp.reduce.async.bulk`, with tensors too.
fn reductions<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    required(opcode.choose(&[("async", ())]), ".async")?;
    required(opcode.choose(&[("bulk", ())]), ".bulk")?;
    let number = |name: &str| OPERATIONS.iter().position(|operation| *operation == name);
    let operation = required(opcode.find(number), "an operation")?;
    bulk(body, opcode, operands, Some(operation))
}

/// `cp.async.bulk` and `cp.reduce.async.bulk`.
fn bulk<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    operation: Option<usize>,
) -> Result<(), Reason> {
    if opcode.take("commit_group") {
        super::expect_operands(operands, 0)?;
        body.step(act(in_flight::commit_bulk), Class::AsyncCopy, Vec::new());
        return Ok(());
    }
    if opcode.take("wait_group") {
        opcode.take("read");
        let [Operand::Integer(groups)] = operands else { return Err(Reason::syntax("expected a number of groups")) };
        body.step(act(in_flight::wait_bulk), Class::AsyncCopy, Vec::new()).immediate = *groups;
        return Ok(());
    }
    if opcode.take("prefetch") {
        while opcode.first().is_some() {}
        return Ok(());
    }
    if opcode.take("tensor") {
        return tensor(body, opcode, operands, operation);
    }
    let spaces = [("shared::cluster", true), ("shared::cta", true), ("shared", true), ("global", false)];
    let to_shared = required(opcode.choose(&spaces), "a space")?;
    let from_shared = required(opcode.choose(&spaces), "a space")?;
    opcode.choose(&[("mbarrier::complete_tx::bytes", ()), ("bulk_group", ())]);
    let multicast = opcode.take("multicast::cluster");
    let reduction = match operation {
        Some(operation) => {
            opcode.take("noftz");
            let number = |name: &str| TYPES.iter().position(|ty| ty.0 == name);
            let ty = required(opcode.find(number), "a type")?;
            required(reduction(OPERATIONS[operation], TYPES[ty].0), "an operation that this type has")?;
            (operation as u32 + 1) << flag::OPERATION | (ty as u32) << flag::TYPE
        }
        None => 0,
    };
    let [to, from, size, rest @ ..] = operands else { return Err(Reason::syntax("expected two addresses and a size")) };
    if !from_shared && (!to_shared || operation.is_some()) {
        return Err(Reason::unsupported("such a pair of spaces"));
    }
    let (to, from) = (body.whole_address(to)?, body.whole_address(from)?);
    let size = body.source(size, U32)?;
    let (barrier, rest) = match rest {
        [operand, rest @ ..] if to_shared => (Some(body.whole_address(operand)?), rest),
        rest => (None, rest),
    };
    let blocks = match rest.first() {
        Some(mask) if multicast => body.source(mask, crate::ptx::Type { bits: 16, ..U32 })?,
        _ => Field::Narrow(0),
    };
    let base = barrier.map_or(Field::Narrow(0), |barrier| barrier.base);
    let step = body.step(crate::exec::bulk::copy(), Class::AsyncCopy, vec![to.base, from.base, size, base, blocks]);
    let when = |condition: bool, flag: u32| if condition { flag } else { 0 };
    step.modifier = when(to.width == Width::Wide, flag::WIDE_TO)
        | when(from.width == Width::Wide, flag::WIDE_FROM)
        | when(barrier.is_some_and(|barrier| barrier.width == Width::Wide), flag::WIDE_BARRIER)
        | when(from_shared, flag::FROM_SHARED)
        | when(!to_shared, flag::TO_GLOBAL)
        | when(multicast, flag::MULTICAST)
        | reduction;
    Ok(())
}

/// `st.async` and `red.async` to the shared memory of a block of the cluster: the store, which `store` decodes, and then the mbarrier counts its bytes.
pub(super) fn counted<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    store: impl FnOnce(&mut Body<'_, 'a>, &[Operand<'a>]) -> Result<(), Reason>,
) -> Result<(), Reason> {
    required(opcode.choose(&[("mbarrier::complete_tx::bytes", ())]), ".mbarrier::complete_tx::bytes")?;
    let [address, value, barrier] = operands else {
        return Err(Reason::syntax("expected an address, a value and an mbarrier"));
    };
    let (_, ty) = required(opcode.peek_type(), "a type")?;
    let count = if let Operand::Vector(parts) = value { parts.len() as u32 } else { 1 };
    store(body, &operands[..2])?;
    let (address, barrier) = (body.address(address)?, body.address(barrier)?);
    let step = body.step(crate::exec::bulk::count(), Class::AsyncCopy, vec![address.base, barrier.base]);
    // Part of the instruction before.
    step.class = None;
    step.immediate = u64::from(address.offset as u32) | u64::from(barrier.offset as u32) << 32;
    let when = |width: Width, flag: u32| if width == Width::Wide { flag } else { 0 };
    let bytes = ty.bytes() * count;
    step.modifier = bytes | when(address.width, flag::WIDE_TO) | when(barrier.width, flag::WIDE_BARRIER);
    Ok(())
}

/// `cp.async.bulk.tensor` and `cp.reduce.async.bulk.tensor`, tiled or im2col.
fn tensor<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    operation: Option<usize>,
) -> Result<(), Reason> {
    let ranks = [("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];
    let rank = required(opcode.choose(&ranks), "a number of dimensions")?;
    let spaces = [("shared::cluster", true), ("shared::cta", true), ("global", false)];
    let loads = required(opcode.choose(&spaces), "a space")?;
    if required(opcode.choose(&spaces), "a space")? == loads || operation.is_some() && loads {
        return Err(Reason::unsupported("such a pair of spaces"));
    }
    opcode.take("tile");
    let is_im2col = opcode.take(if loads { "im2col" } else { "im2col_no_offs" });
    if is_im2col && rank < 3 {
        return Err(Reason::syntax("im2col copies have 3 to 5 dimensions"));
    }
    opcode.choose(&[("mbarrier::complete_tx::bytes", ()), ("bulk_group", ())]);
    let multicast = opcode.take("multicast::cluster");
    let (map, shared, rest) = match operands {
        [shared, map, rest @ ..] if loads => (map, shared, rest),
        [map, shared, rest @ ..] => (map, shared, rest),
        _ => return Err(Reason::syntax("expected a tensor and an address")),
    };
    let Operand::Address(parts) = map else { return Err(Reason::syntax("expected a tensor in brackets")) };
    let [map, Operand::Vector(coordinates)] = parts.as_slice() else {
        return Err(Reason::syntax("expected a tensor map and coordinates"));
    };
    if coordinates.len() != rank {
        return Err(Reason::syntax(format!("expected {rank} coordinates, found {}", coordinates.len())));
    }
    let shared = body.whole_address(shared)?;
    let (barrier, rest) = match rest {
        [barrier, rest @ ..] if loads => (Some(body.whole_address(barrier)?), rest),
        rest => (None, rest),
    };
    let (offsets, rest) = match rest {
        [Operand::Vector(offsets), rest @ ..] if is_im2col && loads => (offsets.as_slice(), rest),
        rest => (&[][..], rest),
    };
    let wanted = if is_im2col && loads { rank - 2 } else { 0 };
    if offsets.len() != wanted {
        return Err(Reason::syntax(format!("expected {wanted} offsets, found {}", offsets.len())));
    }
    let blocks = match rest.first() {
        Some(mask) if multicast => body.source(mask, crate::ptx::Type { bits: 16, ..U32 })?,
        _ => Field::Narrow(0),
    };
    let wide = |address: Option<crate::program::operand::Address>, flag| match address {
        Some(address) if address.width == Width::Wide => flag,
        _ => 0,
    };
    let map = body.whole_address(&Operand::Address(vec![map.clone()]))?;
    let map = match map.width {
        Width::Wide => map.base,
        _ => return Err(Reason::unsupported("a tensor map at an address of 32 bits")),
    };
    let mut fields = vec![map, shared.base, barrier.map_or(Field::Narrow(0), |barrier| barrier.base), blocks];
    for coordinate in coordinates {
        fields.push(body.source(coordinate, U32)?);
    }
    for offset in offsets {
        fields.push(body.source(offset, crate::ptx::Type { bits: 16, ..U32 })?);
    }
    use crate::exec::tensor::{copy, flag};
    let step = body.step(copy(), Class::AsyncCopy, fields);
    step.listed = true;
    step.modifier = wide(Some(shared), flag::WIDE_SHARED)
        | wide(barrier, flag::WIDE_BARRIER)
        | if loads { 0 } else { flag::STORE }
        | if multicast { flag::MULTICAST } else { 0 }
        | if is_im2col { flag::IM2COL } else { 0 }
        | operation.map_or(0, |operation| (operation as u32 + 1) << flag::OPERATION);
    Ok(())
}

/// An instruction that changes an mbarrier object.
fn change<'a>(
    body: &mut Body<'_, 'a>,
    address: &Operand<'a>,
    operation: Operation,
    token: Option<&Operand<'a>>,
    amount: Field,
) -> Result<(), Reason> {
    let address = body.address(address)?;
    if !matches!(address.space, None | Some(StateSpace::Shared)) {
        return Err(Reason::unsupported("mbarrier objects outside of shared memory"));
    }
    let token = match token {
        Some(operand) => body.destination(operand, Width::Wide)?,
        None => Field::Register(body.temporary(Width::Wide), Role::Destination),
    };
    let step = body.step(mbarrier::changes(), Class::Barrier, vec![token, address.base, amount]);
    step.immediate = address.offset as u64;
    step.modifier = u32::from(address.width == Width::Wide) << 8 | (operation as u32) << 24;
    Ok(())
}

fn objects<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let verbs = [
        "init",
        "inval",
        "expect_tx",
        "complete_tx",
        "arrive",
        "arrive_drop",
        "test_wait",
        "try_wait",
        "pending_count",
    ];
    let verb = required(opcode.find(|name| verbs.iter().find(|verb| **verb == name).copied()), "an operation")?;
    let expects = opcode.take("expect_tx");
    opcode.take("noComplete");
    let parity = opcode.take("parity");
    memory::drop_order(opcode);
    memory::take_space(opcode);
    memory::drop_order(opcode);
    memory::take_space(opcode);
    required(opcode.choose(&[("b64", ())]), ".b64")?;
    match (verb, operands) {
        ("init", [address, count]) => {
            let count = body.source(count, U32)?;
            change(body, address, Operation::Initialise, None, count)
        }
        ("inval", [address]) => change(body, address, Operation::Invalidate, None, Field::Narrow(0)),
        ("expect_tx", [address, bytes]) => {
            let bytes = body.source(bytes, U32)?;
            change(body, address, Operation::Expect, None, bytes)
        }
        ("complete_tx", [address, bytes]) => {
            let bytes = body.source(bytes, U32)?;
            change(body, address, Operation::Complete, None, bytes)
        }
        ("arrive" | "arrive_drop", [token, address, rest @ ..]) => {
            let operation = match (verb == "arrive", expects) {
                (true, false) => Operation::Arrive,
                (true, true) => Operation::ArriveExpect,
                (false, false) => Operation::Drop,
                (false, true) => Operation::DropExpect,
            };
            let amount = match rest {
                [amount] => body.source(amount, U32)?,
                _ => Field::Narrow(1),
            };
            change(body, address, operation, Some(token), amount)
        }
        ("test_wait" | "try_wait", [Operand::Name(p, 0), address, token, ..]) => {
            let predicate = body.predicate_destination(p)?;
            let address = body.address(address)?;
            let token = body.source(token, if parity { U32 } else { U64 })?;
            let step = body.step(act(mbarrier::wait), Class::Barrier, vec![predicate, address.base, token]);
            step.immediate = address.offset as u64;
            step.modifier = u32::from(address.width == Width::Wide) << 8 | u32::from(parity) << 24;
            Ok(())
        }
        ("pending_count", [_, _]) => {
            body.simple(mbarrier::pending_count(), Class::Barrier, operands, &[U32, U64]).map(|_| ())
        }
        _ => Err(Reason::unsupported("such operands")),
    }
}
