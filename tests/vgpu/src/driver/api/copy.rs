//! Copies.
//!
//! The address tells whether a side is the host's or the device's, as with unified addressing on a GPU; a call that
//! names the sides checks that they are what it names. A copy from pageable memory takes its bytes before the call
//! returns, one to pageable memory is complete when it returns: so GPUs do it too, and programs rely on it.

use std::sync::Arc;

use super::array::Array;
use super::stream::StreamHandle;
use crate::driver::context::{Context, current, stream};
use crate::driver::engine::capture;
use crate::driver::engine::operation::{Copy, Operation, Side};
use crate::driver::engine::stream::Stream;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain, read_bytes};
use crate::driver::{Outcome, functions};
use crate::texture::Image;

/// What a call says about the two sides.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Named {
    Host,
    Device,
    Either,
}

/// Whether a call returns before its work is done.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum When {
    Now,
    InOrder,
}

/// Copies in a batch; on errors the index of the copy, or the largest number if it was none of them.
fn batch(
    destinations: In<u64>,
    sources: In<u64>,
    sizes: In<usize>,
    count: usize,
    handle: StreamHandle,
) -> Result<(), (usize, Error)> {
    let none = |error| (usize::MAX, error);
    // So that nonsense does not ask for all memory.
    if count == 0 || count > 1 << 24 {
        return Err(none(Error::InvalidValue));
    }
    let (destinations, sources) = (destinations.list(count).map_err(none)?, sources.list(count).map_err(none)?);
    let sizes = sizes.list(count).map_err(none)?;
    for (index, ((destination, source), bytes)) in destinations.into_iter().zip(sources).zip(sizes).enumerate() {
        let sides = ((destination, Named::Either), (source, Named::Either));
        run(sides.0, sides.1, bytes, handle, When::InOrder).map_err(|error| (index, error))?;
    }
    Ok(())
}

fn copy(copy: Copy, to: Named, from: Named, handle: StreamHandle, when: When) -> Outcome {
    let stream = stream(handle)?;
    if copy.bytes() == 0 {
        return Ok(());
    }
    submit(&stream, check(&*stream.context()?, copy, to, from)?, when)
}

/// Checks both sides against the live allocations.
fn check(context: &Context, copy: Copy, to: Named, from: Named) -> Outcome<Copy> {
    for (side, named) in [(copy.destination, to), (copy.source, from)] {
        if copy.height > 1 && side.pitch < copy.width
            || copy.depth > 1 && side.plane < side.pitch.saturating_mul(copy.height)
        {
            return Err(Error::InvalidValue);
        }
        let span = copy.span(side)?;
        let memory = &context.gpu.memory;
        let on_device = memory.is_device(side.address);
        if (named == Named::Device && !on_device) || side.address == 0 {
            return Err(Error::InvalidValue);
        }
        if on_device && memory.window(side.address, span).is_none() {
            eprintln!("vgpu: copy: {}", memory.story(side.address, span));
            return Err(Error::InvalidValue);
        }
    }
    Ok(copy)
}

/// Gives a copy to a stream: recorded if it captures, else staged as its memory needs it.
fn submit(stream: &Arc<Stream>, mut copy: Copy, when: When) -> Outcome {
    let context = stream.context()?;
    let memory = &context.gpu.memory;
    let pageable = |side: Side| !memory.is_device(side.address);
    if when == When::Now {
        capture::refuse_unsafe()?;
        capture::refuse_implicit(stream)?;
        capture::refuse(stream)?;
        return stream.run(Operation::Copy(copy));
    }
    if capture::of(stream).is_some() {
        return capture::submit(stream, Operation::Copy(copy)).map(|_| ());
    }
    if pageable(copy.destination) {
        capture::refuse_implicit(stream)?;
        return stream.run(Operation::Copy(copy));
    }
    if pageable(copy.source) {
        let bytes = read_bytes(copy.source.address, copy.span(copy.source)? as usize)?;
        let staged = Arc::new(bytes);
        copy.source.address = staged.as_ptr() as u64;
        copy.staged = Some(staged);
    }
    capture::submit(stream, Operation::Copy(copy)).map(|_| ())
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, std::marker::Copy)]
#[repr(C)]
pub struct Copy2d {
    source: Corner2d,
    destination: Corner2d,
    width: usize,
    height: usize,
}

