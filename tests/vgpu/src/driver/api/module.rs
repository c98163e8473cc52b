//! Modules: loading, and what is in them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::link::SEPARATOR;
use crate::driver::context::current;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Text, write, write_bytes};
use crate::driver::module::{Function, Module};
use crate::driver::objects::Object;
use crate::driver::{Outcome, functions, image};

/// The `CUjit_option`s that do something here.
mod option {
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BYTES: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BYTES: u32 = 6;
}

/// The buffers in which a program wants to read what the compiler says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logs {
    info: (u64, u64),
    error: (u64, u64),
    /// Where the sizes and the time are written back: addresses of the option values.
    info_bytes: u64,
    error_bytes: u64,
    wall_time: u64,
}

impl Logs {
    /// From the options of a call. Options about code generation have nothing to act on and are passed over.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for lists that cannot be read.
    pub fn read(count: u32, options: Out<u32>, values: Out<u64>) -> Outcome<Logs> {
        let mut logs = Logs::default();
        let numbers = options.list(count as usize)?;
        let values_read = values.list(count as usize)?;
        for (index, (option, value)) in numbers.into_iter().zip(values_read).enumerate() {
            let place = values.address() + 8 * index as u64;
            match option {
                option::INFO_LOG_BUFFER => logs.info.0 = value,
                option::INFO_LOG_BYTES => (logs.info.1, logs.info_bytes) = (value & 0xffff_ffff, place),
                option::ERROR_LOG_BUFFER => logs.error.0 = value,
                option::ERROR_LOG_BYTES => (logs.error.1, logs.error_bytes) = (value & 0xffff_ffff, place),
                option::WALL_TIME => logs.wall_time = place,
                _ => {}
            }
        }
        Ok(logs)
    }

    /// Writes what there is to say, and how long it took.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for buffers that cannot be written.
    pub fn write(&self, error: &str, milliseconds: f32) -> Outcome {
        put(self.info, self.info_bytes, "")?;
        put(self.error, self.error_bytes, error)?;
        if self.wall_time != 0 { write(self.wall_time, &milliseconds) } else { Ok(()) }
    }
}

/// Writes a text into a buffer of the caller, and its length (with the final zero) to where the capacity stood.
fn put((buffer, capacity): (u64, u64), length_place: u64, text: &str) -> Outcome {
    let mut written = 0;
    if buffer != 0 && capacity > 0 {
        let mut bytes = text.as_bytes()[..text.len().min(capacity as usize - 1)].to_vec();
        bytes.push(0);
        write_bytes(buffer, &bytes)?;
        written = if text.is_empty() { 0 } else { bytes.len() as u64 };
    }
    if length_place != 0 { write(length_place, &written) } else { Ok(()) }
}

/// Loads PTX as a module of `context` (zero: of none), and tells the caller's log and standard error what is wrong
/// with it.
///
/// # Errors
/// [`Error::InvalidPtx`] and its like.
pub fn load(sources: &[&str], context: u64, logs: &Logs) -> Outcome<Arc<Module>> {
    let began = std::time::Instant::now();
    let texts: Vec<&str> = sources.iter().flat_map(|source| source.split(SEPARATOR)).collect();
    let loaded = Module::load(&texts, context)?;
    let milliseconds = began.elapsed().as_secs_f32() * 1e3;
    match loaded {
        Ok(module) => {
            logs.write("", milliseconds)?;
            Ok(module)
        }
        Err(problem) => {
            eprintln!("vgpu: module: {problem}");
            logs.write(&problem.to_string(), milliseconds)?;
            Err(problem.kind.into())
        }
    }
}

/// Registers a module of the current context.
fn load_current(source: impl FnOnce() -> Outcome<String>, logs: &Logs, out: Out<Handle<Module>>) -> Outcome {
    let context = current()?;
    if out.is_null() {
        return Err(Error::InvalidValue);
    }
    let module = load(&[&source()?], context.number, logs)?;
    let handle = register(&module);
    out.set(handle)
}

/// Gives a module a handle.
pub fn register(module: &Arc<Module>) -> Handle<Module> {
    let handle = Module::registry().insert(module.clone());
    module.number.store(handle.0, Ordering::Relaxed);
    handle
}

/// The bytes of a file of the caller.
///
/// # Errors
/// [`Error::FileNotFound`].
pub fn read_file(path: Text) -> Outcome<Vec<u8>> {
    let path = path.get()?;
    std::fs::read(&path).map_err(|problem| {
        eprintln!("vgpu: module file `{path}`: {problem}");
        Error::FileNotFound
    })
}

functions! {
    fn cuModuleLoad(module: Out<Handle<Module>>, path: Text) {
        let capability = current()?.gpu.config.machine.capability;
        load_current(|| image::from_bytes(&read_file(path)?, capability), &Logs::default(), module)
    }

    fn cuModuleLoadData(module: Out<Handle<Module>>, image: In<u8>) {
        let capability = current()?.gpu.config.machine.capability;
        load_current(|| image::at_address(image.address(), capability), &Logs::default(), module)
    }

    fn cuModuleLoadDataEx(module: Out<Handle<Module>>, image: In<u8>, count: u32, options: Out<u32>, values: Out<u64>) {
        let capability = current()?.gpu.config.machine.capability;
        let logs = Logs::read(count, options, values)?;
        load_current(|| image::at_address(image.address(), capability), &logs, module)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle<Module>>, image: In<u8>) {
        let capability = current()?.gpu.config.machine.capability;
        load_current(|| image::at_address(image.address(), capability), &Logs::default(), module)
    }

    fn cuModuleUnload(module: Handle<Module>) {
        let context = current()?;
        let module = module.get()?;
        context.synchronise()?;
        module.unload();
        Ok(())
    }

    fn cuModuleGetFunction(function: Out<Handle<Function>>, module: Handle<Module>, name: Text) {
        current()?;
        let handle = module.get()?.function(&name.get()?)?;
        function.set(handle)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle<Module>) {
        current()?;
        count.set(module.get()?.kernel_names().len() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle<Function>>, capacity: u32, module: Handle<Module>) {
        current()?;
        let module = module.get()?;
        for (index, name) in module.kernel_names().iter().take(capacity as usize).enumerate() {
            functions.set_at(index, module.function(name)?)?;
        }
        Ok(())
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle<Module>, name: Text) {
        current()?;
        let (found, size) = module.get()?.variable(&name.get()?)?;
        address.set_if_wanted(found)?;
        bytes.set_if_wanted(size as usize)
    }

    /// Everything is decoded when it is loaded.
    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        const EAGER: u32 = 1;
        mode.set(EAGER)
    }
}
