//! The throughput model: how long a launch would take on the described GPU, and what bounds it.
//!
//! Each part of the machine is a pipe with a rate. The time of a launch is that of the busiest pipe, with two
//! corrections:
//!
//! * **Overlap.** A kernel on the tensor cores also does scalar arithmetic, and a warp scheduler cannot hide all of
//!   it: arithmetic adds
//!   [`UNHIDDEN`] of its own time to the tensor cores'. This one number is fitted to the utilisation of published kernels (see the tests).
//! * **Balance.** The multiprocessor with most blocks decides: `ceil(blocks / multiprocessors)` of them.
//!
//! | pipe | busy cycles of a multiprocessor |
//! |---|---|
//! | issue | warp instructions / 4 schedulers |
//! | float32, half, float64, integer, special, convert | warp instructions of the class x 32 / lanes |
//! | tensor | multiply-adds / rate; tf32 half of f16's, 8-bit twice, 4-bit four times; `mma.sync` at its share of `wgmma`'s |
//! | shared | cycles with bank conflicts, 128 bytes each |
//! | L2 | all sectors that warps asked for, over the whole GPU's L2 bandwidth. Hits of the L1 cache are not modelled: an upper bound |
//! | DRAM | sectors touched, each once; what does not fit the L2 cache is fetched again in proportion |
//! | latency | per wave of resident blocks: what one warp waits for its own instructions, with usual overlap |
//!
//! The caches are cold at the start of each launch. Not modelled: clock throttling, TLB misses, partition camping,
//! atomics on one address, instruction cache misses, the order of blocks.

use super::limits::{Needs, Shape};
use super::{Machine, WARP};
use crate::exec::{Class, Counters, Tensor};

/// The share of scalar arithmetic that is not hidden behind the tensor cores.
pub const UNHIDDEN: f64 = 0.4;
/// What a launch takes that does nothing, in nanoseconds.
pub const LAUNCH_NS: f64 = 2_000.0;
/// Warp schedulers of a multiprocessor.
const SCHEDULERS: f64 = 4.0;
/// Cycles of a sector from memory, as a warp waits for it when it has four loads in flight.
const GLOBAL_WAIT: f64 = 500.0 / 4.0;
/// The same of shared memory, with two in flight.
const SHARED_WAIT: f64 = 24.0 / 2.0;
/// The same of tensor-core instructions.
const TENSOR_WAIT: f64 = 32.0 / 4.0;
/// Cycles from one dependent instruction to the next, with two independent chains.
const DEPENDENT_WAIT: f64 = 4.0 / 2.0;
/// Cycles of a barrier.
const BARRIER_WAIT: f64 = 20.0;

/// What can bound a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Bound {
    /// The tensor cores, with the arithmetic that they do not hide.
    Tensor,
    /// 32-bit floating point.
    Float32,
    /// 16-bit floating point.
    Half,
    /// 64-bit floating point.
    Float64,
    /// Integers.
    Integer,
    /// Special functions.
    Special,
    /// Conversions.
    Convert,
    /// Shared memory.
    Shared,
    /// The L2 cache.
    L2,
    /// Device memory.
    Dram,
    /// The warp schedulers.
    Issue,
    /// Waiting: too few warps, or too long a chain.
    Latency,
}

impl Bound {
    /// All of them, in the order of their numbers.
    pub const ALL: [Bound; 12] = [
        Bound::Tensor,
        Bound::Float32,
        Bound::Half,
        Bound::Float64,
        Bound::Integer,
        Bound::Special,
        Bound::Convert,
        Bound::Shared,
        Bound::L2,
        Bound::Dram,
        Bound::Issue,
        Bound::Latency,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Tensor => "tensor",
            Bound::Float32 => "float32",
            Bound::Half => "half",
            Bound::Float64 => "float64",
            Bound::Integer => "integer",
            Bound::Special => "special",
            Bound::Convert => "convert",
            Bound::Shared => "shared",
            Bound::L2 => "l2",
            Bound::Dram => "dram",
            Bound::Issue => "issue",
            Bound::Latency => "latency",
        }
    }
}

/// The modelled time of a launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Modelled {
    /// All of it.
    pub nanoseconds: f64,
    /// What bounds it.
    pub bound: Bound,
    /// Nanoseconds that each pipe alone needs, in the order of [`Bound::ALL`].
    pub pipes: [f64; Bound::ALL.len()],
    /// Blocks on a multiprocessor at once.
    pub resident_blocks: u32,
    /// The share of the time that the tensor cores work.
    pub tensor_utilisation: f64,
    /// Bytes from and to the device memory.
    pub dram_bytes: u64,
}

