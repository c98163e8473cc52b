//! The launches of the CUDA kernels: for each op its geometry and its parameter struct, and nothing else. The kernels are in `cuda/<op>.cu`.
//!
//! Nothing here checks shapes: [`crate::ops`] has done it, and has returned for empty problems. Scratch memory comes from the context's arena, so that a dry
//! run, which comes through here too, counts it; its addresses are null and its launches are not made.

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod add;
pub(crate) mod attention;
mod attention_decode;
pub(crate) mod conv2d;
pub(crate) mod conv2d_depthwise;
pub(crate) mod copy;
pub(crate) mod cross_attention;
pub(crate) mod cross_entropy;
pub(crate) mod deform_attention;
pub(crate) mod diffusion;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod fold;
pub(crate) mod gate;
pub(crate) mod gemm;
pub(crate) mod glu;
pub(crate) mod groupnorm;
pub(crate) mod layernorm;
pub(crate) mod mse;
mod params;
pub(crate) mod posterior;
pub(crate) mod random;
pub(crate) mod reduce;
pub(crate) mod resample;
pub(crate) mod rmsnorm;
pub(crate) mod rope;
mod tensor_map;
pub(crate) mod timestep_embedding;

use std::ffi::c_void;

use crate::device::Context;
use crate::device::cuda::{Capability, Geometry};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::memory::{Place, Shape, Tensor, View, ViewMut};

/// Name of an op, for errors; `cuda/<op>.cu` has its kernels.
type Op = &'static str;

/// Fails unless elements in this place are ones that kernels of this context can reach.
fn check_place(cx: &Context, op: Op, what: &str, place: Place, shape: Shape) -> Result<()> {
    let reachable = match (place, cx.queue()) {
        (_, None) => true,
        (Place::Cuda(index), Some(queue)) => index == queue.gpu().index(),
        _ => shape.is_empty(),
    };
    if reachable {
        return Ok(());
    }
    let found = match place {
        Place::Host => "in host memory".into(),
        Place::Cuda(index) => format!("in the memory of cuda:{index}"),
        Place::Nowhere => "of a dry run, without elements".into(),
    };
    let reason = format!(
        "{op}: `{what}` {shape} is {found}; ops on this device take tensors of its context (Context::tensor copies a slice there)"
    );
    Err(Error::Device { device: cx.device().to_string(), reason })
}

/// The address of an input.
fn input<E>(cx: &Context, op: Op, what: &str, view: View<'_, E>) -> Result<*const c_void> {
    check_place(cx, op, what, view.place(), view.shape())?;
    Ok(view.address().cast())
}

/// The address of an input that may be missing: null without it.
fn optional_input<E>(cx: &Context, op: Op, what: &str, view: Option<View<'_, E>>) -> Result<*const c_void> {
    view.map_or(Ok(std::ptr::null()), |view| input(cx, op, what, view))
}

/// The address of an output.
fn output<E>(cx: &Context, op: Op, what: &str, view: &ViewMut<'_, E>) -> Result<*mut c_void> {
    check_place(cx, op, what, view.place(), view.shape())?;
    Ok(view.address().cast())
}

/// The address of an output that may be missing: null without it.
fn optional_output<E>(cx: &Context, op: Op, what: &str, view: Option<&ViewMut<'_, E>>) -> Result<*mut c_void> {
    view.map_or(Ok(std::ptr::null_mut()), |view| output(cx, op, what, view))
}

/// The name of the kernel for a storage type, of those for `f32` and `bf16`.
fn by_dtype<E: Element>(cx: &Context, op: Op, f32: &'static str, bf16: &'static str) -> Result<&'static str> {
    match E::DTYPE {
        DType::F32 => Ok(f32),
        DType::Bf16 => Ok(bf16),
        DType::F16 => Err(Error::Device {
            device: cx.device().to_string(),
            reason: format!(
                "{op}: there are no kernels for f16, which attention alone takes; use f32 or bf16, or the host"
            ),
        }),
        DType::F64 => Err(Error::Device {
            device: cx.device().to_string(),
            reason: format!(
                "{op}: there are no kernels for f64, the type of the tests' oracle; use f32 or bf16, or the host"
            ),
        }),
    }
}

