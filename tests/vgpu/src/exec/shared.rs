//! Shared memory of a block, and who touched which part of it when.
//!
//! # Races
//! A counter, the *time*, advances with every synchronisation. For each granule (the smallest access of the kernel: 1, 2 or 4 bytes) is known when it was last
//! written and by whom, and when each warp last read it. A matrix says up to which time the accesses of one warp happened before what another does now; barriers
//! raise its entries. Two accesses to a granule of which one writes are in order if the later one's warp knows the earlier one's time; within a warp, if both lanes
//! have since passed a warp synchronisation. Almost all accesses come after a barrier that orders everything, which a comparison with one number tells.
//!
//! Numbers of a block before are too small to mean anything for the next, so nothing has to be cleared.

use std::collections::{HashMap, VecDeque};

use super::access::Mode;
use super::code::{Instruction, Slot};
use super::grid::Grid;
use super::warp::Warp;
use crate::checks::{Kind, Space};
use crate::isa::{Lanes64, WARP};

/// The time at which a pending asynchronous copy writes: never in the past.
const PENDING: u32 = u32::MAX;

/// Marks a writer that was a copy which an mbarrier object counts.
const COPIED: u16 = 1 << 15;

/// Several lanes of a warp.
const MANY: u8 = 0xff;

/// Shared memory of a block.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    bytes: Vec<Slot>,
    /// Copies that are on their way, by the mbarrier object that counts them.
    flights: HashMap<u64, VecDeque<Flight>>,
    watch: Option<Box<Watch>>,
}

/// What is known of the accesses.
#[derive(Debug, Default)]
struct Watch {
    /// Bytes of a granule, as a power of two.
    shift: u32,
    granules: usize,
    warps: usize,
    /// Now, and when the block began.
    time: u32,
    begin: u32,
    /// When each granule was written last, and by which lane of which warp (`warp * 32 + lane`).
    written: Vec<u32>,
    writer: Vec<u16>,
    /// When each granule was read last.
    read: Vec<u32>,
    /// The same of each warp, one warp after the other, and which lane did.
    read_by: Vec<u32>,
    reader: Vec<u8>,
    /// Up to which time of warp `r` warp `w` knows: at `w * warps + r`.
    known: Vec<u32>,
    /// The least of it over all other warps and its own lanes.
    known_all: Vec<u32>,
    /// When each lane last passed a synchronisation of its warp.
    lanes: Vec<[u32; WARP]>,
    /// The mbarrier objects by their offset.
    objects: HashMap<u64, Phases>,
    /// Which checks are on.
    races: bool,
    warp_races: bool,
    initialised: bool,
    asynchronous: bool,
}

/// The lanes of an access.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<'a> {
    /// Their warp within the block; the largest number if it is of another block.
    pub warp: u32,
    /// Which take part.
    pub mask: u32,
    /// Where.
    pub addresses: &'a Lanes64,
    /// How much each.
    pub bytes: u64,
}

/// An earlier access: warp and lane, and whether it wrote.
type Earlier = (u32, u8, bool);

/// Two accesses that are not in order, or a read of what is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conflict {
    kind: Kind,
    lane: u32,
    address: u64,
    bytes: u32,
    /// The earlier access.
    other: Option<Earlier>,
}

impl Shared {
    /// Makes it the memory of a new block.
    pub fn begin(&mut self, grid: &Grid<'_>, warps: u32) {
        self.bytes.clear();
        self.bytes.resize(grid.shared_bytes.div_ceil(super::code::SLOT) as usize, Slot::default());
        self.flights.clear();
        let checks = grid.checks;
        if !(checks.shared_races || checks.warp_races || checks.initialised || checks.async_copies) {
            return;
        }
        let watch = self.watch.get_or_insert_default();
        let shift = grid.code.shared_granule.trailing_zeros();
        watch.begin(shift, (grid.shared_bytes as usize).div_ceil(1 << shift), warps as usize);
        watch.races = checks.shared_races;
        watch.warp_races = checks.warp_races;
        watch.initialised = checks.initialised;
        watch.asynchronous = checks.async_copies;
    }

