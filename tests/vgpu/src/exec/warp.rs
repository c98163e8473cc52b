//! A warp: its registers and fragments ([`State`]), and the view of everything around it that instructions get ([`Warp`]).

use super::FaultKind;
use super::access::Suspect;
use super::block::Block;
use super::code::{Flow, Instruction, Operand, Predicate, Slot};
use super::grid::Grid;
use super::in_flight::InFlight;
use super::pending::Pending;
use super::shared::Shared;
use super::stack::Stack;
use super::worker::Worker;
use crate::checks::{Finding, Kind, Place, Source, Space};
use crate::isa::{Lanes, Value, WARP};

/// Lanes that are at the same place of the program and run together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fragment {
    /// The next instruction.
    pub at: u32,
    /// The lanes.
    pub mask: u32,
    /// The innermost [`Join`] at which they are expected.
    pub join: Option<u32>,
    /// Whether and for what they wait.
    pub progress: Progress,
    /// Where the frame of the running function begins.
    pub frame: Frame,
    /// The calls that led here.
    pub stack: Vec<Return>,
}

/// Whether a fragment can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Progress {
    /// It can.
    #[default]
    Ready,
    /// It waits for other lanes of the warp to execute the same instruction.
    Lanes,
    /// It waits for a barrier of the block, or of the cluster.
    Barrier(u8),
    /// What it waited for has happened: the instruction is executed again and gets this value.
    Resumed(u32),
}

/// Offsets at which the frame of a function begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Frame {
    /// In the registers, in bytes.
    pub registers: u32,
    /// In the predicates.
    pub predicates: u32,
    /// In the local memory of each lane, in bytes.
    pub local: u32,
    /// Which function it is.
    pub function: u32,
    /// What its caller had on the stack ([`super::stack`]).
    pub stack: u32,
}

/// How to go on after a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Return {
    /// The call instruction.
    pub call: u32,
    /// The caller's frame.
    pub frame: Frame,
}

/// A place at which lanes that took different ways meet again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Join {
    /// The lanes that are expected; none if the join is free.
    pub members: u32,
    /// What they become when all have come: its mask is the lanes that are there.
    pub fragment: Fragment,
}

/// What a warp keeps between its turns.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Its number within the block.
    pub index: u32,
    /// Registers of all frames.
    pub registers: Vec<Slot>,
    /// Predicates of all frames.
    pub predicates: Vec<u32>,
    /// Local memory of all lanes, one after the other.
    pub local: Vec<u8>,
    /// 1 for each byte of it that was written; empty unless checked.
    pub local_written: Vec<u8>,
    /// Whether `local_written` is kept.
    pub track_local: bool,
    /// Local memory of one lane.
    pub local_bytes: u32,
    /// Lanes that have not ended.
    pub live: u32,
    /// All lanes that began.
    pub all: u32,
    /// Fragments that run or wait; not those that wait at a join.
    pub fragments: Vec<Fragment>,
    /// Joins, of which those without members are free.
    pub joins: Vec<Join>,
    /// `%tid` of each lane.
    pub thread: [Lanes; 3],
    /// Set by instructions that found that they have to wait for others: the warp gives up its turn.
    pub yielded: bool,
    /// Turns in a row in which it did nothing but jump.
    pub stale: u32,
    /// Turns in a row that were too short for it.
    pub turns: u32,
    /// Where it found an mbarrier object not ready when it gave up its turn.
    pub awaits: Option<u32>,
    /// Instructions so far.
    pub instructions: u64,
    /// The phase of the barrier of the cluster in which it arrived last.
    pub cluster_phase: u32,
    /// Barriers of all threads of the block that it has passed, and the last of them.
    pub barriers: u32,
    pub last_barrier: u32,
    /// Asynchronous copies.
    pub pending: Pending,
    /// A store that may be in a race, until it is done.
    pub suspect: Option<Box<Suspect>>,
    /// Asynchronous operations that read.
    pub in_flight: InFlight,
    /// What lanes took of local memory beside their frames.
    pub stack: Stack,
}

impl State {
    /// Makes room for so many bytes of local memory per lane.
    pub fn reserve_local(&mut self, bytes: u32) {
        if bytes <= self.local_bytes {
            return;
        }
        let (old, new) = (self.local_bytes as usize, bytes.next_multiple_of(256) as usize);
        let spread = |from: &[u8]| {
            let mut to = vec![0; new * WARP];
            for lane in 0..WARP * usize::from(old > 0) {
                to[lane * new..][..old].copy_from_slice(&from[lane * old..][..old]);
            }
            to
        };
        self.local = spread(&self.local);
        if self.track_local {
            self.local_written = spread(&self.local_written);
        }
        self.local_bytes = new as u32;
    }

