//! The C interface: the same bits as the Rust functions, wrong arguments, and the examples compiled and run as a user would.

#[path = "../support/mod.rs"]
mod support;

mod arguments;
mod cuda;
mod programs;
mod same_bits;

use std::ffi::{CStr, c_void};

use deem::dtype::{DType, Element};
use deem::ffi::{deem_context, deem_context_create, deem_context_destroy, deem_error_message, deem_tensor};

/// A context that is freed.
struct Ctx(*mut deem_context);

impl Ctx {
    fn new() -> Self {
        let mut context = std::ptr::null_mut();
        // SAFETY: NULL means the host; the place is there.
        assert_eq!(unsafe { deem_context_create(std::ptr::null(), 2, &mut context) }, 0);
        Ctx(context)
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { deem_context_destroy(self.0) }
    }
}

/// A tensor over a slice.
fn t<E: Element>(data: &mut [E], shape: &[usize]) -> deem_tensor {
    assert_eq!(data.len(), shape.iter().product::<usize>());
    tensor_at(data.as_mut_ptr(), shape)
}

/// A tensor at an address of any memory.
fn tensor_at<E: Element>(data: *mut E, shape: &[usize]) -> deem_tensor {
    let mut sizes = [0; 6];
    sizes.iter_mut().zip(shape).for_each(|(to, &size)| *to = size as i64);
    let dtype = match E::DTYPE {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::F64 => 2,
        DType::F16 => 3,
    };
    deem_tensor { data: data.cast::<c_void>(), shape: sizes, rank: shape.len() as i32, dtype }
}

/// The message of the last call that failed.
fn message() -> String {
    // SAFETY: text that ends with a zero byte, used before the next call.
    unsafe { CStr::from_ptr(deem_error_message()) }.to_str().unwrap().into()
}
