//! What is behind an address.

use crate::driver::context::current;
use crate::driver::errors::Error;
use crate::driver::ffi::{In, Out, write};
use crate::driver::{Outcome, functions};
use crate::memory::{Allocation, Kind};

/// `CUpointer_attribute`.
mod attribute {
    pub const CONTEXT: u32 = 1;
    pub const MEMORY_TYPE: u32 = 2;
    pub const DEVICE_POINTER: u32 = 3;
    pub const HOST_POINTER: u32 = 4;
    pub const SYNC_MEMOPS: u32 = 6;
    pub const BUFFER_ID: u32 = 7;
    pub const IS_MANAGED: u32 = 8;
    pub const DEVICE_ORDINAL: u32 = 9;
    pub const IS_IPC_CAPABLE: u32 = 10;
    pub const RANGE_START: u32 = 11;
    pub const RANGE_SIZE: u32 = 12;
    pub const MAPPED: u32 = 13;
    pub const ALLOWED_HANDLE_TYPES: u32 = 14;
    pub const IS_RDMA_CAPABLE: u32 = 15;
    pub const ACCESS_FLAGS: u32 = 16;
    pub const MEMPOOL: u32 = 17;
}

/// Writes one attribute of an address in an allocation.
fn tell(data: u64, number: u32, address: u64, found: &Allocation, context: u64) -> Outcome {
    const HOST: u32 = 1;
    const DEVICE: u32 = 2;
    const READ_AND_WRITE: u32 = 3;
    let on_host = matches!(found.kind, Kind::Pinned | Kind::Registered);
    match number {
        attribute::CONTEXT => write(data, &context),
        attribute::MEMORY_TYPE => write(data, &if on_host { HOST } else { DEVICE }),
        attribute::DEVICE_POINTER => write(data, &address),
        attribute::HOST_POINTER if found.kind.on_host() => write(data, &address),
        attribute::HOST_POINTER => Err(Error::InvalidValue),
        attribute::SYNC_MEMOPS | attribute::DEVICE_ORDINAL => write(data, &0u32),
        attribute::BUFFER_ID => write(data, &found.serial),
        attribute::IS_MANAGED => write(data, &u8::from(found.kind == Kind::Managed)),
        attribute::IS_IPC_CAPABLE | attribute::IS_RDMA_CAPABLE => write(data, &0u8),
        attribute::RANGE_START => write(data, &found.start),
        attribute::RANGE_SIZE => write(data, &found.bytes),
        attribute::MAPPED => write(data, &1u8),
        attribute::ALLOWED_HANDLE_TYPES | attribute::MEMPOOL => write(data, &0u64),
        attribute::ACCESS_FLAGS => write(data, &READ_AND_WRITE),
        _ => Err(Error::InvalidValue),
    }
}

functions! {
    fn cuPointerGetAttribute(data: Out<u8>, attribute: u32, address: u64) {
        let context = current()?;
        let found = context.gpu.memory.allocation_at(address).ok_or(Error::InvalidValue)?;
        tell(data.address(), attribute, address, &found, context.number)
    }

    /// For an address that is nobody's this succeeds, with zeros.
    fn cuPointerGetAttributes(count: u32, attributes: Out<u32>, data: Out<u64>, address: u64) {
        let context = current()?;
        let numbers = attributes.list(count as usize)?;
        let places = data.list(count as usize)?;
        let found = context.gpu.memory.allocation_at(address);
        for (number, place) in numbers.into_iter().zip(places) {
            let told = found.as_ref().map(|found| tell(place, number, address, found, context.number));
            let unknown = !matches!(told, Some(Ok(())));
            if unknown {
                match number {
                    attribute::IS_MANAGED | attribute::IS_IPC_CAPABLE | attribute::MAPPED | attribute::IS_RDMA_CAPABLE => {
                        write(place, &0u8)?;
                    }
                    attribute::MEMORY_TYPE | attribute::SYNC_MEMOPS | attribute::ACCESS_FLAGS => write(place, &0u32)?,
                    attribute::DEVICE_ORDINAL => write(place, &-2i32)?,
                    attribute::CONTEXT..=attribute::MEMPOOL => write(place, &0u64)?,
                    _ => return Err(Error::InvalidValue),
                }
            }
        }
        Ok(())
    }

    /// Copies are ordered as the attribute asks in any case.
    fn cuPointerSetAttribute(value: In<u32>, attribute: u32, address: u64) {
        let context = current()?;
        context.gpu.memory.allocation_at(address).ok_or(Error::InvalidValue)?;
        value.get()?;
        if attribute == attribute::SYNC_MEMOPS { Ok(()) } else { Err(Error::InvalidValue) }
    }
}
