//! Loads and stores (PTX ISA 9.7.9.8 to 9.7.9.12): from the addresses of the lanes to places in our memory, with all checks, then the transfer.
//!
//! Generic addresses: global memory has its own; shared memory, local memory and the parameters have a window each. A shared address holds in its upper byte
//! which block of the cluster is meant: 0 for the own, else its rank plus one.

use super::code::{Flow, Handler, Instruction, Operand};
use super::semantics::{Environment, Semantics, handlers, store as store_register};
use super::warp::Warp;
use super::{Class, FaultKind};
use crate::checks::{Kind, Space};
use crate::isa::{Lanes64, Value, WARP};
use crate::memory::Window;

/// Where generic addresses of shared memory begin; 32 bits of addresses follow.
pub(crate) const SHARED: u64 = 0x0300_0000_0000;
/// Where generic addresses of local memory begin.
pub(crate) const LOCAL: u64 = 0x0200_0000_0000;
/// Where generic addresses of the parameters of the kernel begin.
pub(crate) const PARAM: u64 = 0x0400_0000_0000;
/// Bytes of each window.
const WINDOW: u64 = 1 << 32;
/// Bits of an offset within the shared memory of a block; the rank is above.
pub(crate) const SHARED_BITS: u32 = 24;

/// The windows by the names of the spaces.
pub(crate) const WINDOWS: [(&str, u64); 7] = [
    ("global", 0),
    ("const", 0),
    ("shared", SHARED),
    ("shared::cta", SHARED),
    ("shared::cluster", SHARED),
    ("local", LOCAL),
    ("param", PARAM),
];

/// State spaces of memory instructions, in the low byte of their modifier.
pub(crate) mod space {
    /// Any of the others, told by the address.
    pub const GENERIC: u32 = 0;
    /// Global and constant memory.
    pub const GLOBAL: u32 = 1;
    /// Shared memory of the block or its cluster.
    pub const SHARED: u32 = 2;
    /// Local memory of the thread.
    pub const LOCAL: u32 = 3;
    /// Local memory at a fixed place of the frame: variables, arguments and results.
    pub const FRAME: u32 = 4;
    /// Parameters of the kernel.
    pub const PARAM: u32 = 5;
}

/// The spaces by name, for `isspacep`.
pub(crate) const SPACES: [(&str, u32); 7] = [
    ("global", space::GLOBAL),
    ("const", 7),
    ("shared", space::SHARED),
    ("shared::cta", space::SHARED),
    ("shared::cluster", 6),
    ("local", space::LOCAL),
    ("param", space::PARAM),
];

/// The space of a generic address.
#[inline(always)]
fn space_of(address: u64) -> u32 {
    match address & !(WINDOW - 1) {
        SHARED => space::SHARED,
        LOCAL => space::LOCAL,
        PARAM => space::PARAM,
        _ => space::GLOBAL,
    }
}

/// Whether a generic address lies in a space of [`SPACES`].
pub(crate) fn is_in(space: u32, address: u64) -> bool {
    match space {
        // The own block's addresses have no rank, unless `mapa` gave them one.
        6 => space_of(address) == space::SHARED,
        space::SHARED => space_of(address) == space::SHARED && address - SHARED < 1 << SHARED_BITS,
        7 => false,
        _ => space_of(address) == space,
    }
}

/// `mapa`: the same place in the shared memory of another block of the cluster.
pub(crate) fn map_to_block(address: u64, rank: u32) -> u64 {
    address & !(0xff << SHARED_BITS) | u64::from(rank + 1) << SHARED_BITS
}

/// `getctarank`.
pub(crate) fn rank_of<T: Value<Register = T> + Into<u64>>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Flow {
    let addresses = warp.read::<T>(instruction.operands[1]);
    let own = warp.block.rank;
    let ranks = std::array::from_fn(|lane| {
        ((addresses[lane].into() >> SHARED_BITS & 0xff) as u32).checked_sub(1).unwrap_or(own)
    });
    warp.set_lanes(instruction.operands[0], mask, &ranks);
    Flow::Next
}

/// The address of a variable in the local frame: where the frame begins, plus the immediate.
pub(crate) fn local_address<T: Value<Register = T> + TryFrom<u64>>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
) -> Flow {
    let address = instruction.immediate.wrapping_add(u64::from(warp.frame.local)) & (WINDOW - 1);
    if let Ok(address) = T::try_from(address) {
        store_register(warp.register::<T>(instruction.operands[0]), mask, &[address; WARP]);
    }
    Flow::Next
}

