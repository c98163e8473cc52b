//! Local memory that a thread takes while it runs (PTX ISA 9.7.15: alloca, stacksave, stackrestore).
//!
//! It lies apart from the frames of the functions, in addresses from [`BEGIN`] on. Each lane has a top; what a function took is given back when it returns.

use super::FaultKind;
use super::code::{Flow, Instruction};
use super::semantics::store as store_register;
use super::warp::{State, Warp};
use crate::checks::{Kind, Space};
use crate::isa::{Lanes, Value, WARP};

/// Where it begins in the local memory of a thread: behind all frames.
pub(crate) const BEGIN: u64 = 1 << 28;

/// Bytes that a thread can take.
const MAXIMUM: u64 = 512 << 10;

/// The stacks of a warp.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    /// The bytes, one lane after the other.
    pub bytes: Vec<u8>,
    /// 1 for each byte that was written.
    pub written: Vec<u8>,
    /// Room of a lane.
    pub room: usize,
    /// How much of it each lane has taken.
    pub tops: Lanes,
}

impl Stack {
    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Stack::default();
    }

    /// Makes room for so many bytes per lane.
    fn reserve(&mut self, bytes: usize) {
        if bytes <= self.room {
            return;
        }
        let room = bytes.next_power_of_two().max(256);
        let spread = |from: &[u8]| {
            let mut to = vec![0; room * WARP];
            for lane in 0..WARP * usize::from(self.room > 0) {
                to[lane * room..][..self.room].copy_from_slice(&from[lane * self.room..][..self.room]);
            }
            to
        };
        (self.bytes, self.written) = (spread(&self.bytes), spread(&self.written));
        self.room = room;
    }
}

impl State {
    /// The highest top of some lanes: what a function that they enter finds taken.
    pub fn stack_top(&self, mask: u32) -> u32 {
        (0..WARP).filter(|lane| mask >> lane & 1 != 0).map(|lane| self.stack.tops[lane]).max().unwrap_or(0)
    }

    /// Lanes return from a function that found so much taken.
    pub fn unwind_stack(&mut self, mask: u32, top: u32) {
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            self.stack.tops[lane] = self.stack.tops[lane].min(top);
        }
    }
}

/// `alloca`: operands are the address and the size, of 32 or 64 bits; the immediate is the alignment.
pub(crate) fn allocate<T: Value<Register = T> + TryFrom<u64> + Into<u64>>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Flow {
    let sizes = warp.read::<T>(instruction.operands[1]);
    let mut places = *sizes;
    for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
        let (size, top) = (sizes[lane].into(), u64::from(warp.state.stack.tops[lane]));
        let begin = top.next_multiple_of(instruction.immediate.max(1));
        let end = begin.saturating_add(size);
        if end > MAXIMUM {
            let detail = format!("the thread has {top} bytes on its stack, and {size} more are beyond {MAXIMUM}");
            let place = Some((Space::Local, BEGIN + begin, size.min(u64::from(u32::MAX)) as u32));
            return warp.fault(instruction, lane as u32, FaultKind::IllegalAddress, Kind::OutOfSpace, place, detail);
        }
        let stack = &mut warp.state.stack;
        stack.reserve(end as usize);
        // What lay there before is no longer there.
        stack.written[lane * stack.room..][begin as usize..end as usize].fill(0);
        stack.tops[lane] = end as u32;
        places[lane] = T::try_from(BEGIN + begin).unwrap_or(sizes[lane]);
    }
    store_register(warp.register::<T>(instruction.operands[0]), mask, &places);
    Flow::Next
}

/// `stacksave`: the top, in a register of 32 or 64 bits.
pub(crate) fn save<T: Value<Register = T> + From<u32>>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Flow {
    let tops = warp.state.stack.tops.map(T::from);
    store_register(warp.register::<T>(instruction.operands[0]), mask, &tops);
    Flow::Next
}

/// `stackrestore`: a top that was saved.
pub(crate) fn restore<T: Value<Register = T> + Into<u64>>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Flow {
    let tops = warp.read::<T>(instruction.operands[0]);
    for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
        let (now, wanted) = (warp.state.stack.tops[lane], tops[lane].into());
        if wanted > u64::from(now) {
            let detail = format!("{wanted} was not saved from the stack, which holds {now} bytes");
            return warp.fault(
                instruction,
                lane as u32,
                FaultKind::IllegalInstruction,
                Kind::InvalidOperand,
                None,
                detail,
            );
        }
        warp.state.stack.tops[lane] = wanted as u32;
    }
    Flow::Next
}