    /// Where it lies.
    pub fn pointer(&mut self) -> *mut u8 {
        let pointer = self.bytes.as_mut_ptr().cast::<u8>();
        pointer.expose_provenance();
        pointer
    }

    /// Everything that was done so far happened before what anybody does from now on.
    pub fn synchronise_all(&mut self) {
        if let Some(watch) = &mut self.watch {
            let time = watch.time;
            watch.known.fill(time);
            watch.known_all.fill(time);
            watch.lanes.fill([time; WARP]);
            watch.time += 1;
        }
    }

    /// Adds what a warp did and knows to what is known behind a barrier.
    pub fn release(&mut self, warp: u32, known: &mut Vec<u32>) {
        if let Some(watch) = &mut self.watch {
            watch.release(warp as usize, known);
        }
    }

    /// What was known by those who came to a barrier, a warp knows behind it.
    pub fn acquire(&mut self, warp: u32, known: &[u32]) {
        if let Some(watch) = &mut self.watch {
            watch.acquire(warp as usize, known);
        }
    }

    /// Lanes of a warp have met.
    pub fn synchronise_lanes(&mut self, warp: u32, mask: u32) {
        if let Some(watch) = &mut self.watch {
            watch.synchronise_lanes(warp as usize, mask);
        }
    }

    /// Checks an access, and notes it. `span` is its begin and bytes where it is one run.
    #[inline(always)]
    pub fn check(&mut self, lanes: Lanes<'_>, span: Option<(u64, u64)>, mode: Mode) -> Result<(), Box<Conflict>> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        if lanes.warp as usize >= watch.warps {
            // From another block of the cluster: written and not ordered by anything that is known here.
            return Ok(());
        }
        match (span, mode) {
            (Some((begin, bytes)), Mode::Read) if watch.read_run(lanes.warp as usize, begin, bytes, lanes.bytes) => {
                Ok(())
            }
            (Some((begin, bytes)), Mode::Write) if watch.write_run(lanes.warp as usize, begin, bytes, lanes.bytes) => {
                Ok(())
            }
            _ => watch.each_lane(lanes, mode),
        }
    }

    /// Asynchronous copies of lanes have come to their end: what they wrote is there from now on.
    pub fn arrived(&mut self, warp: u32, mask: u32, to: &Lanes64, bytes: u64) {
        let Some(watch) = &mut self.watch else { return };
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            for granule in watch.granules_of(to[lane], bytes) {
                watch.written[granule] = watch.time;
                watch.writer[granule] = (warp as usize * WARP + lane) as u16;
            }
        }
    }

    /// A word of 8 bytes, which must lie inside.
    pub fn word(&self, offset: u64) -> u64 {
        let slot = &self.bytes[offset as usize / 128].0;
        let index = offset as usize % 128 / 4;
        u64::from(slot[index]) | u64::from(slot[index + 1]) << 32
    }

    /// Writes a word of 8 bytes, which must lie inside.
    pub fn set_word(&mut self, offset: u64, word: u64) {
        let slot = &mut self.bytes[offset as usize / 128].0;
        let index = offset as usize % 128 / 4;
        (slot[index], slot[index + 1]) = (word as u32, (word >> 32) as u32);
    }

    /// A copy is on its way that the mbarrier object at `offset` will count.
    pub fn send(&mut self, offset: u64, flight: Flight) {
        self.flights.entry(offset).or_default().push_back(flight);
    }

    /// The next copy arrives: its bytes.
    pub fn receive(&mut self, offset: u64) -> Option<u32> {
        let flight = self.flights.get_mut(&offset)?.pop_front()?;
        let bytes = flight.bytes;
        if let Some(watch) = &mut self.watch {
            watch.objects.entry(offset).or_default().flights.push(flight);
        }
        Some(bytes)
    }

    /// An mbarrier object begins to count: what is known behind it is empty.
    pub fn begin_phase(&mut self, offset: u64) {
        self.flights.remove(&offset);
        if let Some(watch) = &mut self.watch {
            watch.objects.insert(offset, Phases::default());
        }
    }

    /// A warp arrives at an mbarrier object.
    pub fn release_to(&mut self, warp: u32, offset: u64) {
        if let Some(watch) = &mut self.watch {
            let mut phases = watch.objects.remove(&offset).unwrap_or_default();
            watch.release(warp as usize, &mut phases.now);
            watch.objects.insert(offset, phases);
        }
    }

    /// A phase of an mbarrier object ends.
    pub fn end_phase(&mut self, offset: u64) {
        if let Some(phases) = self.watch.as_mut().and_then(|watch| watch.objects.get_mut(&offset)) {
            phases.before = std::mem::take(&mut phases.now);
            phases.landed.append(&mut phases.flights);
        }
    }

    /// A warp has seen a phase end.
    pub fn acquire_from(&mut self, warp: u32, offset: u64) {
        if let Some(watch) = &mut self.watch
            && let Some(mut phases) = watch.objects.remove(&offset)
        {
            for flight in phases.landed.drain(..) {
                watch.land(&flight);
                // Whoever sees the phase end sees the bytes.
                let by = flight.warp as usize;
                if by < watch.warps {
                    phases.before.resize(watch.warps, 0);
                    phases.before[by] = phases.before[by].max(watch.time);
                }
                watch.time += 1;
            }
            watch.acquire(warp as usize, &phases.before);
            watch.objects.insert(offset, phases);
        }
    }
}