/// One side of it.
#[derive(Clone, std::marker::Copy)]
#[repr(C)]
struct Corner2d {
    x: usize,
    y: usize,
    memory: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY3D`, and `CUDA_MEMCPY3D_PEER`, which has contexts where this has reserved words.
#[derive(Clone, std::marker::Copy)]
#[repr(C)]
pub struct Copy3d {
    source: Corner3d,
    destination: Corner3d,
    width: usize,
    height: usize,
    depth: usize,
}

/// One side of it.
#[derive(Clone, std::marker::Copy)]
#[repr(C)]
struct Corner3d {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    memory: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    height: usize,
}

// SAFETY: integers; what padding holds is never looked at.
unsafe impl Plain for Copy2d {}
// SAFETY: as above.
unsafe impl Plain for Copy3d {}

/// The address that `CUmemorytype` chooses, and what the caller says it is.
fn base(memory: u32, host: u64, device: u64) -> Outcome<(u64, Named)> {
    match memory {
        1 => Ok((host, Named::Host)),
        2 => Ok((device, Named::Device)),
        4 => Ok((device, Named::Either)),
        _ => Err(Error::InvalidValue),
    }
}

/// `CU_MEMORYTYPE_ARRAY`.
const ARRAY: u32 = 3;

/// A part of an array: where it begins (x in bytes) and how much of it is copied.
fn part_of_array(array: u64, [x, y, z]: [usize; 3], [width, height, depth]: [usize; 3]) -> Outcome<(Side, Named)> {
    let array = Handle::<Array>::new(array).get()?;
    let (rows, planes) = array.rows_and_planes();
    let fits = |from: usize, count: usize, of: u64| from.checked_add(count).is_some_and(|end| end as u64 <= of);
    if !fits(x, width, array.row()) || !fits(y, height, rows) || !fits(z, depth, planes) {
        return Err(Error::InvalidValue);
    }
    let Image { address, pitch, plane, .. } = array.image;
    Ok((Side { address: address + z as u64 * plane + y as u64 * pitch + x as u64, pitch, plane }, Named::Device))
}

impl Corner2d {
    fn side(&self, extents: [usize; 3]) -> Outcome<(Side, Named)> {
        if self.memory == ARRAY {
            return part_of_array(self.array, [self.x, self.y, 0], extents);
        }
        let (address, named) = base(self.memory, self.host, self.device)?;
        let skipped =
            self.y.checked_mul(self.pitch).and_then(|rows| rows.checked_add(self.x)).ok_or(Error::InvalidValue)?;
        let address = address.checked_add(skipped as u64).ok_or(Error::InvalidValue)?;
        Ok((Side { address, pitch: self.pitch as u64, plane: 0 }, named))
    }
}

impl Corner3d {
    fn side(&self, extents: [usize; 3]) -> Outcome<(Side, Named)> {
        if self.memory == ARRAY {
            return part_of_array(self.array, [self.x, self.y, self.z], extents);
        }
        let (address, named) = base(self.memory, self.host, self.device)?;
        let plane = self.pitch.checked_mul(self.height).ok_or(Error::InvalidValue)?;
        let planes = self.z.checked_mul(plane).ok_or(Error::InvalidValue)?;
        let rows = self.y.checked_mul(self.pitch).ok_or(Error::InvalidValue)?;
        let skipped = planes.checked_add(rows).and_then(|sum| sum.checked_add(self.x)).ok_or(Error::InvalidValue)?;
        let address = address.checked_add(skipped as u64).ok_or(Error::InvalidValue)?;
        Ok((Side { address, pitch: self.pitch as u64, plane: plane as u64 }, named))
    }
}

/// A copy in rows as the driver's structure describes it, with what it says about the sides.
fn copy_2d(parameters: &Copy2d) -> Outcome<(Copy, Named, Named)> {
    let extents = [parameters.width, parameters.height, 1];
    let ((destination, to), (source, from)) = (parameters.destination.side(extents)?, parameters.source.side(extents)?);
    let (width, height) = (parameters.width as u64, parameters.height as u64);
    // A pitch of zero stands for rows without gaps.
    let packed = |side: Side| Side { pitch: if side.pitch == 0 { width } else { side.pitch }, ..side };
    Ok((
        Copy { destination: packed(destination), source: packed(source), width, height, depth: 1, staged: None },
        to,
        from,
    ))
}

/// A copy in planes as the driver's structure describes it.
fn copy_3d_named(parameters: &Copy3d) -> Outcome<(Copy, Named, Named)> {
    let extents = [parameters.width, parameters.height, parameters.depth];
    let ((destination, to), (source, from)) = (parameters.destination.side(extents)?, parameters.source.side(extents)?);
    let (width, height, depth) = (parameters.width as u64, parameters.height as u64, parameters.depth as u64);
    let packed = |side: Side| {
        let pitch = if side.pitch == 0 { width } else { side.pitch };
        Side { pitch, plane: if side.plane == 0 { pitch.saturating_mul(height) } else { side.plane }, ..side }
    };
    Ok((
        Copy { destination: packed(destination), source: packed(source), width, height, depth, staged: None },
        to,
        from,
    ))
}

/// The copy of a graph node, checked.
///
/// # Errors
/// [`Error::InvalidValue`] for sizes and addresses, [`Error::InvalidHandle`] for arrays that are none.
pub fn node_copy(context: &Context, parameters: &Copy3d) -> Outcome<Copy> {
    let (copy, to, from) = copy_3d_named(parameters)?;
    check(context, copy, to, from)
}

/// The structure for a copy, as a node tells it.
pub fn node_parameters(copy: &Copy) -> Copy3d {
    const UNIFIED: u32 = 4;
    let corner = |side: Side| Corner3d {
        x: 0,
        y: 0,
        z: 0,
        level: 0,
        memory: UNIFIED,
        host: side.address,
        device: side.address,
        array: 0,
        reserved: 0,
        pitch: side.pitch as usize,
        height: side.plane.checked_div(side.pitch).unwrap_or(0) as usize,
    };
    Copy3d {
        source: corner(copy.source),
        destination: corner(copy.destination),
        width: copy.width as usize,
        height: copy.height as usize,
        depth: copy.depth as usize,
    }
}

fn run_2d(parameters: In<Copy2d>, stream: StreamHandle, when: When) -> Outcome {
    current()?;
    let (made, to, from) = copy_2d(&parameters.get()?)?;
    copy(made, to, from, stream, when)
}

fn run_3d(parameters: In<Copy3d>, stream: StreamHandle, when: When) -> Outcome {
    current()?;
    let (made, to, from) = copy_3d_named(&parameters.get()?)?;
    copy(made, to, from, stream, when)
}

/// Copies of one row.
pub(super) fn run(to: (u64, Named), from: (u64, Named), bytes: usize, stream: StreamHandle, when: When) -> Outcome {
    current()?;
    copy(Copy::linear(to.0, from.0, bytes as u64), to.1, from.1, stream, when)
}

/// The null stream.
const DEFAULT: StreamHandle = Handle::new(0);

functions! {
    fn cuMemcpy | cuMemcpy_ptds(destination: u64, source: u64, bytes: usize) {
        run((destination, Named::Either), (source, Named::Either), bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyAsync | cuMemcpyAsync_ptsz(destination: u64, source: u64, bytes: usize, stream: StreamHandle) {
        run((destination, Named::Either), (source, Named::Either), bytes, stream, When::InOrder)
    }

    /// One after the other. The attributes, which say when sources are read and where they lie, change nothing.
    fn cuMemcpyBatchAsync_v2 | cuMemcpyBatchAsync_v2_ptsz(destinations: In<u64>, sources: In<u64>, sizes: In<usize>,
            count: usize, _attributes: In<u64>, _indices: In<usize>, _attribute_count: usize, stream: StreamHandle) {
        batch(destinations, sources, sizes, count, stream).map_err(|(_, error)| error)
    }

    /// The index of what failed is told too.
    fn cuMemcpyBatchAsync | cuMemcpyBatchAsync_ptsz(destinations: In<u64>, sources: In<u64>, sizes: In<usize>,
            count: usize, _attributes: In<u64>, _indices: In<usize>, _attribute_count: usize, failed: Out<usize>,
            stream: StreamHandle) {
        let result = batch(destinations, sources, sizes, count, stream);
        result.map_err(|(index, error)| match failed.set_if_wanted(index) {
            Ok(()) => error,
            Err(worse) => worse,
        })
    }

    fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(destination: u64, source: u64, bytes: usize) {
        run((destination, Named::Device), (source, Named::Host), bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(destination: u64, source: u64, bytes: usize) {
        run((destination, Named::Host), (source, Named::Device), bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(destination: u64, source: u64, bytes: usize) {
        run((destination, Named::Device), (source, Named::Device), bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(destination: u64, source: u64, bytes: usize,
            stream: StreamHandle) {
        run((destination, Named::Device), (source, Named::Host), bytes, stream, When::InOrder)
    }

    fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(destination: u64, source: u64, bytes: usize,
            stream: StreamHandle) {
        run((destination, Named::Host), (source, Named::Device), bytes, stream, When::InOrder)
    }

    fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(destination: u64, source: u64, bytes: usize,
            stream: StreamHandle) {
        run((destination, Named::Device), (source, Named::Device), bytes, stream, When::InOrder)
    }

    /// All contexts share the one device.
    fn cuMemcpyPeer | cuMemcpyPeer_ptds(destination: u64, to: Handle<Context>, source: u64, from: Handle<Context>,
            bytes: usize) {
        to.get()?;
        from.get()?;
        run((destination, Named::Device), (source, Named::Device), bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz(destination: u64, to: Handle<Context>, source: u64,
            from: Handle<Context>,
                                                  bytes: usize, stream: StreamHandle) {
        to.get()?;
        from.get()?;
        run((destination, Named::Device), (source, Named::Device), bytes, stream, When::InOrder)
    }

    fn cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds(parameters: In<Copy2d>) {
        run_2d(parameters, DEFAULT, When::Now)
    }

    fn cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds(parameters: In<Copy2d>) {
        run_2d(parameters, DEFAULT, When::Now)
    }

    fn cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz(parameters: In<Copy2d>, stream: StreamHandle) {
        run_2d(parameters, stream, When::InOrder)
    }

    fn cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds(parameters: In<Copy3d>) {
        run_3d(parameters, DEFAULT, When::Now)
    }

    fn cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz(parameters: In<Copy3d>, stream: StreamHandle) {
        run_3d(parameters, stream, When::InOrder)
    }

    fn cuMemcpy3DPeer | cuMemcpy3DPeer_ptds(parameters: In<Copy3d>) {
        run_3d(parameters, DEFAULT, When::Now)
    }

    fn cuMemcpy3DPeerAsync | cuMemcpy3DPeerAsync_ptsz(parameters: In<Copy3d>, stream: StreamHandle) {
        run_3d(parameters, stream, When::InOrder)
    }
}
