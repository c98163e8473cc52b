//! The blocks of a launch on host threads.
//!
//! The unit of work is a cluster (usually one block): all its warps run on one host thread, in turns and in random order. A cluster that waits for what others
//! do in global memory is put aside after a while and another one begun, so that blocks may wait for blocks that were begun before, as on a GPU. In a cooperative
//! launch all are begun at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::cluster::{Cluster, Outcome};
use super::code::{Code, Relocation, SLOT, Slot};
use super::traffic::Traffic;
use super::worker::{Finished, Worker, mix};
use super::{Class, Counters, Fault, FaultKind, Launch, Settings};
use crate::checks::{Checks, Finding, Kind};
use crate::machine::{Footprint, Machine};
use crate::memory::{self, Memory, Table, Window};

/// Clusters of which a worker may have begun and not ended.
const RESIDENT: usize = 64;

/// Clusters among which the next one is chosen at random.
const SHUFFLED: u64 = 8;

/// What all warps of a launch share.
pub(crate) struct Grid<'a> {
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// The code of the kernel.
    pub code: &'a Code,
    /// Its constants with the addresses of this launch.
    pub constants: Vec<Slot>,
    /// Device memory.
    pub memory: &'a Memory,
    /// Its live allocations.
    pub table: Arc<Table>,
    /// All of device memory, for launches without checks of bounds.
    pub everything: Window,
    /// What is checked.
    pub checks: Checks,
    /// Sectors that were read and written.
    pub touched: Option<[Footprint; 2]>,
    /// Which blocks use which words of global memory, where that is checked.
    pub traffic: Traffic,
    /// The GPU.
    pub machine: &'a Machine,
    /// When the launch began.
    pub begin: Instant,
    /// Shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Where a cooperative launch has the words of its barrier, see [`Workspace`].
    pub workspace: u64,
    seed: u64,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Grid<'_> {
    /// Blocks in a cluster.
    pub fn cluster_blocks(&self) -> u32 {
        self.launch.cluster.iter().product()
    }

    /// Clusters in the grid, in x, y, z.
    pub fn clusters(&self) -> [u32; 3] {
        std::array::from_fn(|axis| self.launch.grid[axis] / self.launch.cluster[axis].max(1))
    }

    /// The number of a block within the grid.
    pub fn linear_block(&self, id: [u32; 3]) -> u64 {
        let [x, y, _] = self.launch.grid.map(u64::from);
        u64::from(id[0]) + x * (u64::from(id[1]) + y * u64::from(id[2]))
    }

    /// Threads in a block.
    pub fn block_threads(&self) -> u32 {
        self.launch.block.iter().product()
    }

    /// Whether some other thread has ended the launch.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next cluster to be begun.
    fn next_cluster(&self) -> Option<u64> {
        let total: u64 = self.clusters().iter().map(|&count| u64::from(count)).product();
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        if ticket >= total {
            return None;
        }
        // Each full window of consecutive numbers is passed through in an order of its own.
        let (window, place) = (ticket / SHUFFLED, ticket % SHUFFLED);
        if (window + 1) * SHUFFLED > total {
            return Some(ticket);
        }
        let random = mix(self.seed ^ window);
        Some(window * SHUFFLED + (place * (random & 6 | 1) + (random >> 8)) % SHUFFLED)
    }

    fn work(&self, worker: &mut Worker) {
        let mut resident: std::collections::VecDeque<Cluster> = Default::default();
        let mut spare = None;
        let mut exhausted = false;
        while !self.is_stopped() {
            let wanted = if self.launch.cooperative { usize::MAX } else { RESIDENT };
            if !exhausted
                && resident.len() < wanted
                && (resident.is_empty() || self.launch.cooperative || resident[0].is_patient())
            {
                match self.next_cluster() {
                    Some(index) => {
                        worker.seed(self.seed ^ mix(index));
                        let cluster = Cluster::begin(self, index, spare.take());
                        resident.push_front(cluster);
                        if self.launch.cooperative {
                            continue;
                        }
                    }
                    None => exhausted = true,
                }
            }
            let Some(mut cluster) = resident.pop_front() else { return };
            match cluster.run(self, worker) {
                Outcome::Ended => {
                    worker.counters.blocks += u64::from(self.cluster_blocks());
                    spare = Some(cluster);
                }
                Outcome::Paused => resident.push_back(cluster),
                Outcome::Fault => self.stop.store(true, Ordering::Relaxed),
            }
            if worker.is_full() {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// What the driver gives a cooperative launch: words, zero at first, with which the library of cooperative groups makes its barrier of the whole grid. Kernels find them
/// through special registers.
struct Workspace<'a> {
    memory: &'a Memory,
    /// Zero without one.
    address: u64,
}

impl Workspace<'_> {
    /// Their size, and the word that counts arrivals.
    const BYTES: usize = 8;

    fn new(memory: &Memory, is_cooperative: bool) -> Workspace<'_> {
        let take = || {
            let address =
                memory.allocate(Self::BYTES as u64, memory::Kind::Variable("grid barrier".to_owned())).ok()?;
            let mut words = [0; Self::BYTES];
            words[0] = Self::BYTES as u8;
            memory.write(address, &words).ok()?;
            Some(address)
        };
        Workspace { memory, address: if is_cooperative { take().unwrap_or(0) } else { 0 } }
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        if self.address != 0 {
            // It is nobody else's to free.
            let _ = self.memory.free(self.address, |_| true);
        }
    }
}

