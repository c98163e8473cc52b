//! Accesses to memory (PTX ISA 9.7.9): from the addresses of the lanes to places in our memory, with all checks. What is global is in [`super::global`], the transfer
//! in [`super::transfer`].
//!
//! Generic addresses: global memory has its own; shared memory, local memory and the parameters have a window each. A shared address holds in its upper byte
//! which block of the cluster is meant: 0 for the own, else its rank plus one.

// A lane index addresses several registers at once.
#![allow(clippy::needless_range_loop)]

use super::code::{Flow, Instruction, Operand};
use super::conflict::Conflict;
use super::semantics::{BITS, store as store_register};
use super::stack;
use super::warp::Warp;
use super::{Class, FaultKind};
use crate::checks::{Kind, Space};
use crate::isa::{Lanes64, Value, WARP};

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
pub(crate) const WINDOWS: [(&str, u64); 8] = [
    ("global", 0),
    ("const", 0),
    ("shared", SHARED),
    ("shared::cta", SHARED),
    ("shared::cluster", SHARED),
    ("local", LOCAL),
    ("param", PARAM),
    ("param::entry", PARAM),
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
pub(crate) const SPACES: [(&str, u32); 8] = [
    ("global", space::GLOBAL),
    ("const", 7),
    ("shared", space::SHARED),
    ("shared::cta", space::SHARED),
    ("shared::cluster", 6),
    ("local", space::LOCAL),
    ("param", space::PARAM),
    ("param::entry", space::PARAM),
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

/// Where the lanes of an access are in our memory: at `distance` from the addresses that [`locate`] has left.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    pub distance: usize,
    /// Whether all 32 lanes access one run of bytes in their order.
    pub contiguous: bool,
}

impl Located {
    /// The place of an address.
    #[inline(always)]
    pub fn pointer(&self, address: u64) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut((address as usize).wrapping_add(self.distance))
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
    /// Reads or writes as [`STRONG`] accesses do.
    StrongRead,
    StrongWrite,
}

impl Mode {
    #[inline(always)]
    pub fn reads(self) -> bool {
        matches!(self, Mode::Read | Mode::Atomic | Mode::StrongRead)
    }

    #[inline(always)]
    pub fn writes(self) -> bool {
        !matches!(self, Mode::Read | Mode::StrongRead)
    }
}

/// The bit of the modifier of a load through the read-only path (`.nc`).
pub(crate) const READ_ONLY: u32 = 1 << 9;

/// The bit of the modifier of loads and stores that are in no race with each other: `.relaxed`, `.acquire`, `.release`. (What is volatile still races.)
pub(crate) const STRONG: u32 = 1 << 10;
/// What was released at the same place happened before what comes after the access.
pub(crate) const ACQUIRE: u32 = 1 << 11;
/// What came before the access happened before what is acquired there.
pub(crate) const RELEASE: u32 = 1 << 12;

/// The access is relaxed or volatile: it orders other blocks by the fences around it.
pub(crate) const RELAXED: u32 = 1 << 13;

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

/// Finds the places of an access of `bytes` per lane, and checks it. `at` is the space. The addresses become such that one distance leads from all of them to
/// their places; those of lanes that do not take part become one of those that do.
#[inline(always)]
pub(crate) fn locate<const WATCHED: bool>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
    space: u32,
    addresses: &mut Lanes64,
    bytes: u64,
    mode: Mode,
) -> Result<Located, Flow> {
    // Not simply lane 0, so that all lanes are loaded as whole vectors, the way they were just stored.
    let first = addresses[mask.trailing_zeros() as usize & 31];
    let contiguous = mask == u32::MAX && {
        let mut different = 0;
        for lane in 0..WARP {
            different |= addresses[lane] ^ first.wrapping_add(lane as u64 * bytes);
        }
        different == 0
    };
    let (lowest, highest) = if contiguous {
        (addresses[0], addresses[31])
    } else {
        let (mut lowest, mut highest) = (u64::MAX, 0);
        for lane in 0..WARP {
            // Lanes that do not take part do as the first one, so that their addresses do no harm.
            addresses[lane] = if mask & BITS[lane] != 0 { addresses[lane] } else { first };
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
                return access.mixed::<WATCHED>(warp, instruction);
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

/// A store that may be in a race: what was there before it.
#[derive(Debug)]
pub(crate) struct Suspect {
    conflict: Conflict,
    rank: usize,
    mask: u32,
    bytes: u64,
    places: Lanes64,
    before: [[u8; 16]; WARP],
}

/// A store is done that was suspected: tells of the race if it has changed what another one left.
#[cold]
pub(crate) fn settle(warp: &mut Warp<'_>, instruction: &Instruction) {
    let Some(suspect) = warp.state.suspect.take() else { return };
    let base = warp.shared[suspect.rank].pointer();
    let changed = (0..WARP).filter(|lane| suspect.mask >> lane & 1 != 0).any(|lane| {
        let bytes = (suspect.bytes as usize).min(16);
        // SAFETY: where the suspect was found, which lies within shared memory.
        let now = unsafe { std::slice::from_raw_parts(base.add(suspect.places[lane] as usize), bytes) };
        now != &suspect.before[lane][..bytes]
    });
    if changed {
        super::conflict::report(warp, instruction, suspect.rank, suspect.conflict);
    }
}

/// An access on its way to its places.
pub(super) struct Access<'a> {
    pub mask: u32,
    pub addresses: &'a mut Lanes64,
    pub bytes: u64,
    pub mode: Mode,
    pub contiguous: bool,
    pub lowest: u64,
    pub highest: u64,
}

impl Access<'_> {
    #[inline(always)]
    pub fn located(&self, distance: usize) -> Located {
        Located { distance, contiguous: self.contiguous }
    }

    /// Makes generic addresses addresses of their space.
    fn rebase(&mut self, window: u64) {
        for address in self.addresses.iter_mut() {
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
    pub fn first(&self, test: impl Fn(u64) -> bool) -> usize {
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

    /// Lanes of one access that name several state spaces, or shared memory of several blocks: each of them by itself.
    #[cold]
    fn mixed<const WATCHED: bool>(&mut self, warp: &mut Warp<'_>, instruction: &Instruction) -> Result<Located, Flow> {
        let window = |address: u64| match space_of(address) {
            space::GLOBAL => 0,
            space::SHARED => address >> SHARED_BITS,
            space::LOCAL => LOCAL + u64::from(address - LOCAL >= stack::BEGIN),
            _ => address & !(WINDOW - 1),
        };
        let mut left = self.mask;
        let mut distance = None;
        while left != 0 {
            let wanted = window(self.addresses[left.trailing_zeros() as usize]);
            let mask = crate::isa::mask_of(|lane| window(self.addresses[lane]) == wanted) & left;
            left &= !mask;
            let mut part = *self.addresses;
            let located = locate::<WATCHED>(warp, instruction, mask, space::GENERIC, &mut part, self.bytes, self.mode)?;
            let common = *distance.get_or_insert(located.distance);
            for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
                self.addresses[lane] = part[lane].wrapping_add(located.distance.wrapping_sub(common) as u64);
            }
        }
        let first = self.addresses[self.mask.trailing_zeros() as usize & 31];
        for lane in 0..WARP {
            self.addresses[lane] = if self.mask & BITS[lane] != 0 { self.addresses[lane] } else { first };
        }
        Ok(Located { distance: distance.unwrap_or(0), contiguous: false })
    }

    #[inline(always)]
    fn shared<const WATCHED: bool>(&mut self, warp: &mut Warp<'_>, instruction: &Instruction) -> Result<Located, Flow> {
        let mut rank = warp.block.rank as usize;
        if self.highest >> SHARED_BITS != 0 {
            if self.lowest >> SHARED_BITS != self.highest >> SHARED_BITS {
                for address in self.addresses.iter_mut() {
                    *address |= SHARED;
                }
                return self.mixed::<WATCHED>(warp, instruction);
            }
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
        let lanes = super::watch::Lanes { warp: index, mask: self.mask, addresses: self.addresses, bytes: self.bytes };
        let span = self.contiguous.then_some((self.lowest, self.highest + self.bytes - self.lowest));
        if let Err(conflict) = warp.shared[rank].check(lanes, span, self.mode) {
            let stores = matches!(instruction.class, Some(Class::Shared | Class::GlobalStore));
            if stores && self.mode == Mode::Write && conflict.is_of_two_writes() {
                self.suspect(warp, rank, *conflict);
            } else {
                super::conflict::report(warp, instruction, rank, *conflict);
            }
        }
        if own && instruction.modifier & (ACQUIRE | RELEASE) != 0 {
            self.order(warp, instruction, rank);
        }
    }

    /// A store that is in a race with another one: told when it has changed something. Compilers let several threads store the same.
    #[cold]
    fn suspect(&self, warp: &mut Warp<'_>, rank: usize, conflict: Conflict) {
        let base = warp.shared[rank].pointer();
        let mut before = [[0; 16]; WARP];
        for lane in (0..WARP).filter(|lane| self.mask >> lane & 1 != 0) {
            let bytes = (self.bytes as usize).min(16);
            // SAFETY: the access lies within shared memory, as was checked.
            let found = unsafe { std::slice::from_raw_parts(base.add(self.addresses[lane] as usize), bytes) };
            before[lane][..bytes].copy_from_slice(found);
        }
        let places = *self.addresses;
        warp.state.suspect =
            Some(Box::new(Suspect { conflict, rank, mask: self.mask, bytes: self.bytes, places, before }));
    }

    /// An access that orders others around it.
    #[cold]
    fn order(&self, warp: &mut Warp<'_>, instruction: &Instruction, rank: usize) {
        let (releases, acquires) = (instruction.modifier & RELEASE != 0, instruction.modifier & ACQUIRE != 0);
        let index = warp.state.index;
        for lane in (0..WARP).filter(|lane| self.mask >> lane & 1 != 0) {
            warp.shared[rank].order(index, self.addresses[lane], releases, acquires);
        }
    }

    /// How many cycles the access takes: 128 bytes each, more where lanes meet in a bank.
    #[inline(always)]
    fn bank_cycles(&self) -> u64 {
        if self.contiguous {
            return (32 * self.bytes).div_ceil(128);
        }
        super::banks::bank_cycles(self.mask, self.addresses, self.bytes)
    }

    #[cold]
    fn outside(&self, warp: &mut Warp<'_>, instruction: &Instruction, space: Space, bytes: u64) -> Flow {
        let lane = self.first(|address| address.saturating_add(self.bytes) > bytes);
        let address = self.addresses[lane];
        let place = Some((space, address, self.bytes as u32));
        let detail = format!("{space} memory has {bytes} bytes here");
        warp.fault(instruction, lane as u32, FaultKind::IllegalAddress, Kind::OutOfSpace, place, detail)
    }

    fn param(&self, warp: &mut Warp<'_>, instruction: &Instruction) -> Result<Located, Flow> {
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
        &mut self,
        warp: &mut Warp<'_>,
        instruction: &Instruction,
        in_frame: bool,
    ) -> Result<Located, Flow> {
        if !in_frame && self.highest >= stack::BEGIN {
            if self.lowest < stack::BEGIN {
                for address in self.addresses.iter_mut() {
                    *address |= LOCAL;
                }
                return self.mixed::<WATCHED>(warp, instruction);
            }
            return self.on_stack::<WATCHED>(warp, instruction);
        }
        if in_frame {
            let frame = u64::from(warp.frame.local);
            for address in self.addresses.iter_mut() {
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

    /// Local memory that `alloca` gave.
    #[cold]
    fn on_stack<const WATCHED: bool>(
        &mut self,
        warp: &mut Warp<'_>,
        instruction: &Instruction,
    ) -> Result<Located, Flow> {
        self.contiguous = false;
        let tops = warp.state.stack.tops;
        let mut unwritten = None;
        for lane in (0..WARP).filter(|lane| self.mask >> lane & 1 != 0) {
            let offset = self.addresses[lane] - stack::BEGIN;
            if offset.saturating_add(self.bytes) > u64::from(tops[lane]) {
                let place = Some((Space::Local, self.addresses[lane], self.bytes as u32));
                let detail = format!("the thread has {} bytes on its stack here", tops[lane]);
                let (fault, kind) = (FaultKind::IllegalAddress, Kind::OutOfSpace);
                return Err(warp.fault(instruction, lane as u32, fault, kind, place, detail));
            }
            let stack = &mut warp.state.stack;
            let place = lane * stack.room + offset as usize;
            let written = &mut stack.written[place..place + self.bytes as usize];
            if self.mode.writes() {
                written.fill(1);
            } else if WATCHED && warp.state.track_local && written.contains(&0) {
                unwritten.get_or_insert(lane);
            }
            self.addresses[lane] = place as u64;
        }
        if let Some(lane) = unwritten {
            let detail = "the thread never wrote there since it took it".to_owned();
            warp.find(instruction, lane as u32, Kind::Uninitialised, None, detail);
        }
        let first = self.addresses[self.mask.trailing_zeros() as usize & 31];
        for lane in 0..WARP {
            self.addresses[lane] = if self.mask & BITS[lane] != 0 { self.addresses[lane] } else { first };
        }
        Ok(self.located(warp.state.stack.bytes.as_mut_ptr().expose_provenance()))
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
