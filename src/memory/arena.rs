//! The arena: planned memory for activations.
//!
//! An arena hands out blocks from a few large reservations and takes them back when their last [`Tensor`](super::Tensor) is dropped.
//! In the steady state of a training loop every block comes from the same place as in the step before and nothing is asked of the
//! operating system.
//!
//! In *counting* mode an arena does all of its book-keeping and owns no memory. A dry run of the very same forward and backward code
//! on a counting arena gives the exact high-water mark, which is then reserved at once ([`Arena::with_capacity`]) and printed.
//!
//! Who owns a block: the tensors that share it, and nobody else. A block in host memory is zero-filled when its reservation is made and afterwards
//! holds whatever its previous owner left; with [`Arena::set_poison`] it is filled with NaN bytes each time, so that a test notices an op
//! that leaves part of its output unwritten. A block in device memory holds anything.
//!
//! The reservations of an arena are host memory, or memory of a device ([`Arena::on`]): the book-keeping is the same. Work on a device is ordered by
//! one stream, so a block may be handed out again while the kernels that last used it are still queued: those of its new owner come after them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};

/// Blocks begin at multiples of this many bytes: a cache line, and the width of the widest vector.
pub const ALIGN: usize = 64;
/// Blocks in device memory begin at multiples of this many bytes, as the driver's own allocations do.
pub const DEVICE_ALIGN: usize = 256;
/// The smallest reservation that an arena makes when it grows beyond its plan. It costs only what is used of it, and blocks lie closer in one large
/// reservation than in several small ones.
const MIN_RESERVATION: usize = 256 << 20;
/// The same in device memory, where every reserved byte is taken at once.
const MIN_DEVICE_RESERVATION: usize = 64 << 20;

/// Where elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the memory of this process.
    Host,
    /// In the memory of the CUDA device with this number: an address for kernels, which nothing on the host may follow.
    Cuda(u32),
    /// Nowhere: a dry run counts the bytes and touches none.
    Nowhere,
}

/// Memory of a device, as an arena reserves it. All but `reserve` and `release` are ordered with the kernels of one stream.
pub trait DeviceMemory: Send + Sync {
    /// What the arena's tensors say of their place.
    fn place(&self) -> Place;

    /// Takes `bytes` (more than none) from the device; `None` if it has not so much left.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver fails otherwise.
    fn reserve(&self, bytes: usize) -> Result<Option<NonNull<u8>>>;

    /// Gives back what [`DeviceMemory::reserve`] returned.
    fn release(&self, base: NonNull<u8>);

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver fails.
    fn fill(&self, to: NonNull<u8>, value: u8, bytes: usize) -> Result<()>;

    /// Copies `from` to the device; `from` may be changed once this returns.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver fails.
    fn upload(&self, to: NonNull<u8>, from: &[u8]) -> Result<()>;

    /// Copies from the device, and waits until that is done.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver fails, now or in a kernel before.
    fn download(&self, from: NonNull<u8>, to: &mut [u8]) -> Result<()>;

    /// Copies `bytes` bytes each from several places on the device, one after the other into `to`, and waits once.
    ///
    /// # Errors
    /// As [`DeviceMemory::download`].
    fn gather(&self, from: &[NonNull<u8>], bytes: usize, to: &mut [u8]) -> Result<()>;
}

/// Where an arena's reservations come from.
#[derive(Clone)]
enum Source {
    Host,
    Device(Arc<dyn DeviceMemory>),
    /// Counts with this alignment of blocks.
    Counting {
        align: usize,
    },
}

impl Source {
    fn align(&self) -> usize {
        match self {
            Source::Host => ALIGN,
            Source::Device(_) => DEVICE_ALIGN,
            Source::Counting { align } => *align,
        }
    }

    fn min_reservation(&self) -> usize {
        if self.align() == ALIGN { MIN_RESERVATION } else { MIN_DEVICE_RESERVATION }
    }
}

/// What is reserved, to be given back.
enum Memory {
    None,
    Host(NonNull<u8>, Layout),
    Device(Arc<dyn DeviceMemory>, NonNull<u8>),
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self {
            Memory::None => {}
            // SAFETY: `start` came from `alloc_zeroed` with this very layout, and no block outlives the arena's inner state.
            Memory::Host(start, layout) => unsafe { dealloc(start.as_ptr(), *layout) },
            Memory::Device(device, base) => device.release(*base),
        }
    }
}

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
    /// First byte, at a multiple of the alignment of blocks; none while counting.
    base: Option<NonNull<u8>>,
    /// Kept to be given back.
    _memory: Memory,
    /// Free ranges by offset; neighbours are always merged.
    free: BTreeMap<usize, usize>,
}

