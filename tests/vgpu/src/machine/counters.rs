//! What the executor counts during a launch.
//!
//! All counts are sums or maxima over warps, so that they do not depend on the order in which blocks and warps ran.

/// What an instruction asks of the machine. One instruction belongs to one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Class {
    /// 32-bit floating point: `add.f32`, `fma.rn.f32`, `min`, `setp.f32` ...
    Float32,
    /// 16-bit floating point, packed or not.
    Half,
    /// 64-bit floating point.
    Float64,
    /// Integers, logic, shifts, comparisons, address arithmetic.
    Integer,
    /// The special-function unit: `ex2`, `lg2`, `sin`, `cos`, `rcp`, `rsqrt`, `sqrt`, `tanh`.
    Special,
    /// `cvt` between types.
    Convert,
    /// `mov`, `selp`, `cvta`, reads of special registers.
    Move,
    /// Branches, calls, returns, exits.
    Control,
    /// Loads from global memory.
    LoadGlobal,
    /// Stores to global memory.
    StoreGlobal,
    /// Loads from shared memory.
    LoadShared,
    /// Stores to shared memory.
    StoreShared,
    /// Loads from local memory.
    LoadLocal,
    /// Stores to local memory.
    StoreLocal,
    /// Loads of constants and parameters.
    LoadConstant,
    /// Atomics and reductions in global memory.
    AtomicGlobal,
    /// Atomics and reductions in shared memory.
    AtomicShared,
    /// `shfl`, `vote`, `match`, `redux`, `elect`, `activemask`.
    Warp,
    /// `ldmatrix`, `stmatrix`, `movmatrix`.
    MatrixMove,
    /// `cp.async` and its groups.
    AsyncCopy,
    /// `cp.async.bulk` and tensor copies.
    BulkCopy,
    /// `mma.sync`.
    Matrix,
    /// `wgmma`.
    WarpgroupMatrix,
    /// `bar`, `barrier`, `mbarrier`, `membar`, `fence`.
    Barrier,
    /// Anything else.
    Other,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = Class::Other as usize + 1;

    /// All of them, in the order of their numbers.
    pub const ALL: [Class; Class::COUNT] = [
        Class::Float32,
        Class::Half,
        Class::Float64,
        Class::Integer,
        Class::Special,
        Class::Convert,
        Class::Move,
        Class::Control,
        Class::LoadGlobal,
        Class::StoreGlobal,
        Class::LoadShared,
        Class::StoreShared,
        Class::LoadLocal,
        Class::StoreLocal,
        Class::LoadConstant,
        Class::AtomicGlobal,
        Class::AtomicShared,
        Class::Warp,
        Class::MatrixMove,
        Class::AsyncCopy,
        Class::BulkCopy,
        Class::Matrix,
        Class::WarpgroupMatrix,
        Class::Barrier,
        Class::Other,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Float32 => "float32",
            Class::Half => "half",
            Class::Float64 => "float64",
            Class::Integer => "integer",
            Class::Special => "special",
            Class::Convert => "convert",
            Class::Move => "move",
            Class::Control => "control",
            Class::LoadGlobal => "load_global",
            Class::StoreGlobal => "store_global",
            Class::LoadShared => "load_shared",
            Class::StoreShared => "store_shared",
            Class::LoadLocal => "load_local",
            Class::StoreLocal => "store_local",
            Class::LoadConstant => "load_constant",
            Class::AtomicGlobal => "atomic_global",
            Class::AtomicShared => "atomic_shared",
            Class::Warp => "warp",
            Class::MatrixMove => "matrix_move",
            Class::AsyncCopy => "async_copy",
            Class::BulkCopy => "bulk_copy",
            Class::Matrix => "matrix",
            Class::WarpgroupMatrix => "warpgroup_matrix",
            Class::Barrier => "barrier",
            Class::Other => "other",
        }
    }
}

/// The input type of a matrix instruction, which decides its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum TensorType {
    /// f16 and bf16.
    Half,
    /// tf32.
    Tf32,
    /// e4m3 and e5m2.
    Fp8,
    /// 8-bit integers.
    Int8,
    /// 4-bit integers.
    Int4,
    /// Single bits.
    Bit,
    /// f64.
    Float64,
}

