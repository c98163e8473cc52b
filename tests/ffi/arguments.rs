//! Wrong arguments: a status, a message that names the argument, and nothing written.

use std::ffi::c_char;
use std::ptr::{null, null_mut};

use deem::ffi::*;

use crate::{Ctx, message, t};

const ARGUMENT: i32 = 1;
const SHAPE: i32 = 2;

fn failed(status: i32, expected: i32, parts: &[&str]) {
    let message = message();
    assert_eq!(status, expected, "{message}");
    assert!(parts.iter().all(|part| message.contains(part)), "`{message}` does not name {parts:?}");
}

#[test]
fn tensors() {
    let cx = Ctx::new();
    let (mut a, mut b, mut c) = ([1f32; 6], [1f32; 6], [7f32; 4]);
    let good = [t(&mut a, &[2, 3]), t(&mut b, &[2, 3]), t(&mut c, &[2, 2])];
    let run = |[a, b, c]: [deem_tensor; 3]| {
        // SAFETY: tensors over live slices, or wrong in a way that is checked.
        unsafe { deem_gemm(cx.0, &a, &b, &c, null()) }
    };
    type Change = fn(&mut [deem_tensor; 3]);
    let wrong: [(Change, i32, &[&str]); 13] = [
        (|x| x[0].rank = 7, ARGUMENT, &["`a` has rank 7", "0 to 6"]),
        (|x| x[1].rank = -1, ARGUMENT, &["`b` has rank -1"]),
        (|x| x[2].dtype = 4, ARGUMENT, &["`c` has dtype 4", "bf16", "f16"]),
        (|x| x[0].dtype = 3, ARGUMENT, &["`a` is of f16", "attention alone"]),
        (|x| x[0].shape[1] = -3, ARGUMENT, &["`a` has shape [2, -3]", "negative"]),
        (|x| x[0].shape = [1 << 40; 6], ARGUMENT, &["`a`", "memory"]),
        (|x| x[1].data = null_mut(), ARGUMENT, &["`b` has shape [2, 3]", "data is NULL"]),
        (|x| x[1].data = x[1].data.cast::<u8>().wrapping_add(2).cast(), ARGUMENT, &["`b` begins at", "multiple of 4"]),
        (|x| x[2].data = x[0].data, ARGUMENT, &["`c` and `a` share memory"]),
        (|x| x[2].data = x[1].data.cast::<u8>().wrapping_add(20).cast(), ARGUMENT, &["`c` and `b` share memory"]),
        (|x| x[1].dtype = 1, SHAPE, &["`b`", "bf16", "f32"]),
        (|x| x[2].shape[1] = 3, SHAPE, &["`c`", "[2, 3]", "[2, 2]"]),
        (|x| x[1].shape = [3, 2, 0, 0, 0, 0], ARGUMENT, &["inner sizes differ"]),
    ];
    for (change, status, parts) in wrong {
        let mut tensors = good;
        change(&mut tensors);
        failed(run(tensors), status, parts);
    }
    // SAFETY: NULL where something is needed.
    unsafe {
        failed(deem_gemm(null(), &good[0], &good[1], &good[2], null()), ARGUMENT, &["`context` is NULL"]);
        failed(deem_gemm(cx.0, &good[0], null(), &good[2], null()), ARGUMENT, &["`b` is NULL"]);
    }
    assert_eq!(c, [7.0; 4], "nothing was written");
    let good = [t(&mut a, &[2, 3]), t(&mut b, &[2, 3]), t(&mut c, &[2, 2])];
    assert_eq!(run(good), 0);
    assert_eq!(c, [3.0; 4]);
    // Empty tensors need no memory.
    let mut empty = good;
    (empty[0].shape[0], empty[0].data) = (0, null_mut());
    (empty[2].shape[0], empty[2].data) = (0, null_mut());
    assert_eq!(run(empty), 0);
}

#[test]
fn options() {
    let cx = Ctx::new();
    let (mut x, mut out, mut lse) = ([[1f32; 8], [2.0; 8], [3.0; 8]], [0f32; 8], [0f32; 4]);
    let [q, k, v] = x.each_mut().map(|x| t(x, &[1, 2, 4]));
    let (out, lse) = (t(&mut out, &[1, 2, 4]), t(&mut lse, &[1, 2, 2]));
    let zeros = deem_attention_options {
        heads: 2,
        kv_heads: 0,
        scale: 0.0,
        causal: 0,
        reserved: 0,
        causal_offset: 0,
        key_count: 0,
        keys: null(),
        first: null(),
        dropout: 0.0,
        dropout_seed: 0,
    };
    type Change = fn(&mut deem_attention_options);
    let wrong: [(Change, &[&str]); 8] = [
        (|o| o.heads = 0, &["`heads` is 0", "at least 1"]),
        (|o| o.heads = 3, &["3"]),
        (|o| o.kv_heads = -1, &["`kv_heads` is -1"]),
        (|o| o.causal = 2, &["`causal` is 2", "0 or 1"]),
        (|o| (o.causal, o.causal_offset) = (1, -1), &["`causal_offset` is -1"]),
        (|o| o.key_count = 3, &["`key_count` is 3", "2 keys"]),
        (|o| o.dropout = 1.0, &["rate is 1"]),
        (|o| o.first = std::ptr::without_provenance(2), &["`first`", "multiple of 4"]),
    ];
    for (change, parts) in wrong {
        let mut options = zeros;
        change(&mut options);
        // SAFETY: tensors over live slices; what is wrong is checked.
        failed(unsafe { deem_attention_forward(cx.0, &q, &k, &v, &out, &lse, &options) }, ARGUMENT, parts);
    }
    // SAFETY: as above.
    unsafe {
        failed(deem_attention_forward(cx.0, &q, &k, &v, &out, &lse, null()), ARGUMENT, &["`options` is NULL"]);
        assert_eq!(deem_attention_forward(cx.0, &q, &k, &v, &out, &lse, &zeros), 0);
        failed(deem_groupnorm_forward(cx.0, &q, &k, &k, &out, &lse, 2, 1e-5, 5), ARGUMENT, &["`silu` is 5"]);
    }
}

