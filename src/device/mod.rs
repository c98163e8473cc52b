//! Devices: where tensors live and ops run.
//!
//! A [`Context`] is what every op is given first: the device, its threads, and the arena that outputs and scratch come from.

mod pool;

pub use pool::Pool;
pub(crate) use pool::SendPtr;

use std::fmt;
use std::str::FromStr;

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Arena, Shape, Tensor};

/// A place where ops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor: complete, fast, and the default.
    Host,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Host => f.write_str("host"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        match (kind, index.parse::<u32>()) {
            ("host", Ok(0)) => Ok(Device::Host),
            ("cuda", Ok(_)) => Err(Error::Device {
                device: text.into(),
                reason: "this version has no CUDA device yet; use `--device host`".into(),
            }),
            _ => Err(Error::Device { device: text.into(), reason: "expected `host` or `cuda[:N]`".into() }),
        }
    }
}

/// Device, threads and activation memory, given to every op and block.
pub struct Context {
    device: Device,
    pool: Pool,
    arena: Arena,
}

impl Context {
    /// The host with `threads` threads (0: one per processor) and an arena that grows as needed.
    pub fn host(threads: usize) -> Self {
        Context { device: Device::Host, pool: Pool::new(threads), arena: Arena::new() }
    }

    /// A context for a dry run: ops check their arguments, arenas count, nothing is computed.
    pub fn planning() -> Self {
        Context { device: Device::Host, pool: Pool::new(1), arena: Arena::counting() }
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The device's threads.
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

    /// A tensor with these elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Shape`] if the counts differ.
    pub fn tensor<E: Element>(&self, shape: impl Into<Shape>, data: &[E]) -> Result<Tensor<E>> {
        Tensor::from_slice(&self.arena, shape, data)
    }
}
