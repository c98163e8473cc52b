//! Points in a stream, for timing.

use std::sync::Arc;

use cudarc::driver::sys;

use super::{Gpu, Queue};
use crate::error::Result;

/// A point in a stream that the device passes at some time.
pub struct Event {
    gpu: Arc<Gpu>,
    raw: sys::CUevent,
}

// SAFETY: handles of the driver may be used by any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// The end of everything that was asked of the queue so far.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn record(queue: &Queue) -> Result<Self> {
        let gpu = queue.gpu().clone();
        gpu.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current; the stream lives as long as the queue.
        unsafe {
            gpu.check("cuEventCreate", sys::cuEventCreate(&mut raw, sys::CUevent_flags::CU_EVENT_DEFAULT as u32))?;
            let event = Event { gpu, raw };
            event.gpu.check("cuEventRecord", sys::cuEventRecord(raw, queue.stream()))?;
            Ok(event)
        }
    }

    /// Waits until the device has passed this point.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if something before it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: the event is ours.
        self.gpu.check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.raw) })
    }

    /// Milliseconds of device time between an earlier point and this one; waits for both.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn milliseconds_since(&self, earlier: &Event) -> Result<f64> {
        earlier.synchronize()?;
        self.synchronize()?;
        let mut milliseconds = 0.0;
        // SAFETY: both events are recorded.
        let result = unsafe { sys::cuEventElapsedTime(&mut milliseconds, earlier.raw, self.raw) };
        self.gpu.check("cuEventElapsedTime", result)?;
        Ok(f64::from(milliseconds))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: the event is ours. An error has nowhere to go.
            let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}
