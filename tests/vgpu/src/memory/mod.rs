//! Device memory: addresses, allocations, and which bytes were ever written.
//!
//! One sparse file in memory (`reservation`) is mapped twice:
//!
//! * the **device view**, whose addresses *are* the device addresses. Nothing may be read or written through it, so a
//!   host program that dereferences a device pointer faults at once, as with a real GPU. Host-pinned and managed
//!   allocations are made accessible there: their host and device addresses are equal.
//! * the **executor's view**, readable and writable, at a constant distance, for kernels and copies.
//!
//! Allocations (`allocator`) are aligned to 256 bytes and separated by red zones; a freed range stays in quarantine
//! for a while, so that a use after free is named instead of silently hitting another allocation. A shadow
//! (`shadow`) holds one bit per byte: was it ever written?
//!
//! A kernel looks an address up once with [`Memory::window`] and keeps the [`Window`], which answers bounds, host
//! address and initialisation without a lock. A window stays usable after its allocation is freed (the mapping never
//! goes away), it merely no longer says the truth: the driver waits for running kernels before it frees.
//!
//! Host pointers that a program hands to a copy are read and written by the kernel of the operating system on our
//! behalf ([`Memory::write_from_host`]), so a bad one is an error and not a crash.

mod allocator;
mod mapping;
mod reservation;
mod shadow;
mod story;
mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use mapping::GRANULARITY;
pub use shadow::Shadow;
pub use story::{Place, Story};
pub use window::{Table, Window};

use crate::texture::Objects;
use allocator::Allocator;
use reservation::Reservation;

/// Every allocation starts at a multiple of this many bytes, as `cuMemAlloc` promises.
pub const ALIGNMENT: u64 = 256;
/// The size of a page of the host; accessible allocations cover whole pages.
pub const PAGE: u64 = 4096;

/// What an allocation is, which decides who may touch it and how it is called in a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `cuMemAlloc` and `cuMemAllocPitch`.
    Device,
    /// `cuMemAllocAsync` and `cuMemAllocFromPoolAsync`.
    Pooled,
    /// `cuMemAllocManaged`: the host reads and writes it at the same address.
    Managed,
    /// `cuMemAllocHost` and `cuMemHostAlloc`.
    Pinned,
    /// `cuMemHostRegister`: memory of the program, at its own address.
    Registered,
    /// What was mapped to reserved addresses: `cuMemMap`.
    Mapped,
    /// `cuArrayCreate` and its like: elements that textures and surfaces read.
    Array,
    /// A `.global` or `.const` variable of a module.
    Variable(String),
}

impl Kind {
    /// Whether the host reads and writes this memory directly. Its writes are invisible to us, so all of it counts as
    /// initialised.
    pub fn on_host(&self) -> bool {
        matches!(self, Kind::Managed | Kind::Pinned | Kind::Registered)
    }
}

/// A live or formerly live range of device memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// First device address.
    pub start: u64,
    /// Size in bytes as it was asked for; bytes beyond it are out of bounds.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Counts allocations from 1 in the order they were made: the same in each run of a deterministic program.
    pub serial: u64,
}

impl Allocation {
    /// One past the last address.
    pub fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

/// Why memory was not had, freed or touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// More than the described GPU has left.
    #[error("{bytes} bytes asked for, {free} free")]
    OutOfMemory { bytes: u64, free: u64 },
    /// No room of this kind, or a size of zero or beyond all bounds.
    #[error("{bytes} bytes are not a size that can be allocated")]
    InvalidSize { bytes: u64 },
    /// The address is not the start of a live allocation.
    #[error("{0}")]
    NotAnAllocation(Story),
    /// The range is not inside one live allocation.
    #[error("{0}")]
    OutOfBounds(Story),
    /// The range of host memory cannot be read or written.
    #[error("host memory {address:#x}..+{bytes} is not accessible")]
    BadHostRange { address: u64, bytes: u64 },
    /// The range overlaps memory that is already registered.
    #[error("host memory {address:#x} is already registered")]
    AlreadyRegistered { address: u64 },
    /// The operating system gave no room for the reservation.
    #[error("cannot reserve device memory: {0}")]
    Reservation(String),
}

