//! Order, events, callbacks.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use super::INCREMENT;
use crate::support::{Buffer, Module, arguments, check, context, error_name, launch, raw};

fn stream(flags: u32) -> u64 {
    let mut stream = 0;
    // SAFETY: the out-parameter lives through the call.
    check(unsafe { raw::cuStreamCreate(&mut stream, flags) });
    stream
}

fn event() -> u64 {
    let mut event = 0;
    // SAFETY: the out-parameter lives through the call.
    check(unsafe { raw::cuEventCreate(&mut event, 0) });
    event
}

#[test]
fn work_in_a_stream_is_ordered() {
    context();
    let module = Module::load(INCREMENT);
    let function = module.function("increment");
    let buffer = Buffer::<u32>::zeros(100);
    let stream = stream(1);
    for _ in 0..20 {
        check(launch(function, [4, 1, 1], [32, 1, 1], 0, stream, arguments![&buffer, 100u32]));
    }
    // SAFETY: a live stream.
    check(unsafe { raw::cuStreamSynchronize(stream) });
    assert_eq!(buffer.read(), [20; 100]);
    // SAFETY: destroyed once.
    check(unsafe { raw::cuStreamDestroy_v2(stream) });
}

#[test]
fn blocking_streams_and_the_default_stream_wait_for_each_other() {
    context();
    let module = Module::load(INCREMENT);
    let function = module.function("increment");
    let buffer = Buffer::<u32>::zeros(64);
    let streams = [stream(0), stream(0), stream(0)];
    for _ in 0..10 {
        for stream in streams {
            check(launch(function, [2, 1, 1], [32, 1, 1], 0, stream, arguments![&buffer, 64u32]));
            check(launch(function, [2, 1, 1], [32, 1, 1], 0, 0, arguments![&buffer, 64u32]));
        }
    }
    // Reading goes through the default stream, so nothing else is needed.
    assert_eq!(buffer.read(), [60; 64]);
    // SAFETY: destroyed once each.
    streams.iter().for_each(|&stream| check(unsafe { raw::cuStreamDestroy_v2(stream) }));
}

#[test]
fn an_event_orders_two_streams_and_keeps_time() {
    context();
    let module = Module::load(INCREMENT);
    let function = module.function("increment");
    let buffer = Buffer::<u32>::zeros(4096);
    let (first, second) = (stream(1), stream(1));
    let (start, between, end) = (event(), event(), event());
    let mut milliseconds = 0f32;
    // SAFETY: live handles; the out-parameter lives through the call.
    unsafe {
        assert_eq!(error_name(raw::cuEventElapsedTime(&mut milliseconds, start, end)), "CUDA_ERROR_INVALID_HANDLE");
        check(raw::cuEventRecord(start, first));
        check(launch(function, [32, 1, 1], [128, 1, 1], 0, first, arguments![&buffer, 4096u32]));
        check(raw::cuEventRecord(between, first));
        check(raw::cuStreamWaitEvent(second, between, 0));
        check(launch(function, [32, 1, 1], [128, 1, 1], 0, second, arguments![&buffer, 4096u32]));
        check(raw::cuEventRecord(end, second));
        check(raw::cuEventSynchronize(end));
        check(raw::cuEventQuery(end));
        check(raw::cuEventElapsedTime(&mut milliseconds, start, end));
    }
    assert_eq!(buffer.read(), [2; 4096]);
    // Two launches of a few microseconds each on the described GPU.
    assert!((0.003..0.1).contains(&milliseconds), "{milliseconds}");
    // SAFETY: destroyed once each.
    unsafe {
        [start, between, end].iter().for_each(|&event| check(raw::cuEventDestroy_v2(event)));
        [first, second].iter().for_each(|&stream| check(raw::cuStreamDestroy_v2(stream)));
    }
}

static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn note(data: *mut c_void) {
    // The order of the two calls is the stream's.
    CALLS.fetch_add(data as usize as u32, Ordering::SeqCst);
}

