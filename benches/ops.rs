//! Every op of `deem bench` under criterion, in f32 and bf16, on all processors: `cargo bench --bench ops [-- FILTER]`.

use criterion::{Criterion, SamplingMode};
use deem::Context;
use deem::bench::cases::{Case, cases};
use deem::dtype::Element;
use half::bf16;

fn all<E: Element>(criterion: &mut Criterion, cx: &Context) {
    for Case { op, shape, make } in cases::<E>(cx) {
        let mut group = criterion.benchmark_group(op);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        // Made when it is its turn: a filter leaves the others out.
        let (mut make, mut call) = (Some(make), None);
        group.bench_function(format!("{shape} {}", E::DTYPE), |bencher| {
            if let Some(make) = make.take() {
                call = Some(make().expect("the sizes of the list fit"));
            }
            if let Some(call) = &mut call {
                bencher.iter(|| (call.run)().expect("the sizes of the list fit"));
            }
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let cx = Context::host(0);
    all::<f32>(&mut criterion, &cx);
    all::<bf16>(&mut criterion, &cx);
    criterion.final_summary();
}
