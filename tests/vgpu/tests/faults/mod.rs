//! A library of faulty kernels, each with a twin that is right: every fault must be found whatever the order of warps and
//! blocks, with the right diagnosis at the right line, and no twin may be reported.
//!
//! `kernels/*.cu` hold them in pairs (see `pair.h`), `kernels/*.ptx` are what nvcc made of them (`kernels/make.sh`). A
//! [`Case`] says how to launch a pair and which finding is right; the source line is the one marked `fault: NAME`.

mod host;

use cuda::checks::{Checks, Finding, Kind};
use cuda::exec::{self, Counters, Fault, Launch, Settings};
use cuda::machine::Machine;
use cuda::memory::{self, Memory};
use cuda::program::Program;

/// Sources and PTX.
struct File {
    name: &'static str,
    source: &'static str,
    ptx: &'static str,
}

macro_rules! file {
    ($constant:ident, $name:literal) => {
        static $constant: File = File {
            name: concat!($name, ".cu"),
            source: include_str!(concat!("kernels/", $name, ".cu")),
            ptx: include_str!(concat!("kernels/", $name, ".ptx")),
        };
    };
}

file!(MEMORY, "memory");
file!(SHARED, "shared");
file!(WARP, "warp");
file!(COPIES, "copies");
file!(TRANSACTIONS, "transactions");
file!(HOPPER, "hopper");
file!(STUCK, "stuck");

/// How to launch a pair of kernels, and what must be found.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    file: &'static File,
    /// Kinds of findings that are right; mostly one.
    kinds: &'static [Kind],
    blocks: u32,
    threads: u32,
    /// Elements of both buffers, and the kernel's `n`.
    elements: i32,
    /// Dynamic shared memory of the faulty kernel and of its twin.
    dynamic_bytes: [u32; 2],
    /// Whether the first buffer is freed before the faulty launch.
    freed: bool,
    /// Whether races between blocks are looked for.
    between_blocks: bool,
}

/// A case of one block.
const fn case(name: &'static str, file: &'static File, kinds: &'static [Kind], threads: u32, elements: i32) -> Case {
    Case { name, file, kinds, blocks: 1, threads, elements, dynamic_bytes: [0; 2], freed: false, between_blocks: false }
}

