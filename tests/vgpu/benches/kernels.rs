//! How fast whole kernels run: `cargo bench -p vgpu --bench kernels`. Each with checks off and on, on one thread and on two; medians of several launches.
//! Words behind `--` choose: `-- attention "checks on"` runs the lines that hold all of them.
//!
//! * a reduction that nvcc compiled: warp instructions per second;
//! * the flash attention forward that Triton compiled (one head, S = 4096, D = 64, bf16): operations of `mma` per second;
//! * loading that module, per 100 kB of text.

use std::time::Instant;

use cuda::checks::Checks;
use cuda::exec::{self, Counters, Launch, Settings};
use cuda::machine::Machine;
use cuda::memory::{Kind, Memory};
use cuda::program::{Kernel, Program};

const REDUCTION: &str = include_str!("../tests/exec/kernels/small.ptx");
const ATTENTION: &str = include_str!("../tests/corpus/triton/attention_bf16.sm_80.ptx");

/// Median seconds of `count` runs, and what the last one gave.
fn median<T>(count: usize, mut run: impl FnMut() -> T) -> (f64, T) {
    let mut last = run();
    let mut seconds: Vec<f64> = (0..count)
        .map(|_| {
            let begin = Instant::now();
            last = run();
            begin.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[count / 2], last)
}

/// A kernel with its parameters, ready to be launched.
struct Case<'a> {
    memory: &'a Memory,
    kernel: &'a Kernel,
    params: Vec<u8>,
    grid: [u32; 3],
    block: u32,
    shared: u32,
}

impl Case<'_> {
    fn run(&self, checks: Checks, threads: usize) -> (f64, Counters) {
        let launch = Launch {
            kernel: self.kernel,
            globals: &[],
            params: &self.params,
            grid: self.grid,
            block: [self.block, 1, 1],
            cluster: [1; 3],
            dynamic_shared_bytes: self.shared,
            cooperative: false,
        };
        let settings = Settings { checks, seed: 1, threads };
        median(9, || match exec::launch(self.memory, &Machine::a100(), &settings, &launch) {
            Ok(counters) => counters,
            Err(fault) => panic!("{}", fault.findings[0]),
        })
    }
}

/// The parameter buffer of values in order.
fn pack(kernel: &Kernel, values: &[u64]) -> Vec<u8> {
    let mut params = vec![0; kernel.param_bytes as usize];
    for (param, value) in kernel.params.iter().zip(values) {
        params[param.offset as usize..][..param.size as usize]
            .copy_from_slice(&value.to_le_bytes()[..param.size as usize]);
    }
    params
}

fn main() {
    let memory = Memory::new(1 << 30).expect("memory");
    let capability = Machine::a100().capability;
    let fill = |bytes: usize, byte: u8| {
        let address = memory.allocate(bytes as u64, Kind::Device).expect("room");
        memory.write(address, &vec![byte; bytes]).expect("inside");
        address
    };
    let (seconds, attention) = median(5, || Program::load(&[ATTENTION], capability).expect("loads"));
    println!("load: {:.2} ms per 100 kB", seconds * 1e3 * 1e5 / ATTENTION.len() as f64);

    let program = Program::load(&[REDUCTION], capability).expect("loads");
    let kernel = program.kernel("reduce_sum").expect("there");
    let count = 1u64 << 22;
    let (x, sum) = (fill(count as usize * 4, 0), fill(4, 0));
    let params = pack(kernel, &[x, sum, count]);
    let reduction = Case { memory: &memory, kernel, params, grid: [64, 1, 1], block: 256, shared: 0 };

    let kernel = attention.kernel("attention").expect("there");
    let rows = 4096u64;
    let [q, k, v, out] = [0x3c, 0x3c, 0x3c, 0].map(|byte| fill(rows as usize * 64 * 2, byte));
    let sums = fill(rows as usize * 4, 0);
    let scale = u64::from(0.125f32.to_bits());
    let params = pack(kernel, &[q, k, v, out, sums, rows, rows, scale, 0, 0]);
    let attention = Case { memory: &memory, kernel, params, grid: [32, 1, 1], block: 256, shared: 49152 };

    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for (name, case) in [("reduction", &reduction), ("attention", &attention)] {
        for (checks, text) in [(Checks::off(), "off"), (Checks::usual(), "on")] {
            for threads in [1, 2] {
                let title = format!("{name}: checks {text}, {threads} threads");
                if !words.iter().all(|word| title.contains(word.as_str())) {
                    continue;
                }
                let (seconds, counters) = case.run(checks, threads);
                let instructions = counters.warp_instructions() as f64;
                let flop: u64 = counters.tensor_flop.iter().sum();
                println!(
                    "{title}: {:.1} ms, {:.0} M warp instructions/s, {:.1} GFLOP/s",
                    seconds * 1e3,
                    instructions / seconds * 1e-6,
                    flop as f64 / seconds * 1e-9
                );
            }
        }
    }
}
