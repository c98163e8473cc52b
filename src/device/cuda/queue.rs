//! A stream of a device with its staging buffers.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::sys;

use super::recording::Recording;
use super::{Gpu, describe};
use crate::error::{Error, Result};
use crate::memory::{DeviceMemory, Place};

/// Bytes of one staging buffer. There are two, so that one is filled while the other is on its way.
const STAGING_BYTES: usize = 4 << 20;

/// How many threads a kernel gets, and how much shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block in x, y, z.
    pub threads: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Geometry {
    /// A row of blocks of `threads` threads, without dynamic shared memory.
    ///
    /// # Errors
    /// [`Error::Domain`] if there are more blocks than the 2^31 - 1 that a launch may have.
    pub fn linear(op: &'static str, blocks: usize, threads: u32) -> Result<Self> {
        match i32::try_from(blocks) {
            Ok(blocks) => Ok(Geometry { blocks: [blocks as u32, 1, 1], threads: [threads, 1, 1], shared_bytes: 0 }),
            Err(_) => Err(Error::Domain { op, reason: format!("{blocks} blocks, a launch has at most 2147483647") }),
        }
    }

    /// The same with dynamic shared memory.
    pub fn with_shared_bytes(self, shared_bytes: u32) -> Self {
        Geometry { shared_bytes, ..self }
    }
}

/// Page-locked host memory that copies go through, and the point in the stream from which it may be used again.
struct Staging {
    base: NonNull<u8>,
    /// Bytes that copies on their way may still have.
    used: usize,
    free: sys::CUevent,
}

/// One stream of a device. Uploads, downloads, fills and launches run in the order in which they are called.
pub struct Queue {
    gpu: Arc<Gpu>,
    stream: sys::CUstream,
    /// Whether the stream is ours to destroy.
    owned: bool,
    /// Buffers, made when the first copy needs them; the next to use is the first.
    staging: Mutex<Vec<Staging>>,
    /// What is asked while it is only written down.
    recording: Mutex<Option<Recording>>,
    synchronous: bool,
    graphs: bool,
}

