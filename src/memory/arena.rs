//! The arena: planned memory for activations.
//!
//! An arena hands out blocks from a few large reservations and takes them back when their last [`Tensor`](super::Tensor) is dropped.
//! In the steady state of a training loop every block comes from the same place as in the step before and nothing is asked of the
//! operating system.
//!
//! In *counting* mode an arena does all of its book-keeping and owns no memory. A dry run of the very same forward and backward code
//! on a counting arena gives the exact high-water mark, which is then reserved at once ([`Arena::with_capacity`]) and printed.
//!
//! Who owns a block: the tensors that share it, and nobody else. A block is zero-filled when its reservation is made and afterwards
//! holds whatever its previous owner left; with [`Arena::set_poison`] it is filled with NaN bytes each time, so that a test notices an op
//! that leaves part of its output unwritten.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Blocks begin at multiples of this many bytes: a cache line, and the width of the widest vector.
pub const ALIGN: usize = 64;
/// The smallest reservation that an arena makes when it grows beyond its plan. It costs only what is used of it, and blocks lie closer in one large
/// reservation than in several small ones.
const MIN_RESERVATION: usize = 256 << 20;

/// What an arena did so far; see [`Arena::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes in live blocks.
    pub in_use_bytes: usize,
    /// Largest value that `in_use_bytes` had since the last [`Arena::reset_peak`].
    pub peak_bytes: usize,
    /// Bytes reserved from the operating system (or, when counting, that would be).
    pub reserved_bytes: usize,
    /// Blocks handed out.
    pub allocations: u64,
    /// How often the arena had to grow beyond its plan.
    pub growths: u64,
}

struct Reservation {
    /// First byte, at a multiple of [`ALIGN`].
    base: Option<NonNull<u8>>,
    /// What the operating system gave.
    memory: Option<(NonNull<u8>, Layout)>,
    /// Free ranges by offset; neighbours are always merged.
    free: BTreeMap<usize, usize>,
}

impl Reservation {
    fn new(bytes: usize, counting: bool) -> Option<Self> {
        let memory = if counting || bytes == 0 {
            None
        } else {
            // Zeroed memory of an alignment that the allocator has anyway comes straight from the operating system, page by page when it is touched;
            // for a larger alignment all of it would be written now.
            let layout = Layout::from_size_align(bytes.checked_add(ALIGN)?, align_of::<u64>()).ok()?;
            // SAFETY: the layout has a non-zero size.
            Some((NonNull::new(unsafe { alloc_zeroed(layout) })?, layout))
        };
        // SAFETY: the offset is below ALIGN, which the layout has beyond `bytes`.
        let base = memory.map(|(start, _)| unsafe { start.add(start.align_offset(ALIGN)) });
        let free = if bytes > 0 { BTreeMap::from([(0, bytes)]) } else { BTreeMap::new() };
        Some(Reservation { base, memory, free })
    }

