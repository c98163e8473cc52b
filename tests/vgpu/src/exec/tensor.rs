//! Copies of tensor boxes between global and shared memory (PTX ISA 9.7.9.27): cp.async.bulk.tensor, cp.reduce.async.bulk.tensor. The map is read where the kernel has it; what it
//! means is in [`crate::isa::tensor_map`].
//!
//! A copy is done at once, but its bytes count as pending, and are counted at the mbarrier, only when somebody waits there. Rows of the box that reach beyond the tensor are filled when loaded
//! and left out when stored.

use super::FaultKind;
use super::access::{Mode, PARAM, SHARED, SHARED_BITS, addresses_at};
use super::code::{Flow, Handler, Instruction};
use super::in_flight;
use super::mbarrier::send_bytes;
use super::reduce::{OPERATIONS, Reduce, reduction, type_of};
use super::semantics::{Environment, Semantics, handlers};
use super::shared::Flight;
use super::warp::Warp;
use super::watch;
use crate::checks::{Kind, Space};
use crate::isa::tensor_map::{BYTES, TensorMap};
use crate::isa::{Lanes64, WARP};

/// Bits of the modifier: which addresses have 64 bits.
pub(crate) mod flag {
    pub const WIDE_SHARED: u32 = 1 << 8;
    pub const WIDE_BARRIER: u32 = 1 << 9;
    /// From shared to global memory.
    pub const STORE: u32 = 1 << 10;
    /// To several blocks of the cluster: the mask is the operand behind the mbarrier.
    pub const MULTICAST: u32 = 1 << 11;
    /// With a map of the im2col kind; behind the coordinates stand the offsets.
    pub const IM2COL: u32 = 1 << 12;
    /// Where the number of the reduction begins: its operation plus one.
    pub const OPERATION: u32 = 24;
}

/// The handlers of a tensor copy: a list of the map, the shared address, the mbarrier, the mask of blocks, the coordinates, and of im2col loads the offsets.
pub(crate) fn copy() -> [Handler; 2] {
    #[derive(Clone, Copy)]
    struct Tensor;
    impl Semantics for Tensor {
        #[inline(always)]
        fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
            for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
                if let Err(flow) = copy_box(warp, instruction, lane, E::WATCHED) {
                    return flow;
                }
            }
            Flow::Next
        }
    }
    handlers(Tensor)
}

/// The map at a generic address.
fn read_map(warp: &mut Warp<'_>, instruction: &Instruction, lane: usize, address: u64) -> Result<TensorMap, Flow> {
    let mut bytes = [0; BYTES];
    let params = warp.grid.launch.params;
    let offset = address.wrapping_sub(PARAM) as usize;
    let found = if let Some(inside) = params.get(offset..).and_then(|rest| rest.get(..BYTES)) {
        bytes.copy_from_slice(inside);
        true
    } else {
        warp.grid.memory.read(address, &mut bytes).is_ok()
    };
    let map = TensorMap::decode(&bytes).filter(|_| found);
    let missing = "there is no tensor map that the driver or tensormap.replace made";
    let complaint = map.map_or(Some(missing), |map| map.complaint());
    map.filter(|_| complaint.is_none()).ok_or_else(|| {
        let detail = format!("the tensor map: {}", complaint.unwrap_or(missing));
        let place = Some((Space::Global, address, BYTES as u32));
        warp.fault(instruction, lane as u32, FaultKind::IllegalInstruction, Kind::InvalidOperand, place, detail)
    })
}

