//! Prints the speed of the matrix, convolution and attention kernels on one thread: `cargo bench --bench linalg [-- FILTER]`.

use std::time::Instant;

use deem::dtype::Element;
use deem::memory::{Shape, View, ViewMut};
use deem::ops::attention::{self, Attention};
use deem::ops::conv2d::{self, Conv2d, Pad};
use deem::ops::gemm::{self, Form};
use deem::ops::random::Stream;
use deem::ops::{conv2d_depthwise, cross_attention};
use deem::{Context, Result};

fn numbers<E: Element>(n: usize) -> Vec<E> {
    let s = Stream::new(0, "time");
    (0..n as u64).map(|i| E::from_f64(s.uniform(i) - 0.5)).collect()
}

fn view<E: Element>(data: &[E], shape: impl Into<Shape>) -> View<'_, E> {
    View::new(data, shape)
}

/// What the machine gives at this moment: independent fused multiply-adds in registers, so that other numbers can be read as ratios.
#[cfg(target_arch = "x86_64")]
fn ceiling() {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn spin(n: usize) -> f32 {
        let (x, y) = (_mm512_set1_ps(0.999), _mm512_set1_ps(std::hint::black_box(0.5)));
        let mut sums = [y; 24];
        for _ in 0..n {
            for s in &mut sums {
                *s = _mm512_fmadd_ps(*s, x, y);
            }
        }
        sums.iter().map(|s| _mm512_reduce_add_ps(*s)).sum()
    }
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature is there.
        time("ceiling gemm conv depthwise attention", 2 * 16 * 24 * 100_000, || {
            std::hint::black_box(unsafe { spin(100_000) });
            Ok(())
        });
    }
}

/// Best of repeats over about a quarter of a second.
fn time(name: &str, flops: usize, mut f: impl FnMut() -> Result<()>) {
    if std::env::args().nth(1).is_some_and(|filter| !name.contains(&filter)) {
        return;
    }
    f().expect("the shapes of this program fit");
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_millis() < 250 {
        let one = Instant::now();
        f().expect("as before");
        best = best.min(one.elapsed().as_secs_f64());
    }
    println!("{name:44} {:9.1} us {:8.1} GFLOP/s", best * 1e6, flops as f64 / best * 1e-9);
}

fn gemm<E: Element>(cx: &Context, form: Form, m: usize, n: usize, k: usize) {
    let (a, b, mut c) = (numbers::<E>(m * k), numbers::<E>(n * k), numbers::<E>(m * n));
    let sa = if form == Form::Tn { [k, m] } else { [m, k] };
    let sb = if form == Form::Nt { [n, k] } else { [k, n] };
    time(&format!("gemm {form:?} {m}x{n}x{k} {}", E::DTYPE), 2 * m * n * k, || {
        gemm::forward(cx, form, view(&a, sa), view(&b, sb), ViewMut::new(&mut c, [m, n]), &Default::default())
    });
}

fn conv(cx: &Context, b: usize, h: usize, i: usize, o: usize, k: usize, stride: usize) {
    let conv = Conv2d::new(stride, Pad::same(if k == stride { 0 } else { k / 2 }));
    let (oh, ow) = conv.output_size((h, h), (k, k));
    let flops = 2 * b * oh * ow * i * o * k * k;
    let (mut x, w) = (numbers::<f32>(b * h * h * i), numbers::<f32>(o * k * k * i));
    let (mut y, mut dw) = (numbers::<f32>(b * oh * ow * o), w.clone());
    let (sx, sw, sy) = ([b, h, h, i], [o, k, k, i], [b, oh, ow, o]);
    let name = format!("conv{k}x{k}/{stride} [{b},{h},{h},{i}]->{o}");
    time(&format!("{name} forward"), flops, || {
        conv2d::forward(cx, view(&x, sx), view(&w, sw), ViewMut::new(&mut y, sy), &conv, &Default::default())
    });
    time(&format!("{name} input"), flops, || {
        conv2d::backward_input(cx, view(&y, sy), view(&w, sw), ViewMut::new(&mut x, sx), &conv)
    });
    time(&format!("{name} weight"), flops, || {
        conv2d::backward_weight(cx, view(&y, sy), view(&x, sx), ViewMut::new(&mut dw, sw), &conv)
    });
}

fn depthwise(cx: &Context, b: usize, h: usize, c: usize, k: usize) {
    let flops = 2 * b * h * h * c * k * k;
    let (x, w) = (numbers::<f32>(b * h * h * c), numbers::<f32>(k * k * c));
    let (mut y, mut dw) = (x.clone(), w.clone());
    let (s, sw) = ([b, h, h, c], [k, k, c]);
    let name = format!("depthwise {k}x{k} [{b},{h},{h},{c}]");
    time(&format!("{name} forward"), flops, || {
        conv2d_depthwise::forward(cx, view(&x, s), view(&w, sw), None, ViewMut::new(&mut y, s))
    });
    time(&format!("{name} input"), flops, || {
        conv2d_depthwise::backward_input(cx, view(&x, s), view(&w, sw), ViewMut::new(&mut y, s))
    });
    time(&format!("{name} weight"), flops, || {
        conv2d_depthwise::backward_weight(cx, view(&y, s), view(&x, s), ViewMut::new(&mut dw, sw))
    });
}

