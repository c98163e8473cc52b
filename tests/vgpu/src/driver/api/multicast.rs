//! Multicast objects: memory of several devices behind one address. Ours have one device, so that what is bound is all there is.
//!
//! The addresses at which an object is mapped are for `multimem` alone, which acts on the bound memory ([`crate::memory::Memory::unicast`]); any other access there is
//! out of bounds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::machine;
use super::virtual_memory::{Physical, mapped};
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain};
use crate::driver::gpu::gpu;
use crate::driver::objects::{Object, object};
use crate::driver::{Outcome, functions};
use crate::memory::{Alias, GRANULARITY, Memory};

/// `CUmulticastObjectProp`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Properties {
    devices: u32,
    _padding: u32,
    bytes: u64,
    handle_types: u64,
    flags: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Properties {}

/// What is bound.
enum Bound {
    /// Memory that may be mapped anywhere, from an offset on.
    Memory(Arc<Physical>, u64),
    /// Memory at an address.
    Address(u64),
}

/// A multicast object.
pub struct Multicast {
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_device: bool,
    /// By the offset: bytes, and what is bound.
    parts: BTreeMap<u64, (u64, Bound)>,
}

object!(Multicast, 18, Error::InvalidValue);

/// Where objects are mapped, by the address.
type Mappings = BTreeMap<u64, Mapping>;

/// A part of an object that is mapped.
struct Mapping {
    bytes: u64,
    /// Where it begins within the object.
    offset: u64,
    object: Arc<Multicast>,
}

static MAPPED: Mutex<Mappings> = Mutex::new(BTreeMap::new());

fn objects() -> MutexGuard<'static, Mappings> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Multicast {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The properties of an object that can be made: of one device, in this process.
fn check(properties: &Properties) -> Outcome {
    if machine(0)?.capability.major < 9 || properties.handle_types != 0 {
        return Err(Error::NotSupported);
    }
    let whole = properties.bytes > 0 && properties.bytes.is_multiple_of(GRANULARITY);
    if properties.devices == 1 && properties.flags == 0 && whole { Ok(()) } else { Err(Error::InvalidValue) }
}

/// Maps an object to reserved addresses.
///
/// # Errors
/// [`Error::InvalidValue`] for what is outside of the object or not reserved.
pub fn map(address: u64, bytes: u64, offset: u64, object: Arc<Multicast>, flags: u64) -> Outcome {
    let gpu = gpu()?;
    let inside = offset.checked_add(bytes).is_some_and(|end| end <= object.bytes);
    if flags != 0 || !inside || !offset.is_multiple_of(GRANULARITY) {
        return Err(Error::InvalidValue);
    }
    gpu.memory.map(address, bytes)?;
    objects().insert(address, Mapping { bytes, offset, object });
    refresh(&gpu.memory);
    Ok(())
}

/// A part is not mapped any more.
pub fn unmapped(address: u64) {
    objects().remove(&address);
}

/// Whether a range is one at which an object is mapped.
pub fn holds(address: u64, bytes: u64) -> bool {
    let objects = objects();
    let found = objects.range(..=address).next_back();
    found.is_some_and(|(start, part)| address - start < part.bytes && bytes <= part.bytes - (address - start))
}

/// Tells the memory which addresses stand for which others, after something was mapped or bound.
pub fn refresh(memory: &Memory) {
    let mut aliases = Vec::new();
    for (&start, Mapping { bytes, offset, object }) in objects().iter() {
        for (&place, (size, bound)) in &object.state().parts {
            let target = match bound {
                Bound::Address(address) => Some(*address),
                Bound::Memory(memory, from) => {
                    mapped().iter().find(|(_, other)| Arc::ptr_eq(other, memory)).map(|(address, _)| address + from)
                }
            };
            let (first, end) = (place.max(*offset), (place + size).min(offset + bytes));
            if let Some(target) = target.filter(|_| first < end) {
                let alias = Alias { start: start + first - offset, bytes: end - first, target: target + first - place };
                aliases.push(alias);
            }
        }
    }
    memory.set_aliases(aliases);
}

