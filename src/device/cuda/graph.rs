//! CUDA graphs: work that is done again and again is given to the device with one call.
//!
//! A training step, or a step of a sampler, is code that runs on the host, checks shapes and asks for launches. [`Graphs::run`] lets it run as it is
//! while the queue only writes down what it asks for. If the same sequence was asked for before (the same kernels in the same geometry, memory in the same
//! places; batches of one shape are alike in all of it), its graph runs: parameters that differ (a seed, a rate, a timestep) are set in its nodes, and what
//! comes from the host (ids, masks, pictures) is written to the page-locked memory from which the graph copies it. A sequence that is new runs as it is, one
//! that comes a second time becomes a graph.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys;

use super::recording::{Recording, Work};
use super::{Geometry, Queue};
use crate::device::Context;
use crate::error::Result;

/// How many sequences are remembered; the one unused for longest is forgotten first.
const REMEMBERED: usize = 32;

/// Sequences of work that came before, and their graphs.
#[derive(Default)]
pub struct Graphs {
    sequences: Vec<Sequence>,
    counts: GraphCounts,
}

/// What [`Graphs`] did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphCounts {
    /// Calls of [`Graphs::run`] on a device.
    pub runs: u64,
    /// Graphs made.
    pub graphs: u64,
    /// Runs that were a launch of a graph.
    pub launches: u64,
    /// Kernels whose parameters were set anew.
    pub patches: u64,
}

struct Sequence {
    works: Vec<Work>,
    /// Number of the last run that was this sequence.
    last: u64,
    graph: Option<Graph>,
}

// SAFETY: addresses and handles are numbers for the driver, used through `&mut self` or dropped.
unsafe impl Send for Sequence {}

impl Graphs {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was done so far.
    pub fn counts(&self) -> GraphCounts {
        self.counts
    }

    /// Runs `work`, whose launches, fills and copies to the device on this context's queue are made when it has returned, as a graph if they came before.
    /// It must read nothing from the device. On other devices, in dry runs, and with `DEEM_CUDA_SYNC=1` or `DEEM_CUDA_GRAPHS=0`, this is a plain call.
    ///
    /// # Errors
    /// What `work` returns: nothing has run then. [`crate::Error::Device`] if it reads from the device, or if the driver fails.
    pub fn run<T>(&mut self, cx: &Context, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(queue) = cx.queue().filter(|queue| queue.may_record()) else { return work() };
        let (done, recording) = queue.recorded(work)?;
        let submitted = self.submit(queue, &recording);
        for base in recording.released {
            queue.release_now(base);
        }
        submitted.map(|()| done)
    }

    fn submit(&mut self, queue: &Arc<Queue>, recording: &Recording) -> Result<()> {
        self.counts.runs += 1;
        let now = self.counts.runs;
        let Some(sequence) = self.sequences.iter_mut().find(|known| known.works == recording.works) else {
            if self.sequences.len() == REMEMBERED
                && let Some(oldest) = (0..REMEMBERED).min_by_key(|&i| self.sequences[i].last)
            {
                self.sequences.swap_remove(oldest);
            }
            self.sequences.push(Sequence { works: recording.works.clone(), last: now, graph: None });
            return recording.run(queue);
        };
        sequence.last = now;
        let graph = match &mut sequence.graph {
            Some(graph) => graph,
            None => {
                self.counts.graphs += 1;
                sequence.graph.insert(Graph::new(queue, recording)?)
            }
        };
        self.counts.patches += graph.launch(recording)?;
        self.counts.launches += 1;
        Ok(())
    }
}

/// One sequence as an executable graph: a chain in the order of the queue.
struct Graph {
    queue: Arc<Queue>,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    /// Kernel nodes in order.
    kernels: Vec<sys::CUgraphNode>,
    /// The parameters that the nodes have.
    params: Vec<u64>,
    /// Page-locked memory that the graph copies from; none if it copies nothing.
    staging: Option<NonNull<u8>>,
    /// When the last launch was done.
    done: sys::CUevent,
}