/// Where the lanes of an access are in our memory: at `distance` from the addresses.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    distance: usize,
    addresses: Lanes64,
    /// Whether all 32 lanes access one run of bytes in their order.
    contiguous: bool,
}

impl Located {
    /// The place of a lane.
    #[inline(always)]
    pub fn pointer(&self, lane: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut((self.addresses[lane] as usize).wrapping_add(self.distance))
    }
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Both at once, and orders itself against others.
    Atomic,
    /// Writes later; until then nobody may touch it.
    Pending,
}

impl Mode {
    #[inline(always)]
    fn reads(self) -> bool {
        matches!(self, Mode::Read | Mode::Atomic)
    }

    #[inline(always)]
    fn writes(self) -> bool {
        self != Mode::Read
    }
}

/// The bit of the modifier of a load through the read-only path (`.nc`).
pub(crate) const READ_ONLY: u32 = 1 << 9;

/// The addresses of a memory operand: a register of 32 or 64 bits (bit 8 of the modifier tells) plus the immediate.
#[inline(always)]
pub(crate) fn addresses(warp: &Warp<'_>, instruction: &Instruction, base: Operand) -> Lanes64 {
    addresses_at(warp, base, instruction.modifier & 1 << 8 != 0, instruction.immediate as i64)
}

/// The addresses in a register of 32 or 64 bits, plus an offset.
#[inline(always)]
pub(crate) fn addresses_at(warp: &Warp<'_>, base: Operand, is_wide: bool, offset: i64) -> Lanes64 {
    let mut addresses = [0; WARP];
    if is_wide {
        let base = warp.read::<u64>(base);
        for lane in 0..WARP {
            addresses[lane] = base[lane].wrapping_add_signed(offset);
        }
    } else {
        let base = warp.lanes(base);
        for lane in 0..WARP {
            addresses[lane] = u64::from(base[lane].wrapping_add_signed(offset as i32));
        }
    }
    addresses
}

/// Finds the places of an access of `bytes` per lane, and checks it. `at` is the space.
#[inline(always)]
pub(crate) fn locate<const WATCHED: bool>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
    space: u32,
    mut addresses: Lanes64,
    bytes: u64,
    mode: Mode,
) -> Result<Located, Flow> {
    let contiguous = mask == u32::MAX && {
        let mut different = 0;
        for lane in 0..WARP {
            different |= addresses[lane] ^ addresses[0].wrapping_add(lane as u64 * bytes);
        }
        different == 0
    };
    let first = mask.trailing_zeros() as usize;
    let (lowest, highest) = if contiguous {
        (addresses[0], addresses[31])
    } else {
        let (mut lowest, mut highest) = (u64::MAX, 0);
        for lane in 0..WARP {
            // Lanes that do not take part do as the first one, so that their addresses do no harm.
            addresses[lane] = if mask >> lane & 1 != 0 { addresses[lane] } else { addresses[first] };
            lowest = lowest.min(addresses[lane]);
            highest = highest.max(addresses[lane]);
        }
        (lowest, highest)
    };
    let mut access = Access { mask, addresses, bytes, mode, contiguous, lowest, highest };
    let space = match space {
        space::GENERIC => {
            let space = space_of(lowest);
            if space != space_of(highest) {
                return Err(access.mixed(warp, instruction));
            }
            if space != space::GLOBAL {
                access.rebase(lowest & !(WINDOW - 1));
            }
            space
        }
        space => space,
    };
    if WATCHED && (lowest | highest) & (bytes - 1) != 0 || WATCHED && !contiguous && access.is_misaligned() {
        access.misaligned(warp, instruction, space)?;
    }
    match space {
        space::GLOBAL => access.global::<WATCHED>(warp, instruction),
        space::SHARED => access.shared::<WATCHED>(warp, instruction),
        space::PARAM => access.param(warp, instruction),
        space => access.local::<WATCHED>(warp, instruction, space == space::FRAME),
    }
}

/// An access on its way to its places.
struct Access {
    mask: u32,
    addresses: Lanes64,
    bytes: u64,
    mode: Mode,
    contiguous: bool,
    lowest: u64,
    highest: u64,
}

