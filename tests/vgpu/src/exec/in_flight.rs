//! Asynchronous operations that *read*: bulk copies out of shared memory, and `wgmma`, which also fills registers. They do their work when they are issued, but until the
//! wait that tells that they are done (PTX ISA 9.7.9.25.4.3, 9.7.15.7) their sources may not be written, and their results not be used.
//!
//! They are of another *proxy* than ordinary loads and stores (PTX ISA 8.6): what a thread stored must pass a `fence.proxy.async` before they read it, somewhere on its way
//! through barriers to them.

use std::collections::HashMap;

use super::barrier::nothing;
use super::code::{Flow, Instruction, Operand};
use super::conflict::Conflict;
use super::warp::Warp;
use super::watch::{self, Lanes, MANY, Watch};
use crate::checks::Kind;
use crate::isa::{Lanes as Numbers, WARP};

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A bulk copy of a lane.
    Bulk,
    /// A matrix product of a warp's warpgroup.
    Product,
}

/// A read of shared memory that may not have happened yet.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub reader: Reader,
    pub warp: u32,
    pub lane: u32,
    /// The group in which it was committed, or will be.
    pub group: u32,
    /// What is read: begin and end of each run.
    pub runs: Vec<(u64, u64)>,
}

/// Runs of chunks of 16 bytes.
pub(crate) fn runs_of(chunks: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut chunks: Vec<u64> = chunks.into_iter().collect();
    chunks.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for chunk in chunks {
        match runs.last_mut() {
            Some(run) if run.1 >= chunk => run.1 = run.1.max(chunk + 16),
            _ => runs.push((chunk, chunk + 16)),
        }
    }
    runs
}

/// What is under way of a warp.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// Groups of bulk copies that each lane has committed.
    bulk_groups: Numbers,
    /// Bulk copies out of shared memory for which nobody waited yet.
    bulk_sources: usize,
    /// Groups of matrix products that were committed.
    product_groups: u32,
    /// Whether a `wgmma.fence` was executed.
    fenced: bool,
    /// Registers of sums that are not there yet.
    registers: HashMap<u32, Filling>,
}

/// What fills a register.
#[derive(Debug, Clone, Copy)]
struct Filling {
    /// The group of its product.
    group: u32,
    /// Whether somebody waited in vain, since the product was in no group.
    missed: bool,
}

impl InFlight {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.bulk_groups = [0; WARP];
        self.bulk_sources = 0;
        self.product_groups = 0;
        self.fenced = false;
        self.registers.clear();
    }

    /// Whether bulk copies still read.
    pub fn is_reading(&self) -> bool {
        self.bulk_sources > 0
    }

    /// Whether registers are awaited.
    #[inline(always)]
    pub fn has_registers(&self) -> bool {
        !self.registers.is_empty()
    }
}

/// Which registers an instruction reads and writes, for kernels with matrix products of warpgroups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uses {
    pub reads: Box<[Operand]>,
    pub writes: Box<[Operand]>,
    /// Whether it copies one register to another: no more than another name for what is under way.
    pub copies: bool,
}

impl Watch {
    /// A read of shared memory is under way.
    pub fn hold(&mut self, source: Source) {
        self.sources.push(source);
    }

    /// Reads of a warp are done of which `is_done` says so, by lane and group; tells how many. They count as made now.
    pub fn let_go(&mut self, reader: Reader, warp: u32, is_done: impl Fn(u32, u32) -> bool) -> usize {
        let (done, rest) = std::mem::take(&mut self.sources).into_iter().partition(|source: &Source| {
            source.reader == reader && source.warp == warp && is_done(source.lane, source.group)
        });
        self.sources = rest;
        let done: Vec<Source> = done;
        for source in &done {
            for &(begin, end) in &source.runs {
                for granule in self.granules_of(begin, end - begin) {
                    let plane = warp as usize * self.granules + granule;
                    self.read[granule] = self.time;
                    self.read_by[plane] = self.time;
                    self.reader[plane] = if reader == Reader::Bulk { source.lane as u8 } else { MANY };
                }
            }
        }
        done.len()
    }

