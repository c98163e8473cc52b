//! Launches.

use std::sync::Arc;

use super::stream::StreamHandle;
use crate::driver::context::{Context, current, stream};
use crate::driver::engine::capture;
use crate::driver::engine::kernel::KernelCall;
use crate::driver::engine::operation::Operation;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain, read, read_bytes};
use crate::driver::module::Function;
use crate::driver::{Outcome, functions};
use crate::machine::limits::Shape;

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: StreamHandle,
    attributes: In<Attribute>,
    count: u32,
}

/// `CUlaunchAttribute`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

// SAFETY: integers and addresses.
unsafe impl Plain for LaunchConfig {}
// SAFETY: integers.
unsafe impl Plain for Attribute {}

/// `CUlaunchAttributeID`: those that change what runs. The others are about priority, caches and overlap.
mod attribute {
    pub const COOPERATIVE: u32 = 2;
    pub const CLUSTER_DIMENSION: u32 = 4;
    pub const LAST_KNOWN: u32 = 18;
}

/// `CU_LAUNCH_PARAM_*`: the keys of the list of extra parameters.
mod extra {
    pub const END: u64 = 0;
    pub const BUFFER_POINTER: u64 = 1;
    pub const BUFFER_SIZE: u64 = 2;
}

/// The shape that a configuration asks for.
///
/// # Errors
/// [`Error::InvalidValue`] for attributes that cannot be read or are none.
pub fn shape_of(config: &LaunchConfig, function: &Function) -> Outcome<Shape> {
    let mut shape = Shape {
        grid: config.grid,
        block: config.block,
        cluster: function.default_cluster(),
        dynamic_shared: config.shared,
        cooperative: false,
    };
    for attribute in config.attributes.list(config.count as usize)? {
        match attribute.id {
            attribute::COOPERATIVE => shape.cooperative = attribute.value[0] != 0,
            attribute::CLUSTER_DIMENSION => {
                shape.cluster = [attribute.value[0], attribute.value[1], attribute.value[2]]
            }
            0..=attribute::LAST_KNOWN => {}
            _ => return Err(Error::InvalidValue),
        }
    }
    Ok(shape)
}

/// The parameter buffer of a launch, from an array of pointers to the values or from a list of extra parameters.
///
/// # Errors
/// [`Error::InvalidValue`] for pointers that cannot be read, or a buffer that is too small.
pub fn parameters(function: &Function, values: u64, list: u64) -> Outcome<Vec<u8>> {
    let kernel = &function.kernel;
    let mut buffer = vec![0u8; kernel.param_bytes as usize];
    if values != 0 {
        for (index, parameter) in kernel.params.iter().enumerate() {
            let place: u64 = read(values.checked_add(8 * index as u64).ok_or(Error::InvalidValue)?)?;
            let (offset, size) = (parameter.offset as usize, parameter.size as usize);
            buffer[offset..offset + size].copy_from_slice(&read_bytes(place, size)?);
        }
    } else if list != 0 {
        let (mut start, mut size) = (0u64, 0usize);
        let mut at = list;
        loop {
            let key: u64 = read(at)?;
            if key == extra::END {
                break;
            }
            let value: u64 = read(at + 8)?;
            match key {
                extra::BUFFER_POINTER => start = value,
                extra::BUFFER_SIZE => size = read::<usize>(value)?,
                _ => return Err(Error::InvalidValue),
            }
            at += 16;
        }
        let needed = kernel.params.last().map_or(0, |last| (last.offset + last.size) as usize);
        if size < needed {
            return Err(Error::InvalidValue);
        }
        buffer[..needed].copy_from_slice(&read_bytes(start, needed)?);
    } else if !kernel.params.is_empty() {
        return Err(Error::InvalidValue);
    }
    Ok(buffer)
}

/// A launch with everything checked.
///
/// # Errors
/// Those of [`parameters`] and [`KernelCall::check`].
pub fn prepare(
    context: &Context,
    function: Arc<Function>,
    shape: Shape,
    values: u64,
    list: u64,
) -> Outcome<KernelCall> {
    let params = Arc::new(parameters(&function, values, list)?);
    let call = KernelCall { function, shape, params };
    call.check(context)?;
    Ok(call)
}

fn launch(function: Arc<Function>, shape: Shape, handle: StreamHandle, values: u64, list: u64) -> Outcome {
    let stream = stream(handle)?;
    let call = prepare(&*stream.context()?, function, shape, values, list)?;
    capture::submit(&stream, Operation::Kernel(call)).map(|_| ())
}

functions! {
    fn cuLaunchKernel | cuLaunchKernel_ptsz(function: Handle<Function>, grid_x: u32, grid_y: u32, grid_z: u32,
            block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: StreamHandle, values: Out<u64>,
            extra: Out<u64>) {
        current()?;
        let function = function.get()?;
        let cluster = function.default_cluster();
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, cluster, dynamic_shared: shared, cooperative: false };
        launch(function, shape, stream, values.address(), extra.address())
    }

    fn cuLaunchCooperativeKernel | cuLaunchCooperativeKernel_ptsz(function: Handle<Function>, grid_x: u32, grid_y: u32,
            grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: StreamHandle,
            values: Out<u64>) {
        current()?;
        let function = function.get()?;
        let cluster = function.default_cluster();
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, cluster, dynamic_shared: shared, cooperative: true };
        launch(function, shape, stream, values.address(), 0)
    }

    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(config: In<LaunchConfig>, function: Handle<Function>, values: Out<u64>,
                                                extra: Out<u64>) {
        current()?;
        let config = config.get()?;
        let function = function.get()?;
        let shape = shape_of(&config, &function)?;
        launch(function, shape, config.stream, values.address(), extra.address())
    }
}
