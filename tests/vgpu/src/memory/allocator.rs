//! Which addresses are taken: best fit, red zones, quarantine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{ALIGNMENT, Allocation};

/// Red zones grow with the allocation, so that even a stride beyond the end hits nobody else.
const RED_ZONE_SHARE: u64 = 4;
const LARGEST_RED_ZONE: u64 = 1 << 20;
/// At most this many freed ranges are remembered.
const MOST_QUARANTINED: usize = 4096;

/// Hands out addresses. Knows sizes and positions only.
pub struct Allocator {
    free_by_start: BTreeMap<u64, u64>,
    free_by_size: BTreeSet<(u64, u64)>,
    /// Of each range in use (live or in quarantine): its size, red zone included.
    taken: BTreeMap<u64, u64>,
    quarantine: VecDeque<Allocation>,
    quarantined_bytes: u64,
    quarantine_limit: u64,
}

impl Allocator {
    /// Addresses `base..base + bytes`; freed ranges rest until more than `quarantine_limit` bytes were freed after
    /// them.
    pub fn new(base: u64, bytes: u64, quarantine_limit: u64) -> Allocator {
        let mut allocator = Allocator {
            free_by_start: BTreeMap::new(),
            free_by_size: BTreeSet::new(),
            taken: BTreeMap::new(),
            quarantine: VecDeque::new(),
            quarantined_bytes: 0,
            quarantine_limit,
        };
        // The first page stays empty: an access just before the first allocation is nobody's.
        allocator.insert_free(base + super::PAGE, bytes - super::PAGE);
        allocator
    }

    /// Takes `bytes` (a multiple of `alignment`) and a red zone after them.
    pub fn take(&mut self, bytes: u64, alignment: u64) -> Option<u64> {
        let red_zone = (bytes / RED_ZONE_SHARE).clamp(ALIGNMENT, LARGEST_RED_ZONE).next_multiple_of(alignment);
        let wanted = bytes.checked_add(red_zone)?;
        loop {
            if let Some((start, size)) = self.fit(wanted, alignment) {
                self.remove_free(start, size);
                let aligned = start.next_multiple_of(alignment);
                self.insert_free(start, aligned - start);
                self.insert_free(aligned + wanted, start + size - (aligned + wanted));
                self.taken.insert(aligned, wanted);
                return Some(aligned);
            }
            // Out of fresh addresses: the longest rested range goes first.
            self.release_oldest()?;
        }
    }

    /// Frees a range at once.
    pub fn give_back(&mut self, start: u64) {
        if let Some(bytes) = self.taken.remove(&start) {
            self.insert_free(start, bytes);
        }
    }

    /// Frees a range after it has rested.
    pub fn quarantine(&mut self, allocation: Allocation) {
        self.quarantined_bytes += allocation.bytes;
        self.quarantine.push_back(allocation);
        while self.quarantine.len() > MOST_QUARANTINED || self.quarantined_bytes > self.quarantine_limit {
            if self.release_oldest().is_none() {
                break;
            }
        }
    }

    /// The most recently freed allocation that held `address`, if it still rests.
    pub fn freed_at(&self, address: u64) -> Option<&Allocation> {
        self.quarantine.iter().rev().find(|freed| freed.start <= address && address < freed.end())
    }

    fn release_oldest(&mut self) -> Option<()> {
        let oldest = self.quarantine.pop_front()?;
        self.quarantined_bytes -= oldest.bytes;
        self.give_back(oldest.start);
        Some(())
    }

    /// The smallest free range with room for `wanted` bytes at a multiple of `alignment`.
    fn fit(&self, wanted: u64, alignment: u64) -> Option<(u64, u64)> {
        self.free_by_size
            .range((wanted, 0)..)
            .find(|&&(size, start)| start.next_multiple_of(alignment) - start <= size - wanted)
            .map(|&(size, start)| (start, size))
    }

    fn insert_free(&mut self, mut start: u64, mut bytes: u64) {
        if bytes == 0 {
            return;
        }
        if let Some(&following) = self.free_by_start.get(&(start + bytes)) {
            self.remove_free(start + bytes, following);
            bytes += following;
        }
        if let Some((&before, &size)) = self.free_by_start.range(..start).next_back()
            && before + size == start
        {
            self.remove_free(before, size);
            start = before;
            bytes += size;
        }
        self.free_by_start.insert(start, bytes);
        self.free_by_size.insert((bytes, start));
    }

    fn remove_free(&mut self, start: u64, bytes: u64) {
        self.free_by_start.remove(&start);
        self.free_by_size.remove(&(bytes, start));
    }
}