fn attend<E: Element>(cx: &Context, b: usize, t: usize, s: usize, n: usize, d: usize, causal: bool) {
    let (q, k, v) = (numbers::<E>(b * t * n * d), numbers::<E>(b * s * n * d), numbers::<E>(b * s * n * d));
    let (mut out, mut lse) = (q.clone(), vec![<E::Acc as Element>::from_f64(0.0); b * n * t]);
    let (sq, sk, sl) = ([b, t, n * d], [b, s, n * d], [b, n, t]);
    let scale = (d as f64).powf(-0.5);
    let causal = causal.then_some(0);
    let spec = Attention { causal, ..Attention::full(n, scale) };
    let flops = 4 * b * t * s * n * d / if causal.is_some() { 2 } else { 1 };
    let name = format!("attention {b}x{t}x{s}x{n}x{d} {}{}", E::DTYPE, if causal.is_some() { " causal" } else { "" });
    time(&format!("{name} forward"), flops, || {
        let (out, lse) = (ViewMut::new(&mut out, sq), ViewMut::new(&mut lse, sl));
        attention::forward(cx, view(&q, sq), view(&k, sk), view(&v, sk), out, lse, &spec)
    });
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    time(&format!("{name} backward"), flops * 5 / 2, || {
        let d_out = view(&q, sq);
        let (dq, dk, dv) = (ViewMut::new(&mut dq, sq), ViewMut::new(&mut dk, sk), ViewMut::new(&mut dv, sk));
        attention::backward(
            cx,
            view(&q, sq),
            view(&k, sk),
            view(&v, sk),
            view(&out, sq),
            view(&lse, sl),
            d_out,
            dq,
            dk,
            dv,
            &spec,
        )
    });
    if causal.is_none() {
        let spec = cross_attention::CrossAttention { heads: n, scale };
        time(&format!("cross {name} forward"), flops, || {
            let (out, lse) = (ViewMut::new(&mut out, sq), ViewMut::new(&mut lse, sl));
            cross_attention::forward(cx, view(&q, sq), view(&k, sk), view(&v, sk), out, lse, &spec)
        });
    }
}

fn main() {
    let threads = std::env::var("DEEM_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let cx = Context::host(threads);
    #[cfg(target_arch = "x86_64")]
    ceiling();
    println!("{threads} thread(s), {:?}", deem::host::simd::level());
    for (form, m, n, k) in [
        (Form::Nt, 1024, 1024, 1024),
        (Form::Nt, 8192, 64, 64),
        (Form::Nt, 2048, 256, 64),
        (Form::Nt, 64, 512, 128),
        (Form::Nt, 1, 512, 512),
        (Form::Nt, 4, 512, 512),
        (Form::Nt, 64, 64, 16),
        (Form::Nn, 1024, 1024, 1024),
        (Form::Nn, 8192, 64, 64),
        (Form::Nn, 2048, 64, 256),
        (Form::Tn, 64, 64, 8192),
        (Form::Tn, 256, 64, 2048),
        (Form::Tn, 1024, 1024, 1024),
    ] {
        gemm::<f32>(&cx, form, m, n, k);
    }
    gemm::<half::bf16>(&cx, Form::Nt, 1024, 1024, 1024);
    gemm::<half::bf16>(&cx, Form::Nt, 2048, 256, 64);
    gemm::<f64>(&cx, Form::Nt, 512, 512, 512);
    conv(&cx, 32, 16, 64, 64, 3, 1);
    conv(&cx, 8, 32, 32, 32, 3, 2);
    conv(&cx, 8, 64, 4, 16, 3, 1);
    conv(&cx, 32, 64, 3, 32, 4, 4);
    conv(&cx, 32, 16, 64, 64, 1, 1);
    depthwise(&cx, 32, 32, 64, 7);
    depthwise(&cx, 32, 16, 40, 7);
    attend::<f32>(&cx, 32, 64, 64, 4, 32, false);
    attend::<f32>(&cx, 32, 64, 64, 4, 32, true);
    attend::<f32>(&cx, 4, 1024, 77, 4, 40, false);
    attend::<f32>(&cx, 1, 2048, 2048, 4, 64, false);
    attend::<f32>(&cx, 1, 2048, 2048, 4, 64, true);
    attend::<f32>(&cx, 8, 1, 512, 8, 64, false);
    attend::<half::bf16>(&cx, 1, 2048, 2048, 4, 64, false);
}
