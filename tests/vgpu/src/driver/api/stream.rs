//! Streams, callbacks, capture.

use std::ffi::c_void;

use crate::driver::context::{Context, current, stream};
use crate::driver::engine::capture::{self, Mode};
use crate::driver::engine::event::Event;
use crate::driver::engine::graph::Graph;
use crate::driver::engine::operation::{HostCall, HostFunction, Operation};
use crate::driver::engine::stream::{Role, Stream};
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain};
use crate::driver::objects::Object;
use crate::driver::{Outcome, functions};

/// A stream, or one of the default ones: 0, `CU_STREAM_LEGACY`, `CU_STREAM_PER_THREAD`.
pub type StreamHandle = Handle<Stream>;

/// Smaller is more urgent.
pub const GREATEST_PRIORITY: i32 = -5;

/// The handle of a graph's node, as programs see it.
pub type NodeHandle = u64;

/// What `cuStreamGetCaptureInfo` tells.
fn capture_info(handle: StreamHandle, status: Out<u32>, id: Out<u64>) -> Outcome<Option<capture::Capture>> {
    const NONE: u32 = 0;
    const ACTIVE: u32 = 1;
    const INVALIDATED: u32 = 2;
    let stream = stream(handle)?;
    capture::refuse_implicit(&stream)?;
    let found = capture::of(&stream);
    status.set(match &found {
        None => NONE,
        Some(capture) if capture.session.is_invalid() => INVALIDATED,
        Some(_) => ACTIVE,
    })?;
    if let Some(capture) = &found {
        id.set_if_wanted(capture.session.id)?;
    }
    Ok(found)
}

/// Tells graph and dependencies of a capture. The list stays where it is until the process ends.
fn capture_details(found: Option<capture::Capture>, graph: Out<u64>, nodes: Out<u64>, count: Out<usize>) -> Outcome {
    let Some(capture) = found else { return Ok(()) };
    if !graph.is_null() {
        let own = capture.session.graph.id;
        let handle = Graph::registry().handle_where(|known| known.id == own);
        graph.set(handle.unwrap_or_else(|| Graph::registry().insert(capture.session.graph.clone())).0)?;
    }
    count.set_if_wanted(capture.tail.len())?;
    let list: &'static [u64] = Box::leak(capture.tail.into_boxed_slice());
    nodes.set_if_wanted(if list.is_empty() { 0 } else { list.as_ptr() as u64 })
}

fn update_capture(handle: StreamHandle, dependencies: Vec<u64>, flags: u32) -> Outcome {
    const ADD: u32 = 0;
    const SET: u32 = 1;
    let stream = stream(handle)?;
    let mut own = stream.capture.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let capture = own.as_mut().ok_or(Error::IllegalState)?;
    let nodes = capture.session.graph.nodes();
    if dependencies.iter().any(|node| !nodes.contains(node)) {
        return Err(Error::InvalidValue);
    }
    match flags {
        ADD => capture.tail.extend(dependencies),
        SET => capture.tail = dependencies,
        _ => return Err(Error::InvalidValue),
    }
    Ok(())
}

fn create(out: Out<StreamHandle>, flags: u32, priority: i32) -> Outcome {
    let context = current()?;
    if flags & !1 != 0 || out.is_null() {
        return Err(Error::InvalidValue);
    }
    out.set(context.create_stream(flags, priority.clamp(GREATEST_PRIORITY, 0)))
}

fn is_idle(stream: &Stream) -> bool {
    stream.last().ended().is_some()
}

/// Words that streams set and wait for.
fn word_operation(handle: StreamHandle, operation: Operation, address: u64, bytes: usize) -> Outcome {
    let stream = stream(handle)?;
    if !address.is_multiple_of(bytes as u64) || stream.context()?.gpu.memory.window(address, bytes as u64).is_none() {
        return Err(Error::InvalidValue);
    }
    capture::submit(&stream, operation).map(|_| ())
}

