//! Each function of the C interface does what its Rust function does, to the bit, in every storage type that it takes.

use std::ptr::{null, null_mut};

use deem::Context;
use deem::dtype::{Element, Real};
use deem::ffi::*;
use deem::memory::{View, ViewMut};
use deem::ops::activation::Activation;
use deem::ops::attention::{self, Attention};
use deem::ops::cross_attention::{self, CrossAttention};
use deem::ops::deform_attention::{self, Mmfs, MmfsGradients, MmfsInputs};
use deem::ops::diffusion::{self, Prediction, Sampler, Schedule};
use deem::ops::dropout::Dropout;
use deem::ops::gemm::{self, Epilogue, Form};
use deem::ops::{Accumulate, groupnorm, layernorm, rmsnorm};
use half::{bf16, f16};

use crate::support::{normals, round};
use crate::{Ctx, message, t};

fn x<E: Element>(name: &str, n: usize) -> Vec<E> {
    round(&normals(name, n))
}

fn empty<E: Element>(n: usize) -> Vec<E> {
    vec![E::from_f64(f64::NAN); n]
}

fn acc<E: Element>(n: usize, value: f64) -> Vec<E::Acc> {
    vec![E::Acc::of(value); n]
}

fn v<'a, E>(data: &'a [E], shape: &[usize]) -> View<'a, E> {
    View::new(data, deem::memory::Shape::new(shape))
}

fn vm<'a, E>(data: &'a mut [E], shape: &[usize]) -> ViewMut<'a, E> {
    ViewMut::new(data, deem::memory::Shape::new(shape))
}

fn ok(status: i32) {
    assert_eq!(status, 0, "{}", message());
}

/// Calls `$f::<E>` for every storage type.
macro_rules! every_type {
    ($f:ident) => {{
        $f::<f32>();
        $f::<bf16>();
        $f::<f64>();
    }};
}

#[test]
fn products() {
    every_type!(gemm_of);
}

fn gemm_of<E: Element>() {
    let (cx, c_cx) = (Context::host(2), Ctx::new());
    let (m, n, k) = (5, 7, 9);
    let (mut a, mut b, mut bias, mut scale) =
        (x::<E>("a", m * k), x::<E>("b", n * k), x::<E>("bias", n), x::<E>("s", n));
    let mut residual = x::<E>("r", m * n);
    let (mut c, mut exact) = (empty::<E>(m * n), empty::<E>(m * n));
    let epilogue = Epilogue {
        bias: Some(v(&bias, &[n])),
        activation: Activation::Gelu,
        scale: Some(v(&scale, &[n])),
        residual: Some(v(&residual, &[m, n])),
        accumulate: Accumulate::Overwrite,
    };
    gemm::forward(&cx, Form::Nt, v(&a, &[m, k]), v(&b, &[n, k]), vm(&mut exact, &[m, n]), &epilogue).unwrap();
    let (tbias, tscale, tres) = (t(&mut bias, &[n]), t(&mut scale, &[n]), t(&mut residual, &[m, n]));
    let options = deem_gemm_options {
        form: 0,
        activation: 2,
        accumulate: 0,
        batched: 0,
        bias: &tbias,
        scale: &tscale,
        residual: &tres,
    };
    let (ta, tb, tc) = (t(&mut a, &[m, k]), t(&mut b, &[n, k]), t(&mut c, &[m, n]));
    // SAFETY: here and below, tensors over live slices that do not overlap.
    ok(unsafe { deem_gemm(c_cx.0, &ta, &tb, &tc, &options) });
    assert!(c == exact);
    // No options: a linear layer. Weight gradients: into acc, added.
    ok(unsafe { deem_gemm(c_cx.0, &ta, &tb, &tc, null()) });
    gemm::forward(&cx, Form::Nt, v(&a, &[m, k]), v(&b, &[n, k]), vm(&mut exact, &[m, n]), &Default::default()).unwrap();
    assert!(c == exact);
    let (mut dw, mut dw_exact) = (acc::<E>(k * k, 1.0), acc::<E>(k * k, 1.0));
    let add = Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() };
    gemm::forward(&cx, Form::Tn, v(&a, &[m, k]), v(&a, &[m, k]), vm(&mut dw_exact, &[k, k]), &add).unwrap();
    let zeros = deem_gemm_options { bias: null(), scale: null(), residual: null(), activation: 0, ..options };
    let add = deem_gemm_options { form: 2, accumulate: 1, ..zeros };
    ok(unsafe { deem_gemm(c_cx.0, &ta, &ta, &t(&mut dw, &[k, k]), &add) });
    assert!(dw == dw_exact);
    // Batched, not transposed.
    let (mut p, mut q) = (x::<E>("p", 2 * 3 * 4), x::<E>("q", 2 * 4 * 5));
    let (mut y, mut y_exact) = (empty::<E>(2 * 3 * 5), empty::<E>(2 * 3 * 5));
    let views = (v(&p, &[2, 3, 4]), v(&q, &[2, 4, 5]));
    gemm::batched(&cx, Form::Nn, views.0, views.1, vm(&mut y_exact, &[2, 3, 5]), &Default::default()).unwrap();
    let batched = deem_gemm_options { form: 1, batched: 1, ..zeros };
    let (tp, tq, ty) = (t(&mut p, &[2, 3, 4]), t(&mut q, &[2, 4, 5]), t(&mut y, &[2, 3, 5]));
    ok(unsafe { deem_gemm(c_cx.0, &tp, &tq, &ty, &batched) });
    assert!(y == y_exact);
}

