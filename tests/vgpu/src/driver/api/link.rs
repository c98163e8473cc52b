//! The linker: several PTX texts become one module.
//!
//! What it makes is not machine code but the texts themselves, in a form that `cuModuleLoadData` takes.

use std::sync::{Arc, Mutex, PoisonError};

use super::module::{Logs, load, read_file};
use crate::driver::context::current;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Text, read_bytes};
use crate::driver::gpu::gpu;
use crate::driver::objects::{Object, object};
use crate::driver::{Outcome, functions, image};

/// The inputs so far.
pub struct Linker {
    logs: Logs,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sources: Vec<String>,
    /// The result, which must stay where it is until the linker goes.
    result: Option<Box<[u8]>>,
}

object!(Linker, 10, Error::InvalidHandle);

/// Stands between texts that were linked. PTX has no such comment of its own.
pub const SEPARATOR: &str = "\n// vgpu: the next linked text\n";

impl Linker {
    fn add(&self, kind: u32, bytes: &[u8]) -> Outcome {
        const PTX: u32 = 1;
        const FATBINARY: u32 = 2;
        const LIBRARY: u32 = 4;
        let capability = gpu()?.config.machine.capability;
        let source = match kind {
            PTX | FATBINARY => image::from_bytes(bytes, capability)?,
            // A library of machine code, such as the device runtime's: what is missing of it the linked program will say.
            LIBRARY => return Ok(()),
            _ => {
                eprintln!(
                    "vgpu: linker: input of kind {kind}: only PTX (1), fat binaries with PTX (2) and libraries (4) can be linked"
                );
                self.logs.write("only PTX can be linked", 0.0)?;
                return Err(Error::NotSupported);
            }
        };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).sources.push(source);
        Ok(())
    }
}

functions! {
    fn cuLinkCreate_v2(count: u32, options: Out<u32>, values: Out<u64>, linker: Out<Handle<Linker>>) {
        current()?;
        let logs = Logs::read(count, options, values)?;
        linker.set(Linker::registry().insert(Arc::new(Linker { logs, state: Mutex::default() })))
    }

    fn cuLinkAddData_v2(linker: Handle<Linker>, kind: u32, data: In<u8>, bytes: usize, _name: Text, _count: u32,
                        _options: Out<u32>, _values: Out<u64>) {
        current()?;
        linker.get()?.add(kind, &read_bytes(data.address(), bytes)?)
    }

    fn cuLinkAddFile_v2(linker: Handle<Linker>, kind: u32, path: Text, _count: u32, _options: Out<u32>,
            _values: Out<u64>) {
        current()?;
        linker.get()?.add(kind, &read_file(path)?)
    }

    fn cuLinkComplete(linker: Handle<Linker>, image: Out<u64>, bytes: Out<usize>) {
        current()?;
        let linker = linker.get()?;
        let mut state = linker.state.lock().unwrap_or_else(PoisonError::into_inner);
        let sources: Vec<&str> = state.sources.iter().map(String::as_str).collect();
        if sources.is_empty() {
            return Err(Error::InvalidImage);
        }
        // Loaded once to tell what is wrong; the program loads what it is given a second time.
        load(&sources, 0, &linker.logs)?;
        let mut text = sources.join(SEPARATOR).into_bytes();
        text.push(0);
        let result = text.into_boxed_slice();
        image.set(result.as_ptr() as u64)?;
        bytes.set_if_wanted(result.len())?;
        state.result = Some(result);
        Ok(())
    }

    fn cuLinkDestroy(linker: Handle<Linker>) {
        gpu()?;
        linker.take().map(|_| ())
    }
}
