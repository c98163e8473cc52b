//! Functions: attributes and occupancy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::device::machine;
use super::launch::LaunchConfig;
use crate::driver::context::current;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out};
use crate::driver::gpu::gpu;
use crate::driver::module::{Function, Module};
use crate::driver::{Outcome, functions};
use crate::machine::limits::{LARGEST_CLUSTER, MOST_THREADS, PORTABLE_CLUSTER};
use crate::machine::{Machine, WARP};

/// The value of a `CUfunction_attribute`.
fn attribute_value(machine: &Machine, function: &Function, attribute: u32) -> Outcome<i32> {
    let kernel = &function.kernel;
    let needs = function.needs(machine);
    let version = |(major, minor): (u32, u32)| (major * 10 + minor) as i32;
    Ok(match attribute {
        0 => machine.most_threads(&needs) as i32,
        1 => kernel.static_shared_bytes as i32,
        // Parameters are constants too.
        2 => kernel.param_bytes as i32,
        3 => kernel.local_bytes as i32,
        4 => needs.registers as i32,
        5 => version(kernel.ptx_version),
        6 => version((machine.capability.major, machine.capability.minor)),
        7 => 0,
        8 => function.max_dynamic_shared.load(Ordering::Relaxed),
        9 => function.carveout.load(Ordering::Relaxed),
        10 => i32::from(kernel.required_cluster.is_some()),
        11..=13 => function.cluster[attribute as usize - 11].load(Ordering::Relaxed),
        14 => function.large_clusters.load(Ordering::Relaxed),
        15 => function.cluster_policy.load(Ordering::Relaxed),
        _ => return Err(Error::InvalidValue),
    })
}

fn set_attribute(machine: &Machine, function: &Function, attribute: u32, value: i32) -> Outcome {
    let most = machine.shared_per_block_optin as i32 - function.kernel.static_shared_bytes as i32;
    let (place, allowed) = match attribute {
        8 => (&function.max_dynamic_shared, 0..=most),
        9 => (&function.carveout, -1..=100),
        11..=13 if function.kernel.required_cluster.is_none() => {
            (&function.cluster[attribute as usize - 11], 0..=LARGEST_CLUSTER as i32)
        }
        14 => (&function.large_clusters, 0..=1),
        15 => (&function.cluster_policy, 0..=2),
        _ => return Err(Error::InvalidValue),
    };
    if !allowed.contains(&value) {
        return Err(Error::InvalidValue);
    }
    place.store(value, Ordering::Relaxed);
    Ok(())
}

/// Offset and size of a parameter.
fn parameter(function: &Function, index: usize, offset: Out<usize>, size: Out<usize>) -> Outcome {
    let parameter = function.kernel.params.get(index).ok_or(Error::InvalidValue)?;
    offset.set(parameter.offset as usize)?;
    size.set_if_wanted(parameter.size as usize)
}

/// The block that fills a multiprocessor best, and the blocks that fill the GPU with it.
fn best_block(machine: &Machine, function: &Function, shared: impl Fn(u32) -> u64, limit: i32) -> (u32, u32) {
    let needs = function.needs(machine);
    let most = machine.most_threads(&needs);
    let limit = if limit <= 0 { most } else { most.min(limit as u32) };
    let sizes = (1..=limit / WARP).rev().map(|warps| warps * WARP).chain((limit < WARP).then_some(limit));
    let resident = |threads: u32| machine.occupancy(&needs, threads as u64, shared(threads));
    // The largest block among those that keep most threads resident.
    let mut best = (0, 0);
    for threads in sizes {
        if resident(threads) * threads > best.0 * best.1 {
            best = (resident(threads), threads);
        }
    }
    (best.0 * machine.multiprocessors, best.1)
}

fn resident_blocks(count: Out<i32>, function: Handle<Function>, block: i32, shared: usize) -> Outcome {
    let context = current()?;
    let machine = &context.gpu.config.machine;
    if block <= 0 {
        return Err(Error::InvalidValue);
    }
    let function = function.get()?;
    let needs = function.needs(machine);
    let fits = block as u32 <= machine.most_threads(&needs);
    count.set(if fits { machine.occupancy(&needs, block as u64, shared as u64) as i32 } else { 0 })
}

fn potential_block(
    grid: Out<i32>,
    block: Out<i32>,
    function: Handle<Function>,
    shared_of: Option<extern "C" fn(i32) -> usize>,
    shared: usize,
    limit: i32,
) -> Outcome {
    let context = current()?;
    let function = function.get()?;
    let dynamic = |threads: u32| shared_of.map_or(shared, |shared_of| shared_of(threads as i32)) as u64;
    let (blocks, threads) = best_block(&context.gpu.config.machine, &function, dynamic, limit);
    grid.set(blocks as i32)?;
    block.set(threads as i32)
}

fn kernel(handle: Handle<Function>, device: i32) -> Outcome<(&'static Machine, Arc<Function>)> {
    Ok((machine(device)?, handle.get()?))
}

