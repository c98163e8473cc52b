//! The warps of a cluster, in turns.

use super::FaultKind;
use super::block::{Block, CLUSTER_BARRIER};
use super::flow::Pause;
use super::grid::Grid;
use super::shared::Shared;
use super::traffic::Order;
use super::warp::{Fragment, Frame, Progress, State, Warp};
use super::worker::Worker;
use crate::checks::{Finding, Kind};

/// Turns of a cluster before another one may have its own.
const TURNS: u32 = 4096;

/// Turns in a row, for each warp that can run, in which warps did nothing but jump: they may wait for another cluster, which gets its turn then. In a cooperative launch that is
/// likely.
const TIRED: usize = 64;
const TIRED_COOPERATIVE: usize = 2;

/// Rounds in which all warps of a cluster only waited for each other, after which they will forever.
const PATIENCE: u32 = 2000;

/// A cluster that was begun.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    blocks: Vec<Block>,
    shared: Vec<Shared>,
    /// Warps of all blocks, block by block.
    warps: Vec<State>,
    warps_per_block: usize,
    /// Warps that can run.
    ready: Vec<u32>,
    /// Warps that can run and probably have to wait.
    yielded: Vec<u32>,
    /// Warps that have not ended.
    live: u32,
    /// Rounds in which no warp did anything but wait.
    idle: u32,
    /// Whether it had a full turn and has not ended.
    patient: bool,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All threads have ended.
    Ended,
    /// Another cluster should have a turn.
    Paused,
    /// The kernel did something wrong.
    Fault,
}

impl Cluster {
    /// The cluster of that number, in the memory of one that has ended.
    pub fn begin(grid: &Grid<'_>, index: u64, spare: Option<Cluster>) -> Cluster {
        let mut cluster = spare.unwrap_or_default();
        let clusters = grid.clusters().map(u64::from);
        let place = [index % clusters[0], index / clusters[0] % clusters[1], index / clusters[0] / clusters[1]];
        let shape = grid.launch.cluster;
        let threads = grid.block_threads();
        let count = grid.cluster_blocks() as usize;
        let warps_per_block = threads.div_ceil(32) as usize;
        cluster.blocks.clear();
        for rank in 0..count as u32 {
            let inner = [rank % shape[0], rank / shape[0] % shape[1], rank / shape[0] / shape[1]];
            let id = std::array::from_fn(|axis| place[axis] as u32 * shape[axis] + inner[axis]);
            cluster.blocks.push(Block { id, rank, live: threads, shared_bytes: grid.shared_bytes, ..Block::default() });
        }
        cluster.shared.resize_with(count, Shared::default);
        for shared in &mut cluster.shared {
            shared.begin(grid, warps_per_block as u32);
        }
        cluster.warps.resize_with(count * warps_per_block, State::default);
        for (number, state) in cluster.warps.iter_mut().enumerate() {
            state.begin(grid, (number % warps_per_block) as u32, threads);
        }
        cluster.warps_per_block = warps_per_block;
        cluster.ready = (0..cluster.warps.len() as u32).collect();
        cluster.yielded.clear();
        cluster.live = cluster.warps.len() as u32;
        cluster.idle = 0;
        cluster.patient = false;
        cluster
    }

    /// Whether it had a full turn without coming to its end: it may wait for others.
    pub fn is_patient(&self) -> bool {
        self.patient
    }

