//! Barriers of blocks and clusters (PTX ISA 9.7.13.1 to 9.7.13.4): bar and barrier, barrier.cluster. Fences move nothing, for our memory keeps the order of
//! the text: they are noted where races are looked for.
//!
//! A fragment arrives and waits; when the barrier is complete, [`super::cluster`] lets it execute the instruction again, with what a reduction gave.

use super::block::{BARRIERS, CLUSTER_BARRIER};
use super::code::{Flow, Instruction};
use super::warp::{Progress, Warp};
use super::{FaultKind, Operand};
use crate::checks::Kind;
use crate::isa::WARP;

/// Bits of the modifier.
pub(crate) mod flag {
    /// All lanes of the warp must execute it as one.
    pub const ALIGNED: u32 = 1;
    /// Operand 1 is the number of threads.
    pub const COUNTED: u32 = 2;
    /// `bar.arrive`: does not wait.
    pub const ARRIVE: u32 = 4;
    /// `bar.red.popc`, `.and`, `.or`: operand 2 is the predicate, operand 3 the destination.
    pub const POPULATION: u32 = 8;
    pub const AND: u32 = 16;
    pub const OR: u32 = 32;
}

/// `bar` and `barrier`: operands are the number of the barrier and of the threads.
pub(crate) fn barrier(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let modifier = instruction.modifier;
    let aligned = modifier & flag::ALIGNED != 0;
    if let Some(value) = warp.resumed() {
        if modifier & flag::COUNTED == 0 {
            warp.state.barriers += 1;
            warp.state.last_barrier = warp.at(instruction);
        }
        return deliver(warp, instruction, mask, value);
    }
    if aligned && let Err(flow) = warp.converge(instruction, mask) {
        return flow;
    }
    let first = mask.trailing_zeros();
    let scalar = |warp: &Warp<'_>, operand: Operand| warp.lanes(operand)[first as usize & 31];
    let [number, count, predicate, ..] = instruction.operands;
    let number = scalar(warp, number) as usize;
    let expected = (modifier & flag::COUNTED != 0).then(|| scalar(warp, count));
    if number >= BARRIERS {
        let detail = format!("barrier {number} of {BARRIERS}");
        return warp.fault(instruction, first, FaultKind::IllegalInstruction, Kind::InvalidOperand, None, detail);
    }
    if expected.is_some_and(|threads| threads == 0 || threads % 32 != 0) {
        let detail = format!("{} threads: no multiple of 32", expected.unwrap_or(0));
        return warp.fault(instruction, first, FaultKind::IllegalInstruction, Kind::BarrierCount, None, detail);
    }
    // Barriers with a count count whole warps, the others threads that have not ended.
    let threads = if expected.is_some() && aligned { WARP as u32 } else { mask.count_ones() };
    let holds = (warp.predicate(predicate.predicate()) & mask).count_ones();
    let (rank, index) = (warp.block.rank as usize, warp.state.index);
    let state = &mut warp.block.barriers[number];
    warp.shared[rank].release(index, &mut state.known);
    state.holds += holds;
    state.asked += mask.count_ones();
    if let Err(others) = warp.block.arrive(number, threads, expected) {
        let text = |count: Option<u32>| count.map_or("all".to_owned(), |count| count.to_string());
        let detail = format!(
            "barrier {number} waits for {} threads here, and others came with {}",
            text(expected),
            text(others)
        );
        return warp.fault(instruction, first, FaultKind::Finding, Kind::BarrierCount, None, detail);
    }
    let at = warp.at(instruction);
    if modifier & flag::ARRIVE != 0 {
        // The turn ends so that those who wait can be told at once.
        return warp.pause(at + 1, Progress::Ready);
    }
    warp.pause(at, Progress::Barrier(number as u8))
}

/// The result of a reduction: how many, with the upper bit if it is all.
fn deliver(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32, value: u32) -> Flow {
    let (holds, all) = (value & 0xffff, value >> 31 != 0);
    let destination = instruction.operands[3];
    let spread = |condition: bool| if condition { u32::MAX } else { 0 };
    match instruction.modifier & (flag::POPULATION | flag::AND | flag::OR) {
        flag::POPULATION => warp.set_lanes(destination, mask, &[holds; WARP]),
        flag::AND => warp.set_predicate(destination.predicate(), mask, spread(all)),
        flag::OR => warp.set_predicate(destination.predicate(), mask, spread(holds != 0)),
        _ => {}
    }
    Flow::Next
}

/// `barrier.cluster.arrive`.
pub(crate) fn cluster_arrive(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let threads = mask.count_ones();
    warp.block.cluster_arrived += threads;
    warp.state.cluster_phase = warp.block.cluster_phase;
    let at = warp.at(instruction);
    warp.pause(at + 1, Progress::Ready)
}

/// `barrier.cluster.wait`.
pub(crate) fn cluster_wait(warp: &mut Warp<'_>, instruction: &Instruction, _mask: u32) -> Flow {
    if warp.resumed().is_some() || warp.state.cluster_phase != warp.block.cluster_phase {
        return Flow::Next;
    }
    let at = warp.at(instruction);
    warp.pause(at, Progress::Barrier(CLUSTER_BARRIER))
}

/// A fence that other blocks are meant to see.
pub(crate) fn fence(warp: &mut Warp<'_>, _instruction: &Instruction, _mask: u32) -> Flow {
    if warp.grid.checks.global_races {
        warp.block.order.fence();
    }
    Flow::Next
}

/// Fences, and what only orders or hints.
pub(crate) fn nothing(_warp: &mut Warp<'_>, _instruction: &Instruction, _mask: u32) -> Flow {
    Flow::Next
}