/// `CUstreamBatchMemOpParams`, of which no member has more.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WordOperation {
    operation: u32,
    _padding: u32,
    address: u64,
    value: u64,
    flags: u32,
    _end: [u32; 5],
}

// SAFETY: numbers.
unsafe impl Plain for WordOperation {}

impl WordOperation {
    /// What the stream is to do, with the word that it is about; fences between the others do nothing.
    fn meaning(&self) -> Outcome<Option<(Operation, u64, usize)>> {
        const WAIT_32: u32 = 1;
        const WRITE_32: u32 = 2;
        const FLUSH: u32 = 3;
        const WAIT_64: u32 = 4;
        const WRITE_64: u32 = 5;
        const BARRIER: u32 = 6;
        let WordOperation { operation, address, value, flags: condition, .. } = *self;
        let bytes = if matches!(operation, WAIT_32 | WRITE_32) { 4 } else { 8 };
        let value = if bytes == 4 { value & 0xffff_ffff } else { value };
        let operation = match operation {
            WAIT_32 | WAIT_64 => Operation::WaitValue { address, value, bytes, condition },
            WRITE_32 | WRITE_64 => Operation::WriteValue { address, value, bytes },
            FLUSH | BARRIER => return Ok(None),
            _ => return Err(Error::InvalidValue),
        };
        Ok(Some((operation, address, bytes)))
    }
}

