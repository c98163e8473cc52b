//! Instructions that lanes of a warp execute together (PTX ISA 9.7.9.6, 9.7.13.5 to 9.7.13.12): shfl, vote, match, redux, elect, activemask, bar.warp.sync; and how
//! lanes come together for them.
//!
//! The member mask is operand [`MEMBERS`]. A lane that arrives waits until all lanes of its member mask have arrived that have not ended. They need not come in one fragment: fragments that took
//! different ways to the same instruction wait for each other, and the last one executes it for all. For `bar.warp.sync` the instructions may differ too.

use super::Class;
use super::code::{Flow, Handler, Instruction};
use super::semantics::act;
use super::warp::{Progress, Warp};
use crate::checks::Kind;
use crate::isa::exchange::{self, Reduction, Shuffle};
use crate::isa::{Value, WARP, mask_of};

/// The operand that holds the member mask, of all instructions here.
pub(crate) const MEMBERS: usize = 5;

/// Executes `group` for each set of lanes of a mask that name the same members, once all members are there.
#[inline(always)]
fn together(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
    group: impl Fn(&mut Warp<'_>, &Instruction, u32),
) -> Flow {
    let members = warp.lanes(instruction.operands[MEMBERS]);
    let wanted = members[mask.trailing_zeros() as usize & 31];
    let same = mask_of(|lane| members[lane] == wanted);
    if same & mask == mask && wanted & warp.state.all == mask {
        group(warp, instruction, mask);
        return Flow::Next;
    }
    match assemble(warp, instruction, mask, members) {
        Ok(all) => {
            let mut left = all;
            while left != 0 {
                let wanted = members[left.trailing_zeros() as usize];
                let lanes = mask_of(|lane| members[lane] == wanted) & left;
                group(warp, instruction, lanes);
                left &= !lanes;
            }
            Flow::Next
        }
        Err(flow) => flow,
    }
}

/// The lanes that can execute the instruction now: those of the mask, and those that wait for them. All of the latter go on behind it.
#[cold]
fn assemble(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32, members: &[u32; WARP]) -> Result<u32, Flow> {
    let at = warp.at(instruction);
    if let Some(lane) = (0..WARP).find(|&lane| mask >> lane & 1 != 0 && members[lane] >> lane & 1 == 0) {
        let detail = format!("the member mask {:#010x} of lane {lane} does not name that lane", members[lane]);
        warp.find(instruction, lane as u32, Kind::CollectiveMask, None, detail);
        return Ok(mask);
    }
    let all = mask | warp.waiting_at(at);
    let live = warp.state.live;
    let is_complete = |lane: usize| {
        let wanted = members[lane] & live;
        let same = mask_of(|other| members[other] == members[lane]) & all;
        wanted & !same == 0
    };
    let lanes: Vec<usize> = (0..WARP).filter(|lane| all >> lane & 1 != 0).collect();
    if lanes.iter().all(|&lane| is_complete(lane)) {
        let departed = lanes.iter().fold(0, |all, &lane| all | members[lane]) & warp.state.all & !live;
        // A barrier does not miss lanes that ended before; a result that should come from them does.
        if departed != 0 && !is_barrier(instruction) {
            let lane = mask.trailing_zeros();
            let detail = format!("the member mask names the lanes {departed:#010x}, which have ended");
            warp.find(instruction, lane, Kind::CollectiveMask, None, detail);
        }
        warp.advance_waiting(at);
        return Ok(all);
    }
    if let Some(&lane) =
        lanes.iter().find(|&&lane| members[lane] & all & !mask_of(|other| members[other] == members[lane]) != 0)
    {
        let detail = format!("lanes that lane {lane} names in its member mask {:#010x} name others", members[lane]);
        warp.find(instruction, lane as u32, Kind::CollectiveMask, None, detail);
        warp.advance_waiting(at);
        return Ok(all);
    }
    Err(warp.pause(at, Progress::Lanes))
}

/// Whether an instruction is `bar.warp.sync`.
fn is_barrier(instruction: &Instruction) -> bool {
    instruction.modifier == WARP_BARRIER
}

/// The modifier of `bar.warp.sync`.
pub(crate) const WARP_BARRIER: u32 = u32::MAX;

/// `shfl.sync`: operands are the destination, a predicate, the value, the lane, and the clamp.
pub(crate) fn shuffle(shuffle: Shuffle) -> [Handler; 2] {
    macro_rules! of {
        ($kind:ident) => {
            act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
                together(warp, instruction, mask, |warp, instruction, mask| {
                    let [d, p, a, b, c, _] = instruction.operands;
                    let (sources, inside) = exchange::shuffle_sources(Shuffle::$kind, warp.lanes(b), warp.lanes(c));
                    let a = warp.lanes(a);
                    let mut result = *a;
                    for lane in 0..WARP {
                        result[lane] = a[sources[lane] as usize & 31];
                    }
                    warp.set_lanes(d, mask, &result);
                    warp.set_predicate(p.predicate(), mask, inside);
                })
            })
        };
    }
    match shuffle {
        Shuffle::Up => of!(Up),
        Shuffle::Down => of!(Down),
        Shuffle::Butterfly => of!(Butterfly),
        Shuffle::Index => of!(Index),
    }
}

