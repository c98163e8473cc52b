//! Devices: where tensors live and ops run.
//!
//! A [`Context`] is what every op is given first: the device, its threads or its stream, and the arena that outputs and scratch come from.

pub mod cuda;
mod pool;

pub use cuda::{Capability, Event, GraphCounts, Graphs, Range};
pub use pool::Pool;
pub(crate) use pool::SendPtr;

use std::fmt;
use std::ptr::NonNull;
use std::str::FromStr;
use std::sync::Arc;

use cuda::{Geometry, Gpu, Queue};

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Arena, DeviceMemory, Place, Scalar, Shape, Tensor, View};

/// A place where ops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor: complete, fast, and the default.
    Host,
    /// The CUDA device with this number.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Host => f.write_str("host"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        match (kind, index.parse::<u32>()) {
            ("host", Ok(0)) => Ok(Device::Host),
            ("cuda", Ok(index)) => Ok(Device::Cuda(index)),
            _ => Err(Error::Device { device: text.into(), reason: "expected `host` or `cuda[:N]`".into() }),
        }
    }
}

/// What runs the ops of a context.
#[derive(Clone)]
enum Backend {
    Host,
    Cuda(Arc<Queue>),
    /// A dry run for a device: launches are counted out, not made.
    Planned {
        index: u32,
        capability: Capability,
    },
}

/// Device, threads or stream, and activation memory, given to every op and block.
pub struct Context {
    backend: Backend,
    pool: Arc<Pool>,
    arena: Arena,
}

impl Context {
    /// The host with `threads` threads (0: one per processor) and an arena that grows as needed.
    pub fn host(threads: usize) -> Self {
        Context { backend: Backend::Host, pool: Arc::new(Pool::new(threads)), arena: Arena::new() }
    }

    /// The CUDA device with this number, a stream of it, and an arena in its memory that grows as needed.
    ///
    /// # Errors
    /// [`Error::Device`] without a driver or device; the message says what helps.
    pub fn cuda(index: u32) -> Result<Self> {
        Ok(Self::on(Queue::new(Gpu::open(index)?)?))
    }

    /// A context that works on the given queue.
    pub fn on(queue: Queue) -> Self {
        let queue = Arc::new(queue);
        let arena = Arena::on(queue.clone());
        Context { backend: Backend::Cuda(queue), pool: Arc::new(Pool::new(1)), arena }
    }

    /// The context of a device; `threads` as for [`Context::host`].
    ///
    /// # Errors
    /// As [`Context::cuda`].
    pub fn new(device: Device, threads: usize) -> Result<Self> {
        match device {
            Device::Host => Ok(Self::host(threads)),
            Device::Cuda(index) => Self::cuda(index),
        }
    }

    /// A context for a dry run on the host: ops check their arguments, arenas count, nothing is computed.
    pub fn planning() -> Self {
        Context { backend: Backend::Host, pool: Arc::new(Pool::new(1)), arena: Arena::counting() }
    }

    /// A context for a dry run of what this one would do, scratch memory of its kernels included.
    pub fn planning_alike(&self) -> Self {
        let backend = match &self.backend {
            Backend::Cuda(queue) => {
                Backend::Planned { index: queue.gpu().index(), capability: queue.gpu().capability() }
            }
            other => other.clone(),
        };
        let arena = match backend {
            Backend::Host => Arena::counting(),
            _ => Arena::counting_for_device(),
        };
        Context { backend, pool: Arc::new(Pool::new(1)), arena }
    }

    /// The device.
    pub fn device(&self) -> Device {
        match &self.backend {
            Backend::Host => Device::Host,
            Backend::Cuda(queue) => Device::Cuda(queue.gpu().index()),
            Backend::Planned { index, .. } => Device::Cuda(*index),
        }
    }

    /// Compute capability of a CUDA device, also in a dry run; `None` on the host.
    pub fn capability(&self) -> Option<Capability> {
        match &self.backend {
            Backend::Host => None,
            Backend::Cuda(queue) => Some(queue.gpu().capability()),
            Backend::Planned { capability, .. } => Some(*capability),
        }
    }

    /// Whether ops run on a CUDA device (or, in a dry run, would).
    pub fn is_cuda(&self) -> bool {
        !matches!(self.backend, Backend::Host)
    }

    /// The stream of a CUDA device; `None` on the host and in a dry run.
    pub fn queue(&self) -> Option<&Arc<Queue>> {
        match &self.backend {
            Backend::Cuda(queue) => Some(queue),
            _ => None,
        }
    }

    /// The host's threads. A context of a CUDA device has one, the caller's.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Where activations and scratch come from.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Whether this is a dry run: tensors have no elements, ops return after their checks.
    pub fn is_planning(&self) -> bool {
        self.arena.is_counting()
    }