// SAFETY: handles of the driver may be used by any thread; the staging buffers are behind a mutex.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// A new stream of a device.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(gpu: Arc<Gpu>) -> Result<Self> {
        gpu.bind()?;
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current.
        gpu.check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        Ok(Self::over(gpu, stream, true))
    }

    /// Works on a stream that somebody else made in the primary context of this device, and will destroy.
    ///
    /// # Safety
    /// `stream` is a stream of the device's primary context (or null, its default stream) that lives longer than this queue.
    pub unsafe fn adopt(gpu: Arc<Gpu>, stream: sys::CUstream) -> Self {
        Self::over(gpu, stream, false)
    }

    fn over(gpu: Arc<Gpu>, stream: sys::CUstream, owned: bool) -> Self {
        let synchronous = std::env::var_os("DEEM_CUDA_SYNC").is_some_and(|value| value != "0" && !value.is_empty());
        let graphs = std::env::var_os("DEEM_CUDA_GRAPHS").is_none_or(|value| value != "0");
        Queue { gpu, stream, owned, staging: Mutex::default(), recording: Mutex::default(), synchronous, graphs }
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The driver's handle.
    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Waits until everything that was asked of this queue is done.
    ///
    /// # Errors
    /// [`Error::Device`] if some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: the stream lives as long as the queue.
        let result = unsafe { sys::cuStreamSynchronize(self.stream) };
        if result == sys::CUresult::CUDA_SUCCESS {
            return Ok(());
        }
        Err(self.gpu.error(format!("{}; run with DEEM_CUDA_SYNC=1 to learn which kernel it was", describe(result))))
    }

    /// Launches `kernel` of `cuda/<op>.cu` with one argument, its parameter struct; nothing for a grid without blocks.
    ///
    /// # Safety
    /// `P` is the very struct of `ffi/` that the kernel takes, and its pointers are device memory of the shapes that the kernel accesses (the driver
    /// cannot check either), in use by nothing that is not ordered by this stream.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel; a failure of an earlier kernel may come out here.
    pub unsafe fn launch<P: Copy>(
        &self,
        op: &'static str,
        kernel: &'static str,
        geometry: Geometry,
        params: &P,
    ) -> Result<()> {
        // An empty problem.
        if geometry.blocks.contains(&0) {
            return Ok(());
        }
        if let Some(recording) = &mut *self.recording() {
            // SAFETY: the caller's contract, which holds until the works are done: memory given back meanwhile is kept.
            unsafe { recording.launch(op, kernel, geometry, params) };
            return Ok(());
        }
        // SAFETY: the caller's contract.
        unsafe { self.launch_raw(op, kernel, geometry, std::ptr::from_ref(params).cast()) }
    }

    /// [`Queue::launch`] with the address of the parameter struct.
    ///
    /// # Safety
    /// As [`Queue::launch`].
    pub(super) unsafe fn launch_raw(
        &self,
        op: &'static str,
        kernel: &'static str,
        geometry: Geometry,
        params: *const c_void,
    ) -> Result<()> {
        self.gpu.bind()?;
        let function = self.gpu.function(op, kernel, geometry.shared_bytes)?;
        let mut arguments = [params.cast_mut()];
        let ([bx, by, bz], [tx, ty, tz]) = (geometry.blocks, geometry.threads);
        // SAFETY: the driver copies the arguments before it returns; the rest is the caller's contract.
        let result = unsafe {
            let arguments = arguments.as_mut_ptr();
            let (stream, none) = (self.stream, std::ptr::null_mut());
            sys::cuLaunchKernel(function.raw, bx, by, bz, tx, ty, tz, geometry.shared_bytes, stream, arguments, none)
        };
        let place = || format!("{kernel} with blocks {:?} of threads {:?}", geometry.blocks, geometry.threads);
        if result != sys::CUresult::CUDA_SUCCESS {
            let hint = if self.synchronous { "" } else { " (it may be a kernel before; DEEM_CUDA_SYNC=1 tells)" };
            return Err(self.gpu.error(format!("{}: {}{hint}", place(), describe(result))));
        }
        if self.synchronous && !self.is_captured()? {
            // SAFETY: the stream lives as long as the queue.
            let result = unsafe { sys::cuStreamSynchronize(self.stream) };
            if result != sys::CUresult::CUDA_SUCCESS {
                return Err(self.gpu.error(format!("{}: {}", place(), describe(result))));
            }
        }
        Ok(())
    }

    fn recording(&self) -> MutexGuard<'_, Option<Recording>> {
        self.recording.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether work may be written down and done later: not while every launch is waited for, not inside of work that is written down already, and not
    /// while the owner of the stream captures it.
    pub(super) fn may_record(&self) -> bool {
        self.graphs
            && !self.synchronous
            && self.recording().is_none()
            && self.is_captured().is_ok_and(|captured| !captured)
    }

    /// Runs `work` while launches, fills and copies to the device are only written down. What it returned comes with them; if it fails, they are forgotten.
    pub(super) fn recorded<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Recording)> {
        /// Ends the recording also if the work panics.
        struct End<'a>(&'a Queue);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                let forgotten = self.0.recording().take();
                for base in forgotten.into_iter().flat_map(|recording| recording.released) {
                    self.0.release_now(base);
                }
            }
        }
        *self.recording() = Some(Recording::default());
        let _end = End(self);
        let done = work()?;
        Ok((done, self.recording().take().unwrap_or_default()))
    }

    /// Whether the owner of the stream captures it into a graph.
    fn is_captured(&self) -> Result<bool> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream lives as long as the queue.
        self.gpu.check("cuStreamIsCapturing", unsafe { sys::cuStreamIsCapturing(self.stream, &mut status) })?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Fails while the owner of the stream captures it: our staging buffers will hold something else when the graph is replayed.
    fn not_while_captured(&self, what: &str) -> Result<()> {
        if self.is_captured()? {
            return Err(self
                .gpu
                .error(format!("{what} while the stream is captured; do it before, or after a replay")));
        }
        Ok(())
    }

    /// Fails while work is written down: what the host would read is not there yet.
    fn not_while_recording(&self) -> Result<()> {
        if self.recording().is_some() {
            let reason = "a copy to the host inside of work that becomes a graph (Graphs::run); read after it".into();
            return Err(self.gpu.error(reason));
        }
        self.not_while_captured("a copy to the host")
    }

    /// Gives memory back once all work is done.
    pub(super) fn release_now(&self, base: NonNull<u8>) {
        // An error means that the context is lost, and its memory with it.
        if self.gpu.bind().is_ok() {
            // SAFETY: the address came from `reserve`; what still uses it is waited for.
            unsafe {
                let _ = sys::cuStreamSynchronize(self.stream);
                let _ = sys::cuMemFree_v2(number(base));
            }
        }
    }

    /// Calls `copy` with a free part of a staging buffer for each part of `len` bytes; what it asks of the stream has that part until it is done.
    ///
    /// Small copies share a buffer one after the other, so that the host waits for the device only when both buffers are full.
    fn staged(
        &self,
        len: usize,
        mut copy: impl FnMut(NonNull<u8>, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut buffers = self.staging.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while buffers.len() < 2 {
            buffers.push(self.buffer()?);
        }
        let mut start = 0;
        while start < len {
            let wanted = (len - start).min(STAGING_BYTES);
            if buffers[0].used + wanted > STAGING_BYTES {
                buffers.rotate_left(1);
                // SAFETY: the event lives as long as the queue; one that was never recorded is done.
                self.gpu.check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(buffers[0].free) })?;
                buffers[0].used = 0;
            }
            let buffer = &mut buffers[0];
            // SAFETY: so many bytes are left in the buffer.
            let free = unsafe { buffer.base.add(buffer.used) };
            buffer.used = (buffer.used + wanted).next_multiple_of(64);
            copy(free, start..start + wanted)?;
            // SAFETY: event and stream live as long as the queue.
            self.gpu.check("cuEventRecord", unsafe { sys::cuEventRecord(buffer.free, self.stream) })?;
            start += wanted;
        }
        Ok(())
    }

    fn buffer(&self) -> Result<Staging> {
        let (mut base, mut free) = (std::ptr::null_mut(), std::ptr::null_mut());
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the context is current.
        unsafe {
            self.gpu.check("page-locked host memory", sys::cuMemHostAlloc(&mut base, STAGING_BYTES, 0))?;
            self.gpu.check("cuEventCreate", sys::cuEventCreate(&mut free, flags))?;
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| self.gpu.error("page-locked host memory at null".into()))?;
        Ok(Staging { base, used: 0, free })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.gpu.bind().is_err() {
            return;
        }
        let staging = self.staging.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: nobody else has the stream (if it is ours) or the buffers, and what was asked of them is waited for. Errors have nowhere to go.
        unsafe {
            let _ = sys::cuStreamSynchronize(self.stream);
            for Staging { base, free, .. } in staging.drain(..) {
                let _ = sys::cuEventDestroy_v2(free);
                let _ = sys::cuMemFreeHost(base.as_ptr().cast());
            }
            if self.owned {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
        }
    }
}