const CASES: &[Case] = &[
    // Single accesses.
    Case { blocks: 4, ..case("bound_by_one", &MEMORY, &[Kind::OutOfBounds], 32, 100) },
    Case { blocks: 4, ..case("ragged_block", &MEMORY, &[Kind::OutOfBounds], 32, 100) },
    Case { blocks: 2, ..case("left_of_the_start", &MEMORY, &[Kind::OutOfBounds], 32, 64) },
    case("vector_past_the_end", &MEMORY, &[Kind::OutOfBounds], 32, 102),
    case("vector_in_an_odd_row", &MEMORY, &[Kind::Misaligned], 8, 320),
    case("double_after_a_header", &MEMORY, &[Kind::Misaligned], 32, 128),
    case("null_pointer", &MEMORY, &[Kind::NullPointer], 32, 32),
    Case { blocks: 2, ..case("sum_into_nothing", &MEMORY, &[Kind::Uninitialised], 32, 64) },
    case("every_other_element", &MEMORY, &[Kind::Uninitialised], 32, 128),
    Case { freed: true, ..case("freed_before_use", &MEMORY, &[Kind::UseAfterFree], 32, 32) },
    case("local_table", &MEMORY, &[Kind::OutOfSpace], 32, 32),
    case("half_a_word", &MEMORY, &[Kind::Uninitialised], 32, 32),
    case("stale_read_only_path", &MEMORY, &[Kind::ReadOnly], 32, 32),
    case("bytes_for_elements", &MEMORY, &[Kind::OutOfBounds], 64, 64),
    // Shared memory and barriers.
    case("missing_barrier", &SHARED, &[Kind::SharedRace], 256, 256),
    case("refilled_too_early", &SHARED, &[Kind::SharedRace], 128, 128),
    case("tree_without_barrier", &SHARED, &[Kind::SharedRace], 256, 256),
    case("wrong_buffer", &SHARED, &[Kind::SharedRace], 64, 64),
    case("shared_maximum", &SHARED, &[Kind::SharedRace, Kind::WarpRace], 64, 64),
    case("uninitialised_tile", &SHARED, &[Kind::Uninitialised], 128, 128),
    case("forgotten_halo", &SHARED, &[Kind::Uninitialised], 64, 64),
    Case { dynamic_bytes: [256, 256], ..case("tile_too_small", &SHARED, &[Kind::OutOfSpace], 64, 64) },
    Case { dynamic_bytes: [128, 256], ..case("too_little_asked", &SHARED, &[Kind::OutOfSpace], 64, 64) },
    case("vector_in_a_padded_row", &SHARED, &[Kind::Misaligned], 32, 256),
    case("barrier_in_a_branch", &SHARED, &[Kind::DivergentBarrier], 64, 64),
    case("barrier_in_both_arms", &SHARED, &[Kind::DivergentBarrier], 64, 64),
    case("uneven_loop", &SHARED, &[Kind::DivergentBarrier], 64, 64),
    case("named_barrier_counts", &SHARED, &[Kind::BarrierCount], 128, 128),
    case("barrier_of_48_threads", &SHARED, &[Kind::BarrierCount, Kind::InvalidOperand], 64, 64),
    case("barrier_sixteen", &SHARED, &[Kind::InvalidOperand], 64, 64),
    case("absent_warp", &SHARED, &[Kind::Deadlock], 96, 96),
    // Within a warp, and between blocks.
    case("missing_warp_sync", &WARP, &[Kind::WarpRace], 32, 32),
    case("warp_tree", &WARP, &[Kind::WarpRace], 32, 32),
    case("shuffle_in_a_branch", &WARP, &[Kind::CollectiveMask], 32, 32),
    case("vote_without_some", &WARP, &[Kind::CollectiveMask], 32, 32),
    case("lane_outside_its_mask", &WARP, &[Kind::CollectiveMask], 32, 32),
    case("partial_warp_barrier", &WARP, &[Kind::CollectiveMask], 32, 32),
    case("half_a_warp_of_rows", &WARP, &[Kind::CollectiveMask], 32, 32),
    case("row_off_its_alignment", &WARP, &[Kind::Misaligned], 32, 64),
    Case { blocks: 4, between_blocks: true, ..case("sum_across_blocks", &WARP, &[Kind::GlobalRace], 32, 32) },
    Case { blocks: 4, between_blocks: true, ..case("neighbour_block", &WARP, &[Kind::GlobalRace], 32, 128) },
    Case { blocks: 4, between_blocks: true, ..case("overlapping_blocks", &WARP, &[Kind::GlobalRace], 32, 128) },
    // Asynchronous copies.
    Case { blocks: 4, between_blocks: true, ..case("last_block_without_fence", &WARP, &[Kind::GlobalRace], 32, 32) },
    Case { blocks: 2, between_blocks: true, ..case("message_without_fence", &WARP, &[Kind::GlobalRace], 32, 32) },
    Case { blocks: 4, between_blocks: true, ..case("byte_of_a_neighbour", &WARP, &[Kind::GlobalRace], 32, 32) },
    case("missing_wait", &COPIES, &[Kind::AsyncReadEarly], 32, 128),
    case("weak_wait", &COPIES, &[Kind::AsyncReadEarly], 32, 128),
    case("wait_without_barrier", &COPIES, &[Kind::SharedRace, Kind::AsyncReadEarly], 128, 512),
    case("wait_before_commit", &COPIES, &[Kind::AsyncReadEarly], 32, 128),
    case("overwritten_copy", &COPIES, &[Kind::AsyncOverwrite], 32, 128),
    case("pipeline_without_barrier", &COPIES, &[Kind::SharedRace, Kind::AsyncOverwrite], 64, 256),
    case("stale_stage", &COPIES, &[Kind::AsyncReadEarly], 32, 128),
    case("never_waited", &COPIES, &[Kind::AsyncNeverWaited], 32, 128),
    case("source_off_its_alignment", &COPIES, &[Kind::Misaligned], 32, 160),
    case("source_past_the_end", &COPIES, &[Kind::OutOfBounds], 32, 126),
    case("uninitialised_source", &COPIES, &[Kind::Uninitialised], 32, 128),
    // Transaction barriers and bulk copies.
    case("missing_arrival", &TRANSACTIONS, &[Kind::Deadlock], 64, 64),
    case("too_many_bytes_expected", &TRANSACTIONS, &[Kind::Deadlock], 32, 128),
    case("bulk_copy_not_awaited", &TRANSACTIONS, &[Kind::AsyncReadEarly, Kind::SharedRace], 64, 128),
    case("wrong_parity", &TRANSACTIONS, &[Kind::AsyncReadEarly, Kind::SharedRace, Kind::Deadlock], 64, 128),
    case("uninitialised_barrier", &TRANSACTIONS, &[Kind::Uninitialised, Kind::InvalidOperand], 32, 32),
    case("bulk_copy_of_20_bytes", &TRANSACTIONS, &[Kind::InvalidOperand, Kind::Misaligned], 32, 32),
    case("tile_not_released", &TRANSACTIONS, &[Kind::SharedRace, Kind::WarpRace, Kind::Deadlock], 128, 128),
    // Asynchronous operations that read.
    case("overwritten_store_source", &HOPPER, &[Kind::AsyncOverwrite, Kind::SharedRace], 64, 64),
    case("weak_bulk_wait", &HOPPER, &[Kind::AsyncOverwrite], 64, 192),
    case("store_never_awaited", &HOPPER, &[Kind::AsyncNeverWaited], 64, 64),
    case("store_without_proxy_fence", &HOPPER, &[Kind::MissingFence], 64, 64),
    case("fence_of_one_thread", &HOPPER, &[Kind::MissingFence], 64, 64),
    case("sums_not_awaited", &HOPPER, &[Kind::AsyncReadEarly], 128, 128),
    case("weak_wait_for_sums", &HOPPER, &[Kind::AsyncReadEarly], 128, 128),
    case("sums_not_committed", &HOPPER, &[Kind::AsyncReadEarly], 128, 128),
    case("overwritten_operand", &HOPPER, &[Kind::AsyncOverwrite], 128, 128),
    case("operand_without_proxy_fence", &HOPPER, &[Kind::MissingFence], 128, 128),
    case("product_without_fence", &HOPPER, &[Kind::MissingFence], 128, 128),
    // Kernels that do not end, or too early.
    case("endless_loop", &STUCK, &[Kind::Timeout, Kind::Deadlock], 1, 32),
    Case { blocks: 2, ..case("flag_never_set", &STUCK, &[Kind::Timeout, Kind::Deadlock], 32, 32) },
    case("trapped", &STUCK, &[Kind::Trap], 32, 32),
    case("assertion", &STUCK, &[Kind::Trap], 32, 32),
    case("call_of_nothing", &STUCK, &[Kind::InvalidCall], 32, 32),
    case("endless_recursion", &STUCK, &[Kind::InvalidCall, Kind::OutOfSpace], 32, 32),
];

