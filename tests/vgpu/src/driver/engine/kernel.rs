//! A launch as the driver sees it: checked, submitted, run, reported.

use std::sync::Arc;
use std::time::Instant;

use crate::driver::context::Context;
use crate::driver::errors::{Error, Outcome};
use crate::driver::gpu::tell;
use crate::driver::module::Function;
use crate::exec::{self, Launch};
use crate::machine::limits::{LimitError, Shape};
use crate::machine::model::{self, Modelled};
use crate::report;

/// A kernel with everything that it is launched with.
#[derive(Clone)]
pub struct KernelCall {
    /// The kernel.
    pub function: Arc<Function>,
    /// Grid, block, cluster, dynamic shared memory.
    pub shape: Shape,
    /// The parameter buffer.
    pub params: Arc<Vec<u8>>,
}

impl KernelCall {
    /// Whether the described GPU takes it.
    ///
    /// # Errors
    /// The driver's code for the limit that is exceeded; the limit is named on standard error.
    pub fn check(&self, context: &Context) -> Outcome {
        let machine = &context.gpu.config.machine;
        machine.check_launch(&self.function.needs(machine), &self.shape).map_err(|problem| {
            eprintln!("vgpu: launch-limit: kernel `{}` is refused: {problem}", self.function.kernel.name);
            match problem {
                LimitError::Registers { .. } => Error::LaunchOutOfResources,
                LimitError::Cooperative { .. } => Error::CooperativeLaunchTooLarge,
                LimitError::Cluster { .. } => Error::InvalidCluster,
                LimitError::NoClusters => Error::NotSupported,
                LimitError::Dimension { .. }
                | LimitError::Threads { .. }
                | LimitError::RequiredBlock { .. }
                | LimitError::Shared { .. } => Error::InvalidValue,
            }
        })
    }

    /// Runs it to its end. Returns the modelled nanoseconds.
    ///
    /// # Errors
    /// The driver's code for the fault; its story is on standard error.
    pub fn execute(&self, context: &Context) -> Outcome<u64> {
        let gpu = context.gpu;
        let Shape { grid, block, cluster, dynamic_shared, cooperative } = self.shape;
        let launch = Launch {
            kernel: &self.function.kernel,
            globals: self.function.module.addresses(),
            params: &self.params,
            grid,
            block,
            cluster,
            dynamic_shared_bytes: dynamic_shared,
            cooperative,
        };
        let began = Instant::now();
        let counters =
            exec::launch(&gpu.memory, &gpu.config.machine, &gpu.config.settings, &launch).map_err(|fault| {
                fault.findings.iter().for_each(tell);
                Error::from(fault.kind)
            })?;
        let wall_ns = began.elapsed().as_nanos() as u64;
        let machine = &gpu.config.machine;
        let needs = self.function.needs(machine);
        let modelled: Modelled = model::time(machine, &counters, &needs, &self.shape);
        if gpu.reports() {
            let kernel = &self.function.kernel.name;
            gpu.write_report(&report::line(machine, kernel, &self.shape, &needs, &counters, &modelled, wall_ns));
        }
        Ok(modelled.nanoseconds.round() as u64)
    }
}
