//! mbarrier objects (PTX ISA 9.7.13.15): 64 bits of shared memory that count arrivals and bytes.
//!
//! The ISA leaves the contents open. Ours, from the lowest bit: 20 bits of arrivals that are expected in each phase, 20 of arrivals that are pending in this one,
//! 21 of bytes that are pending (as a signed number), the phase, and a mark that says that the object is one. The token of `arrive` is the word before.
//!
//! A wait that is not over gives its answer and the turn of the warp. What those who arrived knew of accesses to shared memory, those who saw the phase end know.

use super::FaultKind;
use super::access::{LOCAL, SHARED, SHARED_BITS, addresses_at};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, handlers, store as store_register};
use super::shared::Flight;
use super::warp::{Progress, Warp};
use crate::checks::{Kind, Space};
use crate::isa::WARP;

/// An object taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Object {
    expected: u32,
    pending: u32,
    bytes: i32,
    phase: bool,
}

const COUNT: u64 = (1 << 20) - 1;
const BYTES: u64 = (1 << 21) - 1;
const MARK: u64 = 0b10 << 62;

impl Object {
    fn decode(word: u64) -> Option<Object> {
        (word & 0b11 << 62 == MARK).then_some(Object {
            expected: (word & COUNT) as u32,
            pending: (word >> 20 & COUNT) as u32,
            bytes: ((word >> 40 & BYTES) << 11) as i32 >> 11,
            phase: word >> 61 & 1 != 0,
        })
    }

    fn encode(self) -> u64 {
        u64::from(self.expected)
            | u64::from(self.pending) << 20
            | (self.bytes as u64 & BYTES) << 40
            | u64::from(self.phase) << 61
            | MARK
    }

    /// Begins the next phase if nothing is pending any more.
    fn settle(&mut self) -> bool {
        let ends = self.pending == 0 && self.bytes == 0;
        if ends {
            self.phase = !self.phase;
            self.pending = self.expected;
        }
        ends
    }
}

/// What an instruction does with the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    /// `init`: operand 2 is the count.
    Initialise,
    /// `inval`.
    Invalidate,
    /// `expect_tx`: operand 2 is the bytes.
    Expect,
    /// `complete_tx`: operand 2 is the bytes.
    Complete,
    /// `arrive`: operand 2 is the count; the result is the token.
    Arrive,
    /// `arrive.expect_tx`: operand 2 is the bytes.
    ArriveExpect,
    /// `arrive_drop`: operand 2 is the count.
    Drop,
    /// `arrive_drop.expect_tx`: operand 2 is the bytes.
    DropExpect,
    /// `cp.async.mbarrier.arrive.noinc`: copies of the lane become visible with it.
    ArriveCopies,
    /// The same without `.noinc`: the count goes up first.
    ArriveCopiesMore,
}

const OPERATIONS: [Operation; 10] = [
    Operation::Initialise,
    Operation::Invalidate,
    Operation::Expect,
    Operation::Complete,
    Operation::Arrive,
    Operation::ArriveExpect,
    Operation::Drop,
    Operation::DropExpect,
    Operation::ArriveCopies,
    Operation::ArriveCopiesMore,
];

#[derive(Clone, Copy)]
struct Change;

impl Semantics for Change {
    /// Operands: destination of the token, address, count or bytes. The operation is in the upper byte of the modifier.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        change(warp, instruction, mask)
    }
}

/// The handlers of all instructions that change an object.
pub(crate) fn changes() -> [Handler; 2] {
    handlers(Change)
}

/// Shared addresses of lanes whose operand may be generic.
fn shared_addresses(warp: &Warp<'_>, instruction: &Instruction) -> [u64; WARP] {
    let modifier = instruction.modifier;
    let mut lanes = addresses_at(warp, instruction.operands[1], modifier & 1 << 8 != 0, instruction.immediate as i64);
    for lane in &mut lanes {
        *lane = if *lane >= SHARED && *lane < SHARED + (SHARED - LOCAL) { *lane - SHARED } else { *lane };
    }
    lanes
}

/// Finds the object of one lane: the block of the cluster, and the offset.
fn object(warp: &mut Warp<'_>, instruction: &Instruction, lane: usize, address: u64) -> Result<(usize, u64), Flow> {
    let rank = match address >> SHARED_BITS & 0xff {
        0 => warp.block.rank as usize,
        rank => rank as usize - 1,
    };
    let offset = address & ((1 << SHARED_BITS) - 1);
    let inside = rank < warp.shared.len() && offset + 8 <= u64::from(warp.block.shared_bytes);
    if inside && offset.is_multiple_of(8) {
        return Ok((rank, offset));
    }
    let place = Some((Space::Shared, address, 8));
    let detail = "no mbarrier object can lie there".to_owned();
    let (fault, kind) = if inside {
        (FaultKind::MisalignedAddress, Kind::Misaligned)
    } else {
        (FaultKind::IllegalAddress, Kind::OutOfSpace)
    };
    Err(warp.fault(instruction, lane as u32, fault, kind, place, detail))
}