    /// Looks for a read under way of what lanes are about to write.
    #[cold]
    pub(super) fn find_source(&self, lanes: &Lanes<'_>) -> Option<Conflict> {
        (0..WARP).filter(|lane| lanes.mask >> lane & 1 != 0).find_map(|lane| {
            let (begin, end) = (lanes.addresses[lane], lanes.addresses[lane] + lanes.bytes);
            let source =
                self.sources.iter().find(|source| source.runs.iter().any(|run| run.0 < end && begin < run.1))?;
            let by = if source.reader == Reader::Bulk { source.lane as u8 } else { MANY };
            Some(Conflict::new(Kind::AsyncOverwrite, lane, begin, lanes.bytes, Some((source.warp, by, false))))
        })
    }

    /// A warp orders what it knows of before what the other proxy does behind the fence.
    pub fn fence_proxy(&mut self, warp: u32) {
        let warp = warp as usize;
        if warp >= self.warps {
            return;
        }
        self.has_fences = true;
        self.known[warp * self.warps + warp] = self.time;
        let row = warp * self.warps..(warp + 1) * self.warps;
        for (fenced, known) in self.fenced[row.clone()].iter_mut().zip(&self.known[row]) {
            *fenced = (*fenced).max(*known);
        }
        self.time += 1;
    }

    /// All that any warp has fenced, all know from now on.
    pub(super) fn share_fences(&mut self) {
        for other in 0..self.warps {
            let most = (0..self.warps).map(|warp| self.fenced[warp * self.warps + other]).max().unwrap_or(0);
            (0..self.warps).for_each(|warp| self.fenced[warp * self.warps + other] = most);
        }
    }

    /// Whether what a warp's asynchronous operation reads, in chunks of so many bytes, has passed a fence since ordinary stores wrote it.
    pub fn check_proxy(&self, lanes: &Lanes<'_>) -> Result<(), Box<Conflict>> {
        let warp = lanes.warp as usize;
        if !self.asynchronous || warp >= self.warps {
            return Ok(());
        }
        for lane in (0..WARP).filter(|lane| lanes.mask >> lane & 1 != 0) {
            for granule in self.granules_of(lanes.addresses[lane], lanes.bytes) {
                let (time, writer) = (self.written[granule], self.writer[granule]);
                let by = usize::from(writer & watch::WRITER) / WARP;
                let ordinary = writer & watch::ASYNC == 0 && time >= self.begin && time < watch::UNSEEN;
                if ordinary && by < self.warps && time > self.fenced[warp * self.warps + by] {
                    let other = Some((by as u32, (writer as usize % WARP) as u8, true));
                    let address = lanes.addresses[lane];
                    return Err(Box::new(Conflict::new(Kind::MissingFence, lane, address, lanes.bytes, other)));
                }
            }
        }
        Ok(())
    }
}

/// `fence.proxy.async`.
pub(crate) fn fence_proxy(warp: &mut Warp<'_>, _instruction: &Instruction, _mask: u32) -> Flow {
    let (rank, index) = (warp.block.rank as usize, warp.state.index);
    warp.shared[rank].fence_proxy(index);
    Flow::Next
}

/// A bulk copy of a lane reads these chunks of the own block's shared memory until somebody waits.
pub(crate) fn bulk_reads(warp: &mut Warp<'_>, lane: usize, runs: Vec<(u64, u64)>) {
    let (rank, index) = (warp.block.rank as usize, warp.state.index);
    if !warp.grid.checks.async_copies {
        return;
    }
    let group = warp.state.in_flight.bulk_groups[lane];
    warp.state.in_flight.bulk_sources += 1;
    warp.shared[rank].hold(Source { reader: Reader::Bulk, warp: index, lane: lane as u32, group, runs });
}

/// `cp.async.bulk.commit_group`.
pub(crate) fn commit_bulk(warp: &mut Warp<'_>, _instruction: &Instruction, mask: u32) -> Flow {
    for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
        warp.state.in_flight.bulk_groups[lane] += 1;
    }
    Flow::Next
}