    /// Gives turns to its warps until all have ended or others should have theirs.
    pub fn run(&mut self, grid: &Grid<'_>, worker: &mut Worker) -> Outcome {
        let watched = grid.checks.any_in_kernels();
        let mut tired = 0;
        for _ in 0..TURNS {
            if self.ready.is_empty() {
                if self.yielded.is_empty() {
                    if self.live != 0 {
                        return self.stuck(grid, worker);
                    }
                    self.compare_barriers(grid, worker);
                    return Outcome::Ended;
                }
                std::mem::swap(&mut self.ready, &mut self.yielded);
                self.idle += 1;
                if self.idle > PATIENCE {
                    // What mbarrier objects count, only this cluster can do; anything else others may still do.
                    if self.ready.iter().all(|&index| self.warps[index as usize].awaits.is_some()) {
                        return self.stuck(grid, worker);
                    }
                    self.idle = 0;
                    break;
                }
            }
            let chosen = worker.random(self.ready.len());
            let index = self.ready.swap_remove(chosen);
            let block = index as usize / self.warps_per_block;
            let issued = worker.issued;
            let state = &mut self.warps[index as usize];
            let mut warp = Warp::new(state, &mut self.blocks[block], &mut self.shared, grid, worker);
            let pause = if watched { warp.run::<true>() } else { warp.run::<false>() };
            self.warps[index as usize].instructions += worker.issued - issued;
            match pause {
                Pause::Turn => {
                    self.ready.push(index);
                    if grid.is_stopped() {
                        return Outcome::Paused;
                    }
                    tired += 1;
                    let limit = if grid.launch.cooperative { TIRED_COOPERATIVE } else { TIRED };
                    if tired > limit * self.ready.len() {
                        break;
                    }
                }
                Pause::Yield => self.yielded.push(index),
                Pause::Blocked => {}
                Pause::Ended => {
                    self.live -= 1;
                    worker.counters.warps += 1;
                    worker.counters.longest_warp =
                        worker.counters.longest_warp.max(self.warps[index as usize].instructions);
                }
                Pause::Fault => return Outcome::Fault,
            }
            if pause != Pause::Yield {
                self.idle = 0;
            }
            if matches!(pause, Pause::Blocked | Pause::Ended) {
                tired = 0;
            }
            self.wake(grid, block);
        }
        self.patient = true;
        Outcome::Paused
    }

    /// Wakes the warps of a block whose barriers are complete, and of the cluster if its barrier is.
    fn wake(&mut self, grid: &Grid<'_>, block: usize) {
        while let Some((barrier, state)) = self.blocks[block].take_complete() {
            let warps = block * self.warps_per_block..(block + 1) * self.warps_per_block;
            // What `bar.red` asks for: how many, and whether all.
            let value = state.holds | u32::from(state.holds == state.asked) << 31;
            self.resume(warps, barrier, value, &state.known);
        }
        if self.blocks.iter().any(|block| block.cluster_arrived > 0)
            && self.blocks.iter().all(|block| block.cluster_arrived >= block.live)
        {
            for (block, shared) in self.blocks.iter_mut().zip(&mut self.shared) {
                block.cluster_arrived = 0;
                block.cluster_phase += 1;
                shared.synchronise_cluster();
            }
            if grid.checks.global_races {
                Order::meet(self.blocks.iter_mut().map(|block| (grid.linear_block(block.id), &mut block.order)));
            }
            self.resume(0..self.warps.len(), CLUSTER_BARRIER, 0, &[]);
        }
    }

    /// Lets the fragments go on that wait for a barrier; `known` is what is known of accesses to shared memory behind it.
    fn resume(&mut self, warps: std::ops::Range<usize>, barrier: u8, value: u32, known: &[u32]) {
        // Where all threads of the block wait for it, and for nothing else, all that was done happened before what comes.
        let waits = |fragment: &Fragment| fragment.progress == Progress::Barrier(barrier);
        let mut members = self.warps[warps.clone()].iter();
        let block = warps.start / self.warps_per_block;
        let all = !known.is_empty() && members.all(|warp| warp.live == warp.all && warp.fragments.iter().all(waits));
        if all {
            self.shared[block].synchronise_all();
        }
        for index in warps {
            let mut woken = false;
            for fragment in &mut self.warps[index].fragments {
                if fragment.progress == Progress::Barrier(barrier) {
                    fragment.progress = Progress::Resumed(value);
                    woken = true;
                }
            }
            if !woken {
                continue;
            }
            if !all {
                let number = (index % self.warps_per_block) as u32;
                self.shared[index / self.warps_per_block].acquire(number, known);
            }
            if !self.ready.contains(&(index as u32)) && !self.yielded.contains(&(index as u32)) {
                self.ready.push(index as u32);
            }
        }
    }

    /// Warps of a block that came to some of its barriers and ended before others: those waited in vain for threads that were there before. (Warps that left before the first
    /// barrier are no fault: a barrier waits for threads that have not ended.)
    fn compare_barriers(&mut self, grid: &Grid<'_>, worker: &mut Worker) {
        if !grid.checks.barriers {
            return;
        }
        for (block, warps) in self.warps.chunks_mut(self.warps_per_block).enumerate() {
            let passed = warps.iter().map(|warp| warp.barriers).filter(|&passed| passed > 0);
            let (least, most) = (passed.clone().min(), passed.max());
            if least == most {
                continue;
            }
            let Some(index) = warps.iter().position(|warp| Some(warp.barriers) == most) else { continue };
            let at = warps[index].last_barrier;
            if worker.count_again(Kind::DivergentBarrier, at) {
                continue;
            }
            let warp = Warp::new(&mut warps[index], &mut self.blocks[block], &mut self.shared, grid, worker);
            let place = warp.place(at, 0);
            let detail = format!(
                "some warps of the block passed {} barriers and ended, others {}",
                least.unwrap_or(0),
                most.unwrap_or(0)
            );
            worker.found(Kind::DivergentBarrier, at, Finding::new(Kind::DivergentBarrier, place, detail));
        }
    }

