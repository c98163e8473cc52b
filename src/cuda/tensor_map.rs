//! Tensor maps: how the tensor memory accelerator of Hopper finds a tensor.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::Op;
use super::params::DeemTensorMap;
use crate::device::Context;
use crate::error::{Error, Result};

/// The map of `[outer, lines, row]` 16-bit numbers, in boxes of 64 numbers of a row by `of_box` lines, with the swizzle of 128 bytes and zeros outside.
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
    let mut map = DeemTensorMap { words: [0; 16] };
    if cx.is_planning() {
        return Ok(map);
    }
    let sizes = [row as u64, lines as u64, outer as u64];
    let strides = [row as u64 * 2, (row * lines) as u64 * 2];
    let (boxes, steps) = ([64, of_box, 1], [1; 3]);
    // SAFETY: a tensor map is what `DeemTensorMap` has room and alignment for; the arrays have the rank's lengths. Nothing is read at the address.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            std::ptr::from_mut(&mut map).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            3,
            address.cast_mut(),
            sizes.as_ptr(),
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
    let reason = format!("{op}: the driver refuses the map of a tensor [{outer}, {lines}, {row}]: {result:?}");
    Err(Error::Device { device: cx.device().to_string(), reason })
}
