//! Who touched which part of the shared memory of a block when.
//!
//! # Races
//! A counter, the *time*, advances with every synchronisation. For each granule (the smallest access of the kernel: 1, 2 or 4 bytes) is known when it was last
//! written and by whom, and when each warp last read it. A matrix says up to which time the accesses of one warp happened before what another does now; barriers
//! raise its entries. Two accesses to a granule of which one writes are in order if the later one's warp knows the earlier one's time; within a warp, if both lanes
//! have since passed a warp synchronisation. Almost all accesses come after a barrier that orders everything, which a comparison with one number tells.
//!
//! Numbers of a block before are too small to mean anything for the next, so nothing has to be cleared.

use std::collections::HashMap;

use super::access::Mode;
use super::conflict::{Conflict, Earlier};
use super::grid::Grid;
use super::shared::Flight;
use crate::checks::Kind;
use crate::isa::{Lanes64, WARP};

/// The time at which a pending asynchronous copy writes: never in the past.
const PENDING: u32 = u32::MAX;

/// The time of what another block of the cluster wrote, until a barrier puts it in order.
pub(super) const UNSEEN: u32 = PENDING - 1;

/// Marks a writer that was a copy which an mbarrier object counts.
const COPIED: u16 = 1 << 15;

/// Marks a writer whose bytes asynchronous operations see without a fence ([`super::in_flight`]).
pub(super) const ASYNC: u16 = 1 << 14;

/// The bits of a writer that name it.
pub(super) const WRITER: u16 = ASYNC - 1;

/// The warps of other blocks of the cluster, as one.
pub(super) const OUTSIDE: usize = WRITER as usize / WARP;

/// Several lanes of a warp.
pub(super) const MANY: u8 = 0xff;

/// What is known of the accesses.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Bytes of a granule, as a power of two.
    shift: u32,
    pub(super) granules: usize,
    pub(super) warps: usize,
    /// Now, and when the block began.
    pub(super) time: u32,
    pub(super) begin: u32,
    /// When each granule was written last, and by which lane of which warp (`warp * 32 + lane`).
    pub(super) written: Vec<u32>,
    pub(super) writer: Vec<u16>,
    /// When each granule was read last.
    pub(super) read: Vec<u32>,
    /// The same of each warp, one warp after the other, and which lane did.
    pub(super) read_by: Vec<u32>,
    pub(super) reader: Vec<u8>,
    /// Up to which time of warp `r` warp `w` knows: at `w * warps + r`.
    pub(super) known: Vec<u32>,
    /// Up to which time what warp `r` wrote has passed a fence for asynchronous operations of warp `w`, likewise; whether there was any fence.
    pub(super) fenced: Vec<u32>,
    pub(super) has_fences: bool,
    /// Reads that are under way.
    pub(super) sources: Vec<super::in_flight::Source>,
    /// The least of it over all other warps and its own lanes.
    known_all: Vec<u32>,
    /// Whether other blocks of the cluster wrote something that is not in order with what is done here.
    has_unseen: bool,
    /// When each lane last passed a synchronisation of its warp.
    lanes: Vec<[u32; WARP]>,
    /// What was released at words, by their address.
    flags: HashMap<u64, Vec<u32>>,
    /// The mbarrier objects by their offset.
    objects: HashMap<u64, Phases>,
    /// Which checks are on.
    races: bool,
    warp_races: bool,
    initialised: bool,
    pub(super) asynchronous: bool,
}

/// The lanes of an access.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<'a> {
    /// Their warp within the block; the largest number if it is of another block.
    pub warp: u32,
    /// Which take part.
    pub mask: u32,
    /// Where. A lane that does not take part has the address of one that does.
    pub addresses: &'a Lanes64,
    /// How much each.
    pub bytes: u64,
}

/// What those knew who arrived at an mbarrier object, in this phase and in the one before.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    now: Vec<u32>,
    before: Vec<u32>,
    /// Copies that were counted in this phase, and in the one before.
    flights: Vec<Flight>,
    landed: Vec<Flight>,
}

impl Phases {
    /// A copy was counted.
    pub fn receive(&mut self, flight: Flight) {
        self.flights.push(flight);
    }

    /// A phase ends.
    pub fn end(&mut self) {
        self.before = std::mem::take(&mut self.now);
        self.landed.append(&mut self.flights);
    }
}