/// What an attention is given: queries, keys, values, the gradient of the output.
struct Given<'a, E> {
    q: View<'a, E>,
    k: View<'a, E>,
    v: View<'a, E>,
    d_out: View<'a, E>,
}

/// What it makes: the output and lse, which the backward reads, and the gradients of queries, keys and values.
struct Made<'a, E: Element> {
    out: ViewMut<'a, E>,
    lse: ViewMut<'a, E::Acc>,
    gradients: [ViewMut<'a, E>; 3],
}

/// The same as tensors of the C interface.
struct Tensors {
    context: *mut deem_context,
    given: [deem_tensor; 4],
    out: deem_tensor,
    lse: deem_tensor,
    gradients: [deem_tensor; 3],
}

/// Runs the forward and the backward of an attention through both interfaces, on the same numbers: the same bits come out. Shapes are those of queries, of
/// keys and values, and of lse.
fn same_attention<E: Element>(
    shapes: [[usize; 3]; 3],
    rust: impl FnOnce(&Context, Given<'_, E>, Made<'_, E>) -> deem::Result<()>,
    c: impl FnOnce(&Tensors),
) {
    let [sq, sk, sl] = shapes;
    let [nq, nk, nl] = shapes.map(|shape| shape.iter().product::<usize>());
    let mut given = [x::<E>("q", nq), x::<E>("k", nk), x::<E>("v", nk), x::<E>("d", nq)];
    let made = || (empty::<E>(nq), acc::<E>(nl, f64::NAN), [empty::<E>(nq), empty::<E>(nk), empty::<E>(nk)]);
    let (mut exact, mut found) = (made(), made());
    {
        let [q, k, val, d_out] = &given;
        let views = Given { q: v(q, &sq), k: v(k, &sk), v: v(val, &sk), d_out: v(d_out, &sq) };
        let (out, lse, [dq, dk, dv]) = &mut exact;
        let gradients = [vm(dq, &sq), vm(dk, &sk), vm(dv, &sk)];
        rust(&Context::host(2), views, Made { out: vm(out, &sq), lse: vm(lse, &sl), gradients }).unwrap();
    }
    let context = Ctx::new();
    let [q, k, val, d_out] = &mut given;
    let (out, lse, [dq, dk, dv]) = &mut found;
    c(&Tensors {
        context: context.0,
        given: [t(q, &sq), t(k, &sk), t(val, &sk), t(d_out, &sq)],
        out: t(out, &sq),
        lse: t(lse, &sl),
        gradients: [t(dq, &sq), t(dk, &sk), t(dv, &sk)],
    });
    assert!(found == exact);
}

#[test]
fn attentions() {
    every_type!(attention_of);
    attention_of::<f16>();
}

