//! Accesses to global memory: windows into allocations, what was written, sectors, and races between blocks.

use super::access::{Access, Located, Mode, READ_ONLY, RELAXED, RELEASE};
use super::code::{Flow, Instruction};
use super::warp::Warp;
use super::{Class, FaultKind};
use crate::checks::{Kind, Space};
use crate::isa::WARP;
use crate::memory::Window;

impl Access<'_> {
    #[inline(always)]
    pub(super) fn global<const WATCHED: bool>(
        &mut self,
        warp: &mut Warp<'_>,
        instruction: &Instruction,
    ) -> Result<Located, Flow> {
        let span = self.highest.wrapping_sub(self.lowest) + self.bytes;
        if !WATCHED {
            let everything = warp.grid.everything;
            if everything.contains(self.lowest, span) {
                return Ok(self.located((everything.host(self.lowest) as usize).wrapping_sub(self.lowest as usize)));
            }
            return self.find_windows::<false>(warp, instruction);
        }
        let at = warp.at(instruction);
        let window = match *warp.worker.window(at) {
            Some(window) if window.contains(self.lowest, span) => window,
            _ => match warp.grid.table.find(self.lowest, span) {
                Some(window) => *warp.worker.window(at).insert(window),
                None => return self.find_windows::<true>(warp, instruction),
            },
        };
        if self.mode == Mode::Read
            && instruction.class == Some(Class::GlobalLoad)
            && instruction.modifier & READ_ONLY != 0
        {
            self.check_read_only(warp, instruction);
        }
        if self.contiguous {
            if self.mode.reads() && warp.grid.checks.initialised && !window.is_initialised(self.lowest, span) {
                self.unwritten(warp, instruction, window);
            }
            if self.mode.writes() {
                window.mark(self.lowest, span);
            }
            let sectors = (self.highest + self.bytes - 1) / 32 - self.lowest / 32 + 1;
            self.count_sectors(warp, sectors, span.div_ceil(32));
            self.touch(warp, self.lowest, span);
        } else {
            self.scattered(warp, instruction, window);
        }
        if warp.grid.checks.global_races {
            self.between_blocks(warp, instruction);
        }
        Ok(self.located((window.host(self.lowest) as usize).wrapping_sub(self.lowest as usize)))
    }

    /// Checks and counts an access whose lanes do not follow each other, run by run.
    fn scattered(&self, warp: &mut Warp<'_>, instruction: &Instruction, window: Window) {
        // Of each sector, which of its bytes are asked for.
        let mut sectors = [(0u64, 0u32); 128];
        let mut count = 0;
        let mut lane = 0;
        let check = self.mode.reads() && warp.grid.checks.initialised;
        let mut failed = false;
        while lane < WARP {
            if self.mask >> lane & 1 == 0 {
                lane += 1;
                continue;
            }
            let begin = self.addresses[lane];
            let mut end = begin + self.bytes;
            lane += 1;
            while lane < WARP
                && self.mask >> lane & 1 != 0
                && (self.addresses[lane] == end || self.addresses[lane] == begin)
            {
                if self.addresses[lane] == end {
                    end += self.bytes;
                }
                lane += 1;
            }
            failed |= check && !window.is_initialised(begin, end - begin);
            if self.mode.writes() {
                window.mark(begin, end - begin);
            }
            self.touch(warp, begin, end - begin);
            for sector in begin / 32..=(end - 1) / 32 {
                let (from, to) = (begin.max(sector * 32) - sector * 32, end.min(sector * 32 + 32) - sector * 32);
                let bytes = ((1u64 << to) - (1u64 << from)) as u32;
                if let Some((_, others)) = sectors[..count].iter_mut().find(|(other, _)| *other == sector) {
                    *others |= bytes;
                } else if count < sectors.len() {
                    sectors[count] = (sector, bytes);
                    count += 1;
                }
            }
        }
        let useful: u32 = sectors[..count].iter().map(|(_, bytes)| bytes.count_ones()).sum();
        self.count_sectors(warp, count as u64, u64::from(useful.div_ceil(32)));
        if failed {
            self.unwritten(warp, instruction, window);
        }
    }

    #[inline(always)]
    fn count_sectors(&self, warp: &mut Warp<'_>, sectors: u64, ideal: u64) {
        let counters = &mut warp.worker.counters;
        if !self.mode.writes() {
            counters.load_sectors += sectors;
            counters.load_sectors_ideal += ideal;
        } else {
            counters.store_sectors += sectors;
            counters.store_sectors_ideal += ideal;
        }
    }

    /// Notes that the sectors of a run were used at least once.
    #[inline(always)]
    fn touch(&self, warp: &mut Warp<'_>, begin: u64, bytes: u64) {
        let Some([read, written]) = &warp.grid.touched else { return };
        if self.mode.reads() {
            warp.worker.counters.distinct_load_sectors += read.touch(begin, bytes);
        }
        if self.mode.writes() {
            warp.worker.counters.distinct_store_sectors += written.touch(begin, bytes);
        }
    }

    /// A load through the read-only path of what this launch has written.
    fn check_read_only(&self, warp: &mut Warp<'_>, instruction: &Instruction) {
        let Some([_, written]) = &warp.grid.touched else { return };
        if self.contiguous && !written.contains(self.lowest, self.highest - self.lowest + self.bytes) {
            return;
        }
        let is_stale = |&lane: &usize| self.mask >> lane & 1 != 0 && written.contains(self.addresses[lane], self.bytes);
        if let Some(lane) = (0..WARP).find(is_stale).filter(|_| warp.grid.checks.bounds) {
            let place = Some((Space::Global, self.addresses[lane], self.bytes as u32));
            let detail = "the load promises that the launch does not write there, and it has".to_owned();
            warp.find(instruction, lane as u32, Kind::ReadOnly, place, detail);
        }
    }

    /// Looks for accesses of other blocks to the same bytes, two by two.
    #[cold]
    fn between_blocks(&self, warp: &mut Warp<'_>, instruction: &Instruction) {
        let block = warp.grid.linear_block(warp.block.id);
        let relaxed = instruction.modifier & RELAXED != 0;
        let orders = matches!(instruction.class, Some(Class::GlobalLoad | Class::GlobalStore)) && relaxed;
        let strong = orders || matches!(self.mode, Mode::Atomic | Mode::StrongRead | Mode::StrongWrite);
        if strong {
            if instruction.modifier & RELEASE != 0 && !relaxed {
                warp.block.order.fence();
            }
            for lane in (0..WARP).filter(|lane| self.mask >> lane & 1 != 0) {
                let (releases, acquires) = (self.mode.writes(), self.mode.reads());
                warp.grid.traffic.order(self.addresses[lane], block, &mut warp.block.order, releases, acquires);
            }
        }
        for lane in (0..WARP).filter(|lane| self.mask >> lane & 1 != 0) {
            let bytes = self.addresses[lane]..self.addresses[lane] + self.bytes;
            let (traffic, order) = (&warp.grid.traffic, &warp.block.order);
            let conflict = if strong {
                traffic.unordered_write(bytes, block, order)
            } else {
                traffic.conflict(bytes, block, order, self.mode.writes())
            };
            let Some(other) = conflict else { continue };
            let place = Some((Space::Global, self.addresses[lane], self.bytes as u32));
            let did = if other.wrote { "writes" } else { "reads" };
            let [x, y, _] = warp.grid.launch.grid.map(u64::from);
            let (bx, by, bz) = (other.block % x, other.block / x % y, other.block / x / y);
            let detail = format!(
                "block ({bx}, {by}, {bz}) {did} there in the same launch, not in order, and one of the two writes"
            );
            warp.find(instruction, lane as u32, Kind::GlobalRace, place, detail);
        }
    }

    #[cold]
    fn unwritten(&self, warp: &mut Warp<'_>, instruction: &Instruction, window: Window) {
        let lane = self.first(|address| !window.is_initialised(address, self.bytes));
        let place = Some((Space::Global, self.addresses[lane], self.bytes as u32));
        let story = warp.grid.memory.story(self.addresses[lane], self.bytes);
        let detail = format!("nothing was ever written there: {story}");
        warp.find(instruction, lane as u32, Kind::Uninitialised, place, detail);
    }

    /// The lanes do not share a window: each one's is looked up.
    #[cold]
    fn find_windows<const WATCHED: bool>(
        &mut self,
        warp: &mut Warp<'_>,
        instruction: &Instruction,
    ) -> Result<Located, Flow> {
        let mut distance = None;
        for lane in (0..WARP).filter(|lane| self.mask >> lane & 1 != 0) {
            let address = self.addresses[lane];
            let window = warp.grid.table.find(address, self.bytes);
            let window = match window {
                None if !warp.grid.checks.bounds && warp.grid.everything.contains(address, self.bytes) => {
                    warp.grid.everything
                }
                None => return Err(self.out_of_bounds(warp, instruction, lane)),
                Some(window) => window,
            };
            if WATCHED {
                let mut addresses = *self.addresses;
                let (bytes, mode) = (self.bytes, self.mode);
                let one = Access {
                    mask: 1 << lane,
                    addresses: &mut addresses,
                    bytes,
                    mode,
                    contiguous: false,
                    lowest: address,
                    highest: address,
                };
                one.scattered(warp, instruction, window);
            }
            // Places are told by one distance: addresses of other windows are shifted.
            let own = (window.host(address) as usize).wrapping_sub(address as usize);
            let common = *distance.get_or_insert(own);
            self.addresses[lane] = address.wrapping_add(own.wrapping_sub(common) as u64);
        }
        let first = self.addresses[self.mask.trailing_zeros() as usize];
        for lane in 0..WARP {
            self.addresses[lane] = if self.mask >> lane & 1 != 0 { self.addresses[lane] } else { first };
        }
        self.contiguous = false;
        Ok(self.located(distance.unwrap_or(0)))
    }

    #[cold]
    fn out_of_bounds(&self, warp: &mut Warp<'_>, instruction: &Instruction, lane: usize) -> Flow {
        use crate::memory::Place;
        let address = self.addresses[lane];
        let story = warp.grid.memory.story(address, self.bytes);
        let kind = match story.place {
            Place::Null => Kind::NullPointer,
            Place::Freed { .. } => Kind::UseAfterFree,
            _ => Kind::OutOfBounds,
        };
        let place = Some((Space::Global, address, self.bytes as u32));
        warp.fault(instruction, lane as u32, FaultKind::IllegalAddress, kind, place, story.to_string())
    }
}