/// What those knew who arrived at an mbarrier object, in this phase and in the one before.
#[derive(Debug, Default)]
struct Phases {
    now: Vec<u32>,
    before: Vec<u32>,
    /// Copies that were counted in this phase, and in the one before.
    flights: Vec<Flight>,
    landed: Vec<Flight>,
}

/// A copy that an mbarrier object counts.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    /// The bytes.
    pub bytes: u32,
    /// Where they lie: begin and length.
    pub ranges: Vec<(u64, u64)>,
    /// Who issued it; the largest number if that is in another block.
    pub warp: u32,
    pub lane: u32,
}

impl Watch {
    fn begin(&mut self, shift: u32, granules: usize, warps: usize) {
        if self.shift != shift || self.granules != granules || self.warps != warps || self.time > 1 << 30 {
            *self = Watch { shift, granules, warps, ..Watch::default() };
            self.written = vec![0; granules];
            self.writer = vec![0; granules];
            self.read = vec![0; granules];
            self.read_by = vec![0; granules * warps];
            self.reader = vec![0; granules * warps];
            self.known = vec![0; warps * warps];
            self.known_all = vec![0; warps];
            self.lanes = vec![[0; WARP]; warps];
        }
        self.objects.clear();
        let before = self.time;
        self.time += 1;
        self.begin = self.time;
        // What a pending copy of the block before left.
        for written in &mut self.written {
            *written = if *written == PENDING { 0 } else { *written };
        }
        self.known.fill(before);
        self.known_all.fill(before);
        self.lanes.fill([before; WARP]);
    }

    fn granules_of(&self, begin: u64, bytes: u64) -> std::ops::Range<usize> {
        (begin >> self.shift) as usize..((begin + bytes - 1) >> self.shift) as usize + 1
    }

    /// The bytes of a copy are there from now on.
    fn land(&mut self, flight: &Flight) {
        for &(begin, bytes) in &flight.ranges {
            for granule in self.granules_of(begin, bytes) {
                self.written[granule] = self.time;
                let warp = flight.warp.min(self.warps as u32 - 1) as usize;
                self.writer[granule] = (warp * WARP + flight.lane as usize) as u16 | COPIED;
            }
        }
    }

    fn release(&mut self, warp: usize, known: &mut Vec<u32>) {
        if warp >= self.warps {
            return;
        }
        known.resize(self.warps, 0);
        self.known[warp * self.warps + warp] = self.time;
        for (all, one) in known.iter_mut().zip(&self.known[warp * self.warps..][..self.warps]) {
            *all = (*all).max(*one);
        }
        self.time += 1;
    }

