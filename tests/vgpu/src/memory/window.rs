//! What a kernel keeps of an allocation: bounds, where it is in our own address space, and its shadow.

use super::Shadow;

/// A live allocation as the executor sees it. Cheap to copy; look it up once and keep it.
#[derive(Clone, Copy)]
pub struct Window {
    start: u64,
    bytes: u64,
    host: *mut u8,
    shadow: Option<Shadow>,
}

// SAFETY: a window only describes memory; who dereferences its pointers gives the reason there.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    pub(super) fn new(start: u64, bytes: u64, host: *mut u8, shadow: Option<Shadow>) -> Window {
        Window { start, bytes, host, shadow }
    }

    /// First device address.
    #[inline(always)]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Size in bytes.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all of `bytes` bytes from `address` are inside.
    #[inline(always)]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        let offset = address.wrapping_sub(self.start);
        offset < self.bytes && bytes <= self.bytes - offset
    }

    /// Where the executor reads and writes the byte at device address `address`, which must be inside (or one past
    /// the end).
    #[inline(always)]
    pub fn host(&self, address: u64) -> *mut u8 {
        self.host.wrapping_add(address.wrapping_sub(self.start) as usize)
    }

    /// The map of written bytes; `None` for memory that the host can write behind our back, all of which counts as
    /// written.
    #[inline(always)]
    pub fn shadow(&self) -> Option<Shadow> {
        self.shadow
    }

    /// Whether all of `bytes` bytes from `address` (which must be inside) were written.
    #[inline(always)]
    pub fn is_initialised(&self, address: u64, bytes: u64) -> bool {
        self.shadow.is_none_or(|shadow| shadow.is_set(address, bytes))
    }

    /// Notes that `bytes` bytes from `address` (which must be inside) were written.
    #[inline(always)]
    pub fn mark(&self, address: u64, bytes: u64) {
        if let Some(shadow) = self.shadow {
            shadow.set(address, bytes);
        }
    }
}

/// The live allocations at one moment, sorted by address.
#[derive(Default)]
pub struct Table {
    starts: Vec<u64>,
    windows: Vec<Window>,
}

impl Table {
    pub(super) fn new(windows: Vec<Window>) -> Table {
        Table { starts: windows.iter().map(Window::start).collect(), windows }
    }

    /// The window that holds all of `bytes` bytes from `address`.
    #[inline]
    pub fn find(&self, address: u64, bytes: u64) -> Option<Window> {
        let after = self.starts.partition_point(|&start| start <= address);
        let window = self.windows.get(after.checked_sub(1)?)?;
        window.contains(address, bytes).then_some(*window)
    }
}
