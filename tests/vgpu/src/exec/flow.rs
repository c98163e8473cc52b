//! Control flow within a warp: branches, joins, calls, exits, and turns between fragments (PTX ISA 9.7.13 "Control Flow", 3.1 on divergence).
//!
//! Where a branch splits a fragment, both parts are expected at a *join*, the immediate post-dominator of the branch. A part that gets there waits until all
//! lanes have come that have not ended; they go on as one fragment. A loop that lanes leave one by one adds no joins. This keeps lanes together as a GPU does,
//! but nothing may depend on it: if all other fragments wait for something else, or one jumps on and on, lanes that wait at a join go on without the rest,
//! as independent thread scheduling lets them.

use super::FaultKind;
use super::code::{Flow, Instruction};
use super::collective::{MEMBERS, kind_of_divergence};
use super::warp::{Fragment, Frame, Join, Progress, Return, Warp};
use crate::checks::Kind;

/// Jumps that a fragment may make before another gets its turn.
pub(crate) const TURN: u32 = 1 << 12;

/// Turns in which a fragment did nothing but jump, after which lanes that wait for it at a join go on.
const PATIENCE: u32 = 16;

/// Turns of this kind in a row, after which a warp counts as one that never ends: 134 million jumps.
const LIMIT: u32 = 1 << 15;

/// Calls within calls that are possible.
const MAXIMUM_DEPTH: usize = 1024;

/// The address of a function by its number within the program.
pub(crate) fn address_of(number: u32) -> u64 {
    0x0500_0000_0000 + 16 * u64::from(number)
}

/// The join of branches whose ways never meet.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Others should have their turn.
    Turn,
    /// The same, and it only waits for others.
    Yield,
    /// All its fragments wait.
    Blocked,
    /// All its lanes have ended.
    Ended,
    /// The kernel did something wrong.
    Fault,
}