    fn acquire(&mut self, warp: usize, known: &[u32]) {
        for (one, all) in self.known[warp * self.warps..][..self.warps].iter_mut().zip(known) {
            *one = (*one).max(*all);
        }
        // A barrier orders the lanes of the warp as well.
        self.lanes[warp] = [self.known[warp * self.warps + warp]; WARP];
        self.summarise(warp);
    }

    fn synchronise_lanes(&mut self, warp: usize, mask: u32) {
        if warp >= self.warps {
            return;
        }
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            self.lanes[warp][lane] = self.time;
        }
        self.known[warp * self.warps + warp] = self.time;
        self.summarise(warp);
        self.time += 1;
    }

    fn summarise(&mut self, warp: usize) {
        let others = (0..self.warps).filter(|&other| other != warp).map(|other| self.known[warp * self.warps + other]);
        let lanes = self.lanes[warp].iter().copied();
        self.known_all[warp] = others.chain(lanes).min().unwrap_or(self.time);
    }

    /// A read of one run by all lanes. False if it has to be looked at closely.
    #[inline(always)]
    fn read_run(&mut self, warp: usize, begin: u64, bytes: u64, per_lane: u64) -> bool {
        let range = self.granules_of(begin, bytes);
        // One comparison for "was written in this block" and "before the last synchronisation of all".
        let bound = (self.known_all[warp] + 1).wrapping_sub(self.begin);
        let mut passed = true;
        for &written in &self.written[range.clone()] {
            passed &= written.wrapping_sub(self.begin) < bound;
        }
        if !passed || per_lane >> self.shift == 0 {
            return false;
        }
        let (time, plane) = (self.time, warp * self.granules);
        self.read[range.clone()].fill(time);
        self.read_by[plane + range.start..plane + range.end].fill(time);
        let lane_granules = (per_lane >> self.shift) as usize;
        for (index, reader) in self.reader[plane + range.start..plane + range.end].iter_mut().enumerate() {
            *reader = (index / lane_granules) as u8;
        }
        true
    }

    /// A write of one run by all lanes. False if it has to be looked at closely.
    #[inline(always)]
    fn write_run(&mut self, warp: usize, begin: u64, bytes: u64, per_lane: u64) -> bool {
        let range = self.granules_of(begin, bytes);
        let bound = self.known_all[warp];
        let mut passed = true;
        for (&written, &read) in self.written[range.clone()].iter().zip(&self.read[range.clone()]) {
            passed &= written <= bound && read <= bound;
        }
        if !passed || per_lane >> self.shift == 0 {
            return false;
        }
        let lane_granules = (per_lane >> self.shift) as usize;
        self.written[range.clone()].fill(self.time);
        for (index, writer) in self.writer[range].iter_mut().enumerate() {
            *writer = (warp * WARP + index / lane_granules) as u16;
        }
        true
    }

    /// Any access, lane by lane.
    fn each_lane(&mut self, lanes: Lanes<'_>, mode: Mode) -> Result<(), Box<Conflict>> {
        let warp = lanes.warp as usize;
        if self.passes(lanes, mode) {
            self.note_all(lanes, mode);
            return Ok(());
        }
        let mut conflict = None;
        for lane in (0..WARP).filter(|lane| lanes.mask >> lane & 1 != 0) {
            let address = lanes.addresses[lane];
            for granule in self.granules_of(address, lanes.bytes) {
                let found = match mode {
                    Mode::Read => self.check_read(warp, lane, granule),
                    Mode::Atomic if self.written[granule] < self.begin => {
                        self.initialised.then_some((Kind::Uninitialised, None))
                    }
                    Mode::Atomic => None,
                    Mode::Write | Mode::Pending => self.check_write(warp, lane, granule),
                };
                if let Some((kind, other)) = found {
                    // No synchronisation of the warp is meant for copies, but a barrier, or their own wait.
                    let copies = mode == Mode::Pending && kind == Kind::WarpRace;
                    let kind = if copies { Kind::SharedRace } else { kind };
                    conflict.get_or_insert(Conflict {
                        kind,
                        lane: lane as u32,
                        address,
                        bytes: lanes.bytes as u32,
                        other,
                    });
                }
            }
        }
        for lane in (0..WARP).filter(|lane| lanes.mask >> lane & 1 != 0) {
            for granule in self.granules_of(lanes.addresses[lane], lanes.bytes) {
                self.note(warp, lane, granule, mode);
            }
        }
        conflict.map_or(Ok(()), |conflict| Err(Box::new(conflict)))
    }

    /// Whether a look at the times alone shows that an access is in order.
    fn passes(&self, lanes: Lanes<'_>, mode: Mode) -> bool {
        let known = self.known_all[lanes.warp as usize];
        let bound = (known + 1).wrapping_sub(self.begin);
        let mut passed = mode != Mode::Atomic;
        for lane in (0..WARP).filter(|lane| lanes.mask >> lane & 1 != 0) {
            let range = self.granules_of(lanes.addresses[lane], lanes.bytes);
            if mode == Mode::Read {
                for &written in &self.written[range] {
                    passed &= written.wrapping_sub(self.begin) < bound;
                }
            } else {
                for (&written, &read) in self.written[range.clone()].iter().zip(&self.read[range]) {
                    passed &= written <= known && read <= known;
                }
            }
        }
        passed
    }

    /// Notes an access that is in order.
    fn note_all(&mut self, lanes: Lanes<'_>, mode: Mode) {
        let (warp, time) = (lanes.warp as usize, self.time);
        let plane = warp * self.granules;
        for lane in (0..WARP).filter(|lane| lanes.mask >> lane & 1 != 0) {
            let range = self.granules_of(lanes.addresses[lane], lanes.bytes);
            if mode == Mode::Read {
                self.read[range.clone()].fill(time);
                let planes = plane + range.start..plane + range.end;
                for (reader, by) in self.reader[planes.clone()].iter_mut().zip(&mut self.read_by[planes]) {
                    *reader = if *by == time && *reader != lane as u8 { MANY } else { lane as u8 };
                    *by = time;
                }
            } else {
                self.written[range.clone()].fill(if mode == Mode::Pending { PENDING } else { time });
                self.writer[range].fill((warp * WARP + lane) as u16);
            }
        }
    }

    fn note(&mut self, warp: usize, lane: usize, granule: usize, mode: Mode) {
        match mode {
            Mode::Read => {
                self.read[granule] = self.time;
                let plane = warp * self.granules + granule;
                // A granule that several lanes read in the same stretch has no single reader.
                let same = self.read_by[plane] == self.time && self.reader[plane] != lane as u8;
                self.reader[plane] = if same { MANY } else { lane as u8 };
                self.read_by[plane] = self.time;
            }
            Mode::Write | Mode::Pending => {
                self.written[granule] = if mode == Mode::Pending { PENDING } else { self.time };
                self.writer[granule] = (warp * WARP + lane) as u16;
            }
            // Atomic accesses are in order with each other, and with what a barrier orders them.
            Mode::Atomic => {
                if self.written[granule] < self.begin {
                    self.written[granule] = self.begin;
                }
            }
        }
    }

    /// Whether the write at `time` by a lane happened before what another lane does now.
    fn is_ordered(&self, warp: usize, lane: usize, time: u32, other_warp: usize, other_lane: Option<usize>) -> bool {
        if other_warp != warp {
            return !self.races || time <= self.known[warp * self.warps + other_warp];
        }
        match other_lane {
            _ if !self.warp_races => true,
            Some(other) => other == lane || time <= self.lanes[warp][lane].min(self.lanes[warp][other]),
            None => time <= self.lanes[warp][lane],
        }
    }

    fn check_read(&self, warp: usize, lane: usize, granule: usize) -> Option<(Kind, Option<Earlier>)> {
        let (time, writer) = (self.written[granule], self.writer[granule]);
        let (copied, writer) = (writer & COPIED != 0, usize::from(writer & !COPIED));
        let (other_warp, other_lane) = (writer / WARP, writer % WARP);
        let other = Some((other_warp as u32, other_lane as u8, true));
        if time == PENDING {
            return self.asynchronous.then_some((Kind::AsyncReadEarly, other));
        }
        if time < self.begin {
            return self.initialised.then_some((Kind::Uninitialised, None));
        }
        if self.is_ordered(warp, lane, time, other_warp, Some(other_lane)) {
            return None;
        }
        let race = if other_warp == warp { Kind::WarpRace } else { Kind::SharedRace };
        // Others have waited for the copy, and this warp has not.
        Some((if copied && self.asynchronous { Kind::AsyncReadEarly } else { race }, other))
    }

    fn check_write(&self, warp: usize, lane: usize, granule: usize) -> Option<(Kind, Option<Earlier>)> {
        let (time, writer) = (self.written[granule], usize::from(self.writer[granule] & !COPIED));
        let (other_warp, other_lane) = (writer / WARP, writer % WARP);
        let race = |same_warp: bool| if same_warp { Kind::WarpRace } else { Kind::SharedRace };
        let other = Some((other_warp as u32, other_lane as u8, true));
        if time == PENDING {
            return self.asynchronous.then_some((Kind::AsyncOverwrite, other));
        }
        if time >= self.begin && !self.is_ordered(warp, lane, time, other_warp, Some(other_lane)) {
            return Some((race(other_warp == warp), other));
        }
        if self.read[granule] <= self.known_all[warp] {
            return None;
        }
        (0..self.warps).find_map(|reader| {
            let plane = reader * self.granules + granule;
            let (time, by) = (self.read_by[plane], self.reader[plane]);
            let by_lane = (by != MANY).then_some(usize::from(by));
            let ordered = time < self.begin || self.is_ordered(warp, lane, time, reader, by_lane);
            (!ordered).then_some((race(reader == warp), Some((reader as u32, by, false))))
        })
    }
}