/// The memory of the virtual GPU. All methods may be called from any thread.
pub struct Memory {
    reservation: Reservation,
    shadow: Shadow,
    capacity: u64,
    state: Mutex<State>,
    /// Bumped with every change of the set of live allocations.
    version: AtomicU64,
    table: RwLock<(u64, Arc<Table>)>,
    textures: Objects,
    aliases: RwLock<Vec<Alias>>,
}

/// Addresses that stand for others: where a multicast object is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The first.
    pub start: u64,
    /// How many.
    pub bytes: u64,
    /// The address that the first stands for.
    pub target: u64,
}

struct State {
    allocator: Allocator,
    live: BTreeMap<u64, Allocation>,
    /// Reserved addresses ([`mapping`]).
    reserved: BTreeMap<u64, mapping::Range>,
    used: u64,
    serial: u64,
}

impl Memory {
    /// Memory of `capacity` bytes. Nothing is taken from the host until it is written.
    ///
    /// # Errors
    /// [`MemoryError::Reservation`] when the operating system refuses the address space.
    pub fn new(capacity: u64) -> Result<Memory, MemoryError> {
        // Red zones and quarantine cost addresses, not bytes of the described GPU: reserve twice as many addresses.
        let reservation = Reservation::new(capacity.saturating_mul(2).max(1 << 28))?;
        let shadow = Shadow::reserve(reservation.base(), reservation.bytes())?;
        let allocator = Allocator::new(reservation.base(), reservation.bytes(), capacity / 4);
        let state = State { allocator, live: BTreeMap::new(), reserved: BTreeMap::new(), used: 0, serial: 0 };
        let table = RwLock::new((0, Arc::new(Table::default())));
        Ok(Memory {
            reservation,
            shadow,
            capacity,
            state: Mutex::new(state),
            version: AtomicU64::new(0),
            table,
            textures: Objects::default(),
            aliases: RwLock::default(),
        })
    }

    /// Textures and surfaces, whose images lie here.
    pub fn textures(&self) -> &Objects {
        &self.textures
    }

    /// Says which addresses stand for which others.
    pub fn set_aliases(&self, aliases: Vec<Alias>) {
        *self.aliases.write().unwrap_or_else(PoisonError::into_inner) = aliases;
    }

    /// The address that one of a multicast object stands for.
    pub fn unicast(&self, address: u64) -> Option<u64> {
        let aliases = self.aliases.read().unwrap_or_else(PoisonError::into_inner);
        let found = aliases.iter().find(|alias| address.wrapping_sub(alias.start) < alias.bytes)?;
        Some(found.target + (address - found.start))
    }

    /// Size of the described GPU's memory in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes that can still be allocated.
    pub fn free_bytes(&self) -> u64 {
        self.capacity - self.state().used
    }

    /// Allocates `bytes` on the device. The contents count as never written (all zero in fact).
    ///
    /// # Errors
    /// [`MemoryError::InvalidSize`] for zero, [`MemoryError::OutOfMemory`] beyond the capacity.
    pub fn allocate(&self, bytes: u64, kind: Kind) -> Result<u64, MemoryError> {
        let on_host = kind.on_host();
        let alignment = if on_host { PAGE } else { ALIGNMENT };
        if bytes == 0 || bytes > self.reservation.bytes() || kind == Kind::Registered {
            return if bytes > self.reservation.bytes() {
                Err(MemoryError::OutOfMemory { bytes, free: self.free_bytes() })
            } else {
                Err(MemoryError::InvalidSize { bytes })
            };
        }
        let rounded = bytes.next_multiple_of(alignment);
        let mut state = self.state();
        let free = self.capacity - state.used;
        // Host memory is not the GPU's: it only needs addresses.
        if !on_host && rounded > free {
            return Err(MemoryError::OutOfMemory { bytes, free });
        }
        let start = state.allocator.take(rounded, alignment).ok_or(MemoryError::OutOfMemory { bytes, free })?;
        if on_host {
            if let Err(error) = self.reservation.expose(start, rounded) {
                state.allocator.give_back(start);
                return Err(error);
            }
        } else {
            state.used += rounded;
            self.shadow.clear(start, rounded);
        }
        self.insert(&mut state, start, bytes, kind);
        Ok(start)
    }

