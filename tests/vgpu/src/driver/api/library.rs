//! Libraries: modules that belong to no context. Their kernels are functions, so that either handle may be launched.

use std::sync::Arc;

use super::module::{Logs, load, read_file, register};
use crate::driver::context::current;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Text};
use crate::driver::gpu::gpu;
use crate::driver::module::{Function, Library, Module};
use crate::driver::objects::Object;
use crate::driver::{Outcome, functions, image};

fn load_library(source: Outcome<String>, logs: &Logs, library: Out<Handle<Library>>) -> Outcome {
    if library.is_null() {
        return Err(Error::InvalidValue);
    }
    let module = load(&[&source?], 0, logs)?;
    register(&module);
    library.set(Library::registry().insert(Arc::new(Library { module })))
}

functions! {
    fn cuLibraryLoadData(library: Out<Handle<Library>>, image: In<u8>, options: Out<u32>, values: Out<u64>, count: u32,
                         _library_options: Out<u32>, _library_values: Out<u64>, _library_count: u32) {
        let capability = gpu()?.config.machine.capability;
        let logs = Logs::read(count, options, values)?;
        load_library(image::at_address(image.address(), capability), &logs, library)
    }

    fn cuLibraryLoadFromFile(library: Out<Handle<Library>>, path: Text, options: Out<u32>, values: Out<u64>, count: u32,
                             _library_options: Out<u32>, _library_values: Out<u64>, _library_count: u32) {
        let capability = gpu()?.config.machine.capability;
        let logs = Logs::read(count, options, values)?;
        load_library(image::from_bytes(&read_file(path)?, capability), &logs, library)
    }

    fn cuLibraryUnload(library: Handle<Library>) {
        gpu()?;
        let library = library.take()?;
        if let Ok(context) = current() {
            context.synchronise()?;
        }
        library.module.unload();
        Ok(())
    }

    fn cuLibraryGetKernel(kernel: Out<Handle<Function>>, library: Handle<Library>, name: Text) {
        gpu()?;
        let handle = library.get()?.module.function(&name.get()?)?;
        kernel.set(handle)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle<Library>) {
        gpu()?;
        count.set(library.get()?.module.kernel_names().len() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<Handle<Function>>, capacity: u32, library: Handle<Library>) {
        gpu()?;
        let module = library.get()?.module.clone();
        for (index, name) in module.kernel_names().iter().take(capacity as usize).enumerate() {
            kernels.set_at(index, module.function(name)?)?;
        }
        Ok(())
    }

    fn cuLibraryGetModule(module: Out<Handle<Module>>, library: Handle<Library>) {
        current()?;
        let found = library.get()?.module.clone();
        module.set(Handle::new(found.number.load(std::sync::atomic::Ordering::Relaxed)))
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle<Library>, name: Text) {
        current()?;
        let (found, size) = library.get()?.module.variable(&name.get()?)?;
        address.set_if_wanted(found)?;
        bytes.set_if_wanted(size as usize)
    }

    /// PTX has no managed variables of its own.
    fn cuLibraryGetManaged(_address: Out<u64>, _bytes: Out<usize>, library: Handle<Library>, _name: Text) {
        gpu()?;
        library.get()?;
        Err(Error::NotFound)
    }

    fn cuLibraryGetUnifiedFunction(_function: Out<u64>, library: Handle<Library>, _name: Text) {
        gpu()?;
        library.get()?;
        Err(Error::NotFound)
    }

    fn cuKernelGetFunction(function: Out<Handle<Function>>, kernel: Handle<Function>) {
        current()?;
        kernel.get()?;
        function.set(kernel)
    }

    fn cuKernelGetLibrary(library: Out<Handle<Library>>, kernel: Handle<Function>) {
        gpu()?;
        let module = kernel.get()?.module.clone();
        let found = Library::registry().handle_where(|known| Arc::ptr_eq(&known.module, &module));
        library.set(found.ok_or(Error::NotFound)?)
    }
}