/// Tells of a conflict.
#[cold]
pub(crate) fn report(warp: &mut Warp<'_>, instruction: &Instruction, rank: usize, conflict: Conflict) {
    let Conflict { kind, lane, address, bytes, other } = conflict;
    let detail = match (kind, other) {
        (Kind::Uninitialised, _) => "no thread of the block has written there".to_owned(),
        (_, Some((other_warp, other_lane, wrote))) => {
            let did = match (kind, wrote) {
                (Kind::AsyncReadEarly | Kind::AsyncOverwrite, _) => {
                    "has an asynchronous copy to there for which nobody waited here"
                }
                (_, true) => "wrote there before",
                (_, false) => "read there before",
            };
            let lanes = if other_lane == MANY { "several lanes".to_owned() } else { format!("lane {other_lane}") };
            let missing = match kind {
                Kind::SharedRace => ", and no barrier is between",
                Kind::WarpRace => ", and no warp synchronisation is between",
                _ => "",
            };
            format!("{lanes} of warp {other_warp} {did}{missing}; this is lane {lane} of warp {}", warp.state.index)
        }
        _ => String::new(),
    };
    let detail =
        if rank == warp.block.rank as usize { detail } else { format!("{detail} (in block {rank} of the cluster)") };
    warp.find(instruction, lane, kind, Some((Space::Shared, address, bytes)), detail);
}

/// Cycles of an access whose lanes do not follow each other. Lanes that read the same word of 4 bytes share it; wider accesses go in parts of 128 bytes: 32 lanes
/// of 4 bytes, 16 of 8, 8 of 16.
pub(crate) fn bank_cycles(mask: u32, addresses: &Lanes64, bytes: u64) -> u64 {
    let together = (128 / bytes.max(4)) as usize;
    let mut cycles = 0;
    for first in (0..WARP).step_by(together) {
        // The words that each bank has to deliver, up to the most that a part can ask for.
        let mut count = [0u8; 32];
        let mut words = [[u64::MAX; 32]; 32];
        let mut most = 0;
        for lane in (first..first + together).filter(|lane| mask >> lane & 1 != 0) {
            for word in addresses[lane] / 4..(addresses[lane] + bytes).div_ceil(4) {
                let bank = (word % 32) as usize;
                let known = usize::from(count[bank]);
                if known < 32 && !words[bank][..known].contains(&word) {
                    words[bank][known] = word;
                    count[bank] += 1;
                    most = most.max(count[bank]);
                }
            }
        }
        cycles += u64::from(most);
    }
    cycles
}
