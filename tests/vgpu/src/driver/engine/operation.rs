//! What a stream or a graph can be asked to do, as data.

use std::ffi::c_void;
use std::sync::Arc;

use super::graph::Plan;
use super::kernel::KernelCall;
use crate::driver::context::Context;
use crate::driver::errors::{Error, Outcome};
use crate::memory::MemoryError;

/// Nanoseconds that even the smallest piece of work takes on the described GPU.
const OVERHEAD_NS: u64 = 2_000;
/// Bytes per nanosecond between host and device: PCI Express 4 with 16 lanes, as measured by many.
const HOST_BYTES_PER_NS: f64 = 25.0;

/// One thing to do.
#[derive(Clone)]
pub enum Operation {
    /// Nothing: an event, or a node that only orders others.
    Nothing,
    /// A kernel.
    Kernel(KernelCall),
    /// A copy.
    Copy(Copy),
    /// A memset.
    Fill(Fill),
    /// A function of the program.
    Host(HostCall),
    /// The end of a stream-ordered allocation.
    Free(u64),
    /// A word of device memory set by the stream.
    WriteValue { address: u64, value: u64, bytes: usize },
    /// A word of device memory that the stream waits for.
    WaitValue { address: u64, value: u64, bytes: usize, condition: u32 },
    /// All the nodes of a graph.
    Graph(Arc<Plan>),
}

/// One side of a copy: rows `pitch` bytes apart, planes `plane` bytes apart. Host or device: the address tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Side {
    /// Address of the first byte.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Bytes from plane to plane.
    pub plane: u64,
}

/// A copy of `depth` planes of `height` rows of `width` bytes.
#[derive(Clone, Default)]
pub struct Copy {
    /// Where to.
    pub destination: Side,
    /// Where from.
    pub source: Side,
    /// Bytes of a row.
    pub width: u64,
    /// Rows of a plane.
    pub height: u64,
    /// Planes.
    pub depth: u64,
    /// The source's bytes, where they were taken when the copy was called: pageable memory of the host may change
    /// after that.
    pub staged: Option<Arc<Vec<u8>>>,
}

/// A memset of `height` rows of `width` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// First byte.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// The element's value; as many of its low bytes as an element has.
    pub value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub element: u32,
    /// Elements of a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
}

/// A function of the program, run in order with the stream's work.
#[derive(Clone, Copy)]
pub struct HostCall {
    /// What to call.
    pub function: HostFunction,
    /// Its argument.
    pub data: *mut c_void,
}

/// The two prototypes of host functions.
#[derive(Clone, Copy)]
pub enum HostFunction {
    /// `cuLaunchHostFunc`.
    Plain(extern "C" fn(*mut c_void)),
    /// `cuStreamAddCallback`, with the stream's handle.
    Callback(extern "C" fn(u64, u32, *mut c_void), u64),
}

// SAFETY: the program said that its function may be called with this argument from a thread of ours.
unsafe impl Send for HostCall {}
// SAFETY: as above.
unsafe impl Sync for HostCall {}

impl Operation {
    /// Whether it takes no time at all.
    pub fn is_instant(&self) -> bool {
        matches!(self, Operation::Nothing)
    }

    /// Does it. Returns the nanoseconds that the described GPU would take.
    ///
    /// # Errors
    /// A fault of a kernel, or memory that is gone since the call was checked.
    pub fn execute(&self, context: &Arc<Context>) -> Outcome<u64> {
        match self {
            Operation::Nothing => Ok(0),
            Operation::Kernel(call) => call.execute(context),
            Operation::Copy(copy) => copy.execute(context),
            Operation::Fill(fill) => fill.execute(context),
            Operation::Host(call) => {
                call.run(0);
                Ok(0)
            }
            Operation::Free(address) => {
                // Freed by something else meanwhile: told, and no harm to those who come after.
                let _ = context.free_now(*address);
                Ok(0)
            }
            Operation::WriteValue { address, value, bytes } => {
                context.gpu.memory.write(*address, &value.to_le_bytes()[..*bytes]).map_err(gone)?;
                Ok(0)
            }
            Operation::WaitValue { address, value, bytes, condition } => {
                wait_for_value(context, *address, *value, *bytes, *condition)
            }
            Operation::Graph(plan) => plan.execute(context),
        }
    }

    /// What is left to do when the context is lost.
    ///
    /// # Errors
    /// Always `error`.
    pub fn abandon(&self, error: Error) -> Outcome<u64> {
        if let Operation::Host(call) = self {
            call.run(error as u32);
        }
        Err(error)
    }
}