impl TensorType {
    /// How many types there are.
    pub const COUNT: usize = TensorType::Float64 as usize + 1;

    /// All of them, in the order of their numbers.
    pub const ALL: [TensorType; TensorType::COUNT] = [
        TensorType::Half,
        TensorType::Tf32,
        TensorType::Fp8,
        TensorType::Int8,
        TensorType::Int4,
        TensorType::Bit,
        TensorType::Float64,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            TensorType::Half => "half",
            TensorType::Tf32 => "tf32",
            TensorType::Fp8 => "fp8",
            TensorType::Int8 => "int8",
            TensorType::Int4 => "int4",
            TensorType::Bit => "bit",
            TensorType::Float64 => "float64",
        }
    }
}

/// The counts of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions by [`Class`].
    pub instructions: [u64; Class::COUNT],
    /// Active lanes, summed over all warp instructions: 32 per instruction if nothing diverges.
    pub lanes: u64,
    /// Conditional branches by warps, and how many of them divided the warp.
    pub branches: u64,
    /// Branches that divided their warp.
    pub divergent_branches: u64,
    /// Multiply-adds of `mma.sync` by [`TensorType`].
    pub warp_tensor: [u64; TensorType::COUNT],
    /// Multiply-adds of `wgmma` by [`TensorType`].
    pub warpgroup_tensor: [u64; TensorType::COUNT],
    /// Cycles of shared memory: each moves at most 128 bytes, one word per bank.
    pub shared_wavefronts: u64,
    /// Cycles that the same accesses would have taken without bank conflicts.
    pub shared_wavefronts_ideal: u64,
    /// Bytes that lanes asked of global memory to read.
    pub global_bytes_read: u64,
    /// Bytes that lanes wrote to global memory.
    pub global_bytes_written: u64,
    /// Sectors of 32 bytes that loads asked of the L2 cache, counted once per warp instruction.
    pub global_sectors_read: u64,
    /// Sectors of 32 bytes that stores sent to the L2 cache, counted once per warp instruction.
    pub global_sectors_written: u64,
    /// Sectors that the launch read at least once.
    pub distinct_sectors_read: u64,
    /// Sectors that the launch wrote at least once.
    pub distinct_sectors_written: u64,
    /// Sectors of local memory that were read or written.
    pub local_sectors: u64,
    /// Lanes that did an atomic operation in global memory.
    pub global_atomics: u64,
    /// Blocks that ran.
    pub blocks: u64,
    /// Warps that ran.
    pub warps: u64,
    /// Instructions of the warp that had most.
    pub longest_warp: u64,
    /// Times that the warp which waited most waited for memory or a barrier.
    pub most_waits: u64,
}

impl Counters {
    /// Adds what another part of the same launch counted.
    pub fn add(&mut self, other: &Counters) {
        fn sum<const N: usize>(into: &mut [u64; N], from: &[u64; N]) {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        }
        sum(&mut self.instructions, &other.instructions);
        sum(&mut self.warp_tensor, &other.warp_tensor);
        sum(&mut self.warpgroup_tensor, &other.warpgroup_tensor);
        self.lanes += other.lanes;
        self.branches += other.branches;
        self.divergent_branches += other.divergent_branches;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_wavefronts_ideal += other.shared_wavefronts_ideal;
        self.global_bytes_read += other.global_bytes_read;
        self.global_bytes_written += other.global_bytes_written;
        self.global_sectors_read += other.global_sectors_read;
        self.global_sectors_written += other.global_sectors_written;
        self.distinct_sectors_read += other.distinct_sectors_read;
        self.distinct_sectors_written += other.distinct_sectors_written;
        self.local_sectors += other.local_sectors;
        self.global_atomics += other.global_atomics;
        self.blocks += other.blocks;
        self.warps += other.warps;
        self.longest_warp = self.longest_warp.max(other.longest_warp);
        self.most_waits = self.most_waits.max(other.most_waits);
    }

    /// Warp instructions of all classes.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// Warp instructions of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.instructions[class as usize]
    }

    /// Cycles lost to bank conflicts of shared memory.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared_wavefronts.saturating_sub(self.shared_wavefronts_ideal)
    }
}