impl Graph {
    fn new(queue: &Arc<Queue>, recording: &Recording) -> Result<Graph> {
        let gpu = queue.gpu();
        gpu.bind()?;
        let mut graph = Graph {
            queue: queue.clone(),
            graph: std::ptr::null_mut(),
            executable: std::ptr::null_mut(),
            kernels: Vec::new(),
            params: recording.params.clone(),
            staging: None,
            done: std::ptr::null_mut(),
        };
        // SAFETY: the context is current; each handle goes into a place of its own, and dropping an unfinished graph frees what it has.
        unsafe {
            gpu.check("cuGraphCreate", sys::cuGraphCreate(&mut graph.graph, 0))?;
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            gpu.check("cuEventCreate", sys::cuEventCreate(&mut graph.done, flags))?;
            if !recording.uploads.is_empty() {
                let mut base = std::ptr::null_mut();
                let result = sys::cuMemHostAlloc(&mut base, recording.uploads.len(), 0);
                gpu.check("page-locked host memory", result)?;
                graph.staging = NonNull::new(base.cast());
            }
        }
        let mut last = None;
        for work in &recording.works {
            last = Some(graph.add(work, last)?);
        }
        // SAFETY: the graph is complete.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut graph.executable, graph.graph, 0) };
        gpu.check("cuGraphInstantiate", made)?;
        Ok(graph)
    }

    /// Adds a node after the last one.
    fn add(&mut self, work: &Work, last: Option<sys::CUgraphNode>) -> Result<sys::CUgraphNode> {
        let gpu = self.queue.gpu().clone();
        let before = last.as_slice();
        let (mut node, graph) = (std::ptr::null_mut(), self.graph);
        let number = |address: NonNull<u8>| address.as_ptr().addr() as sys::CUdeviceptr;
        match work {
            Work::Launch { op, kernel, geometry, params } => {
                let mut arguments = [self.params[params.start..].as_mut_ptr().cast()];
                let params = kernel_params(&self.queue, op, kernel, *geometry, &mut arguments)?;
                // SAFETY: the driver copies the parameters before it returns.
                let result =
                    unsafe { sys::cuGraphAddKernelNode_v2(&mut node, graph, before.as_ptr(), before.len(), &params) };
                gpu.check(&format!("cuGraphAddKernelNode of {kernel}"), result)?;
                self.kernels.push(node);
            }
            &Work::Fill { to, value, bytes } => {
                let params = sys::CUDA_MEMSET_NODE_PARAMS {
                    dst: number(to),
                    pitch: 0,
                    value: value.into(),
                    elementSize: 1,
                    width: bytes,
                    height: 1,
                };
                // SAFETY: the range lies in a reservation.
                let result = unsafe {
                    let context = gpu.context;
                    sys::cuGraphAddMemsetNode(&mut node, graph, before.as_ptr(), before.len(), &params, context)
                };
                gpu.check("cuGraphAddMemsetNode", result)?;
            }
            Work::Upload { to, from } => {
                let base = self.staging.map_or(std::ptr::null(), |base| base.as_ptr().cast_const());
                let params = row_from_host(base.wrapping_add(from.start).cast(), number(*to), from.len());
                // SAFETY: the part lies in the page-locked memory, which the graph keeps; the target lies in a reservation.
                let result = unsafe {
                    let context = gpu.context;
                    sys::cuGraphAddMemcpyNode(&mut node, graph, before.as_ptr(), before.len(), &params, context)
                };
                gpu.check("cuGraphAddMemcpyNode", result)?;
            }
        }
        Ok(node)
    }

