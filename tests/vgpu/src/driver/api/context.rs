//! Contexts: the primary one, explicit ones, and the stack of each thread.

use std::sync::atomic::Ordering;

use super::device::machine;
use crate::driver::context::{Context, current, current_number, current_or_lost, pop, primary, push, replace};
use crate::driver::engine::capture;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out};
use crate::driver::gpu::gpu;
use crate::driver::{Outcome, functions};

/// The bits of `CUctx_flags`.
const KNOWN_FLAGS: u32 = 0xff;

/// Makes a context and puts it on the thread's stack.
fn create(out: Out<Handle<Context>>, flags: u32, device: i32) -> Outcome {
    machine(device)?;
    if flags & !KNOWN_FLAGS != 0 || out.is_null() {
        return Err(Error::InvalidValue);
    }
    let made = Context::create(flags, false)?;
    out.set(Handle::new(made.number))?;
    push(made.number);
    Ok(())
}

functions! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle<Context>>, device: i32) {
        machine(device)?;
        let mut primary = primary();
        let made = primary.ensure()?;
        context.set(Handle::new(made.number))?;
        primary.users += 1;
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        machine(device)?;
        let mut primary = primary();
        primary.users = primary.users.checked_sub(1).ok_or(Error::InvalidContext)?;
        if primary.users == 0 {
            primary.reset();
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        machine(device)?;
        primary().reset();
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        machine(device)?;
        let primary = primary();
        let now = primary.context.as_ref().map_or(primary.flags, |context| context.flags().load(Ordering::Relaxed));
        flags.set_if_wanted(now)?;
        active.set_if_wanted(i32::from(primary.context.is_some()))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        machine(device)?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Error::InvalidValue);
        }
        let mut primary = primary();
        primary.flags = flags;
        if let Some(context) = &primary.context {
            context.flags().store(flags, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cuCtxCreate_v2(context: Out<Handle<Context>>, flags: u32, device: i32) {
        create(context, flags, device)
    }

    /// Affinities are for shared use of a GPU by several processes.
    fn cuCtxCreate_v3(context: Out<Handle<Context>>, _affinities: In<u64>, count: i32, flags: u32, device: i32) {
        if count != 0 {
            return Err(Error::NotSupported);
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: Out<Handle<Context>>, parameters: In<[u64; 3]>, flags: u32, device: i32) {
        if !parameters.is_null() && parameters.get()? != [0; 3] {
            return Err(Error::NotSupported);
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle<Context>) {
        gpu()?;
        let doomed = context.get()?;
        if doomed.is_primary {
            return Err(Error::InvalidContext);
        }
        doomed.destroy();
        if current_number() == Some(context.0) {
            pop();
        }
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle<Context>) {
        gpu()?;
        context.get()?;
        push(context.0);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle<Context>>) {
        gpu()?;
        let number = pop().ok_or(Error::InvalidContext)?;
        context.set_if_wanted(Handle::new(number))
    }

    fn cuCtxSetCurrent(context: Handle<Context>) {
        gpu()?;
        if !context.is_null() {
            context.get()?;
        }
        replace(context.0);
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle<Context>>) {
        gpu()?;
        context.set(Handle::new(current_number().unwrap_or(0)))
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        current_or_lost()?;
        device.set(0)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle<Context>) {
        gpu()?;
        if context.is_null() { current_or_lost()? } else { context.get()? };
        device.set(0)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.set(current()?.flags().load(Ordering::Relaxed))
    }

    fn cuCtxSetFlags(flags: u32) {
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Error::InvalidValue);
        }
        current()?.flags().store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetId(context: Handle<Context>, identifier: Out<u64>) {
        gpu()?;
        let context = if context.is_null() { current_or_lost()? } else { context.get()? };
        identifier.set(context.id)
    }

    fn cuCtxGetApiVersion(context: Handle<Context>, version: Out<u32>) {
        gpu()?;
        if context.is_null() { current_or_lost()? } else { context.get()? };
        version.set(3020)
    }

    fn cuCtxSynchronize() {
        let context = current()?;
        capture::refuse_unsafe()?;
        context.synchronise()
    }

    fn cuCtxSynchronize_v2(context: Handle<Context>) {
        let context = if context.is_null() { current()? } else { context.get()? };
        context.check()?;
        capture::refuse_unsafe()?;
        context.synchronise()
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        value.set(current()?.limit(limit)?.load(Ordering::Relaxed) as usize)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        current()?.limit(limit)?.store(value as u64, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        config.set(current()?.cache_config().load(Ordering::Relaxed))
    }

    fn cuCtxSetCacheConfig(config: u32) {
        if config > 3 {
            return Err(Error::InvalidValue);
        }
        current()?.cache_config().store(config, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        config.set(current()?.bank_config().load(Ordering::Relaxed))
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        if config > 2 {
            return Err(Error::InvalidValue);
        }
        current()?.bank_config().store(config, Ordering::Relaxed);
        Ok(())
    }

    /// Priorities are kept, and do not change what runs when.
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if_wanted(0)?;
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY)
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(|_| ())
    }

    fn cuCtxEnablePeerAccess(peer: Handle<Context>, flags: u32) {
        current()?;
        peer.get()?;
        if flags != 0 { Err(Error::InvalidValue) } else { Err(Error::InvalidDevice) }
    }

    fn cuCtxDisablePeerAccess(peer: Handle<Context>) {
        current()?;
        peer.get()?;
        Err(Error::PeerAccessNotEnabled)
    }
}