/// The driver's number for an address.
fn number(address: NonNull<u8>) -> sys::CUdeviceptr {
    address.as_ptr().addr() as sys::CUdeviceptr
}

impl DeviceMemory for Queue {
    fn place(&self) -> Place {
        Place::Cuda(self.gpu.index())
    }

    fn reserve(&self, bytes: usize) -> Result<Option<NonNull<u8>>> {
        self.gpu.bind()?;
        let mut address = 0;
        // SAFETY: the context is current.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            result => {
                self.gpu.check("cuMemAlloc", result)?;
                Ok(NonNull::new(std::ptr::without_provenance_mut(address as usize)))
            }
        }
    }

    fn release(&self, base: NonNull<u8>) {
        match &mut *self.recording() {
            Some(recording) => recording.released.push(base),
            None => self.release_now(base),
        }
    }

    fn fill(&self, to: NonNull<u8>, value: u8, bytes: usize) -> Result<()> {
        if let Some(recording) = &mut *self.recording() {
            recording.fill(to, value, bytes);
            return Ok(());
        }
        self.gpu.bind()?;
        // SAFETY: the range is inside a reservation.
        self.gpu.check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(number(to), value, bytes, self.stream) })
    }

    fn upload(&self, to: NonNull<u8>, from: &[u8]) -> Result<()> {
        if let Some(recording) = &mut *self.recording() {
            recording.upload(to, from);
            return Ok(());
        }
        self.gpu.bind()?;
        self.not_while_captured("a copy from the host")?;
        self.staged(from.len(), |buffer, part| {
            let (start, len) = (part.start, part.len());
            // SAFETY: the buffer is free and has room for the part; the target is inside a reservation.
            unsafe {
                buffer.as_ptr().copy_from_nonoverlapping(from[part].as_ptr(), len);
                let target = number(to) + start as sys::CUdeviceptr;
                self.gpu.check(
                    "copy to the device",
                    sys::cuMemcpyHtoDAsync_v2(target, buffer.as_ptr().cast(), len, self.stream),
                )
            }
        })
    }

    fn download(&self, from: NonNull<u8>, to: &mut [u8]) -> Result<()> {
        self.gpu.bind()?;
        self.not_while_recording()?;
        self.staged(to.len(), |buffer, part| {
            let source = number(from) + part.start as sys::CUdeviceptr;
            // SAFETY: the buffer is free and has room for the part; the source is inside a reservation; the copy is waited for.
            unsafe {
                let result = sys::cuMemcpyDtoHAsync_v2(buffer.as_ptr().cast(), source, part.len(), self.stream);
                self.gpu.check("copy to the host", result)?;
                self.synchronize()?;
                to[part.clone()].as_mut_ptr().copy_from_nonoverlapping(buffer.as_ptr(), part.len());
            }
            Ok(())
        })
    }

    fn gather(&self, from: &[NonNull<u8>], bytes: usize, to: &mut [u8]) -> Result<()> {
        self.gpu.bind()?;
        self.not_while_recording()?;
        let each = (STAGING_BYTES / bytes.max(1)).max(1);
        for (from, to) in from.chunks(each).zip(to.chunks_mut(each * bytes)) {
            self.staged(to.len(), |buffer, part| {
                for (i, &from) in from.iter().enumerate() {
                    // SAFETY: the buffer has room for all of them, and each source is inside of a reservation.
                    let result = unsafe {
                        let to = buffer.as_ptr().add(i * bytes).cast();
                        sys::cuMemcpyDtoHAsync_v2(to, number(from), bytes, self.stream)
                    };
                    self.gpu.check("copy to the host", result)?;
                }
                self.synchronize()?;
                // SAFETY: the copies are done.
                unsafe { to[part.clone()].as_mut_ptr().copy_from_nonoverlapping(buffer.as_ptr(), part.len()) };
                Ok(())
            })?;
        }
        Ok(())
    }
}
