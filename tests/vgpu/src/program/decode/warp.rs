//! Exchange within a warp and barriers (PTX ISA 9.7.9.6, 9.7.13): shfl, vote, match, redux, elect, activemask, bar, barrier, fences. Semantics in
//! [`crate::exec::collective`] and [`crate::exec::barrier`].
//!
//! The forms without `.sync`, which sm_70 and later do not have, are refused.

use super::{NOTHING, U32, required};
use crate::exec::barrier::{self, flag};
use crate::exec::{Class, act, collective, in_flight};
use crate::isa::exchange::Shuffle;
use crate::program::draft::{Field, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::Operand;

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    Some(match opcode.root {
        "shfl" => shuffle(body, opcode, operands),
        "vote" => vote(body, opcode, operands),
        "match" => matching(body, opcode, operands),
        "redux" => redux(body, opcode, operands),
        "elect" => elect(body, opcode, operands),
        "activemask" => active_mask(body, opcode, operands),
        "bar" | "barrier" => barrier(body, opcode, operands),
        "membar" | "fence" | "griddepcontrol" => {
            // Our memory keeps the order of the text: only what orders another proxy or other blocks is looked at.
            let wide = opcode.find(|name| matches!(name, "gl" | "gpu" | "sys" | "cluster").then_some(())).is_some();
            let proxy = opcode.take("proxy") && opcode.find(|name| name.starts_with("async").then_some(())).is_some();
            while opcode.first().is_some() {}
            let run = match (proxy, wide) {
                (true, _) => act(in_flight::fence_proxy),
                (_, true) => act(barrier::fence),
                _ => act(barrier::nothing),
            };
            body.step(run, Class::Barrier, Vec::new());
            Ok(())
        }
        _ => return None,
    })
}

/// `.sync`, which all these have.
fn sync(opcode: &Opcode<'_>) -> Result<(), Reason> {
    required(opcode.choose(&[("sync", ())]), ".sync")
}

fn shuffle<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    sync(opcode)?;
    let kind = opcode.choose(&[
        ("up", Shuffle::Up),
        ("down", Shuffle::Down),
        ("bfly", Shuffle::Butterfly),
        ("idx", Shuffle::Index),
    ]);
    let kind = required(kind, "a mode")?;
    required(opcode.choose(&[("b32", ())]), ".b32")?;
    super::expect_operands(operands, 5)?;
    let (d, p) = match operands[0] {
        Operand::Pair(d, p) => (d, body.predicate_destination(p)?),
        Operand::Name(d, 0) => (d, Field::Sink),
        _ => return Err(Reason::syntax("expected a register to write to")),
    };
    let mut fields = vec![body.destination(&Operand::Name(d, 0), Width::Narrow)?, p];
    for operand in &operands[1..] {
        fields.push(body.source(operand, U32)?);
    }
    body.step(collective::shuffle(kind), Class::Warp, fields);
    Ok(())
}

fn vote<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    sync(opcode)?;
    let mode = opcode.choose(&[("all", 0), ("any", 1), ("uni", 2), ("ballot", 3)]);
    let mode = required(mode, "a mode")?;
    required(opcode.choose(&[("pred", ()), ("b32", ())]), "a type")?;
    super::expect_operands(operands, 3)?;
    let destination = match operands[0] {
        _ if mode == 3 => body.destination(&operands[0], Width::Narrow)?,
        Operand::Name(p, 0) => body.predicate_destination(p)?,
        _ => return Err(Reason::syntax("expected a predicate to write to")),
    };
    let members = body.source(&operands[2], U32)?;
    let fields = vec![destination, body.predicate(&operands[1])?, NOTHING, NOTHING, NOTHING, members];
    let run = if mode == 3 { act(collective::ballot) } else { act(collective::vote) };
    body.step(run, Class::Warp, fields).modifier = mode;
    Ok(())
}

fn matching<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let all = required(opcode.choose(&[("any", false), ("all", true)]), ".any or .all")?;
    sync(opcode)?;
    let (_, ty) = required(opcode.ty(), "a type")?;
    super::expect_operands(operands, 3)?;
    let (d, p) = match operands[0] {
        Operand::Pair(d, p) => (d, body.predicate_destination(p)?),
        Operand::Name(d, 0) => (d, Field::Sink),
        _ => return Err(Reason::syntax("expected a register to write to")),
    };
    let destination = body.destination(&Operand::Name(d, 0), Width::Narrow)?;
    let (value, members) = (body.source(&operands[1], ty)?, body.source(&operands[2], U32)?);
    let fields = vec![destination, value, NOTHING, p, NOTHING, members];
    let run = match (all, ty.bits) {
        (false, 32) => act(collective::match_any::<u32>),
        (false, _) => act(collective::match_any::<u64>),
        (true, 32) => act(collective::match_all::<u32>),
        (true, _) => act(collective::match_all::<u64>),
    };
    body.step(run, Class::Warp, fields);
    Ok(())
}