/// See [`super::launch`].
pub(crate) fn launch(
    memory: &Memory,
    machine: &Machine,
    settings: &Settings,
    launch: &Launch<'_>,
) -> Result<Counters, Box<Fault>> {
    let code = &launch.kernel.code;
    let mut constants = code.constants.clone();
    for relocation in &code.relocations {
        let (slot, value) = match *relocation {
            Relocation::Global { slot, global, offset } => {
                (slot, launch.globals.get(global as usize).copied().unwrap_or(0).wrapping_add(offset as u64))
            }
            Relocation::DynamicShared { slot, offset, is_wide } => {
                let address = u64::from(launch.kernel.static_shared_bytes).wrapping_add(offset as u64);
                // A narrow constant is the same number in each half of a wide one.
                (slot, if is_wide { address } else { address << 32 | address & 0xffff_ffff })
            }
        };
        put_constant(&mut constants, slot, value);
    }
    let watched = settings.checks.any_in_kernels();
    let workspace = Workspace::new(memory, launch.cooperative);
    let grid = Grid {
        launch,
        code,
        constants,
        memory,
        table: memory.table(),
        everything: memory.everything(),
        checks: settings.checks,
        touched: watched.then(|| {
            let all = memory.everything();
            std::array::from_fn(|_| Footprint::new(all.start(), all.bytes(), settings.threads))
        }),
        traffic: Traffic::default(),
        machine,
        begin: Instant::now(),
        shared_bytes: launch.kernel.static_shared_bytes.saturating_add(launch.dynamic_shared_bytes),
        workspace: workspace.address,
        seed: mix(settings.seed),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let workers = Mutex::new(Vec::new());
    let total: u64 = grid.clusters().iter().map(|&count| u64::from(count)).product();
    let work = || {
        let mut worker = Worker::new(code.instructions.len(), grid.seed);
        grid.work(&mut worker);
        workers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(worker);
    };
    std::thread::scope(|scope| {
        for _ in 1..settings.threads.max(1).min(total.try_into().unwrap_or(usize::MAX)) {
            scope.spawn(work);
        }
        work();
    });
    let workers = workers.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    summarise(&grid, workers)
}

/// Writes a 64-bit constant.
pub(crate) fn put_constant(constants: &mut [Slot], slot: u32, value: u64) {
    let first = (slot / SLOT) as usize;
    for lane in 0..32 {
        let place = &mut constants[first + lane / 16].0[lane % 16 * 2..][..2];
        place.copy_from_slice(&[value as u32, (value >> 32) as u32]);
    }
}

fn summarise(grid: &Grid<'_>, workers: Vec<Worker>) -> Result<Counters, Box<Fault>> {
    let mut counters = Counters::default();
    let mut findings: Vec<(Kind, u32, Finding)> = Vec::new();
    let mut fault = None;
    for worker in workers {
        let Finished { hits, lanes, counters: counted, findings: found, fault: ended_by } = worker.finish();
        counters.add(&counted);
        counters.lanes += lanes;
        for ((&hits, instruction), at) in hits.iter().zip(&grid.code.instructions).zip(0u32..) {
            match instruction.class {
                Some(class) => counters.instructions[class as usize] += hits,
                None => continue,
            }
            if instruction.class == Some(Class::Tensor)
                && hits > 0
                && let Some(work) = grid.code.tensor.get(&at)
            {
                let sum =
                    if work.is_warpgroup { &mut counters.warpgroup_tensor_flop } else { &mut counters.tensor_flop };
                sum[work.inputs as usize] += hits * work.flop;
            }
        }
        fault = fault.or(ended_by);
        for (kind, at, finding) in found {
            match findings.iter_mut().find(|known| known.0 == kind && known.1 == at) {
                Some(known) => known.2.count += finding.count,
                None => findings.push((kind, at, finding)),
            }
        }
    }
    if findings.is_empty() {
        return Ok(counters);
    }
    // What ended the launch was found last and is told first, unless it is waiting in vain: that comes of what was found before.
    if fault != Some(FaultKind::Deadlock) {
        findings.reverse();
    }
    let findings = findings.into_iter().map(|(_, _, finding)| finding).collect();
    Err(Box::new(Fault { kind: fault.unwrap_or(FaultKind::Finding), findings }))
}