    /// Copies bytes within the local memory of each lane of a mask.
    pub fn copy_local(&mut self, mask: u32, from: u32, to: u32, bytes: u32) {
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            let begin = lane * self.local_bytes as usize;
            let (from, to) = (begin + from as usize, begin + to as usize);
            self.local.copy_within(from..from + bytes as usize, to);
            if self.track_local {
                self.local_written.copy_within(from..from + bytes as usize, to);
            }
        }
    }
}

/// The running warp and everything around it.
pub(crate) struct Warp<'a> {
    /// The frame of the running function, and the constants.
    banks: [*mut u8; 2],
    predicates: *mut u32,
    /// The lanes of the running fragment.
    pub active: u32,
    /// The running fragment.
    pub fragment: usize,
    /// Where a [`Flow::Jump`] goes.
    pub target: u32,
    /// The frame of the running fragment.
    pub frame: Frame,
    /// What is kept of the warp.
    pub state: &'a mut State,
    /// Its block.
    pub block: &'a mut Block,
    /// The shared memory of the blocks of its cluster.
    pub shared: &'a mut [Shared],
    /// The launch.
    pub grid: &'a Grid<'a>,
    /// What belongs to the host thread.
    pub worker: &'a mut Worker,
}

impl<'a> Warp<'a> {
    /// A view of a warp; [`Warp::resume`] chooses the fragment.
    pub fn new(
        state: &'a mut State,
        block: &'a mut Block,
        shared: &'a mut [Shared],
        grid: &'a Grid<'a>,
        worker: &'a mut Worker,
    ) -> Warp<'a> {
        let constants = grid.constants.as_ptr().cast_mut().cast();
        let banks = [std::ptr::null_mut(), constants];
        let predicates = std::ptr::null_mut();
        Warp {
            banks,
            predicates,
            active: 0,
            fragment: 0,
            target: 0,
            frame: Frame::default(),
            state,
            block,
            shared,
            grid,
            worker,
        }
    }

    /// Makes a fragment the running one.
    pub fn resume(&mut self, fragment: usize) {
        self.fragment = fragment;
        let Fragment { mask, frame, .. } = self.state.fragments[fragment];
        self.active = mask;
        self.set_frame(frame);
    }

    /// Runs in another frame from now on; makes room for it where there is none.
    pub fn set_frame(&mut self, frame: Frame) {
        let function = &self.grid.code.functions[frame.function as usize];
        let slots = (frame.registers + function.register_bytes) as usize / size_of::<Slot>();
        if self.state.registers.len() < slots {
            self.state.registers.resize(slots, Slot::default());
        }
        let predicates = (frame.predicates + function.predicates) as usize;
        if self.state.predicates.len() < predicates {
            self.state.predicates.resize(predicates, 0);
        }
        self.state.predicates[frame.predicates as usize] = u32::MAX;
        self.frame = frame;
        // Both offsets are within what was just sized.
        self.banks[0] = self.state.registers.as_mut_ptr().cast::<u8>().wrapping_add(frame.registers as usize);
        self.predicates = self.state.predicates.as_mut_ptr().wrapping_add(frame.predicates as usize);
    }

    /// Where a register (32 or 64 bits per lane) or constant lies.
    #[inline(always)]
    pub fn register<R>(&self, operand: Operand) -> *mut [R; WARP] {
        // SAFETY: `bank` is 0 or 1.
        let bank = unsafe { *self.banks.get_unchecked(operand.bank()) };
        // The decoder only makes offsets within the frame and the constants.
        bank.wrapping_add(operand.offset()).cast()
    }

    /// The lanes of a register or constant that holds values of this type. The borrow ends before the register is written.
    #[inline(always)]
    pub fn read<'r, V: Value>(&self, operand: Operand) -> &'r [V::Register; WARP] {
        // SAFETY: see `register`; a slot is aligned, initialised and valid for every bit pattern. Handlers read all operands before they store.
        unsafe { &*self.register::<V::Register>(operand) }
    }

    /// The lanes of a 32-bit register.
    #[inline(always)]
    pub fn lanes<'r>(&self, operand: Operand) -> &'r Lanes {
        self.read::<u32>(operand)
    }

    /// Writes the lanes of `mask` of a 32-bit register.
    #[inline(always)]
    pub fn set_lanes(&mut self, operand: Operand, mask: u32, lanes: &Lanes) {
        super::semantics::store(self.register(operand), mask, lanes);
    }

    /// The lanes in which a predicate holds.
    #[inline(always)]
    pub fn predicate(&self, predicate: Predicate) -> u32 {
        // SAFETY: the decoder only makes indices within the frame.
        unsafe { *self.predicates.add(predicate.index()) ^ predicate.flip() }
    }

    /// Writes the lanes of `mask` of a predicate.
    #[inline(always)]
    pub fn set_predicate(&mut self, predicate: Predicate, mask: u32, holds: u32) {
        // SAFETY: as above; the view is borrowed mutably and nobody else points into its predicates.
        let register = unsafe { &mut *self.predicates.add(predicate.index()) };
        *register = *register & !mask | holds & mask;
    }

    /// The two destinations of comparisons, operands 0 and 1: the comparison and its negation, each combined with the predicate operand 4 by the
    /// upper byte of the modifier: 0 `and` (with "true" where there is none), 1 `or`, 2 `xor`.
    #[inline(always)]
    pub fn set_predicates(&mut self, instruction: &Instruction, mask: u32, holds: u32) {
        let other = self.predicate(instruction.operands[4].predicate());
        let combine = |holds: u32| match instruction.modifier >> 24 {
            0 => holds & other,
            1 => holds | other,
            _ => holds ^ other,
        };
        let [p, q, ..] = instruction.operands;
        self.set_predicate(p.predicate(), mask, combine(holds));
        if q.predicate() != Predicate::SINK {
            self.set_predicate(q.predicate(), mask, combine(!holds));
        }
    }

    /// The operands of an instruction that has them in a list.
    #[inline(always)]
    pub fn list(&self, instruction: &Instruction) -> &'a [Operand] {
        let [Operand(first), Operand(count), ..] = instruction.operands;
        &self.grid.code.lists[first as usize..(first + count) as usize]
    }

    /// The place of an instruction in the code.
    #[inline(always)]
    pub fn at(&self, instruction: &Instruction) -> u32 {
        let bytes = std::ptr::from_ref(instruction) as usize - self.grid.code.instructions.as_ptr() as usize;
        (bytes / size_of::<Instruction>()) as u32
    }

    /// The running fragment.
    pub fn running(&mut self) -> &mut Fragment {
        &mut self.state.fragments[self.fragment]
    }

    /// Gives up the turn; the fragment goes on at `at`.
    #[cold]
    pub fn pause(&mut self, at: u32, progress: Progress) -> Flow {
        let fragment = self.running();
        fragment.at = at;
        fragment.progress = progress;
        Flow::Switch
    }

    /// If what the instruction waited for has happened: the value it was given.
    pub fn resumed(&mut self) -> Option<u32> {
        match self.running().progress {
            Progress::Resumed(value) => {
                self.running().progress = Progress::Ready;
                Some(value)
            }
            _ => None,
        }
    }

    /// The place of a finding at an instruction, for a lane.
    #[cold]
    pub fn place(&self, at: u32, lane: u32) -> Place {
        let code = self.grid.code;
        let origin = code.origins.get(at as usize).cloned().unwrap_or_default();
        let kernel = &code.functions[0].name;
        let function = &code.functions[origin.function as usize].name;
        let source = |(file, line): (u32, u32)| Source { file: code.files[file as usize].clone(), line };
        // Chains of calls are short; a bound keeps a strange one from going on for ever.
        let callers = std::iter::successors(Some(origin.source), |&place| {
            code.inlined.get(&(origin.function, place)).copied().filter(|&outer| outer != place)
        });
        let inlined_at = callers.skip(1).take(16).map(source).collect();
        Place {
            kernel: if kernel == function { kernel.clone() } else { format!("{kernel}, function {function}") },
            line: origin.line,
            instruction: origin.text.into(),
            source: (origin.source.1 > 0).then(|| source(origin.source)),
            inlined_at,
            block: self.block.id,
            thread: self.state.thread.map(|lanes| lanes[lane as usize & 31]),
        }
    }

    /// Notes that the kernel did something that a GPU may survive.
    #[cold]
    pub fn find(
        &mut self,
        instruction: &Instruction,
        lane: u32,
        kind: Kind,
        address: Option<(Space, u64, u32)>,
        detail: String,
    ) {
        let at = self.at(instruction);
        if self.worker.count_again(kind, at) {
            return;
        }
        let finding = Finding::new(kind, self.place(at, lane), detail);
        let finding = match address {
            Some((space, address, bytes)) => finding.at(space, address, bytes),
            None => finding,
        };
        self.worker.found(kind, at, finding);
    }

    /// Ends the launch because of what a lane did.
    #[cold]
    pub fn fault(
        &mut self,
        instruction: &Instruction,
        lane: u32,
        fault: FaultKind,
        kind: Kind,
        address: Option<(Space, u64, u32)>,
        detail: String,
    ) -> Flow {
        self.find(instruction, lane, kind, address, detail);
        self.worker.fault.get_or_insert(fault);
        Flow::Fault
    }
}