/// `vote.sync.ballot`: operands are the destination and the predicate.
pub(crate) fn ballot(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    together(warp, instruction, mask, |warp, instruction, mask| {
        let [d, a, ..] = instruction.operands;
        let ballot = exchange::vote_ballot(mask, warp.predicate(a.predicate()));
        warp.set_lanes(d, mask, &[ballot; WARP]);
    })
}

/// `vote.sync.all`, `.any`, `.uni` by the modifier 0, 1, 2: operands are the predicates.
pub(crate) fn vote(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    together(warp, instruction, mask, |warp, instruction, mask| {
        let [d, a, ..] = instruction.operands;
        let holds = warp.predicate(a.predicate());
        let result = match instruction.modifier {
            0 => exchange::vote_all(mask, holds),
            1 => exchange::vote_any(mask, holds),
            _ => exchange::vote_uni(mask, holds),
        };
        warp.set_predicate(d.predicate(), mask, if result { u32::MAX } else { 0 });
    })
}

/// `match.any.sync`: operands are the destination and the value.
pub(crate) fn match_any<R: Value<Register = R> + PartialEq>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Flow {
    together(warp, instruction, mask, |warp, instruction, mask| {
        let [d, a, ..] = instruction.operands;
        let result = exchange::match_any(mask, warp.read::<R>(a));
        warp.set_lanes(d, mask, &result);
    })
}

/// `match.all.sync`: operands are the destination, the value, nothing, and a predicate.
pub(crate) fn match_all<R: Value<Register = R> + PartialEq>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Flow {
    together(warp, instruction, mask, |warp, instruction, mask| {
        let [d, a, _, p, ..] = instruction.operands;
        let (result, same) = exchange::match_all(mask, warp.read::<R>(a));
        warp.set_lanes(d, mask, &[result; WARP]);
        warp.set_predicate(p.predicate(), mask, if same { u32::MAX } else { 0 });
    })
}

/// The reductions of `redux.sync` in the order of its modifier.
pub(crate) const REDUCTIONS: [Reduction; 8] = [
    Reduction::Add,
    Reduction::Min,
    Reduction::Max,
    Reduction::MinSigned,
    Reduction::MaxSigned,
    Reduction::And,
    Reduction::Or,
    Reduction::Xor,
];

/// `redux.sync`: operands are the destination and the value.
pub(crate) fn redux(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    together(warp, instruction, mask, |warp, instruction, mask| {
        let [d, a, ..] = instruction.operands;
        let reduction = REDUCTIONS[instruction.modifier as usize % REDUCTIONS.len()];
        let result = exchange::redux(reduction, mask, warp.lanes(a));
        warp.set_lanes(d, mask, &[result; WARP]);
    })
}

/// `elect.sync`: operands are the destination and a predicate.
pub(crate) fn elect(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    together(warp, instruction, mask, |warp, instruction, mask| {
        let [d, p, ..] = instruction.operands;
        let leader = exchange::elect(mask);
        warp.set_lanes(d, mask, &[leader; WARP]);
        warp.set_predicate(p.predicate(), mask, 1 << leader);
    })
}

/// `activemask`.
pub(crate) fn active_mask(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    warp.set_lanes(instruction.operands[0], mask, &[mask; WARP]);
    Flow::Next
}

/// `bar.warp.sync`. What lanes wrote before is seen by the others behind it.
pub(crate) fn warp_barrier(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let members = warp.lanes(instruction.operands[MEMBERS]);
    let flow = together(warp, instruction, mask, |_, _, _| {});
    match flow {
        Flow::Next => {
            let lanes = members[mask.trailing_zeros() as usize & 31] & warp.state.live;
            let (rank, index) = (warp.block.rank as usize, warp.state.index);
            warp.shared[rank].synchronise_lanes(index, lanes);
            flow
        }
        _ => meet_elsewhere(warp, instruction, mask, members),
    }
}

