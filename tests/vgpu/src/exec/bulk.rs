//! Bulk copies without tensors (PTX ISA 9.7.9.25.4 and 9.7.9.27): cp.async.bulk, cp.reduce.async.bulk; and single stores that an mbarrier counts: st.async, red.async.
//!
//! The bytes are moved at once; what shared memory receives counts as pending until somebody waits for the mbarrier that counts it ([`super::mbarrier`]).

use super::access::{Mode, SHARED, SHARED_BITS, addresses_at, space};
use super::code::{Flow, Handler, Instruction};
use super::mbarrier::send_bytes;
use super::reduce;
use super::semantics::{Environment, Semantics, act, handlers};
use super::shared::Flight;
use super::warp::Warp;
use crate::isa::WARP;

/// Bits of the modifier.
pub(crate) mod flag {
    /// Which addresses have 64 bits.
    pub const WIDE_TO: u32 = 1 << 8;
    pub const WIDE_FROM: u32 = 1 << 9;
    pub const WIDE_BARRIER: u32 = 1 << 10;
    /// From shared memory, else from global.
    pub const FROM_SHARED: u32 = 1 << 11;
    /// To global memory, else to shared.
    pub const TO_GLOBAL: u32 = 1 << 12;
    /// To the same place in several blocks of the cluster.
    pub const MULTICAST: u32 = 1 << 13;
    /// Where the number of the reduction begins (its operation plus one), and that of its type.
    pub const OPERATION: u32 = 24;
    pub const TYPE: u32 = 16;
}

/// The handlers of a bulk copy: operands are the destination, the source, the bytes, the mbarrier, and the mask of blocks.
pub(crate) fn copy() -> [Handler; 2] {
    #[derive(Clone, Copy)]
    struct Bulk;
    impl Semantics for Bulk {
        #[inline(always)]
        fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
            for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
                if let Err(flow) = copy_one::<E>(warp, instruction, lane) {
                    return flow;
                }
            }
            Flow::Next
        }
    }
    handlers(Bulk)
}

/// A shared address, of which one may be generic.
fn strip(address: u64) -> u64 {
    if address & !0xffff_ffff == SHARED { address - SHARED } else { address }
}

/// The place of an offset in a block of the cluster.
fn in_block(rank: u64, address: u64) -> u64 {
    address & ((1 << SHARED_BITS) - 1) | (rank + 1) << SHARED_BITS
}

fn copy_one<E: Environment>(warp: &mut Warp<'_>, instruction: &Instruction, lane: usize) -> Result<(), Flow> {
    let [to, from, size, barrier, blocks, _] = instruction.operands;
    let modifier = instruction.modifier;
    let has = |flag: u32| modifier & flag != 0;
    let to = strip(addresses_at(warp, to, has(flag::WIDE_TO), 0)[lane]);
    let from = strip(addresses_at(warp, from, has(flag::WIDE_FROM), 0)[lane]);
    let barrier = strip(addresses_at(warp, barrier, has(flag::WIDE_BARRIER), 0)[lane]);
    let bytes = u64::from(warp.lanes(size)[lane]);
    super::pending::check_bulk(warp, instruction, lane, to, from, bytes)?;
    if E::WATCHED && has(flag::FROM_SHARED) {
        read_shared(warp, instruction, lane, from, bytes);
    }
    if has(flag::TO_GLOBAL) {
        return move_bytes::<E>(warp, instruction, (to, from, bytes));
    }
    if !has(flag::MULTICAST) {
        move_bytes::<E>(warp, instruction, (to, from, bytes))?;
        return send(warp, instruction, lane, barrier, (to, bytes));
    }
    let mask = warp.lanes(blocks)[lane];
    for rank in (0..16).filter(|rank| mask >> rank & 1 != 0) {
        let to = in_block(rank, to);
        move_bytes::<E>(warp, instruction, (to, from, bytes))?;
        send(warp, instruction, lane, in_block(rank, barrier), (to, bytes))?;
    }
    Ok(())
}

