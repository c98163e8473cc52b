//! Tensor maps: descriptions of tensors for the copies of Hopper's tensor memory accelerator.

use crate::driver::api;
use crate::driver::errors::Error;
use crate::driver::ffi::{In, Out};
use crate::driver::gpu::gpu;
use crate::isa::tensor_map::{Interleave, TensorMap, TensorMapError};

api! {
}