impl Access {
    #[inline(always)]
    fn located(&self, distance: usize) -> Located {
        Located { distance, addresses: self.addresses, contiguous: self.contiguous }
    }

    /// Makes generic addresses addresses of their space.
    fn rebase(&mut self, window: u64) {
        for address in &mut self.addresses {
            *address -= window;
        }
        self.lowest -= window;
        self.highest -= window;
    }

    #[inline(always)]
    fn is_misaligned(&self) -> bool {
        let mut bits = 0;
        for lane in 0..WARP {
            bits |= self.addresses[lane];
        }
        bits & (self.bytes - 1) != 0
    }

    /// The first lane of which something holds.
    fn first(&self, test: impl Fn(u64) -> bool) -> usize {
        (0..WARP).find(|&lane| self.mask >> lane & 1 != 0 && test(self.addresses[lane])).unwrap_or(0)
    }

    #[cold]
    fn misaligned(&self, warp: &mut Warp<'_>, instruction: &Instruction, space: u32) -> Result<(), Flow> {
        if !warp.grid.checks.alignment {
            return Ok(());
        }
        let lane = self.first(|address| address & (self.bytes - 1) != 0);
        let address = self.addresses[lane];
        let detail = format!("the address is no multiple of {}, the bytes of the access", self.bytes);
        let place = Some((public(space), address, self.bytes as u32));
        Err(warp.fault(instruction, lane as u32, FaultKind::MisalignedAddress, Kind::Misaligned, place, detail))
    }

    /// Generic addresses of several spaces in one access: rare enough to be refused as one. A compiler keeps them apart by branches.
    #[cold]
    fn mixed(&self, warp: &mut Warp<'_>, instruction: &Instruction) -> Flow {
        let lane = self.first(|address| space_of(address) != space_of(self.lowest));
        let detail = "lanes of one access name different state spaces, which is not supported".to_owned();
        let place = Some((Space::Global, self.addresses[lane], self.bytes as u32));
        warp.fault(instruction, lane as u32, FaultKind::InvalidAddressSpace, Kind::InvalidOperand, place, detail)
    }

