//! Which sectors of device memory a launch touched.
//!
//! A simulated cache would give other numbers for each order in which blocks happen to run. Whether a sector was
//! touched at all does not depend on the order, so this is what is recorded: one bit per sector for reads, one for
//! writes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a sector, the unit of traffic between the caches and the memory.
pub const SECTOR: u64 = 32;

/// A set of sectors that may be added to from many threads. Reserves addresses for all, takes memory for those touched.
pub struct Footprint {
    words: *const AtomicU64,
    reserved: usize,
    origin: u64,
    sectors: u64,
}

// SAFETY: the words are atomics in a mapping that lives as long as the value.
unsafe impl Send for Footprint {}
// SAFETY: as above.
unsafe impl Sync for Footprint {}

impl Footprint {
    /// An empty set of sectors of `origin..origin + bytes`. Where the system refuses the addresses the set stays empty.
    pub fn new(origin: u64, bytes: u64) -> Footprint {
        let sectors = bytes / SECTOR;
        let reserved = (sectors / 8).next_multiple_of(4096).max(4096) as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh private mapping.
        let words = unsafe { libc::mmap(std::ptr::null_mut(), reserved, protection, flags, -1, 0) };
        if words == libc::MAP_FAILED {
            return Footprint { words: std::ptr::null(), reserved: 0, origin, sectors: 0 };
        }
        Footprint { words: words as *const AtomicU64, reserved, origin, sectors }
    }

    /// Adds the sector that holds `address`; true the first time. Addresses outside the set's range are never in it.
    #[inline]
    pub fn touch(&self, address: u64) -> bool {
        let sector = address.wrapping_sub(self.origin) / SECTOR;
        if sector >= self.sectors {
            return false;
        }
        // SAFETY: there is a word for each sector.
        let word = unsafe { &*self.words.add((sector / 64) as usize) };
        let bit = 1 << (sector % 64);
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Whether the sector that holds `address` is in the set.
    #[inline]
    pub fn contains(&self, address: u64) -> bool {
        let sector = address.wrapping_sub(self.origin) / SECTOR;
        // SAFETY: there is a word for each sector.
        sector < self.sectors
            && unsafe { &*self.words.add((sector / 64) as usize) }.load(Ordering::Relaxed) >> (sector % 64) & 1 != 0
    }
}

impl Drop for Footprint {
    fn drop(&mut self) {
        if self.reserved > 0 {
            // SAFETY: our own mapping, and nobody else holds the value.
            unsafe { libc::munmap(self.words as *mut libc::c_void, self.reserved) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_counts_once() {
        let footprint = Footprint::new(1 << 20, 1 << 30);
        assert!(footprint.touch(1 << 20));
        assert!(!footprint.touch((1 << 20) + 31));
        assert!(footprint.touch((1 << 20) + 32));
        assert!(!footprint.touch(0), "outside the range");
        assert!(!footprint.touch((1 << 20) + (1 << 30)), "outside the range");
    }
}