fn attention_of<E: Element>() {
    let (b, tq, s, capacity, n, kv, d) = (2, 4, 5, 6, 4, 2, 3);
    let keys: Vec<u8> = (0..b * s).map(|i| u8::from(i % 4 != 1)).collect();
    let first: Vec<u32> = (0..b * tq).map(|i| u32::from(i % tq > 2)).collect();
    let spec = Attention {
        heads: n,
        kv_heads: kv,
        scale: 0.4,
        causal: Some(1),
        keys: Some(&keys),
        key_count: Some(s),
        first: Some(&first),
        dropout: Dropout::new(9, "attention", 0.25).unwrap(),
    };
    let options = deem_attention_options {
        heads: n as i32,
        kv_heads: kv as i32,
        scale: 0.4,
        causal: 1,
        reserved: 0,
        causal_offset: 1,
        key_count: s as i64,
        keys: keys.as_ptr(),
        first: first.as_ptr(),
        dropout: 0.25,
        dropout_seed: 9,
    };
    same_attention::<E>(
        [[b, tq, n * d], [b, capacity, kv * d], [b, n, tq]],
        |cx, Given { q, k, v, d_out }, Made { mut out, mut lse, gradients: [dq, dk, dv] }| {
            attention::forward(cx, q, k, v, out.reborrow(), lse.reborrow(), &spec)?;
            attention::backward(cx, q, k, v, out.as_view(), lse.as_view(), d_out, dq, dk, dv, &spec)
        },
        |Tensors { context, given: [q, k, v, d_out], out, lse, gradients: [dq, dk, dv] }| {
            // SAFETY: as above.
            unsafe {
                ok(deem_attention_forward(*context, q, k, v, out, lse, &options));
                ok(deem_attention_backward(*context, q, k, v, out, lse, d_out, dq, dk, dv, &options));
            }
        },
    );
}

#[test]
fn short_attentions() {
    every_type!(cross_attention_of);
    cross_attention_of::<f16>();
}

fn cross_attention_of<E: Element>() {
    let (b, tq, s, n, d) = (2, 6, 3, 2, 4);
    let spec = CrossAttention { heads: n, scale: 0.5 };
    same_attention::<E>(
        [[b, tq, n * d], [b, s, n * d], [b, n, tq]],
        |cx, Given { q, k, v, d_out }, Made { mut out, mut lse, gradients: [dq, dk, dv] }| {
            cross_attention::forward(cx, q, k, v, out.reborrow(), lse.reborrow(), &spec)?;
            cross_attention::backward(cx, q, k, v, out.as_view(), lse.as_view(), d_out, dq, dk, dv, &spec)
        },
        |Tensors { context, given: [q, k, v, d_out], out, lse, gradients: [dq, dk, dv] }| {
            // A scale of 0 is 1 / sqrt(D), here 0.5.
            // SAFETY: as above.
            unsafe {
                ok(deem_cross_attention_forward(*context, q, k, v, out, lse, 2, 0.0));
                ok(deem_cross_attention_backward(*context, q, k, v, out, lse, d_out, dq, dk, dv, 2, 0.0));
            }
        },
    );
}

#[test]
fn norms() {
    every_type!(norms_of);
}