#[test]
fn samplers() {
    let zeros = deem_sampler_options {
        kind: 0,
        prediction: 0,
        steps: 4,
        train_steps: 0,
        beta_start: 0.0,
        beta_end: 0.0,
        no_offset: 0,
        reserved: 0,
    };
    let mut handle = null_mut();
    type Change = fn(&mut deem_sampler_options);
    let wrong: [(Change, i32, &[&str]); 6] = [
        (|o| o.kind = 4, ARGUMENT, &["`kind` is 4", "DDPM"]),
        (|o| o.prediction = 2, ARGUMENT, &["`prediction` is 2"]),
        (|o| o.steps = 0, ARGUMENT, &["`steps` is 0"]),
        (|o| o.steps = 1001, 6, &["1001 sampling steps", "1 to 1000"]),
        (|o| o.beta_end = 1.5, ARGUMENT, &["0.00085", "1.5"]),
        (|o| o.train_steps = -5, ARGUMENT, &["`train_steps` is -5"]),
    ];
    for (change, status, parts) in wrong {
        let mut options = zeros;
        change(&mut options);
        // SAFETY: a place for a pointer.
        failed(unsafe { deem_sampler_create(&options, &mut handle) }, status, parts);
        assert!(handle.is_null());
    }
    let cx = Ctx::new();
    let mut x = [[0f32; 4]; 4];
    let [p, n, x, x0] = x.each_mut().map(|x| t(x, &[2, 2]));
    // SAFETY: tensors over live slices; what is wrong is checked.
    unsafe {
        let options = deem_sampler_options { kind: 1, ..zeros };
        assert_eq!(deem_sampler_create(&options, &mut handle), 0);
        failed(deem_denoise_step(cx.0, handle, 4, &p, 1.0, &n, &x, &x0), ARGUMENT, &["`step` is 4", "0 to 3"]);
        failed(deem_denoise_step(cx.0, handle, 0, &p, 1.0, null(), &x, &x0), ARGUMENT, &["noise"]);
        failed(deem_denoise_step(cx.0, handle, 0, &p, 1.0, &n, &x, &x), ARGUMENT, &["`x0` and `x` share memory"]);
        deem_sampler_destroy(handle);
        deem_sampler_destroy(null_mut());
        assert_eq!(deem_sampler_timestep(null(), 0), -1);
    }
}

#[test]
fn contexts_and_models() {
    let mut context = null_mut();
    let mut model = null_mut();
    let text = |text: &'static [u8]| text.as_ptr().cast::<c_char>();
    // SAFETY: text that ends with a zero byte, places for pointers; what is wrong is checked.
    unsafe {
        failed(deem_context_create(null(), -1, &mut context), ARGUMENT, &["`threads` is -1"]);
        failed(deem_context_create(null(), 1, null_mut()), ARGUMENT, &["`context` is NULL"]);
        failed(deem_context_create(text(b"tpu\0"), 1, &mut context), 7, &["tpu", "host"]);
        failed(deem_context_create(text(b"h\xff\0"), 1, &mut context), ARGUMENT, &["`device` is not UTF-8"]);
        assert!(context.is_null());
        let cx = Ctx::new();
        failed(deem_model_load(cx.0, null(), 0, &mut model), ARGUMENT, &["`folder` is NULL"]);
        failed(deem_model_load(cx.0, text(b"/nowhere/at/all\0"), 2, &mut model), ARGUMENT, &["`dtype` is 2"]);
        let status = deem_model_load(cx.0, text(b"/nowhere/at/all\0"), 0, &mut model);
        assert!(matches!(status, 4 | 5));
        failed(status, status, &["/nowhere/at/all"]);
        assert!(model.is_null());
        failed(deem_model_imagine(null(), text(b"x\0"), null(), null_mut(), 0), ARGUMENT, &["`model` is NULL"]);
        deem_model_destroy(null_mut());
        deem_context_destroy(null_mut());
        deem_string_destroy(null_mut());
        assert_eq!(deem_model_drawn_side(null()), 0);
        let version = std::ffi::CStr::from_ptr(deem_version()).to_str().unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}
