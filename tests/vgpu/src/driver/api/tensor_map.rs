//! Tensor maps: descriptions of tensors for the bulk copies of compute capability 9.0.
//!
//! What the 128 bytes hold is ours; see [`crate::isa::tensor_map`].

use crate::driver::errors::Error;
use crate::driver::ffi::{In, Out};
use crate::driver::gpu::gpu;
use crate::driver::{Outcome, functions};
use crate::isa::im2col::Columns;
use crate::isa::tensor_map::{BYTES, Refusal, Request, TensorMap};

/// A `CUtensorMap` lies at a multiple of this.
const ALIGNMENT: u64 = 64;
/// Dimensions at most.
const MOST_DIMENSIONS: u32 = 5;

fn place(map: Out<[u8; BYTES]>) -> Outcome<Out<[u8; BYTES]>> {
    gpu()?;
    if map.address().is_multiple_of(ALIGNMENT) { Ok(map) } else { Err(Error::InvalidValue) }
}

/// The code of a refusal, whose reason is told on standard error.
fn told(function: &str, refusal: Refusal) -> Error {
    let (error, reason) = match refusal {
        Refusal::Invalid(reason) => (Error::InvalidValue, reason),
        Refusal::Unsupported(reason) => (Error::NotSupported, reason),
    };
    eprintln!("vgpu: {function}: {reason}");
    error
}

functions! {
    fn cuTensorMapEncodeTiled(map: Out<[u8; BYTES]>, data_type: u32, rank: u32, address: u64, sizes: In<u64>,
            strides: In<u64>,
            box_sizes: In<u32>, steps: In<u32>, interleave: u32, swizzle: u32, l2_promotion: u32, fill: u32) {
        let map = place(map)?;
        if !(1..=MOST_DIMENSIONS).contains(&rank) {
            return Err(Error::InvalidValue);
        }
        let rank = rank as usize;
        let request = Request {
            data_type,
            address,
            sizes: &sizes.list(rank)?,
            strides: &strides.list(rank - 1)?,
            box_sizes: &box_sizes.list(rank)?,
            steps: &steps.list(rank)?,
            interleave,
            swizzle,
            l2_promotion,
            fill,
        };
        let encoded = TensorMap::new(&request).map_err(|refusal| told("cuTensorMapEncodeTiled", refusal))?;
        map.set(encoded.encode())
    }

    fn cuTensorMapEncodeIm2col(map: Out<[u8; BYTES]>, data_type: u32, rank: u32, address: u64, sizes: In<u64>,
            strides: In<u64>, lower: In<i32>, upper: In<i32>, channels: u32, pixels: u32, steps: In<u32>,
            interleave: u32, swizzle: u32, l2_promotion: u32, fill: u32) {
        let map = place(map)?;
        if !(3..=MOST_DIMENSIONS).contains(&rank) {
            return Err(Error::InvalidValue);
        }
        let rank = rank as usize;
        let request = Request {
            data_type,
            address,
            sizes: &sizes.list(rank)?,
            strides: &strides.list(rank - 1)?,
            box_sizes: &[],
            steps: &steps.list(rank)?,
            interleave,
            swizzle,
            l2_promotion,
            fill,
        };
        let (lower, upper) = (lower.list(rank - 2)?, upper.list(rank - 2)?);
        let columns = Columns { lower: &lower, upper: &upper, channels, pixels };
        let encoded = TensorMap::with_columns(&request, &columns);
        map.set(encoded.map_err(|refusal| told("cuTensorMapEncodeIm2col", refusal))?.encode())
    }

    fn cuTensorMapReplaceAddress(map: Out<[u8; BYTES]>, address: u64) {
        let map = place(map)?;
        let mut known = TensorMap::decode(&map.get()?).ok_or(Error::InvalidValue)?;
        if !address.is_multiple_of(16) {
            return Err(Error::InvalidValue);
        }
        known.address = address;
        map.set(known.encode())
    }
}