impl Warp<'_> {
    /// Runs the warp until others must have a turn.
    pub fn run<const WATCHED: bool>(&mut self) -> Pause {
        let code = self.grid.code.instructions.as_ptr();
        let mut jumps = 0;
        loop {
            let Some(fragment) = self.choose() else {
                return if self.state.live == 0 { Pause::Ended } else { Pause::Blocked };
            };
            self.resume(fragment);
            let mut at = self.state.fragments[fragment].at;
            loop {
                // SAFETY: the decoder ends every function with an instruction that does not go on to the next, and only makes jumps to instructions.
                let instruction = unsafe { &*code.add(at as usize) };
                let mut mask = self.active;
                if instruction.guard != super::code::Predicate::TRUE {
                    mask &= self.predicate(instruction.guard);
                }
                self.worker.count(at, mask);
                if mask == 0 {
                    at += 1;
                    continue;
                }
                if WATCHED && self.state.in_flight.has_registers() {
                    super::in_flight::check_registers(self, instruction, mask);
                }
                // SAFETY: the decoder has made the operands, and chosen the function for this processor.
                match unsafe { instruction.run[usize::from(WATCHED)](self, instruction, mask) } {
                    Flow::Next => at += 1,
                    Flow::Jump => {
                        at = self.target;
                        jumps += 1;
                        if jumps >= TURN {
                            self.running().at = at;
                            return self.tire(instruction);
                        }
                    }
                    Flow::Switch => break,
                    Flow::Fault => return Pause::Fault,
                }
            }
            self.state.stale = 0;
            self.state.turns = 0;
            if std::mem::take(&mut self.state.yielded) {
                return Pause::Yield;
            }
        }
    }

    /// The next fragment that can run, beginning with the one after the last.
    fn choose(&mut self) -> Option<usize> {
        loop {
            let fragments = &self.state.fragments;
            let count = fragments.len();
            let can_run = |fragment: &Fragment| matches!(fragment.progress, Progress::Ready | Progress::Resumed(_));
            if count == 1 && can_run(&fragments[0]) {
                return Some(0);
            }
            let first = self.fragment;
            let next = (first..first + count).map(|index| index % count).find(|&index| can_run(&fragments[index]));
            if next.is_some() || !self.release_a_join() {
                return next;
            }
        }
    }

    /// A turn is over in which the fragment did not come to a rest: the next one is another's, after many the lanes that wait for it go on, and after very many it is
    /// the kernel's last.
    fn tire(&mut self, instruction: &Instruction) -> Pause {
        self.state.stale += 1;
        self.state.turns += 1;
        if self.state.turns >= LIMIT {
            let detail = format!("the warp has made {} jumps in a row and come to no other end", LIMIT * TURN);
            let lane = self.active.trailing_zeros();
            self.fault(instruction, lane, FaultKind::Deadlock, Kind::Timeout, None, detail);
            return Pause::Fault;
        }
        self.fragment += 1;
        if self.state.stale >= PATIENCE {
            self.state.stale = 0;
            while self.release_a_join() {}
        }
        Pause::Turn
    }

    /// Lets the lanes that wait at a join go on without the others. False if there are none.
    fn release_a_join(&mut self) -> bool {
        let Some(join) = self.state.joins.iter_mut().find(|join| join.fragment.mask != 0) else { return false };
        join.members &= !join.fragment.mask;
        let fragment = Fragment { mask: std::mem::take(&mut join.fragment.mask), ..join.fragment.clone() };
        self.state.fragments.push(fragment);
        true
    }

    /// Lanes come to a join. The last of them wake all.
    fn arrive(&mut self, join: u32, mask: u32) {
        let join = &mut self.state.joins[join as usize];
        join.fragment.mask |= mask;
        if join.fragment.mask == join.members {
            join.members = 0;
            let fragment = std::mem::take(&mut join.fragment);
            self.state.fragments.push(fragment);
        }
    }

    /// The join at `at` for the lanes of the running fragment: the one they have, if it is there, or a new one.
    fn join_at(&mut self, at: u32) -> u32 {
        let Fragment { mask, join, frame, ref stack, .. } = self.state.fragments[self.fragment];
        if let Some(index) = join {
            let top = &self.state.joins[index as usize].fragment;
            if top.at == at && top.stack.len() == stack.len() {
                return index;
            }
        }
        let fragment = Fragment { at, mask: 0, join, frame, stack: stack.clone(), progress: Progress::Ready };
        let new = Join { members: mask, fragment };
        let joins = &mut self.state.joins;
        let index = joins.iter().position(|join| join.members == 0).unwrap_or(joins.len());
        if index == joins.len() {
            joins.push(new);
        } else {
            joins[index] = new;
        }
        index as u32
    }

    /// Splits the running fragment: the lanes of each mask go on at the instruction with it. The parts meet at `meet`.
    fn split(&mut self, meet: u32, parts: impl IntoIterator<Item = (u32, u32)>) -> Flow {
        self.worker.counters.divergent_branches += 1;
        let join = if meet == NOWHERE { self.running().join } else { Some(self.join_at(meet)) };
        let whole = self.state.fragments.swap_remove(self.fragment);
        for (mask, at) in parts {
            match join {
                Some(join) if at == meet => self.arrive(join, mask),
                _ => self.state.fragments.push(Fragment { at, mask, join, ..whole.clone() }),
            }
        }
        Flow::Switch
    }

    /// The lanes of the running fragment in `mask` end.
    fn end(&mut self, mask: u32, next: u32) -> Flow {
        self.state.live &= !mask;
        let fragment = self.running();
        fragment.mask &= !mask;
        fragment.at = next;
        if fragment.mask == 0 {
            self.state.fragments.swap_remove(self.fragment);
        }
        for index in 0..self.state.joins.len() as u32 {
            self.leave_join(index, mask);
        }
        self.block.threads_ended(mask.count_ones());
        self.wake_waiting(mask);
        Flow::Switch
    }

    /// A join no longer expects some lanes.
    pub(super) fn leave_join(&mut self, index: u32, mask: u32) {
        let join = &mut self.state.joins[index as usize];
        if join.members & mask != 0 {
            join.members &= !mask;
            if join.members != 0 {
                self.arrive(index, 0);
            }
        }
    }

    /// Lanes have ended for which others may wait: those look again.
    fn wake_waiting(&mut self, ended: u32) {
        for index in 0..self.state.fragments.len() {
            let fragment = &mut self.state.fragments[index];
            if fragment.progress != Progress::Lanes {
                continue;
            }
            fragment.progress = Progress::Ready;
            let (at, lane) = (fragment.at, fragment.mask.trailing_zeros());
            let code = self.grid.code;
            let instruction = &code.instructions[at as usize];
            let awaited = match instruction.class {
                Some(super::Class::Warp) => self.lanes(instruction.operands[MEMBERS])[lane as usize & 31],
                _ => u32::MAX,
            };
            // A barrier of the warp waits for lanes that have not ended; of what exchanges values those of lanes that did are missing.
            let is_barrier = instruction.class == Some(super::Class::Warp)
                && instruction.modifier == super::collective::WARP_BARRIER;
            if awaited & ended != 0 && self.grid.checks.barriers && !is_barrier {
                let detail = format!("the lanes {:#010x} of the warp ended and never came to it", awaited & ended);
                self.find(instruction, lane, kind_of_divergence(instruction), None, detail);
            }
        }
    }
}