impl Reservation {
    /// `None` if there is not so much memory.
    fn new(bytes: usize, source: &Source) -> Result<Option<Self>> {
        let (base, memory) = match source {
            _ if bytes == 0 => (None, Memory::None),
            Source::Counting { .. } => (None, Memory::None),
            Source::Host => {
                // Zeroed memory of an alignment that the allocator has anyway comes straight from the operating system, page by page when it is
                // touched; for a larger alignment all of it would be written now.
                let room = bytes.checked_add(ALIGN);
                let Some(layout) = room.and_then(|room| Layout::from_size_align(room, align_of::<u64>()).ok()) else {
                    return Ok(None);
                };
                // SAFETY: the layout has a non-zero size.
                let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { return Ok(None) };
                // SAFETY: the offset is below ALIGN, which the layout has beyond `bytes`.
                let base = unsafe { start.add(start.align_offset(ALIGN)) };
                (Some(base), Memory::Host(start, layout))
            }
            Source::Device(device) => {
                let Some(base) = device.reserve(bytes)? else { return Ok(None) };
                (Some(base), Memory::Device(device.clone(), base))
            }
        };
        let free = if bytes > 0 { BTreeMap::from([(0, bytes)]) } else { BTreeMap::new() };
        Ok(Some(Reservation { base, _memory: memory, free }))
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

struct State {
    reservations: Vec<Reservation>,
    stats: Stats,
    poison: bool,
    separate: bool,
}

// SAFETY: the raw pointers are owned by the state; access to them is handed out through blocks that never overlap.
unsafe impl Send for State {}

/// Planned memory; see the [module documentation](self). Cloning gives another handle to the same arena.
#[derive(Clone)]
pub struct Arena {
    state: Arc<Mutex<State>>,
    source: Source,
}

/// A range of an arena, given back when dropped.
pub(crate) struct Block {
    base: Option<NonNull<u8>>,
    home: Home,
    bytes: usize,
    arena: Arena,
}

/// Where a block goes when it is given back.
enum Home {
    Shared {
        reservation: usize,
        offset: usize,
    },
    /// A reservation of its own, which ends with the block.
    Own {
        _reservation: Reservation,
    },
}

// SAFETY: a block is the only owner of its range.
unsafe impl Send for Block {}
// SAFETY: shared access to a block reads only.
unsafe impl Sync for Block {}

impl Arena {
    /// An empty arena that grows when asked.
    pub fn new() -> Self {
        Self::build(Source::Host)
    }

    /// An arena that counts and owns no memory: tensors made from it have shapes and no elements.
    pub fn counting() -> Self {
        Self::build(Source::Counting { align: ALIGN })
    }

    /// An arena that counts as one in device memory would, whose blocks are larger.
    pub fn counting_for_device() -> Self {
        Self::build(Source::Counting { align: DEVICE_ALIGN })
    }

    /// An arena with one reservation of `bytes`, as planned by a dry run.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if the operating system refuses.
    pub fn with_capacity(bytes: usize) -> Result<Self> {
        let arena = Self::new();
        arena.reserve(bytes)?;
        Ok(arena)
    }

    /// An empty arena in the memory of a device, that grows when asked.
    pub fn on(device: Arc<dyn DeviceMemory>) -> Self {
        Self::build(Source::Device(device))
    }

    fn build(source: Source) -> Self {
        let state = State { reservations: Vec::new(), stats: Stats::default(), poison: false, separate: false };
        Arena { state: Arc::new(Mutex::new(state)), source }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether this arena only counts.
    pub fn is_counting(&self) -> bool {
        matches!(self.source, Source::Counting { .. })
    }

    /// Where this arena's tensors lie.
    pub fn place(&self) -> Place {
        match &self.source {
            Source::Host => Place::Host,
            Source::Device(device) => device.place(),
            Source::Counting { .. } => Place::Nowhere,
        }
    }

    /// The device whose memory this is, if it is a device's.
    pub(crate) fn device_memory(&self) -> Option<&Arc<dyn DeviceMemory>> {
        match &self.source {
            Source::Device(device) => Some(device),
            _ => None,
        }
    }

    /// Adds one reservation of `bytes`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if the operating system or the device refuses; [`Error::Device`].
    pub fn reserve(&self, bytes: usize) -> Result<()> {
        let bytes = bytes.next_multiple_of(self.source.align());
        let Some(reservation) = Reservation::new(bytes, &self.source)? else { return Err(self.refused(bytes)) };
        let mut state = self.lock();
        state.reservations.push(reservation);
        state.stats.reserved_bytes += bytes;
        Ok(())
    }

    fn refused(&self, bytes: usize) -> Error {
        let Stats { reserved_bytes, in_use_bytes, .. } = self.stats();
        let what = match self.source {
            Source::Device(_) => "a reservation of activations on the device",
            _ => "a reservation of activations",
        };
        Error::OutOfMemory { what, wanted: bytes, reserved: reserved_bytes, in_use: in_use_bytes }
    }

    /// Gives every new block a reservation of its own, of the very size asked for, so that a checker of memory (the virtual GPU, Compute Sanitizer)
    /// sees where each tensor ends and what was never written; for tests.
    pub fn set_separate(&self, on: bool) {
        self.lock().separate = on;
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

    pub(crate) fn block(&self, bytes: usize) -> Result<Block> {
        let align = self.source.align();
        let wanted = bytes.max(1).next_multiple_of(align);
        let separate = self.lock().separate;
        let (base, home) = if separate {
            // The book-keeping counts what a block of a shared reservation takes; the reservation itself ends at the last byte.
            let reservation = Reservation::new(bytes.max(1), &self.source)?.ok_or_else(|| self.refused(wanted))?;
            (reservation.base, Home::Own { _reservation: reservation })
        } else {
            self.take(wanted)?
        };
        let mut state = self.lock();
        state.stats.allocations += 1;
        state.stats.in_use_bytes += wanted;
        state.stats.peak_bytes = state.stats.peak_bytes.max(state.stats.in_use_bytes);
        let poison = state.poison;
        drop(state);
        let block = Block { base, home, bytes: wanted, arena: self.clone() };
        if let (true, Some(base)) = (poison, base) {
            let writable = if separate { bytes.max(1) } else { wanted };
            match &self.source {
                Source::Device(device) => device.fill(base, 0xff, writable)?,
                // SAFETY: the block has so many bytes and nobody else has it.
                _ => unsafe { base.write_bytes(0xff, writable) },
            }
        }
        Ok(block)
    }

    /// A free range of the reservations, or of a new one.
    fn take(&self, wanted: usize) -> Result<(Option<NonNull<u8>>, Home)> {
        let find = |state: &mut State| {
            state.reservations.iter_mut().enumerate().find_map(|(i, r)| {
                let offset = r.take(wanted)?;
                // A range of a device's memory: nothing here follows the address, so plain arithmetic does.
                let base = r.base.and_then(|base| NonNull::new(base.as_ptr().wrapping_add(offset)));
                Some((base, Home::Shared { reservation: i, offset }))
            })
        };
        if let Some(found) = find(&mut self.lock()) {
            return Ok(found);
        }
        let grown = self.stats().reserved_bytes / 2;
        let planned = self.reserve(wanted.max(self.source.min_reservation()).max(grown));
        // A device may have room for the block though not for generous growth.
        planned.or_else(
            |error| if matches!(error, Error::OutOfMemory { .. }) { self.reserve(wanted) } else { Err(error) },
        )?;
        let mut state = self.lock();
        state.stats.growths += 1;
        let found = find(&mut state);
        drop(state);
        // Only another thread on the same arena can have taken the new reservation.
        found.map_or_else(|| self.take(wanted), Ok)
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

    /// The arena that this is a part of.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.arena.lock();
        state.stats.in_use_bytes -= self.bytes;
        if let Home::Shared { reservation, offset } = self.home {
            state.reservations[reservation].give_back(offset, self.bytes);
        }
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
    fn separate_blocks_come_and_go() {
        let arena = Arena::new();
        arena.set_separate(true);
        let block = arena.block(100).unwrap();
        assert!(block.base().is_some());
        let stats = arena.stats();
        assert_eq!((stats.reserved_bytes, stats.in_use_bytes, stats.growths), (0, 2 * ALIGN, 0));
        drop(block);
        assert_eq!(arena.stats().in_use_bytes, 0);
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
