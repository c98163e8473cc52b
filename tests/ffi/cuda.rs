//! The C interface on a CUDA device, the virtual GPU with all of its checks on: a stream and device memory of the caller's.

use std::io::Write;
use std::ptr::null_mut;

use deem::Context;
use deem::ffi::*;

use crate::support::{device, is_on_cuda, normals, put, unset, vgpu};
use crate::{message, tensor_at};

const TESTS: &[&str] = &["cuda::a_stream_and_memory_of_the_callers"];

/// `tests/run.sh` collects the line "ran: ..".
#[test]
fn on_the_virtual_gpu() {
    if !is_on_cuda() {
        vgpu::run(TESTS, 0);
        // Not through `println!`, which the harness keeps from the log.
        writeln!(std::io::stderr(), "ran: cuda, virtual GPU, the C interface").unwrap();
    }
}

#[test]
fn a_stream_and_memory_of_the_callers() {
    if !is_on_cuda() {
        return;
    }
    let own = device();
    let queue = own.queue().unwrap().clone();
    let (b, t, n, d) = (2, 5, 3, 8);
    let shape = [b, t, n * d];
    let numbers = |name: &str| normals(name, b * t * n * d);
    let run = |cx: &Context, context: *mut deem_context| {
        let [q, k, v] = ["q", "k", "v"].map(|name| put::<f32>(cx, shape, &numbers(name)));
        let (mut out, mut lse) = (unset::<f32>(cx, shape), unset::<f32>(cx, [b, n, t]));
        let inputs = [&q, &k, &v].map(|x| tensor_at(x.view().address().cast_mut(), &shape));
        let (to, sums) = (out.view_mut().address(), lse.view_mut().address());
        let outputs = [tensor_at(to, &shape), tensor_at(sums, &[b, n, t])];
        // SAFETY: zeros mean the usual choice in every field.
        let options = deem_attention_options { heads: n as i32, causal: 1, ..unsafe { std::mem::zeroed() } };
        let [q, k, v] = &inputs;
        // SAFETY: tensors that live until the call on their stream has been waited for.
        unsafe {
            let status = deem_attention_forward(context, q, k, v, &outputs[0], &outputs[1], &options);
            assert_eq!(status, 0, "{}", message());
            assert_eq!(deem_context_synchronize(context), 0, "{}", message());
        }
        (out.to_vec().unwrap(), lse.to_vec().unwrap())
    };
    let mut context = null_mut();
    // SAFETY: a stream that lives longer than the context, places for pointers.
    unsafe {
        assert_eq!(deem_context_create_on_stream(0, queue.stream().cast(), &mut context), 0, "{}", message());
        let found = run(&own, context);
        deem_context_destroy(context);
        assert_eq!(deem_context_create(c"host".as_ptr(), 1, &mut context), 0);
        let host = run(&Context::host(1), context);
        deem_context_destroy(context);
        // Means of values near 3, of a few roundings each.
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 4e-6);
        assert!(near(&found.0, &host.0) && near(&found.1, &host.1));
        assert_eq!(deem_context_create_on_stream(7, null_mut(), &mut context), 7);
        assert!(message().contains("cuda:7") && message().contains("no such device"), "{}", message());
        assert_eq!(deem_context_create_on_stream(-1, null_mut(), &mut context), 1);
        assert!(context.is_null());
    }
}
