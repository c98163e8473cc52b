//! Graphs: captured and made node by node.

use super::INCREMENT;
use crate::support::{Buffer, Module, arguments, check, context, error_name, launch, raw};

#[repr(C)]
struct Memset {
    address: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

fn memset(address: u64, value: u32, width: usize) -> Memset {
    Memset { address, pitch: 0, value, element: 4, width, height: 1 }
}

fn streams() -> [u64; 2] {
    let mut streams = [0; 2];
    for stream in &mut streams {
        // SAFETY: the out-parameter lives through the call.
        check(unsafe { raw::cuStreamCreate(stream, 1) });
    }
    streams
}

#[test]
fn a_captured_graph_does_the_work_again() {
    context();
    let module = Module::load(INCREMENT);
    let function = module.function("increment");
    let buffer = Buffer::<u32>::zeros(64);
    let [stream, other] = streams();
    let (mut graph, mut exec, mut event, mut joined, mut status, mut nodes) = (0, 0, 0, 0, 9, 0);
    let call = |stream| launch(function, [2, 1, 1], [32, 1, 1], 0, stream, arguments![&buffer, 64u32]);
    // SAFETY: live handles; out-parameters live through the calls.
    unsafe {
        check(raw::cuEventCreate(&mut event, 2));
        check(raw::cuEventCreate(&mut joined, 2));
        check(raw::cuStreamBeginCapture_v2(stream, 1));
        check(raw::cuMemsetD32Async(buffer.address, 10, 64, stream));
        check(call(stream));
        // A second stream joins and comes back.
        check(raw::cuEventRecord(event, stream));
        check(raw::cuStreamWaitEvent(other, event, 0));
        check(call(other));
        check(raw::cuStreamIsCapturing(other, &mut status));
        assert_eq!(status, 1);
        check(raw::cuEventRecord(joined, other));
        check(raw::cuStreamWaitEvent(stream, joined, 0));
        check(call(stream));
        check(raw::cuStreamEndCapture(stream, &mut graph));
        check(raw::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut nodes));
        assert_eq!(nodes, 4);
        assert_eq!(buffer.read(), [0; 64], "nothing ran yet");
        check(raw::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        check(raw::cuGraphDestroy(graph));
        for _ in 0..3 {
            check(raw::cuGraphLaunch(exec, stream));
        }
        check(raw::cuStreamSynchronize(stream));
        assert_eq!(buffer.read(), [13; 64]);
        check(raw::cuGraphExecDestroy(exec));
        [stream, other].iter().for_each(|&stream| check(raw::cuStreamDestroy_v2(stream)));
        [event, joined].iter().for_each(|&event| check(raw::cuEventDestroy_v2(event)));
    }
}

#[test]
fn captures_that_go_wrong_say_how() {
    context();
    let [stream, other] = streams();
    let buffer = Buffer::<u32>::zeros(8);
    let (mut graph, mut event) = (0, 0);
    // SAFETY: live handles; out-parameters live through the calls.
    unsafe {
        check(raw::cuEventCreate(&mut event, 2));
        assert_eq!(error_name(raw::cuStreamEndCapture(stream, &mut graph)), "CUDA_ERROR_ILLEGAL_STATE");
        // The mode concerns this thread only, since other tests run beside this one.
        check(raw::cuStreamBeginCapture_v2(stream, 1));
        assert_eq!(error_name(raw::cuStreamSynchronize(stream)), "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED");
        assert_eq!(error_name(raw::cuStreamEndCapture(stream, &mut graph)), "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED");
        check(raw::cuStreamBeginCapture_v2(stream, 1));
        check(raw::cuEventRecord(event, stream));
        check(raw::cuStreamWaitEvent(other, event, 0));
        check(raw::cuMemsetD32Async(buffer.address, 1, 8, other));
        assert_eq!(error_name(raw::cuStreamEndCapture(other, &mut graph)), "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED");
        assert_eq!(error_name(raw::cuStreamEndCapture(stream, &mut graph)), "CUDA_ERROR_STREAM_CAPTURE_UNJOINED");
        assert_eq!(error_name(raw::cuEventSynchronize(event)), "CUDA_ERROR_CAPTURED_EVENT");
        check(raw::cuStreamBeginCapture_v2(stream, 1));
        let mut address = 0;
        assert_eq!(error_name(raw::cuMemAlloc_v2(&mut address, 4)), "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED");
        assert_eq!(error_name(raw::cuStreamEndCapture(stream, &mut graph)), "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED");
        [stream, other].iter().for_each(|&stream| check(raw::cuStreamDestroy_v2(stream)));
        check(raw::cuEventDestroy_v2(event));
    }
}

#[test]
fn nodes_are_added_changed_and_cloned() {
    context();
    let buffer = Buffer::<u32>::zeros(16);
    let (mut graph, mut clone, mut exec, mut first, mut second, mut empty, mut kind) = (0, 0, 0, 0, 0, 0, 0);
    let all = memset(buffer.address, 1, 16);
    let half = memset(buffer.address, 2, 8);
    let changed = memset(buffer.address, 3, 4);
    let outside = memset(buffer.address, 3, 17);
    // SAFETY: live handles; structures and out-parameters live through the calls.
    unsafe {
        check(raw::cuGraphCreate(&mut graph, 0));
        check(raw::cuGraphAddMemsetNode(&mut first, graph, std::ptr::null(), 0, (&raw const all).cast(), 0));
        check(raw::cuGraphAddMemsetNode(&mut second, graph, &first, 1, (&raw const half).cast(), 0));
        check(raw::cuGraphAddEmptyNode(&mut empty, graph, [first, second].as_ptr(), 2));
        check(raw::cuGraphNodeGetType(second, &mut kind));
        assert_eq!(kind, 2);
        assert_eq!(
            raw::cuGraphAddMemsetNode(&mut first, graph, std::ptr::null(), 0, (&raw const outside).cast(), 0),
            1
        );
        check(raw::cuGraphClone(&mut clone, graph));
        check(raw::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        check(raw::cuGraphLaunch(exec, 0));
        assert_eq!(buffer.read()[..10], [2, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
        check(raw::cuGraphExecMemsetNodeSetParams(exec, second, (&raw const changed).cast(), 0));
        check(raw::cuGraphLaunch(exec, 0));
        assert_eq!(buffer.read()[..6], [3, 3, 3, 3, 1, 1]);
        // The clone still has the old parameters.
        check(raw::cuGraphExecUpdate_v2(exec, clone, std::ptr::null_mut()));
        check(raw::cuGraphLaunch(exec, 0));
        assert_eq!(buffer.read()[..10], [2, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
        check(raw::cuGraphExecDestroy(exec));
        check(raw::cuGraphDestroy(graph));
        check(raw::cuGraphDestroy(clone));
        assert_eq!(raw::cuGraphDestroy(graph), 1);
    }
}