    /// Makes host memory of the program known as device memory at its own address.
    ///
    /// # Errors
    /// [`MemoryError::BadHostRange`] when it cannot be read and written, [`MemoryError::AlreadyRegistered`] when it
    /// overlaps memory that is already known.
    pub fn register(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        let bad = MemoryError::BadHostRange { address, bytes };
        let end = address.checked_add(bytes).filter(|_| bytes > 0).ok_or_else(|| bad.clone())?;
        if !self.reservation.host_range_is_accessible(address, bytes) {
            return Err(bad);
        }
        let mut state = self.state();
        let overlaps = state.live.range(..end).next_back().is_some_and(|(_, last)| last.end() > address);
        if overlaps || self.reservation.contains(address) {
            return Err(MemoryError::AlreadyRegistered { address });
        }
        self.insert(&mut state, address, bytes, Kind::Registered);
        Ok(())
    }

    /// Frees the allocation that starts at `start` if `accept` agrees with its kind.
    ///
    /// # Errors
    /// [`MemoryError::NotAnAllocation`] when there is none (a double free is named), or `accept` refuses it.
    pub fn free(&self, start: u64, accept: impl Fn(&Kind) -> bool) -> Result<Allocation, MemoryError> {
        let mut state = self.state();
        let known = state.live.get(&start).is_some_and(|allocation| accept(&allocation.kind));
        let Some(allocation) = known.then(|| state.live.remove(&start)).flatten() else {
            return Err(MemoryError::NotAnAllocation(Self::story_in(&state, start, 1)));
        };
        match allocation.kind {
            Kind::Registered => {}
            ref kind => {
                let alignment = if kind.on_host() { PAGE } else { ALIGNMENT };
                let rounded = allocation.bytes.next_multiple_of(alignment);
                if kind.on_host() {
                    self.reservation.hide(start, rounded);
                } else {
                    state.used -= rounded;
                }
                self.reservation.discard(start, rounded);
                state.allocator.quarantine(allocation.clone());
            }
        }
        self.version.fetch_add(1, Ordering::Release);
        Ok(allocation)
    }

    /// The live allocation that holds `address`.
    pub fn allocation_at(&self, address: u64) -> Option<Allocation> {
        let state = self.state();
        let (_, allocation) = state.live.range(..=address).next_back()?;
        (address < allocation.end()).then(|| allocation.clone())
    }

    /// All live allocations in the order of their addresses.
    pub fn live(&self) -> Vec<Allocation> {
        self.state().live.values().cloned().collect()
    }

    /// The window of the live allocation that holds all of `address..address + bytes`.
    #[inline]
    pub fn window(&self, address: u64, bytes: u64) -> Option<Window> {
        self.table().find(address, bytes)
    }

    /// A picture of the live allocations in which look-ups take no lock; for the time of a launch.
    pub fn table(&self) -> Arc<Table> {
        let version = self.version.load(Ordering::Acquire);
        {
            let cached = self.table.read().unwrap_or_else(PoisonError::into_inner);
            if cached.0 == version {
                return cached.1.clone();
            }
        }
        let state = self.state();
        // Read again under the lock: nobody changes the allocations now.
        let version = self.version.load(Ordering::Acquire);
        let table = Arc::new(Table::new(state.live.values().map(|allocation| self.window_of(allocation)).collect()));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = (version, table.clone());
        table
    }

    /// One window over all device addresses, live or not: what a kernel needs that runs without bounds checks.
    pub fn everything(&self) -> Window {
        let base = self.reservation.base();
        Window::new(base, self.reservation.bytes(), self.reservation.executor_pointer(base), Some(self.shadow))
    }

    /// What there is to say about an address that was touched in error.
    pub fn story(&self, address: u64, bytes: u64) -> Story {
        Self::story_in(&self.state(), address, bytes)
    }

    /// Copies `bytes` from host memory to the device.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] and [`MemoryError::BadHostRange`].
    pub fn write_from_host(&self, device: u64, host: u64, bytes: u64) -> Result<(), MemoryError> {
        let window = self.checked_window(device, bytes)?;
        self.reservation.copy_from_host(&window, device, host, bytes)?;
        window.mark(device, bytes);
        Ok(())
    }

    /// Copies `bytes` from the device to host memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] and [`MemoryError::BadHostRange`].
    pub fn read_to_host(&self, host: u64, device: u64, bytes: u64) -> Result<(), MemoryError> {
        let window = self.checked_window(device, bytes)?;
        self.reservation.copy_to_host(&window, host, device, bytes)
    }