/// `bra`: to the target for the lanes of the mask.
pub(crate) fn branch(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    if mask == warp.active {
        warp.target = instruction.target;
        return Flow::Jump;
    }
    let next = warp.at(instruction) + 1;
    let rest = warp.active & !mask;
    // The nearer part first: it is the body of an `if`, or the loop that the others left.
    warp.split(instruction.immediate as u32, [(rest, next), (mask, instruction.target)])
}

/// `brx.idx`: through a table, by a register.
pub(crate) fn branch_table(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let index = warp.lanes(instruction.operands[0]);
    let table = &warp.grid.code.tables[instruction.modifier as usize];
    let next = warp.at(instruction) + 1;
    let mut parts: Vec<(u32, u32)> = Vec::new();
    let mut add = |lanes: u32, at: u32| match parts.iter_mut().find(|part| part.1 == at) {
        Some(part) => part.0 |= lanes,
        None => parts.push((lanes, at)),
    };
    if mask != warp.active {
        add(warp.active & !mask, next);
    }
    for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
        let Some(&at) = table.get(index[lane] as usize) else {
            let detail = format!("index {} of a branch table with {} targets", index[lane], table.len());
            return warp.fault(instruction, lane as u32, FaultKind::InvalidPc, Kind::InvalidOperand, None, detail);
        };
        add(1 << lane, at);
    }
    if let [(_, at)] = parts[..] {
        warp.target = at;
        return Flow::Jump;
    }
    warp.split(instruction.immediate as u32, parts)
}

/// The mark before an instruction at which ways meet.
pub(crate) fn join(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let at = warp.at(instruction);
    let fragment = &warp.state.fragments[warp.fragment];
    let Some(index) = fragment.join else { return Flow::Next };
    let expected = &warp.state.joins[index as usize].fragment;
    if expected.at != at || expected.stack.len() != fragment.stack.len() {
        return Flow::Next;
    }
    warp.state.fragments.swap_remove(warp.fragment);
    warp.arrive(index, mask);
    Flow::Switch
}

/// `exit`, and `ret` of a kernel.
pub(crate) fn exit(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    if warp.state.live == mask && warp.state.in_flight.is_reading() {
        let detail = "the warp ends while bulk copies read shared memory for which no wait_group has waited".to_owned();
        warp.find(instruction, mask.trailing_zeros(), Kind::AsyncNeverWaited, None, detail);
    }
    if warp.state.live == mask && !warp.state.pending.is_empty() {
        let detail = "the warp ends while copies are on their way that no wait has made visible".to_owned();
        warp.find(instruction, mask.trailing_zeros(), Kind::AsyncNeverWaited, None, detail);
    }
    let next = warp.at(instruction) + 1;
    warp.end(mask, next)
}

