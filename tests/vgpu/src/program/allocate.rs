//! Registers of the text to slots of a frame.
//!
//! Compilers write thousands of registers, each used for a moment. Packed into as few slots as are alive at once, the registers of a warp stay in the caches. A
//! linear scan over live ranges does it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::draft::{Draft, Register, Width};
use super::flow::Graph;
use crate::exec::{Predicate, SLOT};

/// Where registers lie.
#[derive(Debug, Default)]
pub(super) struct Allocation {
    /// Byte offset of each register in the frame, or index of each predicate.
    pub places: Vec<u32>,
    /// Which registers are predicates.
    kinds: Vec<Width>,
    /// Bytes of a frame.
    pub register_bytes: u32,
    /// Predicates of a frame.
    pub predicates: u32,
    /// 32-bit registers per thread that are alive at once.
    pub pressure: u32,
}

impl Allocation {
    /// Whether a register is a predicate.
    pub fn is_predicate(&self, register: Register) -> bool {
        self.kinds[register.0 as usize] == Width::Predicate
    }
}

/// Slots of one kind.
#[derive(Default)]
struct Pool {
    free: BinaryHeap<Reverse<u32>>,
    busy: BinaryHeap<Reverse<(u32, u32)>>,
    count: u32,
}

impl Pool {
    /// A slot from `begin` to `end`. A slot that is read for the last time where another is written may be the same.
    fn take(&mut self, begin: u32, end: u32) -> u32 {
        while let Some(&Reverse((until, slot))) = self.busy.peek() {
            if until > begin {
                break;
            }
            self.busy.pop();
            self.free.push(Reverse(slot));
        }
        let slot = self.free.pop().map_or_else(
            || {
                self.count += 1;
                self.count - 1
            },
            |Reverse(slot)| slot,
        );
        // A value that is never read needs its slot while it is written.
        self.busy.push(Reverse((end.max(begin + 1), slot)));
        slot
    }
}

/// Gives a place to every register of a draft.
pub(super) fn allocate(draft: &Draft, graph: &Graph) -> Allocation {
    let ranges = graph.live_ranges(draft);
    let mut order: Vec<u32> = (0..ranges.len() as u32).filter(|&index| ranges[index as usize].0 != u32::MAX).collect();
    order.sort_unstable_by_key(|&index| ranges[index as usize]);
    let (mut predicates, mut narrow, mut wide) = (Pool::default(), Pool::default(), Pool::default());
    let mut places = vec![0; ranges.len()];
    for &index in &order {
        let (begin, end) = ranges[index as usize];
        let pool = match draft.registers[index as usize] {
            Width::Predicate => &mut predicates,
            Width::Narrow => &mut narrow,
            Width::Wide => &mut wide,
        };
        places[index as usize] = pool.take(begin, end);
    }
    // 64-bit slots come first, which keeps them aligned.
    let wide_bytes = wide.count * 2 * SLOT;
    for &index in &order {
        let place = &mut places[index as usize];
        match draft.registers[index as usize] {
            Width::Predicate => *place += Predicate::RESERVED,
            Width::Narrow => *place = wide_bytes + *place * SLOT,
            Width::Wide => *place *= 2 * SLOT,
        }
    }
    Allocation {
        places,
        kinds: draft.registers.clone(),
        register_bytes: wide_bytes + narrow.count * SLOT,
        predicates: predicates.count + Predicate::RESERVED,
        pressure: 2 * wide.count + narrow.count,
    }
}