/// The lanes of a mask.
#[inline(always)]
fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < WARP).then_some(lane)
    })
}

impl Watch {
    /// Makes it the record of a new block.
    pub fn begin(&mut self, grid: &Grid<'_>, warps: u32) {
        let shift = grid.code.shared_granule.trailing_zeros();
        let (granules, warps) = ((grid.shared_bytes as usize).div_ceil(1 << shift), warps as usize);
        if self.shift != shift || self.granules != granules || self.warps != warps || self.time > 1 << 30 {
            *self = Watch { shift, granules, warps, ..Watch::default() };
            self.written = vec![0; granules];
            self.writer = vec![0; granules];
            self.read = vec![0; granules];
            self.read_by = vec![0; granules * warps];
            self.reader = vec![0; granules * warps];
            self.known = vec![0; warps * warps];
            self.fenced = vec![0; warps * warps];
            self.known_all = vec![0; warps];
            self.lanes = vec![[0; WARP]; warps];
        }
        let checks = grid.checks;
        self.races = checks.shared_races;
        self.warp_races = checks.warp_races;
        self.initialised = checks.initialised;
        self.asynchronous = checks.async_copies;
        self.objects.clear();
        self.flags.clear();
        let before = self.time;
        self.time += 1;
        self.begin = self.time;
        // What pending copies and other blocks left.
        for written in &mut self.written {
            *written = if *written >= UNSEEN { 0 } else { *written };
        }
        self.has_unseen = false;
        self.known.fill(before);
        self.fenced.fill(before);
        self.has_fences = false;
        self.sources.clear();
        self.known_all.fill(before);
        self.lanes.fill([before; WARP]);
    }

    /// Everything that was done so far happened before what anybody does from now on.
    pub fn synchronise_all(&mut self) {
        self.known.fill(self.time);
        self.known_all.fill(self.time);
        self.lanes.fill([self.time; WARP]);
        self.time += 1;
        if self.has_fences {
            self.share_fences();
        }
    }

    /// Checks an access, and notes it. `span` is its begin and bytes where it is one run.
    #[inline(always)]
    pub fn check(&mut self, lanes: Lanes<'_>, span: Option<(u64, u64)>, mode: Mode) -> Result<(), Box<Conflict>> {
        let warp = lanes.warp as usize;
        if !self.sources.is_empty()
            && mode.writes()
            && let Some(conflict) = self.find_source(&lanes)
        {
            return Err(Box::new(conflict));
        }
        if warp >= self.warps {
            self.note_outside(lanes, mode);
            return Ok(());
        }
        let in_order = match (span, mode) {
            (Some((begin, bytes)), Mode::Read) => self.read_run(warp, begin, bytes, lanes.bytes),
            (Some((begin, bytes)), Mode::Write) => self.write_run(warp, begin, bytes, lanes.bytes),
            (_, Mode::Atomic | Mode::StrongRead | Mode::StrongWrite) => false,
            // The granules of a lane are a row of so many numbers, in all common accesses.
            _ => match lanes.bytes >> self.shift {
                1 => self.rows::<1>(lanes, mode),
                2 => self.rows::<2>(lanes, mode),
                4 => self.rows::<4>(lanes, mode),
                8 => self.rows::<8>(lanes, mode),
                16 => self.rows::<16>(lanes, mode),
                _ => false,
            },
        };
        if in_order { Ok(()) } else { self.each_lane(lanes, mode) }
    }

    /// What other blocks of the cluster wrote is in order with what is done from now on.
    pub fn see_outside(&mut self) {
        if std::mem::take(&mut self.has_unseen) {
            for written in &mut self.written {
                *written = if *written == UNSEEN { self.time } else { *written };
            }
            self.time += 1;
        }
    }

    /// An access of another block of the cluster. What it writes is in order with what this block does behind the next barrier of the cluster, or mbarrier; what
    /// it reads is not noted.
    #[cold]
    fn note_outside(&mut self, lanes: Lanes<'_>, mode: Mode) {
        for lane in lanes_of(lanes.mask) {
            let range = self.granules_of(lanes.addresses[lane], lanes.bytes);
            match mode {
                Mode::Read | Mode::StrongRead => {}
                Mode::Atomic | Mode::StrongWrite => {
                    let begin = self.begin;
                    self.written[range].iter_mut().for_each(|time| *time = (*time).max(begin));
                }
                Mode::Write | Mode::Pending => {
                    self.written[range.clone()].fill(if mode == Mode::Pending { PENDING } else { UNSEEN });
                    self.writer[range].fill((OUTSIDE * WARP + lane) as u16);
                    self.has_unseen = true;
                }
            }
        }
    }

