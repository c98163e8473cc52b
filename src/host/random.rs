//! Filling tensors with random numbers on the host; see [`crate::ops::random`].

use crate::device::Pool;
use crate::dtype::{DType, Element};
use crate::ops::random::Stream;

/// A number costs tens of nanoseconds, so chunks are small.
const CHUNK: usize = 1024;

/// `y[i]` = normal(i).
pub fn fill_normal<E: Element>(pool: &Pool, stream: Stream, y: &mut [E]) {
    pool.run_parts(y, CHUNK, |chunk, y| {
        for (i, y) in y.iter_mut().enumerate() {
            *y = E::from_f64(stream.normal((chunk * CHUNK + i) as u64));
        }
    });
}

/// `y[i]` = uniform(i), below 1 also after rounding.
pub fn fill_uniform<E: Element>(pool: &Pool, stream: Stream, y: &mut [E]) {
    let bits = match E::DTYPE {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        DType::Bf16 => 8,
    };
    let below_one = 1.0 - 1.0 / (1u64 << bits) as f64;
    pool.run_parts(y, CHUNK, |chunk, y| {
        for (i, y) in y.iter_mut().enumerate() {
            *y = E::from_f64(stream.uniform((chunk * CHUNK + i) as u64).min(below_one));
        }
    });
}