/// Reads an object that must be one.
fn read(warp: &mut Warp<'_>, instruction: &Instruction, lane: usize, rank: usize, offset: u64) -> Result<Object, Flow> {
    let word = warp.shared[rank].word(offset);
    Object::decode(word).ok_or_else(|| {
        let place = Some((Space::Shared, offset, 8));
        let detail = "there is no mbarrier object: it was never initialised, or is invalid".to_owned();
        warp.fault(instruction, lane as u32, FaultKind::Finding, Kind::Uninitialised, place, detail)
    })
}

fn change(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let operation = OPERATIONS[(instruction.modifier >> 24) as usize % OPERATIONS.len()];
    let lanes = shared_addresses(warp, instruction);
    let amounts = *warp.lanes(instruction.operands[2]);
    let mut tokens = [0; WARP];
    if matches!(operation, Operation::ArriveCopies | Operation::ArriveCopiesMore) {
        super::pending::complete(warp, mask);
    }
    for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
        match change_one(warp, instruction, operation, lane, lanes[lane], amounts[lane]) {
            Ok(token) => tokens[lane] = token,
            Err(flow) => return flow,
        }
    }
    store_register(warp.register::<u64>(instruction.operands[0]), mask, &tokens);
    Flow::Next
}

fn change_one(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    operation: Operation,
    lane: usize,
    address: u64,
    amount: u32,
) -> Result<u64, Flow> {
    let (rank, offset) = object(warp, instruction, lane, address)?;
    match operation {
        Operation::Initialise => {
            let object = Object { expected: amount, pending: amount, bytes: 0, phase: false };
            warp.shared[rank].set_word(offset, object.encode());
            warp.shared[rank].begin_phase(offset);
            return Ok(0);
        }
        Operation::Invalidate => {
            warp.shared[rank].set_word(offset, 0);
            return Ok(0);
        }
        _ => {}
    }
    let mut object = read(warp, instruction, lane, rank, offset)?;
    let token = object.encode();
    let (arrivals, bytes) = match operation {
        Operation::Expect => (0, amount as i32),
        Operation::Complete => (0, -(amount as i32)),
        Operation::ArriveExpect | Operation::DropExpect => (1, amount as i32),
        Operation::ArriveCopies | Operation::ArriveCopiesMore => (1, 0),
        _ => (amount, 0),
    };
    if operation == Operation::ArriveCopiesMore {
        object.pending += 1;
    }
    if arrivals > object.pending {
        let place = Some((Space::Shared, offset, 8));
        let detail = format!("{arrivals} arrivals at an mbarrier that expects {} more in this phase", object.pending);
        return Err(warp.fault(instruction, lane as u32, FaultKind::Finding, Kind::BarrierCount, place, detail));
    }
    if matches!(operation, Operation::Drop | Operation::DropExpect) {
        object.expected = object.expected.saturating_sub(arrivals);
    }
    object.pending -= arrivals;
    object.bytes += bytes;
    let index = warp.state.index;
    if arrivals > 0 && rank == warp.block.rank as usize {
        warp.shared[rank].release_to(index, offset);
    }
    if object.settle() {
        warp.shared[rank].end_phase(offset);
    }
    warp.shared[rank].set_word(offset, object.encode());
    Ok(token)
}

/// Bytes are on their way that an object will count: not before somebody waits for them in vain, as late as that may be on a GPU.
pub(crate) fn send_bytes(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    lane: usize,
    address: u64,
    flight: Flight,
) -> Result<(), Flow> {
    let (rank, offset) = object(warp, instruction, lane, address)?;
    read(warp, instruction, lane, rank, offset)?;
    warp.shared[rank].send(offset, flight);
    Ok(())
}

/// `test_wait` and `try_wait`: operands are the predicate, the address, and the token (bit 24 of the modifier: the parity instead).
pub(crate) fn wait(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let lanes = shared_addresses(warp, instruction);
    let by_parity = instruction.modifier & 1 << 24 != 0;
    let mut ended = 0;
    for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
        let (rank, offset) = match object(warp, instruction, lane, lanes[lane]) {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        let asked = if by_parity {
            warp.lanes(instruction.operands[2])[lane] & 1 != 0
        } else {
            warp.read::<u64>(instruction.operands[2])[lane] >> 61 & 1 != 0
        };
        let mut object = match read(warp, instruction, lane, rank, offset) {
            Ok(object) => object,
            Err(flow) => return flow,
        };
        while object.phase == asked {
            // The next copy that is on its way arrives now.
            let Some(bytes) = warp.shared[rank].receive(offset) else { break };
            object.bytes -= bytes as i32;
            if object.settle() {
                warp.shared[rank].end_phase(offset);
            }
            warp.shared[rank].set_word(offset, object.encode());
        }
        if object.phase != asked {
            ended |= 1 << lane;
            let index = warp.state.index;
            if rank == warp.block.rank as usize {
                warp.shared[rank].acquire_from(index, offset);
            }
        }
    }
    warp.set_predicate(instruction.operands[0].predicate(), mask, ended);
    if ended == mask {
        warp.state.awaits = None;
        return Flow::Next;
    }
    // Whoever is to arrive needs a turn for it.
    let at = warp.at(instruction);
    warp.state.yielded = true;
    warp.state.awaits = Some(at);
    warp.pause(at + 1, Progress::Ready)
}

/// `pending_count`: of a token.
pub(crate) fn pending_count() -> [Handler; 2] {
    super::map1(|_, token: u64| Object::decode(token).map_or(0, |object| object.pending))
}