    /// Asynchronous copies of lanes have come to their end: what they wrote is there from now on.
    pub fn arrived(&mut self, warp: u32, mask: u32, to: &Lanes64, bytes: u64) {
        for lane in lanes_of(mask) {
            let range = self.granules_of(to[lane], bytes);
            self.written[range.clone()].fill(self.time);
            self.writer[range].fill((warp as usize * WARP + lane) as u16 | ASYNC);
        }
    }

    /// A warp releases what it knows to a word, or acquires what others have released there, or both.
    pub fn order(&mut self, warp: u32, address: u64, releases: bool, acquires: bool) {
        let mut known = self.flags.remove(&address).unwrap_or_default();
        if acquires && !known.is_empty() {
            self.acquire(warp, &known);
        }
        if releases {
            self.release(warp, &mut known);
        }
        if !known.is_empty() {
            self.flags.insert(address, known);
        }
    }

    /// The record of an mbarrier object.
    pub fn object(&mut self, offset: u64) -> &mut Phases {
        self.objects.entry(offset).or_default()
    }

    /// A warp arrives at an mbarrier object.
    pub fn release_to(&mut self, warp: u32, offset: u64) {
        let mut phases = self.objects.remove(&offset).unwrap_or_default();
        self.release(warp, &mut phases.now);
        self.objects.insert(offset, phases);
    }

    /// A warp has seen a phase of an mbarrier object end.
    pub fn acquire_from(&mut self, warp: u32, offset: u64) {
        let Some(mut phases) = self.objects.remove(&offset) else { return };
        for flight in phases.landed.drain(..) {
            self.land(&flight);
            // Whoever sees the phase end sees the bytes.
            let by = flight.warp as usize;
            if by < self.warps {
                phases.before.resize(2 * self.warps, 0);
                phases.before[by] = phases.before[by].max(self.time);
            }
            self.time += 1;
        }
        self.see_outside();
        self.acquire(warp, &phases.before);
        self.objects.insert(offset, phases);
    }

    pub(super) fn granules_of(&self, begin: u64, bytes: u64) -> std::ops::Range<usize> {
        (begin >> self.shift) as usize..((begin + bytes - 1) >> self.shift) as usize + 1
    }

    /// The bytes of a copy are there from now on.
    fn land(&mut self, flight: &Flight) {
        for &(begin, bytes) in &flight.ranges {
            for granule in self.granules_of(begin, bytes) {
                self.written[granule] = self.time;
                let warp = (flight.warp as usize).min(OUTSIDE);
                self.writer[granule] = (warp * WARP + flight.lane as usize) as u16 | COPIED | ASYNC;
            }
        }
    }

    /// Adds what a warp did and knows to what is known behind a barrier, and behind that what has passed its fences.
    pub fn release(&mut self, warp: u32, known: &mut Vec<u32>) {
        let warp = warp as usize;
        if warp >= self.warps {
            return;
        }
        known.resize(2 * self.warps, 0);
        self.known[warp * self.warps + warp] = self.time;
        let row = warp * self.warps..(warp + 1) * self.warps;
        for (all, one) in known.iter_mut().zip(self.known[row.clone()].iter().chain(&self.fenced[row])) {
            *all = (*all).max(*one);
        }
        self.time += 1;
    }

    /// What was known by those who came to a barrier, a warp knows behind it.
    pub fn acquire(&mut self, warp: u32, known: &[u32]) {
        let warp = warp as usize;
        let row = warp * self.warps..(warp + 1) * self.warps;
        for (one, all) in self.known[row.clone()].iter_mut().chain(&mut self.fenced[row]).zip(known) {
            *one = (*one).max(*all);
        }
        // A barrier orders the lanes of the warp as well.
        self.lanes[warp] = [self.known[warp * self.warps + warp]; WARP];
        self.summarise(warp);
    }

