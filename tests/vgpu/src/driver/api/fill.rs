//! Memsets.

use super::stream::StreamHandle;
use crate::driver::context::{Context, stream};
use crate::driver::engine::capture;
use crate::driver::engine::operation::{Fill, Operation};
use crate::driver::errors::Error;
use crate::driver::ffi::Handle;
use crate::driver::{Outcome, functions};

/// The null stream.
const DEFAULT: StreamHandle = Handle::new(0);

/// Checks a memset against the live allocations.
///
/// # Errors
/// [`Error::InvalidValue`].
pub fn check(context: &Context, fill: Fill) -> Outcome<Fill> {
    let span = fill.span()?;
    if context.gpu.memory.window(fill.address, span).is_none() {
        eprintln!("vgpu: memset: {}", context.gpu.memory.story(fill.address, span));
        return Err(Error::InvalidValue);
    }
    Ok(fill)
}

fn fill(fill: Fill, handle: StreamHandle) -> Outcome {
    let stream = stream(handle)?;
    if fill.width == 0 || fill.height == 0 {
        return Ok(());
    }
    let checked = check(&*stream.context()?, fill)?;
    capture::submit(&stream, Operation::Fill(checked)).map(|_| ())
}

/// A memset without a stream is done when the call returns. A GPU only promises its place in the default stream, but
/// takes so little time for it that programs with other streams rely on more.
fn fill_now(fill: Fill) -> Outcome {
    let stream = stream(DEFAULT)?;
    if fill.width == 0 || fill.height == 0 {
        return Ok(());
    }
    let checked = Operation::Fill(check(&*stream.context()?, fill)?);
    if capture::of(&stream).is_some() {
        return capture::submit(&stream, checked).map(|_| ());
    }
    capture::refuse_implicit(&stream)?;
    stream.run(checked)
}

fn row(address: u64, value: u32, element: u32, count: usize) -> Fill {
    Fill { address, pitch: 0, value, element, width: count as u64, height: 1 }
}

fn rows(address: u64, pitch: usize, value: u32, element: u32, width: usize, height: usize) -> Outcome<Fill> {
    if height > 1 && width.checked_mul(element as usize).is_none_or(|bytes| bytes > pitch) {
        return Err(Error::InvalidValue);
    }
    Ok(Fill { address, pitch: pitch as u64, value, element, width: width as u64, height: height as u64 })
}

functions! {
    fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds(address: u64, value: u8, count: usize) {
        fill_now(row(address, value.into(), 1, count))
    }

    fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds(address: u64, value: u16, count: usize) {
        fill_now(row(address, value.into(), 2, count))
    }

    fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds(address: u64, value: u32, count: usize) {
        fill_now(row(address, value, 4, count))
    }

    fn cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds(address: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill_now(rows(address, pitch, value.into(), 1, width, height)?)
    }

    fn cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds(address: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill_now(rows(address, pitch, value.into(), 2, width, height)?)
    }

    fn cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds(address: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill_now(rows(address, pitch, value, 4, width, height)?)
    }

    fn cuMemsetD8Async | cuMemsetD8Async_ptsz(address: u64, value: u8, count: usize, stream: StreamHandle) {
        fill(row(address, value.into(), 1, count), stream)
    }

    fn cuMemsetD16Async | cuMemsetD16Async_ptsz(address: u64, value: u16, count: usize, stream: StreamHandle) {
        fill(row(address, value.into(), 2, count), stream)
    }

    fn cuMemsetD32Async | cuMemsetD32Async_ptsz(address: u64, value: u32, count: usize, stream: StreamHandle) {
        fill(row(address, value, 4, count), stream)
    }

    fn cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz(address: u64, pitch: usize, value: u8, width: usize, height: usize,
                                                  stream: StreamHandle) {
        fill(rows(address, pitch, value.into(), 1, width, height)?, stream)
    }

    fn cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz(address: u64, pitch: usize, value: u16, width: usize, height: usize,
                                                    stream: StreamHandle) {
        fill(rows(address, pitch, value.into(), 2, width, height)?, stream)
    }

    fn cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz(address: u64, pitch: usize, value: u32, width: usize, height: usize,
                                                    stream: StreamHandle) {
        fill(rows(address, pitch, value, 4, width, height)?, stream)
    }
}