extern "C" fn note_with_status(stream: u64, status: u32, data: *mut c_void) {
    if stream != 0 && status == 0 && CALLS.load(Ordering::SeqCst) == 5 {
        CALLS.fetch_add(data as usize as u32, Ordering::SeqCst);
    }
}

#[test]
fn host_functions_run_in_order() {
    context();
    let stream = stream(0);
    // SAFETY: the functions take what is passed.
    unsafe {
        check(raw::cuLaunchHostFunc(stream, Some(note), 5 as *mut c_void));
        check(raw::cuStreamAddCallback(stream, Some(note_with_status), 70 as *mut c_void, 0));
        check(raw::cuStreamSynchronize(stream));
        check(raw::cuStreamQuery(stream));
        assert_eq!(raw::cuLaunchHostFunc(stream, None, std::ptr::null_mut()), 1);
        check(raw::cuStreamDestroy_v2(stream));
    }
    assert_eq!(CALLS.load(Ordering::SeqCst), 75);
}

#[test]
fn pageable_memory_may_change_after_the_call() {
    context();
    let stream = stream(1);
    let buffer = Buffer::<u32>::unwritten(4);
    let mut values = [1u32, 2, 3, 4];
    // SAFETY: the driver takes the values before it returns.
    check(unsafe { raw::cuMemcpyHtoDAsync_v2(buffer.address, values.as_ptr().cast(), 16, stream) });
    values.fill(0);
    // SAFETY: live stream, destroyed once.
    unsafe {
        check(raw::cuStreamSynchronize(stream));
        check(raw::cuStreamDestroy_v2(stream));
    }
    assert_eq!(buffer.read(), [1, 2, 3, 4]);
}

#[test]
fn operations_on_words_in_a_batch() {
    context();
    let (stream, words) = (stream(1), Buffer::<u32>::zeros(4));
    // `CUstreamBatchMemOpParams`: operation, address, value, flags.
    let operation = |kind: u64, word: u64, value: u64, flags: u64| [kind, words.address + word, value, flags, 0, 0];
    let (wait, write, write_64, fence) = (1, 2, 5, 6);
    let mut list = [
        operation(write, 0, 7, 0),
        operation(wait, 0, 7, 1),
        operation(fence, 0, 0, 0),
        operation(write_64, 8, 1 << 40 | 3, 0),
    ];
    // SAFETY: the list lives through the calls, and the second must be refused as a whole.
    unsafe {
        check(raw::cuStreamBatchMemOp_v2(stream, 4, list.as_mut_ptr().cast(), 0));
        check(raw::cuStreamSynchronize(stream));
        assert_eq!(words.read(), [7, 0, 3, 1 << 8]);
        list[0][2] = 9;
        list[3][0] = 99;
        assert_eq!(raw::cuStreamBatchMemOp_v2(stream, 4, list.as_mut_ptr().cast(), 0), 1);
        check(raw::cuStreamSynchronize(stream));
        assert_eq!(words.read()[0], 7);
        let mut told = Vec::<(u32, u64)>::new();
        assert_eq!(raw::cuLaunchHostFunc_v2(stream, None, (&raw mut told).cast(), 0), 1);
        check(raw::cuStreamDestroy_v2(stream));
    }
}

#[test]
fn pools_by_place() {
    context();
    let device = [1u32, 0];
    let host = [2u32, 0];
    let (mut usual, mut current) = (0, 1);
    // SAFETY: places and out-parameters live through the calls.
    unsafe {
        check(raw::cuMemGetDefaultMemPool(&mut usual, device.as_ptr().cast(), 1));
        check(raw::cuMemGetMemPool(&mut current, device.as_ptr().cast(), 1));
        assert_eq!(usual, current);
        check(raw::cuMemSetMemPool(device.as_ptr().cast(), 1, usual));
        assert_eq!(raw::cuMemSetMemPool(device.as_ptr().cast(), 1, 12345), 1);
        assert_eq!(raw::cuMemGetMemPool(&mut current, host.as_ptr().cast(), 1), 801);
    }
}