functions! {
    fn cuStreamCreate(stream: Out<StreamHandle>, flags: u32) {
        create(stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: Out<StreamHandle>, flags: u32, priority: i32) {
        create(stream, flags, priority)
    }

    /// What is in the stream is still done.
    fn cuStreamDestroy_v2(handle: StreamHandle) {
        current()?;
        let stream = handle.take()?;
        if let Some(capture) = capture::of(&stream) {
            capture.session.invalidate();
        }
        // The context no longer knows the stream once nobody holds it, so it is emptied first.
        stream.synchronise();
        Ok(())
    }

    fn cuStreamSynchronize | cuStreamSynchronize_ptsz(handle: StreamHandle) {
        let stream = stream(handle)?;
        capture::refuse(&stream)?;
        capture::refuse_implicit(&stream)?;
        if stream.role == Role::Legacy {
            // Blocking streams are waited for by the legacy stream's next work, and so by those who wait for it.
            stream.run(Operation::Nothing)?;
        }
        stream.synchronise();
        stream.context()?.check()
    }

    fn cuStreamQuery | cuStreamQuery_ptsz(handle: StreamHandle) {
        let stream = stream(handle)?;
        capture::refuse(&stream)?;
        capture::refuse_implicit(&stream)?;
        let context = stream.context()?;
        let others = if stream.role == Role::Legacy { context.streams() } else { Vec::new() };
        let idle = is_idle(&stream) && others.iter().filter(|other| other.is_blocking()).all(|other| is_idle(other));
        context.check()?;
        if idle { Ok(()) } else { Err(Error::NotReady) }
    }

    fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz(handle: StreamHandle, event: Handle<Event>, flags: u32) {
        let stream = stream(handle)?;
        if flags & !1 != 0 {
            return Err(Error::InvalidValue);
        }
        capture::wait_for_event(&stream, &*event.get()?)
    }

    fn cuStreamAddCallback | cuStreamAddCallback_ptsz(handle: StreamHandle,
            function: Option<extern "C" fn(u64, u32, *mut c_void)>, data: *mut c_void, flags: u32) {
        let stream = stream(handle)?;
        let function = function.filter(|_| flags == 0).ok_or(Error::InvalidValue)?;
        capture::refuse(&stream)?;
        let call = HostCall { function: HostFunction::Callback(function, handle.0), data };
        stream.submit(Operation::Host(call), None).map(|_| ())
    }

    fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz(handle: StreamHandle, function: Option<extern "C" fn(*mut c_void)>,
                                                data: *mut c_void) {
        let stream = stream(handle)?;
        let function = HostFunction::Plain(function.ok_or(Error::InvalidValue)?);
        capture::submit(&stream, Operation::Host(HostCall { function, data })).map(|_| ())
    }

    /// How the stream waits for the function changes nothing.
    fn cuLaunchHostFunc_v2 | cuLaunchHostFunc_v2_ptsz(handle: StreamHandle,
            function: Option<extern "C" fn(*mut c_void)>, data: *mut c_void, wait: u32) {
        const BLOCKING_OR_SPINNING: u32 = 1;
        if wait > BLOCKING_OR_SPINNING {
            return Err(Error::InvalidValue);
        }
        let stream = stream(handle)?;
        let function = HostFunction::Plain(function.ok_or(Error::InvalidValue)?);
        capture::submit(&stream, Operation::Host(HostCall { function, data })).map(|_| ())
    }

    fn cuStreamGetFlags | cuStreamGetFlags_ptsz(handle: StreamHandle, flags: Out<u32>) {
        flags.set(stream(handle)?.flags)
    }

    fn cuStreamGetPriority | cuStreamGetPriority_ptsz(handle: StreamHandle, priority: Out<i32>) {
        priority.set(stream(handle)?.priority)
    }

    fn cuStreamGetId | cuStreamGetId_ptsz(handle: StreamHandle, id: Out<u64>) {
        id.set(stream(handle)?.id)
    }

    fn cuStreamGetCtx | cuStreamGetCtx_ptsz(handle: StreamHandle, context: Out<Handle<Context>>) {
        context.set(Handle::new(stream(handle)?.context()?.number))
    }

    /// No stream belongs to a part of the device.
    fn cuStreamGetCtx_v2 | cuStreamGetCtx_v2_ptsz(handle: StreamHandle, context: Out<Handle<Context>>, part: Out<u64>) {
        part.set_if_wanted(0)?;
        context.set(Handle::new(stream(handle)?.context()?.number))
    }

    fn cuStreamGetDevice | cuStreamGetDevice_ptsz(handle: StreamHandle, device: Out<i32>) {
        stream(handle)?;
        device.set(0)
    }

    /// Managed memory is everybody's at all times.
    fn cuStreamAttachMemAsync | cuStreamAttachMemAsync_ptsz(handle: StreamHandle, address: u64, _bytes: usize,
            flags: u32) {
        let stream = stream(handle)?;
        let managed = stream.context()?.gpu.memory.allocation_at(address);
        let known = managed.is_some_and(|found| found.kind.on_host());
        if known && matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(Error::InvalidValue) }
    }

    /// Attribute 8 is the priority; the windows of the cache (1) and how the host waits (3) are as in the beginning.
    fn cuStreamGetAttribute | cuStreamGetAttribute_ptsz(handle: StreamHandle, attribute: u32, value: Out<[u32; 16]>) {
        let stream = stream(handle)?;
        let mut words = [0; 16];
        match attribute {
            1 => {}
            3 => words[0] = 1,
            8 => words[0] = stream.priority as u32,
            _ => return Err(Error::InvalidValue),
        }
        value.set(words)
    }

    /// What may be set changes nothing here.
    fn cuStreamSetAttribute | cuStreamSetAttribute_ptsz(handle: StreamHandle, attribute: u32, value: In<[u32; 16]>) {
        stream(handle)?;
        value.get()?;
        if matches!(attribute, 1 | 3) { Ok(()) } else { Err(Error::InvalidValue) }
    }

    fn cuStreamCopyAttributes | cuStreamCopyAttributes_ptsz(to: StreamHandle, from: StreamHandle) {
        stream(to)?;
        stream(from).map(|_| ())
    }

    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(handle: StreamHandle, address: u64, value: u32,
            _flags: u32) {
        word_operation(handle, Operation::WriteValue { address, value: value.into(), bytes: 4 }, address, 4)
    }

    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(handle: StreamHandle, address: u64, value: u64,
            _flags: u32) {
        word_operation(handle, Operation::WriteValue { address, value, bytes: 8 }, address, 8)
    }

    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz(handle: StreamHandle, address: u64, value: u32,
            flags: u32) {
        let operation = Operation::WaitValue { address, value: value.into(), bytes: 4, condition: flags };
        word_operation(handle, operation, address, 4)
    }

    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz(handle: StreamHandle, address: u64, value: u64,
            flags: u32) {
        word_operation(handle, Operation::WaitValue { address, value, bytes: 8, condition: flags }, address, 8)
    }

    /// One after the other; all are checked before the first is given to the stream.
    fn cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz(handle: StreamHandle, count: u32, list: In<WordOperation>,
            flags: u32) {
        // As many as a GPU takes.
        if flags != 0 || count == 0 || count > 256 {
            return Err(Error::InvalidValue);
        }
        let list = list.list(count as usize)?;
        let operations = list.iter().map(WordOperation::meaning).collect::<Outcome<Vec<_>>>()?;
        for (operation, address, bytes) in operations.into_iter().flatten() {
            word_operation(handle, operation, address, bytes)?;
        }
        Ok(())
    }

    fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz(handle: StreamHandle, mode: u32) {
        capture::begin(&stream(handle)?, Mode::from_number(mode)?, None)
    }

    fn cuStreamBeginCaptureToGraph | cuStreamBeginCaptureToGraph_ptsz(handle: StreamHandle, graph: Handle<Graph>,
            dependencies: In<NodeHandle>, _edges: In<u64>, count: usize, mode: u32) {
        let graph = graph.get()?;
        let tail = dependencies.list(count)?;
        let nodes = graph.nodes();
        if tail.iter().any(|node| !nodes.contains(node)) {
            return Err(Error::InvalidValue);
        }
        capture::begin(&stream(handle)?, Mode::from_number(mode)?, Some((graph, tail)))
    }

    fn cuStreamEndCapture | cuStreamEndCapture_ptsz(handle: StreamHandle, graph: Out<Handle<Graph>>) {
        let stream = stream(handle)?;
        graph.set(Handle::new(0))?;
        let session = capture::end(&stream)?;
        let own = session.graph.id;
        let known = Graph::registry().handle_where(|other| other.id == own);
        graph.set(known.unwrap_or_else(|| Graph::registry().insert(session.graph.clone())))
    }

    fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz(handle: StreamHandle, status: Out<u32>) {
        capture_info(handle, status, Out::null()).map(|_| ())
    }

    fn cuStreamGetCaptureInfo | cuStreamGetCaptureInfo_ptsz(handle: StreamHandle, status: Out<u32>, id: Out<u64>) {
        capture_info(handle, status, id).map(|_| ())
    }

    fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz(handle: StreamHandle, status: Out<u32>, id: Out<u64>,
            graph: Out<u64>, nodes: Out<u64>, count: Out<usize>) {
        capture_details(capture_info(handle, status, id)?, graph, nodes, count)
    }

    fn cuStreamGetCaptureInfo_v3 | cuStreamGetCaptureInfo_v3_ptsz(handle: StreamHandle, status: Out<u32>, id: Out<u64>,
            graph: Out<u64>, nodes: Out<u64>, edges: Out<u64>, count: Out<usize>) {
        edges.set_if_wanted(0)?;
        capture_details(capture_info(handle, status, id)?, graph, nodes, count)
    }

    fn cuStreamUpdateCaptureDependencies | cuStreamUpdateCaptureDependencies_ptsz(handle: StreamHandle,
            dependencies: Out<NodeHandle>, count: usize, flags: u32) {
        update_capture(handle, dependencies.list(count)?, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2 | cuStreamUpdateCaptureDependencies_v2_ptsz(handle: StreamHandle,
            dependencies: Out<NodeHandle>, _edges: In<u64>, count: usize, flags: u32) {
        update_capture(handle, dependencies.list(count)?, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let before = capture::exchange_thread_mode(mode.get()?)?;
        mode.set(before)
    }
}
