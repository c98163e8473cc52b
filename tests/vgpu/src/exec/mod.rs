//! A launch: blocks on host threads, warps of 32 lanes within them.
//!
//! | file | what |
//! |---|---|
//! | `code` | the form in which kernels run |
//! | `semantics` | from the meaning of an instruction to the function that executes it, for three levels of the processor |
//! | `grid`, `cluster`, `block` | blocks on threads, turns of warps, barriers |
//! | `warp`, `flow` | registers, divergence, calls |
//! | `access`, `global`, `transfer`, `shared`, `watch`, `conflict`, `banks`, `traffic` | loads and stores with their checks, races within and between blocks, bank conflicts |
//! | `atomic`, `collective`, `barrier`, `matrix`, `fragment` | what their names say |
//! | `in_flight`, `pending`, `mbarrier`, `bulk`, `tensor`, `tensor_object`, `reduce` | asynchronous copies, what counts them, and the maps that they need |
//! | `texture`, `multicast` | textures and surfaces, addresses of multicast objects |
//! | `special`, `system`, `stack` | special registers, printf and its like, `alloca` |

pub(crate) mod access;
pub(crate) mod atomic;
mod banks;
pub(crate) mod barrier;
mod block;
pub(crate) mod bulk;
mod cluster;
mod code;
pub(crate) mod collective;
mod conflict;
pub(crate) mod flow;
pub(crate) mod fragment;
mod global;
mod grid;
pub(crate) mod in_flight;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod multicast;
pub(crate) mod pending;
pub(crate) mod reduce;
mod semantics;
mod shared;
pub(crate) mod special;
pub(crate) mod stack;
pub(crate) mod system;
pub(crate) mod tensor;
pub(crate) mod tensor_object;
pub(crate) mod texture;
mod traffic;
pub(crate) mod transfer;
mod warp;
mod watch;
mod worker;

pub(crate) use code::{
    Call, Code, Function, Handler, Instruction, Operand, Origin, Predicate, Relocation, SLOT, Slot, TensorWork,
};
pub(crate) use grid::put_constant;
pub(crate) use semantics::{
    Carry, PredicateLogic, act, carry, map1, map2, map3, map4, predicate_logic, predicate_move, select, test, test1,
};

use crate::checks::{Checks, Finding};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::program::Kernel;

/// What to run, and on what.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The entry function.
    pub kernel: &'a Kernel,
    /// The device address of each of [`crate::program::Program::globals`].
    pub globals: &'a [u64],
    /// The parameter buffer, [`Kernel::param_bytes`] long.
    pub params: &'a [u8],
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y, z; ones without clusters.
    pub cluster: [u32; 3],
    /// Bytes of shared memory on top of what the kernel declares.
    pub dynamic_shared_bytes: u32,
    /// Whether all blocks must run at once, as grid-wide synchronisation needs.
    pub cooperative: bool,
}

/// How to run it.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What is checked.
    pub checks: Checks,
    /// The order of warps and blocks is drawn from it.
    pub seed: u64,
    /// Host threads.
    pub threads: usize,
}

/// Runs a launch to its end.
///
/// The caller has checked the launch against the machine's limits.
///
/// # Errors
/// What the kernel did wrong; memory keeps what was written until then.
pub fn launch(
    memory: &Memory,
    machine: &Machine,
    settings: &Settings,
    launch: &Launch<'_>,
) -> Result<Counters, Box<Fault>> {
    grid::launch(memory, machine, settings, launch)
}

/// A launch that failed.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What the driver returns.
    pub kind: FaultKind,
    /// What was found, most important first; at least one.
    pub findings: Vec<Finding>,
}

/// How the driver names a failed launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An access outside of any live allocation: `CUDA_ERROR_ILLEGAL_ADDRESS`.
    IllegalAddress,
    /// `CUDA_ERROR_MISALIGNED_ADDRESS`.
    MisalignedAddress,
    /// An address in a space that the instruction does not accept: `CUDA_ERROR_INVALID_ADDRESS_SPACE`.
    InvalidAddressSpace,
    /// An operand that the instruction does not accept: `CUDA_ERROR_ILLEGAL_INSTRUCTION`.
    IllegalInstruction,
    /// A jump or call to what is no code: `CUDA_ERROR_INVALID_PC`.
    InvalidPc,
    /// `trap` and `brkpt`: `CUDA_ERROR_LAUNCH_FAILED`.
    Trap,
    /// `__assertfail`: `CUDA_ERROR_ASSERT`.
    Assert,
    /// The kernel can never end: `CUDA_ERROR_LAUNCH_TIMEOUT`.
    Deadlock,
    /// A GPU may have run on, with wrong results: `CUDA_ERROR_LAUNCH_FAILED`.
    Finding,
}

