//! `multimem` (PTX ISA 9.7.9.14 to 9.7.9.16): from addresses of multicast objects to those of the memory that is bound.

use super::FaultKind;
use super::access::addresses;
use super::code::{Flow, Instruction};
use super::warp::Warp;
use crate::checks::{Kind, Space};
use crate::isa::WARP;

/// The addresses of the bound memory: operands are the destination and the address, to which the immediate is added.
pub(crate) fn unicast(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let [d, base, ..] = instruction.operands;
    let mut places = addresses(warp, instruction, base);
    for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
        let Some(target) = warp.grid.memory.unicast(places[lane]) else {
            let place = Some((Space::Global, places[lane], 1));
            let detail = "the address is none of a multicast object to which memory is bound there".to_owned();
            let (fault, kind) = (FaultKind::IllegalAddress, Kind::OutOfBounds);
            return warp.fault(instruction, lane as u32, fault, kind, place, detail);
        };
        places[lane] = target;
    }
    super::semantics::store(warp.register::<u64>(d), mask, &places);
    Flow::Next
}