    /// Best fit, lowest offset among equals: deterministic, and tight for the nested life times of a network.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let (&offset, &len) = self.free.iter().filter(|(_, len)| **len >= bytes).min_by_key(|(_, len)| **len)?;
        self.free.remove(&offset);
        if len > bytes {
            self.free.insert(offset + bytes, len - bytes);
        }
        Some(offset)
    }

    fn give_back(&mut self, mut offset: usize, mut bytes: usize) {
        if let Some((&before, &len)) = self.free.range(..offset).next_back()
            && before + len == offset
        {
            self.free.remove(&before);
            offset = before;
            bytes += len;
        }
        if let Some(&len) = self.free.get(&(offset + bytes)) {
            self.free.remove(&(offset + bytes));
            bytes += len;
        }
        self.free.insert(offset, bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((start, layout)) = self.memory {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout, and no block outlives the arena's inner state.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

struct State {
    reservations: Vec<Reservation>,
    stats: Stats,
    poison: bool,
}

// SAFETY: the raw pointers are owned by the state; access to them is handed out through blocks that never overlap.
unsafe impl Send for State {}

/// Planned memory; see the [module documentation](self). Cloning gives another handle to the same arena.
#[derive(Clone)]
pub struct Arena {
    state: Arc<Mutex<State>>,
    counting: bool,
}

/// A range of an arena, given back when dropped.
pub(crate) struct Block {
    base: Option<NonNull<u8>>,
    reservation: usize,
    offset: usize,
    bytes: usize,
    arena: Arena,
}

// SAFETY: a block is the only owner of its range.
unsafe impl Send for Block {}
// SAFETY: shared access to a block reads only.
unsafe impl Sync for Block {}

impl Arena {
    /// An empty arena that grows when asked.
    pub fn new() -> Self {
        Self::build(false)
    }

    /// An arena that counts and owns no memory: tensors made from it have shapes and no elements.
    pub fn counting() -> Self {
        Self::build(true)
    }

    /// An arena with one reservation of `bytes`, as planned by a dry run.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if the operating system refuses.
    pub fn with_capacity(bytes: usize) -> crate::Result<Self> {
        let arena = Self::build(false);
        arena.reserve(bytes)?;
        Ok(arena)
    }

    fn build(counting: bool) -> Self {
        let state = State { reservations: Vec::new(), stats: Stats::default(), poison: false };
        Arena { state: Arc::new(Mutex::new(state)), counting }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether this arena only counts.
    pub fn is_counting(&self) -> bool {
        self.counting
    }

    /// Adds one reservation of `bytes`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if the operating system refuses.
    pub fn reserve(&self, bytes: usize) -> crate::Result<()> {
        let mut state = self.lock();
        let bytes = bytes.next_multiple_of(ALIGN);
        let Some(reservation) = Reservation::new(bytes, self.counting) else {
            let Stats { reserved_bytes, in_use_bytes, .. } = state.stats;
            return Err(crate::Error::OutOfMemory {
                what: "a reservation of activations",
                wanted: bytes,
                reserved: reserved_bytes,
                in_use: in_use_bytes,
            });
        };
        state.reservations.push(reservation);
        state.stats.reserved_bytes += bytes;
        Ok(())
    }

    /// Fills every new block with NaN bytes (0xff) instead of leaving old contents; for tests.
    pub fn set_poison(&self, on: bool) {
        self.lock().poison = on;
    }

    /// Counts of what happened so far.
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Starts a new high-water mark at the present use.
    pub fn reset_peak(&self) {
        let mut state = self.lock();
        state.stats.peak_bytes = state.stats.in_use_bytes;
    }

    pub(crate) fn block(&self, bytes: usize) -> crate::Result<Block> {
        let wanted = bytes.max(1).next_multiple_of(ALIGN);
        let found = self.lock().reservations.iter_mut().enumerate().find_map(|(i, r)| Some((i, r.take(wanted)?)));
        let (reservation, offset) = match found {
            Some(place) => place,
            None => {
                let grown = self.stats().reserved_bytes / 2;
                self.reserve(wanted.max(MIN_RESERVATION).max(grown))?;
                let mut state = self.lock();
                state.stats.growths += 1;
                let last = state.reservations.len() - 1;
                let offset = state.reservations[last].take(wanted).unwrap_or(0);
                (last, offset)
            }
        };
        let mut state = self.lock();
        state.stats.allocations += 1;
        state.stats.in_use_bytes += wanted;
        state.stats.peak_bytes = state.stats.peak_bytes.max(state.stats.in_use_bytes);
        // SAFETY: `offset + wanted` lies inside the reservation.
        let base = state.reservations[reservation].base.map(|base| unsafe { base.add(offset) });
        if let (true, Some(base)) = (state.poison, base) {
            // SAFETY: the block has `wanted` bytes and nobody else has it.
            unsafe { base.write_bytes(0xff, wanted) };
        }
        drop(state);
        Ok(Block { base, reservation, offset, bytes: wanted, arena: self.clone() })
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Block {
    /// First byte, or `None` on a counting arena.
    pub(crate) fn base(&self) -> Option<NonNull<u8>> {
        self.base
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.arena.lock();
        state.stats.in_use_bytes -= self.bytes;
        state.reservations[self.reservation].give_back(self.offset, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge_and_memory_is_reused() {
        let arena = Arena::with_capacity(4 * ALIGN).unwrap();
        let blocks: Vec<_> = (0..4).map(|_| arena.block(ALIGN).unwrap()).collect();
        let first = blocks[0].base().unwrap();
        assert_eq!(arena.stats().in_use_bytes, 4 * ALIGN);
        let mut blocks = blocks.into_iter();
        let (a, b, c, d) = (blocks.next(), blocks.next(), blocks.next(), blocks.next());
        drop(b);
        drop(d);
        drop(c);
        drop(a);
        let whole = arena.block(4 * ALIGN).unwrap();
        assert_eq!(whole.base().unwrap(), first);
        assert_eq!(arena.stats().growths, 0);
        assert_eq!(arena.stats().peak_bytes, 4 * ALIGN);
    }

    #[test]
    fn counting_owns_nothing_and_counts_the_same() {
        let (real, dry) = (Arena::new(), Arena::counting());
        for arena in [&real, &dry] {
            let _a = arena.block(1000).unwrap();
            drop(arena.block(5000).unwrap());
            let _b = arena.block(200).unwrap();
        }
        assert_eq!(real.stats(), dry.stats());
        assert!(dry.block(64).unwrap().base().is_none());
    }
}
