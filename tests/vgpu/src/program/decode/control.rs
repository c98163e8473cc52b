//! Control flow (PTX ISA 9.7.13): bra, brx.idx, call, ret, exit, trap and what only a debugger would notice.

use super::{U32, U64, required};
use crate::exec::{Call, Class, act, flow, stack, system};
use crate::program::LoadErrorKind;
use crate::program::draft::Next;
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
        "bra" => Some(branch(body, opcode, operands)),
        "brx" => Some(branch_table(body, opcode, operands)),
        "call" => Some(call(body, opcode, operands)),
        "ret" => {
            opcode.take("uni");
            if body.is_entry {
                body.step(act(flow::exit), Class::Control, Vec::new()).next = Next::Finish;
            } else {
                body.jump_to_epilogue(act(flow::branch));
            }
            Some(Ok(()))
        }
        "exit" => {
            body.step(act(flow::exit), Class::Control, Vec::new()).next = Next::End;
            Some(Ok(()))
        }
        "trap" | "brkpt" => {
            body.step(act(flow::trap), Class::Control, Vec::new()).next = Next::End;
            Some(Ok(()))
        }
        "nanosleep" => required(opcode.choose(&[("u32", ())]), ".u32")
            .err()
            .map_or(Some(nanosleep(body, operands)), |error| Some(Err(error))),
        "alloca" | "stacksave" | "stackrestore" => Some(stack(body, opcode, operands)),
        "pmevent" | "prefetch" | "prefetchu" | "applypriority" | "discard" => {
            // Hints and events, without effect on what a program computes.
            while opcode.first().is_some() {}
            Some(Ok(()))
        }
        _ => None,
    }
}

/// `alloca`, `stacksave`, `stackrestore`.
fn stack<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let ty = required(opcode.choose(&[("u32", U32), ("u64", U64), ("b32", U32), ("b64", U64)]), ".u32 or .u64")?;
    let wide = ty.bits == 64;
    match (opcode.root, operands) {
        ("alloca", [place, size, rest @ ..]) => {
            let alignment = match rest {
                [] => 8,
                [Operand::Integer(alignment)] if alignment.is_power_of_two() && *alignment <= 1 << 23 => *alignment,
                _ => return Err(Reason::syntax("expected an alignment, which is a power of two")),
            };
            let fields = vec![body.destination(place, width_of(ty))?, body.source(size, ty)?];
            let run = if wide { act(stack::allocate::<u64>) } else { act(stack::allocate::<u32>) };
            body.step(run, Class::Local, fields).immediate = alignment;
        }
        ("stacksave", [place]) => {
            let fields = vec![body.destination(place, width_of(ty))?];
            body.step(if wide { act(stack::save::<u64>) } else { act(stack::save::<u32>) }, Class::Local, fields);
        }
        ("stackrestore", [place]) => {
            let fields = vec![body.source(place, ty)?];
            body.step(if wide { act(stack::restore::<u64>) } else { act(stack::restore::<u32>) }, Class::Local, fields);
        }
        _ => return Err(Reason::syntax("such operands")),
    }
    Ok(())
}

fn branch<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    opcode.take("uni");
    let [Operand::Name(name, 0)] = operands else { return Err(Reason::syntax("expected a label")) };
    let label = body.label(name)?;
    body.step(act(flow::branch), Class::Control, Vec::new()).next = Next::Branch(label);
    Ok(())
}

fn branch_table<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    required(opcode.choose(&[("idx", ())]), ".idx")?;
    opcode.take("uni");
    let [index, Operand::Name(name, 0)] = operands else {
        return Err(Reason::syntax("expected an index and a list of targets"));
    };
    let table = body.table(name)?;
    let index = body.source(index, U32)?;
    body.step(act(flow::branch_table), Class::Control, vec![index]).next = Next::Table(table);
    Ok(())
}

fn call<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    opcode.take("uni");
    let (results, rest) = match operands {
        [Operand::List(results), rest @ ..] => (results.as_slice(), rest),
        rest => (&[][..], rest),
    };
    let [Operand::Name(name, 0), rest @ ..] = rest else { return Err(Reason::syntax("expected a function")) };
    let arguments = match rest {
        [Operand::List(arguments), ..] => arguments.as_slice(),
        _ => &[],
    };
    let place = |body: &Body<'_, 'a>, list: &[Operand<'a>]| {
        list.iter().map(|operand| body.local_variable(operand)).collect::<Result<Vec<_>, _>>()
    };
    let (results, arguments) = (place(body, results)?, place(body, arguments)?);
    let site = body.builder.calls.len() as u64;
    if body.is_register(name) {
        let address = body.source(&Operand::Name(name, 0), U64)?;
        body.builder.reach_all();
        body.builder.calls.push(Call { function: None, arguments, results });
        let step = body.step(act(flow::call), Class::Control, vec![address]);
        (step.immediate, step.next) = (site, Next::Meet);
        return Ok(());
    }
    if let Some(function) = body.builder.function(body.module, name) {
        body.builder.calls.push(Call { function: Some(function), arguments, results });
        let guarded = body.guard().is_some();
        let step = body.step(act(flow::call), Class::Control, Vec::new());
        step.immediate = site;
        step.next = if guarded { Next::Meet } else { Next::Through };
        return Ok(());
    }
    let run = match *name {
        "vprintf" => act(system::vprintf),
        "__assertfail" => act(system::assert_fail),
        "malloc" => act(system::malloc),
        "free" => act(system::free),
        _ => {
            let text = format!("the function `{name}` is not defined");
            return Err(Reason { text, kind: LoadErrorKind::UnresolvedSymbol });
        }
    };
    body.builder.calls.push(Call { function: None, arguments, results });
    let ends = *name == "__assertfail";
    let step = body.step(run, Class::Control, Vec::new());
    step.immediate = site;
    step.next = if ends { Next::End } else { Next::Through };
    Ok(())
}

fn nanosleep<'a>(body: &mut Body<'_, 'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    super::expect_operands(operands, 1)?;
    let time = body.source(&operands[0], U32)?;
    body.step(act(system::nanosleep), Class::Control, vec![time]);
    Ok(())
}