/// The modelled time of a launch that counted `counters`.
pub fn time(machine: &Machine, counters: &Counters, needs: &Needs, shape: &Shape) -> Modelled {
    let blocks = counters.blocks.max(1) as f64;
    let multiprocessors = machine.multiprocessors as f64;
    // The part of all work that falls to the multiprocessor with most blocks.
    let share = (blocks / multiprocessors).ceil() / blocks;
    let cycle_ns = 1e6 / machine.clock_khz as f64;
    let scalar =
        |class: Class, lanes: u32| counters.instructions[class as usize] as f64 * WARP as f64 / lanes as f64 * share;

    let float32 = scalar(Class::Single, machine.float32_lanes);
    let half = scalar(Class::Half, machine.half_lanes);
    let float64 = scalar(Class::Double, machine.float64_lanes);
    // A 64-bit integer operation is two or more of 32 bits.
    let integer = scalar(Class::Integer, machine.integer_lanes) + 2.0 * scalar(Class::Integer64, machine.integer_lanes);
    let special = scalar(Class::Special, machine.special_lanes);
    let convert = scalar(Class::Convert, machine.convert_lanes);
    let tensor = tensor_cycles(machine, counters) * share;
    let unhidden = if tensor > 0.0 { UNHIDDEN * (float32 + half + float64 + integer + special + convert) } else { 0.0 };

    let resident_blocks = machine.occupancy(needs, shape.threads(), shape.dynamic_shared as u64).max(1);
    let dram_bytes = dram_bytes(machine, counters);
    let sectors = (counters.load_sectors + counters.store_sectors) as f64 * super::footprint::SECTOR as f64;
    let local = counters.local_bytes as f64;
    let bandwidth = machine.memory_bandwidth() * machine.memory_efficiency;

    let cycles_of = |bound: Bound| match bound {
        Bound::Tensor => tensor + unhidden,
        Bound::Float32 => float32,
        Bound::Half => half,
        Bound::Float64 => float64,
        Bound::Integer => integer,
        Bound::Special => special,
        Bound::Convert => convert,
        Bound::Shared => counters.shared_cycles as f64 * share,
        Bound::L2 => (sectors + local) / machine.l2_bytes_per_clock as f64,
        Bound::Dram => dram_bytes as f64 / bandwidth * 1e9 / cycle_ns,
        Bound::Issue => counters.warp_instructions() as f64 / SCHEDULERS * share,
        Bound::Latency => latency_cycles(counters) * waves(machine, blocks, resident_blocks),
    };
    let pipes = Bound::ALL.map(|bound| cycles_of(bound) * cycle_ns);
    let bound = Bound::ALL
        .into_iter()
        .max_by(|&a, &b| pipes[a as usize].total_cmp(&pipes[b as usize]))
        .unwrap_or(Bound::Latency);
    let nanoseconds = LAUNCH_NS + pipes[bound as usize];
    let tensor_utilisation = tensor * cycle_ns / nanoseconds;
    Modelled { nanoseconds, bound, pipes, resident_blocks, tensor_utilisation, dram_bytes }
}

/// Cycles of the tensor cores of one multiprocessor, had it all the work.
fn tensor_cycles(machine: &Machine, counters: &Counters) -> f64 {
    let rate = |tensor: Tensor| match tensor {
        Tensor::Half | Tensor::Brain => machine.tensor_f16 as f64,
        Tensor::Tf32 => machine.tensor_f16 as f64 / 2.0,
        Tensor::Fp8 | Tensor::Integer => machine.tensor_f16 as f64 * 2.0,
        Tensor::Double => machine.tensor_f64 as f64,
    };
    let types = [Tensor::Half, Tensor::Brain, Tensor::Tf32, Tensor::Double, Tensor::Fp8, Tensor::Integer];
    types
        .into_iter()
        .map(|tensor| {
            let warp = counters.tensor_flop[tensor as usize] as f64 / 2.0;
            let warpgroup = counters.warpgroup_tensor_flop[tensor as usize] as f64 / 2.0;
            (warp / machine.tensor_warp_share + warpgroup) / rate(tensor)
        })
        .sum()
}

