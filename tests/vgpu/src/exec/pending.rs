//! Asynchronous copies of a warp between issue and wait (PTX ISA 9.7.9.25.3): cp.async and its groups.
//!
//! The bytes are copied at once, but what they overwrite counts as pending in the records of [`super::shared`] until the wait that makes them visible: whoever
//! reads or writes there before is found.

use std::collections::VecDeque;

use super::FaultKind;
use super::access::{Mode, addresses_at, space};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, handlers};
use super::warp::Warp;
use crate::checks::{Kind, Space};
use crate::isa::{Lanes64, WARP};

/// Copies of a warp that are not visible yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Those that no group has yet.
    open: Vec<Issued>,
    /// Groups, oldest first.
    groups: VecDeque<Vec<Issued>>,
}

/// One instruction's copies.
#[derive(Debug, Clone, Copy)]
struct Issued {
    mask: u32,
    /// Where each lane writes in the shared memory of its block.
    to: Lanes64,
    bytes: u64,
}

impl Pending {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.open.clear();
        self.groups.clear();
    }

    /// Whether copies are on their way that nobody waited for.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.groups.iter().all(Vec::is_empty)
    }
}

#[derive(Clone, Copy)]
struct Copy<const BYTES: usize>;

impl<const BYTES: usize> Semantics for Copy<BYTES> {
    /// Operands: destination and source addresses, and how many bytes of the source are read. The low and high halves of the immediate are the offsets; bits 8 and
    /// 9 of the modifier say that the addresses have 64 bits.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let [to, from, size, ..] = instruction.operands;
        let (immediate, modifier) = (instruction.immediate, instruction.modifier);
        let mut destinations = addresses_at(warp, to, modifier & 1 << 8 != 0, i64::from(immediate as i32));
        let sources = addresses_at(warp, from, modifier & 1 << 9 != 0, i64::from((immediate >> 32) as i32));
        let sizes = *warp.lanes(size);
        let mut data = [[0u8; BYTES]; WARP];
        let whole = crate::isa::mask_of(|lane| sizes[lane] as usize >= BYTES) & mask;
        let partial = crate::isa::mask_of(|lane| sizes[lane] > 0) & mask & !whole;
        if whole != 0 {
            let mut places = sources;
            let located =
                match E::locate(warp, instruction, whole, space::GLOBAL, &mut places, BYTES as u64, Mode::Read) {
                    Ok(located) => located,
                    Err(flow) => return flow,
                };
            for lane in (0..WARP).filter(|lane| whole >> lane & 1 != 0) {
                // SAFETY: `locate` found so many bytes there.
                data[lane] = unsafe { located.pointer(places[lane]).cast::<[u8; BYTES]>().read_unaligned() };
            }
        }
        for lane in (0..WARP).filter(|lane| partial >> lane & 1 != 0) {
            for (index, byte) in data[lane][..sizes[lane] as usize].iter_mut().enumerate() {
                let mut address = [sources[lane].wrapping_add(index as u64); WARP];
                match E::locate(warp, instruction, 1 << lane, space::GLOBAL, &mut address, 1, Mode::Read) {
                    // SAFETY: `locate` found the byte.
                    Ok(located) => *byte = unsafe { located.pointer(address[lane]).read() },
                    Err(flow) => return flow,
                }
            }
        }
        let watched = E::WATCHED && warp.grid.checks.async_copies;
        let mode = if watched { Mode::Pending } else { Mode::Write };
        let located = match E::locate(warp, instruction, mask, space::SHARED, &mut destinations, BYTES as u64, mode) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            // SAFETY: as above.
            unsafe { located.pointer(destinations[lane]).cast::<[u8; BYTES]>().write_unaligned(data[lane]) };
        }
        if watched {
            warp.state.pending.open.push(Issued { mask, to: destinations, bytes: BYTES as u64 });
        }
        Flow::Next
    }
}

/// The handlers of `cp.async` of 4, 8 or 16 bytes.
pub(crate) fn copy(bytes: u64) -> Option<[Handler; 2]> {
    Some(match bytes {
        4 => handlers(Copy::<4>),
        8 => handlers(Copy::<8>),
        16 => handlers(Copy::<16>),
        _ => return None,
    })
}

/// `cp.async.commit_group`.
pub(crate) fn commit(warp: &mut Warp<'_>, _instruction: &Instruction, _mask: u32) -> Flow {
    if warp.grid.checks.async_copies {
        let group = std::mem::take(&mut warp.state.pending.open);
        warp.state.pending.groups.push_back(group);
    }
    Flow::Next
}

/// `cp.async.wait_group` with the number of groups that may still be pending as the immediate.
pub(crate) fn wait_group(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    while warp.state.pending.groups.len() as u64 > instruction.immediate {
        let group = warp.state.pending.groups.pop_front().unwrap_or_default();
        land(warp, group, mask);
    }
    Flow::Next
}

/// `cp.async.wait_all`.
pub(crate) fn wait_all(warp: &mut Warp<'_>, _instruction: &Instruction, mask: u32) -> Flow {
    complete(warp, mask);
    Flow::Next
}

/// All copies of some lanes become visible.
pub(crate) fn complete(warp: &mut Warp<'_>, mask: u32) {
    let open = std::mem::take(&mut warp.state.pending.open);
    while let Some(group) = warp.state.pending.groups.pop_front() {
        land(warp, group, mask);
    }
    land(warp, open, mask);
}

/// Copies become visible to the lanes that issued them. Those of lanes that do not wait are still pending.
fn land(warp: &mut Warp<'_>, group: Vec<Issued>, mask: u32) {
    let (rank, index) = (warp.block.rank as usize, warp.state.index);
    for issued in group {
        warp.shared[rank].arrived(index, issued.mask & mask, &issued.to, issued.bytes);
        let rest = issued.mask & !mask;
        if rest != 0 {
            warp.state.pending.open.push(Issued { mask: rest, ..issued });
        }
    }
}

/// Bulk copies have to be whole chunks of 16 bytes.
pub(crate) fn check_bulk(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    lane: usize,
    to: u64,
    from: u64,
    bytes: u64,
) -> Result<(), Flow> {
    if (to | from | bytes) & 15 == 0 {
        return Ok(());
    }
    let detail = format!("a bulk copy of {bytes} bytes between {from:#x} and {to:#x}: all must be multiples of 16");
    let place = Some((Space::Shared, to, bytes as u32));
    Err(warp.fault(instruction, lane as u32, FaultKind::MisalignedAddress, Kind::Misaligned, place, detail))
}