    /// Lanes of a warp have met.
    pub fn synchronise_lanes(&mut self, warp: u32, mask: u32) {
        let warp = warp as usize;
        if warp >= self.warps {
            return;
        }
        for lane in lanes_of(mask) {
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
    #[cold]
    fn each_lane(&mut self, lanes: Lanes<'_>, mode: Mode) -> Result<(), Box<Conflict>> {
        let warp = lanes.warp as usize;
        let mut conflict = None;
        for lane in lanes_of(lanes.mask) {
            let address = lanes.addresses[lane];
            for granule in self.granules_of(address, lanes.bytes) {
                let found = match mode {
                    Mode::Read => self.check_read(warp, lane, granule),
                    Mode::Atomic | Mode::StrongRead if self.written[granule] < self.begin => {
                        self.initialised.then_some((Kind::Uninitialised, None))
                    }
                    Mode::Atomic | Mode::StrongRead | Mode::StrongWrite => None,
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
        for lane in lanes_of(lanes.mask) {
            for granule in self.granules_of(lanes.addresses[lane], lanes.bytes) {
                self.note(warp, lane, granule, mode);
            }
        }
        conflict.map_or(Ok(()), |conflict| Err(Box::new(conflict)))
    }

    /// An access of which each lane has a row of `COUNT` granules: whether a look at the times alone shows that it is in order. If so, it is noted.
    #[inline(always)]
    fn rows<const COUNT: usize>(&mut self, lanes: Lanes<'_>, mode: Mode) -> bool {
        let (warp, time, shift) = (lanes.warp as usize, self.time, self.shift);
        let (known, begin) = (self.known_all[warp], self.begin);
        let place = |lane: usize| {
            let first = (lanes.addresses[lane] >> shift) as usize;
            first..first + COUNT
        };
        let mut latest = [0; COUNT];
        for lane in 0..WARP {
            let Some(written) = self.written.get(place(lane)) else { return false };
            if mode == Mode::Read {
                // Also what was not written in this block is late then.
                for index in 0..COUNT {
                    latest[index] = latest[index].max(written[index].wrapping_sub(begin));
                }
            } else {
                let Some(read) = self.read.get(place(lane)) else { return false };
                for index in 0..COUNT {
                    latest[index] = latest[index].max(written[index].max(read[index]));
                }
            }
        }
        let bound = if mode == Mode::Read { (known + 1).wrapping_sub(begin) } else { known + 1 };
        if latest.iter().any(|&latest| latest >= bound) && !(mode == Mode::Read && self.are_ordered::<COUNT>(lanes)) {
            return false;
        }
        if mode == Mode::Read {
            let plane = warp * self.granules;
            for lane in lanes_of(lanes.mask) {
                let range = place(lane);
                self.read[range.clone()].fill(time);
                let range = plane + range.start..plane + range.end;
                let (reader, by) = (&mut self.reader[range.clone()], &mut self.read_by[range]);
                for index in 0..COUNT {
                    let many = by[index] == time && reader[index] != lane as u8;
                    reader[index] = if many { MANY } else { lane as u8 };
                    by[index] = time;
                }
            }
        } else {
            let time = if mode == Mode::Pending { PENDING } else { time };
            for lane in lanes_of(lanes.mask) {
                self.written[place(lane)].fill(time);
                self.writer[place(lane)].fill((warp * WARP + lane) as u16);
            }
        }
        true
    }

    /// Whether each of the writes that a read of rows would see happened before it: what the latest time of all did not tell.
    #[inline(never)]
    fn are_ordered<const COUNT: usize>(&self, lanes: Lanes<'_>) -> bool {
        let mut ordered = true;
        for lane in lanes_of(lanes.mask) {
            let first = (lanes.addresses[lane] >> self.shift) as usize;
            for granule in first..first + COUNT {
                ordered &= self.check_read(lanes.warp as usize, lane, granule).is_none();
            }
        }
        ordered
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
            Mode::StrongRead => {}
            Mode::Atomic | Mode::StrongWrite => {
                if self.written[granule] < self.begin {
                    self.written[granule] = self.begin;
                }
            }
        }
    }

    /// Whether the write at `time` by a lane happened before what another lane does now.
    fn is_ordered(&self, warp: usize, lane: usize, time: u32, other_warp: usize, other_lane: Option<usize>) -> bool {
        if other_warp == OUTSIDE {
            return !self.races || time != UNSEEN;
        }
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
        let (copied, writer) = (writer & COPIED != 0, usize::from(writer & WRITER));
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
        let (time, writer) = (self.written[granule], usize::from(self.writer[granule] & WRITER));
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
