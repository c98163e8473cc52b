//! Tensor maps: how the tensor memory accelerator of Hopper finds a tensor.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::Op;
use super::params::DeemTensorMap;
use crate::device::Context;
use crate::error::{Error, Result};

/// The map of `[outer, lines, row]` 16-bit numbers, in boxes of 64 numbers of a row by `of_box` lines.
///
/// Rows are multiples of 16 bytes, `address` too.
///
/// # Errors
/// [`Error::Device`] if the driver refuses it.
pub(super) fn rows(
    cx: &Context,
    op: Op,
    address: *const c_void,
    [outer, lines, row]: [usize; 3],
    of_box: u32,
) -> Result<DeemTensorMap> {
    encode(cx, op, address, [row, lines, outer], [row, row * lines], [64, of_box, 1])
}

/// The map of the first `rows` of each `[images, capacity, heads, d]` 16-bit numbers, in boxes of 64 numbers of a head by `of_box` rows.
///
/// Heads are multiples of 16 bytes, `address` too.
///
/// # Errors
/// [`Error::Device`] if the driver refuses it.
pub(super) fn heads(
    cx: &Context,
    op: Op,
    address: *const c_void,
    [images, capacity, heads, d]: [usize; 4],
    rows: usize,
    of_box: u32,
) -> Result<DeemTensorMap> {
    let strides = [d, heads * d, capacity * heads * d];
    encode(cx, op, address, [d, heads, rows, images], strides, [64, 1, of_box, 1])
}

/// A map by the sizes of its axes, the inner one first, and the distances of all but that in numbers; with the swizzle of 128 bytes and zeros outside.
fn encode<const RANK: usize, const OUTER: usize>(
    cx: &Context,
    op: Op,
    address: *const c_void,
    sizes: [usize; RANK],
    strides: [usize; OUTER],
    boxes: [u32; RANK],
) -> Result<DeemTensorMap> {
    const { assert!(OUTER + 1 == RANK) };
    let mut map = DeemTensorMap { words: [0; 16] };
    if cx.is_planning() {
        return Ok(map);
    }
    let (lengths, steps) = (sizes.map(|size| size as u64), [1; RANK]);
    let strides = strides.map(|stride| stride as u64 * 2);
    // SAFETY: a tensor map is what `DeemTensorMap` has room and alignment for; the arrays have the rank's lengths. Nothing is read at the address.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            std::ptr::from_mut(&mut map).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            RANK as u32,
            address.cast_mut(),
            lengths.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(map);
    }
    let reason = format!("{op}: the driver refuses the map of a tensor of {sizes:?}, inner axis first: {result:?}");
    Err(Error::Device { device: cx.device().to_string(), reason })
}
