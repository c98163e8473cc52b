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
    /// Whether one thread alone adds, which needs no bus lock for that.
    has_one_writer: bool,
}

// SAFETY: the words are atomics in a mapping that lives as long as the value.
unsafe impl Send for Footprint {}
// SAFETY: as above.
unsafe impl Sync for Footprint {}

impl Footprint {
    /// An empty set of sectors of `origin..origin + bytes`, to which so many threads add. Where the system refuses the addresses the set stays empty.
    pub fn new(origin: u64, bytes: u64, writers: usize) -> Footprint {
        let has_one_writer = writers <= 1;
        let sectors = bytes / SECTOR;
        let reserved = (sectors / 8).next_multiple_of(4096).max(4096) as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh private mapping.
        let words = unsafe { libc::mmap(std::ptr::null_mut(), reserved, protection, flags, -1, 0) };
        if words == libc::MAP_FAILED {
            return Footprint { words: std::ptr::null(), reserved: 0, origin, sectors: 0, has_one_writer };
        }
        Footprint { words: words as *const AtomicU64, reserved, origin, sectors, has_one_writer }
    }

    /// Adds the sectors that hold `bytes` bytes from `address` (at least one); how many of them are new. Addresses outside the set's range are never in it.
    #[inline]
    pub fn touch(&self, address: u64, bytes: u64) -> u64 {
        let mut added = 0;
        self.for_words(address, bytes, |word, mask| {
            let known = word.load(Ordering::Relaxed);
            if known & mask != mask {
                let known = if self.has_one_writer {
                    word.store(known | mask, Ordering::Relaxed);
                    known
                } else {
                    word.fetch_or(mask, Ordering::Relaxed)
                };
                added += u64::from((mask & !known).count_ones());
            }
        });
        added
    }

    /// Whether any of the sectors that hold `bytes` bytes from `address` (at least one) is in the set.
    #[inline]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        let mut found = false;
        self.for_words(address, bytes, |word, mask| found |= word.load(Ordering::Relaxed) & mask != 0);
        found
    }

    /// Calls `visit` with each word that sectors of the range share, and the mask of them in it.
    #[inline(always)]
    fn for_words(&self, address: u64, bytes: u64, mut visit: impl FnMut(&AtomicU64, u64)) {
        let offset = address.wrapping_sub(self.origin);
        let mut first = offset / SECTOR;
        if first >= self.sectors {
            return;
        }
        let end = (offset + bytes).div_ceil(SECTOR).min(self.sectors);
        while first < end {
            let count = (64 - first % 64).min(end - first);
            let mask = u64::MAX >> (64 - count) << (first % 64);
            // SAFETY: there is a word for each sector.
            visit(unsafe { &*self.words.add((first / 64) as usize) }, mask);
            first += count;
        }
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
        for writers in [1, 2] {
            once(&Footprint::new(1 << 20, 1 << 30, writers));
        }
    }

    fn once(footprint: &Footprint) {
        assert_eq!(footprint.touch(1 << 20, 1), 1);
        assert_eq!(footprint.touch((1 << 20) + 31, 1), 0);
        assert_eq!(footprint.touch((1 << 20) + 31, 2), 1);
        assert!(footprint.contains((1 << 20) + 63, 1) && !footprint.contains((1 << 20) + 64, 1 << 20));
        assert_eq!(footprint.touch((1 << 20) + 1, 10_000), 313 - 2);
        assert_eq!(footprint.touch(0, 1), 0, "outside the range");
        assert_eq!(footprint.touch((1 << 20) + (1 << 30), 1), 0, "outside the range");
        assert_eq!(footprint.touch((1 << 20) + (1 << 30) - 32, 64), 1, "partly outside the range");
    }
}