/// The name `<name>_f32` or `<name>_bf16` of the kernel for a storage type.
macro_rules! kernel {
    ($element:ty, $cx:expr, $op:expr, $name:expr) => {
        $crate::cuda::by_dtype::<$element>($cx, $op, concat!($name, "_f32"), concat!($name, "_bf16"))?
    };
    // Of two kernels whose names differ by an ending the one that a condition asks for.
    ($element:ty, $cx:expr, $op:expr, $name:literal, $ending:literal if $condition:expr) => {
        if $condition {
            kernel!($element, $cx, $op, concat!($name, $ending))
        } else {
            kernel!($element, $cx, $op, $name)
        }
    };
}
use kernel;

/// Whole numbers on the device, in a tensor of as many bytes: tensors have numbers with a fraction only.
fn whole_numbers(cx: &Context, numbers: &[i32]) -> Result<Tensor<f32>> {
    cx.tensor([numbers.len()], bytemuck::cast_slice(numbers))
}

/// Indices on the device, as 32-bit numbers.
fn indices(cx: &Context, op: Op, indices: impl IntoIterator<Item = usize>) -> Result<Tensor<f32>> {
    let numbers = indices.into_iter().map(|index| small(op, "an index", index)).collect::<Result<Vec<_>>>()?;
    whole_numbers(cx, &numbers)
}

/// A size that a kernel takes in 32 bits.
fn small(op: Op, what: &str, size: usize) -> Result<i32> {
    i32::try_from(size)
        .map_err(|_| Error::Domain { op, reason: format!("{what} is {size}, kernels take up to 2147483647") })
}

/// Multiprocessors of the usual GPU of a generation, an A100 or an H100: what choosers of tiles reckon with, so that nothing depends on the machine at hand.
fn multiprocessors(capability: Option<Capability>) -> usize {
    if capability.is_some_and(|capability| capability.major >= 9) { 132 } else { 108 }
}

/// Whether the kernels for sm_90a run: on compute capability 9.0 and nothing newer.
fn has_warpgroups(capability: Option<Capability>) -> bool {
    capability == Some(Capability { major: 9, minor: 0 })
}

/// Threads for `n` elements, a pack of 16 bytes each; beyond 2^20 blocks they take several.
fn pointwise<E>(op: Op, n: usize) -> Result<Geometry> {
    Geometry::linear(op, n.div_ceil(256 * (16 / size_of::<E>())).min(1 << 20), 256)
}

/// Threads for `n` indices, one each; beyond 2^20 blocks they take several.
fn indexwise(op: Op, n: usize) -> Result<Geometry> {
    Geometry::linear(op, n.div_ceil(256).min(1 << 20), 256)
}

/// Blocks for a sum over `n` elements, which each leave one partial sum: their number depends on nothing else.
fn summing(op: Op, n: usize) -> Result<Geometry> {
    Geometry::linear(op, n.div_ceil(4096).clamp(1, 1024), 256)
}

/// Threads for rows: a warp each up to 1024 columns, else a block (`cuda/common/reduce.cuh`).
fn rows(op: Op, rows: usize, cols: usize) -> Result<Geometry> {
    let threads = if cols <= 1024 { [32, 8, 1] } else { [256, 1, 1] };
    let geometry = Geometry::linear(op, rows.div_ceil(threads[1] as usize), 0)?;
    Ok(Geometry { threads, ..geometry })
}

/// How rows are divided for sums over them (`slice_sums` in `cuda/common/rows.cuh`): by their number alone.
struct Slices {
    count: usize,
    rows_per_slice: usize,
}

impl Slices {
    fn of(rows: usize) -> Self {
        let rows_per_slice = rows.div_ceil(256).max(64);
        Slices { count: rows.div_ceil(rows_per_slice), rows_per_slice }
    }

    /// Room for the partial sums of `cols` columns.
    fn partial(&self, cx: &Context, cols: usize) -> Result<Tensor<f32>> {
        cx.uninit([self.count, cols])
    }

    fn geometry(&self, op: Op, cols: usize) -> Result<Geometry> {
        let columns = Geometry::linear(op, cols.div_ceil(32), 0)?;
        Ok(Geometry { blocks: [columns.blocks[0], self.count as u32, 1], threads: [32, 8, 1], shared_bytes: 0 })
    }
}