/// Lanes that wait at other warp barriers with the same members: if they are all that is missing, everybody goes on.
#[cold]
fn meet_elsewhere(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32, members: &[u32; WARP]) -> Flow {
    let wanted = members[mask.trailing_zeros() as usize & 31];
    let code = warp.grid.code;
    let mut arrived = mask;
    let mut others = Vec::new();
    for (index, fragment) in warp.state.fragments.iter().enumerate() {
        let there = &code.instructions[fragment.at as usize];
        if fragment.progress == Progress::Lanes && there.run == instruction.run {
            arrived |= fragment.mask;
            others.push(index);
        }
    }
    if wanted & warp.state.live & !arrived != 0 {
        return Flow::Switch;
    }
    for index in others {
        let fragment = &mut warp.state.fragments[index];
        fragment.progress = Progress::Ready;
        fragment.at += 1;
    }
    let (rank, index) = (warp.block.rank as usize, warp.state.index);
    warp.shared[rank].synchronise_lanes(index, wanted);
    Flow::Switch
}

/// What it is when lanes of a warp do not come to an instruction that all have to execute.
pub(super) fn kind_of_divergence(instruction: &Instruction) -> Kind {
    if instruction.class == Some(Class::Barrier) { Kind::DivergentBarrier } else { Kind::CollectiveMask }
}

impl Warp<'_> {
    /// The lanes of other fragments that wait for lanes at this instruction, in the same call.
    fn waiting_at(&self, at: u32) -> u32 {
        let depth = self.state.fragments[self.fragment].stack.len();
        let others = self.state.fragments.iter().enumerate().filter(|(index, _)| *index != self.fragment);
        let waiting = others
            .filter(|(_, other)| other.progress == Progress::Lanes && other.at == at && other.stack.len() == depth);
        waiting.map(|(_, other)| other.mask).fold(0, |all, mask| all | mask)
    }

    /// The other fragments that wait at this instruction go on behind it.
    fn advance_waiting(&mut self, at: u32) {
        let own = self.fragment;
        let depth = self.state.fragments[own].stack.len();
        for (index, other) in self.state.fragments.iter_mut().enumerate() {
            if index != own && other.progress == Progress::Lanes && other.at == at && other.stack.len() == depth {
                other.progress = Progress::Ready;
                other.at += 1;
            }
        }
    }

    /// For instructions that all lanes of the warp must execute as one: waits until they are there, and makes them one fragment.
    #[inline(always)]
    pub fn converge(&mut self, instruction: &Instruction, mask: u32) -> Result<(), Flow> {
        if mask == self.state.live { Ok(()) } else { self.gather(instruction, mask) }
    }

    #[cold]
    fn gather(&mut self, instruction: &Instruction, mask: u32) -> Result<(), Flow> {
        let at = self.at(instruction);
        let all = mask | self.waiting_at(at);
        if all != self.state.live || mask != self.active {
            if mask != self.active {
                // Some lanes of this very fragment skip the instruction: a guard that differs.
                let lane = (self.active & !mask).trailing_zeros();
                let detail = format!("lane {lane} does not execute it, and others of its warp do: all have to");
                self.find(instruction, lane, kind_of_divergence(instruction), None, detail);
                return Ok(());
            }
            return Err(self.pause(at, Progress::Lanes));
        }
        // The others' waiting is over: their lanes run with this fragment, and return to what is common of their joins.
        let depth = self.running().stack.len();
        let mut index = 0;
        while index < self.state.fragments.len() {
            let other = &self.state.fragments[index];
            let waits = other.progress == Progress::Lanes && other.at == at && other.stack.len() == depth;
            if index != self.fragment && waits {
                self.absorb(index);
            } else {
                index += 1;
            }
        }
        self.running().at = at;
        self.running().progress = Progress::Ready;
        // Runs again as one.
        Err(Flow::Switch)
    }

    /// Makes the lanes of a fragment part of the running one.
    fn absorb(&mut self, index: usize) {
        let other = self.state.fragments.swap_remove(index);
        if self.fragment == self.state.fragments.len() {
            self.fragment = index;
        }
        let own = self.running().clone();
        let mut chain = Vec::new();
        let mut join = own.join;
        while let Some(index) = join {
            chain.push(index);
            join = self.state.joins[index as usize].fragment.join;
        }
        // Lanes leave the joins that the two do not share.
        let mut common = other.join;
        while let Some(index) = common.filter(|index| !chain.contains(index)) {
            self.leave_join(index, other.mask);
            common = self.state.joins[index as usize].fragment.join;
        }
        let mut join = own.join;
        while let Some(index) = join.filter(|&index| Some(index) != common) {
            join = self.state.joins[index as usize].fragment.join;
            self.leave_join(index, own.mask);
        }
        let own = self.running();
        own.mask |= other.mask;
        own.join = common;
    }
}
