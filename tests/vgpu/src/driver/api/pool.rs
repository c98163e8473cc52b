//! Stream-ordered allocations and their pools.
//!
//! The address is taken when the call is made; the stream's order decides when it is given back. A pool counts what
//! is allocated from it and keeps what it is told; since memory is given back at once, nothing is ever reserved
//! beyond what is used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::machine;
use super::memory::Location;
use super::stream::StreamHandle;
use crate::driver::context::{current, stream};
use crate::driver::engine::capture;
use crate::driver::engine::graph::Task;
use crate::driver::engine::operation::Operation;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain, read, write};
use crate::driver::gpu::gpu;
use crate::driver::objects::{Object, object};
use crate::driver::{Outcome, functions};
use crate::memory::Kind;

/// A memory pool.
pub struct Pool {
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    /// The three reuse policies, all on in the beginning.
    policies: [u32; 3],
    release_threshold: u64,
    sizes: BTreeMap<u64, u64>,
    used: u64,
    most_used: u64,
}

object!(Pool, 11, Error::InvalidValue);

impl Pool {
    fn new() -> Arc<Pool> {
        Arc::new(Pool { state: Mutex::new(PoolState { policies: [1; 3], ..PoolState::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, address: u64, bytes: u64) {
        let mut state = self.lock();
        state.sizes.insert(address, bytes);
        state.used += bytes;
        state.most_used = state.most_used.max(state.used);
    }

    fn remove(&self, address: u64) {
        let mut state = self.lock();
        if let Some(bytes) = state.sizes.remove(&address) {
            state.used -= bytes;
        }
    }
}

/// The device's pools: the default one, and the current one.
struct DevicePools {
    default: Option<Handle<Pool>>,
    current: Option<Handle<Pool>>,
}

static DEVICE: Mutex<DevicePools> = Mutex::new(DevicePools { default: None, current: None });

fn device_pools() -> MutexGuard<'static, DevicePools> {
    let mut pools = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    if pools.default.is_none() {
        pools.default = Some(Pool::registry().insert(Pool::new()));
    }
    pools
}

fn current_pool() -> Handle<Pool> {
    let pools = device_pools();
    let usual = pools.default.unwrap_or(Handle::new(0));
    pools.current.filter(|pool| pool.get().is_ok()).unwrap_or(usual)
}

fn allocate(address: Out<u64>, bytes: usize, pool: Handle<Pool>, handle: StreamHandle) -> Outcome {
    let stream = stream(handle)?;
    let pool = pool.get()?;
    if address.is_null() {
        return Err(Error::InvalidValue);
    }
    let start = stream.context()?.allocate(bytes as u64, Kind::Pooled)?;
    pool.add(start, bytes as u64);
    capture::record(&stream, || Task::Allocate { address: start, bytes: bytes as u64 })?;
    address.set(start)
}

/// A part of `CUmemPoolProps`: the rest is padding, and a security descriptor of another system.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PoolProperties {
    kind: u32,
    handle_types: u32,
    location: Location,
}

// SAFETY: four integers.
unsafe impl Plain for PoolProperties {}

/// `CUmemPool_attribute`.
mod attribute {
    pub const FIRST_POLICY: u32 = 1;
    pub const LAST_POLICY: u32 = 3;
    pub const RELEASE_THRESHOLD: u32 = 4;
    pub const RESERVED: u32 = 5;
    pub const RESERVED_HIGH: u32 = 6;
    pub const USED: u32 = 7;
    pub const USED_HIGH: u32 = 8;
}

/// Whether a place and a kind of allocation are those that pools are for: pinned memory of the device.
fn on_device(location: In<Location>, kind: u32) -> Outcome {
    const DEVICE: u32 = 1;
    const PINNED: u32 = 1;
    let location = location.get()?;
    if location.kind != DEVICE || kind != PINNED {
        return Err(Error::NotSupported);
    }
    machine(location.id).map(|_| ())
}

functions! {
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz(address: Out<u64>, bytes: usize, stream: StreamHandle) {
        allocate(address, bytes, current_pool(), stream)
    }

    fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz(address: Out<u64>, bytes: usize, pool: Handle<Pool>,
                                                              stream: StreamHandle) {
        allocate(address, bytes, pool, stream)
    }

    fn cuMemFreeAsync | cuMemFreeAsync_ptsz(address: u64, handle: StreamHandle) {
        let stream = stream(handle)?;
        if address == 0 {
            return Ok(());
        }
        let known = stream.context()?.gpu.memory.allocation_at(address).is_some_and(|found| {
            found.start == address && matches!(found.kind, Kind::Pooled | Kind::Device | Kind::Managed)
        });
        if !known {
            return stream.context()?.free_now(address);
        }
        if capture::record(&stream, || Task::Release { address })?.is_none() {
            Pool::registry().all().iter().for_each(|pool| pool.remove(address));
            stream.submit(Operation::Free(address), None)?;
        }
        Ok(())
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle<Pool>>, device: i32) {
        machine(device)?;
        pool.set(device_pools().default.ok_or(Error::NotSupported)?)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle<Pool>>, device: i32) {
        machine(device)?;
        pool.set(current_pool())
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle<Pool>) {
        machine(device)?;
        pool.get()?;
        device_pools().current = Some(pool);
        Ok(())
    }

    fn cuMemGetDefaultMemPool(pool: Out<Handle<Pool>>, location: In<Location>, kind: u32) {
        on_device(location, kind)?;
        pool.set(device_pools().default.ok_or(Error::NotSupported)?)
    }

    fn cuMemGetMemPool(pool: Out<Handle<Pool>>, location: In<Location>, kind: u32) {
        on_device(location, kind)?;
        pool.set(current_pool())
    }

    fn cuMemSetMemPool(location: In<Location>, kind: u32, pool: Handle<Pool>) {
        on_device(location, kind)?;
        pool.get()?;
        device_pools().current = Some(pool);
        Ok(())
    }

    fn cuMemPoolCreate(pool: Out<Handle<Pool>>, properties: In<PoolProperties>) {
        gpu()?;
        const PINNED: u32 = 1;
        const DEVICE_LOCATION: u32 = 1;
        let wanted = properties.get()?;
        if wanted.kind != PINNED || wanted.location.kind != DEVICE_LOCATION || wanted.location.id != 0 {
            return Err(Error::InvalidValue);
        }
        if wanted.handle_types != 0 {
            return Err(Error::NotSupported);
        }
        pool.set(Pool::registry().insert(Pool::new()))
    }

    /// What was allocated from it stays until it is freed.
    fn cuMemPoolDestroy(pool: Handle<Pool>) {
        gpu()?;
        if device_pools().default == Some(pool) {
            return Err(Error::InvalidValue);
        }
        pool.take().map(|_| ())
    }

    fn cuMemPoolTrimTo(pool: Handle<Pool>, _bytes_to_keep: usize) {
        gpu()?;
        pool.get().map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: Handle<Pool>, number: u32, value: Out<u8>) {
        gpu()?;
        let pool = pool.get()?;
        let state = pool.lock();
        match number {
            attribute::FIRST_POLICY..=attribute::LAST_POLICY => {
                write(value.address(), &state.policies[number as usize - 1])
            }
            attribute::RELEASE_THRESHOLD => write(value.address(), &state.release_threshold),
            attribute::RESERVED | attribute::USED => write(value.address(), &state.used),
            attribute::RESERVED_HIGH | attribute::USED_HIGH => write(value.address(), &state.most_used),
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuMemPoolSetAttribute(pool: Handle<Pool>, number: u32, value: In<u8>) {
        gpu()?;
        let pool = pool.get()?;
        let mut state = pool.lock();
        match number {
            attribute::FIRST_POLICY..=attribute::LAST_POLICY => {
                state.policies[number as usize - 1] = read(value.address())?;
            }
            attribute::RELEASE_THRESHOLD => state.release_threshold = read(value.address())?,
            // The only value that may be set is zero: start counting anew.
            attribute::RESERVED_HIGH | attribute::USED_HIGH if read::<u64>(value.address())? == 0 => {
                state.most_used = state.used;
            }
            _ => return Err(Error::InvalidValue),
        }
        Ok(())
    }

    fn cuMemPoolSetAccess(pool: Handle<Pool>, _descriptions: In<[u32; 3]>, _count: usize) {
        current()?;
        pool.get().map(|_| ())
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle<Pool>, _location: In<Location>) {
        const READ_AND_WRITE: u32 = 3;
        gpu()?;
        pool.get()?;
        flags.set(READ_AND_WRITE)
    }
}