/// Device memory that was there when the call was checked and is not any more, or host memory that never was.
fn gone(problem: MemoryError) -> Error {
    eprintln!("vgpu: copy or memset: {problem}");
    match problem {
        MemoryError::BadHostRange { .. } => Error::InvalidValue,
        _ => Error::IllegalAddress,
    }
}

impl HostCall {
    fn run(&self, status: u32) {
        match self.function {
            HostFunction::Plain(function) if status == 0 => function(self.data),
            HostFunction::Plain(_) => {}
            HostFunction::Callback(function, stream) => function(stream, status, self.data),
        }
    }
}

impl Copy {
    /// A copy of `bytes` bytes in a row.
    pub fn linear(destination: u64, source: u64, bytes: u64) -> Copy {
        let side = |address| Side { address, pitch: bytes, plane: bytes };
        Copy { destination: side(destination), source: side(source), width: bytes, height: 1, depth: 1, staged: None }
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> u64 {
        self.width.saturating_mul(self.height).saturating_mul(self.depth)
    }

    /// From the first to one past the last byte that a side touches.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] when that is beyond all addresses.
    pub fn span(&self, side: Side) -> Outcome<u64> {
        let planes = side.plane.checked_mul(self.depth.saturating_sub(1));
        let rows = side.pitch.checked_mul(self.height.saturating_sub(1));
        planes
            .and_then(|planes| planes.checked_add(rows?))
            .and_then(|before| before.checked_add(self.width))
            .filter(|&span| side.address.checked_add(span).is_some())
            .ok_or(Error::InvalidValue)
    }

    fn execute(&self, context: &Context) -> Outcome<u64> {
        let memory = &context.gpu.memory;
        let contiguous =
            |side: Side| side.pitch == self.width && (self.depth == 1 || side.plane == self.width * self.height);
        if contiguous(self.destination) && contiguous(self.source) {
            memory.transfer(self.destination.address, self.source.address, self.bytes()).map_err(gone)?;
        } else {
            for plane in 0..self.depth {
                for row in 0..self.height {
                    let at = |side: Side| side.address + plane * side.plane + row * side.pitch;
                    memory.transfer(at(self.destination), at(self.source), self.width).map_err(gone)?;
                }
            }
        }
        let on_device = |side: Side| memory.is_device(side.address);
        let within = on_device(self.destination) && on_device(self.source);
        // A copy within the device reads and writes the memory.
        let bandwidth = context.gpu.config.machine.memory_bandwidth() * 1e-9 / 2.0;
        let rate = if within { bandwidth } else { HOST_BYTES_PER_NS };
        Ok(OVERHEAD_NS + (self.bytes() as f64 / rate) as u64)
    }
}

impl Fill {
    /// From the first to one past the last byte.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for an element size that there is not, a misaligned start or pitch, or sizes beyond
    /// all addresses.
    pub fn span(&self) -> Outcome<u64> {
        let element = self.element as u64;
        let aligned = |value: u64| value.is_multiple_of(element);
        if !matches!(element, 1 | 2 | 4) || !aligned(self.address) || (self.height > 1 && !aligned(self.pitch)) {
            return Err(Error::InvalidValue);
        }
        let row = self.width.checked_mul(element).ok_or(Error::InvalidValue)?;
        let before = self.pitch.checked_mul(self.height.saturating_sub(1)).ok_or(Error::InvalidValue)?;
        row.checked_add(before).ok_or(Error::InvalidValue)
    }

    fn execute(&self, context: &Context) -> Outcome<u64> {
        let value = self.value.to_le_bytes();
        let pattern = &value[..self.element as usize];
        for row in 0..self.height {
            context.gpu.memory.fill(self.address + row * self.pitch, pattern, self.width).map_err(gone)?;
        }
        let bytes = self.width * self.height * self.element as u64;
        Ok(OVERHEAD_NS + (bytes as f64 / (context.gpu.config.machine.memory_bandwidth() * 1e-9)) as u64)
    }
}

/// Polls a word of memory as `cuStreamWaitValue` asks: 0 is greater or equal, 1 equal, 2 and, 3 nor.
fn wait_for_value(context: &Context, address: u64, value: u64, bytes: usize, condition: u32) -> Outcome<u64> {
    loop {
        let mut word = [0u8; 8];
        context.gpu.memory.read(address, &mut word[..bytes]).map_err(gone)?;
        let found = u64::from_le_bytes(word);
        let difference = if bytes == 4 {
            (found as i32).wrapping_sub(value as i32) as i64
        } else {
            found.wrapping_sub(value) as i64
        };
        let met = match condition & 3 {
            0 => difference >= 0,
            1 => found == value,
            2 => found & value != 0,
            _ => !(found | value) << (64 - 8 * bytes) != 0,
        };
        if met {
            return Ok(0);
        }
        context.check()?;
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}