    /// A tensor whose elements are not set yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn uninit<E: Element>(&self, shape: impl Into<Shape>) -> Result<Tensor<E>> {
        Tensor::uninit(&self.arena, shape)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros<E: Element>(&self, shape: impl Into<Shape>) -> Result<Tensor<E>> {
        Tensor::zeros(&self.arena, shape)
    }

    /// A tensor with these elements, copied to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Shape`] if the counts differ; [`Error::Device`].
    pub fn tensor<E: Element>(&self, shape: impl Into<Shape>, data: &[E]) -> Result<Tensor<E>> {
        Tensor::from_slice(&self.arena, shape, data)
    }

    /// A copy of a tensor's elements on the host; waits for the device. Empty in a dry run.
    ///
    /// # Errors
    /// [`Error::Device`] if a kernel before failed.
    pub fn read<E: Element>(&self, tensor: &Tensor<E>) -> Result<Vec<E>> {
        tensor.to_vec()
    }

    /// A copy of a view's elements on the host; waits for the device. Empty in a dry run.
    ///
    /// # Errors
    /// [`Error::Device`] if a kernel before failed, or if the elements are not in this context's reach.
    pub fn read_view<E: Element>(&self, view: View<'_, E>) -> Result<Vec<E>> {
        match (view.place(), self.queue()) {
            (Place::Cuda(index), Some(queue)) if queue.gpu().index() == index => {
                let mut elements = vec![E::default(); view.shape().len()];
                if let (Some(first), false) = (NonNull::new(view.address().cast_mut().cast()), elements.is_empty()) {
                    queue.download(first, bytemuck::cast_slice_mut(&mut elements))?;
                }
                Ok(elements)
            }
            (Place::Cuda(index), _) => {
                let reason =
                    format!("elements in the memory of cuda:{index} are read through another device's context");
                Err(Error::Device { device: self.device().to_string(), reason })
            }
            _ => Ok(view.data().to_vec()),
        }
    }

    /// The values of numbers that ops found, with one wait for the device. 0 each in a dry run.
    ///
    /// # Errors
    /// [`Error::Device`] if a kernel before failed.
    pub fn values(&self, numbers: &[Scalar]) -> Result<Vec<f64>> {
        let tensors: Vec<_> = numbers.iter().flat_map(Scalar::tensors).collect();
        let mut found = vec![0.0; tensors.len()];
        let addresses: Vec<_> =
            tensors.iter().filter_map(|t| NonNull::new(t.view().address().cast_mut().cast())).collect();
        if let (Some(queue), false) = (self.queue(), tensors.is_empty()) {
            queue.gather(&addresses, size_of::<f64>(), bytemuck::cast_slice_mut(&mut found))?;
        }
        let mut found = found.into_iter();
        Ok(numbers.iter().map(|number| number.sum_of(&mut found)).collect())
    }

    /// Overwrites a tensor's elements; `data` may be changed once this returns.
    ///
    /// # Errors
    /// [`Error::Shape`] if the counts differ; [`Error::Device`].
    ///
    /// # Panics
    /// If the tensor is shared, as [`Tensor::data_mut`].
    pub fn write<E: Element>(&self, tensor: &mut Tensor<E>, data: &[E]) -> Result<()> {
        tensor.write(data)
    }

    /// Waits until all ops so far are done.
    ///
    /// # Errors
    /// [`Error::Device`] if one of them failed.
    pub fn synchronize(&self) -> Result<()> {
        self.queue().map_or(Ok(()), |queue| queue.synchronize())
    }

    /// Names what is done until the range is dropped, in the timeline of a profiler; nothing without one, and on the host.
    pub fn range(&self, name: &str) -> Range {
        Range::new(name)
    }

    /// Launches `kernel` of `cuda/<op>.cu`; nothing in a dry run.
    ///
    /// # Safety
    /// As [`Queue::launch`]: the parameters are those of the kernel, and their pointers hold what it accesses.
    ///
    /// # Errors
    /// As [`Queue::launch`].
    pub(crate) unsafe fn launch<P: Copy>(
        &self,
        op: &'static str,
        kernel: &'static str,
        geometry: Geometry,
        params: &P,
    ) -> Result<()> {
        match &self.backend {
            Backend::Cuda(queue) => {
                let _range = Range::new(op);
                // SAFETY: the caller's contract.
                unsafe { queue.launch(op, kernel, geometry, params) }
            }
            Backend::Planned { .. } => Ok(()),
            Backend::Host => {
                Err(Error::Device { device: "host".into(), reason: format!("`{kernel}` is no code for it") })
            }
        }
    }
}