    /// Runs the works of a recording with the same sequence. Returns how many kernels were given other parameters.
    fn launch(&mut self, recording: &Recording) -> Result<u64> {
        let gpu = self.queue.gpu().clone();
        gpu.bind()?;
        if let Some(base) = self.staging {
            // SAFETY: the copies of the last launch are waited for, and the memory has the length of the uploads.
            unsafe {
                gpu.check("cuEventSynchronize", sys::cuEventSynchronize(self.done))?;
                let uploads = &recording.uploads;
                base.as_ptr().copy_from_nonoverlapping(uploads.as_ptr(), uploads.len());
            }
        }
        let mut patches = 0;
        let launches = recording.works.iter().filter_map(|work| match work {
            Work::Launch { op, kernel, geometry, params } => Some((op, kernel, *geometry, params)),
            _ => None,
        });
        for (&node, (op, kernel, geometry, params)) in self.kernels.iter().zip(launches) {
            let (new, own) = (&recording.params[params.clone()], &mut self.params[params.clone()]);
            if new == own {
                continue;
            }
            own.copy_from_slice(new);
            let mut arguments = [own.as_mut_ptr().cast()];
            let params = kernel_params(&self.queue, op, kernel, geometry, &mut arguments)?;
            // SAFETY: the node belongs to the graph; the driver copies the parameters before it returns.
            let result = unsafe { sys::cuGraphExecKernelNodeSetParams_v2(self.executable, node, &params) };
            gpu.check(&format!("cuGraphExecKernelNodeSetParams of {kernel}"), result)?;
            patches += 1;
        }
        // SAFETY: what the launches access is kept by the caller, as it is for a launch without a graph.
        unsafe {
            gpu.check("cuGraphLaunch", sys::cuGraphLaunch(self.executable, self.queue.stream()))?;
            gpu.check("cuEventRecord", sys::cuEventRecord(self.done, self.queue.stream()))?;
        }
        Ok(patches)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.queue.gpu().bind().is_err() {
            return;
        }
        // SAFETY: all of it is ours, and its last launch is waited for. Errors have nowhere to go.
        unsafe {
            if !self.done.is_null() {
                let _ = sys::cuEventSynchronize(self.done);
                let _ = sys::cuEventDestroy_v2(self.done);
            }
            if !self.executable.is_null() {
                let _ = sys::cuGraphExecDestroy(self.executable);
            }
            if !self.graph.is_null() {
                let _ = sys::cuGraphDestroy(self.graph);
            }
            if let Some(base) = self.staging {
                let _ = sys::cuMemFreeHost(base.as_ptr().cast());
            }
        }
    }
}

/// What a kernel node is made from; `arguments` has the address of the parameter struct.
fn kernel_params(
    queue: &Queue,
    op: &'static str,
    kernel: &'static str,
    geometry: Geometry,
    arguments: &mut [*mut std::ffi::c_void; 1],
) -> Result<sys::CUDA_KERNEL_NODE_PARAMS> {
    let function = queue.gpu().function(op, kernel, geometry.shared_bytes)?;
    let ([bx, by, bz], [tx, ty, tz]) = (geometry.blocks, geometry.threads);
    Ok(sys::CUDA_KERNEL_NODE_PARAMS {
        func: function.raw,
        gridDimX: bx,
        gridDimY: by,
        gridDimZ: bz,
        blockDimX: tx,
        blockDimY: ty,
        blockDimZ: tz,
        sharedMemBytes: geometry.shared_bytes,
        kernelParams: arguments.as_mut_ptr(),
        extra: std::ptr::null_mut(),
        kern: std::ptr::null_mut(),
        ctx: std::ptr::null_mut(),
    })
}

/// A copy of `bytes` bytes from the host, as the copy of a box with one row.
fn row_from_host(from: *const std::ffi::c_void, to: sys::CUdeviceptr, bytes: usize) -> sys::CUDA_MEMCPY3D {
    sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: from,
        srcDevice: 0,
        srcArray: std::ptr::null_mut(),
        reserved0: std::ptr::null_mut(),
        srcPitch: bytes,
        srcHeight: 1,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: to,
        dstArray: std::ptr::null_mut(),
        reserved1: std::ptr::null_mut(),
        dstPitch: bytes,
        dstHeight: 1,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}
