//! Addresses and memory as two things: ranges that are reserved, and parts of them that are mapped and made accessible.
//!
//! Parts that follow each other are one live allocation, as programs use them: an expandable buffer grows at its end and stays one piece. What was in a part is gone when
//! it is unmapped, even if its memory is mapped again.

use std::collections::BTreeMap;

use super::{Allocation, Kind, Memory, MemoryError, State};

/// Reserved ranges and mapped parts are multiples of this.
pub const GRANULARITY: u64 = 2 << 20;

/// A reserved range of addresses.
#[derive(Debug, Default)]
pub(super) struct Range {
    bytes: u64,
    /// What is mapped: bytes, and whether it may be accessed, by the first address.
    parts: BTreeMap<u64, (u64, bool)>,
}

impl Memory {
    /// Reserves addresses.
    ///
    /// # Errors
    /// [`MemoryError::InvalidSize`] for what is no multiple of [`GRANULARITY`], [`MemoryError::OutOfMemory`] when there are not so many.
    pub fn reserve(&self, bytes: u64, alignment: u64) -> Result<u64, MemoryError> {
        let alignment = alignment.max(GRANULARITY);
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) || !alignment.is_power_of_two() {
            return Err(MemoryError::InvalidSize { bytes });
        }
        let mut state = self.state();
        let free = self.capacity - state.used;
        let start = state.allocator.take(bytes, alignment).ok_or(MemoryError::OutOfMemory { bytes, free })?;
        state.reserved.insert(start, Range { bytes, parts: BTreeMap::new() });
        Ok(start)
    }

    /// Gives addresses back of which nothing is mapped.
    ///
    /// # Errors
    /// [`MemoryError::InvalidSize`] if it is no reserved range, or parts of it are mapped.
    pub fn unreserve(&self, start: u64, bytes: u64) -> Result<(), MemoryError> {
        let mut state = self.state();
        let known = state.reserved.get(&start).is_some_and(|range| range.bytes == bytes && range.parts.is_empty());
        if !known {
            return Err(MemoryError::InvalidSize { bytes });
        }
        state.reserved.remove(&start);
        state.allocator.give_back(start);
        Ok(())
    }

    /// Takes memory without an address.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`] beyond the capacity.
    pub fn take_capacity(&self, bytes: u64) -> Result<(), MemoryError> {
        let mut state = self.state();
        let free = self.capacity - state.used;
        if bytes > free {
            return Err(MemoryError::OutOfMemory { bytes, free });
        }
        state.used += bytes;
        Ok(())
    }

    /// Gives such memory back.
    pub fn give_capacity(&self, bytes: u64) {
        let mut state = self.state();
        state.used = state.used.saturating_sub(bytes);
    }

    /// Maps memory that was taken to reserved addresses, where it cannot be accessed yet.
    ///
    /// # Errors
    /// [`MemoryError::InvalidSize`] if the addresses are not reserved, or something is mapped there.
    pub fn map(&self, start: u64, bytes: u64) -> Result<(), MemoryError> {
        let refusal = MemoryError::InvalidSize { bytes };
        let mut state = self.state();
        let end = start.checked_add(bytes).ok_or_else(|| refusal.clone())?;
        let (_, range) = state.range_of(start, end).ok_or_else(|| refusal.clone())?;
        let overlaps = range.parts.range(..end).next_back().is_some_and(|(&part, &(size, _))| part + size > start);
        if overlaps || bytes == 0 || !(start | bytes).is_multiple_of(GRANULARITY) {
            return Err(refusal);
        }
        range.parts.insert(start, (bytes, false));
        self.shadow.clear(start, bytes);
        Ok(())
    }

    /// Says whether all of a range, which must be mapped, may be accessed.
    ///
    /// # Errors
    /// [`MemoryError::InvalidSize`] if part of it is not mapped, or it ends inside of a part.
    pub fn set_access(&self, start: u64, bytes: u64, accessible: bool) -> Result<(), MemoryError> {
        self.change_parts(start, bytes, |range, parts| {
            parts.iter().for_each(|part| {
                range.parts.entry(*part).and_modify(|state| state.1 = accessible);
            });
        })
    }

    /// Unmaps a range that is whole parts; tells where those begin.
    ///
    /// # Errors
    /// As [`Memory::set_access`].
    pub fn unmap(&self, start: u64, bytes: u64) -> Result<Vec<u64>, MemoryError> {
        let mut gone = Vec::new();
        self.change_parts(start, bytes, |range, parts| {
            parts.iter().for_each(|part| {
                range.parts.remove(part);
            });
            gone = parts.to_vec();
        })?;
        self.reservation.discard(start, bytes);
        Ok(gone)
    }

    /// Whether an address is mapped, and may be accessed.
    pub fn access_at(&self, address: u64) -> Option<bool> {
        let mut state = self.state();
        let (_, range) = state.range_of(address, address + 1)?;
        let (&part, &(bytes, accessible)) = range.parts.range(..=address).next_back()?;
        (address < part + bytes).then_some(accessible)
    }

    /// Changes the parts of a range that they make up without a gap, and then what is live of it.
    fn change_parts(&self, start: u64, bytes: u64, change: impl FnOnce(&mut Range, &[u64])) -> Result<(), MemoryError> {
        let refusal = MemoryError::InvalidSize { bytes };
        let mut state = self.state();
        let end = start.checked_add(bytes).filter(|_| bytes > 0).ok_or_else(|| refusal.clone())?;
        let (first, range) = state.range_of(start, end).ok_or_else(|| refusal.clone())?;
        let mut reached = start;
        let mut parts = Vec::new();
        for (&part, &(size, _)) in range.parts.range(start..end) {
            if part != reached {
                return Err(refusal);
            }
            parts.push(part);
            reached += size;
        }
        if reached != end {
            return Err(refusal);
        }
        change(range, &parts);
        self.refresh(&mut state, first);
        Ok(())
    }

    /// Makes what is accessible of a reserved range, and nothing else of it, live.
    fn refresh(&self, state: &mut State, first: u64) {
        let Some(range) = state.reserved.get(&first) else { return };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (&part, &(bytes, accessible)) in &range.parts {
            match runs.last_mut() {
                _ if !accessible => {}
                Some((begin, length)) if *begin + *length == part => *length += bytes,
                _ => runs.push((part, bytes)),
            }
        }
        let end = first + range.bytes;
        let before: Vec<Allocation> = state.live.range(first..end).map(|(_, allocation)| allocation.clone()).collect();
        for allocation in before {
            state.live.remove(&allocation.start);
        }
        for (start, bytes) in runs {
            self.insert(state, start, bytes, Kind::Mapped);
        }
        self.version.fetch_add(1, std::sync::atomic::Ordering::Release);
    }
}

impl State {
    /// The reserved range that holds all of `start..end`.
    fn range_of(&mut self, start: u64, end: u64) -> Option<(u64, &mut Range)> {
        let (&first, range) = self.reserved.range_mut(..=start).next_back()?;
        (end <= first + range.bytes).then_some((first, range))
    }
}
