//! Every op of `deem bench` under criterion, in f32 and bf16, on all processors and on the GPU if there is one: `cargo bench --bench ops [-- FILTER]`.

use std::time::Duration;

use criterion::{Criterion, SamplingMode};
use deem::bench::cases::{Case, cases};
use deem::bench::is_virtual;
use deem::device::cuda::Event;
use deem::dtype::Element;
use deem::{Context, Result};

/// Device time of `iterations` calls.
fn on_the_device(cx: &Context, iterations: u64, run: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
    let Some(queue) = cx.queue() else { return Ok(Duration::ZERO) };
    let start = Event::record(queue)?;
    for _ in 0..iterations {
        run()?;
    }
    Ok(Duration::from_secs_f64(Event::record(queue)?.milliseconds_since(&start)? * 1e-3))
}

fn all<E: Element>(criterion: &mut Criterion, cx: &Context) {
    for Case { op, shape, make } in cases::<E>(cx) {
        // The host's names are without it: earlier measurements stay comparable.
        let device = if cx.is_cuda() { " cuda" } else { "" };
        let mut group = criterion.benchmark_group(op);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        // Made when it is its turn: a filter leaves the others out.
        let (mut make, mut call) = (Some(make), None);
        group.bench_function(format!("{shape} {}{device}", E::DTYPE), |bencher| {
            if let Some(make) = make.take() {
                call = Some(make().expect("the sizes of the list fit"));
            }
            let Some(call) = &mut call else { return };
            if cx.is_cuda() {
                bencher.iter_custom(|n| on_the_device(cx, n, &mut call.run).expect("the sizes of the list fit"));
            } else {
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
    all::<half::bf16>(&mut criterion, &cx);
    match "cuda".parse().and_then(|device| Context::new(device, 0)) {
        Err(reason) => println!("cuda: NOT timed: {reason}"),
        Ok(cx) if is_virtual(&cx) => {
            println!(
                "cuda: NOT timed: the virtual GPU has no time of its own; `deem bench --device cuda` prints what it counts and models"
            );
        }
        Ok(cx) => {
            all::<f32>(&mut criterion, &cx);
            all::<half::bf16>(&mut criterion, &cx);
        }
    }
    criterion.final_summary();
}