fn norms_of<E: Element>() {
    let (cx, c_cx) = (Context::host(2), Ctx::new());
    let (r, c, g) = (6, 8, 2);
    let s = [2, 3, c];
    let (mut a, mut w, mut bias, mut dy) = (x::<E>("x", r * c), x::<E>("w", c), x::<E>("b", c), x::<E>("dy", r * c));
    let (vx, vw, vb, vd) = (v(&a, &s), v(&w, &[c]), v(&bias, &[c]), v(&dy, &s));
    let outputs = || (empty::<E>(r * c), empty::<E>(r * c), acc::<E>(c, 1.0), acc::<E>(c, 2.0));
    let mut exact = [outputs(), outputs(), outputs()];
    let (mut layer, mut root, mut group) = (acc::<E>(r * 2, 0.0), acc::<E>(r, 0.0), acc::<E>(2 * g * 2, 0.0));
    {
        let [l, m, n] = &mut exact;
        layernorm::forward(&cx, vx, Some(vw), Some(vb), vm(&mut l.0, &s), vm(&mut layer, &[r, 2]), 1e-6).unwrap();
        let (dw, db) = (Some(vm(&mut l.2, &[c])), Some(vm(&mut l.3, &[c])));
        layernorm::backward(&cx, vx, Some(vw), v(&layer, &[r, 2]), vd, None, vm(&mut l.1, &s), dw, db).unwrap();
        rmsnorm::forward(&cx, vx, vw, vm(&mut m.0, &s), vm(&mut root, &[r]), 1e-5).unwrap();
        rmsnorm::backward(&cx, vx, vw, v(&root, &[r]), vd, None, vm(&mut m.1, &s), Some(vm(&mut m.2, &[c]))).unwrap();
        let sg = [2, g, 2];
        groupnorm::forward(&cx, vx, vw, vb, vm(&mut n.0, &s), vm(&mut group, &sg), g, 1e-5, true).unwrap();
        let (dw, db) = (Some(vm(&mut n.2, &[c])), Some(vm(&mut n.3, &[c])));
        groupnorm::backward(&cx, vx, vw, vb, v(&group, &sg), vd, None, vm(&mut n.1, &s), dw, db, g, true).unwrap();
    }
    let mut found = [outputs(), outputs(), outputs()];
    let (mut layer, mut root, mut group) = (acc::<E>(r * 2, 0.0), acc::<E>(r, 0.0), acc::<E>(2 * g * 2, 0.0));
    let (x_, w_, b_, dy_) = (t(&mut a, &s), t(&mut w, &[c]), t(&mut bias, &[c]), t(&mut dy, &s));
    let (sl, sr, sg) = (t(&mut layer, &[r, 2]), t(&mut root, &[r]), t(&mut group, &[2, g, 2]));
    let tensors = found.each_mut().map(|f| (t(&mut f.0, &s), t(&mut f.1, &s), t(&mut f.2, &[c]), t(&mut f.3, &[c])));
    let [l, m, n] = &tensors;
    // SAFETY: as above.
    unsafe {
        ok(deem_layernorm_forward(c_cx.0, &x_, &w_, &b_, &l.0, &sl, 1e-6));
        ok(deem_layernorm_backward(c_cx.0, &x_, &w_, &sl, &dy_, &l.1, &l.2, &l.3));
        ok(deem_rmsnorm_forward(c_cx.0, &x_, &w_, &m.0, &sr, 1e-5));
        ok(deem_rmsnorm_backward(c_cx.0, &x_, &w_, &sr, &dy_, &m.1, &m.2));
        ok(deem_groupnorm_forward(c_cx.0, &x_, &w_, &b_, &n.0, &sg, g as i32, 1e-5, 1));
        ok(deem_groupnorm_backward(c_cx.0, &x_, &w_, &b_, &sg, &dy_, &n.1, &n.2, &n.3, g as i32, 1));
    }
    assert!(found == exact);
}

#[test]
fn deformable_attention() {
    every_type!(mmfs_of);
}

fn mmfs_of<E: Element>() {
    let (cx, c_cx) = (Context::host(2), Ctx::new());
    let (b, q, i, n, p, l, d, rows) = (2, 3, 2, 2, 2, 2, 3, 3);
    let (levels, sizes, ratios) = ([(3, 2), (2, 1)], [3i64, 2, 2, 1], [1.0, 0.5]);
    let relative: Vec<i32> = (0..b * q * i).map(|k| [1, 2, 0, 1][k % 4]).collect();
    let reference: Vec<f64> = (0..2 * q).map(|k| 0.1 + 0.15 * k as f64).collect();
    let shapes: [Vec<usize>; 6] = [
        vec![b, i * 8, n * d],
        vec![b, q, n * p * 2],
        vec![b, q, n * l * (p + 1)],
        vec![rows, n * p * 2],
        vec![rows, n * l * (p + 1)],
        vec![n * d],
    ];
    let mut data: Vec<Vec<E>> = shapes.iter().map(|s| x(&format!("{s:?}"), s.iter().product())).collect();
    let out_shape = [b, q, n * d];
    let mut d_out = x::<E>("d_out", b * q * n * d);
    let spec = Mmfs {
        heads: n,
        points: p,
        levels: &levels,
        ratios: &ratios,
        relative: &relative,
        pictures: None,
        reference: &reference,
    };
    let mut exact_out = empty::<E>(b * q * n * d);
    let mut exact: Vec<Vec<E>> = shapes[..5].iter().map(|s| empty(s.iter().product())).collect();
    let mut exact_ignore = acc::<E>(n * d, 0.5);
    {
        let [value, offsets, logits, offset_table, logit_table, ignore_token] =
            std::array::from_fn(|k| v(&data[k], &shapes[k]));
        let inputs = MmfsInputs { value, offsets, logits, offset_table, logit_table, ignore_token };
        deform_attention::mmfs_forward(&cx, inputs, vm(&mut exact_out, &out_shape), &spec).unwrap();
        let mut views = exact.iter_mut().zip(&shapes).map(|(x, s)| vm(x, s));
        let mut next = || views.next().unwrap();
        let gradients = MmfsGradients {
            value: next(),
            offsets: next(),
            logits: next(),
            offset_table: next(),
            logit_table: next(),
            ignore_token: Some(vm(&mut exact_ignore, &shapes[5])),
        };
        deform_attention::mmfs_backward(&cx, inputs, v(&d_out, &out_shape), gradients, &spec).unwrap();
    }
    let options = deem_mmfs_options {
        heads: n as i32,
        points: p as i32,
        levels: l as i32,
        images: i as i32,
        sizes: sizes.as_ptr(),
        ratios: ratios.as_ptr(),
        relative: relative.as_ptr(),
        reference: reference.as_ptr(),
    };
    let read: Vec<deem_tensor> = data.iter_mut().zip(&shapes).map(|(x, s)| t(x, s)).collect();
    let of = |x: &[deem_tensor]| deem_mmfs_inputs {
        value: &x[0],
        offsets: &x[1],
        logits: &x[2],
        offset_table: &x[3],
        logit_table: &x[4],
        ignore_token: &x[5],
    };
    let mut out = empty::<E>(b * q * n * d);
    let mut found: Vec<Vec<E>> = shapes[..5].iter().map(|s| empty(s.iter().product())).collect();
    let mut ignore = acc::<E>(n * d, 0.5);
    let mut written: Vec<deem_tensor> = found.iter_mut().zip(&shapes).map(|(x, s)| t(x, s)).collect();
    written.push(t(&mut ignore, &shapes[5]));
    let (o_, d_) = (t(&mut out, &out_shape), t(&mut d_out, &out_shape));
    // SAFETY: as above.
    unsafe {
        ok(deem_mmfs_forward(c_cx.0, &of(&read), &o_, &options));
        ok(deem_mmfs_backward(c_cx.0, &of(&read), &d_, &of(&written), &options));
    }
    assert!(out == exact_out && found == exact && ignore == exact_ignore);
}