fn copy_box(warp: &mut Warp<'_>, instruction: &Instruction, lane: usize, watched: bool) -> Result<(), Flow> {
    let list = warp.list(instruction);
    let modifier = instruction.modifier;
    let [map, place, barrier, blocks, coordinates @ ..] = list else { return Ok(()) };
    let map = read_map(warp, instruction, lane, warp.read::<u64>(*map)[lane])?;
    let strip = |address: u64| if address & !0xffff_ffff == SHARED { address - SHARED } else { address };
    let place = strip(addresses_at(warp, *place, modifier & flag::WIDE_SHARED != 0, 0)[lane]);
    let barrier = strip(addresses_at(warp, *barrier, modifier & flag::WIDE_BARRIER != 0, 0)[lane]);
    let is_im2col = modifier & flag::IM2COL != 0;
    let count = if is_im2col && modifier & flag::STORE == 0 { coordinates.len() / 2 + 1 } else { coordinates.len() };
    let (coordinates, distances) = coordinates.split_at(count);
    let mut position = [0; 5];
    for (position, &operand) in position.iter_mut().zip(coordinates) {
        *position = warp.lanes(operand)[lane] as i32;
    }
    let mut offsets = [0; 3];
    for (offset, &operand) in offsets.iter_mut().zip(distances) {
        *offset = warp.lanes(operand)[lane] as u16;
    }
    if coordinates.len() != map.rank || is_im2col != map.im2col.is_some() {
        let kind = |is_im2col: bool| if is_im2col { "im2col" } else { "tiled" };
        let detail = format!(
            "{} copy with {} coordinates, {} map of rank {}",
            kind(is_im2col),
            coordinates.len(),
            kind(map.im2col.is_some()),
            map.rank
        );
        return Err(warp.fault(
            instruction,
            lane as u32,
            FaultKind::IllegalInstruction,
            Kind::InvalidOperand,
            None,
            detail,
        ));
    }
    let operation = (modifier >> flag::OPERATION) as usize;
    let reduction = operation
        .checked_sub(1)
        .map(|index| type_of(map.data_type).and_then(|ty| reduction(OPERATIONS[index % OPERATIONS.len()], ty)));
    if reduction == Some(None) {
        let detail = format!("no such reduction of elements of the type {:?}", map.data_type);
        let (fault, kind) = (FaultKind::IllegalInstruction, Kind::InvalidOperand);
        return Err(warp.fault(instruction, lane as u32, fault, kind, None, detail));
    }
    let targets = if modifier & flag::MULTICAST != 0 {
        let mask = warp.lanes(*blocks)[lane];
        (0..warp.shared.len()).filter(|rank| mask >> rank & 1 != 0).collect()
    } else {
        match place >> SHARED_BITS & 0xff {
            0 => vec![warp.block.rank as usize],
            rank => vec![rank as usize - 1],
        }
    };
    let offset = place & ((1 << SHARED_BITS) - 1);
    let bytes = u64::from(map.box_bytes());
    for &rank in &targets {
        if rank >= warp.shared.len()
            || offset + bytes > u64::from(warp.block.shared_bytes)
            || !offset.is_multiple_of(128)
        {
            let detail = format!(
                "a box of {bytes} bytes cannot lie there: it must be within shared memory, at a multiple of 128"
            );
            let place = Some((Space::Shared, place, bytes as u32));
            return Err(warp.fault(
                instruction,
                lane as u32,
                FaultKind::IllegalAddress,
                Kind::OutOfSpace,
                place,
                detail,
            ));
        }
        let place = (position, offsets);
        if modifier & flag::STORE != 0 && watched {
            in_flight::bulk_reads(warp, lane, vec![(offset, offset + bytes)]);
        }
        transfer(warp, instruction, lane, &map, place, rank, offset as u32, reduction.flatten(), watched)?;
    }
    if modifier & flag::STORE == 0 {
        for &rank in &targets {
            let barrier = if modifier & flag::MULTICAST != 0 {
                barrier & ((1 << SHARED_BITS) - 1) | (rank as u64 + 1) << SHARED_BITS
            } else {
                barrier
            };
            let flight = Flight {
                bytes: bytes as u32,
                ranges: vec![(offset, bytes)],
                warp: if rank == warp.block.rank as usize { warp.state.index } else { u32::MAX },
                lane: lane as u32,
            };
            send_bytes(warp, instruction, lane, barrier, flight)?;
        }
    }
    Ok(())
}

