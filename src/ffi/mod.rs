//! The C interface: `ffi/deem.h` over the public Rust interface.
//!
//! The header is the documentation; functions and structs here carry its names and say nothing twice. What all of them share: every pointer is checked
//! before it is read, every tensor becomes a [`View`](crate::memory::View) of checked shape and type, [`Error`]s become status codes and a message
//! that is kept per thread, and a panic (a mistake of ours) becomes a status too: it never crosses into C.
#![allow(non_camel_case_types)] // the names of the header
#![allow(clippy::too_many_arguments)]

mod attention;
mod denoise;
mod model;
mod ops;
mod tensor;

pub use attention::*;
pub use denoise::*;
pub use model::*;
pub use ops::*;
pub use tensor::deem_tensor;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::device::Context;
use crate::device::cuda::{Gpu, Queue};
use crate::error::{Error, Result};

/// `DEEM_ABI_VERSION` of the header.
const ABI_VERSION: i32 = 1;
const INTERNAL: i32 = 9;

thread_local! {
    static MESSAGE: RefCell<CString> = RefCell::default();
}

fn keep_message(text: &str) {
    // A message with a zero byte inside (from a file's name) ends there.
    let text = text.split('\0').next().unwrap_or_default();
    MESSAGE.with_borrow_mut(|message| *message = CString::new(text).unwrap_or_default());
}

/// The `deem_status` of an error.
fn status(error: &Error) -> i32 {
    match error {
        Error::Domain { .. } => 1,
        Error::Shape { .. } => 2,
        Error::OutOfMemory { .. } | Error::PlanTooLarge { .. } => 3,
        Error::Io { .. } => 4,
        Error::Format { .. } | Error::MissingTensor { .. } => 5,
        Error::Config(_) => 6,
        Error::Device { .. } => 7,
        Error::Interrupted(_) => 8,
    }
}

/// Runs a call and makes a status of what became of it.
fn call(f: impl FnOnce() -> Result<()>) -> i32 {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            keep_message(&error.to_string());
            status(&error)
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            keep_message(&format!("a mistake in deem, please report it: {}", text.unwrap_or("it panicked")));
            INTERNAL
        }
    }
}

fn wrong(reason: String) -> Error {
    Error::Domain { op: "deem", reason }
}

/// An argument that must not be NULL.
///
/// # Safety
/// A pointer that is not NULL points to a `T`.
unsafe fn required<'a, T>(what: &'static str, pointer: *const T) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    let value = unsafe { pointer.as_ref() };
    value.ok_or_else(|| wrong(format!("`{what}` is NULL")))
}

/// Where a result goes, set to NULL until there is one.
///
/// # Safety
/// As [`required`], and the place may be written.
unsafe fn place<'a, T>(what: &'static str, pointer: *mut *mut T) -> Result<&'a mut *mut T> {
    // SAFETY: the caller's promise.
    let place = unsafe { pointer.as_mut() };
    let place = place.ok_or_else(|| wrong(format!("`{what}` is NULL")))?;
    *place = std::ptr::null_mut();
    Ok(place)
}

/// Text in UTF-8, or none for NULL.
///
/// # Safety
/// A pointer that is not NULL points to text that ends with a zero byte.
unsafe fn text<'a>(what: &'static str, pointer: *const c_char) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    let text = text.to_str().map_err(|e| wrong(format!("`{what}` is not UTF-8: {e}")))?;
    Ok(Some(text))
}

/// A size or count that is at least `least`.
fn count(what: &'static str, value: i64, least: usize) -> Result<usize> {
    let found = usize::try_from(value).ok().filter(|&found| found >= least);
    found.ok_or_else(|| wrong(format!("`{what}` is {value}, expected at least {least}")))
}

/// 0 or 1.
fn flag(what: &'static str, value: i32) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(wrong(format!("`{what}` is {value}, expected 0 or 1"))),
    }
}

/// A number, or the usual one for 0.
fn usual(value: f64, usual: f64) -> f64 {
    if value == 0.0 { usual } else { value }
}

/// See `ffi/deem.h`.
pub struct deem_context(Arc<Context>);

/// See `ffi/deem.h`.
#[unsafe(no_mangle)]
pub extern "C" fn deem_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// See `ffi/deem.h`.
#[unsafe(no_mangle)]
pub extern "C" fn deem_abi_version() -> i32 {
    ABI_VERSION
}

/// See `ffi/deem.h`.
#[unsafe(no_mangle)]
pub extern "C" fn deem_error_message() -> *const c_char {
    MESSAGE.with_borrow(|message| message.as_ptr())
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `device` is NULL or text; `context` is NULL or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_context_create(
    device: *const c_char,
    threads: i32,
    context: *mut *mut deem_context,
) -> i32 {
    call(|| {
        // SAFETY: the caller's promise.
        let (place, device) = unsafe { (place("context", context)?, text("device", device)?) };
        let threads = count("threads", threads.into(), 0)?;
        let context = Context::new(device.unwrap_or("host").parse()?, threads)?;
        *place = Box::into_raw(Box::new(deem_context(Arc::new(context))));
        Ok(())
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `stream` is a stream of the device's primary context, or NULL for its default stream, and lives longer than the context; `context` is NULL or a
/// place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_context_create_on_stream(
    device: i32,
    stream: *mut c_void,
    context: *mut *mut deem_context,
) -> i32 {
    call(|| {
        // SAFETY: the caller's promise.
        let place = unsafe { place("context", context)? };
        let index = u32::try_from(device).map_err(|_| wrong(format!("`device` is {device}, expected at least 0")))?;
        // SAFETY: the caller's promise.
        let queue = unsafe { Queue::adopt(Gpu::open(index)?, stream.cast()) };
        *place = Box::into_raw(Box::new(deem_context(Arc::new(Context::on(queue)))));
        Ok(())
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `context` is NULL or came from this library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_context_synchronize(context: *const deem_context) -> i32 {
    // SAFETY: the caller's promise.
    call(|| unsafe { required("context", context)?.0.synchronize() })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `context` is NULL or came from [`deem_context_create`], and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_context_destroy(context: *mut deem_context) {
    if !context.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(context) });
    }
}