#[test]
fn denoising() {
    every_type!(denoise_of);
}

fn denoise_of<E: Element>() {
    let (cx, c_cx) = (Context::host(2), Ctx::new());
    let (s, n) = ([2, 3, 3, 2], 36);
    for (kind, sampler, prediction) in
        [(1, Sampler::Ddpm, Prediction::V), (2, Sampler::Ddim, Prediction::Epsilon), (0, Sampler::Dpmpp, Prediction::V)]
    {
        let plan = Schedule::scaled_linear(1000, 0.00085, 0.012, prediction, 1).plan(sampler, 4).unwrap();
        let options = deem_sampler_options {
            kind,
            prediction: i32::from(prediction == Prediction::V),
            steps: 4,
            train_steps: 0,
            beta_start: 0.0,
            beta_end: 0.0,
            no_offset: 0,
            reserved: 0,
        };
        let mut handle = null_mut();
        // SAFETY: a place for a pointer.
        ok(unsafe { deem_sampler_create(&options, &mut handle) });
        let (mut exact, mut exact0) = (x::<E>("latents", n), empty::<E>(n));
        let (mut found, mut found0) = (exact.clone(), exact0.clone());
        for (i, step) in plan.iter().enumerate() {
            // SAFETY: the sampler lives.
            assert_eq!(unsafe { deem_sampler_timestep(handle, i as i32) }, step.timestep as i64);
            let (mut both, mut noise) = (x::<E>(&format!("p{i}"), 2 * n), x::<E>(&format!("n{i}"), n));
            let views = (v(&both, &[4, 3, 3, 2]), v(&noise, &s));
            let (now, past) = (vm(&mut exact, &s), vm(&mut exact0, &s));
            diffusion::step_forward(&cx, step, views.0, Some(1.5), Some(views.1), now, past).unwrap();
            let (p_, n_) = (t(&mut both, &[4, 3, 3, 2]), t(&mut noise, &s));
            let (x_, x0) = (t(&mut found, &s), t(&mut found0, &s));
            // SAFETY: as above.
            ok(unsafe { deem_denoise_step(c_cx.0, handle, i as i32, &p_, 1.5, &n_, &x_, &x0) });
            assert!(found == exact && found0 == exact0, "{sampler:?} step {i}");
        }
        // SAFETY: no such step; freed once.
        unsafe {
            assert_eq!(deem_sampler_timestep(handle, 4), -1);
            deem_sampler_destroy(handle);
        }
    }
}
