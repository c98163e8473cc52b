//! The described GPU: what it can hold, how fast its parts are, and what follows from both.
//!
//! * [`Machine`]: limits and rates of an A100 or an H100, from NVIDIA's published tables.
//! * [`limits`]: what a launch may ask for, and how many blocks fit.
//! * [`model`]: how long a launch would take, and what bounds it.
//! * [`footprint`]: which sectors of device memory a launch touched, hence its L2 and DRAM traffic.

pub mod footprint;
pub mod limits;
pub mod model;

pub use footprint::Footprint;

use std::fmt;

/// Threads of a warp.
pub const WARP: u32 = 32;

/// A compute capability, for example 8.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// The generation: 8 is Ampere and Ada, 9 is Hopper.
    pub major: u32,
    /// The variant.
    pub minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A described GPU. Rates are per clock and multiprocessor unless they say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// As `cuDeviceGetName` tells it.
    pub name: &'static str,
    /// Compute capability.
    pub capability: Capability,
    /// Device memory in bytes.
    pub memory_bytes: u64,

    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Threads that are resident on a multiprocessor at once.
    pub threads_per_multiprocessor: u32,
    /// Blocks that are resident on a multiprocessor at once.
    pub blocks_per_multiprocessor: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Shared memory of a multiprocessor in bytes.
    pub shared_per_multiprocessor: u32,
    /// Shared memory that a block gets without asking, in bytes.
    pub shared_per_block: u32,
    /// Shared memory that a block can opt in to, in bytes.
    pub shared_per_block_optin: u32,
    /// Shared memory that the system keeps of each block, in bytes.
    pub shared_reserved_per_block: u32,
    /// Level-two cache in bytes.
    pub l2_bytes: u64,

    /// Boost clock of the multiprocessors in kilohertz.
    pub clock_khz: u32,
    /// Clock of the memory in kilohertz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: u32,

    /// Lanes of 32-bit floating-point arithmetic (one multiply-add each).
    pub float32_lanes: u32,
    /// Lanes of 64-bit floating-point arithmetic.
    pub float64_lanes: u32,
    /// Lanes of packed 16-bit arithmetic (two values each).
    pub half_lanes: u32,
    /// Lanes of 32-bit integer arithmetic.
    pub integer_lanes: u32,
    /// Lanes of the special-function unit.
    pub special_lanes: u32,
    /// Lanes of conversions.
    pub convert_lanes: u32,
    /// Dense multiply-adds of the tensor cores with f16 or bf16 inputs, as `wgmma` (or `mma.sync`, where it is all
    /// there is) reaches.
    pub tensor_f16: u32,
    /// The share of that rate that `mma.sync` reaches.
    pub tensor_warp_share: f64,
    /// Multiply-adds of the tensor cores in f64.
    pub tensor_f64: u32,
    /// Whether the tensor cores take fp8; else such a kernel does not load.
    pub tensor_fp8: bool,
    /// Bytes of shared memory that move.
    pub shared_bytes: u32,
    /// Bytes from the L2 cache, of the whole GPU.
    pub l2_bytes_per_clock: u32,
    /// Share of the memory's nominal bandwidth that a streaming kernel reaches.
    pub memory_efficiency: f64,
}

impl Machine {
    /// An A100 (SXM4, 80 GB): compute capability 8.0.
    pub fn a100() -> Machine {
        Machine {
            name: "NVIDIA A100-SXM4-80GB (vgpu)",
            capability: Capability { major: 8, minor: 0 },
            memory_bytes: 80 << 30,
            multiprocessors: 108,
            threads_per_multiprocessor: 2048,
            blocks_per_multiprocessor: 32,
            registers_per_multiprocessor: 65536,
            shared_per_multiprocessor: 164 << 10,
            shared_per_block: 48 << 10,
            shared_per_block_optin: 163 << 10,
            shared_reserved_per_block: 1 << 10,
            l2_bytes: 40 << 20,
            clock_khz: 1_410_000,
            memory_clock_khz: 1_593_000,
            memory_bus_bits: 5120,
            float32_lanes: 64,
            float64_lanes: 32,
            half_lanes: 128,
            integer_lanes: 64,
            special_lanes: 16,
            convert_lanes: 64,
            tensor_f16: 1024,
            tensor_warp_share: 1.0,
            tensor_f64: 64,
            tensor_fp8: false,
            shared_bytes: 128,
            l2_bytes_per_clock: 5120,
            memory_efficiency: 0.92,
        }
    }

    /// An H100 (SXM5, 80 GB): compute capability 9.0.
    pub fn h100() -> Machine {
        Machine {
            name: "NVIDIA H100 80GB HBM3 (vgpu)",
            capability: Capability { major: 9, minor: 0 },
            multiprocessors: 132,
            shared_per_multiprocessor: 228 << 10,
            shared_per_block_optin: 227 << 10,
            l2_bytes: 50 << 20,
            clock_khz: 1_830_000,
            memory_clock_khz: 2_619_000,
            float32_lanes: 128,
            float64_lanes: 64,
            half_lanes: 256,
            tensor_f16: 2048,
            tensor_warp_share: 0.63,
            tensor_f64: 128,
            tensor_fp8: true,
            ..Machine::a100()
        }
    }

    /// The machine that is called `name` (`a100`, `h100`) or has that compute capability (`8.0`, `9.0`).
    pub fn named(name: &str) -> Option<Machine> {
        match name.to_ascii_lowercase().as_str() {
            "a100" | "8.0" | "80" | "sm_80" => Some(Machine::a100()),
            "h100" | "9.0" | "90" | "sm_90" | "sm_90a" => Some(Machine::h100()),
            _ => None,
        }
    }

    /// Warps that are resident on a multiprocessor at once.
    pub fn warps_per_multiprocessor(&self) -> u32 {
        self.threads_per_multiprocessor / WARP
    }

    /// Bytes per second of the device memory, nominal.
    pub fn memory_bandwidth(&self) -> f64 {
        // Two transfers per clock.
        self.memory_clock_khz as f64 * 1e3 * 2.0 * self.memory_bus_bits as f64 / 8.0
    }
}