/// `trap` and `brkpt`.
pub(crate) fn trap(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let detail = "the program stopped itself".to_owned();
    warp.fault(instruction, mask.trailing_zeros(), FaultKind::Trap, Kind::Trap, None, detail)
}

/// `call` of a known function.
pub(crate) fn call(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let at = warp.at(instruction);
    if mask != warp.active {
        // The call is a way of its own, and comes back to the join behind it.
        return warp.split(at + 1, [(warp.active & !mask, at + 1), (mask, at)]);
    }
    match warp.grid.code.calls[instruction.immediate as usize].function {
        Some(function) => enter(warp, instruction, function),
        None => call_indirect(warp, instruction, mask),
    }
}

/// `call` through a register. Lanes that call different functions do so one function after the other.
fn call_indirect(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let addresses = warp.read::<u64>(instruction.operands[0]);
    let first = mask.trailing_zeros();
    let address = addresses[first as usize];
    let at = warp.at(instruction);
    let same = crate::isa::mask_of(|lane| addresses[lane] == address) & mask;
    if same != mask {
        return warp.split(at + 1, [(same, at), (mask & !same, at)]);
    }
    let functions = &warp.grid.code.functions;
    let called = functions.iter().skip(1).position(|function| address_of(function.number) == address);
    match called {
        Some(index) => enter(warp, instruction, index as u32 + 1),
        None => {
            let detail = format!("{address:#x} is not the address of a function");
            warp.fault(instruction, first, FaultKind::InvalidPc, Kind::InvalidCall, None, detail)
        }
    }
}

/// Begins a function: a frame behind the caller's, with the arguments in it.
fn enter(warp: &mut Warp<'_>, instruction: &Instruction, index: u32) -> Flow {
    let code = warp.grid.code;
    let (caller, called) = (&code.functions[warp.frame.function as usize], &code.functions[index as usize]);
    let call = &code.calls[instruction.immediate as usize];
    let at = warp.at(instruction);
    let frame = warp.frame;
    if warp.running().stack.len() >= MAXIMUM_DEPTH || call.arguments.len() != called.parameters.len() {
        let lane = warp.active.trailing_zeros();
        let detail = format!("{} cannot be called here: too deep, or with other parameters", called.name);
        return warp.fault(instruction, lane, FaultKind::InvalidPc, Kind::InvalidCall, None, detail);
    }
    let inner = Frame {
        registers: frame.registers + caller.register_bytes,
        predicates: frame.predicates + caller.predicates,
        local: (frame.local + caller.local_bytes).next_multiple_of(16),
        function: index,
        stack: warp.state.stack_top(warp.active),
    };
    let active = warp.active;
    warp.state.reserve_local(inner.local + called.local_bytes);
    for (from, to) in call.arguments.iter().zip(&called.parameters) {
        warp.state.copy_local(active, frame.local + from.0, inner.local + to.0, from.1.min(to.1));
    }
    let fragment = warp.running();
    fragment.stack.push(Return { call: at, frame });
    fragment.frame = inner;
    warp.set_frame(inner);
    warp.target = called.entry;
    Flow::Jump
}

/// `ret` of a function: the only one, all others jump to it.
pub(crate) fn leave(warp: &mut Warp<'_>, instruction: &Instruction, _mask: u32) -> Flow {
    let Some(back) = warp.running().stack.pop() else {
        let detail = "a return without a call".to_owned();
        return warp.fault(instruction, 0, FaultKind::InvalidPc, Kind::InvalidCall, None, detail);
    };
    let code = warp.grid.code;
    let called = &code.functions[warp.frame.function as usize];
    let call = &code.calls[code.instructions[back.call as usize].immediate as usize];
    let (active, inner) = (warp.active, warp.frame);
    for (from, to) in called.results.iter().zip(&call.results) {
        warp.state.copy_local(active, inner.local + from.0, back.frame.local + to.0, from.1.min(to.1));
    }
    warp.state.unwind_stack(active, inner.stack);
    warp.running().frame = back.frame;
    warp.set_frame(back.frame);
    warp.target = back.call + 1;
    Flow::Jump
}