    #[inline(always)]
    fn global<const WATCHED: bool>(mut self, warp: &mut Warp<'_>, instruction: &Instruction) -> Result<Located, Flow> {
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
            self.touch(warp, self.lowest / 32, sectors);
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
        let mut sectors = [0u64; 128];
        let mut count = 0;
        let mut useful = 0;
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
            let mut is_new = false;
            for sector in begin / 32..=(end - 1) / 32 {
                if count < sectors.len() && !sectors[..count].contains(&sector) {
                    sectors[count] = sector;
                    count += 1;
                    is_new = true;
                }
            }
            useful += if is_new { end - begin } else { 0 };
        }
        self.count_sectors(warp, count as u64, useful.div_ceil(32));
        for &sector in &sectors[..count] {
            self.touch(warp, sector, 1);
        }
        if failed {
            self.unwritten(warp, instruction, window);
        }
    }

    #[inline(always)]
    fn count_sectors(&self, warp: &mut Warp<'_>, sectors: u64, ideal: u64) {
        let counters = &mut warp.worker.counters;
        if self.mode == Mode::Read {
            counters.load_sectors += sectors;
            counters.load_sectors_ideal += ideal;
        } else {
            counters.store_sectors += sectors;
            counters.store_sectors_ideal += ideal;
        }
    }

    /// Notes that sectors were used at least once.
    #[inline(always)]
    fn touch(&self, warp: &mut Warp<'_>, first: u64, count: u64) {
        let Some(touched) = &warp.grid.touched else { return };
        for sector in first..first + count {
            let address = sector * 32;
            if self.mode.reads() && touched[0].touch(address) {
                warp.worker.counters.distinct_load_sectors += 1;
            }
            if self.mode.writes() && touched[1].touch(address) {
                warp.worker.counters.distinct_store_sectors += 1;
            }
        }
    }

    /// A load through the read-only path of what this launch has written.
    fn check_read_only(&self, warp: &mut Warp<'_>, instruction: &Instruction) {
        let Some([_, written]) = &warp.grid.touched else { return };
        let stale = (0..WARP).find(|&lane| self.mask >> lane & 1 != 0 && written.contains(self.addresses[lane]));
        if let Some(lane) = stale.filter(|_| warp.grid.checks.bounds) {
            let place = Some((Space::Global, self.addresses[lane], self.bytes as u32));
            let detail = "the load promises that the launch does not write there, and it has".to_owned();
            warp.find(instruction, lane as u32, Kind::ReadOnly, place, detail);
        }
    }

    /// Looks for accesses of other blocks to the same bytes, two by two.
    #[cold]
    fn between_blocks(&self, warp: &mut Warp<'_>, instruction: &Instruction) {
        if self.mode == Mode::Atomic {
            return;
        }
        let block = warp.grid.linear_block(warp.block.id);
        for lane in (0..WARP).filter(|lane| self.mask >> lane & 1 != 0) {
            // By two bytes: neighbouring numbers of 16 bits may be those of different blocks.
            let halves = self.addresses[lane] / 2..(self.addresses[lane] + self.bytes).div_ceil(2);
            let Some(other) = warp.grid.traffic.conflict(halves, block, self.mode.writes()) else { continue };
            let place = Some((Space::Global, self.addresses[lane], self.bytes as u32));
            let did = if other.wrote { "writes" } else { "reads" };
            let [x, y, _] = warp.grid.launch.grid.map(u64::from);
            let (bx, by, bz) = (other.block % x, other.block / x % y, other.block / x / y);
            let detail = format!("block ({bx}, {by}, {bz}) {did} there in the same launch, and one of the two writes");
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
                let one = Access { mask: 1 << lane, lowest: address, highest: address, contiguous: false, ..*self };
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

    #[inline(always)]
    fn shared<const WATCHED: bool>(mut self, warp: &mut Warp<'_>, instruction: &Instruction) -> Result<Located, Flow> {
        let mut rank = warp.block.rank as usize;
        if self.highest >> SHARED_BITS != 0 {
            rank = self.other_block(warp, instruction)?;
        }
        if self.highest.saturating_add(self.bytes) > u64::from(warp.block.shared_bytes) {
            return Err(self.outside(warp, instruction, Space::Shared, u64::from(warp.block.shared_bytes)));
        }
        if WATCHED {
            self.watch_shared(warp, instruction, rank);
        }
        Ok(self.located(warp.shared[rank].pointer() as usize))
    }

    /// Addresses of one block of the cluster: without its rank.
    #[cold]
    fn other_block(&mut self, warp: &mut Warp<'_>, instruction: &Instruction) -> Result<usize, Flow> {
        let rank = (self.highest >> SHARED_BITS) as usize;
        let count = warp.shared.len();
        if rank > count {
            return Err(self.outside(warp, instruction, Space::Shared, u64::from(warp.block.shared_bytes)));
        }
        if self.lowest >> SHARED_BITS != self.highest >> SHARED_BITS {
            return Err(self.mixed(warp, instruction));
        }
        self.rebase((rank as u64) << SHARED_BITS);
        Ok(rank - 1)
    }

    #[inline(always)]
    fn watch_shared(&self, warp: &mut Warp<'_>, instruction: &Instruction, rank: usize) {
        let cycles = self.bank_cycles();
        let ideal = (u64::from(self.mask.count_ones()) * self.bytes).div_ceil(128);
        let counters = &mut warp.worker.counters;
        counters.shared_accesses += 1;
        counters.shared_cycles += cycles;
        counters.shared_conflict_cycles += cycles.saturating_sub(ideal);
        let own = rank == warp.block.rank as usize;
        let index = if own { warp.state.index } else { u32::MAX };
        let lanes =
            super::watch::Lanes { warp: index, mask: self.mask, addresses: &self.addresses, bytes: self.bytes };
        let span = self.contiguous.then_some((self.lowest, self.highest + self.bytes - self.lowest));
        if let Err(conflict) = warp.shared[rank].check(lanes, span, self.mode) {
            super::watch::report(warp, instruction, rank, *conflict);
        }
    }

    /// How many cycles the access takes: 128 bytes each, more where lanes meet in a bank.
    #[inline(always)]
    fn bank_cycles(&self) -> u64 {
        if self.contiguous {
            return (32 * self.bytes).div_ceil(128);
        }
        super::banks::bank_cycles(self.mask, &self.addresses, self.bytes)
    }

    #[cold]
    fn outside(&self, warp: &mut Warp<'_>, instruction: &Instruction, space: Space, bytes: u64) -> Flow {
        let lane = self.first(|address| address.saturating_add(self.bytes) > bytes);
        let address = self.addresses[lane];
        let place = Some((space, address, self.bytes as u32));
        let detail = format!("{space} memory has {bytes} bytes here");
        warp.fault(instruction, lane as u32, FaultKind::IllegalAddress, Kind::OutOfSpace, place, detail)
    }

    fn param(self, warp: &mut Warp<'_>, instruction: &Instruction) -> Result<Located, Flow> {
        let params = warp.grid.launch.params;
        if self.highest.saturating_add(self.bytes) > params.len() as u64 {
            return Err(self.outside(warp, instruction, Space::Parameter, params.len() as u64));
        }
        if self.mode.writes() {
            let lane = self.mask.trailing_zeros();
            let place = Some((Space::Parameter, self.addresses[lane as usize], self.bytes as u32));
            let detail = "parameters of a kernel cannot be written".to_owned();
            return Err(warp.fault(instruction, lane, FaultKind::IllegalAddress, Kind::ReadOnly, place, detail));
        }
        Ok(self.located(params.as_ptr().expose_provenance()))
    }

    #[inline(never)]
    fn local<const WATCHED: bool>(
        mut self,
        warp: &mut Warp<'_>,
        instruction: &Instruction,
        in_frame: bool,
    ) -> Result<Located, Flow> {
        if in_frame {
            let frame = u64::from(warp.frame.local);
            for address in &mut self.addresses {
                *address = address.wrapping_add(frame);
            }
            self.highest = self.highest.saturating_add(frame);
        }
        let end = u64::from(warp.frame.local + warp.grid.code.functions[warp.frame.function as usize].local_bytes);
        if self.highest.saturating_add(self.bytes) > end {
            return Err(self.outside(warp, instruction, Space::Local, end));
        }
        let bytes = u64::from(warp.state.local_bytes);
        let mut unwritten = None;
        for lane in 0..WARP {
            let begin = lane * bytes as usize + self.addresses[lane] as usize;
            if WATCHED && warp.state.track_local && self.mask >> lane & 1 != 0 {
                let written = &mut warp.state.local_written[begin..begin + self.bytes as usize];
                if self.mode.writes() {
                    written.fill(1);
                } else if written.contains(&0) {
                    unwritten.get_or_insert(lane);
                }
            }
        }
        if let Some(lane) = unwritten {
            let place = Some((Space::Local, self.addresses[lane], self.bytes as u32));
            let detail = "the thread never wrote there".to_owned();
            warp.find(instruction, lane as u32, Kind::Uninitialised, place, detail);
        }
        if WATCHED && !in_frame {
            warp.worker.counters.local_bytes += u64::from(self.mask.count_ones()) * self.bytes;
        }
        for lane in 0..WARP {
            self.addresses[lane] += lane as u64 * bytes;
        }
        self.contiguous = false;
        Ok(self.located(warp.state.local.as_mut_ptr().expose_provenance()))
    }
}

/// The space as findings call it.
fn public(space: u32) -> Space {
    match space {
        space::SHARED => Space::Shared,
        space::LOCAL | space::FRAME => Space::Local,
        space::PARAM => Space::Parameter,
        _ => Space::Global,
    }
}

/// A type in memory.
pub(crate) trait Stored: Copy + Default {
    /// What a register holds after it was loaded.
    fn load(self) -> u64;
    /// What is stored of a register.
    fn store(register: u64) -> Self;
}

macro_rules! stored {
    ($($ty:ty: $load:expr;)*) => {$(
        impl Stored for $ty {
            #[inline(always)]
            fn load(self) -> u64 { let load: fn($ty) -> u64 = $load; load(self) }
            #[inline(always)]
            fn store(register: u64) -> $ty { register as $ty }
        }
    )*};
}

stored! {
    u8: |value| value.into();
    u16: |value| value.into();
    u32: |value| value.into();
    u64: |value| value;
    i8: |value| value as u64;
    i16: |value| value as u64;
    i32: |value| value as u64;
}

/// Registers that loads fill and stores empty.
pub(crate) trait Lane: Value<Register = Self> + Default {
    /// The low bits of a value.
    fn low(value: u64) -> Self;
    /// The value.
    fn value(self) -> u64;
}

impl Lane for u32 {
    #[inline(always)]
    fn low(value: u64) -> u32 {
        value as u32
    }
    #[inline(always)]
    fn value(self) -> u64 {
        self.into()
    }
}

impl Lane for u64 {
    #[inline(always)]
    fn low(value: u64) -> u64 {
        value
    }
    #[inline(always)]
    fn value(self) -> u64 {
        self
    }
}

#[derive(Clone, Copy)]
struct Load<T, R, const N: usize>(std::marker::PhantomData<(T, R)>);

impl<T: Stored, R: Lane, const N: usize> Semantics for Load<T, R, N> {
    /// Operands: N destinations, then the address.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let addresses = addresses(warp, instruction, instruction.operands[N]);
        let bytes = (size_of::<T>() * N) as u64;
        let space = instruction.modifier & 0xff;
        let located = match E::locate(warp, instruction, mask, space, &addresses, bytes, Mode::Read) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let mut values = [[R::default(); WARP]; N];
        if located.contiguous {
            let begin = located.pointer(0).cast::<T>();
            for lane in 0..WARP {
                for (part, values) in values.iter_mut().enumerate() {
                    // SAFETY: `locate` has found all 32 lanes within one allocation, or shared memory, that lives as long as the launch.
                    values[lane] = R::low(unsafe { begin.add(lane * N + part).read_unaligned() }.load());
                }
            }
        } else {
            for lane in 0..WARP {
                let begin = located.pointer(lane).cast::<T>();
                for (part, values) in values.iter_mut().enumerate() {
                    // SAFETY: as above; lanes that do not take part have the place of one that does.
                    values[lane] = R::low(unsafe { begin.add(part).read_unaligned() }.load());
                }
            }
        }
        for (part, values) in values.iter().enumerate() {
            store_register(warp.register::<R>(instruction.operands[part]), mask, values);
        }
        Flow::Next
    }
}