/// `cp.async.bulk.wait_group`, with `.read` or without: the immediate is the number of groups that may still be under way.
pub(crate) fn wait_bulk(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    if warp.state.in_flight.bulk_sources == 0 {
        return Flow::Next;
    }
    let (rank, index) = (warp.block.rank as usize, warp.state.index);
    let committed = warp.state.in_flight.bulk_groups;
    let is_done = |lane: u32, group: u32| {
        mask >> lane & 1 != 0 && u64::from(group) + instruction.immediate < u64::from(committed[lane as usize & 31])
    };
    let done = warp.shared[rank].let_go(Reader::Bulk, index, is_done);
    warp.state.in_flight.bulk_sources -= done;
    Flow::Next
}

/// `wgmma.fence`.
pub(crate) fn fence_products(warp: &mut Warp<'_>, _instruction: &Instruction, _mask: u32) -> Flow {
    warp.state.in_flight.fenced = true;
    Flow::Next
}

/// A matrix product fills registers, and reads shared memory, until somebody waits.
pub(crate) fn product_begins(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    sums: &[Operand],
    chunks: impl IntoIterator<Item = u64>,
) {
    if !warp.grid.checks.async_copies {
        return;
    }
    if !warp.state.in_flight.fenced {
        let detail = "no wgmma.fence orders the registers of this product behind what wrote them".to_owned();
        warp.find(instruction, 0, Kind::MissingFence, None, detail);
    }
    let (rank, index, group) = (warp.block.rank as usize, warp.state.index, warp.state.in_flight.product_groups);
    let frame = warp.frame.registers;
    let filling = Filling { group, missed: false };
    warp.state.in_flight.registers.extend(sums.iter().map(|sum| (frame + sum.0, filling)));
    let runs = runs_of(chunks);
    warp.shared[rank].hold(Source { reader: Reader::Product, warp: index, lane: 0, group, runs });
}

/// `wgmma.commit_group`.
pub(crate) fn commit_products(warp: &mut Warp<'_>, _instruction: &Instruction, _mask: u32) -> Flow {
    warp.state.in_flight.product_groups += 1;
    Flow::Next
}

/// `wgmma.wait_group`: the immediate is the number of groups that may still be under way.
pub(crate) fn wait_products(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let (rank, index) = (warp.block.rank as usize, warp.state.index);
    let InFlight { product_groups, registers, .. } = &mut warp.state.in_flight;
    let committed = u64::from(*product_groups);
    let is_done = |group: u32| u64::from(group) + instruction.immediate < committed;
    if registers.is_empty() {
        return nothing(warp, instruction, mask);
    }
    registers.retain(|_, filling| !is_done(filling.group));
    let uncommitted = *product_groups;
    registers.values_mut().for_each(|filling| filling.missed |= filling.group == uncommitted);
    warp.shared[rank].let_go(Reader::Product, index, |_, group| is_done(group));
    Flow::Next
}

/// An instruction is about to run while sums are under way: none of those may it read. Where a product was neither committed nor waited for, ptxas puts in a wait of its own
/// (and says so), and compilers rely on it: then the sums are there.
#[cold]
#[inline(never)]
pub(crate) fn check_registers(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) {
    let at = warp.at(instruction);
    let Some(uses) = warp.grid.code.uses.get(&at) else { return };
    let frame = warp.frame.registers;
    let registers = &mut warp.state.in_flight.registers;
    let read = uses.reads.iter().find_map(|operand| registers.get(&(frame + operand.0)).copied());
    let open = warp.state.in_flight.product_groups;
    if read.is_some_and(|filling| filling.group == open && !filling.missed) && !uses.copies {
        registers.retain(|_, filling| filling.group != open);
        let (rank, index) = (warp.block.rank as usize, warp.state.index);
        warp.shared[rank].let_go(Reader::Product, index, |_, group| group == open);
        return;
    }
    for operand in &uses.writes {
        match read.filter(|_| uses.copies) {
            Some(filling) => registers.insert(frame + operand.0, filling),
            None => registers.remove(&(frame + operand.0)),
        };
    }
    if read.is_some() && !uses.copies {
        let detail = "it reads a sum of wgmma for which no wgmma.wait_group has waited".to_owned();
        warp.find(instruction, mask.trailing_zeros(), Kind::AsyncReadEarly, None, detail);
    }
}
