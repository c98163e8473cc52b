//! Modules and functions: a loaded program, its variables in device memory, its kernels behind handles.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::errors::{Error, Outcome};
use super::ffi::{Handle, leak_text};
use super::gpu::gpu;
use super::objects::{Object, object};
use crate::machine::Machine;
use crate::machine::limits::{Needs, registers_per_thread};
use crate::memory::Kind;
use crate::program::{Kernel, LoadError, Program};

/// A loaded module.
pub struct Module {
    /// The context that it ends with; zero for a library, which ends when it is unloaded.
    pub context: u64,
    /// Its handle, once it has one.
    pub number: AtomicU64,
    program: Program,
    addresses: Vec<u64>,
    functions: Mutex<BTreeMap<String, Handle<Function>>>,
}

object!(Module, 7, Error::InvalidHandle);

impl Module {
    /// Loads PTX, and puts its variables into device memory. `Err` of the outer kind is a refusal of the driver, of
    /// the inner kind one of the loader, to be told to the caller's log.
    ///
    /// # Errors
    /// [`LoadError`] for the text, or [`Error`] for the variables' memory.
    pub fn load(sources: &[&str], context: u64) -> Outcome<Result<Arc<Module>, LoadError>> {
        let gpu = gpu()?;
        let program = match Program::load(sources, gpu.config.machine.capability) {
            Ok(program) => program,
            Err(problem) => return Ok(Err(problem)),
        };
        program.warnings.iter().for_each(|warning| eprintln!("vgpu: module: {warning}"));
        let mut module =
            Module { context, number: AtomicU64::new(0), program, addresses: Vec::new(), functions: Mutex::default() };
        // On failure the module is dropped, and with it what it had by then.
        for index in 0..module.program.globals.len() {
            let variable = &module.program.globals[index];
            let kind = Kind::Variable(variable.name.clone());
            module.addresses.push(gpu.memory.allocate(variable.bytes.max(1), kind)?);
        }
        module.initialise()?;
        Ok(Ok(Arc::new(module)))
    }

    /// Writes the variables' first values, zero where the text gives none.
    fn initialise(&self) -> Outcome {
        let memory = &gpu()?.memory;
        for (variable, &address) in self.program.globals.iter().zip(&self.addresses) {
            memory.fill(address, &[0], variable.bytes)?;
            memory.write(address, &variable.init)?;
            for (offset, symbol) in &variable.references {
                let (target, _) = self.variable(symbol)?;
                let mut word = [0u8; 8];
                memory.read(address + offset, &mut word)?;
                memory.write(address + offset, &u64::from_le_bytes(word).wrapping_add(target).to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// The device addresses of the program's variables.
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// Address and size of a variable.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn variable(&self, name: &str) -> Outcome<(u64, u64)> {
        let mut variables = self.program.globals.iter().zip(&self.addresses);
        let (variable, &address) = variables.find(|(variable, _)| variable.name == name).ok_or(Error::NotFound)?;
        Ok((address, variable.bytes))
    }

    /// The names of the kernels, in the order of the text.
    pub fn kernel_names(&self) -> Vec<String> {
        self.program.kernels.iter().map(|kernel| kernel.name.clone()).collect()
    }

    /// The handle of a kernel: the same for each call.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn function(self: &Arc<Module>, name: &str) -> Outcome<Handle<Function>> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&handle) = functions.get(name) {
            return Ok(handle);
        }
        let kernel = self.program.kernels.iter().find(|kernel| kernel.name == name).ok_or(Error::NotFound)?;
        let handle = Function::registry().insert(Arc::new(Function::new(kernel.clone(), self.clone())));
        functions.insert(name.to_string(), handle);
        Ok(handle)
    }

    /// Takes it and its functions out of the registries; work in flight keeps it alive.
    pub fn unload(&self) {
        Module::registry().remove(self.number.load(Ordering::Relaxed));
        for handle in self.functions.lock().unwrap_or_else(PoisonError::into_inner).values() {
            Function::registry().remove(handle.0);
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(gpu) = gpu() {
            for &address in &self.addresses {
                // A variable is nobody else's to free, so it is there.
                let _ = gpu.memory.free(address, |_| true);
            }
        }
    }
}

/// A kernel of a module.
pub struct Function {
    /// What runs.
    pub kernel: Arc<Kernel>,
    /// Where its variables are.
    pub module: Arc<Module>,
    /// `MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub max_dynamic_shared: AtomicI32,
    /// `PREFERRED_SHARED_MEMORY_CARVEOUT`: kept and told.
    pub carveout: AtomicI32,
    /// `NON_PORTABLE_CLUSTER_SIZE_ALLOWED`.
    pub large_clusters: AtomicI32,
    /// `REQUIRED_CLUSTER_WIDTH`, `_HEIGHT`, `_DEPTH`, where the program set them.
    pub cluster: [AtomicI32; 3],
    /// `CLUSTER_SCHEDULING_POLICY_PREFERENCE`: kept and told.
    pub cluster_policy: AtomicI32,
    name: OnceLock<usize>,
}

object!(Function, 8, Error::InvalidHandle);

impl Function {
    fn new(kernel: Arc<Kernel>, module: Arc<Module>) -> Function {
        // What a launch gets without opting in, beside the static part.
        let usual = (48u32 << 10).saturating_sub(kernel.static_shared_bytes);
        Function {
            max_dynamic_shared: AtomicI32::new(usual as i32),
            carveout: AtomicI32::new(-1),
            large_clusters: AtomicI32::new(0),
            cluster: kernel.required_cluster.unwrap_or([0; 3]).map(|size| AtomicI32::new(size as i32)),
            cluster_policy: AtomicI32::new(0),
            name: OnceLock::new(),
            kernel,
            module,
        }
    }

    /// What it needs of a machine.
    pub fn needs(&self, machine: &Machine) -> Needs {
        let kernel = &self.kernel;
        // A block of a given size must be able to run, whatever its threads would like to have.
        let threads = kernel.max_threads.or(kernel.required_block.map(|block| block.iter().product()));
        let wanted = kernel.max_registers.map_or(kernel.registers, |most| kernel.registers.min(most.max(1)));
        Needs {
            registers: registers_per_thread(machine, wanted, threads, kernel.min_blocks),
            static_shared: kernel.static_shared_bytes,
            max_threads: kernel.max_threads,
            required_block: kernel.required_block,
            required_cluster: kernel.required_cluster,
            max_dynamic_shared: self.max_dynamic_shared.load(Ordering::Relaxed).max(0) as u32,
            large_clusters: self.large_clusters.load(Ordering::Relaxed) != 0,
        }
    }

    /// The cluster that a launch has which does not say otherwise.
    pub fn default_cluster(&self) -> [u32; 3] {
        let set = [0, 1, 2].map(|axis| self.cluster[axis].load(Ordering::Relaxed).max(0) as u32);
        if set[0] == 0 { [1; 3] } else { set.map(|size| size.max(1)) }
    }

    /// Its name as a C string that stays.
    pub fn c_name(&self) -> u64 {
        *self.name.get_or_init(|| leak_text(&self.kernel.name) as *const c_char as usize) as u64
    }
}

/// A library: a module that belongs to no context.
pub struct Library {
    /// The module.
    pub module: Arc<Module>,
}

object!(Library, 9, Error::InvalidHandle);
