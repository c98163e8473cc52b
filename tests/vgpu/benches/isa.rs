//! How fast the semantics run: `cargo bench -p vgpu --bench isa`. One line per case, the median and the best of many
//! repetitions, on one core.

use std::hint::black_box;
use std::time::Instant;

use cuda::isa::matrix::wgmma::{self, Major, Operand, SourceA, Wgmma};
use cuda::isa::matrix::{self, Element, Level, Mma, Sum};
use cuda::isa::{Lanes, WARP};

/// Seconds per call of `work`: median and best of 31 batches of so many.
fn time(batch: u32, mut work: impl FnMut()) -> (f64, f64) {
    let mut seconds: Vec<f64> = (0..31)
        .map(|_| {
            let start = Instant::now();
            (0..batch).for_each(|_| work());
            start.elapsed().as_secs_f64() / batch as f64
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[seconds.len() / 2], seconds[0])
}

fn mma(name: &str, element: Element, depth: u32, sum: Sum) {
    let shape = Mma { rows: 16, columns: 8, depth, a: element, b: element, c: sum, d: sum, saturate: false };
    let registers = shape.registers();
    // Small numbers in every format.
    let operand = |count: usize| vec![[0x3030_3030u32 & 0x3fff_3fff; WARP]; count];
    let (a, b) = (operand(registers.a), operand(registers.b));
    let mut d: Vec<Lanes> = vec![[0; WARP]; registers.d];
    let c = d.clone();
    let (a, b): (Vec<&Lanes>, Vec<&Lanes>) = (a.iter().collect(), b.iter().collect());
    for level in [Level::Avx512, Level::Avx2, Level::Portable] {
        if level > Level::best() {
            continue;
        }
        let (median, best) = time(2000, || {
            let c: [&Lanes; 4] = std::array::from_fn(|register| &c[register % c.len()]);
            matrix::mma_at(level, &shape, &mut d, black_box(&a), black_box(&b), &c[..registers.c]);
        });
        let rate = |seconds: f64| shape.operations() as f64 / seconds * 1e-9;
        println!("mma {name:<18} {level:<10?} {:>8.1} GOP/s median {:>8.1} best", rate(median), rate(best));
    }
}

/// `wgmma` of m64n128 with both operands in shared memory, K-major.
fn wgmma(name: &str, element: Element) {
    let operand = |extent: u32| Operand { element, major: Major::K, extent, depth_bytes: 32 };
    let shape = Wgmma {
        a: operand(64),
        b: operand(128),
        d: Sum::F32,
        negate_a: false,
        negate_b: false,
        saturate: false,
        sparse: false,
    };
    let (a, b) = (vec![[0x30; 16]; 128], vec![[0x30; 16]; 256]);
    let mut d = vec![vec![[0; WARP]; shape.registers()]; 4];
    let (median, best) = time(100, || {
        let [d0, d1, d2, d3] = &mut d[..] else { unreachable!() };
        wgmma::wgmma(&shape, [d0, d1, d2, d3], SourceA::Shared(black_box(&a)), black_box(&b), true);
    });
    let rate = |seconds: f64| shape.operations() as f64 / seconds * 1e-9;
    println!("wgmma {name:<27} {:>8.1} GOP/s median {:>8.1} best", rate(median), rate(best));
}

fn main() {
    mma("m16n8k16 bf16", Element::Bf16, 16, Sum::F32);
    mma("m16n8k16 f16", Element::F16, 16, Sum::F32);
    mma("m16n8k16 f16 -> f16", Element::F16, 16, Sum::F16);
    mma("m16n8k8 tf32", Element::Tf32, 8, Sum::F32);
    mma("m16n8k32 e4m3", Element::E4m3, 32, Sum::F32);
    mma("m16n8k32 s8", Element::S8, 32, Sum::S32);
    wgmma("m64n128k16 bf16", Element::Bf16);
    wgmma("m64n128k32 e4m3", Element::E4m3);
}