    /// No warp can run: says who waits for what.
    #[cold]
    fn stuck(&mut self, grid: &Grid<'_>, worker: &mut Worker) -> Outcome {
        // A warp whose lanes wait for each other is to blame rather than those that wait for the whole of it.
        let split = |index: &usize| self.warps[*index].fragments.iter().any(|part| part.progress == Progress::Lanes);
        let waiting = (0..self.warps.len()).find(|&index| self.warps[index].live != 0);
        let waiting = (0..self.warps.len()).find(split).or(waiting);
        let Some(index) = waiting else { return Outcome::Ended };
        let block = index / self.warps_per_block;
        let fragments = &self.warps[index].fragments;
        let part = fragments.iter().find(|part| part.progress == Progress::Lanes).or(fragments.first());
        let fragment = part.cloned().unwrap_or_default();
        let count = |wanted: fn(Progress) -> bool| {
            let fragments = self.warps.iter().flat_map(|warp| &warp.fragments);
            fragments
                .filter(|fragment| wanted(fragment.progress))
                .map(|fragment| fragment.mask.count_ones())
                .sum::<u32>()
        };
        let at_barriers = count(|progress| matches!(progress, Progress::Barrier(_)));
        let at_lanes = count(|progress| progress == Progress::Lanes);
        let instruction = grid.code.instructions[fragment.at as usize];
        let (kind, detail) = match (fragment.progress, self.warps[index].awaits) {
            (Progress::Lanes, _) => (
                super::collective::kind_of_divergence(&instruction),
                format!(
                    "{at_lanes} threads wait for lanes of their warp that never come here; {at_barriers} wait at barriers"
                ),
            ),
            (_, Some(_)) => (
                Kind::Deadlock,
                format!(
                    "an mbarrier object never completes the phase for which this warp waits; {at_barriers} threads wait at barriers"
                ),
            ),
            _ => (
                Kind::Deadlock,
                format!(
                    "{at_barriers} threads wait at barriers that the others never reach; {at_lanes} wait for lanes of their warp"
                ),
            ),
        };
        let warp = Warp::new(&mut self.warps[index], &mut self.blocks[block], &mut self.shared, grid, worker);
        let at = warp.state.awaits.filter(|_| fragment.progress == Progress::Ready).unwrap_or(fragment.at);
        let place = warp.place(at, fragment.mask.trailing_zeros());
        worker.found(kind, at, Finding::new(kind, place, detail));
        worker.fault.get_or_insert(FaultKind::Deadlock);
        Outcome::Fault
    }
}

impl State {
    /// Makes this the warp of that number of a block, at the begin of the kernel.
    fn begin(&mut self, grid: &Grid<'_>, index: u32, threads: u32) {
        let kernel = &grid.code.functions[0];
        let lanes = (threads - index * 32).min(32);
        self.index = index;
        self.live = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        self.all = self.live;
        self.registers.clear();
        self.registers.resize((kernel.register_bytes / super::code::SLOT) as usize, Default::default());
        self.predicates.clear();
        self.predicates.resize(kernel.predicates as usize, 0);
        self.local_bytes = 0;
        self.local.clear();
        self.local_written.clear();
        self.track_local = grid.checks.initialised;
        self.reserve_local(kernel.local_bytes);
        self.fragments.clear();
        self.fragments.push(Fragment {
            at: kernel.entry,
            mask: self.live,
            frame: Frame::default(),
            ..Fragment::default()
        });
        self.joins.clear();
        let [x, y, _] = grid.launch.block;
        for lane in 0..32 {
            let thread = index * 32 + lane;
            let place = [thread % x, thread / x % y, thread / x / y];
            for (lanes, place) in self.thread.iter_mut().zip(place) {
                lanes[lane as usize] = place;
            }
        }
        self.yielded = false;
        self.stale = 0;
        self.turns = 0;
        self.awaits = None;
        self.instructions = 0;
        self.cluster_phase = 0;
        self.barriers = 0;
        self.pending.clear();
        self.in_flight.clear();
        self.stack.clear();
    }
}
