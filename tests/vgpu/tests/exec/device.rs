//! A device for tests: memory, and launches that must succeed or fail.

use cuda::checks::Checks;
use cuda::exec::{self, Counters, Fault, Launch, Settings};
use cuda::machine::Machine;
use cuda::memory::{Kind, Memory};
use cuda::program::Program;

/// An A100 with a loaded module.
pub struct Device {
    pub memory: Memory,
    pub machine: Machine,
    pub program: Program,
    pub settings: Settings,
    /// Whether launches run all blocks at once.
    pub cooperative: bool,
    globals: Vec<u64>,
}

/// A parameter of a kernel.
#[derive(Clone, Copy)]
pub enum Parameter {
    Word(u32),
    Long(u64),
}

impl Device {
    /// Loads PTX; variables of the module are placed and initialised.
    pub fn new(machine: Machine, ptx: &str) -> Device {
        let memory = Memory::new(1 << 32).expect("memory");
        let program = Program::load(&[ptx], machine.capability).unwrap_or_else(|error| panic!("{error}"));
        let settings = Settings { checks: Checks::usual(), seed: 1, threads: 1 };
        let place = |global: &cuda::program::Global| memory.allocate(global.bytes.max(1), Kind::Device).expect("room");
        let globals: Vec<u64> = program.globals.iter().map(place).collect();
        for (global, &address) in program.globals.iter().zip(&globals) {
            let mut bytes = vec![0; global.bytes as usize];
            bytes[..global.init.len()].copy_from_slice(&global.init);
            memory.write(address, &bytes).expect("inside");
        }
        Device { memory, machine, program, settings, cooperative: false, globals }
    }

    /// A buffer with contents.
    pub fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        let address = self.memory.allocate(bytes as u64, Kind::Device).expect("room");
        // SAFETY: any value can be looked at as bytes; those of the tests have no padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), bytes) };
        self.memory.write(address, bytes).expect("inside");
        address
    }

    /// The contents of a buffer.
    pub fn download<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let bytes = size_of_val(&values[..]);
        // SAFETY: numbers, for which all bits are valid.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), bytes) };
        self.memory.read(address, bytes).expect("inside");
        values
    }

    /// Address of a variable of the module.
    pub fn variable(&self, name: &str) -> u64 {
        self.globals[self.program.globals.iter().position(|global| global.name == name).expect("a variable")]
    }

    /// Launches a kernel.
    pub fn run(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        parameters: &[Parameter],
    ) -> Result<Counters, Box<Fault>> {
        let kernel = self.program.kernel(kernel).expect("a kernel of that name");
        let mut params = vec![0; kernel.param_bytes as usize];
        for (param, value) in kernel.params.iter().zip(parameters) {
            let place = &mut params[param.offset as usize..][..param.size as usize];
            match value {
                Parameter::Word(value) => place.copy_from_slice(&value.to_le_bytes()),
                Parameter::Long(value) => place.copy_from_slice(&value.to_le_bytes()),
            }
        }
        let cluster = kernel.required_cluster.unwrap_or([1; 3]);
        let launch = Launch {
            kernel,
            globals: &self.globals,
            params: &params,
            grid,
            block,
            cluster,
            dynamic_shared_bytes: shared,
            cooperative: self.cooperative,
        };
        exec::launch(&self.memory, &self.machine, &self.settings, &launch)
    }

    /// Launches a kernel that must succeed.
    pub fn must(&self, kernel: &str, grid: u32, block: u32, parameters: &[Parameter]) -> Counters {
        self.run(kernel, [grid, 1, 1], [block, 1, 1], 0, parameters).unwrap_or_else(|fault| {
            panic!(
                "{kernel}: {:?}\n{}",
                fault.kind,
                fault.findings.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n")
            )
        })
    }
}

/// Reproducible random numbers in [-1, 1).
pub fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}