#[derive(Clone, Copy)]
struct Store<T, R, const N: usize>(std::marker::PhantomData<(T, R)>);

impl<T: Stored, R: Lane, const N: usize> Semantics for Store<T, R, N> {
    /// Operands: N sources, then the address.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let addresses = addresses(warp, instruction, instruction.operands[N]);
        let bytes = (size_of::<T>() * N) as u64;
        let space = instruction.modifier & 0xff;
        let located = match E::locate(warp, instruction, mask, space, &addresses, bytes, Mode::Write) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let values: [&[R; WARP]; N] = std::array::from_fn(|part| warp.read::<R>(instruction.operands[part]));
        if located.contiguous {
            let begin = located.pointer(0).cast::<T>();
            for lane in 0..WARP {
                for (part, values) in values.iter().enumerate() {
                    // SAFETY: as in `Load`; other threads of the program may write the same bytes, as they may on a GPU.
                    unsafe { begin.add(lane * N + part).write_unaligned(T::store(values[lane].value())) };
                }
            }
        } else {
            for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
                let begin = located.pointer(lane).cast::<T>();
                for (part, values) in values.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { begin.add(part).write_unaligned(T::store(values[lane].value())) };
                }
            }
        }
        Flow::Next
    }
}

/// The handlers of a load of `count` elements into registers.
pub(crate) fn load<T: Stored, R: Lane>(count: usize) -> Option<[Handler; 2]> {
    use std::marker::PhantomData;
    Some(match count {
        1 => handlers(Load::<T, R, 1>(PhantomData)),
        2 => handlers(Load::<T, R, 2>(PhantomData)),
        4 => handlers(Load::<T, R, 4>(PhantomData)),
        _ => return None,
    })
}

/// The handlers of a store of `count` elements from registers.
pub(crate) fn store<T: Stored, R: Lane>(count: usize) -> Option<[Handler; 2]> {
    use std::marker::PhantomData;
    Some(match count {
        1 => handlers(Store::<T, R, 1>(PhantomData)),
        2 => handlers(Store::<T, R, 2>(PhantomData)),
        4 => handlers(Store::<T, R, 4>(PhantomData)),
        _ => return None,
    })
}

/// The class of an access by its space.
pub(crate) fn class_of(space: u32, stores: bool) -> Class {
    match space {
        space::SHARED => Class::Shared,
        space::LOCAL | space::FRAME | space::PARAM => Class::Local,
        _ if stores => Class::GlobalStore,
        _ => Class::GlobalLoad,
    }
}
