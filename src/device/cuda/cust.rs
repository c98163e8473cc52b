//! Together with [cust](https://docs.rs/cust): its streams run our ops, its memory is our views, our tensors are its pointers.
//!
//! Both libraries work in the device's primary context (cust's `quick_init`, `Context::new`), so addresses and streams of one are valid in the other. This is
//! behind the feature `cust`, which is off: cust 0.3 links against libcuda, and its build script looks for a CUDA toolkit (`CUDA_LIBRARY_PATH`).
//!
//! ```no_run
//! use cust::memory::{CopyDestination, DeviceBuffer};
//! use cust::stream::{Stream, StreamFlags};
//! use deem::device::cuda::cust as interop;
//! use deem::ops::activation::{self, Activation};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let _context = cust::quick_init()?;
//! let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
//! let x = DeviceBuffer::from_slice(&[-1f32, 2.0, 3.0])?;
//! let y = DeviceBuffer::from_slice(&[0f32; 3])?;
//! // SAFETY: stream and buffers live longer than what is made of them, and the buffers have three elements.
//! unsafe {
//!     let cx = interop::context(0, &stream)?;
//!     let (from, to) = (interop::view::<f32>(&cx, x.as_device_ptr(), [3]), interop::view_mut::<f32>(&cx, y.as_device_ptr(), [3]));
//!     activation::forward(&cx, Activation::Relu, from?, to?)?;
//! }
//! stream.synchronize()?;
//! let mut found = [0f32; 3];
//! y.copy_to(&mut found)?;
//! assert_eq!(found, [0.0, 2.0, 3.0]);
//! # Ok(())
//! # }
//! ```

use ::cust::memory::{DeviceCopy, DevicePointer};
use ::cust::stream::Stream;
use half::bf16;

use super::{Gpu, Queue};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Place, Shape, View, ViewMut};

/// A storage type and what cust calls it.
pub trait Shared: Element {
    /// The element of cust's pointers: the type itself, or `u16` for bf16, whose crate cust knows in an older version only.
    type Of: DeviceCopy;
}

impl Shared for f32 {
    type Of = f32;
}
impl Shared for f64 {
    type Of = f64;
}
impl Shared for bf16 {
    type Of = u16;
}

/// A context whose ops run on a stream of cust's, on the device with this number.
///
/// # Safety
/// The stream was made in the primary context of that device, and lives longer than the context and everything that is made from it.
///
/// # Errors
/// [`Error::Device`] as for [`Context::cuda`].
pub unsafe fn context(device: u32, stream: &Stream) -> Result<Context> {
    // SAFETY: the caller's promise.
    Ok(Context::on(unsafe { Queue::adopt(Gpu::open(device)?, stream.as_inner().cast()) }))
}

/// The device of a context, which must have one, and the address of a pointer, which must be one for elements of this type unless there are none.
fn checked<E: Shared>(cx: &Context, pointer: DevicePointer<E::Of>, shape: Shape) -> Result<(*mut E, Place)> {
    let fail = |reason: String| Err(Error::Device { device: cx.device().to_string(), reason });
    let Some(queue) = cx.queue() else {
        return fail(
            "memory of cust's is on a CUDA device: make the context with `cust::context`, or `Context::cuda`".into(),
        );
    };
    let address = pointer.as_raw() as usize;
    if !shape.is_empty() && (address == 0 || address % align_of::<E>() != 0) {
        return fail(format!(
            "a device pointer to elements of {} is {address:#x}, expected a multiple of {} that is not 0",
            E::DTYPE,
            align_of::<E>()
        ));
    }
    Ok((std::ptr::without_provenance_mut(address), Place::Cuda(queue.gpu().index())))
}

/// Memory of cust's as an input of ops.
///
/// # Safety
/// The pointer is to as many initialised elements as the shape has, which live, and which nothing writes, until the ops that read the view are done.
///
/// # Errors
/// [`Error::Device`] for a context without a stream, a null or misaligned pointer.
pub unsafe fn view<'a, E: Shared>(
    cx: &Context,
    pointer: DevicePointer<E::Of>,
    shape: impl Into<Shape>,
) -> Result<View<'a, E>> {
    let shape = shape.into();
    let (first, place) = checked::<E>(cx, pointer, shape)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { View::foreign(first, place, shape) })
}

/// Memory of cust's as an output of ops.
///
/// # Safety
/// The pointer is to room for as many elements as the shape has, which lives, and which nothing else touches, until the ops that write the view are done.
///
/// # Errors
/// As [`view`].
pub unsafe fn view_mut<'a, E: Shared>(
    cx: &Context,
    pointer: DevicePointer<E::Of>,
    shape: impl Into<Shape>,
) -> Result<ViewMut<'a, E>> {
    let shape = shape.into();
    let (first, place) = checked::<E>(cx, pointer, shape)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { ViewMut::foreign(first, place, shape) })
}

/// The address of a view, for kernels that cust launches. It is valid for as long as the tensor lives; what was asked of another stream has to be waited for.
///
/// # Errors
/// [`Error::Device`] for a view that is not on a CUDA device.
pub fn pointer<E: Shared>(view: View<'_, E>) -> Result<DevicePointer<E::Of>> {
    match view.place() {
        Place::Cuda(_) => Ok(DevicePointer::from_raw(view.address().addr() as u64)),
        place => Err(Error::Device {
            device: format!("{place:?}"),
            reason: "a tensor there has no address on a device: copy it to one (Context::tensor)".into(),
        }),
    }
}
