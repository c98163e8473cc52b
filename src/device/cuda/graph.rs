//! CUDA graphs: a sequence of launches, captured once and replayed with one call.

use std::sync::Arc;

use cudarc::driver::sys;

use super::Queue;
use crate::error::Result;
use crate::memory::Arena;

/// Captured launches. Each replay reads and writes the very memory of the capture.
pub struct Graph {
    queue: Arc<Queue>,
    executable: sys::CUgraphExec,
    /// The memory that the captured launches use, kept from any other use.
    _arena: Arena,
}

// SAFETY: the driver's handle is used through `&mut self` only, or dropped.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` asks of the queue, without running it. All memory that `work` takes is taken from `arena`, which nothing else uses.
    pub(crate) fn capture<T>(queue: &Arc<Queue>, arena: Arena, work: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let gpu = queue.gpu();
        gpu.bind()?;
        // Relaxed: memory may be reserved meanwhile, and other threads may do what they like.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as the queue.
        let begun = unsafe { sys::cuStreamBeginCapture_v2(queue.stream(), mode) };
        gpu.check("cuStreamBeginCapture", begun)?;
        let done = work();
        gpu.bind()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: as above; ends the capture whether or not the work succeeded.
        let ended = unsafe { sys::cuStreamEndCapture(queue.stream(), &mut graph) };
        let done = match done {
            Ok(done) if ended == sys::CUresult::CUDA_SUCCESS => done,
            failed => {
                if !graph.is_null() {
                    // SAFETY: the graph is ours.
                    let _ = unsafe { sys::cuGraphDestroy(graph) };
                }
                failed?;
                gpu.check("cuStreamEndCapture", ended)?;
                return Err(gpu.error("a capture ended without a graph".into()));
            }
        };
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph is ours and is not needed once there is an executable one.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            made
        };
        gpu.check("cuGraphInstantiate", made)?;
        Ok((Graph { queue: queue.clone(), executable, _arena: arena }, done))
    }

    /// Runs the captured launches once more, after what was asked of the queue before.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn replay(&mut self) -> Result<()> {
        self.queue.gpu().bind()?;
        // SAFETY: the graph's memory is kept by the arena and by the owners of what the work was given.
        let result = unsafe { sys::cuGraphLaunch(self.executable, self.queue.stream()) };
        self.queue.gpu().check("cuGraphLaunch", result)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.queue.synchronize().is_ok() {
            // SAFETY: the graph is ours and does not run. An error has nowhere to go.
            let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
    }
}
