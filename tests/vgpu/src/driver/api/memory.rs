//! Allocations: device, pitched, host-pinned, registered, managed.

use crate::driver::context::current;
use crate::driver::engine::capture::refuse_unsafe;
use crate::driver::errors::Error;
use crate::driver::ffi::Out;
use crate::driver::{Outcome, functions};
use crate::memory::{Kind, MemoryError};

/// Rows of a pitched allocation begin at multiples of this.
const PITCH: usize = 512;

fn allocate(address: Out<u64>, bytes: usize, kind: Kind) -> Outcome {
    let context = current()?;
    refuse_unsafe()?;
    if address.is_null() {
        return Err(Error::InvalidValue);
    }
    address.set(context.allocate(bytes as u64, kind)?)
}

functions! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        allocate(address, bytes, Kind::Device)
    }

    fn cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        if !matches!(element, 4 | 8 | 16) {
            return Err(Error::InvalidValue);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Error::InvalidValue)?;
        let bytes = row.checked_mul(height).ok_or(Error::OutOfMemory)?;
        pitch.set(row)?;
        allocate(address, bytes, Kind::Device)
    }

    fn cuMemFree_v2(address: u64) {
        let context = current()?;
        if address == 0 {
            return Ok(());
        }
        refuse_unsafe()?;
        context.free(address, |kind| matches!(kind, Kind::Device | Kind::Managed | Kind::Pooled))
    }

    fn cuMemAllocHost_v2(address: Out<u64>, bytes: usize) {
        allocate(address, bytes, Kind::Pinned)
    }

    fn cuMemHostAlloc(address: Out<u64>, bytes: usize, flags: u32) {
        if flags & !7 != 0 {
            return Err(Error::InvalidValue);
        }
        allocate(address, bytes, Kind::Pinned)
    }

    fn cuMemFreeHost(address: u64) {
        let context = current()?;
        if address == 0 {
            return Ok(());
        }
        refuse_unsafe()?;
        context.free(address, |kind| *kind == Kind::Pinned)
    }

    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32) {
        let context = current()?;
        if flags & !15 != 0 {
            return Err(Error::InvalidValue);
        }
        context.gpu.memory.register(address, bytes as u64)?;
        context.own(address);
        Ok(())
    }

    fn cuMemHostUnregister(address: u64) {
        let context = current()?;
        context.free(address, |kind| *kind == Kind::Registered).map_err(|_| Error::HostMemoryNotRegistered)
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<u64>, host: u64, flags: u32) {
        let context = current()?;
        let on_host = context.gpu.memory.allocation_at(host).is_some_and(|allocation| allocation.kind.on_host());
        if flags != 0 || !on_host {
            return Err(Error::InvalidValue);
        }
        device.set(host)
    }

    /// All pinned memory is portable and mapped.
    fn cuMemHostGetFlags(flags: Out<u32>, host: u64) {
        const PORTABLE_AND_MAPPED: u32 = 3;
        match current()?.gpu.memory.allocation_at(host) {
            Some(found) if matches!(found.kind, Kind::Pinned | Kind::Registered) => flags.set(PORTABLE_AND_MAPPED),
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: u32) {
        const GLOBAL_OR_HOST: [u32; 3] = [1, 2, 4];
        if !GLOBAL_OR_HOST.contains(&flags) {
            return Err(Error::InvalidValue);
        }
        allocate(address, bytes, Kind::Managed)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let context = current()?;
        free.set(context.gpu.memory.free_bytes() as usize)?;
        total.set(context.gpu.memory.capacity() as usize)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let allocation = current()?.gpu.memory.allocation_at(address).ok_or(Error::NotFound)?;
        base.set_if_wanted(allocation.start)?;
        bytes.set_if_wanted(allocation.bytes as usize)
    }

    /// Managed memory has one place, so advice changes nothing.
    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, _device: i32) {
        managed_range(address, bytes)?;
        if (1..=6).contains(&advice) { Ok(()) } else { Err(Error::InvalidValue) }
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, _location: Location) {
        managed_range(address, bytes)?;
        if (1..=6).contains(&advice) { Ok(()) } else { Err(Error::InvalidValue) }
    }

    fn cuMemPrefetchAsync | cuMemPrefetchAsync_ptsz(address: u64, bytes: usize, _device: i32,
                                                    stream: super::stream::StreamHandle) {
        crate::driver::context::stream(stream)?;
        managed_range(address, bytes)
    }

    fn cuMemPrefetchAsync_v2 | cuMemPrefetchAsync_v2_ptsz(address: u64, bytes: usize, _location: Location, _flags: u32,
                                                          stream: super::stream::StreamHandle) {
        crate::driver::context::stream(stream)?;
        managed_range(address, bytes)
    }

    /// Attribute 1 is "read mostly"; 2 and 4 are locations, of which there is none (-2).
    fn cuMemRangeGetAttribute(data: Out<i32>, size: usize, attribute: u32, address: u64, bytes: usize) {
        managed_range(address, bytes)?;
        match attribute {
            1 if size == 4 => data.set(0),
            2 | 4 if size == 4 => data.set(-2),
            3 if size > 0 && size.is_multiple_of(4) => data.set_list(&vec![-2; size / 4]),
            _ => Err(Error::InvalidValue),
        }
    }
}

/// `CUmemLocation`, passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Location {
    /// `CUmemLocationType`.
    pub kind: u32,
    /// The device, or the node of the host.
    pub id: i32,
}

// SAFETY: two integers.
unsafe impl crate::driver::ffi::Plain for Location {}

/// A range inside one managed allocation.
fn managed_range(address: u64, bytes: usize) -> Outcome {
    let memory = &current()?.gpu.memory;
    let inside = memory.window(address, bytes as u64).is_some();
    let managed = memory.allocation_at(address).is_some_and(|allocation| allocation.kind == Kind::Managed);
    if bytes > 0 && inside && managed {
        Ok(())
    } else {
        Err(MemoryError::OutOfBounds(memory.story(address, bytes as u64)).into())
    }
}
