//! Events.
//!
//! Times are those of the described GPU (`VGPU_CLOCK=model`, the default): the distance of two events is the modelled
//! time of the work between them, the same in each run. What the host does in between takes no time there.
//! `VGPU_CLOCK=wall` gives the processor's time.

use std::sync::Arc;

use super::stream::StreamHandle;
use crate::driver::context::{current, stream};
use crate::driver::engine::capture;
use crate::driver::engine::event::Event;
use crate::driver::errors::{Error, Outcome};
use crate::driver::ffi::{Handle, Out};
use crate::driver::functions;
use crate::driver::objects::Object;

fn elapsed(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) -> Outcome {
    let context = current()?;
    let moment = |event: Arc<Event>| {
        if !event.keeps_time() {
            return Err(Error::InvalidHandle);
        }
        // A GPU, too, calls an event invalid that was never recorded.
        event.completion()?.ok_or(Error::InvalidHandle)?.ended().ok_or(Error::NotReady)
    };
    let (start, end) = (moment(start.get()?)?, moment(end.get()?)?);
    let nanoseconds = if context.gpu.modelled_time() {
        end.modelled as f64 - start.modelled as f64
    } else {
        end.wall as f64 - start.wall as f64
    };
    milliseconds.set((nanoseconds * 1e-6) as f32)
}

functions! {
    fn cuEventCreate(event: Out<Handle<Event>>, flags: u32) {
        let context = current()?;
        if flags & !7 != 0 || event.is_null() {
            return Err(Error::InvalidValue);
        }
        event.set(Event::registry().insert(Event::new(context.number, flags)))
    }

    fn cuEventDestroy_v2(event: Handle<Event>) {
        current()?;
        event.take().map(|_| ())
    }

    fn cuEventRecord | cuEventRecord_ptsz(event: Handle<Event>, handle: StreamHandle) {
        capture::record_event(&stream(handle)?, &*event.get()?)
    }

    fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz(event: Handle<Event>, handle: StreamHandle, flags: u32) {
        if flags & !1 != 0 {
            return Err(Error::InvalidValue);
        }
        capture::record_event(&stream(handle)?, &*event.get()?)
    }

    fn cuEventQuery(event: Handle<Event>) {
        let context = current()?;
        match event.get()?.completion()? {
            Some(completion) if completion.ended().is_none() => Err(Error::NotReady),
            _ => context.check(),
        }
    }

    fn cuEventSynchronize(event: Handle<Event>) {
        let context = current()?;
        if let Some(completion) = event.get()?.completion()? {
            completion.wait();
        }
        context.check()
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) {
        elapsed(milliseconds, start, end)
    }
}
