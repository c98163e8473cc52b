//! Virtual memory management: addresses are reserved, memory is created, and one is mapped to the other.
//!
//! Memory that is mapped at two places at once is refused, and its contents do not outlive the mapping.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::Location;
use super::multicast::{self, Multicast};
use crate::driver::context::current;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain};
use crate::driver::gpu::gpu;
use crate::driver::objects::{Object, object};
use crate::driver::{Outcome, functions};
use crate::memory::GRANULARITY;

/// Memory without an address.
pub struct Physical {
    pub(super) bytes: u64,
    properties: Properties,
    is_mapped: AtomicBool,
}

object!(Physical, 13, Error::InvalidValue);

impl Drop for Physical {
    fn drop(&mut self) {
        if let Ok(gpu) = gpu() {
            gpu.memory.give_capacity(self.bytes);
        }
    }
}

/// What is mapped where, so that released memory lives as long as its mapping.
static MAPPED: Mutex<BTreeMap<u64, Arc<Physical>>> = Mutex::new(BTreeMap::new());

/// See [`MAPPED`].
pub(super) fn mapped() -> MutexGuard<'static, BTreeMap<u64, Arc<Physical>>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `CUmemAllocationProp`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Properties {
    kind: u32,
    handle_types: u32,
    location: Location,
    metadata: u64,
    /// Compression, remote access, usage, and what is reserved.
    flags: [u8; 8],
}

// SAFETY: numbers without padding.
unsafe impl Plain for Properties {}

/// `CUmemAccessDesc`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Access {
    location: Location,
    flags: u32,
}

// SAFETY: three integers.
unsafe impl Plain for Access {}

/// Pinned memory of the only device that cannot be handed to others.
fn check(properties: &Properties) -> Outcome {
    const PINNED: u32 = 1;
    if properties.kind != PINNED || !is_device(properties.location) {
        return Err(Error::InvalidValue);
    }
    if properties.handle_types != 0 { Err(Error::NotSupported) } else { Ok(()) }
}

fn is_device(location: Location) -> bool {
    const DEVICE: u32 = 1;
    location.kind == DEVICE && location.id == 0
}

/// `CUmemAccess_flags`.
const READ_AND_WRITE: u32 = 3;

functions! {
    fn cuMemGetAllocationGranularity(granularity: Out<usize>, properties: In<Properties>, option: u32) {
        gpu()?;
        check(&properties.get()?)?;
        if option > 1 {
            return Err(Error::InvalidValue);
        }
        granularity.set(GRANULARITY as usize)
    }

    /// The address that is wished for is not looked at.
    fn cuMemAddressReserve(address: Out<u64>, bytes: usize, alignment: usize, _wish: u64, flags: u64) {
        let gpu = gpu()?;
        if flags != 0 || address.is_null() || (alignment != 0 && !alignment.is_power_of_two()) {
            return Err(Error::InvalidValue);
        }
        address.set(gpu.memory.reserve(bytes as u64, alignment as u64)?)
    }

    fn cuMemAddressFree(address: u64, bytes: usize) {
        gpu()?.memory.unreserve(address, bytes as u64).map_err(|_| Error::InvalidValue)
    }

    fn cuMemCreate(handle: Out<Handle<Physical>>, bytes: usize, properties: In<Properties>, flags: u64) {
        let gpu = gpu()?;
        let properties = properties.get()?;
        check(&properties)?;
        if flags != 0 || handle.is_null() || bytes == 0 || !(bytes as u64).is_multiple_of(GRANULARITY) {
            return Err(Error::InvalidValue);
        }
        gpu.memory.take_capacity(bytes as u64)?;
        let memory = Physical { bytes: bytes as u64, properties, is_mapped: AtomicBool::new(false) };
        handle.set(Physical::registry().insert(Arc::new(memory)))
    }

    /// What is mapped stays until it is unmapped.
    fn cuMemRelease(handle: Handle<Physical>) {
        gpu()?;
        if Multicast::registry().remove(handle.0).is_some() {
            return Ok(());
        }
        handle.take().map(|_| ())
    }

    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: Handle<Physical>, flags: u64) {
        let gpu = gpu()?;
        if let Some(object) = Multicast::registry().find(handle.0) {
            return multicast::map(address, bytes as u64, offset as u64, object, flags);
        }
        let memory = handle.get()?;
        if flags != 0 || offset != 0 || bytes as u64 != memory.bytes {
            return Err(Error::InvalidValue);
        }
        if memory.is_mapped.swap(true, Ordering::AcqRel) {
            return Err(Error::NotSupported);
        }
        if let Err(problem) = gpu.memory.map(address, bytes as u64) {
            memory.is_mapped.store(false, Ordering::Release);
            return Err(problem.into());
        }
        mapped().insert(address, memory);
        multicast::refresh(&gpu.memory);
        Ok(())
    }

    fn cuMemUnmap(address: u64, bytes: usize) {
        let gpu = gpu()?;
        if let Ok(context) = current() {
            context.drain();
        }
        for part in gpu.memory.unmap(address, bytes as u64)? {
            if let Some(memory) = mapped().remove(&part) {
                memory.is_mapped.store(false, Ordering::Release);
            }
            multicast::unmapped(part);
        }
        multicast::refresh(&gpu.memory);
        Ok(())
    }

    /// Memory that may only be read may be written too.
    fn cuMemSetAccess(address: u64, bytes: usize, descriptions: In<Access>, count: usize) {
        let gpu = gpu()?;
        if count == 0 || count > 64 {
            return Err(Error::InvalidValue);
        }
        for description in descriptions.list(count)? {
            if !is_device(description.location) || !matches!(description.flags, 0 | 1 | READ_AND_WRITE) {
                return Err(Error::InvalidValue);
            }
            // The addresses of a multicast object are for instructions of their own alone.
            if !multicast::holds(address, bytes as u64) {
                gpu.memory.set_access(address, bytes as u64, description.flags != 0)?;
            }
        }
        Ok(())
    }

    fn cuMemGetAccess(flags: Out<u64>, location: In<Location>, address: u64) {
        let gpu = gpu()?;
        if !is_device(location.get()?) {
            return Err(Error::InvalidValue);
        }
        let accessible = gpu.memory.access_at(address).ok_or(Error::InvalidValue)?;
        flags.set(if accessible { READ_AND_WRITE.into() } else { 0 })
    }

    fn cuMemGetAllocationPropertiesFromHandle(properties: Out<Properties>, handle: Handle<Physical>) {
        gpu()?;
        properties.set(handle.get()?.properties)
    }

    fn cuMemRetainAllocationHandle(handle: Out<Handle<Physical>>, address: u64) {
        gpu()?;
        let memory = {
            let mapped = mapped();
            let found = mapped.range(..=address).next_back();
            found.filter(|(start, memory)| address < **start + memory.bytes).map(|(_, memory)| memory.clone())
        };
        handle.set(Physical::registry().insert(memory.ok_or(Error::InvalidValue)?))
    }
}
