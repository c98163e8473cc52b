//! Shared memory of a block: its bytes, the copies that are on their way to it, and the record of who touched what ([`super::watch`]).

use std::collections::{HashMap, VecDeque};

use super::access::Mode;
use super::code::Slot;
use super::conflict::Conflict;
use super::grid::Grid;
use super::in_flight::{Reader, Source};
use super::watch::{Lanes, Watch};
use crate::isa::Lanes64;

/// Shared memory of a block.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    bytes: Vec<Slot>,
    /// Copies that are on their way, by the mbarrier object that counts them.
    flights: HashMap<u64, VecDeque<Flight>>,
    watch: Option<Box<Watch>>,
}

/// A copy that an mbarrier object counts.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    /// The bytes.
    pub bytes: u32,
    /// Where they lie: begin and length.
    pub ranges: Vec<(u64, u64)>,
    /// Who issued it; the largest number if that is in another block.
    pub warp: u32,
    pub lane: u32,
}

impl Shared {
    /// Makes it the memory of a new block.
    pub fn begin(&mut self, grid: &Grid<'_>, warps: u32) {
        self.bytes.clear();
        self.bytes.resize(grid.shared_bytes.div_ceil(super::code::SLOT) as usize, Slot::default());
        self.flights.clear();
        let checks = grid.checks;
        if checks.shared_races || checks.warp_races || checks.initialised || checks.async_copies {
            self.watch.get_or_insert_default().begin(grid, warps);
        }
    }

    /// Where it lies.
    pub fn pointer(&mut self) -> *mut u8 {
        let pointer = self.bytes.as_mut_ptr().cast::<u8>();
        pointer.expose_provenance();
        pointer
    }

    /// Everything that the block did so far happened before what it does from now on.
    pub fn synchronise_all(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.synchronise_all();
        }
    }

    /// The same, for all blocks of the cluster.
    pub fn synchronise_cluster(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.see_outside();
            watch.synchronise_all();
        }
    }

    /// Adds what a warp did and knows to what is known behind a barrier.
    pub fn release(&mut self, warp: u32, known: &mut Vec<u32>) {
        if let Some(watch) = &mut self.watch {
            watch.release(warp, known);
        }
    }

    /// What was known by those who came to a barrier, a warp knows behind it.
    pub fn acquire(&mut self, warp: u32, known: &[u32]) {
        if let Some(watch) = &mut self.watch {
            watch.acquire(warp, known);
        }
    }

    /// A warp releases what it knows to a word, or acquires what others have released there, or both.
    pub fn order(&mut self, warp: u32, address: u64, releases: bool, acquires: bool) {
        if let Some(watch) = &mut self.watch {
            watch.order(warp, address, releases, acquires);
        }
    }

    /// Lanes of a warp have met.
    pub fn synchronise_lanes(&mut self, warp: u32, mask: u32) {
        if let Some(watch) = &mut self.watch {
            watch.synchronise_lanes(warp, mask);
        }
    }

    /// Checks an access, and notes it. `span` is its begin and bytes where it is one run.
    #[inline(always)]
    pub fn check(&mut self, lanes: Lanes<'_>, span: Option<(u64, u64)>, mode: Mode) -> Result<(), Box<Conflict>> {
        match &mut self.watch {
            Some(watch) => watch.check(lanes, span, mode),
            None => Ok(()),
        }
    }

    /// Whether ordinary stores to what an asynchronous operation reads have passed a fence.
    pub fn check_proxy(&self, lanes: &Lanes<'_>) -> Result<(), Box<Conflict>> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.check_proxy(lanes))
    }

    /// A warp executes `fence.proxy.async`.
    pub fn fence_proxy(&mut self, warp: u32) {
        if let Some(watch) = &mut self.watch {
            watch.fence_proxy(warp);
        }
    }

    /// A read is under way.
    pub fn hold(&mut self, source: Source) {
        if let Some(watch) = &mut self.watch {
            watch.hold(source);
        }
    }

    /// Reads of a warp are done, by lane and group; tells how many.
    pub fn let_go(&mut self, reader: Reader, warp: u32, is_done: impl Fn(u32, u32) -> bool) -> usize {
        self.watch.as_mut().map_or(0, |watch| watch.let_go(reader, warp, is_done))
    }

    /// Asynchronous copies of lanes have come to their end: what they wrote is there from now on.
    pub fn arrived(&mut self, warp: u32, mask: u32, to: &Lanes64, bytes: u64) {
        if let Some(watch) = &mut self.watch {
            watch.arrived(warp, mask, to, bytes);
        }
    }

    /// A word of 8 bytes, which must lie inside.
    pub fn word(&self, offset: u64) -> u64 {
        let slot = &self.bytes[offset as usize / 128].0;
        let index = offset as usize % 128 / 4;
        u64::from(slot[index]) | u64::from(slot[index + 1]) << 32
    }

    /// Writes a word of 8 bytes, which must lie inside.
    pub fn set_word(&mut self, offset: u64, word: u64) {
        let slot = &mut self.bytes[offset as usize / 128].0;
        let index = offset as usize % 128 / 4;
        (slot[index], slot[index + 1]) = (word as u32, (word >> 32) as u32);
    }

    /// A copy is on its way that the mbarrier object at `offset` will count.
    pub fn send(&mut self, offset: u64, flight: Flight) {
        self.flights.entry(offset).or_default().push_back(flight);
    }

    /// The next copy arrives: its bytes.
    pub fn receive(&mut self, offset: u64) -> Option<u32> {
        let flight = self.flights.get_mut(&offset)?.pop_front()?;
        let bytes = flight.bytes;
        if let Some(watch) = &mut self.watch {
            watch.object(offset).receive(flight);
        }
        Some(bytes)
    }

    /// An mbarrier object begins to count: what is known behind it is empty.
    pub fn begin_phase(&mut self, offset: u64) {
        self.flights.remove(&offset);
        if let Some(watch) = &mut self.watch {
            *watch.object(offset) = Default::default();
        }
    }

    /// A warp arrives at an mbarrier object.
    pub fn release_to(&mut self, warp: u32, offset: u64) {
        if let Some(watch) = &mut self.watch {
            watch.release_to(warp, offset);
        }
    }

    /// A phase of an mbarrier object ends.
    pub fn end_phase(&mut self, offset: u64) {
        if let Some(watch) = &mut self.watch {
            watch.object(offset).end();
        }
    }

    /// A warp has seen a phase end.
    pub fn acquire_from(&mut self, warp: u32, offset: u64) {
        if let Some(watch) = &mut self.watch {
            watch.acquire_from(warp, offset);
        }
    }
}