fn bind(object: Handle<Multicast>, device: i32, offset: usize, bytes: usize, bound: Bound, flags: u64) -> Outcome {
    let gpu = gpu()?;
    machine(device)?;
    let object = object.get()?;
    let (offset, bytes) = (offset as u64, bytes as u64);
    let end = offset.checked_add(bytes).ok_or(Error::InvalidValue)?;
    let whole = offset.is_multiple_of(GRANULARITY) && bytes.is_multiple_of(GRANULARITY) && bytes > 0;
    {
        let mut state = object.state();
        let overlaps = state.parts.range(..end).next_back().is_some_and(|(place, (size, _))| place + size > offset);
        if flags != 0 || !whole || end > object.bytes || overlaps || !state.has_device {
            return Err(Error::InvalidValue);
        }
        state.parts.insert(offset, (bytes, bound));
    }
    refresh(&gpu.memory);
    Ok(())
}

/// Memory that was created, from an offset on.
fn of_handle(memory: Handle<Physical>, offset: usize, bytes: usize) -> Outcome<Bound> {
    gpu()?;
    let memory = memory.get()?;
    let fits = (offset as u64).checked_add(bytes as u64).is_some_and(|end| end <= memory.bytes);
    if fits { Ok(Bound::Memory(memory, offset as u64)) } else { Err(Error::InvalidValue) }
}

/// Memory at an address.
fn of_address(address: u64, bytes: usize) -> Outcome<Bound> {
    let live = gpu()?.memory.window(address, bytes as u64).is_some();
    if live { Ok(Bound::Address(address)) } else { Err(Error::InvalidValue) }
}

functions! {
    fn cuMulticastCreate(object: Out<Handle<Multicast>>, properties: In<Properties>) {
        gpu()?;
        let properties = properties.get()?;
        check(&properties)?;
        let made = Multicast { bytes: properties.bytes, state: Mutex::default() };
        object.set(Multicast::registry().insert(Arc::new(made)))
    }

    fn cuMulticastGetGranularity(granularity: Out<usize>, properties: In<Properties>, option: u32) {
        gpu()?;
        check(&properties.get()?)?;
        if option > 1 { Err(Error::InvalidValue) } else { granularity.set(GRANULARITY as usize) }
    }

    fn cuMulticastAddDevice(object: Handle<Multicast>, device: i32) {
        machine(device)?;
        let object = object.get()?;
        let mut state = object.state();
        if std::mem::replace(&mut state.has_device, true) { Err(Error::InvalidValue) } else { Ok(()) }
    }

    fn cuMulticastBindMem(object: Handle<Multicast>, offset: usize, memory: Handle<Physical>, from: usize,
            bytes: usize, flags: u64) {
        bind(object, 0, offset, bytes, of_handle(memory, from, bytes)?, flags)
    }

    fn cuMulticastBindMem_v2(object: Handle<Multicast>, device: i32, offset: usize, memory: Handle<Physical>,
            from: usize, bytes: usize, flags: u64) {
        bind(object, device, offset, bytes, of_handle(memory, from, bytes)?, flags)
    }

    fn cuMulticastBindAddr(object: Handle<Multicast>, offset: usize, address: u64, bytes: usize, flags: u64) {
        bind(object, 0, offset, bytes, of_address(address, bytes)?, flags)
    }

    fn cuMulticastBindAddr_v2(object: Handle<Multicast>, device: i32, offset: usize, address: u64, bytes: usize,
            flags: u64) {
        bind(object, device, offset, bytes, of_address(address, bytes)?, flags)
    }

    fn cuMulticastUnbind(object: Handle<Multicast>, device: i32, offset: usize, bytes: usize) {
        let gpu = gpu()?;
        machine(device)?;
        let object = object.get()?;
        {
            let mut state = object.state();
            match state.parts.get(&(offset as u64)) {
                Some((size, _)) if *size == bytes as u64 => state.parts.remove(&(offset as u64)),
                _ => return Err(Error::InvalidValue),
            };
        }
        refresh(&gpu.memory);
        Ok(())
    }
}