fn redux<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    sync(opcode)?;
    let operation = opcode.find(|name| matches!(name, "add" | "min" | "max" | "and" | "or" | "xor").then_some(name));
    let operation = required(operation, "an operation")?;
    let ty = opcode.find(|name| matches!(name, "u32" | "s32" | "b32").then_some(name));
    let ty = required(ty, "an integer type")?;
    let modifier = match (operation, ty) {
        ("add", _) => 0,
        ("min", "u32") => 1,
        ("max", "u32") => 2,
        ("min", _) => 3,
        ("max", _) => 4,
        ("and", _) => 5,
        ("or", _) => 6,
        _ => 7,
    };
    super::expect_operands(operands, 3)?;
    let destination = body.destination(&operands[0], Width::Narrow)?;
    let (value, members) = (body.source(&operands[1], U32)?, body.source(&operands[2], U32)?);
    let fields = vec![destination, value, NOTHING, NOTHING, NOTHING, members];
    body.step(act(collective::redux), Class::Warp, fields).modifier = modifier;
    Ok(())
}

fn elect<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    sync(opcode)?;
    super::expect_operands(operands, 2)?;
    let Operand::Pair(d, p) = operands[0] else { return Err(Reason::syntax("expected a register and a predicate")) };
    let destination = body.destination(&Operand::Name(d, 0), Width::Narrow)?;
    let (p, members) = (body.predicate_destination(p)?, body.source(&operands[1], U32)?);
    let fields = vec![destination, p, NOTHING, NOTHING, NOTHING, members];
    body.step(act(collective::elect), Class::Warp, fields);
    Ok(())
}

fn active_mask<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    required(opcode.choose(&[("b32", ())]), ".b32")?;
    body.simple(act(collective::active_mask), Class::Warp, operands, &[U32])?;
    Ok(())
}

fn barrier<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    if opcode.take("warp") {
        sync(opcode)?;
        super::expect_operands(operands, 1)?;
        let members = body.source(&operands[0], U32)?;
        let fields = vec![NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, members];
        body.step(act(collective::warp_barrier), Class::Warp, fields).modifier = collective::WARP_BARRIER;
        return Ok(());
    }
    if opcode.take("cluster") {
        let arrives = required(opcode.choose(&[("arrive", true), ("wait", false)]), ".arrive or .wait")?;
        while opcode.choose(&[("acquire", ()), ("release", ()), ("relaxed", ()), ("aligned", ())]).is_some() {}
        let run = if arrives { act(barrier::cluster_arrive) } else { act(barrier::cluster_wait) };
        body.step(run, Class::Barrier, Vec::new());
        return Ok(());
    }
    opcode.take("cta");
    // `bar` is aligned without saying so.
    let aligned = opcode.root == "bar" || opcode.take("aligned");
    let kind = required(opcode.choose(&[("sync", 0), ("arrive", 1), ("red", 2)]), ".sync, .arrive or .red")?;
    let aligned = aligned || opcode.take("aligned");
    let mut modifier = if aligned { flag::ALIGNED } else { 0 };
    let mut rest = operands;
    let (mut destination, mut predicate) = (Field::None, Field::Always(true));
    match kind {
        1 => modifier |= flag::ARRIVE,
        2 => {
            let operation = opcode.choose(&[("popc", flag::POPULATION), ("and", flag::AND), ("or", flag::OR)]);
            modifier |= required(operation, "an operation")?;
            opcode.take("aligned");
            required(opcode.choose(&[("u32", ()), ("pred", ())]), "a type")?;
            let [first, middle @ .., last] = operands else { return Err(Reason::syntax("expected more operands")) };
            destination = match first {
                _ if modifier & flag::POPULATION != 0 => body.destination(first, Width::Narrow)?,
                Operand::Name(p, 0) => body.predicate_destination(p)?,
                _ => return Err(Reason::syntax("expected a predicate to write to")),
            };
            predicate = body.predicate(last)?;
            rest = middle;
        }
        _ => {}
    }
    if opcode.take("aligned") {
        modifier |= flag::ALIGNED;
    }
    let (number, count) = match rest {
        [number] => (body.source(number, U32)?, Field::Narrow(0)),
        [number, count] => {
            modifier |= flag::COUNTED;
            (body.source(number, U32)?, body.source(count, U32)?)
        }
        _ => return Err(Reason::syntax("expected a barrier and perhaps a number of threads")),
    };
    body.step(act(barrier::barrier), Class::Barrier, vec![number, count, predicate, destination]).modifier = modifier;
    Ok(())
}