/// Kernels whose fault only the clock can tell, which is not run over many seeds.
const SLOW: [&str; 2] = ["endless_loop", "flag_never_set"];

impl Case {
    /// The lines of the source that are marked with the fault's name; empty where nothing is.
    fn lines(&self) -> Vec<u32> {
        self.marked(self.name)
    }

    /// The lines with a mark. One that stands alone is for the line below.
    fn marked(&self, name: &str) -> Vec<u32> {
        let mark = format!("// fault: {name}");
        let lines = (1..).zip(self.file.source.lines()).filter(|(_, line)| line.ends_with(&mark));
        lines.map(|(number, line)| if line.trim() == mark { number + 1 } else { number }).collect()
    }

    /// Launches the faulty kernel or its twin.
    fn run(&self, program: &Program, fixed: bool, seed: u64) -> Result<Counters, Box<Fault>> {
        let kernel = format!("{}_{}", self.name, if fixed { "fixed" } else { "faulty" });
        let machine = Machine::h100();
        let memory = Memory::new(64 << 20).unwrap();
        let bytes = 4 * self.elements as u64;
        let buffer = || memory.allocate(bytes, memory::Kind::Device).unwrap();
        let (a, b) = (buffer(), buffer());
        let numbers: Vec<u8> = (0..self.elements).flat_map(i32::to_le_bytes).collect();
        memory.write(a, &numbers).unwrap();
        if self.freed && !fixed {
            memory.free(a, |_| true).unwrap();
        }
        let mut params = Vec::new();
        params.extend(a.to_le_bytes());
        params.extend(b.to_le_bytes());
        params.extend(self.elements.to_le_bytes());
        run_kernel(
            &memory,
            &machine,
            program,
            &kernel,
            &params,
            [self.blocks, self.threads, self.dynamic_bytes[fixed as usize]],
            &Settings { checks: self.checks(), seed, threads: 2 },
        )
    }

    fn checks(&self) -> Checks {
        Checks { global_races: self.between_blocks, ..Checks::usual() }
    }

    /// What is wrong with the findings of the faulty kernel, if anything.
    fn judge(&self, result: Result<Counters, Box<Fault>>) -> Result<(), String> {
        let Err(fault) = result else { return Err("nothing was found".into()) };
        let Some(first) = fault.findings.first() else { return Err("a fault without a finding".into()) };
        if !self.kinds.contains(&first.kind) {
            return Err(format!("not the right kind:\n{first}"));
        }
        self.judge_place(first)
    }

