//! What the machine gives: the rates that times of ops are read against. A processor is measured; a GPU's rates follow from its clocks.

use std::time::Instant;

use crate::device::Context;
use crate::device::cuda::{Capability, Gpu};
use crate::dtype::DType;
use crate::host::simd::{self, Level};

/// Ceilings of a device.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Ceilings {
    /// GFLOP/s. Of a processor multiplications and additions of f32, fused where the instruction set can, in registers, on all threads; of a GPU the
    /// same for f32, and its tensor cores' for bf16.
    pub gflops: f64,
    /// GB/s. Of a processor copying memory that no cache holds, reads and writes together; of a GPU what its memory moves.
    pub gbytes: f64,
}

/// Rounds per measurement and chunk.
const ROUNDS: usize = 500_000;
/// Numbers that are copied: twice 256 MB, more than caches hold.
const COPIED: usize = 64 << 20;
/// Repeats, of which the fastest counts.
const REPEATS: usize = 10;

/// Independent sums in registers: twelve vectors hide the latency of four on two pipes. The vectoriser would keep them in memory, hence intrinsics.
#[cfg(target_arch = "x86_64")]
mod spins {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    macro_rules! spin {
        ($name:ident, $features:literal, $set:ident, $multiply_add:ident) => {
            #[target_feature(enable = $features)]
            pub fn $name(rounds: usize) {
                let (factor, addend) = ($set(black_box(0.999)), $set(black_box(0.5)));
                let mut sums = [addend; 12];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $multiply_add(*sum, factor, addend);
                    }
                }
                black_box(sums);
            }
        };
    }
    spin!(avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps);
    spin!(avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps);
}

/// Lanes of the portable loop.
const PORTABLE: usize = 32;

/// Multiplications and additions without fusing.
fn portable(rounds: usize) {
    let (factor, addend) = (std::hint::black_box(0.999f32), std::hint::black_box(0.5));
    let mut sums = [addend; PORTABLE];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + addend;
        }
    }
    std::hint::black_box(sums);
}

/// Floating-point operations of one call, after doing them.
fn spin() -> usize {
    let lanes = match simd::level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            // SAFETY: the level says that the machine has it.
            unsafe { spins::avx512(ROUNDS) };
            12 * 16
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            // SAFETY: the level says that the machine has it.
            unsafe { spins::avx2(ROUNDS) };
            12 * 8
        }
        _ => {
            portable(ROUNDS);
            PORTABLE
        }
    };
    2 * lanes * ROUNDS
}

fn fastest(mut f: impl FnMut()) -> f64 {
    f();
    let time = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..REPEATS).map(time).fold(f64::INFINITY, f64::min)
}

impl Ceilings {
    /// Of the context's device, for arithmetic in this storage type. A processor takes about a second to measure.
    pub fn of(cx: &Context, dtype: DType) -> Self {
        match cx.queue() {
            Some(queue) => Self::by_clocks(queue.gpu(), dtype),
            None => Self::measure(cx),
        }
    }

    fn by_clocks(gpu: &Gpu, dtype: DType) -> Self {
        let Capability { major, minor } = gpu.capability();
        // Operations per multiprocessor and cycle (CUDA programming guide, arithmetic instructions; architecture white papers).
        let per_cycle = match (dtype, major, minor) {
            (DType::Bf16, 8, 0) => 2048.0,
            (DType::Bf16, 8, _) => 1024.0,
            (DType::Bf16, ..) => 4096.0,
            (_, 8, 0) => 128.0,
            _ => 256.0,
        };
        let clocks = gpu.clocks();
        let cycles = f64::from(gpu.multiprocessors()) * f64::from(clocks.core_khz) * 1e3;
        let gbytes = 2.0 * f64::from(clocks.memory_khz) * 1e3 * f64::from(clocks.bus_bits) / 8.0 * 1e-9;
        Ceilings { gflops: per_cycle * cycles * 1e-9, gbytes }
    }

    fn measure(cx: &Context) -> Self {
        let threads = cx.pool().threads();
        let seconds = fastest(|| {
            cx.pool().run(threads, |_| {
                spin();
            });
        });
        let gflops = (spin() * threads) as f64 / seconds * 1e-9;
        let from = vec![1f32; COPIED];
        let mut to = vec![0f32; COPIED];
        let seconds = fastest(|| {
            cx.pool().run_parts(&mut to, COPIED / 64, |chunk, to| {
                to.copy_from_slice(&from[chunk * COPIED / 64..][..to.len()])
            });
        });
        let gbytes = (2 * COPIED * size_of::<f32>()) as f64 / seconds * 1e-9;
        Ceilings { gflops, gbytes }
    }
}