/// Notes that a copy reads bytes of the own block's shared memory, and checks that they have passed a fence. Copies that an mbarrier counts are read when it has.
fn read_shared(warp: &mut Warp<'_>, instruction: &Instruction, lane: usize, from: u64, bytes: u64) {
    let rank = (from >> SHARED_BITS & 0xff) as usize;
    let own = warp.block.rank as usize;
    if rank != 0 && rank - 1 != own {
        return;
    }
    let begin = from & ((1 << SHARED_BITS) - 1);
    let end = begin + bytes;
    if bytes == 0 || end > u64::from(warp.block.shared_bytes) {
        return;
    }
    let index = warp.state.index;
    for done in (begin..end).step_by(512) {
        let count = ((end - done) / 16).min(32) as u32;
        let mask = if count == 32 { u32::MAX } else { (1 << count) - 1 };
        let addresses: [u64; WARP] = std::array::from_fn(|lane| done + 16 * (lane as u64).min(u64::from(count - 1)));
        let access = super::watch::Lanes { warp: index, mask, addresses: &addresses, bytes: 16 };
        if let Err(conflict) = warp.shared[own].check_proxy(&access) {
            super::conflict::report(warp, instruction, own, *conflict);
            break;
        }
    }
    if instruction.modifier & flag::TO_GLOBAL != 0 {
        super::in_flight::bulk_reads(warp, lane, vec![(begin, end)]);
    }
}

/// Copies or reduces bytes, 512 at a time: as if all lanes moved 16 each.
fn move_bytes<E: Environment>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    (to, from, bytes): (u64, u64, u64),
) -> Result<(), Flow> {
    let modifier = instruction.modifier;
    let source = if modifier & flag::FROM_SHARED != 0 { space::SHARED } else { space::GLOBAL };
    let outward = modifier & flag::TO_GLOBAL != 0;
    let target = if outward { space::GLOBAL } else { space::SHARED };
    let operation = (modifier >> flag::OPERATION) as usize;
    let (ty, size) = reduce::TYPES[(modifier >> flag::TYPE & 0xff) as usize % reduce::TYPES.len()];
    let reduction = operation.checked_sub(1).and_then(|index| reduce::reduction(reduce::OPERATIONS[index % 8], ty));
    let mode = match reduction {
        Some(_) => Mode::Atomic,
        None if outward || !warp.grid.checks.async_copies => Mode::Write,
        None => Mode::Pending,
    };
    for done in (0..bytes).step_by(512) {
        let count = ((bytes - done) / 16).min(32) as u32;
        let lanes = if count == 32 { u32::MAX } else { (1 << count) - 1 };
        let places = |base: u64| -> [u64; WARP] { std::array::from_fn(|index| base + done + 16 * index as u64) };
        let (mut sources, mut targets) = (places(from), places(to));
        let read = E::locate(warp, instruction, lanes, source, &mut sources, 16, Mode::Read)?;
        let write = E::locate(warp, instruction, lanes, target, &mut targets, 16, mode)?;
        for index in 0..count as usize {
            let (from, to) = (read.pointer(sources[index]), write.pointer(targets[index]));
            // SAFETY: `locate` found 16 bytes at both; `to` is a multiple of 16, as was checked.
            unsafe {
                match reduction {
                    Some(reduce) => {
                        (0..16).step_by(size as usize).for_each(|offset| reduce(to.add(offset), from.add(offset)))
                    }
                    None => {
                        let chunk = from.cast::<[u8; 16]>().read_unaligned();
                        to.cast::<[u8; 16]>().write_unaligned(chunk);
                    }
                }
            }
        }
    }
    Ok(())
}

/// An mbarrier will count bytes that were written to shared memory.
fn send(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    lane: usize,
    barrier: u64,
    (to, bytes): (u64, u64),
) -> Result<(), Flow> {
    let rank = (to >> SHARED_BITS & 0xff) as u32;
    let own = rank == 0 || rank - 1 == warp.block.rank;
    let flight = Flight {
        bytes: bytes as u32,
        ranges: vec![(to & ((1 << SHARED_BITS) - 1), bytes)],
        warp: if own { warp.state.index } else { u32::MAX },
        lane: lane as u32,
    };
    send_bytes(warp, instruction, lane, barrier, flight)
}

/// What follows the store of `st.async` and `red.async`: the mbarrier counts the bytes. Operands are the address and the mbarrier, the immediate is their offsets in its two
/// halves, the low byte of the modifier the bytes of a lane.
pub(crate) fn count() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        let [to, barrier, ..] = instruction.operands;
        let (immediate, modifier) = (instruction.immediate, instruction.modifier);
        let to = addresses_at(warp, to, modifier & flag::WIDE_TO != 0, i64::from(immediate as i32));
        let wide = modifier & flag::WIDE_BARRIER != 0;
        let barriers = addresses_at(warp, barrier, wide, i64::from((immediate >> 32) as i32));
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            let place = (strip(to[lane]), u64::from(modifier & 0xff));
            if let Err(flow) = send(warp, instruction, lane, strip(barriers[lane]), place) {
                return flow;
            }
        }
        Flow::Next
    })
}