/// Bytes between the L2 cache and the memory.
fn dram_bytes(machine: &Machine, counters: &Counters) -> u64 {
    let distinct = counters.distinct_load_sectors + counters.distinct_store_sectors;
    let footprint = (distinct * super::footprint::SECTOR) as f64;
    let requested = (counters.load_sectors * super::footprint::SECTOR) as f64;
    let again = (requested - (counters.distinct_load_sectors * super::footprint::SECTOR) as f64).max(0.0);
    // Of what is asked for again, the part that the cache no longer holds. Blocks that run at the same time mostly
    // ask for the same, so that only about one repetition in as many as there are multiprocessors comes late enough
    // to miss.
    let missing = (1.0 - machine.l2_bytes as f64 / footprint.max(1.0)).max(0.0);
    (footprint + again * missing / machine.multiprocessors as f64) as u64
}

/// Rounds of resident blocks that the grid takes.
fn waves(machine: &Machine, blocks: f64, resident_blocks: u32) -> f64 {
    (blocks / (machine.multiprocessors as f64 * resident_blocks as f64)).ceil()
}

/// Cycles that one warp waits for its own instructions.
fn latency_cycles(counters: &Counters) -> f64 {
    let wait = |class: Class| match class {
        Class::GlobalLoad | Class::Atomic => GLOBAL_WAIT,
        Class::Shared | Class::Matrix | Class::Warp => SHARED_WAIT,
        Class::Tensor => TENSOR_WAIT,
        Class::Barrier => BARRIER_WAIT,
        _ => DEPENDENT_WAIT,
    };
    let instructions = counters.warp_instructions().max(1) as f64;
    let waited: f64 =
        Class::ALL.into_iter().map(|class| counters.instructions[class as usize] as f64 * wait(class)).sum();
    // The longest warp is assumed to have the mix of all.
    waited / instructions * counters.longest_warp as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(blocks: u32, threads: u32, dynamic_shared: u32) -> Shape {
        Shape { grid: [blocks, 1, 1], block: [threads, 1, 1], cluster: [1; 3], dynamic_shared, cooperative: false }
    }

    /// Counts per warp and iteration of a main loop: tensor instructions of 16x8x16, then classes.
    fn main_loop(blocks: u64, warps: u64, iterations: u64, mma: u64, classes: &[(Class, u64)]) -> Counters {
        let times = blocks * warps * iterations;
        let mut counters = Counters { blocks, warps: blocks * warps, ..Counters::default() };
        counters.tensor_flop[Tensor::Half as usize] = mma * 2 * 16 * 8 * 16 * times;
        counters.instructions[Class::Tensor as usize] = mma * times;
        for &(class, count) in classes {
            counters.instructions[class as usize] = count * times;
        }
        counters.longest_warp = counters.warp_instructions() / counters.warps;
        counters
    }

    /// TFLOP/s of the tensor cores.
    fn rate(counters: &Counters, modelled: &Modelled) -> f64 {
        let flop: u64 = counters.tensor_flop.iter().chain(&counters.warpgroup_tensor_flop).sum();
        flop as f64 / modelled.nanoseconds * 1e-3
    }

    /// A figure of the model is within a tenth of the published one, and both are in the README with their distance.
    #[track_caller]
    fn calibrated(kernel: &str, unit: &str, published: f64, found: f64) {
        let deviation = 100.0 * (found / published - 1.0);
        let row = format!("| {kernel} | {published} {unit} | {found:.2} {unit} | {deviation:+.1} % |");
        println!("{row}");
        assert!(deviation.abs() <= 10.0, "{row}");
        assert!(include_str!("../../README.md").contains(&row), "the README has another row than\n{row}");
    }

    /// FlashAttention-2 forward on an A100, not causal: 190 TFLOP/s at head size 64 and 225 at 128, read off the
    /// figures of its paper; the instruction mix of the main loops is that of the published binaries.
    #[test]
    fn flash_attention_2_is_within_a_tenth() {
        let a100 = Machine::a100();
        let needs = Needs { registers: 255, ..Needs::default() };
        let mix = [
            (Class::Single, 1000),
            (Class::Special, 132),
            (Class::Integer, 138),
            (Class::Matrix, 72),
            (Class::AsyncCopy, 8),
        ];
        let counters = main_loop(108 * 20, 4, 64, 256, &mix);
        let modelled = time(&a100, &counters, &needs, &shape(2160, 128, 48 << 10));
        assert_eq!(modelled.bound, Bound::Tensor);
        calibrated("FlashAttention-2 forward, head size 64, A100", "TFLOP/s", 190.0, rate(&counters, &modelled));
        let mix = [
            (Class::Single, 1100),
            (Class::Special, 132),
            (Class::Integer, 200),
            (Class::Matrix, 144),
            (Class::AsyncCopy, 16),
        ];
        let counters = main_loop(108 * 20, 4, 64, 512, &mix);
        let modelled = time(&a100, &counters, &needs, &shape(2160, 128, 48 << 10));
        calibrated("FlashAttention-2 forward, head size 128, A100", "TFLOP/s", 225.0, rate(&counters, &modelled));
    }

    /// cuBLAS, 8192 cubed in f16: about 280 TFLOP/s on an A100 of 312 (0.90 of the peak; instruction mix 0.529 HMMA).
    #[test]
    fn a_large_gemm_is_within_a_tenth() {
        let counters = main_loop(4096, 8, 256, 64, &[(Class::Integer, 20), (Class::Matrix, 24), (Class::AsyncCopy, 8)]);
        let modelled = time(
            &Machine::a100(),
            &counters,
            &Needs { registers: 168, ..Needs::default() },
            &shape(4096, 256, 96 << 10),
        );
        assert_eq!(modelled.bound, Bound::Tensor);
        calibrated("cuBLAS, 8192 cubed, f16, A100", "TFLOP/s", 280.0, rate(&counters, &modelled));
    }

    /// FlashAttention-3 forward on an H100, head size 128, f16, not causal: about 650 TFLOP/s at long sequences.
    #[test]
    fn flash_attention_3_is_within_a_tenth() {
        let (blocks, warps, iterations) = (132 * 16u64, 8u64, 64u64);
        let mut counters = main_loop(
            blocks,
            warps,
            iterations,
            0,
            &[(Class::Single, 336), (Class::Special, 66), (Class::Integer, 60)],
        );
        // 16 instructions of 64x128x16 per warpgroup and iteration.
        counters.warpgroup_tensor_flop[Tensor::Half as usize] =
            16 * 2 * 64 * 128 * 16 * (warps / 4) * blocks * iterations;
        let needs = Needs { registers: 168, ..Needs::default() };
        let modelled = time(&Machine::h100(), &counters, &needs, &shape(blocks as u32, 384, 200 << 10));
        assert_eq!(modelled.bound, Bound::Tensor);
        calibrated("FlashAttention-3 forward, head size 128, H100", "TFLOP/s", 650.0, rate(&counters, &modelled));
    }

    /// A copy of a gigabyte: 1.8 TB/s of 2.04 on an A100 80 GB, 3.0 of 3.35 on an H100, as stream benchmarks report.
    #[test]
    fn a_stream_is_within_a_tenth() {
        for (machine, kernel, published) in
            [(Machine::a100(), "copy of 1 GiB, A100", 1.8), (Machine::h100(), "copy of 1 GiB, H100", 3.0)]
        {
            let sectors = (1u64 << 30) / 32;
            let warps = (1u64 << 30) / 16 / 32;
            let mut counters = Counters { blocks: warps / 8, warps, longest_warp: 12, ..Counters::default() };
            counters.instructions[Class::GlobalLoad as usize] = warps;
            counters.instructions[Class::GlobalStore as usize] = warps;
            counters.instructions[Class::Integer as usize] = 10 * warps;
            (counters.load_sectors, counters.store_sectors) = (sectors, sectors);
            (counters.distinct_load_sectors, counters.distinct_store_sectors) = (sectors, sectors);
            let modelled = time(
                &machine,
                &counters,
                &Needs { registers: 16, ..Needs::default() },
                &shape((warps / 8) as u32, 256, 0),
            );
            assert_eq!(modelled.bound, Bound::Dram);
            calibrated(kernel, "TB/s", published, 2.0 * (1u64 << 30) as f64 / modelled.nanoseconds * 1e-3);
        }
    }

    #[test]
    fn small_launches_are_bound_by_latency() {
        let mut counters = Counters { blocks: 1, warps: 1, longest_warp: 100, ..Counters::default() };
        counters.instructions[Class::Integer as usize] = 80;
        counters.instructions[Class::GlobalLoad as usize] = 20;
        let modelled =
            time(&Machine::h100(), &counters, &Needs { registers: 16, ..Needs::default() }, &shape(1, 32, 0));
        assert_eq!(modelled.bound, Bound::Latency);
        assert!(modelled.nanoseconds > LAUNCH_NS);
    }
}