/// What a launch did, summed over its warps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Warp instructions by [`Class`].
    pub instructions: [u64; Class::COUNT],
    /// Lanes that were active, summed over all warp instructions: 32 per instruction without divergence.
    pub lanes: u64,
    /// Branches that split a warp.
    pub divergent_branches: u64,
    /// Tensor-core operations of `mma` (a multiplication and an addition are two) by type of the inputs.
    pub tensor_flop: [u64; Tensor::COUNT],
    /// The same of `wgmma`, which reaches a higher rate.
    pub warpgroup_tensor_flop: [u64; Tensor::COUNT],
    /// Warp-wide accesses to shared memory.
    pub shared_accesses: u64,
    /// Cycles that shared memory was busy: 128 bytes each, more with bank conflicts.
    pub shared_cycles: u64,
    /// Cycles of those that conflicts added.
    pub shared_conflict_cycles: u64,
    /// 32-byte sectors of global memory that loads asked for.
    pub load_sectors: u64,
    /// Sectors that the same loads would need with every byte useful.
    pub load_sectors_ideal: u64,
    /// 32-byte sectors of global memory that stores and reductions touched.
    pub store_sectors: u64,
    /// Sectors that the same stores would need with every byte useful.
    pub store_sectors_ideal: u64,
    /// Bytes that went to local memory (spills and indexed arrays), loads and stores.
    pub local_bytes: u64,
    /// Sectors that loads touched at least once in the launch ([`crate::machine::Footprint`]): what must come from DRAM into a cold cache.
    pub distinct_load_sectors: u64,
    /// Sectors that stores touched at least once in the launch: what must go back to DRAM.
    pub distinct_store_sectors: u64,
    /// Instructions of the warp that had most: the latency of the launch hangs on it.
    pub longest_warp: u64,
    /// Blocks that ran.
    pub blocks: u64,
    /// Warps that ran.
    pub warps: u64,
}

impl Counters {
    /// Warp instructions of all classes.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// Adds what another host thread counted.
    fn add(&mut self, other: &Counters) {
        fn sum<const N: usize>(into: &mut [u64; N], from: &[u64; N]) {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        }
        sum(&mut self.instructions, &other.instructions);
        sum(&mut self.tensor_flop, &other.tensor_flop);
        sum(&mut self.warpgroup_tensor_flop, &other.warpgroup_tensor_flop);
        self.lanes += other.lanes;
        self.divergent_branches += other.divergent_branches;
        self.shared_accesses += other.shared_accesses;
        self.shared_cycles += other.shared_cycles;
        self.shared_conflict_cycles += other.shared_conflict_cycles;
        self.load_sectors += other.load_sectors;
        self.load_sectors_ideal += other.load_sectors_ideal;
        self.store_sectors += other.store_sectors;
        self.store_sectors_ideal += other.store_sectors_ideal;
        self.local_bytes += other.local_bytes;
        self.distinct_load_sectors += other.distinct_load_sectors;
        self.distinct_store_sectors += other.distinct_store_sectors;
        self.longest_warp = self.longest_warp.max(other.longest_warp);
        self.blocks += other.blocks;
        self.warps += other.warps;
    }
}

/// Classes of instructions, by the pipe that would run them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Moves, selections, predicates, special registers.
    Move,
    /// 32-bit integer arithmetic, logic and comparisons.
    Integer,
    /// 64-bit integers: several instructions of a GPU.
    Integer64,
    /// f32 arithmetic.
    Single,
    /// f16 and bf16 arithmetic.
    Half,
    /// f64 arithmetic.
    Double,
    /// Approximate functions.
    Special,
    /// Conversions.
    Convert,
    /// `mma` and `wgmma`.
    Tensor,
    /// `ldmatrix`, `stmatrix`, `movmatrix`.
    Matrix,
    /// Loads and stores of shared memory.
    Shared,
    /// Loads from global memory, textures and surfaces.
    GlobalLoad,
    /// Stores to global memory and surfaces.
    GlobalStore,
    /// Asynchronous copies.
    AsyncCopy,
    /// Local memory, parameters and constants.
    Local,
    /// Atomics and reductions.
    Atomic,
    /// Shuffles, votes and other exchange within a warp.
    Warp,
    /// Barriers and fences.
    Barrier,
    /// Branches, calls, exits.
    Control,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = Class::Control as usize + 1;
    /// All of them in order.
    pub const ALL: [Class; Class::COUNT] = [
        Class::Move,
        Class::Integer,
        Class::Integer64,
        Class::Single,
        Class::Half,
        Class::Double,
        Class::Special,
        Class::Convert,
        Class::Tensor,
        Class::Matrix,
        Class::Shared,
        Class::GlobalLoad,
        Class::GlobalStore,
        Class::AsyncCopy,
        Class::Local,
        Class::Atomic,
        Class::Warp,
        Class::Barrier,
        Class::Control,
    ];
}

/// Types that tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tensor {
    /// f16.
    Half,
    /// bf16.
    Brain,
    /// tf32.
    Tf32,
    /// f64.
    Double,
    /// 8-bit floating point.
    Fp8,
    /// 8-bit and narrower integers.
    Integer,
}

impl Tensor {
    /// How many types there are.
    pub const COUNT: usize = Tensor::Integer as usize + 1;
}
