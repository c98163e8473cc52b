//! One bit per byte of device memory: was it ever written?

use std::sync::atomic::{AtomicU64, Ordering};

use super::reservation::reserve_zeroed;
use super::{MemoryError, PAGE};

/// A map of written bytes over the device addresses. A plain handle: copies see the same bits.
///
/// The bits are atomic and relaxed: they describe memory, they do not order it.
#[derive(Clone, Copy)]
pub struct Shadow {
    words: *const AtomicU64,
    origin: u64,
}

// SAFETY: the words are atomics in a mapping that is never unmapped.
unsafe impl Send for Shadow {}
// SAFETY: as above.
unsafe impl Sync for Shadow {}

impl Shadow {
    /// Reserves bits for `bytes` addresses from `origin`. The mapping lives as long as the process.
    pub(super) fn reserve(origin: u64, bytes: u64) -> Result<Shadow, MemoryError> {
        let words = reserve_zeroed((bytes / 8).next_multiple_of(PAGE))? as *const AtomicU64;
        Ok(Shadow { words, origin })
    }

    /// Whether all of `bytes` bytes from `address` were written.
    #[inline]
    pub fn is_set(&self, address: u64, bytes: u64) -> bool {
        let mut all = true;
        self.for_words(address, bytes, |word, mask| all &= word.load(Ordering::Relaxed) & mask == mask);
        all
    }

    /// Notes that `bytes` bytes from `address` were written.
    #[inline]
    pub fn set(&self, address: u64, bytes: u64) {
        self.for_words(address, bytes, |word, mask| {
            if word.load(Ordering::Relaxed) & mask == mask {
                // Usual in a loop that writes the same buffer again: no bus lock.
            } else if mask == u64::MAX {
                word.store(mask, Ordering::Relaxed);
            } else {
                word.fetch_or(mask, Ordering::Relaxed);
            }
        });
    }

    /// Forgets that `bytes` bytes from `address` were written.
    pub fn clear(&self, address: u64, bytes: u64) {
        // Whole pages of bits go back to the system: a large allocation costs no time.
        let page_span = PAGE * 8;
        let offset = address - self.origin;
        let first = offset.next_multiple_of(page_span);
        let last = (offset + bytes) / page_span * page_span;
        let clear = |from: u64, to: u64| {
            self.for_words(self.origin + from, to - from, |word, mask| {
                word.fetch_and(!mask, Ordering::Relaxed);
            });
        };
        if first >= last {
            return clear(offset, offset + bytes);
        }
        clear(offset, first);
        clear(last, offset + bytes);
        // SAFETY: whole pages of our own private mapping, which read as zero afterwards.
        unsafe {
            libc::madvise(
                (self.words as u64 + first / 8) as *mut libc::c_void,
                ((last - first) / 8) as usize,
                libc::MADV_DONTNEED,
            )
        };
    }

    /// The first byte of the range that was never written.
    pub fn first_unset(&self, address: u64, bytes: u64) -> Option<u64> {
        (address..address + bytes).find(|&byte| !self.is_set(byte, 1))
    }

    /// Carries the bits of a copied range along; a side without a shadow counts as written.
    pub(super) fn copy(to: Option<Shadow>, destination: u64, from: Option<Shadow>, source: u64, bytes: u64) {
        let Some(target) = to else { return };
        match from {
            Some(origin) if !origin.is_set(source, bytes) => {
                let written: Vec<bool> = (0..bytes).map(|byte| origin.is_set(source + byte, 1)).collect();
                target.clear(destination, bytes);
                let mut run = 0;
                for (index, &set) in written.iter().chain([&false]).enumerate() {
                    if set {
                        run += 1;
                    } else if run > 0 {
                        target.set(destination + index as u64 - run, run);
                        run = 0;
                    }
                }
            }
            _ => target.set(destination, bytes),
        }
    }

    /// Calls `visit` with each word that the range touches and the mask of the range's bits in it.
    #[inline(always)]
    fn for_words(&self, address: u64, bytes: u64, mut visit: impl FnMut(&AtomicU64, u64)) {
        let mut bit = address - self.origin;
        let end = bit + bytes;
        while bit < end {
            let shift = bit % 64;
            let count = (64 - shift).min(end - bit);
            let mask = (u64::MAX >> (64 - count)) << shift;
            // SAFETY: windows only ask for addresses inside the reservation, for all of which there are words.
            visit(unsafe { &*self.words.add((bit / 64) as usize) }, mask);
            bit += count;
        }
    }
}