    fn judge_place(&self, finding: &Finding) -> Result<(), String> {
        let place = finding.place.as_ref().ok_or("the finding has no place")?;
        if place.kernel != format!("{}_faulty", self.name) && !place.kernel.contains(self.name) {
            return Err(format!("the kernel is said to be {}", place.kernel));
        }
        let lines = self.lines();
        if lines.is_empty() {
            return Ok(());
        }
        // The line itself, or a call that was inlined there; or a helper that is marked as such.
        let mut told = place.source.iter().chain(&place.inlined_at);
        let helpers = self.marked("of its caller");
        let right = |line: u32| lines.contains(&line) || helpers.contains(&line);
        match &place.source {
            _ if told.any(|source| source.file.ends_with(self.file.name) && right(source.line)) => Ok(()),
            other => Err(format!("the source is said to be {other:?}, not {} {lines:?}:\n{finding}", self.file.name)),
        }
    }
}

/// Launches a kernel on memory of its own making; `shape` is blocks, threads, dynamic shared bytes.
fn run_kernel(
    memory: &Memory,
    machine: &Machine,
    program: &Program,
    kernel: &str,
    params: &[u8],
    shape: [u32; 3],
    settings: &Settings,
) -> Result<Counters, Box<Fault>> {
    let kernel = program.kernel(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
    let globals: Vec<u64> = program
        .globals
        .iter()
        .map(|global| {
            let address = memory.allocate(global.bytes, memory::Kind::Variable(global.name.clone())).unwrap();
            let mut bytes = global.init.clone();
            bytes.resize(global.bytes as usize, 0);
            memory.write(address, &bytes).unwrap();
            address
        })
        .collect();
    let launch = Launch {
        kernel,
        globals: &globals,
        params,
        grid: [shape[0], 1, 1],
        block: [shape[1], 1, 1],
        cluster: [1, 1, 1],
        dynamic_shared_bytes: shape[2],
        cooperative: false,
    };
    exec::launch(memory, machine, settings, &launch)
}

fn load(file: &File) -> Program {
    Program::load(&[file.ptx], Machine::h100().capability).unwrap_or_else(|error| panic!("{}: {error}", file.name))
}

/// Runs the cases of a file with several seeds and lists all that is wrong with them.
fn check(file: &'static File, seeds: u64) {
    let program = load(file);
    let mut wrong = Vec::new();
    for case in CASES.iter().filter(|case| std::ptr::eq(case.file, file)) {
        let seeds = if SLOW.contains(&case.name) { 1 } else { seeds };
        // One report of each kind is enough.
        if let Some((seed, text)) =
            (0..seeds).find_map(|seed| Some((seed, case.judge(case.run(&program, false, seed)).err()?)))
        {
            wrong.push(format!("{} (seed {seed}): {text}", case.name));
        }
        if let Some((seed, fault)) = (0..seeds).find_map(|seed| Some((seed, case.run(&program, true, seed).err()?))) {
            wrong.push(format!("{}, fixed (seed {seed}), is reported:\n{}", case.name, fault.findings[0]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// How many orders of warps and blocks are tried.
const SEEDS: u64 = 25;

#[test]
fn single_accesses() {
    check(&MEMORY, SEEDS);
}

#[test]
fn shared_memory_and_barriers() {
    check(&SHARED, SEEDS);
}

#[test]
fn lanes_and_blocks() {
    check(&WARP, SEEDS);
}

#[test]
fn asynchronous_copies() {
    check(&COPIES, SEEDS);
}

#[test]
fn transaction_barriers() {
    check(&TRANSACTIONS, SEEDS);
}

#[test]
fn asynchronous_reads() {
    check(&HOPPER, SEEDS);
}

#[test]
fn kernels_that_do_not_end_well() {
    check(&STUCK, SEEDS);
}

#[test]
fn bank_conflicts_are_counted() {
    let program = load(&SHARED);
    for (name, threads, elements, faulty, fixed) in [
        // 32 loads, each from one bank: 31 cycles too many.
        ("transposed_in_one_bank", 32, 1024, 32 * 31, 0),
        // Four matrices of eight rows in the same four banks: 7 cycles too many for each.
        ("wrong_swizzle", 32, 256, 4 * 7, 0),
    ] {
        let case = case(name, &SHARED, &[], threads, elements);
        let conflicts = |twin: bool| case.run(&program, twin, 0).unwrap().shared_conflict_cycles;
        assert_eq!((conflicts(false), conflicts(true)), (faulty, fixed), "{name}");
    }
}

#[test]
fn the_library_is_large_enough_and_marked() {
    assert!(CASES.len() >= 40);
    for case in CASES {
        let nowhere = ["never_waited", "store_never_awaited", "endless_recursion", "too_little_asked"];
        assert!(!case.lines().is_empty() || nowhere.contains(&case.name), "{} is not marked", case.name);
    }
}
