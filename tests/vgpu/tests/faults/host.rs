//! Faults of the host's side of the driver: frees, launches beyond the limits, arguments of the wrong size, leaks.

use std::ffi::{CString, c_void};
use std::process::Command;
use std::ptr::null_mut;

use super::SHARED;
use crate::support::{check, context, error_name, raw};

/// A function of `shared.cu`, loaded into the primary context.
fn function(name: &str) -> u64 {
    context();
    let image = CString::new(SHARED.ptx).unwrap();
    let name = CString::new(name).unwrap();
    let (mut module, mut function) = (0, 0);
    // SAFETY: the image and the name end with zero, and the out-parameters live through the calls.
    unsafe {
        check(raw::cuModuleLoadData(&mut module, image.as_ptr().cast()));
        check(raw::cuModuleGetFunction(&mut function, module, name.as_ptr()));
    }
    function
}

/// A buffer of zeros.
fn buffer(bytes: usize) -> u64 {
    let mut address = 0;
    // SAFETY: the out-parameter lives through the call.
    unsafe {
        check(raw::cuMemAlloc_v2(&mut address, bytes));
        check(raw::cuMemsetD8_v2(address, 0, bytes));
    }
    address
}

/// Launches one block of a kernel of `pair.h`'s kind; the name of the driver's error, or `CUDA_SUCCESS`.
fn launch(function: u64, threads: u32, dynamic_bytes: u32) -> String {
    let (mut a, mut b, mut n) = (buffer(8192), buffer(8192), 1024i32);
    let mut values: [*mut c_void; 3] = [(&raw mut a).cast(), (&raw mut b).cast(), (&raw mut n).cast()];
    // SAFETY: three arguments of the kernel's types; the buffers are freed after the launch has ended.
    unsafe {
        let code =
            raw::cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, dynamic_bytes, 0, values.as_mut_ptr(), null_mut());
        check(raw::cuCtxSynchronize());
        check(raw::cuMemFree_v2(a));
        check(raw::cuMemFree_v2(b));
        error_name(code)
    }
}

#[test]
fn freed_twice_or_from_the_middle() {
    context();
    let address = buffer(1000);
    // SAFETY: the driver has to bear any address.
    let free = |address: u64| error_name(unsafe { raw::cuMemFree_v2(address) });
    assert_eq!(free(address + 4), "CUDA_ERROR_INVALID_VALUE");
    assert_eq!(free(address), "CUDA_SUCCESS");
    assert_eq!(free(address), "CUDA_ERROR_INVALID_VALUE");
}

#[test]
fn more_dynamic_shared_memory_than_asked_for() {
    let kernel = function("uses_dynamic_shared");
    assert_eq!(launch(kernel, 64, 48 << 10), "CUDA_SUCCESS");
    assert_eq!(launch(kernel, 64, 64 << 10), "CUDA_ERROR_INVALID_VALUE");
    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES is 8.
    // SAFETY: a function of this module.
    unsafe { check(raw::cuFuncSetAttribute(kernel, 8, 64 << 10)) };
    assert_eq!(launch(kernel, 64, 64 << 10), "CUDA_SUCCESS");
    // SAFETY: as above; more than the machine has.
    assert_ne!(unsafe { raw::cuFuncSetAttribute(kernel, 8, 1 << 20) }, 0);
}

#[test]
fn more_threads_than_the_launch_bounds() {
    let kernel = function("at_most_128_threads");
    assert_eq!(launch(kernel, 128, 0), "CUDA_SUCCESS");
    assert_ne!(launch(kernel, 160, 0), "CUDA_SUCCESS");
    assert_ne!(launch(function("missing_barrier_fixed"), 1056, 0), "CUDA_SUCCESS");
}

#[test]
fn arguments_of_the_wrong_size() {
    let kernel = function("at_most_128_threads");
    let (a, b) = (buffer(8192), buffer(8192));
    let mut packed = Vec::new();
    packed.extend(a.to_le_bytes());
    packed.extend(b.to_le_bytes());
    packed.extend(1024i32.to_le_bytes());
    let mut launch = |bytes: usize| {
        let mut size = bytes;
        // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END.
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            packed.as_mut_ptr().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            null_mut(),
        ];
        // SAFETY: the buffer has at least as many bytes as its size says.
        unsafe {
            let code = raw::cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, 0, null_mut(), extra.as_mut_ptr());
            check(raw::cuCtxSynchronize());
            error_name(code)
        }
    };
    assert_eq!(launch(20), "CUDA_SUCCESS");
    assert_ne!(launch(16), "CUDA_SUCCESS");
}

/// Set in the process that leaks on purpose.
const LEAKING: &str = "VGPU_TEST_LEAKS";

#[test]
fn leaks_are_told_at_exit() {
    // The test runs itself in a process of its own, which ends with an allocation alive.
    if std::env::var_os(LEAKING).is_some() {
        context();
        buffer(12345);
        return;
    }
    let this = std::env::current_exe().unwrap();
    let leaking = Command::new(this)
        .args(["--exact", "faults::host::leaks_are_told_at_exit"])
        .env(LEAKING, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&leaking.stderr);
    assert!(told.contains("vgpu: leak") && told.contains("12345"), "{told}");
}