    /// Copies `bytes` from one device address to another; the ranges may overlap. What was never written stays
    /// unwritten.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn copy(&self, destination: u64, source: u64, bytes: u64) -> Result<(), MemoryError> {
        let to = self.checked_window(destination, bytes)?;
        let from = self.checked_window(source, bytes)?;
        // SAFETY: both ranges lie inside live windows, whose executor's view is mapped for as long as `self` lives
        // (registered memory: for as long as the program keeps its promise). `copy` allows overlap.
        unsafe { std::ptr::copy(from.host(source), to.host(destination), bytes as usize) };
        Shadow::copy(to.shadow(), destination, from.shadow(), source, bytes);
        Ok(())
    }

    /// Copies `bytes` from `source` to `destination`, each of which is device memory or the program's own: the
    /// address tells.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] and [`MemoryError::BadHostRange`].
    pub fn transfer(&self, destination: u64, source: u64, bytes: u64) -> Result<(), MemoryError> {
        match (self.is_device(destination), self.is_device(source)) {
            _ if bytes == 0 => Ok(()),
            (true, true) => self.copy(destination, source, bytes),
            (true, false) => self.write_from_host(destination, source, bytes),
            (false, true) => self.read_to_host(destination, source, bytes),
            (false, false) => self.reservation.copy_within_host(destination, source, bytes),
        }
    }

    /// Whether an address is the device's: in its range, or registered.
    pub fn is_device(&self, address: u64) -> bool {
        self.reservation.contains(address) || self.window(address, 1).is_some()
    }

    /// Fills `count` elements of `pattern.len()` bytes (1, 2 or 4), `stride` bytes apart.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn fill(&self, start: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = count.saturating_mul(pattern.len() as u64);
        let window = self.checked_window(start, bytes)?;
        // SAFETY: the range lies inside a live window of the executor's view. Kernels may race with it: that is the
        // program's race, and only the bytes' values depend on it.
        let target = unsafe { std::slice::from_raw_parts_mut(window.host(start), bytes as usize) };
        match pattern {
            [byte] => target.fill(*byte),
            _ => target.chunks_exact_mut(pattern.len()).for_each(|element| element.copy_from_slice(pattern)),
        }
        window.mark(start, bytes);
        Ok(())
    }

    /// Reads device memory into a buffer of our own.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn read(&self, device: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let window = self.checked_window(device, buffer.len() as u64)?;
        // SAFETY: the range lies inside a live window of the executor's view; `buffer` is ours alone.
        unsafe { std::ptr::copy_nonoverlapping(window.host(device), buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    /// Writes bytes of our own to device memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn write(&self, device: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let window = self.checked_window(device, bytes.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), window.host(device), bytes.len()) };
        window.mark(device, bytes.len() as u64);
        Ok(())
    }

    /// Whether the program may read and write `bytes` of its own memory at `address`.
    pub fn host_range_is_accessible(&self, address: u64, bytes: u64) -> bool {
        self.reservation.host_range_is_accessible(address, bytes)
    }

    fn checked_window(&self, address: u64, bytes: u64) -> Result<Window, MemoryError> {
        self.window(address, bytes).ok_or_else(|| MemoryError::OutOfBounds(self.story(address, bytes)))
    }

    fn insert(&self, state: &mut State, start: u64, bytes: u64, kind: Kind) {
        state.serial += 1;
        let serial = state.serial;
        state.live.insert(start, Allocation { start, bytes, kind, serial });
        self.version.fetch_add(1, Ordering::Release);
    }

    fn window_of(&self, allocation: &Allocation) -> Window {
        let (start, bytes) = (allocation.start, allocation.bytes);
        match allocation.kind {
            Kind::Registered => Window::new(start, bytes, start as *mut u8, None),
            ref kind => {
                let shadow = (!kind.on_host()).then_some(self.shadow);
                Window::new(start, bytes, self.reservation.executor_pointer(start), shadow)
            }
        }
    }

    fn story_in(state: &State, address: u64, bytes: u64) -> Story {
        let before = state.live.range(..=address).next_back().map(|(_, allocation)| allocation);
        let after = state.live.range(address..).next().map(|(_, allocation)| allocation);
        Story::tell(address, bytes, before, after, state.allocator.freed_at(address))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held cannot leave the maps half changed in a way that matters more than going on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