/// Copies a box to or from the shared memory of one block, row by row in chunks of 16 bytes.
#[allow(clippy::too_many_arguments)]
fn transfer(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    lane: usize,
    map: &TensorMap,
    (position, offsets): ([i32; 5], [u16; 3]),
    rank: usize,
    offset: u32,
    reduction: Option<Reduce>,
    watched: bool,
) -> Result<(), Flow> {
    let stores = instruction.modifier & flag::STORE != 0;
    let fill = map.fill_pattern().to_le_bytes();
    for row in map.rows(position, offsets) {
        let mut data: Vec<u8> = fill.iter().copied().cycle().take(map.box_row_bytes() as usize).collect();
        let inside = row.inside.start as usize..row.inside.end as usize;
        let chunks =
            (0..map.box_row_bytes()).step_by(16).map(|at| u64::from(map.swizzle(offset + row.shared_offset + at)));
        let chunks: Vec<u64> = chunks.collect();
        if watched {
            let written = if warp.grid.checks.async_copies { Mode::Pending } else { Mode::Write };
            note(warp, instruction, rank, &chunks, if stores { Mode::Read } else { written });
        }
        let base = warp.shared[rank].pointer();
        if stores {
            for (chunk, &at) in data.chunks_mut(16).zip(&chunks) {
                // SAFETY: the box lies within shared memory, and a swizzle only moves within 1024 bytes at a multiple of that.
                chunk.copy_from_slice(unsafe { std::slice::from_raw_parts(base.add(at as usize), chunk.len()) });
            }
        }
        if !inside.is_empty() {
            let (address, length) = (row.address.wrapping_add(inside.start as u64), inside.len() as u64);
            let window = warp.grid.table.find(address, length).ok_or_else(|| {
                let story = warp.grid.memory.story(address, length).to_string();
                let place = Some((Space::Global, address, length as u32));
                warp.fault(instruction, lane as u32, FaultKind::IllegalAddress, Kind::OutOfBounds, place, story)
            })?;
            let host = window.host(address);
            if stores {
                match reduction {
                    // SAFETY: the window holds the bytes; the elements are aligned, as the map was checked to make them.
                    Some(reduce) => unsafe {
                        let from = data[inside].as_ptr();
                        (0..length as usize)
                            .step_by(map.data_type.bytes() as usize)
                            .for_each(|offset| reduce(host.add(offset), from.add(offset)));
                    },
                    // SAFETY: the window holds the bytes.
                    None => unsafe { std::ptr::copy_nonoverlapping(data[inside].as_ptr(), host, length as usize) },
                }
                window.mark(address, length);
                warp.worker.counters.store_sectors += length.div_ceil(32);
                warp.worker.counters.store_sectors_ideal += length.div_ceil(32);
                if let Some([_, written]) = &warp.grid.touched {
                    warp.worker.counters.distinct_store_sectors += written.touch(address, length);
                }
            } else {
                if warp.grid.checks.initialised && !window.is_initialised(address, length) {
                    let place = Some((Space::Global, address, length as u32));
                    let detail = "nothing was ever written to part of the box".to_owned();
                    warp.find(instruction, lane as u32, Kind::Uninitialised, place, detail);
                }
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(host, data[inside].as_mut_ptr(), length as usize) };
                warp.worker.counters.load_sectors += length.div_ceil(32);
                warp.worker.counters.load_sectors_ideal += length.div_ceil(32);
                if let Some([read, _]) = &warp.grid.touched {
                    warp.worker.counters.distinct_load_sectors += read.touch(address, length);
                }
            }
        }
        if !stores {
            for (chunk, &at) in data.chunks(16).zip(&chunks) {
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(chunk.as_ptr(), base.add(at as usize), chunk.len()) };
            }
        }
    }
    Ok(())
}

/// Checks and notes chunks of shared memory that a copy touches.
fn note(warp: &mut Warp<'_>, instruction: &Instruction, rank: usize, chunks: &[u64], mode: Mode) {
    if rank != warp.block.rank as usize {
        return;
    }
    for group in chunks.chunks(WARP) {
        let lanes: Lanes64 = std::array::from_fn(|lane| group.get(lane).copied().unwrap_or(group[0]));
        let mask = if group.len() == WARP { u32::MAX } else { (1 << group.len()) - 1 };
        let access = watch::Lanes { warp: warp.state.index, mask, addresses: &lanes, bytes: 16 };
        let fenced = if mode == Mode::Read { warp.shared[rank].check_proxy(&access) } else { Ok(()) };
        if let Err(conflict) = fenced.and_then(|()| warp.shared[rank].check(access, None, mode)) {
            super::conflict::report(warp, instruction, rank, *conflict);
        }
    }
}