functions! {
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle<Function>) {
        let context = current()?;
        value.set(attribute_value(&context.gpu.config.machine, &*function.get()?, attribute)?)
    }

    fn cuFuncSetAttribute(function: Handle<Function>, attribute: u32, value: i32) {
        let context = current()?;
        set_attribute(&context.gpu.config.machine, &*function.get()?, attribute, value)
    }

    fn cuFuncSetCacheConfig(function: Handle<Function>, config: u32) {
        current()?;
        function.get()?;
        if config <= 3 { Ok(()) } else { Err(Error::InvalidValue) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle<Function>, config: u32) {
        current()?;
        function.get()?;
        if config <= 2 { Ok(()) } else { Err(Error::InvalidValue) }
    }

    fn cuFuncGetModule(module: Out<Handle<Module>>, function: Handle<Function>) {
        current()?;
        let found = function.get()?.module.number.load(Ordering::Relaxed);
        module.set(Handle::new(found))
    }

    fn cuFuncGetName(name: Out<u64>, function: Handle<Function>) {
        gpu()?;
        name.set(function.get()?.c_name())
    }

    fn cuFuncGetParamInfo(function: Handle<Function>, index: usize, offset: Out<usize>, size: Out<usize>) {
        gpu()?;
        parameter(&*function.get()?, index, offset, size)
    }

    fn cuFuncGetParamCount(function: Handle<Function>, count: Out<usize>) {
        gpu()?;
        count.set(function.get()?.kernel.params.len())
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: Handle<Function>) {
        const LOADED: u32 = 1;
        gpu()?;
        function.get()?;
        state.set(LOADED)
    }

    fn cuFuncLoad(function: Handle<Function>) {
        gpu()?;
        function.get().map(|_| ())
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, handle: Handle<Function>, device: i32) {
        let (machine, function) = kernel(handle, device)?;
        value.set(attribute_value(machine, &function, attribute)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, handle: Handle<Function>, device: i32) {
        let (machine, function) = kernel(handle, device)?;
        set_attribute(machine, &function, attribute, value)
    }

    fn cuKernelSetCacheConfig(handle: Handle<Function>, config: u32, device: i32) {
        kernel(handle, device)?;
        if config <= 3 { Ok(()) } else { Err(Error::InvalidValue) }
    }

    fn cuKernelGetName(name: Out<u64>, function: Handle<Function>) {
        gpu()?;
        name.set(function.get()?.c_name())
    }

    fn cuKernelGetParamInfo(function: Handle<Function>, index: usize, offset: Out<usize>, size: Out<usize>) {
        gpu()?;
        parameter(&*function.get()?, index, offset, size)
    }

    fn cuKernelGetParamCount(function: Handle<Function>, count: Out<usize>) {
        gpu()?;
        count.set(function.get()?.kernel.params.len())
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(count: Out<i32>, function: Handle<Function>, block: i32,
            shared: usize) {
        resident_blocks(count, function, block, shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(count: Out<i32>, function: Handle<Function>, block: i32,
                                                            shared: usize, flags: u32) {
        if flags & !1 != 0 {
            return Err(Error::InvalidValue);
        }
        resident_blocks(count, function, block, shared)
    }

    fn cuOccupancyMaxPotentialBlockSize(grid: Out<i32>, block: Out<i32>, function: Handle<Function>,
            shared_of: Option<extern "C" fn(i32) -> usize>, shared: usize, limit: i32) {
        potential_block(grid, block, function, shared_of, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(grid: Out<i32>, block: Out<i32>, function: Handle<Function>,
            shared_of: Option<extern "C" fn(i32) -> usize>, shared: usize, limit: i32, flags: u32) {
        if flags & !1 != 0 {
            return Err(Error::InvalidValue);
        }
        potential_block(grid, block, function, shared_of, shared, limit)
    }

    /// The most dynamic shared memory with which `blocks` blocks are resident.
    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle<Function>, blocks: i32,
            threads: i32) {
        let context = current()?;
        let machine = &context.gpu.config.machine;
        let function = function.get()?;
        if blocks <= 0 || threads <= 0 || threads > MOST_THREADS as i32 {
            return Err(Error::InvalidValue);
        }
        let share = machine.shared_per_multiprocessor / blocks as u32;
        let each = share.saturating_sub(machine.shared_reserved_per_block);
        let room = each.min(machine.shared_per_block_optin) / 128 * 128;
        bytes.set(room.saturating_sub(function.kernel.static_shared_bytes) as usize)
    }

    fn cuOccupancyMaxPotentialClusterSize(size: Out<i32>, function: Handle<Function>, config: In<LaunchConfig>) {
        let context = current()?;
        config.get()?;
        let function = function.get()?;
        let large = function.large_clusters.load(Ordering::Relaxed) != 0;
        let most = if large { LARGEST_CLUSTER } else { PORTABLE_CLUSTER };
        size.set(if context.gpu.config.machine.capability.major >= 9 { most as i32 } else { 0 })
    }

    fn cuOccupancyMaxActiveClusters(clusters: Out<i32>, function: Handle<Function>, config: In<LaunchConfig>) {
        let context = current()?;
        let machine = &context.gpu.config.machine;
        let function = function.get()?;
        let call = super::launch::shape_of(&config.get()?, &function)?;
        if machine.capability.major < 9 {
            return Err(Error::NotSupported);
        }
        let resident = machine.occupancy(&function.needs(machine), call.threads(), call.dynamic_shared as u64);
        let size: u32 = call.cluster.iter().product();
        clusters.set((resident * machine.multiprocessors / size.max(1)) as i32)
    }
}
